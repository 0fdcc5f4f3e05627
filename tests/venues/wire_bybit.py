"""Bybit's v5 wire format: linear and inverse perpetual futures over REST and public sockets."""

from __future__ import annotations

from typing import Any

from estimator.domain import HOUR_MS, MINUTE_MS, Candle, Side
from tests.venues.feed import FUNDING_EVERY_MS, OI_EVERY_MS, CandleTick, Event, Feed, FeedMarket
from tests.venues.server import Call, Json, RefusedError, Session

_MINUTES = {"1": 1, "5": 5}


class BybitWire:
    """As api.bybit.com and stream.bybit.com answer."""

    venue = "bybit"
    hosts = ("api.bybit.com", "stream.bybit.com")

    def answer(self, call: Call, feed: Feed) -> Json:
        answers = {
            "/v5/market/time": lambda _call, feed: {"timeSecond": str(feed.now_ms // 1000)},
            "/v5/market/instruments-info": self._instruments,
            "/v5/market/tickers": self._tickers,
            "/v5/market/kline": self._kline,
            "/v5/market/mark-price-kline": self._mark_kline,
            "/v5/market/open-interest": self._open_interest,
            "/v5/market/account-ratio": self._account_ratio,
            "/v5/market/funding/history": self._funding,
            "/v5/market/risk-limit": self._risk_limit,
            "/v5/market/orderbook": self._order_book,
        }
        result = answers[call.path](call, feed)
        return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": feed.now_ms}

    def _market(self, call: Call, feed: Feed) -> FeedMarket:
        market = _listed(call.query.get("symbol", ""), call.query["category"], feed)
        if market is None:
            raise RefusedError(200, {"retCode": 10001, "retMsg": "params error: Symbol Is Invalid", "result": {}})
        return market

    def _instruments(self, call: Call, feed: Feed) -> Json:
        rows = [_instrument(symbol, call.query["category"]) for symbol in _symbols(call, feed)]
        # Pages of one, to see that the cursor is followed.
        at = call.integer("cursor", 0)
        return {
            "category": call.query["category"],
            "list": rows[at : at + 2],
            "nextPageCursor": str(at + 2) if at + 2 < len(rows) else "",
        }

    def _tickers(self, call: Call, feed: Feed) -> Json:
        if "symbol" in call.query:
            self._market(call, feed)
        symbols = [s for s in _symbols(call, feed) if call.query.get("symbol", s) == s]
        return {"category": call.query["category"], "list": [_ticker(s, call, feed) for s in symbols]}

    def _kline(self, call: Call, feed: Feed) -> Json:
        market, step = self._market(call, feed), _MINUTES[call.query["interval"]] * MINUTE_MS
        rows = [
            _row(_bar(market, start, step, feed.now_ms), call.query["category"]) for start in _page(call, feed, step)
        ]
        return {"category": call.query["category"], "symbol": call.query["symbol"], "list": rows}

    def _mark_kline(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        candles = [market.mark_candle(start) for start in _page(call, feed, MINUTE_MS)]
        rows = [[str(c.time_ms), *map(str, (c.open, c.high, c.low, c.close))] for c in candles]
        return {"category": call.query["category"], "symbol": call.query["symbol"], "list": rows}

    def _open_interest(self, call: Call, feed: Feed) -> Json:
        market, inverse = self._market(call, feed), call.query["category"] == "inverse"
        rows = []
        for stamp in _page(call, feed, OI_EVERY_MS, since="startTime", until="endTime"):
            one = market.open_interest(stamp) * (market.candle(stamp).open if inverse else 1.0)
            rows.append({"openInterest": repr(2 * one), "singleOpenInterest": repr(one), "timestamp": str(stamp)})
        return {"symbol": call.query["symbol"], "category": call.query["category"], "list": rows, "nextPageCursor": ""}

    def _account_ratio(self, call: Call, feed: Feed) -> Json:
        market, rows = self._market(call, feed), []
        for stamp in _page(call, feed, OI_EVERY_MS, since="startTime", until="endTime"):
            long = market.long_short_ratio(stamp) / (1 + market.long_short_ratio(stamp))
            both = {"buyRatio": f"{long:.4f}", "sellRatio": f"{1 - long:.4f}"}
            rows.append({"symbol": call.query["symbol"], **both, "timestamp": str(stamp)})
        return {"list": rows, "nextPageCursor": ""}

    def _funding(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        stamps = _page(call, feed, FUNDING_EVERY_MS, since="startTime", until="endTime")
        rows = [
            {"symbol": call.query["symbol"], "fundingRate": str(market.funding_rate(t)), "fundingRateTimestamp": str(t)}
            for t in stamps
        ]
        return {"category": call.query["category"], "list": rows}

    def _risk_limit(self, call: Call, feed: Feed) -> Json:
        self._market(call, feed)
        tiers = [("2000000", "0.005", "0.01", "100.00", ""), ("10000000", "0.01", "0.02", "50.00", "10000")]
        keys = ("riskLimitValue", "maintenanceMargin", "initialMargin", "maxLeverage", "mmDeduction")
        rows = [
            {"id": i, "symbol": call.query["symbol"], "isLowestRisk": int(i == 1), **dict(zip(keys, tier, strict=True))}
            for i, tier in enumerate(tiers, 1)
        ]
        return {"category": call.query["category"], "list": rows, "nextPageCursor": ""}

    def _order_book(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        price, inverse = market.price(feed.now_ms - 1), call.query["category"] == "inverse"
        sides: dict[str, list[list[str]]] = {"b": [], "a": []}
        for i in range(min(call.integer("limit", 25), 40)):
            for side, at in (("b", price * (1 - 1e-4 * (i + 1))), ("a", price * (1 + 1e-4 * (i + 1)))):
                sides[side].append([repr(at), repr(at if inverse else 1.0 + i)])
        return {"s": call.query["symbol"], **sides, "ts": feed.now_ms, "u": 1, "seq": 1}

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        answer = {"success": True, "ret_msg": "", "conn_id": "1", "req_id": message.get("req_id"), "op": message["op"]}
        if message["op"] == "ping":
            return [{**answer, "ret_msg": "pong"}]
        category = session.path.rsplit("/", 1)[-1]
        unknown = [t for t in message["args"] if _listed(t.rsplit(".", 1)[-1], category, feed) is None]
        if unknown:
            return [{**answer, "success": False, "ret_msg": f"error:handler not found,topic:{unknown[0]}"}]
        session.subscriptions.update(message["args"])
        return [answer]

    def push(self, session: Session, event: Event) -> list[Json]:
        category = session.path.rsplit("/", 1)[-1]
        symbol = event.market.coin + ("USD" if category == "inverse" else "USDT")
        topic = f"kline.1.{symbol}" if isinstance(event, CandleTick) else f"allLiquidation.{symbol}"
        if topic not in session.subscriptions:
            return []
        if isinstance(event, CandleTick):
            message = {"topic": topic, "data": [_moving(event, category)], "ts": event.time_ms, "type": "snapshot"}
        else:
            one = event.liquidation
            size = one.quantity_base * (one.price if category == "inverse" else 1.0)
            side = "Buy" if one.side is Side.LONG else "Sell"
            row = {"T": one.time_ms, "s": symbol, "S": side, "v": repr(size), "p": repr(one.price)}
            message = {"topic": topic, "type": "snapshot", "ts": one.time_ms + event.ordinal % 500, "data": [row]}
        return [message]


def _listed(symbol: str, category: str, feed: Feed) -> FeedMarket | None:
    quote = "USD" if category == "inverse" else "USDT"
    coin = symbol.removesuffix(quote)
    return feed.market("bybit", coin) if symbol.endswith(quote) and coin in feed.coins else None


def _symbols(call: Call, feed: Feed) -> list[str]:
    return [coin + ("USD" if call.query["category"] == "inverse" else "USDT") for coin in feed.coins]


def _instrument(symbol: str, category: str) -> dict[str, Any]:
    inverse = category == "inverse"
    coin, quote = (symbol[:-3], "USD") if inverse else (symbol[:-4], "USDT")
    return {
        "symbol": symbol,
        "contractType": "InversePerpetual" if inverse else "LinearPerpetual",
        "status": "Trading",
        "baseCoin": coin,
        "quoteCoin": quote,
        "settleCoin": coin if inverse else quote,
        "launchTime": "1585526400000",
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": "2",
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "fundingInterval": FUNDING_EVERY_MS // MINUTE_MS,
    }


def _ticker(symbol: str, call: Call, feed: Feed) -> dict[str, Any]:
    market = _listed(symbol, call.query["category"], feed)
    assert market is not None
    price, inverse = market.price(feed.now_ms - 1), call.query["category"] == "inverse"
    one = market.open_interest(feed.now_ms) * (price if inverse else 1.0)
    return {
        "symbol": symbol,
        "lastPrice": repr(price),
        "markPrice": repr(price),
        "openInterest": repr(2 * one),
        "singleOpenInterest": repr(one),
        "turnover24h": "1000000.5",
        "volume24h": "2000000.5",
        "fundingRate": str(market.funding_rate(feed.now_ms)),
        "fundingIntervalHour": str(FUNDING_EVERY_MS // HOUR_MS),
        "nextFundingTime": str((feed.now_ms // FUNDING_EVERY_MS + 1) * FUNDING_EVERY_MS),
    }


def _page(call: Call, feed: Feed, step_ms: int, *, since: str = "start", until: str = "end") -> list[int]:
    """Both ends count; the latest come first, and of too many the earliest are cut off."""
    starts = feed.candle_starts(call.integer(since, 0), call.integer(until, feed.now_ms) + 1, step_ms=step_ms)
    return starts[::-1][: call.integer("limit", 50)]


def _bar(market: FeedMarket, start: int, step_ms: int, now_ms: int) -> Candle:
    """A candle of one or more minutes, as far as it has come."""
    minutes = [t for t in range(start, start + step_ms, MINUTE_MS) if t <= now_ms]
    bars = [market.candle(min(t + MINUTE_MS - 1, max(now_ms - 1, t))) for t in minutes]
    high, low, volume = max(b.high for b in bars), min(b.low for b in bars), sum(b.volume for b in bars)
    return Candle(start, bars[0].open, high, low, bars[-1].close, volume)


def _row(bar: Candle, category: str) -> list[str]:
    base, quote = bar.volume, bar.volume * bar.close
    pair = (quote, base) if category == "inverse" else (base, quote)
    return [str(bar.time_ms), *map(repr, (bar.open, bar.high, bar.low, bar.close, *pair))]


def _moving(event: CandleTick, category: str) -> dict[str, Any]:
    start, opened, high, low, close, volume, turnover = _row(event.candle, category)
    return {
        "start": int(start),
        "end": int(start) + MINUTE_MS - 1,
        "interval": "1",
        "open": opened,
        "close": close,
        "high": high,
        "low": low,
        "volume": volume,
        "turnover": turnover,
        "confirm": event.closed,
        "timestamp": event.time_ms,
    }


WIRE = BybitWire()
