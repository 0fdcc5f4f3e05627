"""What the clients of all venues share: their connections, and asking about many markets."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypedDict, TypeVar, Unpack

import polars as pl

from estimator.domain import LIQUIDATIONS, Market, Observation
from estimator.errors import SourceError
from estimator.exchanges.edge import Health, Recent
from estimator.exchanges.live import Levels
from estimator.exchanges.moving import MakeStream, Print, Tick, follow_candles, follow_prints, merged
from estimator.exchanges.venue import FundingRate, MarketListing, PartlyListed, RateLimit
from estimator.exchanges.wire import Patience, Wire

_Value = TypeVar("_Value")


class Connection(TypedDict, total=False):
    """How a venue is reached; every entry as in `Wire`."""

    exchange_base: str | None
    patience: Patience | None
    timeout_s: float
    throttle: bool
    clock: Callable[[], int] | None


class ConnectedVenue(ABC):
    """A venue and its connections; see `estimator.exchanges.venue.Exchange`.

    Parameters
    ----------
    exchange_base, patience, timeout_s, throttle, clock : optional
        As in `Wire`.
    """

    def __init__(self, **connection: Unpack[Connection]) -> None:
        self.health = Health()
        self._levels = Levels(self.health)
        self._recent_prints = Recent()
        self._connection = connection
        self._wires: list[Wire] = []

    def _connect(self, exchange_id: str, limits: Mapping[str, RateLimit] | None = None, *, concurrent: int = 4) -> Wire:
        """Make a connection that `close` closes."""
        wire = Wire(exchange_id, self.health, limits=limits, concurrent=concurrent, **self._connection)
        self._wires.append(wire)
        return wire

    @abstractmethod
    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""

    @abstractmethod
    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id. [base coin]"""
        return await answered(markets, self.fetch_open_interest_now)

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force of many markets, by market id."""
        return await answered(markets, self.fetch_funding_rate_now)

    @abstractmethod
    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        """Return the streams on which moving candles of markets come."""

    @abstractmethod
    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        """Return the streams on which liquidations of markets come; none where the venue tells none."""

    def watch_candles(self, markets: Sequence[Market]) -> AsyncGenerator[Tick, None]:
        """Yield the moving 1m candle."""
        return merged([follow_candles(make) for make in self._candle_streams(markets)])

    def watch_liquidations(self, markets: Sequence[Market]) -> AsyncGenerator[Print, None]:
        """Yield forced liquidations; end at once where the venue tells none."""
        return merged([follow_prints(make, self._recent_prints) for make in self._print_streams(markets)])

    async def fetch_liquidations(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:  # noqa: ARG002
        """Return an empty frame: the venue has no past prints that are told from those of its stream."""
        return pl.DataFrame(schema=LIQUIDATIONS)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(wire.close() for wire in self._wires))


async def answered(markets: Iterable[Market], ask: Callable[[Market], Awaitable[_Value]]) -> dict[str, _Value]:
    """Ask about every market at once; those that fail are absent.

    Raises
    ------
    SourceError
        Where all of them fail: the first failure.
    """
    asked = list(markets)
    answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
    return _found(zip(asked, answers, strict=True))


async def listed_by_family(families: Iterable[Awaitable[list[MarketListing]]]) -> list[MarketListing]:
    """Put together what families of contracts list, which are asked at once.

    Raises
    ------
    PartlyListed
        Where some of them fail.
    SourceError
        Where all of them do: the first failure.
    """
    answers = await asyncio.gather(*families, return_exceptions=True)
    found = [one for answer in answers if not isinstance(answer, BaseException) for one in answer]
    for answer in answers:
        if isinstance(answer, SourceError) and found:
            raise PartlyListed(found, answer)
        if isinstance(answer, BaseException):
            raise answer
    return found


def each(markets: Iterable[Market], read: Callable[[Market], _Value]) -> dict[str, _Value]:
    """Read about every market out of one answer; those of which nothing can be read are absent.

    Raises
    ------
    SourceError
        Where that is so for all of them: the first failure.
    """

    def tried(market: Market) -> _Value | BaseException:
        try:
            return read(market)
        except SourceError as error:
            return error

    return _found((market, tried(market)) for market in markets)


def _found(outcomes: Iterable[tuple[Market, _Value | BaseException]]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    failures: list[SourceError] = []
    for market, outcome in outcomes:
        if isinstance(outcome, SourceError):
            failures.append(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            found[market.id] = outcome
    if failures and not found:
        raise failures[0]
    return found
