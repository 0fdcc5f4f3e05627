"""The wire format of Bitget futures (v2, and v3 for prints), after its documentation and ccxt's parsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Candle, Side
from tests.venues.feed import FUNDING_EVERY_MS, CandleTick, Event, Feed, FeedMarket, Print
from tests.venues.server import Call, Json, RefusedError, Session

RATIO_ROWS = 30
RATIO_MS = 5 * MINUTE_MS
RECENT_MS = 30 * DAY_MS
Row = dict[str, Any]


class BitgetWire:
    """api.bitget.com and its public sockets: USDT-settled coins, and BTC settled in USDC."""

    venue: str = "bitget"
    hosts: tuple[str, ...] = ("api.bitget.com", "ws.bitget.com")

    def __init__(self) -> None:
        mix = "/api/v2/mix/market/"
        self._routes: dict[str, Callable[[_Asked], Json]] = {
            f"{mix}contracts": lambda asked: [_contract(name) for name in asked.names],
            f"{mix}tickers": lambda asked: [_ticker(asked, name) for name in asked.names],
            f"{mix}candles": lambda asked: _candles(asked, 1000, RECENT_MS),
            f"{mix}history-candles": lambda asked: _candles(asked, 200, None),
            f"{mix}history-mark-candles": lambda asked: _candles(asked, 200, None, mark=True),
            f"{mix}open-interest": _open_interest,
            f"{mix}account-long-short": _ratio,
            f"{mix}history-fund-rate": _funding_history,
            f"{mix}current-fund-rate": _funding_now,
            f"{mix}query-position-lever": _tiers,
            f"{mix}merge-depth": _depth,
        }

    def answer(self, call: Call, feed: Feed) -> Json:
        """Answer as Bitget does; KeyError for an unknown path."""
        if call.path == "/api/v2/public/time":
            data: Json = {"serverTime": str(feed.now_ms)}
        else:
            data = self._routes[call.path](_Asked(call, feed))
        return {"code": "00000", "msg": "success", "requestTime": feed.now_ms, "data": data}

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        """Take subscriptions; the candle channel starts with a snapshot of the past."""
        if message == "ping":
            return ["pong"]
        replies: list[Json] = []
        for arg in message["args"] if message.get("op") == "subscribe" else []:
            replies += self._subscribe(session, arg, feed)
        return replies

    def _subscribe(self, session: Session, arg: Row, feed: Feed) -> list[Json]:
        name, product = arg.get("instId") or arg.get("symbol"), arg["instType"].upper()
        if name is not None and name not in _names(feed, product):
            said = (
                f"instType:{arg['instType']},channel:{arg.get('channel') or arg['topic']},instId:{name} doesn't exist"
            )
            return [{"event": "error", "arg": arg, "code": 30001, "msg": said}]
        markets = {n: feed.market(self.venue, _coin(n)) for n in _names(feed, product)}
        session.subscriptions.add(":".join(arg.values()))
        acknowledged: Row = {"event": "subscribe", "arg": arg}
        if name is None or "topic" in arg:  # of the unified account: no snapshot
            return [acknowledged]
        starts = feed.candle_starts(feed.now_ms - 20 * MINUTE_MS, feed.now_ms)
        data = [_values(_seen(markets[name], start, feed.now_ms)) for start in starts]
        return [acknowledged, {"action": "snapshot", "arg": arg, "data": data, "ts": feed.now_ms}]

    def push(self, session: Session, event: Event) -> list[Json]:
        """Return a candle, of either interface, or a print where the session subscribed to it."""
        name = f"{event.market.coin}USDT"
        if isinstance(event, CandleTick):
            old = {"instType": "USDT-FUTURES", "channel": "candle1m", "instId": name}
            new = {"instType": "usdt-futures", "topic": "kline", "symbol": name, "interval": "1m"}
            said = [(old, [_values(event.candle)]), (new, [_kline(event.candle)])]
            time_ms = event.time_ms
        else:
            said = [({"instType": "usdt-futures", "topic": "liquidation"}, [_print(event, name)])]
            time_ms = event.liquidation.time_ms
        heard = [(arg, data) for arg, data in said if ":".join(arg.values()) in session.subscriptions]
        return [{"action": "update", "arg": arg, "data": data, "ts": time_ms} for arg, data in heard]


class _Asked:
    """A call with its market looked up, as Bitget names it."""

    def __init__(self, call: Call, feed: Feed) -> None:
        self.call, self.feed = call, feed
        self.names = _names(feed, call.query["productType"])
        self.name = call.query.get("symbol", "")

    @property
    def market(self) -> FeedMarket:
        """The market asked for."""
        if self.name not in self.names:
            raise RefusedError(400, {"code": "40034", "msg": "Parameter does not exist", "data": None})
        return self.feed.market(BitgetWire.venue, _coin(self.name))


def _names(feed: Feed, product: str) -> list[str]:
    return [f"{coin}USDT" for coin in feed.coins] if product == "USDT-FUTURES" else ["BTCPERP"]


def _coin(name: str) -> str:
    return name.removesuffix("USDT").removesuffix("PERP")


def _seen(market: FeedMarket, start: int, now: int) -> Candle:
    return market.closed(start) if start + MINUTE_MS <= now else market.candle(now)


def _contract(name: str) -> Row:
    settle = "USDT" if name.endswith("USDT") else "USDC"
    return {
        "symbol": name,
        "baseCoin": _coin(name),
        "quoteCoin": settle,
        "supportMarginCoins": [settle],
        "takerFeeRate": "0.0006",
        "symbolType": "perpetual",
        "symbolStatus": "normal",
        "fundInterval": str(FUNDING_EVERY_MS // HOUR_MS),
        "minLever": "1",
        "maxLever": "125",
    }


def _ticker(asked: _Asked, name: str) -> Row:
    market, now = asked.feed.market(BitgetWire.venue, _coin(name)), asked.feed.now_ms
    held, price = market.open_interest(now), market.price(now)
    said = {"symbol": name, "lastPr": repr(price), "holdingAmount": repr(held), "usdtVolume": "1000000"}
    return said | {"fundingRate": f"{market.funding_rate(now):.8f}", "ts": str(now)}


def _values(candle: Candle) -> list[str]:
    numbers = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    return [str(candle.time_ms), *map(repr, numbers), repr(candle.volume * candle.close)]


def _kline(candle: Candle) -> Row:
    keys = ("open", "high", "low", "close", "volume")
    return {"start": str(candle.time_ms), **{key: repr(getattr(candle, key)) for key in keys}, "turnover": "0"}


def _candles(asked: _Asked, rows: int, kept_ms: int | None, *, mark: bool = False) -> Json:
    """Rows end at `endTime`, as many as the limit lets; a start counts for recent candles only."""
    until = asked.call.integer("endTime", asked.feed.now_ms)
    since = asked.call.integer("startTime", 0) if kept_ms is not None else 0
    if kept_ms is not None:
        since = max(since, asked.feed.now_ms - kept_ms)
    mark = mark or asked.call.query.get("kLineType") == "MARK"
    market = asked.market
    starts = asked.feed.candle_starts(since, until)[-min(asked.call.integer("limit", 100), rows) :]
    return [_values(market.mark_candle(t) if mark else _seen(market, t, asked.feed.now_ms)) for t in starts]


def _open_interest(asked: _Asked) -> Json:
    now = asked.feed.now_ms
    return {"openInterestList": [{"symbol": asked.name, "size": repr(asked.market.open_interest(now))}], "ts": str(now)}


def _ratio(asked: _Asked) -> Json:
    rows = []
    for start in asked.feed.candle_starts(0, asked.feed.now_ms, step_ms=RATIO_MS)[-RATIO_ROWS:]:
        ratio = asked.market.long_short_ratio(min(start + RATIO_MS, asked.feed.now_ms))
        share = ratio / (1 + ratio)
        shares = {"longAccountRatio": repr(share), "shortAccountRatio": repr(1 - share)}
        rows.append(shares | {"longShortAccountRatio": f"{ratio / 100:.4f}", "ts": str(start)})
    return rows


def _funding_history(asked: _Asked) -> Json:
    stamps = asked.feed.candle_starts(0, asked.feed.now_ms + 1, step_ms=FUNDING_EVERY_MS)[::-1]
    size, page = asked.call.integer("pageSize", 20), asked.call.integer("pageNo", 1)
    part = stamps[(page - 1) * size : page * size]
    rates = [(t, asked.market.funding_rate(t)) for t in part]
    return [{"symbol": asked.name, "fundingRate": f"{rate:.8f}", "fundingTime": str(t)} for t, rate in rates]


def _funding_now(asked: _Asked) -> Json:
    rate = asked.market.funding_rate(asked.feed.now_ms)
    hours = str(FUNDING_EVERY_MS // HOUR_MS)
    return [{"symbol": asked.name, "fundingRate": f"{rate:.8f}", "fundingRateInterval": hours}]


def _tiers(asked: _Asked) -> Json:
    steps = [("0", "150000", "125", "0.004"), ("150000", "300000", "100", "0.005"), ("300000", "1000000", "50", "0.01")]
    assert asked.market  # refuses what is not listed
    keys = ("startUnit", "endUnit", "leverage", "keepMarginRate")
    rows = [dict(zip(keys, step, strict=True)) | {"level": str(level)} for level, step in enumerate(steps, 1)]
    return [row | {"symbol": asked.name} for row in rows]


def _depth(asked: _Asked) -> Json:
    price = asked.market.price(asked.feed.now_ms)
    levels = {"50": 50, "max": 200}[asked.call.query["limit"]]
    sides = {
        side: [[price * (1 + sign * 1e-4 * (i + 1)), 0.5 * (i + 1)] for i in range(levels)]
        for side, sign in (("bids", -1), ("asks", 1))
    }
    return {**sides, "ts": str(asked.feed.now_ms), "scale": "0.1", "precision": "scale0"}


def _print(event: Print, name: str) -> Row:
    p = event.liquidation
    side = "buy" if p.side is Side.LONG else "sell"
    row = {"symbol": name, "side": side, "price": repr(p.price), "amount": repr(p.notional_usd)}
    return row | {"ts": str(p.time_ms)}


WIRE = BitgetWire()
