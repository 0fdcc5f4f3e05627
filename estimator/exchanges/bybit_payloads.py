"""Bybit's payloads, read: pure functions from what its public v5 interface sends to frames and values.

Units on the wire: linear quantities are base coin, inverse ones USD (contracts of 1 USD). Open interest counts both
sides; `singleOpenInterest` counts one. Liquidations name the side of the *position* (``Buy``: a long) and its
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
    HOUR_MS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
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

_TAKER_FEE_RATE: Final = 0.00055  # of an account without discounts
MARK_CANDLES: Final = {"time": TIME, "mark_high": pl.Float64(), "mark_low": pl.Float64()}


def native_id(market: Market) -> str:
    """Return Bybit's name of a market, e.g. ``"BTCUSDT"``, ``"BTCPERP"`` (USDC) or ``"BTCUSD"`` (inverse)."""
    base, rest = market.symbol.split("/", 1)
    quote = rest.split(":", 1)[0]
    return f"{base}{'PERP' if quote == 'USDC' else quote}"


def parse_markets(instruments: Any, tickers: Any, contract: ContractType, health: Health) -> list[MarketListing]:
    """Read the perpetual futures that trade, with tiers by rule from the highest leverage.

    Parameters
    ----------
    instruments, tickers : payload
        Of ``/v5/market/instruments-info`` and ``/v5/market/tickers`` of one category.
    contract : {"linear", "inverse"}
    health : Health
        Where markets are counted whose names do not follow the venue's rule.

    Raises
    ------
    BadPayload
    """
    now = keyed(tickers, ["result", "list"], "symbol", "tickers")
    listings, drift = [], None
    for row in rows(instruments, ["result", "list"], "instruments-info"):
        try:
            listing = _listing(row, contract)
        except (BadPayload, ParameterError) as error:
            # One odd market does not take the others with it.
            health.reject("markets", "a market of another kind", example=error)
            drift = error if isinstance(error, BadPayload) else drift
            continue
        if listing is not None:
            listings.append(_with_sizes(listing, now.get(listing.native_id)))
    if drift is not None and not listings:
        raise drift
    return listings


def _listing(row: Any, contract: ContractType) -> MarketListing | None:
    """Read a market; None where it is no perpetual or does not trade."""
    endpoint = "instruments-info"
    kind, status = text(row, "contractType", endpoint), text(row, "status", endpoint)
    if kind != f"{contract.capitalize()}Perpetual" or status != "Trading":
        return None
    name, base, quote, settle = (text(row, key, endpoint) for key in ("symbol", "baseCoin", "quoteCoin", "settleCoin"))
    leverage = number(get(row, ["leverageFilter"], endpoint), "maxLeverage", endpoint)
    market = Market(
        "bybit", f"{base}/{quote}:{settle}", contract, brackets_from_max_leverage([(0.0, leverage)]), _TAKER_FEE_RATE
    )
    if name != native_id(market):
        raise ParameterError("symbol", name, native_id(market))
    minutes = number_or_none(row, "fundingInterval", endpoint)
    interval_ms = None if minutes is None else round(minutes * MINUTE_MS)
    return MarketListing(market, name, 1.0, "rule: m = 1 / (2 max leverage)", funding_interval_ms=interval_ms)


def _with_sizes(listing: MarketListing, ticker: Any) -> MarketListing:
    """Add what the venue says of a market's size; it leaves fields empty where a market has hardly begun."""
    inverse, price = listing.market.contract == "inverse", number_or_none(ticker, "markPrice", "tickers")
    if price is None or number_or_none(ticker, "openInterest", "tickers") is None:
        return listing
    value = _one_sided(ticker, "tickers") * (1.0 if inverse else price)
    volume = number_or_none(ticker, "volume24h" if inverse else "turnover24h", "tickers")
    return replace(listing, open_interest_usd=value, volume_usd=volume)


def _one_sided(row: Any, endpoint: str) -> float:
    single = number_or_none(row, "singleOpenInterest", endpoint)
    return number(row, "openInterest", endpoint) / 2 if single is None else single


def parse_candles(payload: Any, contract: ContractType) -> pl.DataFrame:
    """Read closed candles (`CANDLES`, base coin); the payload's own time says which have closed.

    Raises
    ------
    BadPayload
    """
    # Rows: start, open, high, low, close, volume, turnover. Of the last two one is in base coin.
    volume = 5 if contract == "linear" else 6
    return frame(CANDLES, ([*prices, number(row, volume, "kline")] for row, prices in _closed(payload, "kline")))


def parse_mark_candles(payload: Any) -> pl.DataFrame:
    """Read closed candles of the mark price: time, mark_high, mark_low.

    Raises
    ------
    BadPayload
    """
    read = _closed(payload, "mark-price-kline")
    return frame(MARK_CANDLES, ([prices[0], prices[2], prices[3]] for _, prices in read))


def _closed(payload: Any, endpoint: str, length_ms: int = MINUTE_MS) -> Iterator[tuple[Any, list[float]]]:
    now = number(payload, "time", endpoint)
    for row in rows(payload, ["result", "list"], endpoint):
        prices = [number(row, i, endpoint) for i in range(5)]
        if prices[0] + length_ms <= now:
            yield row, prices


def parse_opens(payload: Any) -> dict[int, float]:
    """Read the price at each start of a candle. [ms → quote]

    Raises
    ------
    BadPayload
    """
    listed = rows(payload, ["result", "list"], "kline")
    return {int(number(row, 0, "kline")): number(row, 1, "kline") for row in listed}


def parse_open_interest(payload: Any, prices: dict[int, float] | None = None) -> pl.DataFrame:
    """Read `OPEN_INTEREST` of one side.

    Parameters
    ----------
    payload
    prices : dict, optional
        For inverse markets: the price at each time, at which USD become base coin; rows without one are left out.

    Raises
    ------
    BadPayload
    """
    endpoint, records = "open-interest", []
    for row in rows(payload, ["result", "list"], endpoint):
        time_ms, value = number(row, "timestamp", endpoint), _one_sided(row, endpoint)
        if prices is None:
            records.append((time_ms, value))
        elif prices.get(int(time_ms), 0.0) > 0:
            records.append((time_ms, value / prices[int(time_ms)]))
    return frame(OPEN_INTEREST, records)


def parse_long_short_ratio(payload: Any, known_after_ms: int) -> pl.DataFrame:
    """Read `LONG_SHORT_RATIO` (accounts), stamped with when a row is known at the latest.

    Raises
    ------
    BadPayload
    """
    endpoint = "account-ratio"
    # No account short leaves no ratio: 0 is left out further on, and counted.
    return frame(
        LONG_SHORT_RATIO,
        (
            (number(row, "timestamp", endpoint) + known_after_ms, long / short if short > 0 else 0.0)
            for row in rows(payload, ["result", "list"], endpoint)
            for long, short in [(number(row, "buyRatio", endpoint), number(row, "sellRatio", endpoint))]
        ),
    )


def parse_funding_rate(payload: Any) -> pl.DataFrame:
    """Read settled `FUNDING_RATE`.

    Raises
    ------
    BadPayload
    """
    endpoint = "funding/history"
    listed = rows(payload, ["result", "list"], endpoint)
    return frame(
        FUNDING_RATE,
        ((number(r, "fundingRateTimestamp", endpoint), number(r, "fundingRate", endpoint)) for r in listed),
    )


def parse_tickers(payload: Any) -> tuple[int, dict[str, Any]]:
    """Read tickers: their time, and each by the venue's name of its market. [ms]

    Raises
    ------
    BadPayload
    """
    return int(number(payload, "time", "tickers")), keyed(payload, ["result", "list"], "symbol", "tickers")


def parse_open_interest_now(tickers: tuple[int, Mapping[str, Any]], market: Market) -> Observation:
    """Read open interest of one side out of tickers. [base coin]

    Raises
    ------
    BadPayload, UnknownMarket
    """
    row = _ticker(tickers, market)
    price = number(row, "markPrice", "tickers") if market.contract == "inverse" else 1.0
    if price <= 0:
        raise BadPayload("tickers", "markPrice", f"not above 0 (got {price})")
    return Observation(tickers[0], _one_sided(row, "tickers") / price)


def parse_funding_rate_now(tickers: tuple[int, Mapping[str, Any]], market: Market) -> FundingRate:
    """Read the rate in force out of tickers.

    Raises
    ------
    BadPayload, UnknownMarket
    """
    row = _ticker(tickers, market)
    hours = number_or_none(row, "fundingIntervalHour", "tickers")
    interval_ms = None if hours is None else round(hours * HOUR_MS)
    return FundingRate(tickers[0], number(row, "fundingRate", "tickers"), interval_ms)


def _ticker(tickers: tuple[int, Mapping[str, Any]], market: Market) -> Any:
    row = tickers[1].get(native_id(market))
    if row is None:
        raise UnknownMarket(f"tickers: nothing on {market.id}")
    return row


def parse_brackets(payload: Any, symbol: str) -> tuple[LeverageBracket, ...]:
    """Read the risk limits of one market. [quote for linear, coin for inverse]

    Rates come as fractions or in percent: initial margin times leverage, which is 1, tells which. Where the venue
    leaves the deductions out they follow from continuity.

    Raises
    ------
    BadPayload, UnknownMarket
    """
    endpoint = "risk-limit"
    tiers = [row for row in rows(payload, ["result", "list"], endpoint) if text(row, "symbol", endpoint) == symbol]
    if not tiers:
        raise UnknownMarket(f"{endpoint}: nothing on {symbol}")
    tiers.sort(key=lambda row: number(row, "riskLimitValue", endpoint))
    floors = [0.0, *(number(row, "riskLimitValue", endpoint) for row in tiers[:-1])]
    given = [number_or_none(row, "mmDeduction", endpoint) for row in tiers]
    if any(amount is None for amount in given[1:]):
        given = [None] * len(tiers)
    read = [(floor, *_tier(row), amount) for row, floor, amount in zip(tiers, floors, given, strict=True)]
    return bracket_table(read, endpoint, "public").brackets


def _tier(row: Any) -> tuple[float, float]:
    """Highest leverage and maintenance rate."""
    margin, initial, leverage = (
        number(row, key, "risk-limit") for key in ("maintenanceMargin", "initialMargin", "maxLeverage")
    )
    return leverage, margin / (100 if initial * leverage > 10 else 1)


def parse_order_book(payload: Any, contract: ContractType) -> OrderBook:
    """Read the book. [base coin]

    Raises
    ------
    BadPayload
    """
    result = get(payload, ["result"], "orderbook")
    bids, asks = (_levels(rows(result, [side], "orderbook"), contract) for side in ("b", "a"))
    return OrderBook(int(number(result, "ts", "orderbook")), bids, asks)


def _levels(listed: list[Any], contract: ContractType) -> Float64Array:
    levels = np.array([[number(row, 0, "orderbook"), number(row, 1, "orderbook")] for row in listed]).reshape(-1, 2)
    if (levels <= 0).any():
        raise BadPayload("orderbook", "result", "a price or quantity not above 0")
    if contract == "inverse":
        levels[:, 1] /= levels[:, 0]
    return levels


def parse_candle_message(message: Any, market: Market) -> list[tuple[Market, Candle, bool]]:
    """Read a ``kline.1.SYMBOL`` message: candles, and whether they have closed.

    Raises
    ------
    BadPayload
    """
    listed = rows(message, ["data"], "kline stream")
    return [(market, _candle(row, market.contract), get(row, ["confirm"], "kline stream") is True) for row in listed]


def _candle(row: Any, contract: ContractType) -> Candle:
    keys = ("open", "high", "low", "close", "volume" if contract == "linear" else "turnover")
    return Candle(int(number(row, "start", "kline stream")), *(number(row, key, "kline stream") for key in keys))


def parse_prints(message: Any, market: Market) -> list[tuple[Market, Liquidation]]:
    """Read an ``allLiquidation.SYMBOL`` message.

    Raises
    ------
    BadPayload
    """
    listed = rows(message, ["data"], "allLiquidation stream")
    return [(market, _liquidation(row, market.contract)) for row in listed]


def _liquidation(row: Any, contract: ContractType) -> Liquidation:
    endpoint = "allLiquidation stream"
    side, price, size = text(row, "S", endpoint), number(row, "p", endpoint), number(row, "v", endpoint)
    if side not in {"Buy", "Sell"}:
        raise BadPayload(endpoint, "S", f"neither Buy nor Sell (got {side!r})")
    base = size if contract == "linear" else (size / price if price > 0 else 0.0)
    position = Side.LONG if side == "Buy" else Side.SHORT
    return Liquidation(int(number(row, "T", endpoint)), position, price, base, base * price)
