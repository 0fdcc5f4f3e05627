"""What a live venue looks like: capabilities declared as data, and the calls every venue file offers.

`fetch_` and `watch_` do I/O, through `estimator.exchanges.wire`; the `parse_` functions of a venue's module are pure
and turn one payload into frames or values, with the tools of `estimator.exchanges.edge`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import polars as pl

from estimator.domain import Candle, Float64Array, LeverageBracket, Liquidation, Market, Observation
from estimator.errors import SourceError
from estimator.exchanges.edge import Health
from estimator.model.holdings import Account

Completeness = Literal["full", "sampled", "partial", "none"]
PriceKind = Literal["fill", "order_limit", "bankruptcy"]


@dataclass(frozen=True, slots=True)
class Depth:
    """How far back and how finely a venue keeps a series.

    Parameters
    ----------
    granularity_ms : int
        Finest spacing of rows. [ms]
    depth_ms : int, optional
        How far back rows go; None for everything since the listing. [ms]
    rows : int
        Most rows of one page.
    """

    granularity_ms: int
    depth_ms: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Requests a venue allows, and how many this program has in flight at once."""

    requests: int
    per_seconds: float
    concurrent: int = 4


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a venue gives without a key. Declared, and held against the code by tests.

    Parameters
    ----------
    candles, mark_candles, open_interest_history, ratio_history, funding_history : Depth, optional
        None where the venue has no such history.
    open_interest_unit : {"base", "contracts", "quote"}
        Unit of open interest on the wire; frames are always in base coin.
    liquidations : {"full", "sampled", "partial", "none"}
        "sampled": right in shape, a lower bound in scale.
    liquidation_price_kind : {"fill", "order_limit", "bankruptcy"}, optional
        What the price of a print means.
    brackets : {"public", "rule"}
        Whether maintenance tiers are measured, or follow a documented rule.
    limits : dict
        Rate limit by group of endpoints.
    notes : tuple of str
        Known faults and oddities, in words.
    bulk_open_interest, bulk_funding : bool
        Whether the value now of all markets takes a few requests, not one a market.
    past_liquidations_ms : int, optional
        How far back prints can be fetched that are told from those of the stream; None where they cannot. [ms]
    positions : bool
        Whether the positions of any account can be asked for, and trades say whose they are (`PublishesPositions`).
    """

    candles: Depth
    taker_buy_volume: bool
    mark_candles: Depth | None
    open_interest_history: Depth | None
    ratio_history: Depth | None
    funding_history: Depth | None
    open_interest_unit: Literal["base", "contracts", "quote"]
    liquidations: Completeness
    liquidation_price_kind: PriceKind | None
    brackets: Literal["public", "rule"]
    order_book: bool
    limits: dict[str, RateLimit]
    notes: tuple[str, ...] = ()
    bulk_open_interest: bool = False
    bulk_funding: bool = False
    past_liquidations_ms: int | None = None
    positions: bool = False


@dataclass(frozen=True, slots=True)
class BracketTable:
    """Maintenance tiers and where they come from, e.g. ``"public"`` or ``"rule: m = 1 / (2 max leverage)"``."""

    brackets: tuple[LeverageBracket, ...]
    source: str


@dataclass(frozen=True, slots=True)
class MarketListing:
    """A market as a venue lists it.

    Parameters
    ----------
    market : Market
    native_id : str
        The venue's own name of it, e.g. ``"BTCUSDT"``.
    contract_size : float
        Base coin per contract (linear) or USD per contract (inverse).
    bracket_source : str
        As in `BracketTable`.
    open_interest_usd, volume_usd : float, optional
        Now, and over 24 hours; for choosing the largest markets. [USD]
    funding_interval_ms : int, optional
        [ms]
    """

    market: Market
    native_id: str
    contract_size: float
    bracket_source: str
    open_interest_usd: float | None = None
    volume_usd: float | None = None
    funding_interval_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FundingRate:
    """Funding as it stands: a fraction per `interval_ms` (None where the venue does not say)."""

    time_ms: int
    rate: float
    interval_ms: int | None


@dataclass(frozen=True, slots=True)
class OrderBook:
    """The visible book.

    Parameters
    ----------
    time_ms : int
    bids, asks : Float64Array, shape (n, 2)
        Price and quantity in base coin, best first.
    """

    time_ms: int
    bids: Float64Array
    asks: Float64Array


class PartlyListed(SourceError):
    """A family of contracts does not list its markets.

    Parameters
    ----------
    found : list of MarketListing
        Those of the others.
    missing : SourceError
        What the family said.
    """

    def __init__(self, found: list[MarketListing], missing: SourceError) -> None:
        self.found = found
        super().__init__(f"a part is missing: {missing}")


class Exchange(Protocol):
    """A venue. Every ``fetch_`` raises the `SourceError` tree and nothing else.

    Frames are as in `estimator.domain`, sorted, one row per time, over ``since_ms <= time < until_ms``, in base coin
    (inverse contracts too); rows that cannot be are left out and counted in `health`.
    A ``watch_`` iterator reconnects on its own and notes the stretch without data in `health`; it ends by raising
    only where trying again is of no use.
    """

    name: str
    capabilities: Capabilities
    health: Health

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures that trade now, largest first as far as known.

        Raises
        ------
        PartlyListed
            With those of the families of contracts that answer, where others do not.
        """
        ...

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles (`CANDLES`, with taker_buy_volume where the venue gives it)."""
        ...

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame | None:
        """Return 1m extremes of the mark price: time, mark_high, mark_low; None where there are none."""
        ...

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return `OPEN_INTEREST`, `time` being when a row became known; empty where there is no history."""
        ...

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""
        ...

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id; one without a value that can be is absent.

        [base coin] A few requests where `capabilities.bulk_open_interest`, else one a market within the limits.
        Raises only where nothing could be asked at all.
        """
        ...

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force, by market id; as `fetch_open_interests_now`, with `capabilities.bulk_funding`."""
        ...

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return `LONG_SHORT_RATIO` (accounts); empty where there is none."""
        ...

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled `FUNDING_RATE`, a fraction per the market's own interval."""
        ...

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""
        ...

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return maintenance tiers and their source."""
        ...

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return at least `depth` levels a side where the venue has them."""
        ...

    async def fetch_liquidations(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return past `LIQUIDATIONS`, of `capabilities.past_liquidations_ms` at most; empty where that is None.

        A print is the same in time, side, price and quantity as in the stream; equal ones come as often as there.
        """
        ...

    def watch_candles(self, markets: Sequence[Market]) -> AsyncIterator[tuple[Market, Candle, bool]]:
        """Yield the moving 1m candle; the flag says whether it has closed. A closed candle comes exactly once."""
        ...

    def watch_liquidations(self, markets: Sequence[Market]) -> AsyncIterator[tuple[Market, Liquidation]]:
        """Yield forced liquidations; ends at once where the venue has no such stream."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Trade(NamedTuple):
    """A trade and the accounts on both sides of it. [ms, USD]"""

    time_ms: int
    notional_usd: float
    addresses: tuple[str, ...]


@runtime_checkable
class PublishesPositions(Protocol):
    """A venue that tells what any account holds, and which accounts trade."""

    name: str

    async def fetch_account(self, address: str, markets: Sequence[Market]) -> Account:
        """Return what an account holds in markets."""
        ...

    def watch_trades(self, markets: Sequence[Market]) -> AsyncIterator[Sequence[Trade]]:
        """Yield the trades of markets as they come, reconnecting as needed."""
        ...
