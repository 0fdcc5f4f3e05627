"""Bybit, linear (USDT, USDC) and inverse perpetual futures, through its public v5 interface and streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, Unpack

import polars as pl

from estimator.domain import (
    CANDLES,
    DAY_MS,
    FUNDING_RATE,
    HOUR_MS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    ContractType,
    Market,
    Observation,
)
from estimator.errors import SourceError, UnknownMarket
from estimator.exchanges.bybit_payloads import (
    MARK_CANDLES,
    native_id,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_long_short_ratio,
    parse_mark_candles,
    parse_markets,
    parse_open_interest,
    parse_open_interest_now,
    parse_opens,
    parse_order_book,
    parse_prints,
    parse_tickers,
)
from estimator.exchanges.connected import ConnectedVenue, Connection, each, listed_by_family
from estimator.exchanges.edge import (
    between,
    get,
    plausible_candles,
    plausible_observations,
)
from estimator.exchanges.live import subscribing
from estimator.exchanges.moving import MakeStream, Print, Stream, Tick
from estimator.exchanges.paging import all_pages, together, windows
from estimator.exchanges.venue import (
    BracketTable,
    Capabilities,
    Depth,
    FundingRate,
    MarketListing,
    OrderBook,
    RateLimit,
)
from estimator.exchanges.wire import Wire

_Item = TypeVar("_Item")

_FIVE_MINUTES: Final = 5 * MINUTE_MS
_LIMIT: Final = RateLimit(600, 5.0, concurrent=8)
_BOOK_DEPTH: Final = 500
_SILENCE_S: Final = 90.0  # the pulse is sent at least every minute
# A candle that never rests: where it does not come either, the socket is dead and not the market quiet.
_PULSE: Final[dict[ContractType, str]] = {"linear": "kline.1.BTCUSDT", "inverse": "kline.1.BTCUSD"}

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, None, 1000),
    taker_buy_volume=False,
    mark_candles=Depth(MINUTE_MS, None, 1000),
    open_interest_history=Depth(_FIVE_MINUTES, None, 200),
    ratio_history=Depth(_FIVE_MINUTES, None, 500),
    funding_history=Depth(HOUR_MS, None, 200),
    open_interest_unit="base",
    liquidations="full",
    liquidation_price_kind="bankruptcy",
    brackets="public",
    order_book=True,
    bulk_open_interest=True,
    bulk_funding=True,
    limits={"publicGetV5Market": _LIMIT},
    notes=(
        "Open interest on the wire counts both sides; singleOpenInterest is used, else the half.",
        "Inverse quantities are USD and become base coin at the price of their own time.",
        "An open-interest row is the value of its stamp; an account-ratio row counts as known five minutes after it.",
        "Every liquidation since 2025-02-20, in batches of 500 ms; before that at most one per second and market.",
        "Listings carry tiers by rule; fetch_brackets gives the venue's own.",
    ),
)


class Bybit(ConnectedVenue):
    """Bybit's linear and inverse perpetual futures; parameters as in `ConnectedVenue`."""

    name = "bybit"
    capabilities = CAPABILITIES

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__(**connection)
        self._wire = self._connect("bybit", CAPABILITIES.limits, concurrent=_LIMIT.concurrent)
        # A client of its own, so that prints and candles do not share a socket: one hung up leaves the other alone.
        self._prints_wire = self._connect("bybit")

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures that trade now, largest first."""
        found = await listed_by_family([self._markets_of("linear"), self._markets_of("inverse")])
        return sorted(found, key=lambda one: -(one.open_interest_usd or 0.0))

    async def _markets_of(self, category: ContractType) -> list[MarketListing]:
        tickers = await self._wire.call("publicGetV5MarketTickers", {"category": category})
        listings: list[MarketListing] = []
        cursor: str | None = ""
        while cursor is not None:
            asked = {"category": category, "limit": 1000, **({"cursor": cursor} if cursor else {})}
            page = await self._wire.call("publicGetV5MarketInstrumentsInfo", asked)
            listings += parse_markets(page, tickers, category, self.health)
            cursor = get(page, ["result"], "instruments-info").get("nextPageCursor") or None
        return listings

    async def _call(self, endpoint: str, market: Market, **params: Any) -> Any:
        asked = {"category": market.contract, "symbol": native_id(market), **params}
        try:
            return await self._wire.call(endpoint, asked)
        except SourceError as error:
            # ccxt knows the code of bad parameters only; that it is the name is in the text.
            if type(error) is SourceError and "symbol" in str(error).lower():
                raise UnknownMarket(f"{market.id}: {error}") from error
            raise

    async def _pages(
        self,
        read: Callable[[int, int], Awaitable[pl.DataFrame]],
        since_ms: int,
        until_ms: int,
        page_ms: int,
        schema: dict[str, pl.DataType],
    ) -> pl.DataFrame:
        """Fetch pages of a series; `read` gets the first and the last time of a page, both included."""
        until_ms = min(until_ms, self._wire.now_ms() + MINUTE_MS)
        parts = await all_pages(lambda start, end: read(start, end - 1), windows(since_ms, until_ms, page_ms))
        return pl.concat([pl.DataFrame(schema=schema), *parts], how="vertical")

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles; Bybit tells no taker side."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"interval": "1", "start": start, "end": end, "limit": 1000}
            return parse_candles(await self._call("publicGetV5MarketKline", market, **asked), market.contract)

        found = await self._pages(read, since_ms, until_ms, 1000 * MINUTE_MS, CANDLES)
        return between(plausible_candles(found, self._wire.now_ms(), self.health), since_ms, until_ms)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame | None:
        """Return 1m extremes of the mark price."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"interval": "1", "start": start, "end": end, "limit": 1000}
            return parse_mark_candles(await self._call("publicGetV5MarketMarkPriceKline", market, **asked))

        found = await self._pages(read, since_ms, until_ms, 1000 * MINUTE_MS, MARK_CANDLES)
        kept = plausible_observations(found, "mark_low", self._wire.now_ms(), self.health)
        crossed = kept["mark_high"] < kept["mark_low"]
        self.health.reject("mark candles", "high below low", int(crossed.sum()))
        return between(kept.filter(~crossed), since_ms, until_ms)

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return open interest every five minutes, each row the value at its own time."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"intervalTime": "5min", "startTime": start, "endTime": end, "limit": 200}
            payload = await self._call("publicGetV5MarketOpenInterest", market, **asked)
            prices = await self._prices(market, start, end)
            table = parse_open_interest(payload, prices)
            unpriced = len(payload["result"]["list"]) - table.height
            self.health.reject("open_interest", "no price to turn USD into coins at", unpriced, market.id)
            return table

        found = await self._pages(read, since_ms, until_ms, 200 * _FIVE_MINUTES, OPEN_INTEREST)
        kept = plausible_observations(found, "open_interest", self._wire.now_ms(), self.health, jumps=True)
        return between(kept, since_ms, until_ms)

    async def _prices(self, market: Market, start: int, end: int) -> dict[int, float] | None:
        """Prices every five minutes for an inverse market."""
        if market.contract == "linear":
            return None
        asked = {"interval": "5", "start": start, "end": end, "limit": 1000}
        return parse_opens(await self._call("publicGetV5MarketKline", market, **asked))

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now, of one side. [base coin]"""
        return self._held(market, parse_tickers(await self._call("publicGetV5MarketTickers", market)))

    def _held(self, market: Market, tickers: tuple[int, dict[str, Any]]) -> Observation:
        seen = parse_open_interest_now(tickers, market)
        return self._levels.accept(market.id, seen, self._wire.now_ms(), "publicGetV5MarketTickers")

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id. [base coin]"""
        tickers = await self._tickers(markets)
        return each(markets, lambda market: self._held(market, tickers[market.contract]))

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force of many markets, by market id."""
        tickers = await self._tickers(markets)
        return each(markets, lambda market: parse_funding_rate_now(tickers[market.contract], market))

    async def _tickers(self, markets: Sequence[Market]) -> dict[str, tuple[int, dict[str, Any]]]:
        """Tickers of whole contract types."""
        kinds = sorted({market.contract for market in markets})
        asked = [self._wire.call("publicGetV5MarketTickers", {"category": kind}) for kind in kinds]
        return dict(zip(kinds, map(parse_tickers, await together(asked)), strict=True))

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return accounts long per account short, every five minutes."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"period": "5min", "startTime": start, "endTime": end, "limit": 500}
            payload = await self._call("publicGetV5MarketAccountRatio", market, **asked)
            return parse_long_short_ratio(payload, _FIVE_MINUTES)

        stamps = since_ms - _FIVE_MINUTES, until_ms - _FIVE_MINUTES
        found = await self._pages(read, *stamps, 500 * _FIVE_MINUTES, LONG_SHORT_RATIO)
        # The row of the five minutes that still run is not known yet.
        known = found.filter(pl.col("time").dt.epoch("ms") <= self._wire.now_ms())
        kept = plausible_observations(known, "long_short_ratio", self._wire.now_ms(), self.health)
        return between(kept, since_ms, until_ms)

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding; intervals are between one and eight hours."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"startTime": start, "endTime": end, "limit": 200}
            return parse_funding_rate(await self._call("publicGetV5MarketFundingHistory", market, **asked))

        found = await self._pages(read, since_ms, until_ms, 8 * DAY_MS, FUNDING_RATE)
        now_ms = self._wire.now_ms()
        kept = plausible_observations(found, "funding_rate", now_ms, self.health, positive=False)
        return between(kept, since_ms, until_ms)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""
        return parse_funding_rate_now(parse_tickers(await self._call("publicGetV5MarketTickers", market)), market)

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return the risk limits of a market."""
        payload = await self._call("publicGetV5MarketRiskLimit", market)
        return BracketTable(parse_brackets(payload, native_id(market)), "public")

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return the book, up to 500 levels a side."""
        limit = min(max(depth, 1), _BOOK_DEPTH)
        return parse_order_book(await self._call("publicGetV5MarketOrderbook", market, limit=limit), market.contract)

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        return [
            partial(self._stream, self._wire, "candles", "kline.1", contract, group, parse_candle_message)
            for contract, group in _by_contract(markets)
        ]

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        return [
            partial(self._stream, self._prints_wire, "liquidations", "allLiquidation", contract, group, parse_prints)
            for contract, group in _by_contract(markets)
        ]

    async def _stream(
        self,
        wire: Wire,
        name: str,
        kind: str,
        contract: ContractType,
        markets: Sequence[Market],
        parse: Callable[[Any, Market], Sequence[_Item]],
    ) -> Stream[_Item]:
        """Make one kind of topic on the socket of one contract type."""
        topics = {f"{kind}.{native_id(market)}": market for market in markets}
        wanted = list(dict.fromkeys([*topics, _PULSE[contract]]))
        url = wire.client.implode_hostname(wire.client.urls["api"]["ws"]["public"][contract])
        subscribe = subscribing(wanted, lambda left: wire.client.watch_topics(url, left, left), self.health)

        def read(message: Any) -> Sequence[_Item]:
            market = topics.get(message["topic"])
            return () if market is None else parse(message, market)

        accepts = partial(_is_of, frozenset(wanted))
        return Stream(wire, name, subscribe, accepts, read, silence_s=_SILENCE_S, says_closed=True, dated=("ts",))


def _is_of(topics: frozenset[str], message: Any) -> bool:
    return isinstance(message, dict) and message.get("topic") in topics


def _by_contract(markets: Sequence[Market]) -> list[tuple[ContractType, list[Market]]]:
    contracts: tuple[ContractType, ...] = ("linear", "inverse")
    groups = [(contract, [m for m in markets if m.contract == contract]) for contract in contracts]
    return [(contract, group) for contract, group in groups if group]
