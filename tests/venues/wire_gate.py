"""The wire format of Gate futures, USDT- and coin-settled, after its documentation and ccxt's parsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimator.domain import MINUTE_MS, Candle, Side
from tests.venues.feed import FUNDING_EVERY_MS, CandleTick, Event, Feed, FeedMarket, Print
from tests.venues.server import Call, Json, RefusedError, Session

QUANTO = {"BTC": 0.0001, "ETH": 0.001}  # base coin per contract; others 1
STATS_MS = 5 * MINUTE_MS
CANDLES_KEPT = 10_000
Row = dict[str, Any]


class GateWire:
    """api.gateio.ws and its futures sockets. Both settlements show the same feed; coin-settled is BTC_USD only."""

    venue: str = "gate"
    hosts: tuple[str, ...] = ("api.gateio.ws", "fx-ws.gateio.ws")

    def __init__(self) -> None:
        self._routes: dict[str, Callable[[_Asked], Json]] = {
            "contracts": lambda asked: [_contract(asked, name) for name in asked.names],
            "tickers": _tickers,
            "candlesticks": _candlesticks,
            "contract_stats": _contract_stats,
            "funding_rate": _funding_rate,
            "risk_limit_tiers": _tiers,
            "order_book": _order_book,
        }

    def answer(self, call: Call, feed: Feed) -> Json:
        """Answer as Gate does; KeyError for an unknown path."""
        if call.path == "/api/v4/spot/time":
            return {"server_time": feed.now_ms}
        settle, _, what = call.path.removeprefix("/api/v4/futures/").partition("/")
        return self._routes[what](_Asked(call, feed, settle))

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        """Take a subscription; a contract that is not listed is refused."""
        if message.get("event") != "subscribe":
            return []
        settle = session.path.rpartition("/")[2]
        channel, name = message["channel"], message["payload"][-1]
        said: Row = {key: message[key] for key in ("time", "id", "channel", "event")}
        if name not in _names(feed, settle):
            return [said | {"error": {"code": 2, "message": f"unknown contract {name}"}, "result": None}]
        feed.market(self.venue, name.partition("_")[0])
        session.subscriptions.add(f"{channel}:{name}")
        return [said | {"result": {"status": "success"}}]

    def push(self, session: Session, event: Event) -> list[Json]:
        """Return a candle or a batch of prints where the session subscribed to it."""
        settle = session.path.rpartition("/")[2]
        name = f"{event.market.coin}_{'USDT' if settle == 'usdt' else 'USD'}"
        channel = "futures.candlesticks" if isinstance(event, CandleTick) else "futures.public_liquidates"
        if f"{channel}:{name}" not in session.subscriptions:
            return []
        row = _candle_push(event, name) if isinstance(event, CandleTick) else _print_push(event, name)
        time_ms = event.time_ms if isinstance(event, CandleTick) else event.liquidation.time_ms
        head = {"time": time_ms // 1000, "time_ms": time_ms, "channel": channel, "event": "update"}
        return [head | {"result": [row]}]


class _Asked:
    """A call with its market looked up, as Gate names it."""

    def __init__(self, call: Call, feed: Feed, settle: str) -> None:
        self.call, self.feed, self.settle = call, feed, settle
        self.names = _names(feed, settle)
        self.name = call.query.get("contract", "")

    @property
    def market(self) -> FeedMarket:
        """The market asked for; also its mark price."""
        name = self.name.removeprefix("mark_")
        if name not in self.names:
            raise RefusedError(400, {"label": "CONTRACT_NOT_FOUND", "message": f"contract {name} not found"})
        return self.feed.market(GateWire.venue, name.partition("_")[0])

    @property
    def range_ms(self) -> tuple[int, int]:
        """`from` and `to`, the latter included."""
        until = self.call.integer("to", self.feed.now_ms // 1000)
        return self.call.integer("from", until - 3600) * 1000, until * 1000


def _names(feed: Feed, settle: str) -> list[str]:
    return [f"{coin}_USDT" for coin in feed.coins] if settle == "usdt" else ["BTC_USD"]


def _contracts(base: float, price: float, name: str) -> float:
    return base / QUANTO.get(name.partition("_")[0], 1.0) if name.endswith("USDT") else base * price


def _text(value: float) -> str:
    return f"{value:.10g}"


def _whole(value: float) -> int | float:
    return round(value) if abs(value - round(value)) < 1e-6 else value


def _contract(asked: _Asked, name: str) -> Row:
    market = asked.feed.market(GateWire.venue, name.partition("_")[0])
    inverse = name.endswith("_USD")
    return {
        "name": name,
        "type": "inverse" if inverse else "direct",
        "quanto_multiplier": "0" if inverse else str(QUANTO.get(market.coin, 1.0)),
        "mark_price": _text(market.price(asked.feed.now_ms)),
        "maintenance_rate": "0.004",
        "leverage_min": "1",
        "leverage_max": "125",
        "taker_fee_rate": "0.00075",
        "funding_interval": FUNDING_EVERY_MS // 1000,
        "funding_rate": _text(market.funding_rate(asked.feed.now_ms)),
        "in_delisting": False,
        "status": "trading",
    }


def _tickers(asked: _Asked) -> Json:
    return [_ticker(asked, name) for name in asked.names if asked.name in {"", name}]


def _ticker(asked: _Asked, name: str) -> Row:
    market, now = asked.feed.market(GateWire.venue, name.partition("_")[0]), asked.feed.now_ms
    price = market.price(now)
    return {
        "contract": name,
        "last": _text(price),
        "mark_price": _text(price),
        "total_size": f"{_contracts(market.open_interest(now), price, name):.6f}",
        "volume_24h_quote": "1000000",
        "funding_rate": _text(market.funding_rate(now)),
    }


def _candlesticks(asked: _Asked) -> Json:
    since, until = asked.range_ms
    market = asked.market
    if since < asked.feed.now_ms - CANDLES_KEPT * MINUTE_MS or (until - since) // MINUTE_MS >= 2000:
        said = "Candlestick too long ago. Maximum 10000 points ago are allowed"
        raise RefusedError(400, {"label": "INVALID_PARAM_VALUE", "message": said})
    mark = asked.name.startswith("mark_")
    starts = asked.feed.candle_starts(since, until + 1)
    return [_candle(asked, market, start, mark=mark) for start in starts]


def _candle(asked: _Asked, market: FeedMarket, start: int, *, mark: bool) -> Row:
    now = asked.feed.now_ms
    candle = market.closed(start) if start + MINUTE_MS <= now else market.candle(now)
    if mark:
        return _prices(market.mark_candle(start))
    typical = (candle.high + candle.low + candle.close) / 3
    volume = _contracts(candle.volume, typical, asked.name)
    return _prices(candle) | {"v": _whole(volume), "sum": _text(candle.volume * typical)}


def _prices(candle: Candle) -> Row:
    prices = zip("ohlc", (candle.open, candle.high, candle.low, candle.close), strict=True)
    return {"t": candle.time_ms // 1000, **{key: repr(price) for key, price in prices}}


def _contract_stats(asked: _Asked) -> Json:
    since, _ = asked.range_ms
    limit = asked.call.integer("limit", 30)
    starts = asked.feed.candle_starts(since, asked.feed.now_ms + 1, step_ms=STATS_MS)
    return [_stats(asked, start) for start in starts[: limit + 1]]  # a page runs a row over


def _stats(asked: _Asked, start: int) -> Row:
    market, end = asked.market, min(start + STATS_MS, asked.feed.now_ms)
    price = market.price(end)
    totals = {side: sum(p.quantity_base for p in market.prints(start, end) if p.side is side) for side in Side}
    return {
        "time": start // 1000,
        "mark_price": price,
        "open_interest": round(_contracts(market.open_interest(end), price, asked.name), 6),
        "open_interest_usd": market.open_interest(end) * price,
        "lsr_account": market.long_short_ratio(end),
        "lsr_taker": 1.0,
        "long_liq_size": _contracts(totals[Side.LONG], price, asked.name),
        "short_liq_size": _contracts(totals[Side.SHORT], price, asked.name),
        "long_liq_usd": totals[Side.LONG] * price,
        "short_liq_usd": totals[Side.SHORT] * price,
    }


def _funding_rate(asked: _Asked) -> Json:
    since, until = asked.range_ms
    stamps = asked.feed.candle_starts(since, until + 1, step_ms=FUNDING_EVERY_MS)
    newest_first = sorted(stamps, reverse=True)[: asked.call.integer("limit", 100)]
    return [{"t": t // 1000, "r": _text(asked.market.funding_rate(t))} for t in newest_first]


def _tiers(asked: _Asked) -> Json:
    keys = ("risk_limit", "leverage_max", "initial_rate", "maintenance_rate")
    steps = [("20000", "125", "0.008", "0.004"), ("50000", "100", "0.01", "0.005"), ("100000", "50", "0.02", "0.01")]
    assert asked.market  # refuses what is not listed
    rows = [dict(zip(keys, step, strict=True)) | {"tier": tier} for tier, step in enumerate(steps, 1)]
    return [row | {"contract": asked.name} for row in rows]


def _order_book(asked: _Asked) -> Json:
    price, limit = asked.market.price(asked.feed.now_ms - 1), asked.call.integer("limit", 10)
    sides = {}
    for side, sign in (("bids", -1), ("asks", 1)):
        prices = [price * (1 + sign * 1e-4 * (i + 1)) for i in range(limit)]
        sides[side] = [{"p": repr(p), "s": _contracts(1.0, p, asked.name)} for p in prices]
    return {"current": asked.feed.now_ms / 1000, "update": asked.feed.now_ms / 1000, **sides}


def _candle_push(event: CandleTick, name: str) -> Row:
    candle = event.candle
    volume = _contracts(candle.volume, (candle.high + candle.low + candle.close) / 3, name)
    return _prices(candle) | {"n": f"1m_{name}", "v": str(_whole(volume)), "a": _text(candle.volume), "w": event.closed}


def _print_push(event: Print, name: str) -> Row:
    p = event.liquidation
    size = _contracts(p.quantity_base, p.price, name) * -p.side.sign
    return {"price": repr(p.price), "size": _whole(size), "time": p.time_ms, "contract": name}


WIRE = GateWire()
