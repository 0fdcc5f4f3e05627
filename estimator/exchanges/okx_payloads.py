"""OKX's payloads, read: pure functions from what its public v5 interface sends to frames and values.

Units on the wire: sizes are contracts (of so much base coin, or of so many USD for inverse ones), beside which candles
and open interest carry base coin. Liquidations name the side of the *order* (``sell`` closes a long) and the
bankruptcy price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import (
    CANDLES,
    FUNDING_RATE,
    LONG_SHORT_RATIO,
    OPEN_INTEREST,
    TIME,
    Candle,
    ContractType,
    Float64Array,
    LeverageBracket,
    Liquidation,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, ParameterError, UnknownMarket
from estimator.exchanges.edge import Health, frame, get, keyed, number, number_or_none, rows, text
from estimator.exchanges.listings import bracket_table
from estimator.exchanges.venue import FundingRate, MarketListing, OrderBook
from estimator.model.margin import brackets_from_max_leverage

_TAKER_FEE_RATE: Final = 0.0005  # of an account without discounts
_CONFIRMED: Final = "1"
MARK_CANDLES: Final = {"time": TIME, "mark_high": pl.Float64(), "mark_low": pl.Float64()}


def native_id(market: Market) -> str:
    """Return OKX's name of a market, e.g. ``"BTC-USDT-SWAP"``."""
    return f"{family(market)}-SWAP"


def family(market: Market) -> str:
    """Return OKX's instrument family of a market, e.g. ``"BTC-USDT"``."""
    base, rest = market.symbol.split("/", 1)
    return f"{base}-{rest.split(':', 1)[0]}"


def parse_markets(instruments: Any, tickers: Any, open_interest: Any, health: Health) -> list[MarketListing]:
    """Read the perpetual futures that trade, with tiers by rule from the highest leverage.

    Parameters
    ----------
    instruments, tickers, open_interest : payload
        Of ``public/instruments``, ``market/tickers`` and ``public/open-interest``, all of ``SWAP``.
    health : Health
        Where markets are counted whose names or contracts are of another kind.

    Raises
    ------
    BadPayload
    """
    ticks = parse_by_name(tickers, "tickers")
    held = parse_by_name(open_interest, "open-interest")
    listings, drift = [], None
    for row in rows(instruments, ["data"], "instruments"):
        try:
            listing = _listing(row)
        except (BadPayload, ParameterError) as error:
            # One odd market does not take the others with it.
            health.reject("markets", "a market of another kind", example=error)
            drift = error if isinstance(error, BadPayload) else drift
            continue
        if listing is not None:
            name = listing.native_id
            listings.append(_with_sizes(listing, ticks.get(name), held.get(name)))
    if drift is not None and not listings:
        raise drift
    return listings


def _listing(row: Any) -> MarketListing | None:
    """Read a market; None where it does not trade."""
    if text(row, "state", "instruments") != "live":
        return None
    name, settle, kind = (text(row, key, "instruments") for key in ("instId", "settleCcy", "ctType"))
    base, _, quote = text(row, "instFamily", "instruments").partition("-")
    contract: ContractType = "inverse" if kind == "inverse" else "linear"
    market = Market(
        "okx",
        f"{base}/{quote}:{settle}",
        contract,
        brackets_from_max_leverage([(0.0, number(row, "lever", "instruments"))]),
        _TAKER_FEE_RATE,
    )
    unit = text(row, "ctValCcy", "instruments")
    if name != native_id(market) or unit != ("USD" if contract == "inverse" else base):
        raise ParameterError("instId", name, f"{native_id(market)} in contracts of {base} or USD")
    size = number(row, "ctVal", "instruments") * number(row, "ctMult", "instruments")
    return MarketListing(market, name, size, "rule: m = 1 / (2 max leverage)")


def _with_sizes(listing: MarketListing, tick: Any, held: Any) -> MarketListing:
    price = None if tick is None else number_or_none(tick, "last", "tickers")
    if price is None:  # it has not traded yet
        return listing
    coins = None if held is None else number_or_none(held, "oiCcy", "open-interest")
    volume = number_or_none(tick, "volCcy24h", "tickers")
    return replace(
        listing,
        open_interest_usd=None if coins is None else coins * price,
        volume_usd=None if volume is None else volume * price,
    )


def parse_candles(payload: Any) -> pl.DataFrame:
    """Read candles that the venue calls complete (`CANDLES`, base coin).

    Raises
    ------
    BadPayload
    """
    # Rows: time, open, high, low, close, contracts, base coin, quote, confirm.
    confirmed = _confirmed(payload, 8, "candles")
    return frame(CANDLES, ([number(row, i, "candles") for i in (0, 1, 2, 3, 4, 6)] for row in confirmed))


def parse_mark_candles(payload: Any) -> pl.DataFrame:
    """Read complete candles of the mark price: time, mark_high, mark_low.

    Raises
    ------
    BadPayload
    """
    confirmed = _confirmed(payload, 5, "mark-price-candles")
    return frame(MARK_CANDLES, ([number(row, i, "mark-price-candles") for i in (0, 2, 3)] for row in confirmed))


def _confirmed(payload: Any, flag: int, endpoint: str) -> Iterator[Any]:
    return (row for row in rows(payload, ["data"], endpoint) if text(row, flag, endpoint) == _CONFIRMED)


def parse_open_interest(payload: Any, period_ms: int) -> pl.DataFrame:
    """Read `OPEN_INTEREST`, stamped with the end of the period, before which its value still changes.

    Raises
    ------
    BadPayload
    """
    # Rows: start of the period, contracts, base coin, USD.
    return frame(OPEN_INTEREST, _stamped(payload, 2, period_ms, "open-interest-history"))


def parse_long_short_ratio(payload: Any, period_ms: int) -> pl.DataFrame:
    """Read `LONG_SHORT_RATIO` (accounts), stamped with the end of the period.

    Raises
    ------
    BadPayload
    """
    return frame(LONG_SHORT_RATIO, _stamped(payload, 1, period_ms, "long-short-account-ratio-contract"))


def _stamped(payload: Any, value: int, period_ms: int, endpoint: str) -> Iterator[tuple[float, float]]:
    listed = rows(payload, ["data"], endpoint)
    return ((number(row, 0, endpoint) + period_ms, number(row, value, endpoint)) for row in listed)


def parse_funding_rate(payload: Any) -> pl.DataFrame:
    """Read settled `FUNDING_RATE`: what was paid, where the venue says so.

    Raises
    ------
    BadPayload
    """
    endpoint = "funding-rate-history"
    return frame(
        FUNDING_RATE,
        (
            (number(row, "fundingTime", endpoint), number(row, "fundingRate", endpoint) if paid is None else paid)
            for row in rows(payload, ["data"], endpoint)
            for paid in [number_or_none(row, "realizedRate", endpoint)]
        ),
    )


def parse_by_name(payload: Any, endpoint: str) -> dict[str, Any]:
    """Read rows by the venue's name of their market.

    Raises
    ------
    BadPayload
    """
    return keyed(payload, ["data"], "instId", endpoint)


def parse_funding_rate_now(rates: Mapping[str, Any], market: Market) -> FundingRate:
    """Read the rate in force and its interval.

    Raises
    ------
    BadPayload, UnknownMarket
    """
    row = _of(rates, market, "funding-rate")
    due, after = number(row, "fundingTime", "funding-rate"), number_or_none(row, "nextFundingTime", "funding-rate")
    return FundingRate(
        int(number(row, "ts", "funding-rate")),
        number(row, "fundingRate", "funding-rate"),
        None if after is None else int(after - due),
    )


def _of(found: Mapping[str, Any], market: Market, endpoint: str) -> Any:
    row = found.get(native_id(market))
    if row is None:
        raise UnknownMarket(f"{endpoint}: nothing on {market.id}")
    return row


def parse_open_interest_now(held: Mapping[str, Any], market: Market) -> Observation:
    """Read open interest. [base coin]

    Raises
    ------
    BadPayload, UnknownMarket
    """
    row = _of(held, market, "open-interest")
    return Observation(int(number(row, "ts", "open-interest")), number(row, "oiCcy", "open-interest"))


def parse_mark_price(payload: Any) -> float:
    """Read the mark price. [quote]

    Raises
    ------
    BadPayload
    """
    price = number(get(payload, ["data", 0], "mark-price"), "markPx", "mark-price")
    if price <= 0:
        raise BadPayload("mark-price", "data.0.markPx", f"not above 0 (got {price})")
    return price


def parse_brackets(payload: Any, market: Market, contract_size: float, price: float) -> tuple[LeverageBracket, ...]:
    """Read position tiers. [quote for linear, coin for inverse]

    The venue bounds tiers in contracts, which become notional at a price. The rate of a tier holds for the whole
    position, so there is no amount to deduct and maintenance margin jumps at a floor.

    Raises
    ------
    BadPayload, UnknownMarket
    """
    endpoint = "position-tiers"
    tiers = sorted(rows(payload, ["data"], endpoint), key=lambda row: number(row, "maxSz", endpoint))
    if not tiers:
        raise UnknownMarket(f"{endpoint}: nothing on {market.id}")
    worth = contract_size * price if market.contract == "linear" else contract_size / price
    # A tier starts where the one below ends; `minSz` is one step of size further on.
    floors = [0.0, *(number(row, "maxSz", endpoint) * worth for row in tiers[:-1])]
    read = [
        (floor, number(row, "maxLever", endpoint), number(row, "mmr", endpoint), 0.0)
        for row, floor in zip(tiers, floors, strict=True)
    ]
    return bracket_table(read, endpoint, "public").brackets


def parse_order_book(payload: Any, contract: ContractType, contract_size: float) -> OrderBook:
    """Read the book. [base coin]

    Raises
    ------
    BadPayload
    """
    row = get(payload, ["data", 0], "books")
    bids, asks = (_levels(rows(row, [side], "books"), contract, contract_size) for side in ("bids", "asks"))
    return OrderBook(int(number(row, "ts", "books")), bids, asks)


def _levels(listed: list[Any], contract: ContractType, contract_size: float) -> Float64Array:
    levels = np.array([[number(row, 0, "books"), number(row, 1, "books")] for row in listed]).reshape(-1, 2)
    if (levels <= 0).any():
        raise BadPayload("books", "data", "a price or size not above 0")
    levels[:, 1] *= contract_size
    if contract == "inverse":
        levels[:, 1] /= levels[:, 0]
    return levels


def parse_candle_message(message: Any, markets: Mapping[str, Market]) -> list[tuple[Market, Candle, bool]]:
    """Read a ``candle1m`` message: candles of a market, and whether they are complete.

    Raises
    ------
    BadPayload
    """
    endpoint = "candle1m channel"
    market = markets.get(text(get(message, ["arg"], endpoint), "instId", endpoint))
    if market is None:
        return []
    return [
        (
            market,
            Candle(int(number(row, 0, endpoint)), *(number(row, i, endpoint) for i in (1, 2, 3, 4, 6))),
            text(row, 8, endpoint) == _CONFIRMED,
        )
        for row in rows(message, ["data"], endpoint)
    ]


def parse_liquidations(payload: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Liquidation]]:
    """Read ``liquidation-orders``, the channel or the answer, which are of one shape; it may tell of every market.

    Parameters
    ----------
    payload
    listings : dict
        By the venue's name; other markets are left out.

    Raises
    ------
    BadPayload
    """
    endpoint = "liquidation-orders"
    return [
        (one.market, _liquidation(detail, one.market.contract, one.contract_size))
        for row in rows(payload, ["data"], endpoint)
        if (one := listings.get(text(row, "instId", endpoint))) is not None
        for detail in rows(row, ["details"], endpoint)
    ]


def _liquidation(row: Any, contract: ContractType, contract_size: float) -> Liquidation:
    endpoint = "liquidation-orders"
    price, worth = number(row, "bkPx", endpoint), number(row, "sz", endpoint) * contract_size
    inverse = contract == "inverse"
    base = (worth / price if price > 0 else 0.0) if inverse else worth
    return Liquidation(
        int(number(row, "ts", endpoint)), _position(row, endpoint), price, base, worth if inverse else worth * price
    )


def _position(row: Any, endpoint: str) -> Side:
    side, held = text(row, "side", endpoint), row.get("posSide")
    closed = {"sell": Side.LONG, "buy": Side.SHORT}.get(side)
    # An account with one position a market has no side to say: "net".
    if closed is None or (held in ("long", "short") and held != closed):
        raise BadPayload(endpoint, "side", f"{side!r} cannot close {held!r}")
    return closed
