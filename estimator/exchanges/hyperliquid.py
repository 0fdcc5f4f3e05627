"""Hyperliquid perpetual futures, settled in USDC."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Unpack

import polars as pl

from estimator.domain import (
    CANDLES,
    FUNDING_RATE,
    HOUR_MS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    Market,
    Observation,
)
from estimator.exchanges.connected import ConnectedVenue, Connection
from estimator.exchanges.edge import frame, plausible_candles, plausible_observations
from estimator.exchanges.hyperliquid_payloads import (
    ASK_ACCOUNT,
    CANDLES_KEPT,
    CAPABILITIES,
    FUNDING_PAGE,
    NAME,
    parse_account,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_markets,
    parse_open_interest_now,
    parse_order_book,
    parse_trades_message,
)
from estimator.exchanges.listings import Listings, largest_first
from estimator.exchanges.moving import MakeStream, Print, Stream, Tick
from estimator.exchanges.paging import paged
from estimator.exchanges.venue import BracketTable, Capabilities, FundingRate, MarketListing, OrderBook, Trade
from estimator.model.holdings import Account

_FRESH_MS: Final = 2_000


class Hyperliquid(ConnectedVenue):
    """Hyperliquid over REST and WebSocket; parameters as in `ConnectedVenue`."""

    name: str = NAME
    capabilities: Capabilities = CAPABILITIES

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__(**connection)
        self._wire = self._connect(NAME, CAPABILITIES.limits)
        self._listings = Listings(NAME, self._load)
        self._asking = asyncio.Lock()
        self._seen: tuple[int, Any] = (0, None)

    async def _info(self, kind: str, **asked: Any) -> Any:
        return await self._wire.call("publicPostInfo", {"type": kind, **asked})

    async def _contexts(self) -> tuple[int, Any]:
        """Return the state of all markets and its time; one answer serves all that ask within `_FRESH_MS`."""
        async with self._asking:
            if self._seen[1] is None or not 0 <= self._wire.now_ms() - self._seen[0] <= _FRESH_MS:
                asked_ms = self._wire.now_ms()  # for the answer has no time, and may be long on its way
                self._seen = (asked_ms, await self._info("metaAndAssetCtxs"))
        return self._seen

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures that trade now, largest first."""
        return await self._listings.renew()

    async def _load(self) -> list[MarketListing]:
        return largest_first(parse_markets((await self._contexts())[1], self.health))

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles, the latest 5000 at most."""
        listing = await self._listings.of(market)
        now_ms = self._wire.now_ms()

        async def page(start: int, end: int) -> pl.DataFrame:
            asked = {"coin": listing.native_id, "interval": "1m", "startTime": start, "endTime": end - 1}
            return parse_candles(await self._info("candleSnapshot", req=asked))

        start, until = max(since_ms, now_ms - CANDLES_KEPT * MINUTE_MS), min(until_ms, now_ms // MINUTE_MS * MINUTE_MS)
        table = await paged(CANDLES, page, start, until, CANDLES_KEPT * MINUTE_MS)
        return plausible_candles(table, now_ms, self.health)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> None:  # noqa: ARG002
        """Return None: there are none."""
        await self._listings.of(market)

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:  # noqa: ARG002
        """Return an empty frame: there is no history to fetch."""
        await self._listings.of(market)
        return frame(OPEN_INTEREST, [])

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""
        listing = await self._listings.of(market)
        time_ms, payload = await self._contexts()
        seen = parse_open_interest_now(payload, listing.native_id, time_ms)
        return self._levels.accept(market.id, seen, time_ms, "metaAndAssetCtxs")

    async def fetch_long_short_ratio(
        self,
        market: Market,
        since_ms: int,  # noqa: ARG002
        until_ms: int,  # noqa: ARG002
    ) -> pl.DataFrame:
        """Return an empty frame: there is no account ratio."""
        await self._listings.of(market)
        return frame(LONG_SHORT_RATIO, [])

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding rates, a fraction per hour."""
        listing = await self._listings.of(market)
        now_ms = self._wire.now_ms()

        async def page(start: int, end: int) -> pl.DataFrame:
            asked = {"coin": listing.native_id, "startTime": start, "endTime": end - 1}
            return parse_funding_rate(await self._info("fundingHistory", **asked))

        # Stamps lie some ms after the hour, so a page of so many hours cannot hold more rows.
        table = await paged(FUNDING_RATE, page, since_ms, min(until_ms, now_ms + 1), (FUNDING_PAGE - 1) * HOUR_MS)
        return plausible_observations(table, "funding_rate", now_ms, self.health, positive=False)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate of the running hour."""
        listing = await self._listings.of(market)
        time_ms, payload = await self._contexts()
        return parse_funding_rate_now(payload, listing.native_id, time_ms)

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return the public margin tiers."""
        listing = await self._listings.of(market)
        return parse_brackets((await self._contexts())[1], listing.native_id)

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return up to `depth` levels a side; the venue has 20."""
        listing = await self._listings.of(market)
        book = parse_order_book(await self._info("l2Book", coin=listing.native_id))
        return OrderBook(book.time_ms, book.bids[:depth], book.asks[:depth])

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        return [partial(self._candles, markets)]

    async def _candles(self, markets: Sequence[Market]) -> Stream[Tick]:
        named = await self._listings.by_native_id(markets, self.health)
        subscribe = self._subscribing([{"type": "candle", "coin": native_id, "interval": "1m"} for native_id in named])

        def accepts(message: Any) -> bool:
            return isinstance(message, dict) and message.get("channel") in {"candle", "error"}

        parse = partial(parse_candle_message, listings=named)
        return Stream(self._wire, "candles", subscribe, accepts, parse, lambda message: message["channel"] == "error")

    def _subscribing(self, asked: Sequence[dict[str, str]]) -> Callable[[], Awaitable[Any]]:
        client = self._wire.client

        def subscribe() -> Any:
            url = client.urls["api"]["ws"]["public"]
            messages = [{"method": "subscribe", "subscription": one} for one in asked]
            return asyncio.gather(*(client.watch(url, str(one), one, str(one)) for one in messages))

        return subscribe

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:  # noqa: ARG002 - nobody is told
        return []

    async def fetch_account(self, address: str, markets: Sequence[Market]) -> Account:
        """Return what an account holds in markets; what cannot be is counted and left out."""
        named = await self._listings.by_native_id(markets, self.health)
        asked = {"type": "clearinghouseState", "user": address}
        payload = await self._wire.attempt(ASK_ACCOUNT, lambda: self._wire.client.publicPostInfo(asked))
        told = parse_account(payload, named)
        kept = tuple(one for one in told.holdings if one.value_usd > 0)
        self.health.reject("positions", "value not above 0", len(told.holdings) - len(kept))
        return Account(min(told.time_ms, self._wire.now_ms()), kept)

    async def watch_trades(self, markets: Sequence[Market]) -> AsyncGenerator[Sequence[Trade], None]:
        """Yield trades with the accounts on both sides."""
        named = await self._listings.by_native_id(markets, self.health)
        subscribe = self._subscribing([{"type": "trades", "coin": native_id} for native_id in named])

        def accepts(message: Any) -> bool:
            return isinstance(message, dict) and message.get("channel") == "trades"

        parse = partial(parse_trades_message, listings=named)
        # Its socket is that of the candles, which tell when it is dead: that nobody trades takes nothing from them.
        stream = Stream(self._wire, "trades", subscribe, accepts, parse, silence_s=math.inf)
        async with contextlib.aclosing(stream.items()) as messages:
            async for trades in messages:
                yield trades
