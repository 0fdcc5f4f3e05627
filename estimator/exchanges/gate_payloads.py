"""What Gate says, read: pure functions from payloads to frames and values.

Everything is counted in contracts: `quanto_multiplier` base coins each, or 1 USD for the inverse one. Statistics come
as five-minute rows stamped with the start of the interval; the row of the running interval still changes and is left
out.
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
    OPEN_INTEREST,
    TIME,
    Candle,
    Float64Array,
    LeverageBracket,
    Liquidation,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, UnknownMarket
from estimator.exchanges.edge import (
    Health,
    frame,
    keyed,
    number,
    number_or_none,
    rows,
    text,
)
from estimator.exchanges.listings import bracket_table, listed
from estimator.exchanges.moving import Tick
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

NAME: Final = "gate"
STATS_MS: Final = 5 * MINUTE_MS
TAKER_FEE_RATE: Final = 0.0005  # of a new account; the one in the contract is nobody's
MARK: Final[dict[str, pl.DataType]] = {"time": TIME, "mark_high": pl.Float64(), "mark_low": pl.Float64()}
_LISTED_SOURCE: Final = "contract listing: first tier"
_SECONDS_UNTIL: Final = 1e11  # a time below is in seconds, above in milliseconds

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, 10_000 * MINUTE_MS, 1000),
    taker_buy_volume=False,
    mark_candles=Depth(MINUTE_MS, 10_000 * MINUTE_MS, 1000),
    open_interest_history=Depth(STATS_MS, 180 * DAY_MS, 100),
    ratio_history=Depth(STATS_MS, 180 * DAY_MS, 100),
    funding_history=Depth(8 * HOUR_MS, None, 1000),
    open_interest_unit="contracts",
    liquidations="full",
    liquidation_price_kind="order_limit",
    brackets="public",
    order_book=True,
    bulk_open_interest=True,
    bulk_funding=True,
    limits={"publicFuturesGet": RateLimit(200, 10.0)},
    notes=(
        "Candles go back 10000 minutes, whatever is asked for.",
        "Depth of contract_stats is not documented; others have read about 180 days.",
        "public_liquidates batches every print since 2026-08-20; before, at most one a second and contract.",
        "The size of a streamed print is that of the order (a long was closed where it is below 0).",
        "liq_orders (one hour) stamps whole seconds and counts positions: not told from the stream, so not used.",
    ),
)


def parse_markets(contracts: Any, tickers: Any, settle: str, health: Health) -> list[MarketListing]:
    """Read `/futures/{settle}/contracts` and `/tickers`: contracts that trade, their first tier as bracket."""
    by_name = parse_tickers(tickers)
    return listed(rows(contracts, [], "contracts"), lambda row: _listing(row, by_name, settle), health)


def _listing(row: Any, tickers: Mapping[str, Any], settle: str) -> MarketListing | None:
    name = text(row, "name", "contracts")
    size = number(row, "quanto_multiplier", "contracts")
    inverse = row.get("type") == "inverse"
    trades = not row.get("in_delisting") and row.get("status", "trading") == "trading"
    # Coin-settled contracts on other coins are quanto: neither linear nor inverse.
    if not trades or (settle != "usdt" and not inverse):
        return None
    base, _, quote = name.partition("_")
    tier = LeverageBracket(0.0, number(row, "leverage_max", "contracts"), number(row, "maintenance_rate", "contracts"))
    symbol = f"{base}/{quote}:{settle.upper()}"
    market = Market(NAME, symbol, "inverse" if inverse else "linear", (tier,), TAKER_FEE_RATE)
    ticker = tickers.get(name, {})
    held = number_or_none(ticker, "total_size", "tickers")
    usd = (size or 1.0) * (1.0 if inverse else number(row, "mark_price", "contracts"))
    return MarketListing(
        market,
        name,
        size or 1.0,  # the inverse contract says 0 and means 1 USD
        _LISTED_SOURCE,
        open_interest_usd=None if held is None else held * usd,
        volume_usd=number_or_none(ticker, "volume_24h_quote", "tickers"),
        funding_interval_ms=interval_ms(number(row, "funding_interval", "contracts"), 1000),
    )


def parse_candles(payload: Any, listing: MarketListing) -> pl.DataFrame:
    """Read `/candlesticks` (`CANDLES`); contracts of an inverse market become coins at the typical price."""
    what = "candlesticks"
    records = []
    for row in rows(payload, [], what):
        o, h, l, c = (number(row, key, what) for key in "ohlc")  # noqa: E741 - the venue's own letters
        volume = base_quantity(number(row, "v", what), (h + l + c) / 3, listing)
        records.append((number(row, "t", what) * 1000, o, h, l, c, volume))
    return frame(CANDLES, records)


def parse_mark_candles(payload: Any) -> pl.DataFrame:
    """Read `/candlesticks` of ``mark_NAME``: time, mark_high, mark_low."""
    what = "candlesticks"
    read = [[number(row, key, what) for key in "thl"] for row in rows(payload, [], what)]
    return frame(MARK, [(t * 1000, high, low) for t, high, low in read])


def parse_open_interest(payload: Any, listing: MarketListing) -> pl.DataFrame:
    """Read open interest from `/contract_stats` (`OPEN_INTEREST`), known at the end of its interval."""
    what = "contract_stats"
    read = [
        [number(row, key, what) for key in ("time", "open_interest", "mark_price")] for row in rows(payload, [], what)
    ]
    return frame(OPEN_INTEREST, [(_known_ms(t), base_quantity(held, mark, listing)) for t, held, mark in read])


def parse_long_short_ratio(payload: Any) -> pl.DataFrame:
    """Read accounts long per account short from `/contract_stats` (`LONG_SHORT_RATIO`)."""
    what = "contract_stats"
    read = [[number(row, key, what) for key in ("time", "lsr_account")] for row in rows(payload, [], what)]
    return frame(LONG_SHORT_RATIO, [(_known_ms(t), ratio) for t, ratio in read])


def parse_funding_rate(payload: Any) -> pl.DataFrame:
    """Read `/funding_rate` (`FUNDING_RATE`)."""
    what = "funding_rate"
    read = [[number(row, key, what) for key in "tr"] for row in rows(payload, [], what)]
    return frame(FUNDING_RATE, [(t * 1000, rate) for t, rate in read])


def parse_brackets(payload: Any, native_id: str) -> BracketTable:
    """Read `/risk_limit_tiers`; a tier ends at its risk limit, where the next one starts."""
    what = "risk_limit_tiers"
    found = [
        (
            number(row, "risk_limit", what),
            number(row, "leverage_max", what),
            number(row, "maintenance_rate", what),
            number_or_none(row, "deduction", what),
        )
        for row in rows(payload, [], what)
        if text(row, "contract", what) == native_id
    ]
    if not found:
        raise BadPayload(what, "contract", f"no tier of {native_id}")
    found.sort(key=lambda tier: tier[0])
    floors = [0.0, *(limit for limit, *_ in found[:-1])]
    tiers = [(floor, top, rate, amount) for floor, (_, top, rate, amount) in zip(floors, found, strict=True)]
    return bracket_table(tiers, what, "public: risk limit tiers")


def parse_tickers(payload: Any) -> dict[str, Any]:
    """Read `/tickers`, by contract."""
    return keyed(payload, [], "contract", "tickers")


def parse_open_interest_now(tickers: Mapping[str, Any], listing: MarketListing, now_ms: int) -> Observation:
    """Read open interest out of tickers. [base coin]"""
    row = _ticker(tickers, listing)
    held, mark = number(row, "total_size", "tickers"), number(row, "mark_price", "tickers")
    return Observation(now_ms, base_quantity(held, mark, listing))


def parse_funding_rate_now(tickers: Mapping[str, Any], listing: MarketListing, now_ms: int) -> FundingRate:
    """Read the rate in force out of tickers."""
    rate = number(_ticker(tickers, listing), "funding_rate", "tickers")
    return FundingRate(now_ms, rate, listing.funding_interval_ms)


def _ticker(tickers: Mapping[str, Any], listing: MarketListing) -> Any:
    if listing.native_id not in tickers:
        raise UnknownMarket(f"{NAME} has no ticker of {listing.native_id}")
    return tickers[listing.native_id]


def parse_order_book(payload: Any, listing: MarketListing) -> OrderBook:
    """Read `/order_book`."""
    what = "order_book"

    def side(name: str) -> Float64Array:
        levels = [(number(row, "p", what), number(row, "s", what)) for row in rows(payload, [name], what)]
        return np.array([(p, base_quantity(s, p, listing)) for p, s in levels], dtype=np.float64).reshape(-1, 2)

    return OrderBook(stamp(payload, "current", what, 1000), side("bids"), side("asks"))


def parse_candle_message(message: Any, listings: Mapping[str, MarketListing]) -> list[Tick]:
    """Read an update of `futures.candlesticks`; `w` marks a candle that has closed, though not every one has it."""
    what = "futures.candlesticks"
    if message.get("event") != "update":
        return []
    ticks: list[Tick] = []
    for row in _results(message, what):
        native_id = text(row, "n", what).partition("_")[2]
        listing = listings.get(native_id)
        if listing is None:
            continue
        o, h, l, c = (number(row, key, what) for key in "ohlc")  # noqa: E741 - the venue's own letters
        volume = base_quantity(number(row, "v", what), (h + l + c) / 3, listing)
        candle = Candle(stamp(row, "t", what, 1000), o, h, l, c, volume)
        ticks.append((listing.market, candle, row.get("w") is True))
    return ticks


def parse_liquidation_message(message: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Liquidation]]:
    """Read an update of `futures.public_liquidates`; `size` is that of the order, below 0 where a long was closed."""
    what = "futures.public_liquidates"
    if message.get("event") != "update" or message.get("channel") != what:
        return []
    prints = []
    for row in _results(message, what):
        listing = listings.get(text(row, "contract", what))
        if listing is not None:
            size, price = number(row, "size", what), number(row, "price", what)
            prints.append((listing.market, _print(_print_ms(row, what), size, price, listing)))
    return prints


def base_quantity(contracts: float, price: float, listing: MarketListing) -> float:
    """Turn contracts into base coin."""
    quantity = contracts * listing.contract_size
    if listing.market.contract == "linear":
        return quantity
    return quantity / price if price > 0 else 0.0


def _print_ms(row: Any, what: str) -> int:
    """Read the time of a streamed print: in ms since August 2026, in seconds before, or under another name."""
    key = "time_ms" if "time_ms" in row else "time"
    return stamp(row, key, what, 1000 if number(row, key, what) < _SECONDS_UNTIL else 1)


def _print(time_ms: int, order_size: float, price: float, listing: MarketListing) -> Liquidation:
    quantity = base_quantity(abs(order_size), price, listing)
    return Liquidation(time_ms, Side.LONG if order_size < 0 else Side.SHORT, price, quantity, quantity * price)


def _known_ms(time_s: float) -> float:
    return time_s * 1000 + STATS_MS


def _results(message: Any, what: str) -> list[Any]:
    result = message.get("result")
    return rows(message, ["result"], what) if not isinstance(result, dict) else [result]
