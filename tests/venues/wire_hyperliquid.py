"""The wire format of Hyperliquid's info endpoint and socket, after its documentation and ccxt's parsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimator.domain import HOUR_MS, MINUTE_MS, Candle
from tests.venues.feed import CandleTick, Event, Feed, FeedMarket
from tests.venues.server import Call, Json, Session

CANDLES_KEPT = 5000
FUNDING_ROWS = 500
BOOK_LEVELS = 20
Row = dict[str, Any]


class HyperliquidWire:
    """api.hyperliquid.xyz: everything is one POST, and one socket."""

    venue: str = "hyperliquid"
    hosts: tuple[str, ...] = ("api.hyperliquid.xyz",)

    def __init__(self) -> None:
        self._routes: dict[str, Callable[[Row, Feed], Json]] = {
            "exchangeStatus": lambda _body, feed: {"time": feed.now_ms, "specialStatuses": None},
            "metaAndAssetCtxs": _meta_and_contexts,
            "candleSnapshot": _candle_snapshot,
            "fundingHistory": _funding_history,
            "l2Book": _book,
        }

    def answer(self, call: Call, feed: Feed) -> Json:
        """Answer as Hyperliquid does; KeyError for an unknown question."""
        return self._routes[call.body["type"]](call.body, feed)

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        """Take a subscription; a coin that is not listed is refused."""
        if message["method"] == "ping":
            return [{"channel": "pong"}]
        asked = message["subscription"]
        if asked["coin"] not in feed.coins:
            return [{"channel": "error", "data": f"Invalid subscription {asked}"}]
        feed.market(self.venue, asked["coin"])
        session.subscriptions.add(f"{asked['type']}:{asked['coin']}")
        return [{"channel": "subscriptionResponse", "data": message}]

    def push(self, session: Session, event: Event) -> list[Json]:
        """Return a candle where the session subscribed to it; nobody is told of liquidations."""
        if not isinstance(event, CandleTick) or f"candle:{event.market.coin}" not in session.subscriptions:
            return []
        return [{"channel": "candle", "data": _candle(event.candle, event.market.coin)}]


def _market(feed: Feed, coin: str) -> FeedMarket:
    return feed.market(HyperliquidWire.venue, coin)


def _meta_and_contexts(_: Row, feed: Feed) -> Json:
    universe: list[Row] = [
        {"name": coin, "szDecimals": 5, "maxLeverage": max(40 - 15 * i, 3), "marginTableId": 56 if i == 0 else 25}
        for i, coin in enumerate(feed.coins)
    ]
    gone = {"name": "GONE", "szDecimals": 1, "maxLeverage": 5, "marginTableId": 5, "isDelisted": True}
    tiers = [{"lowerBound": "0.0", "maxLeverage": 40}, {"lowerBound": "150000000.0", "maxLeverage": 20}]
    tables = [[56, {"description": "tiered 40x", "marginTiers": tiers}]]
    contexts = [_context(_market(feed, coin), feed.now_ms) for coin in feed.coins]
    empty = {"funding": "0.0", "openInterest": "0.0", "dayNtlVlm": "0.0", "markPx": "0.37", "midPx": None}
    return [{"universe": [*universe, gone], "marginTables": tables, "collateralToken": 0}, [*contexts, empty]]


def _context(market: FeedMarket, now: int) -> Row:
    return {
        "funding": f"{market.funding_rate(now):.8f}",
        "openInterest": repr(market.open_interest(now)),
        "prevDayPx": repr(market.price(now)),
        "dayNtlVlm": "1000000.0",
        "premium": "0.0001",
        "oraclePx": repr(market.price(now)),
        "markPx": repr(market.price(now)),
        "midPx": repr(market.price(now)),
        "impactPxs": [repr(market.price(now)), repr(market.price(now))],
    }


def _candle_snapshot(body: Row, feed: Feed) -> Json:
    asked = body["req"]
    market = _market(feed, asked["coin"])
    kept = feed.candle_starts(feed.now_ms - CANDLES_KEPT * MINUTE_MS, feed.now_ms + 1)
    starts = [t for t in kept if asked["startTime"] <= t <= asked["endTime"]]
    return [
        _candle(market.closed(t) if t + MINUTE_MS <= feed.now_ms else market.candle(feed.now_ms), asked["coin"])
        for t in starts
    ]


def _candle(candle: Candle, coin: str) -> Row:
    prices = zip("ohlc", (candle.open, candle.high, candle.low, candle.close), strict=True)
    row = {"t": candle.time_ms, "T": candle.time_ms + MINUTE_MS - 1, "s": coin, "i": "1m"}
    return row | {key: repr(price) for key, price in prices} | {"v": repr(candle.volume), "n": 20}


def _funding_history(body: Row, feed: Feed) -> Json:
    market = _market(feed, body["coin"])
    until = min(body.get("endTime", feed.now_ms), feed.now_ms)
    stamps = [
        t for t in feed.candle_starts(body["startTime"] - 31, until, step_ms=HOUR_MS) if t + 31 >= body["startTime"]
    ]
    return [
        {"coin": body["coin"], "fundingRate": f"{market.funding_rate(t):.8f}", "premium": "0.0003", "time": t + 31}
        for t in stamps[:FUNDING_ROWS]
        if t + 31 <= until
    ]


def _book(body: Row, feed: Feed) -> Json:
    price = _market(feed, body["coin"]).price(feed.now_ms)
    levels = [
        [
            {"px": repr(price * (1 + sign * 1e-4 * (i + 1))), "sz": repr(0.5 * (i + 1)), "n": 2}
            for i in range(BOOK_LEVELS)
        ]
        for sign in (-1, 1)
    ]
    return {"coin": body["coin"], "levels": levels, "time": feed.now_ms}


WIRE = HyperliquidWire()
