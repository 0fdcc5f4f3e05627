"""Gate perpetual futures, settled in USDT and (BTC_USD alone) in coin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, Unpack

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
from estimator.exchanges.connected import ConnectedVenue, Connection, each
from estimator.exchanges.edge import plausible_candles, plausible_observations
from estimator.exchanges.gate_payloads import (
    CAPABILITIES,
    MARK,
    NAME,
    STATS_MS,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_liquidation_message,
    parse_long_short_ratio,
    parse_mark_candles,
    parse_markets,
    parse_open_interest,
    parse_open_interest_now,
    parse_order_book,
    parse_tickers,
)
from estimator.exchanges.listings import Listings, largest_first
from estimator.exchanges.moving import MakeStream, Print, Stream, Tick
from estimator.exchanges.paging import paged, together
from estimator.exchanges.venue import BracketTable, Capabilities, FundingRate, MarketListing, OrderBook

_Value = TypeVar("_Value")

_SETTLED_IN: Final = ("usdt", "btc")
_BOOK_LEVELS: Final = 300
_SILENCE_S: Final = 60.0
_PULSE_CHANNEL: Final = "futures.candlesticks"
_PULSE: Final = {"usdt": "BTC_USDT", "btc": "BTC_USD"}  # by settlement


class Gate(ConnectedVenue):
    """Gate over REST and WebSocket; parameters as in `ConnectedVenue`."""

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
            asked = ("publicFuturesGetSettleContracts", "publicFuturesGetSettleTickers")
            contracts, tickers = await asyncio.gather(*(self._wire.call(one, {"settle": settle}) for one in asked))
            return parse_markets(contracts, tickers, settle, self.health)

        return largest_first([one for found in await asyncio.gather(*map(of, _SETTLED_IN)) for one in found])

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles."""
        listing = await self._listings.of(market)

        async def page(start: int, end: int) -> pl.DataFrame:
            return parse_candles(await self._candlesticks(listing, listing.native_id, start, end), listing)

        table = await self._minutes(CANDLES, page, since_ms, until_ms)
        return plausible_candles(table, self._wire.now_ms(), self.health)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return 1m extremes of the mark price."""
        listing = await self._listings.of(market)

        async def page(start: int, end: int) -> pl.DataFrame:
            return parse_mark_candles(await self._candlesticks(listing, f"mark_{listing.native_id}", start, end))

        table = await self._minutes(MARK, page, since_ms, until_ms)
        return plausible_observations(table, "mark_low", self._wire.now_ms(), self.health)

    async def _minutes(self, schema: dict[str, pl.DataType], page: Any, since_ms: int, until_ms: int) -> pl.DataFrame:
        now_ms, depth_ms = self._wire.now_ms(), CAPABILITIES.candles.depth_ms or 0
        # One minute of slack: the venue refuses a request that starts too early.
        start = max(since_ms, now_ms - depth_ms + MINUTE_MS)
        return await paged(schema, page, start, min(until_ms, now_ms // MINUTE_MS * MINUTE_MS), 1000 * MINUTE_MS)

    async def _candlesticks(self, listing: MarketListing, contract: str, start_ms: int, end_ms: int) -> Any:
        asked = {"contract": contract, "interval": "1m", "from": start_ms // 1000, "to": end_ms // 1000 - 1}
        return await self._wire.call("publicFuturesGetSettleCandlesticks", {"settle": _settle(listing.market), **asked})

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return open interest every five minutes."""
        listing = await self._listings.of(market)
        table = await self._stats(listing, OPEN_INTEREST, lambda p: parse_open_interest(p, listing), since_ms, until_ms)
        return plausible_observations(table, "open_interest", self._wire.now_ms(), self.health, jumps=True)

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return accounts long per account short every five minutes."""
        listing = await self._listings.of(market)
        table = await self._stats(listing, LONG_SHORT_RATIO, parse_long_short_ratio, since_ms, until_ms)
        return plausible_observations(table, "long_short_ratio", self._wire.now_ms(), self.health)

    async def _stats(
        self,
        listing: MarketListing,
        schema: dict[str, pl.DataType],
        parse: Callable[[Any], pl.DataFrame],
        since_ms: int,
        until_ms: int,
    ) -> pl.DataFrame:
        async def page(start: int, end: int) -> pl.DataFrame:
            first = (start - STATS_MS) // 1000  # a row is known five minutes after its stamp
            asked = {"contract": listing.native_id, "interval": "5m", "from": first}
            settle = {"settle": _settle(listing.market), "limit": (end - start) // STATS_MS + 1}
            return parse(await self._wire.call("publicFuturesGetSettleContractStats", settle | asked))

        # What is known by now: the row of the running interval is not.
        return await paged(schema, page, since_ms, min(until_ms, self._wire.now_ms() + 1), 99 * STATS_MS)

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""
        listing = await self._listings.of(market)
        return self._held(listing, *await self._tickers(_settle(market), contract=listing.native_id))

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id. [base coin]"""
        return await self._of_tickers(markets, self._held)

    def _held(self, listing: MarketListing, asked_ms: int, tickers: Mapping[str, Any]) -> Observation:
        seen = parse_open_interest_now(tickers, listing, asked_ms)
        return self._levels.accept(listing.market.id, seen, seen.time_ms, "tickers")

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding rates."""
        listing = await self._listings.of(market)

        async def page(start: int, end: int) -> pl.DataFrame:
            asked = {"contract": listing.native_id, "from": start // 1000, "to": end // 1000, "limit": 1000}
            settle = {"settle": _settle(market)}
            return parse_funding_rate(await self._wire.call("publicFuturesGetSettleFundingRate", settle | asked))

        table = await paged(FUNDING_RATE, page, since_ms, min(until_ms, self._wire.now_ms() + 1), 900 * HOUR_MS)
        return plausible_observations(table, "funding_rate", self._wire.now_ms(), self.health, positive=False)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""
        listing = await self._listings.of(market)
        return self._rate(listing, *await self._tickers(_settle(market), contract=listing.native_id))

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force of many markets, by market id."""
        return await self._of_tickers(markets, self._rate)

    def _rate(self, listing: MarketListing, asked_ms: int, tickers: Mapping[str, Any]) -> FundingRate:
        return parse_funding_rate_now(tickers, listing, asked_ms)

    async def _of_tickers(
        self, markets: Sequence[Market], read: Callable[[MarketListing, int, Mapping[str, Any]], _Value]
    ) -> dict[str, _Value]:
        """Read about many markets out of the tickers of everything that is settled in the same coins."""
        await self._listings.load()
        coins = sorted({_settle(market) for market in markets})
        tickers = dict(zip(coins, await together([self._tickers(coin) for coin in coins]), strict=True))
        return each(markets, lambda market: read(self._listings.known(market), *tickers[_settle(market)]))

    async def _tickers(self, settle: str, **asked: str) -> tuple[int, dict[str, Any]]:
        """Return tickers and when they were asked for: they have no time, and an answer may be long on its way."""
        asked_ms = self._wire.now_ms()
        payload = await self._wire.call("publicFuturesGetSettleTickers", {"settle": settle, **asked})
        return asked_ms, parse_tickers(payload)

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return the public risk limit tiers."""
        listing = await self._listings.of(market)
        asked = {"settle": _settle(market), "contract": listing.native_id}
        payload = await self._wire.call("publicFuturesGetSettleRiskLimitTiers", asked)
        return parse_brackets(payload, listing.native_id)

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return at least `depth` levels a side, up to 300."""
        listing = await self._listings.of(market)
        asked = {"settle": _settle(market), "contract": listing.native_id, "limit": min(depth, _BOOK_LEVELS)}
        return parse_order_book(await self._wire.call("publicFuturesGetSettleOrderBook", asked), listing)

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        async def make() -> Stream[Tick]:
            listings = await self._listings.by_native_id(markets, self.health)
            wanted = [(one.market, ["1m", native_id]) for native_id, one in listings.items()]
            parse = partial(parse_candle_message, listings=listings)
            return self._stream("candles", "futures.candlesticks", wanted, parse)

        return [make]

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        async def make() -> Stream[Print]:
            listings = await self._listings.by_native_id(markets, self.health)
            wanted = [(one.market, [native_id]) for native_id, one in listings.items()]
            parse = partial(parse_liquidation_message, listings=listings)
            return self._stream("liquidations", "futures.public_liquidates", wanted, parse)

        return [make]

    def _stream(
        self,
        name: str,
        channel: str,
        wanted: Sequence[tuple[Market, list[str]]],
        parse: Callable[[Any], Sequence[_Value]],
    ) -> Stream[_Value]:
        asked = {(_settle(market), channel, *payload) for market, payload in wanted}
        # Candles that never rest: where they do not come either, the socket is dead and not the market quiet.
        asked |= {
            (settle, _PULSE_CHANNEL, "1m", _PULSE[settle]) for settle in {_settle(market) for market, _ in wanted}
        }

        def subscribe() -> Any:
            client = self._wire.client
            urls = client.urls["api"]["swap"]
            return asyncio.gather(
                *(
                    client.subscribe_public(urls[settle], f"{on}:{payload}", payload, on)
                    for settle, on, *payload in asked
                )
            )

        def accepts(message: Any) -> bool:
            if not isinstance(message, dict) or message.get("channel") not in {channel, _PULSE_CHANNEL}:
                return False
            return message.get("event") == "update" or _refused(message)

        return Stream(self._wire, name, subscribe, accepts, parse, _refused, _SILENCE_S, dated=("time_ms",))


def _settle(market: Market) -> str:
    return market.symbol.rpartition(":")[2].lower()


def _refused(message: Any) -> bool:
    return bool(message.get("error"))
