"""The wire format of Hyperliquid's info endpoint and socket, after its documentation and ccxt's parsers."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from estimator.domain import HOUR_MS, MINUTE_MS, Candle, Side
from estimator.model.margin import liquidation_price
from tests.venues.feed import STEP_MS, CandleTick, Event, Feed, FeedMarket
from tests.venues.server import Call, Json, Session

CANDLES_KEPT = 5000
FUNDING_ROWS = 500
BOOK_LEVELS = 20
HOLDERS = 12  # accounts of every coin
HOLDERS_SHARE = 0.6  # of open interest, that the longs among them hold, and so the shorts
MAINTENANCE = 1 / 80  # half of 1 / the largest leverage
Row = dict[str, Any]


@dataclass(frozen=True)
class Holder:
    """One of the accounts behind a coin's open interest; which of them hold something changes by the minute.

    The last one holds cross, with so much behind it that no price liquidates it.
    """

    market: FeedMarket
    number: int

    @property
    def address(self) -> str:
        """What trades and questions name it."""
        return f"0x{zlib.crc32(self.market.coin.encode()):08x}{self.number:032x}"

    @property
    def side(self) -> Side:
        """Every other one is long."""
        return Side.LONG if self.number % 2 == 0 else Side.SHORT

    @property
    def leverage(self) -> int:
        """On the label."""
        return 2 + self.number % 6 * 5

    def quantity(self, time_ms: int) -> float:
        """What it holds at a time; nothing where it has closed. [base coin]"""
        minute = time_ms // MINUTE_MS
        if self.number > 0 and (minute + self.number) % HOLDERS == 0:
            return 0.0
        return round(self.market.open_interest(time_ms) * HOLDERS_SHARE / (HOLDERS / 2), 3)

    def entry_price(self) -> float:
        """Price at which it opened."""
        return self.market.price(self.market.start_ms + self.number * HOUR_MS)

    def liquidation_price(self, time_ms: int) -> float | None:
        """Price that liquidates it, as the venue tells it."""
        held, entry = self.quantity(time_ms), self.entry_price()
        if self.number == HOLDERS - 1 or held == 0:
            return None
        return liquidation_price(
            side=self.side,
            entry_price=entry,
            quantity=held,
            margin=held * entry / self.leverage,
            maintenance_margin_rate=MAINTENANCE,
        )


def holders(market: FeedMarket) -> list[Holder]:
    """Return all accounts of a coin."""
    return [Holder(market, number) for number in range(HOLDERS)]


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
            "clearinghouseState": _account,
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
        """Return a candle and trades where the session subscribed to them; nobody is told of liquidations."""
        if not isinstance(event, CandleTick):
            return []
        coin = event.market.coin
        told = {
            f"candle:{coin}": {"channel": "candle", "data": _candle(event.candle, coin)},
            f"trades:{coin}": {"channel": "trades", "data": [_trade(event)]},
        }
        return [message for asked, message in told.items() if asked in session.subscriptions]


def _trade(event: CandleTick) -> Row:
    """One trade between two accounts, whose turn it is."""
    accounts, turn = holders(event.market), event.time_ms // STEP_MS
    buyer, seller = accounts[turn % HOLDERS], accounts[(turn + 1) % HOLDERS]
    return {
        "coin": event.market.coin, "side": "B", "px": repr(event.candle.close), "sz": "1.5", "time": event.time_ms,
        "hash": "0x" + "0" * 64, "tid": turn, "users": [buyer.address, seller.address],
    }  # fmt: skip


def _account(body: Row, feed: Feed) -> Json:
    """What an account holds; an address that nobody has is one without positions."""
    accounts = [one for coin in feed.coins for one in holders(_market(feed, coin)) if one.address == body["user"]]
    held = [_position(one, feed.now_ms) for one in accounts if one.quantity(feed.now_ms) > 0]
    zero = {"accountValue": "0.0", "totalNtlPos": "0.0", "totalRawUsd": "0.0", "totalMarginUsed": "0.0"}
    return {
        "marginSummary": zero, "crossMarginSummary": zero, "crossMaintenanceMarginUsed": "0.0", "withdrawable": "0.0",
        "assetPositions": [{"type": "oneWay", "position": one} for one in held], "time": feed.now_ms,
    }  # fmt: skip


def _position(one: Holder, now_ms: int) -> Row:
    held, entry, price = one.quantity(now_ms), one.entry_price(), one.liquidation_price(now_ms)
    mode = {"type": "cross"} if price is None else {"type": "isolated", "rawUsd": "0.0"}
    value = held * one.market.price(now_ms)
    return {
        "coin": one.market.coin, "szi": repr(one.side.sign * held), "entryPx": repr(entry),
        "leverage": mode | {"value": one.leverage}, "liquidationPx": None if price is None else repr(price),
        "positionValue": repr(value), "marginUsed": repr(value / one.leverage), "maxLeverage": 40,
        "unrealizedPnl": repr(one.side.sign * held * (one.market.price(now_ms) - entry)), "returnOnEquity": "0.0",
        "cumFunding": {"allTime": "0.0", "sinceOpen": "0.0", "sinceChange": "0.0"},
    }  # fmt: skip


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
