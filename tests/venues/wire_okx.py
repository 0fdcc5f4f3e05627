"""OKX's v5 wire format: linear and inverse swaps over REST, the public and the business channels."""

from __future__ import annotations

from typing import Any

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Candle, Liquidation, Side
from tests.venues.feed import FUNDING_EVERY_MS, OI_EVERY_MS, CandleTick, Event, Feed, FeedMarket
from tests.venues.server import Call, Json, RefusedError, Session

CONTRACT_COINS = {"BTC": 0.01, "ETH": 0.1}
CONTRACT_USD = {"BTC": 100.0}
_PERIODS = {"5m": OI_EVERY_MS, "1H": HOUR_MS}
_KEPT_ROWS = 1440
PRINTS_KEPT_MS = DAY_MS


class OkxWire:
    """As www.okx.com and ws.okx.com answer."""

    venue = "okx"
    hosts = ("www.okx.com", "ws.okx.com")

    def __init__(self, largest_page: int = 300) -> None:
        self.largest_page = largest_page

    def answer(self, call: Call, feed: Feed) -> Json:
        answers = {
            "public/time": lambda _call, feed: [{"ts": str(feed.now_ms)}],
            "public/instruments": self._instruments,
            "market/tickers": self._tickers,
            "public/open-interest": self._open_interest_now,
            "market/candles": self._candles,
            "market/history-candles": self._candles,
            "market/mark-price-candles": self._mark_candles,
            "market/history-mark-price-candles": self._mark_candles,
            "rubik/stat/contracts/open-interest-history": self._open_interest,
            "rubik/stat/contracts/long-short-account-ratio-contract": self._account_ratio,
            "public/funding-rate": self._funding_now,
            "public/funding-rate-history": self._funding,
            "public/liquidation-orders": self._past_prints,
            "public/position-tiers": self._tiers,
            "public/mark-price": self._mark_price,
            "market/books": self._books,
        }
        return {"code": "0", "msg": "", "data": answers[call.path.removeprefix("/api/v5/")](call, feed)}

    def _market(self, call: Call, feed: Feed) -> FeedMarket:
        market = _listed(call.query.get("instId", ""), feed)
        if market is None:
            said = "Instrument ID, Instrument ID code, or Spread ID doesn't exist."
            raise RefusedError(200, {"code": "51001", "msg": said, "data": []})
        return market

    def _instruments(self, _call: Call, feed: Feed) -> Json:
        return [_instrument(coin, quote) for coin in feed.coins for quote in ("USDT", "USD")]

    def _tickers(self, _call: Call, feed: Feed) -> Json:
        return [
            {
                "instType": "SWAP",
                "instId": f"{coin}-{quote}-SWAP",
                "last": repr(feed.market("okx", coin).price(feed.now_ms - 1)),
                "vol24h": "1000000",
                "volCcy24h": "10000",
                "ts": str(feed.now_ms),
            }
            for coin in feed.coins
            for quote in ("USDT", "USD")
        ]

    def _open_interest_now(self, call: Call, feed: Feed) -> Json:
        names = _names(feed)
        if "instId" in call.query:
            self._market(call, feed)
            names = [call.query["instId"]]
        return [_held(name, feed) for name in names]

    def _candles(self, call: Call, feed: Feed) -> Json:
        market, inverse = self._market(call, feed), _is_inverse(call.query["instId"])
        starts = _page(call, feed, MINUTE_MS, self.largest_page)
        return [_row(market, _bar(market, t, feed.now_ms), t + MINUTE_MS <= feed.now_ms, inverse) for t in starts]

    def _mark_candles(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        bars = [market.mark_candle(t) for t in _page(call, feed, MINUTE_MS, 100)]
        return [
            [
                str(c.time_ms),
                *map(repr, (c.open, c.high, c.low, c.close)),
                str(int(c.time_ms + MINUTE_MS <= feed.now_ms)),
            ]
            for c in bars
        ]

    def _open_interest(self, call: Call, feed: Feed) -> Json:
        market, size = self._market(call, feed), _size(call.query["instId"])
        rows = []
        for stamp in _statistics(call, feed):
            coins, price = market.open_interest(stamp), market.candle(stamp).open
            contracts = coins * (price if _is_inverse(call.query["instId"]) else 1.0) / size
            rows.append([str(stamp), repr(contracts), repr(coins), repr(coins * price)])
        return rows

    def _account_ratio(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        return [[str(t), repr(market.long_short_ratio(t))] for t in _statistics(call, feed)]

    def _funding_now(self, call: Call, feed: Feed) -> Json:
        due = (feed.now_ms // FUNDING_EVERY_MS + 1) * FUNDING_EVERY_MS
        names = _names(feed)
        if call.query["instId"] != "ANY":
            self._market(call, feed)
            names = [call.query["instId"]]
        return [
            {
                "instId": name,
                "instType": "SWAP",
                "fundingRate": str(feed.market("okx", name.split("-", 1)[0]).funding_rate(feed.now_ms)),
                "fundingTime": str(due),
                "nextFundingRate": "",
                "nextFundingTime": str(due + FUNDING_EVERY_MS),
                "ts": str(feed.now_ms),
            }
            for name in names
        ]

    def _funding(self, call: Call, feed: Feed) -> Json:
        market = self._market(call, feed)
        return [
            {
                "instType": "SWAP",
                "instId": call.query["instId"],
                "fundingRate": "0.01",  # foreseen; what was paid is the next field
                "realizedRate": str(market.funding_rate(t)),
                "fundingTime": str(t),
            }
            for t in _page(call, feed, FUNDING_EVERY_MS, 100)
        ]

    def _past_prints(self, call: Call, feed: Feed) -> Json:
        """The latest come first; a page ends before `after`."""
        name = f"{call.query['instFamily']}-SWAP"
        market = _listed(name, feed)
        if market is None:
            raise RefusedError(200, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []})
        until = min(call.integer("after", feed.now_ms), feed.now_ms)
        prints = market.prints(max(feed.start_ms, feed.now_ms - PRINTS_KEPT_MS), until)[::-1]
        details = [_detail(one, name, one.side.value) for one in prints[: min(call.integer("limit", 100), 100)]]
        return [_orders(name, details)] if details else []

    def _tiers(self, call: Call, feed: Feed) -> Json:
        if _listed(f"{call.query['instFamily']}-SWAP", feed) is None:
            raise RefusedError(200, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []})
        keys = ("tier", "minSz", "maxSz", "imr", "mmr", "maxLever")
        tiers = [("1", "0", "1000", "0.01", "0.004", "100"), ("2", "1000.01", "5000", "0.02", "0.01", "50")]
        return [{**dict(zip(keys, tier, strict=True)), "instFamily": call.query["instFamily"]} for tier in tiers]

    def _mark_price(self, call: Call, feed: Feed) -> Json:
        price = self._market(call, feed).price(feed.now_ms - 1)
        return [{"instType": "SWAP", "instId": call.query["instId"], "markPx": repr(price), "ts": str(feed.now_ms)}]

    def _books(self, call: Call, feed: Feed) -> Json:
        market, name = self._market(call, feed), call.query["instId"]
        price, sides = market.price(feed.now_ms - 1), {"bids": [], "asks": []}  # type: ignore[var-annotated]
        for i in range(min(call.integer("sz", 1), 40)):
            for side, at in (("bids", price * (1 - 1e-4 * (i + 1))), ("asks", price * (1 + 1e-4 * (i + 1)))):
                coins = 1.0 + i
                contracts = coins * (at if _is_inverse(name) else 1.0) / _size(name)
                sides[side].append([repr(at), repr(contracts), "0", "1"])
        return [{**sides, "ts": str(feed.now_ms), "seqId": 1}]

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        if message == "ping":
            return ["pong"]
        replies = []
        for argument in message["args"]:
            name = argument.get("instId")
            if name is not None and _listed(name, feed) is None:
                said = f"Wrong URL or channel:{argument['channel']},instId:{name} doesn't exist."
                replies.append({"event": "error", "code": "60018", "msg": said, "connId": "a4d3ae55"})
                continue
            session.subscriptions.add(f"{argument['channel']}:{name or argument['instType']}")
            replies.append({"event": "subscribe", "arg": argument, "connId": "a4d3ae55"})
        for coin in feed.coins:
            feed.market("okx", coin)
        return replies

    def push(self, session: Session, event: Event) -> list[Json]:
        sent: list[Json] = []
        for quote in ("USDT", "USD"):
            name = f"{event.market.coin}-{quote}-SWAP"
            sent += (
                _candle_of(session, event, name) if isinstance(event, CandleTick) else _print_of(session, event, name)
            )
        return sent


def _candle_of(session: Session, event: CandleTick, name: str) -> list[Json]:
    sent: list[Json] = []
    if f"open-interest:{name}" in session.subscriptions:
        argument = {"channel": "open-interest", "instId": name}
        sent.append({"arg": argument, "data": [{"instId": name, "oi": "1", "oiCcy": "1", "ts": str(event.time_ms)}]})
    if f"candle1m:{name}" in session.subscriptions:
        row = _row(event.market, event.candle, event.closed, _is_inverse(name))
        sent.append({"arg": {"channel": "candle1m", "instId": name}, "data": [row]})
    return sent


def _print_of(session: Session, event: Any, name: str) -> list[Json]:
    if "liquidation-orders:SWAP" not in session.subscriptions:
        return []
    one = event.liquidation
    detail = _detail(one, name, "net" if event.ordinal % 2 else one.side.value)
    argument = {"channel": "liquidation-orders", "instType": "SWAP"}
    return [{"arg": argument, "data": [_orders(name, [detail])]}]


def _orders(name: str, details: list[dict[str, str]]) -> dict[str, Any]:
    return {"details": details, "instFamily": name.removesuffix("-SWAP"), "instId": name, "instType": "SWAP"}


def _detail(one: Liquidation, name: str, held: str) -> dict[str, str]:
    contracts = one.quantity_base * (one.price if _is_inverse(name) else 1.0) / _size(name)
    return {
        "bkLoss": "0",
        "bkPx": repr(one.price),
        "ccy": "",
        "posSide": held,
        "side": "sell" if one.side is Side.LONG else "buy",
        "sz": repr(contracts),
        "ts": str(one.time_ms),
    }


def _names(feed: Feed) -> list[str]:
    return [f"{coin}-{quote}-SWAP" for coin in feed.coins for quote in ("USDT", "USD")]


def _listed(name: str, feed: Feed) -> FeedMarket | None:
    coin, _, rest = name.partition("-")
    return feed.market("okx", coin) if coin in feed.coins and rest in {"USDT-SWAP", "USD-SWAP"} else None


def _is_inverse(name: str) -> bool:
    return name.endswith("-USD-SWAP")


def _size(name: str) -> float:
    coin = name.split("-", 1)[0]
    return CONTRACT_USD.get(coin, 10.0) if _is_inverse(name) else CONTRACT_COINS.get(coin, 1.0)


def _instrument(coin: str, quote: str) -> dict[str, str]:
    name, inverse = f"{coin}-{quote}-SWAP", quote == "USD"
    return {
        "instType": "SWAP",
        "instId": name,
        "instFamily": f"{coin}-{quote}",
        "uly": f"{coin}-{quote}",
        "settleCcy": coin if inverse else quote,
        "ctType": "inverse" if inverse else "linear",
        "ctVal": str(_size(name)),
        "ctMult": "1",
        "ctValCcy": "USD" if inverse else coin,
        "lever": "100",
        "state": "live",
        "ruleType": "normal",
    }


def _held(name: str, feed: Feed) -> dict[str, str]:
    market = _listed(name, feed)
    assert market is not None
    coins = market.open_interest(feed.now_ms)
    contracts = coins * (market.price(feed.now_ms - 1) if _is_inverse(name) else 1.0) / _size(name)
    return {"instType": "SWAP", "instId": name, "oi": repr(contracts), "oiCcy": repr(coins), "ts": str(feed.now_ms)}


def _page(call: Call, feed: Feed, step_ms: int, largest: int) -> list[int]:
    """Neither bound counts; the latest come first, and of too many the earliest are cut off."""
    starts = feed.candle_starts(call.integer("before", 0) + 1, call.integer("after", feed.now_ms + 1), step_ms=step_ms)
    return starts[::-1][: min(call.integer("limit", 100), largest)]


def _statistics(call: Call, feed: Feed) -> list[int]:
    step_ms = _PERIODS[call.query["period"]]
    first = max(call.integer("begin", 0) + 1, feed.now_ms - _KEPT_ROWS * step_ms)
    stamps = feed.candle_starts(first, call.integer("end", feed.now_ms + 1), step_ms=step_ms)
    return stamps[::-1][: min(call.integer("limit", 100), 100)]


def _bar(market: FeedMarket, start: int, now_ms: int) -> Candle:
    return market.candle(min(start + MINUTE_MS - 1, max(now_ms - 1, start)))


def _row(market: FeedMarket, bar: Candle, closed: bool, inverse: bool) -> list[str]:  # noqa: FBT001 - as on the wire
    quote = bar.volume * bar.close
    size = CONTRACT_USD.get(market.coin, 10.0) if inverse else CONTRACT_COINS.get(market.coin, 1.0)
    contracts = (quote if inverse else bar.volume) / size
    numbers = (bar.open, bar.high, bar.low, bar.close, contracts, bar.volume, quote)
    return [str(bar.time_ms), *map(repr, numbers), str(int(closed))]


WIRE = OkxWire()
