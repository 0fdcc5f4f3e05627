"""What Bitget says, read: pure functions from payloads to frames and values.

Linear contracts count in base coin. Only prints come in quote coin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import (
    CANDLES,
    DAY_MS,
    FUNDING_RATE,
    HOUR_MS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    TIME,
    Candle,
    Float64Array,
    Liquidation,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, UnknownMarket
from estimator.exchanges.edge import Health, frame, get, keyed, number, number_or_none, rows, text
from estimator.exchanges.listings import bracket_table, listed
from estimator.exchanges.stamps import interval_ms, stamp
from estimator.exchanges.venue import (
    BracketTable,
    Capabilities,
    Depth,
    FundingRate,
    MarketListing,
    OrderBook,
    RateLimit,
)
from estimator.model.margin import brackets_from_max_leverage

NAME: Final = "bitget"
RATIO_MS: Final = 5 * MINUTE_MS
MARK: Final[dict[str, pl.DataType]] = {"time": TIME, "mark_high": pl.Float64(), "mark_low": pl.Float64()}
RULE: Final = "rule: m = 1 / (2 max leverage)"
PRODUCTS: Final = {"USDT": "USDT-FUTURES", "USDC": "USDC-FUTURES"}  # by the coin of settlement

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, None, 1000),
    taker_buy_volume=False,
    mark_candles=Depth(MINUTE_MS, None, 1000),
    open_interest_history=None,
    ratio_history=Depth(RATIO_MS, 30 * RATIO_MS, 30),
    funding_history=Depth(HOUR_MS, None, 100),
    open_interest_unit="base",
    liquidations="sampled",
    liquidation_price_kind=None,
    brackets="public",
    order_book=True,
    bulk_open_interest=True,
    bulk_funding=True,
    limits={
        "publicMixGetV2MixMarketAccountLongShort": RateLimit(1, 1.0),
        "publicMixGet": RateLimit(20, 1.0),
    },
    notes=(
        "Open interest has no history: polled from the first day on.",
        "The account ratio takes no start: an answer holds the latest rows only, so it is polled too.",
        "Minute candles older than 30 days come from another endpoint, 200 a page.",
        "Since 2026-06-23 the liquidation channel sends at most the largest long and short a pair and second.",
        "Whether the price of a print is that of the fill or of bankruptcy is not documented.",
        "Prints come from the channel of the unified account; ccxt has no call for it.",
        "/v3/market/liquidations (3 days) documents no unit and no sampling: not told from the stream, so not used.",
        "Coin-settled contracts are left out: the units of their open interest are not documented.",
    ),
)


def parse_markets(contracts: Any, tickers: Any, settle: str, health: Health) -> list[MarketListing]:
    """Read `/v2/mix/market/contracts` and `/tickers` of a product type: perpetual futures that trade."""
    by_name = parse_tickers(tickers)
    return listed(rows(contracts, ["data"], "contracts"), lambda row: _listing(row, by_name, settle), health)


def _listing(row: Any, tickers: Mapping[str, Any], settle: str) -> MarketListing | None:
    what = "contracts"
    name = text(row, "symbol", what)
    if text(row, "symbolType", what) != "perpetual" or text(row, "symbolStatus", what) != "normal":
        return None
    symbol = f"{text(row, 'baseCoin', what)}/{text(row, 'quoteCoin', what)}:{settle}"
    brackets = brackets_from_max_leverage([(0.0, number(row, "maxLever", what))])
    market = Market(NAME, symbol, "linear", brackets, number(row, "takerFeeRate", what))
    ticker = tickers.get(name, {})
    held, price = number_or_none(ticker, "holdingAmount", "tickers"), number_or_none(ticker, "lastPr", "tickers")
    return MarketListing(
        market,
        name,
        1.0,
        RULE,
        open_interest_usd=None if held is None or price is None else held * price,
        volume_usd=number_or_none(ticker, "usdtVolume", "tickers"),
        funding_interval_ms=interval_ms(number(row, "fundInterval", what), HOUR_MS),
    )


def parse_candles(payload: Any) -> pl.DataFrame:
    """Read `/candles` and `/history-candles` (`CANDLES`)."""
    return frame(CANDLES, [[number(row, i, "candles") for i in range(6)] for row in rows(payload, ["data"], "candles")])


def parse_mark_candles(payload: Any) -> pl.DataFrame:
    """Read candles of the mark price: time, mark_high, mark_low."""
    what = "mark candles"
    return frame(MARK, [[number(row, i, what) for i in (0, 2, 3)] for row in rows(payload, ["data"], what)])


def parse_open_interest_now(payload: Any, native_id: str) -> Observation:
    """Read `/open-interest`. [base coin]"""
    what = "open-interest"
    for row in rows(payload, ["data", "openInterestList"], what):
        if text(row, "symbol", what) == native_id:
            return Observation(stamp(get(payload, ["data"], what), "ts", what), number(row, "size", what))
    raise BadPayload(what, "data.openInterestList", f"no row of {native_id}")


def parse_tickers(payload: Any) -> dict[str, Any]:
    """Read `/tickers` of a product type, by market."""
    return keyed(payload, ["data"], "symbol", "tickers")


def read_open_interest(tickers: Mapping[str, Any], listing: MarketListing) -> Observation:
    """Read open interest out of tickers. [base coin]"""
    row = _ticker(tickers, listing)
    return Observation(stamp(row, "ts", "tickers"), number(row, "holdingAmount", "tickers"))


def read_funding_rate(tickers: Mapping[str, Any], listing: MarketListing) -> FundingRate:
    """Read the rate in force out of tickers."""
    row = _ticker(tickers, listing)
    rate = number(row, "fundingRate", "tickers")
    return FundingRate(stamp(row, "ts", "tickers"), rate, listing.funding_interval_ms)


def _ticker(tickers: Mapping[str, Any], listing: MarketListing) -> Any:
    if listing.native_id not in tickers:
        raise UnknownMarket(f"{NAME} has no ticker of {listing.native_id}")
    return tickers[listing.native_id]


def parse_long_short_ratio(payload: Any) -> pl.DataFrame:
    """Read `/account-long-short` (`LONG_SHORT_RATIO`), known at the end of its interval.

    The ratio is taken from the shares: the ready-made field has been seen a hundred times too small.
    """
    what = "account-long-short"
    keys = ("ts", "longAccountRatio", "shortAccountRatio")
    read = [[number(row, key, what) for key in keys] for row in rows(payload, ["data"], what)]
    return frame(LONG_SHORT_RATIO, [(t + RATIO_MS, long / short if short > 0 else 0.0) for t, long, short in read])


def parse_funding_rate(payload: Any) -> pl.DataFrame:
    """Read `/history-fund-rate` (`FUNDING_RATE`)."""
    what = "history-fund-rate"
    keys = ("fundingTime", "fundingRate")
    return frame(FUNDING_RATE, [[number(row, key, what) for key in keys] for row in rows(payload, ["data"], what)])


def parse_funding_rate_now(payload: Any, now_ms: int) -> FundingRate:
    """Read `/current-fund-rate`."""
    what = "current-fund-rate"
    row = get(payload, ["data", 0], what)
    interval = interval_ms(number_or_none(row, "fundingRateInterval", what), HOUR_MS)
    return FundingRate(now_ms, number(row, "fundingRate", what), interval)


def parse_brackets(payload: Any) -> BracketTable:
    """Read `/query-position-lever`."""
    what = "query-position-lever"
    keys = ("startUnit", "leverage", "keepMarginRate")
    read = [[number(row, key, what) for key in keys] for row in rows(payload, ["data"], what)]
    tiers = [(floor, leverage, rate, None) for floor, leverage, rate in sorted(read)]
    return bracket_table(tiers, what, "public: position tiers")


def parse_order_book(payload: Any) -> OrderBook:
    """Read `/merge-depth`."""
    what = "merge-depth"

    def side(name: str) -> Float64Array:
        levels = [[number(row, i, what) for i in (0, 1)] for row in rows(payload, ["data", name], what)]
        return np.array(levels, dtype=np.float64).reshape(-1, 2)

    return OrderBook(stamp(get(payload, ["data"], what), "ts", what), side("bids"), side("asks"))


def parse_candle_message(message: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Candle, bool]]:
    """Read a push of channel `candle1m`; a snapshot holds the past too, of which the last candle is news."""
    what = "candle1m"
    if "data" not in message:
        return []
    listing = listings.get(text(get(message, ["arg"], what), "instId", what))
    if listing is None:
        return []
    read = sorted(rows(message, ["data"], what), key=lambda row: stamp(row, 0, what))
    latest = read[-1:] if message.get("action") == "snapshot" else read
    return [
        (listing.market, Candle(stamp(row, 0, what), *(number(row, i, what) for i in range(1, 6))), False)
        for row in latest
    ]


def parse_liquidation_message(message: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Liquidation]]:
    """Read a push of topic `liquidation`; `side` is that of the position, `amount` in quote coin."""
    what = "liquidation"
    if "data" not in message or get(message, ["arg", "topic"], what) != what:
        return []
    named = [(listings.get(text(row, "symbol", what)), row) for row in rows(message, ["data"], what)]
    return [(one.market, _print(row, what)) for one, row in named if one is not None]


def _print(row: Any, what: str) -> Liquidation:
    side = {"buy": Side.LONG, "sell": Side.SHORT}.get(text(row, "side", what))
    if side is None:
        raise BadPayload(what, "side", f"neither buy nor sell (got {row['side']!r})")
    price, notional = number(row, "price", what), number(row, "amount", what)
    quantity = notional / price if price > 0 else 0.0
    return Liquidation(stamp(row, "ts", what), side, price, quantity, notional)


RECENT_CANDLES_MS: Final = 29 * DAY_MS  # the endpoint of recent candles ends at 30 days
