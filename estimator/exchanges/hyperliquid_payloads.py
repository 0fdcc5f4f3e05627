"""What Hyperliquid says, read: pure functions from payloads to frames and values.

Everything is counted in base coin. Funding is paid every hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import (
    CANDLES,
    FUNDING_RATE,
    HOUR_MS,
    MINUTE_MS,
    Candle,
    Float64Array,
    LeverageBracket,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, ParameterError, UnknownMarket
from estimator.exchanges.edge import Health, frame, get, number, number_or_none, rows, text
from estimator.exchanges.listings import listed
from estimator.exchanges.stamps import stamp
from estimator.exchanges.venue import (
    BracketTable,
    Capabilities,
    Depth,
    FundingRate,
    MarketListing,
    OrderBook,
    RateLimit,
    Trade,
)
from estimator.model.holdings import Account, Holding
from estimator.model.margin import brackets_from_max_leverage

NAME: Final = "hyperliquid"
TAKER_FEE_RATE: Final = 0.00045  # of a new account
SOURCE: Final = "public: margin tables, m = 1 / (2 max leverage)"
CANDLES_KEPT: Final = 5000
FUNDING_PAGE: Final = 500
ASK_ACCOUNT: Final = "publicPostInfo clearinghouseState"  # the same address with a limit of its own

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, CANDLES_KEPT * MINUTE_MS, CANDLES_KEPT),
    taker_buy_volume=False,
    mark_candles=None,
    open_interest_history=None,
    ratio_history=None,
    funding_history=Depth(HOUR_MS, None, FUNDING_PAGE),
    open_interest_unit="base",
    liquidations="none",
    liquidation_price_kind=None,
    brackets="public",
    order_book=True,
    bulk_open_interest=True,
    bulk_funding=True,
    # Of 1200 weights a minute: 48 requests of 20, and 120 accounts of 2.
    limits={"publicPostInfo": RateLimit(48, 60.0), ASK_ACCOUNT: RateLimit(120, 60.0)},
    notes=(
        "Only the latest 5000 candles are kept; an older start gets those.",
        "Open interest has no history: polled from the first day on, all markets in one request.",
        "No public feed marks liquidations: trades carry no flag. Only the fills of an account say so (userFills).",
        "Positions and their liquidation prices are public by address (clearinghouseState); trades name both accounts.",
        "1200 weights a minute; most requests weigh 20, candles more with their number, accounts 2.",
        "The order book ends at 20 levels a side.",
        "Perpetuals of other deployers (HIP-3) are left out.",
    ),
    positions=True,
)


def parse_markets(payload: Any, health: Health) -> list[MarketListing]:
    """Read `metaAndAssetCtxs`: the listed perpetuals with their margin tiers."""
    what, tables = "metaAndAssetCtxs", _margin_tables(payload)

    def read(pair: tuple[Any, Any]) -> MarketListing | None:
        asset, context = pair
        name = text(asset, "name", what)
        if asset.get("isDelisted"):
            return None
        market = Market(NAME, f"{name}/USDC:USDC", "linear", _brackets(asset, tables), TAKER_FEE_RATE)
        return _listing(market, name, context)

    return listed(_assets(payload), read, health)


def _listing(market: Market, name: str, context: Any) -> MarketListing:
    what = "metaAndAssetCtxs"
    held, mark = number_or_none(context, "openInterest", what), number_or_none(context, "markPx", what)
    return MarketListing(
        market,
        name,
        1.0,
        SOURCE,
        open_interest_usd=None if held is None or mark is None else held * mark,
        volume_usd=number_or_none(context, "dayNtlVlm", what),
        funding_interval_ms=HOUR_MS,
    )


def parse_brackets(payload: Any, native_id: str) -> BracketTable:
    """Read the tiers of one market from `metaAndAssetCtxs`."""
    asset, tables = _asset(payload, native_id)[0], _margin_tables(payload)
    try:
        return BracketTable(_brackets(asset, tables), SOURCE)
    except ParameterError as error:
        raise BadPayload("metaAndAssetCtxs", error.name, str(error)) from error


def _margin_tables(payload: Any) -> dict[int, Any]:
    what = "metaAndAssetCtxs"
    meta = get(payload, [0], what)
    pairs = rows(meta, ["marginTables"], what) if isinstance(meta, dict) and "marginTables" in meta else []
    return {int(number(pair, 0, what)): get(pair, [1], what) for pair in pairs}


def _brackets(asset: Any, tables: Mapping[int, Any]) -> tuple[LeverageBracket, ...]:
    what = "metaAndAssetCtxs"
    table = tables.get(int(number_or_none(asset, "marginTableId", what) or 0))
    if table is None:  # numbers below 50 name a table of one tier, which is not sent
        return brackets_from_max_leverage([(0.0, number(asset, "maxLeverage", what))])
    tiers = [
        (number(tier, "lowerBound", what), number(tier, "maxLeverage", what))
        for tier in rows(table, ["marginTiers"], what)
    ]
    return brackets_from_max_leverage(sorted(tiers))


def _assets(payload: Any) -> list[tuple[Any, Any]]:
    what = "metaAndAssetCtxs"
    universe, contexts = rows(payload, [0, "universe"], what), rows(payload, [1], what)
    if len(universe) != len(contexts):
        raise BadPayload(what, "body", f"{len(universe)} assets but {len(contexts)} contexts")
    return list(zip(universe, contexts, strict=True))


def _asset(payload: Any, native_id: str) -> tuple[Any, Any]:
    for asset, context in _assets(payload):
        if text(asset, "name", "metaAndAssetCtxs") == native_id and not asset.get("isDelisted"):
            return asset, context
    raise UnknownMarket(f"{NAME} does not list {native_id}")


def parse_open_interest_now(payload: Any, native_id: str, now_ms: int) -> Observation:
    """Read open interest of one market from `metaAndAssetCtxs`. [base coin]"""
    return Observation(now_ms, number(_asset(payload, native_id)[1], "openInterest", "metaAndAssetCtxs"))


def parse_funding_rate_now(payload: Any, native_id: str, now_ms: int) -> FundingRate:
    """Read the rate of the running hour from `metaAndAssetCtxs`."""
    return FundingRate(now_ms, number(_asset(payload, native_id)[1], "funding", "metaAndAssetCtxs"), HOUR_MS)


def parse_candles(payload: Any) -> pl.DataFrame:
    """Read `candleSnapshot` (`CANDLES`)."""
    what = "candleSnapshot"
    return frame(CANDLES, [[number(row, key, what) for key in "tohlcv"] for row in rows(payload, [], what)])


def parse_funding_rate(payload: Any) -> pl.DataFrame:
    """Read `fundingHistory` (`FUNDING_RATE`)."""
    what = "fundingHistory"
    keys = ("time", "fundingRate")
    return frame(FUNDING_RATE, [[number(row, key, what) for key in keys] for row in rows(payload, [], what)])


def parse_order_book(payload: Any) -> OrderBook:
    """Read `l2Book`."""
    what = "l2Book"

    def side(index: int) -> Float64Array:
        levels = [[number(row, key, what) for key in ("px", "sz")] for row in rows(payload, ["levels", index], what)]
        return np.array(levels, dtype=np.float64).reshape(-1, 2)

    return OrderBook(stamp(payload, "time", what), side(0), side(1))


def parse_candle_message(message: Any, listings: Mapping[str, MarketListing]) -> list[tuple[Market, Candle, bool]]:
    """Read a push of channel `candle`."""
    what = "candle"
    if message.get("channel") != what:
        return []
    row = get(message, ["data"], what)
    listing = listings.get(text(row, "s", what))
    if listing is None or row.get("i") != "1m":
        return []
    values = [number(row, key, what) for key in "ohlcv"]
    return [(listing.market, Candle(stamp(row, "t", what), *values), False)]


def parse_account(payload: Any, listings: Mapping[str, MarketListing]) -> Account:
    """Read `clearinghouseState`: the positions of an account in the listed markets."""
    what = "clearinghouseState"
    positions = [get(row, ["position"], what) for row in rows(payload, ["assetPositions"], what)]
    held = [_holding(one, listings.get(text(one, "coin", what))) for one in positions]
    return Account(stamp(payload, "time", what), tuple(one for one in held if one is not None))


def _holding(position: Any, listing: MarketListing | None) -> Holding | None:
    what = "clearinghouseState"
    size, value = number(position, "szi", what), number(position, "positionValue", what)
    if listing is None or size == 0:
        return None
    price = number_or_none(position, "liquidationPx", what)
    side = Side.LONG if size > 0 else Side.SHORT
    # Where other positions back one, the formula gives prices that no market has.
    return Holding(listing.market.id, side, abs(size), value, price if price is not None and price > 0 else None)


def parse_trades_message(message: Any, listings: Mapping[str, MarketListing]) -> list[Trade]:
    """Read a push of channel `trades`: the listed ones, with both accounts."""
    what = "trades"
    found = [row for row in rows(message, ["data"], what) if text(row, "coin", what) in listings]
    return [
        Trade(stamp(row, "time", what), number(row, "px", what) * number(row, "sz", what), _users(row)) for row in found
    ]


def _users(row: Any) -> tuple[str, ...]:
    users = rows(row, ["users"], "trades")
    return tuple(text(users, at, "trades").lower() for at in range(len(users)))
