"""The wire format of Binance, USD-M and COIN-M, after its documentation and its clients' parsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Candle, Side
from tests.venues.feed import FUNDING_EVERY_MS, OI_EVERY_MS, CandleTick, Event, Feed, FeedMarket, Print
from tests.venues.server import Call, Json, RefusedError, Session

LINEAR_VENUE = "binance"
CONTRACT_USD = {"BTC": 100.0}
KEPT_MS = 30 * DAY_MS
Row = dict[str, Any]


class BinanceWire:
    """fapi, dapi and their sockets. Both families show the same feed."""

    venue = LINEAR_VENUE
    hosts: tuple[str, ...] = ("fapi.binance.com", "dapi.binance.com", "fstream.binance.com", "dstream.binance.com")

    def __init__(self) -> None:
        self._routes: dict[str, Callable[[_Asked], Json]] = {
            "/v1/time": lambda asked: {"serverTime": asked.feed.now_ms},
            "/v1/exchangeInfo": _exchange_info,
            "/v1/ticker/24hr": _tickers,
            "/v1/fundingInfo": lambda _asked: [],
            "/v1/klines": lambda asked: _klines(asked, FeedMarket.closed),
            "/v1/markPriceKlines": lambda asked: _klines(asked, FeedMarket.mark_candle),
            "/v1/openInterest": _open_interest,
            "/v1/premiumIndex": _premium_index,
            "/v1/fundingRate": _funding_rate,
            "/v1/depth": _depth,
            "/futures/data/openInterestHist": lambda asked: _statistics(asked, _open_interest_row),
            "/futures/data/globalLongShortAccountRatio": lambda asked: _statistics(asked, _ratio_row),
            "/futures/data/topLongShortAccountRatio": lambda asked: _statistics(asked, _ratio_row),
            "/futures/data/topLongShortPositionRatio": lambda asked: _statistics(asked, _ratio_row),
        }

    def answer(self, call: Call, feed: Feed) -> Json:
        """Answer as Binance does; KeyError for an unknown path."""
        route = self._routes[call.path.removeprefix("/fapi").removeprefix("/dapi")]
        return route(_Asked(call, feed))

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        """Take a subscription; coins that are subscribed to start to move."""
        if not isinstance(message, dict) or message.get("method") != "SUBSCRIBE":
            return []
        session.subscriptions.update(message["params"])
        for coin in feed.coins:
            feed.market(self.venue, coin)
        return [{"result": None, "id": message["id"]}]

    def push(self, session: Session, event: Event) -> list[Json]:
        """Return a kline or forceOrder message where the session subscribed to it."""
        inverse = session.host.startswith("dstream")
        name = _name(event.market.coin, inverse=inverse)
        if isinstance(event, CandleTick):
            wanted = f"{name.lower()}@kline_1m" in session.subscriptions
            return [_kline_message(event, name, inverse=inverse)] if wanted else []
        wanted = "!forceOrder@arr" in session.subscriptions
        return [_force_order(event, name, inverse=inverse)] if wanted else []


class _Asked:
    """A call with its market looked up, as Binance names it."""

    def __init__(self, call: Call, feed: Feed) -> None:
        self.call, self.feed = call, feed
        self.inverse = call.host.startswith("dapi")
        self.name = call.query.get("symbol") or call.query.get("pair", "")

    @property
    def market(self) -> FeedMarket:
        """The market asked for."""
        coin = self.name.removesuffix("_PERP").removesuffix("USDT").removesuffix("USD")
        if coin not in self.feed.coins:
            raise RefusedError(400, {"code": -1121, "msg": "Invalid symbol."})
        return self.feed.market(LINEAR_VENUE, coin)

    def range(self, step_ms: int, default_limit: int) -> list[int]:
        """Stamps asked for: the first `limit` of the range."""
        limit = self.call.integer("limit", default_limit)
        until = self.call.integer("endTime", self.feed.now_ms) + 1
        since = self.call.integer("startTime", until - limit * step_ms)
        return self.feed.candle_starts(since, until, step_ms=step_ms)[:limit]


def _name(coin: str, *, inverse: bool) -> str:
    return f"{coin}USD_PERP" if inverse else f"{coin}USDT"


def _exchange_info(asked: _Asked) -> Json:
    return {"timezone": "UTC", "symbols": [_symbol(coin, inverse=asked.inverse) for coin in asked.feed.coins]}


def _symbol(coin: str, *, inverse: bool) -> Row:
    row = {
        "symbol": _name(coin, inverse=inverse),
        "pair": f"{coin}USD" if inverse else f"{coin}USDT",
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": coin,
        "quoteAsset": "USD" if inverse else "USDT",
        "marginAsset": coin if inverse else "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.10", "maxPrice": "4529764", "tickSize": "0.10"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
        ],
    }
    if inverse:
        return row | {"contractStatus": "TRADING", "contractSize": int(CONTRACT_USD.get(coin, 10.0))}
    return row | {"status": "TRADING"}


def _tickers(asked: _Asked) -> Json:
    rows = []
    for rank, coin in enumerate(asked.feed.coins):
        volume = 1e6 / (rank + 1)
        row = {"symbol": _name(coin, inverse=asked.inverse), "volume": str(volume), "lastPrice": "1.0"}
        rows.append(row | ({"baseVolume": "1.0"} if asked.inverse else {"quoteVolume": str(volume * 50)}))
    return rows


def _klines(asked: _Asked, candle_at: Callable[[FeedMarket, int], Candle]) -> Json:
    market = asked.market
    step = {"1m": MINUTE_MS, "5m": 5 * MINUTE_MS, "1h": HOUR_MS}[asked.call.query["interval"]]
    return [_kline(asked, market, start, step, candle_at) for start in asked.range(step, 500)]


def _kline(
    asked: _Asked, market: FeedMarket, start: int, step: int, candle_at: Callable[[FeedMarket, int], Candle]
) -> list[Any]:
    """One row, as far as the clock has come where it is still open."""
    now = asked.feed.now_ms
    minutes = [t for t in range(start, start + step, MINUTE_MS) if t <= now]
    parts = [candle_at(market, t) if t + MINUTE_MS <= now else market.candle(now) for t in minutes]
    volume, taker = sum(c.volume for c in parts), sum(c.taker_buy_volume or 0.0 for c in parts)
    prices = (parts[0].open, max(c.high for c in parts), min(c.low for c in parts), parts[-1].close)
    base, quote = (_text(volume), _text(taker)), (_text(volume * prices[3]), _text(taker * prices[3]))
    contracts = [_text(v * prices[3] / CONTRACT_USD.get(market.coin, 10.0)) for v in (volume, taker)]
    first, second = (
        ((contracts[0], base[0]), (contracts[1], base[1])) if asked.inverse else zip(base, quote, strict=True)
    )
    return [start, *map(_text, prices), first[0], start + step - 1, first[1], 100, second[0], second[1], "0"]


def _text(value: float) -> str:
    return f"{value:.8f}"


def _contracts(base: float, market: FeedMarket, price: float) -> float:
    return base * price / CONTRACT_USD.get(market.coin, 10.0)


def _open_interest(asked: _Asked) -> Json:
    market, now = asked.market, asked.feed.now_ms
    value = market.open_interest(now)
    if asked.inverse:
        value = _contracts(value, market, market.price(now))
    return {"symbol": asked.name, "openInterest": _text(value), "time": now}


def _premium_index(asked: _Asked) -> Json:
    if not asked.name:
        return [_premium(asked.feed, coin, inverse=asked.inverse) for coin in asked.feed.coins]
    row = _premium(asked.feed, asked.market.coin, inverse=asked.inverse)
    return [row] if asked.inverse else row


def _premium(feed: Feed, coin: str, *, inverse: bool) -> Row:
    market, now = feed.market(LINEAR_VENUE, coin), feed.now_ms
    return {
        "symbol": _name(coin, inverse=inverse),
        "markPrice": _text(market.price(now)),
        "indexPrice": _text(market.price(now)),
        "lastFundingRate": _text(market.funding_rate(now)),
        "interestRate": "0.00010000",
        "nextFundingTime": (now // FUNDING_EVERY_MS + 1) * FUNDING_EVERY_MS,
        "time": now,
    }


def _funding_rate(asked: _Asked) -> Json:
    market = asked.market
    stamps = [t for t in asked.range(FUNDING_EVERY_MS, 100) if t <= asked.feed.now_ms]
    return [
        {"symbol": asked.name, "fundingTime": t + 3, "fundingRate": _text(market.funding_rate(t)), "markPrice": ""}
        for t in stamps
    ]


def _depth(asked: _Asked) -> Json:
    market, now = asked.market, asked.feed.now_ms
    price, limit = market.price(now - 1), asked.call.integer("limit", 500)
    sides = {}
    for side, sign in (("bids", -1), ("asks", 1)):
        prices = [price * (1 + sign * 1e-4 * (level + 1)) for level in range(limit)]
        sides[side] = [[_text(p), _text(_contracts(1.0, market, p) if asked.inverse else 1.0)] for p in prices]
    return {"lastUpdateId": 1, "E": now, "T": now, **sides}


def _statistics(asked: _Asked, row: Callable[[_Asked, FeedMarket, int], Row]) -> Json:
    market = asked.market
    if asked.call.integer("startTime", asked.feed.now_ms) < asked.feed.now_ms - KEPT_MS:
        raise RefusedError(400, {"code": -1130, "msg": "parameter 'startTime' is invalid."})
    key = "pair" if asked.inverse else "symbol"
    return [{key: asked.name, "timestamp": t} | row(asked, market, t) for t in asked.range(OI_EVERY_MS, 30)]


def _open_interest_row(asked: _Asked, market: FeedMarket, time_ms: int) -> Row:
    base = market.open_interest(time_ms)
    price = market.closed(time_ms - MINUTE_MS).close if time_ms > market.start_ms else market.price(time_ms)
    if asked.inverse:
        contracts = _contracts(base, market, price)
        return {"contractType": "PERPETUAL", "sumOpenInterest": _text(contracts), "sumOpenInterestValue": _text(base)}
    return {"sumOpenInterest": _text(base), "sumOpenInterestValue": _text(base * price)}


def _ratio_row(_asked: _Asked, market: FeedMarket, time_ms: int) -> Row:
    ratio = market.long_short_ratio(time_ms)
    share = ratio / (1 + ratio)
    return {"longShortRatio": f"{ratio:.4f}", "longAccount": f"{share:.4f}", "shortAccount": f"{1 - share:.4f}"}


def _kline_message(tick: CandleTick, name: str, *, inverse: bool) -> Row:
    c = tick.candle
    base, taker = c.volume, c.taker_buy_volume or 0.0
    plain = {"v": _text(base), "V": _text(taker), "q": _text(base * c.close), "Q": _text(taker * c.close)}
    contracts = {
        "v": _text(_contracts(base, tick.market, c.close)),
        "V": _text(_contracts(taker, tick.market, c.close)),
        "q": _text(base),
        "Q": _text(taker),
    }
    kline = {
        "t": c.time_ms, "T": c.time_ms + MINUTE_MS - 1, "s": name, "i": "1m", "f": 100, "L": 200,
        "o": _text(c.open), "c": _text(c.close), "h": _text(c.high), "l": _text(c.low),
        "n": 100, "x": tick.closed, "B": "0",
    } | (contracts if inverse else plain)  # fmt: skip
    return {"e": "kline", "E": tick.time_ms, "s": name, "k": kline}


def _force_order(event: Print, name: str, *, inverse: bool) -> Row:
    p = event.liquidation
    quantity = p.quantity_base
    if inverse:
        quantity = _contracts(p.quantity_base, event.market, p.price)
    sell = p.side is Side.LONG
    limit = p.price * (0.99 if sell else 1.01)
    order = {
        "s": name, "S": "SELL" if sell else "BUY", "o": "LIMIT", "f": "IOC", "q": _text(quantity),
        "p": _text(limit), "ap": _text(p.price), "X": "FILLED", "l": _text(quantity), "z": _text(quantity),
        "T": p.time_ms,
    }  # fmt: skip
    return {"e": "forceOrder", "E": p.time_ms + 5, "o": order | ({"ps": name.removesuffix("_PERP")} if inverse else {})}


WIRE = BinanceWire()
