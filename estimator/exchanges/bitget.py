"""Bitget perpetual futures, settled in USDT and USDC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, Unpack

import polars as pl

from estimator.domain import (
    CANDLES,
    FUNDING_RATE,
    MINUTE_MS,
    OPEN_INTEREST,
    Market,
    Observation,
)
from estimator.exchanges.bitget_payloads import (
    CAPABILITIES,
    MARK,
    NAME,
    PRODUCTS,
    RECENT_CANDLES_MS,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_liquidation_message,
    parse_long_short_ratio,
    parse_mark_candles,
    parse_markets,
    parse_open_interest_now,
    parse_order_book,
    parse_tickers,
    read_funding_rate,
    read_open_interest,
)
from estimator.exchanges.connected import ConnectedVenue, Connection, each
from estimator.exchanges.edge import between, frame, plausible_candles, plausible_observations
from estimator.exchanges.listings import Listings, largest_first
from estimator.exchanges.moving import MakeStream, Print, Stream, Tick
from estimator.exchanges.paging import Page, paged, together
from estimator.exchanges.venue import BracketTable, Capabilities, FundingRate, MarketListing, OrderBook

_Value = TypeVar("_Value")

_RECENT_PAGE: Final = 1000 * MINUTE_MS
_HISTORY_PAGE: Final = 200 * MINUTE_MS
_FUNDING_PAGE: Final = 100
_FUNDING_PAGES: Final = 200
_TOPICS: Final = 50  # of one subscription message; the venue closes on longer ones
_SHORT_BOOK: Final = 50
_SILENCE_S: Final = 60.0
# A candle that never rests: where it does not come either, the socket is dead and not the market quiet.
_PULSE: Final = {"instType": "usdt-futures", "topic": "kline", "symbol": "BTCUSDT", "interval": "1m"}


class Bitget(ConnectedVenue):
    """Bitget over REST and WebSocket; parameters as in `ConnectedVenue`."""

    name: str = NAME
    capabilities: Capabilities = CAPABILITIES

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__(**connection)
        self._wire = self._connect(NAME, CAPABILITIES.limits)
        self._listings = Listings(NAME, self._load)

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures that trade now, largest first."""
        return await self._listings.renew()

    async def _load(self) -> list[MarketListing]:
        async def of(settle: str) -> list[MarketListing]:
            asked = ("publicMixGetV2MixMarketContracts", "publicMixGetV2MixMarketTickers")
            product = {"productType": PRODUCTS[settle]}
            contracts, tickers = await asyncio.gather(*(self._wire.call(one, product) for one in asked))
            return parse_markets(contracts, tickers, settle, self.health)

        return largest_first([one for found in await asyncio.gather(*map(of, PRODUCTS)) for one in found])

    async def _ask(self, endpoint: str, market: Market, **asked: Any) -> Any:
        listing = await self._listings.of(market)
        product = _product(market)
        return await self._wire.call(endpoint, {"symbol": listing.native_id, "productType": product, **asked})

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles."""

        async def recent(start: int, end: int) -> pl.DataFrame:
            return parse_candles(await self._recent(market, start, end, "MARKET"))

        async def history(start: int, end: int) -> pl.DataFrame:
            return parse_candles(await self._history("publicMixGetV2MixMarketHistoryCandles", market, start, end))

        table = await self._minutes(market, CANDLES, (history, recent), since_ms, until_ms)
        return plausible_candles(table, self._wire.now_ms(), self.health)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return 1m extremes of the mark price."""

        async def recent(start: int, end: int) -> pl.DataFrame:
            return parse_mark_candles(await self._recent(market, start, end, "MARK"))

        async def history(start: int, end: int) -> pl.DataFrame:
            endpoint = "publicMixGetV2MixMarketHistoryMarkCandles"
            return parse_mark_candles(await self._history(endpoint, market, start, end))

        table = await self._minutes(market, MARK, (history, recent), since_ms, until_ms)
        return plausible_observations(table, "mark_low", self._wire.now_ms(), self.health)

    async def _minutes(
        self, market: Market, schema: dict[str, pl.DataType], pages: tuple[Page, Page], since_ms: int, until_ms: int
    ) -> pl.DataFrame:
        await self._listings.of(market)
        now_ms = self._wire.now_ms()
        cut, until = now_ms - RECENT_CANDLES_MS, min(until_ms, now_ms // MINUTE_MS * MINUTE_MS)
        old = await paged(schema, pages[0], since_ms, min(until, cut), _HISTORY_PAGE)
        new = await paged(schema, pages[1], max(since_ms, cut), until, _RECENT_PAGE)
        return between(pl.concat([old, new]), since_ms, until)

    async def _recent(self, market: Market, start_ms: int, end_ms: int, kind: str) -> Any:
        times = {"startTime": start_ms, "endTime": end_ms, "limit": 1000}
        return await self._ask("publicMixGetV2MixMarketCandles", market, granularity="1m", kLineType=kind, **times)

    async def _history(self, endpoint: str, market: Market, start_ms: int, end_ms: int) -> Any:
        times = {"startTime": start_ms, "endTime": end_ms, "limit": 200}
        return await self._ask(endpoint, market, granularity="1m", **times)

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:  # noqa: ARG002
        """Return an empty frame: there is no history to fetch."""
        await self._listings.of(market)
        return frame(OPEN_INTEREST, [])

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""
        listing = await self._listings.of(market)
        payload = await self._ask("publicMixGetV2MixMarketOpenInterest", market)
        seen = parse_open_interest_now(payload, listing.native_id)
        return self._levels.accept(market.id, seen, self._wire.now_ms(), "open-interest")

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id. [base coin]"""

        def read(listing: MarketListing, tickers: Mapping[str, Any]) -> Observation:
            seen = read_open_interest(tickers, listing)
            return self._levels.accept(listing.market.id, seen, self._wire.now_ms(), "tickers")

        return await self._of_tickers(markets, read)

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force of many markets, by market id."""
        return await self._of_tickers(markets, lambda listing, tickers: read_funding_rate(tickers, listing))

    async def _of_tickers(
        self, markets: Sequence[Market], read: Callable[[MarketListing, Mapping[str, Any]], _Value]
    ) -> dict[str, _Value]:
        """Read about many markets out of the tickers of whole product types."""
        await self._listings.load()
        products = sorted({_product(market) for market in markets})
        asked = [self._wire.call("publicMixGetV2MixMarketTickers", {"productType": one}) for one in products]
        tickers = dict(zip(products, map(parse_tickers, await together(asked)), strict=True))
        return each(markets, lambda market: read(self._listings.known(market), tickers[_product(market)]))

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return the latest rows of accounts long per account short, as far as they lie in the stretch asked for."""
        payload = await self._ask("publicMixGetV2MixMarketAccountLongShort", market, period="5m")
        now_ms = self._wire.now_ms()
        table = between(parse_long_short_ratio(payload), since_ms, min(until_ms, now_ms + 1))
        return plausible_observations(table, "long_short_ratio", now_ms, self.health)

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding rates; pages go back from the latest."""
        tables = [frame(FUNDING_RATE, [])]
        for page in range(1, _FUNDING_PAGES + 1):
            asked = {"pageSize": _FUNDING_PAGE, "pageNo": page}
            table = parse_funding_rate(await self._ask("publicMixGetV2MixMarketHistoryFundRate", market, **asked))
            tables.append(table)
            if table.height < _FUNDING_PAGE or table["time"].dt.epoch("ms").min() < since_ms:  # type: ignore[operator]
                break
        table = between(pl.concat(tables), since_ms, until_ms)
        return plausible_observations(table, "funding_rate", self._wire.now_ms(), self.health, positive=False)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""
        asked_ms = self._wire.now_ms()  # for the answer has no time, and may be long on its way
        return parse_funding_rate_now(await self._ask("publicMixGetV2MixMarketCurrentFundRate", market), asked_ms)

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return the public position tiers."""
        return parse_brackets(await self._ask("publicMixGetV2MixMarketQueryPositionLever", market))

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return at least `depth` levels a side where the venue has them."""
        limit = str(_SHORT_BOOK) if depth <= _SHORT_BOOK else "max"
        return parse_order_book(await self._ask("publicMixGetV2MixMarketMergeDepth", market, limit=limit))

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        async def make() -> Stream[Tick]:
            named = await self._listings.by_native_id(markets, self.health)
            topics = [
                {"instType": _product(one.market), "channel": "candle1m", "instId": native_id}
                for native_id, one in named.items()
            ]
            parse = partial(parse_candle_message, listings=named)
            return self._stream("candles", topics, "channel", {"candle1m"}, parse, unified_account=False)

        return [make]

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        async def make() -> Stream[Print]:
            named = await self._listings.by_native_id(markets, self.health)
            products = sorted({_product(one.market) for one in named.values()})
            topics = [{"instType": product.lower(), "topic": "liquidation"} for product in products]
            kinds, parse = {"liquidation", "kline"}, partial(parse_liquidation_message, listings=named)
            return self._stream("liquidations", [*topics, _PULSE], "topic", kinds, parse, unified_account=True)

        return [make]

    def _stream(
        self,
        name: str,
        topics: list[dict[str, str]],
        key: str,
        values: set[str],
        parse: Callable[[Any], Sequence[_Value]],
        *,
        unified_account: bool,
    ) -> Stream[_Value]:
        def subscribe() -> Any:
            parts = [topics[i : i + _TOPICS] for i in range(0, len(topics), _TOPICS)]
            watch = self._wire.client.watch_public_multiple
            return asyncio.gather(*(watch(unified_account, [str(t) for t in part], part) for part in parts))

        def accepts(message: Any) -> bool:
            arg = message.get("arg") if isinstance(message, dict) else None
            return isinstance(arg, dict) and arg.get(key) in values and message.get("event") != "subscribe"

        return Stream(self._wire, name, subscribe, accepts, parse, _refused, _SILENCE_S, dated=("ts",))


def _product(market: Market) -> str:
    return PRODUCTS[market.symbol.rpartition(":")[2]]


def _refused(message: Any) -> bool:
    return bool(message.get("event") == "error")
