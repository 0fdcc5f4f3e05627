"""The payloads of Binance: pure functions from one answer or message to frames and values.

Units as Binance documents them: USD-M counts volume and open interest in base coin, COIN-M in contracts of so many
USD (klines have the base-coin volume beside it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    Candle,
    ContractType,
    Float64Array,
    Liquidation,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, ParameterError, UnknownMarket
from estimator.exchanges.edge import (
    Health,
    frame,
    get,
    keyed,
    number,
    number_or_none,
    rows,
    text,
)
from estimator.exchanges.venue import (
    BracketTable,
    FundingRate,
    MarketListing,
    OrderBook,
)
from estimator.model.margin import brackets_from_max_leverage

PERIOD_MS: Final = 5 * MINUTE_MS
TAKER_FEE_RATE: Final = 0.0005
RULE: Final = "rule: m = 1 / (2 max leverage); Binance shows its tiers to keys only"

# Floors and leverages as measured in September 2026; up to the top one the rule then gives the measured rate within a
# fifth.
_TO_25X: Final = ((0.0, 125.0), (300e3, 100.0), (800e3, 75.0), (3e6, 50.0), (12e6, 25.0))
_LADDERS: Final = {
    "BTC": (*_TO_25X, (70e6, 20.0), (100e6, 10.0), (230e6, 5.0)),
    "ETH": (*_TO_25X, (50e6, 20.0), (65e6, 10.0), (150e6, 5.0)),
}
_MAX_LEVERAGE: Final = {"SOL": 100.0, "XRP": 100.0}
_OTHER_MAX_LEVERAGE: Final = 50.0
_COIN_MAX_LEVERAGE: Final = {"BTC": 125.0, "ETH": 100.0}

_DEFAULT_FUNDING_HOURS: Final = 8.0
_LONGEST_FUNDING_HOURS: Final = 24.0
MARK: Final = {"time": CANDLES["time"], "mark_high": pl.Float64(), "mark_low": pl.Float64()}


@dataclass(frozen=True, slots=True)
class Family:
    """Where USD-M and COIN-M differ."""

    contract: ContractType
    client: str
    public: str  # beginning of ccxt's implicit method names
    data: str
    volume: int  # places in a kline
    taker_buy: int
    ws_volume: str
    ws_taker_buy: str
    suffix: str  # of the names of its streams in `Health`


LINEAR: Final = Family("linear", "binanceusdm", "fapiPublic", "fapiData", 5, 9, "v", "V", "")
INVERSE: Final = Family("inverse", "binancecoinm", "dapiPublic", "dapiData", 7, 10, "q", "Q", " (COIN-M)")
FAMILIES: Final[Mapping[ContractType, Family]] = {"linear": LINEAR, "inverse": INVERSE}


def native_id(market: Market) -> str:
    """Binance's name of a perpetual: ``BTCUSDT`` or ``BTCUSD_PERP``."""
    base, rest = market.symbol.split("/", 1)
    quote = rest.split(":", 1)[0]
    return f"{base}{quote}" + ("_PERP" if market.contract == "inverse" else "")


def rule_brackets(base: str, contract: ContractType) -> BracketTable:
    """Tiers by rule: a ladder for BTC and ETH settled in dollars, one tier for all else."""
    if contract == "linear" and base in _LADDERS:
        return BracketTable(brackets_from_max_leverage(_LADDERS[base]), RULE)
    known = _MAX_LEVERAGE if contract == "linear" else _COIN_MAX_LEVERAGE
    return BracketTable(brackets_from_max_leverage([(0.0, known.get(base, _OTHER_MAX_LEVERAGE))]), RULE)


def parse_listings(info: Any, tickers: Any, funding: Any, family: Family, health: Health) -> list[MarketListing]:
    """Read the perpetuals that trade now.

    Parameters
    ----------
    info, tickers, funding
        Payloads of exchangeInfo, ticker/24hr and fundingInfo (which lists only what differs from 8 hours).
    family : Family
    health : Health
        Counts markets with names that cannot be written as a symbol.
    """
    endpoint = f"{family.public}GetExchangeInfo"
    volumes = parse_volumes(tickers, family)
    hours = parse_funding_hours(funding, family)
    found = []
    for raw in rows(info, ["symbols"], endpoint):
        if not _trades(raw, endpoint):
            continue
        native, size = text(raw, "symbol", endpoint), number_or_none(raw, "contractSize", endpoint) or 1.0
        try:
            market, source = _market(raw, family, endpoint)
        except ParameterError:
            health.reject("markets", "a name that is no symbol", example=native)
            continue
        volume = volumes.get(native, 0.0) * (size if family.contract == "inverse" else 1.0)
        interval = int(hours.get(native, _DEFAULT_FUNDING_HOURS) * HOUR_MS)
        found.append(MarketListing(market, native, size, source, None, volume, interval))
    return found


def _trades(raw: Any, endpoint: str) -> bool:
    contract = text(raw, "contractType", endpoint)
    status = text(raw, "status" if "status" in raw else "contractStatus", endpoint)
    return status == "TRADING" and contract == "PERPETUAL"


def _market(raw: Any, family: Family, endpoint: str) -> tuple[Market, str]:
    base, quote, settle = (text(raw, key, endpoint) for key in ("baseAsset", "quoteAsset", "marginAsset"))
    table = rule_brackets(base, family.contract)
    market = Market("binance", f"{base}/{quote}:{settle}", family.contract, table.brackets, TAKER_FEE_RATE)
    return market, table.source


def parse_funding_hours(funding: Any, family: Family) -> dict[str, float]:
    """Funding interval of the markets that differ from 8 hours, by native name. [hours]"""
    endpoint = f"{family.public}GetFundingInfo"
    hours = {
        text(f, "symbol", endpoint): number(f, "fundingIntervalHours", endpoint) for f in rows(funding, [], endpoint)
    }
    return {native: each for native, each in hours.items() if 0 < each <= _LONGEST_FUNDING_HOURS}


def parse_volumes(tickers: Any, family: Family) -> dict[str, float]:
    """Volume of 24 hours by native name: quote coin for USD-M, contracts for COIN-M."""
    key = "quoteVolume" if family.contract == "linear" else "volume"
    endpoint = f"{family.public}GetTicker24hr"
    return {text(t, "symbol", endpoint): number(t, key, endpoint) for t in rows(tickers, [], endpoint)}


def parse_candles(payload: Any, family: Family, now_ms: int) -> pl.DataFrame:
    """Read klines; those that have not closed are left out."""
    endpoint = f"{family.public}GetKlines"
    schema = {**CANDLES, "taker_buy_volume": pl.Float64()}
    return _closed(payload, (1, 2, 3, 4, family.volume, family.taker_buy), schema, endpoint, now_ms)


def parse_mark_candles(payload: Any, family: Family, now_ms: int) -> pl.DataFrame:
    """Read the extremes of the mark price: time, mark_high, mark_low."""
    endpoint = f"{family.public}GetMarkPriceKlines"
    return _closed(payload, (2, 3), MARK, endpoint, now_ms)


def _closed(
    payload: Any, columns: Sequence[int], schema: Mapping[str, pl.DataType], endpoint: str, now_ms: int
) -> pl.DataFrame:
    closed = (row for row in rows(payload, [], endpoint) if number(row, 6, endpoint) < now_ms)
    return frame(schema, ((number(row, 0, endpoint), *(number(row, c, endpoint) for c in columns)) for row in closed))


def parse_open_interest(payload: Any, family: Family) -> pl.DataFrame:
    """Read past open interest. [base coin for USD-M, contracts for COIN-M]"""
    return _stamped(payload, "sumOpenInterest", OPEN_INTEREST, f"{family.data}GetOpenInterestHist")


def parse_ratio(payload: Any, endpoint: str) -> pl.DataFrame:
    """Read long/short ratios, known at the end of their period."""
    return _stamped(payload, "longShortRatio", LONG_SHORT_RATIO, endpoint, PERIOD_MS)


def parse_funding(payload: Any, family: Family) -> pl.DataFrame:
    """Read settled funding rates."""
    endpoint = f"{family.public}GetFundingRate"
    return _stamped(payload, "fundingRate", FUNDING_RATE, endpoint, stamp="fundingTime")


def _stamped(
    payload: Any, key: str, schema: Mapping[str, pl.DataType], endpoint: str, known_after_ms: int = 0,
    *, stamp: str = "timestamp",
) -> pl.DataFrame:  # fmt: skip
    found = rows(payload, [], endpoint)
    return frame(schema, ((number(r, stamp, endpoint) + known_after_ms, number(r, key, endpoint)) for r in found))


def parse_open_interest_now(payload: Any, family: Family) -> Observation:
    """Read open interest now. [base coin for USD-M, contracts for COIN-M]"""
    endpoint = f"{family.public}GetOpenInterest"
    return Observation(int(number(payload, "time", endpoint)), number(payload, "openInterest", endpoint))


def parse_marks(payload: Any, family: Family) -> dict[str, Any]:
    """Read what `premiumIndex` tells of one market or of all, by native name."""
    endpoint = f"{family.public}GetPremiumIndex"
    return keyed(payload if isinstance(payload, list) else [payload], [], "symbol", endpoint)


def parse_mark_price(marks: Mapping[str, Any], native: str, family: Family) -> float:
    """Read a mark price. [quote]"""
    return number(_mark(marks, native, family), "markPrice", f"{family.public}GetPremiumIndex")


def parse_funding_rate_now(marks: Mapping[str, Any], listing: MarketListing, family: Family) -> FundingRate:
    """Read the funding rate that is forming; its interval is that of the listing."""
    endpoint, row = f"{family.public}GetPremiumIndex", _mark(marks, listing.native_id, family)
    rate = number(row, "lastFundingRate", endpoint)
    return FundingRate(int(number(row, "time", endpoint)), rate, listing.funding_interval_ms)


def _mark(marks: Mapping[str, Any], native: str, family: Family) -> Any:
    if native not in marks:
        raise UnknownMarket(f"{family.public}GetPremiumIndex: nothing on {native}")
    return marks[native]


def parse_order_book(payload: Any, family: Family, contract_size: float) -> OrderBook:
    """Read the book; contracts of COIN-M become base coin at their own price.

    Raises
    ------
    BadPayload
        Also where the best bid is not below the best ask.
    """
    endpoint = f"{family.public}GetDepth"
    sides: list[Float64Array] = []
    for key in ("bids", "asks"):
        levels = [[number(row, 0, endpoint), number(row, 1, endpoint)] for row in rows(payload, [key], endpoint)]
        side = np.array(levels, dtype=np.float64).reshape(-1, 2)
        if not (side > 0).all():
            raise BadPayload(endpoint, key, "a price or quantity not above 0")
        if family.contract == "inverse":
            side[:, 1] *= contract_size / side[:, 0]
        sides.append(side)
    bids, asks = sides
    if len(bids) and len(asks) and bids[0, 0] >= asks[0, 0]:
        raise BadPayload(endpoint, "bids.0", f"crossed: bid {bids[0, 0]}, ask {asks[0, 0]}")
    return OrderBook(int(number(payload, "T", endpoint)), bids, asks)


def parse_kline_message(
    message: Any, family: Family, listings: Mapping[str, MarketListing]
) -> list[tuple[Market, Candle, bool]]:
    """Read a moving candle of one of the markets, by native name, and whether it has closed."""
    k = get(message, ["k"], "kline")
    listing = listings.get(text(k, "s", "kline"))
    if listing is None:
        return []
    values = [number(k, key, "kline") for key in ("o", "h", "l", "c", family.ws_volume, family.ws_taker_buy)]
    closed = get(k, ["x"], "kline")
    if not isinstance(closed, bool):
        raise BadPayload("kline", "k.x", f"not true or false (got {closed!r})")
    return [(listing.market, Candle(int(number(k, "t", "kline")), *values), closed)]


def parse_liquidation_message(message: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Liquidation]]:
    """Read a forced order of one of the markets, by native name, at the average price and quantity filled."""
    order = get(message, ["o"], "forceOrder")
    listing = listings.get(text(order, "s", "forceOrder"))
    return [] if listing is None else [(listing.market, _forced(order, listing))]


def _forced(order: Any, listing: MarketListing) -> Liquidation:
    side = text(order, "S", "forceOrder")
    if side not in {"BUY", "SELL"}:
        raise BadPayload("forceOrder", "o.S", f"neither BUY nor SELL (got {side!r})")
    price, filled = (number(order, key, "forceOrder") for key in ("ap", "z"))
    inverse = listing.market.contract == "inverse"  # which count in contracts of so many USD
    notional = filled * (listing.contract_size if inverse else price)
    base = (notional / price if price > 0 else 0.0) if inverse else filled
    position = Side.LONG if side == "SELL" else Side.SHORT
    return Liquidation(int(number(order, "T", "forceOrder")), position, price, base, notional)
