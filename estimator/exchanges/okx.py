"""OKX, linear (USDT, USDC) and inverse perpetual swaps, through its public v5 interface and channels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Unpack

import polars as pl

from estimator.domain import (
    CANDLES,
    DAY_MS,
    FUNDING_RATE,
    HOUR_MS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    Liquidation,
    Market,
    Observation,
)
from estimator.exchanges.connected import ConnectedVenue, Connection, each
from estimator.exchanges.edge import (
    between,
    plausible_candles,
    plausible_observations,
)
from estimator.exchanges.listings import Listings, largest_first
from estimator.exchanges.live import subscribing
from estimator.exchanges.moving import MakeStream, Print, Stream, Tick
from estimator.exchanges.okx_payloads import (
    MARK_CANDLES,
    family,
    native_id,
    parse_brackets,
    parse_by_name,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_liquidations,
    parse_long_short_ratio,
    parse_mark_candles,
    parse_mark_price,
    parse_markets,
    parse_open_interest,
    parse_open_interest_now,
    parse_order_book,
)
from estimator.exchanges.paging import all_pages, together, windows
from estimator.exchanges.prints import prints_frame
from estimator.exchanges.venue import (
    BracketTable,
    Capabilities,
    Depth,
    FundingRate,
    MarketListing,
    OrderBook,
    RateLimit,
)

_Read = Callable[[int, int], Awaitable[pl.DataFrame]]
_Schema = dict[str, pl.DataType]

_FIVE_MINUTES: Final = 5 * MINUTE_MS
_STATISTICS_ROWS: Final = 1440  # of each period; older ones are gone
_RECENT_MS: Final = 1400 * MINUTE_MS  # candles younger than this are in the quicker of two endpoints
_LEAST_FULL_PAGE: Final = 99  # 100 without the candle that still runs: a page this long may be cut short
_BOOK_DEPTH: Final = 400
_PRINTS: Final = 100  # of a page
_SILENCE_S: Final = 60.0
# Channels that never rest: where nothing of them comes either, the socket is dead and not the market quiet.
_PULSE: Final = "BTC-USDT-SWAP"
_PRINTS_CHANNEL: Final = "liquidation-orders"

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, None, 300),
    taker_buy_volume=False,
    mark_candles=Depth(MINUTE_MS, None, 100),
    open_interest_history=Depth(_FIVE_MINUTES, _STATISTICS_ROWS * HOUR_MS, 100),
    ratio_history=Depth(_FIVE_MINUTES, _STATISTICS_ROWS * HOUR_MS, 100),
    funding_history=Depth(HOUR_MS, 90 * DAY_MS, 100),
    open_interest_unit="base",
    liquidations="partial",
    liquidation_price_kind="bankruptcy",
    brackets="public",
    order_book=True,
    bulk_open_interest=True,
    bulk_funding=True,
    past_liquidations_ms=DAY_MS,
    limits={
        "publicGetMarketCandles": RateLimit(40, 2.0),
        "publicGetMarketHistory": RateLimit(20, 2.0),
        "publicGetRubikStatContractsOpenInterestHistory": RateLimit(10, 2.0),
        "publicGetRubik": RateLimit(5, 2.0),
        "publicGetPublic": RateLimit(10, 2.0),
    },
    notes=(
        "Open interest and account ratio keep 1440 rows a period: 5 days of five minutes, then 60 days of hours.",
        "Their rows are stamped with the start of a period and count as known at its end.",
        "Open interest is the instrument's, in base coin: what the venue has in USD is converted at an older price.",
        "At most one liquidation per second and market is shown, and the venue calls that not all of them.",
        "Past prints (about a day) have the fields of the streamed ones; that their times agree is taken for granted.",
        "Position tiers are bounded in contracts and turned into notional at the mark price of the moment.",
        "Listings carry tiers by rule; fetch_brackets gives the venue's own.",
    ),
)


class Okx(ConnectedVenue):
    """OKX's linear and inverse perpetual swaps; parameters as in `ConnectedVenue`."""

    name: str = "okx"
    capabilities: Capabilities = CAPABILITIES

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__(**connection)
        self._wire = self._connect("okx")  # ccxt knows the weights of these endpoints and spaces requests by them
        self._listings = Listings("okx", self._load)

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures that trade now, largest first."""
        return await self._listings.renew()

    async def _load(self) -> list[MarketListing]:
        swaps = {"instType": "SWAP"}
        calls = ("publicGetPublicInstruments", "publicGetMarketTickers", "publicGetPublicOpenInterest")
        instruments, tickers, held = await together([self._wire.call(call, swaps) for call in calls])
        return largest_first(parse_markets(instruments, tickers, held, self.health))

    async def _contract_size(self, market: Market) -> float:
        return (await self._listings.of(market)).contract_size

    async def _pages(self, read: _Read, since_ms: int, until_ms: int, page_ms: int, schema: _Schema) -> pl.DataFrame:
        """Fetch pages of a series; `read` gets the first time of a page and its end."""
        until_ms = min(until_ms, self._wire.now_ms() + MINUTE_MS)
        parts = await all_pages(read, windows(since_ms, until_ms, page_ms))
        return pl.concat([pl.DataFrame(schema=schema), *parts])

    async def _candles(self, market: Market, kind: str, rows: int, start: int, end: int) -> Any:
        """Fetch candles of ``start <= time < end``; the venue's own bounds are both left out."""
        age = "" if start >= self._wire.now_ms() - _RECENT_MS else "History"
        asked = {"instId": native_id(market), "bar": "1m", "before": start - 1, "after": end, "limit": rows}
        return await self._wire.call(f"publicGetMarket{age}{kind}", asked)

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles; OKX tells no taker side in them."""

        async def read(start: int, end: int) -> pl.DataFrame:
            return parse_candles(await self._candles(market, "Candles", 300, start, end))

        found = await self._pages(_walking(read), since_ms, until_ms, 300 * MINUTE_MS, CANDLES)
        return between(plausible_candles(found, self._wire.now_ms(), self.health), since_ms, until_ms)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame | None:
        """Return 1m extremes of the mark price."""

        async def read(start: int, end: int) -> pl.DataFrame:
            return parse_mark_candles(await self._candles(market, "MarkPriceCandles", 100, start, end))

        found = await self._pages(read, since_ms, until_ms, 100 * MINUTE_MS, MARK_CANDLES)
        kept = plausible_observations(found, "mark_low", self._wire.now_ms(), self.health)
        crossed = kept["mark_high"] < kept["mark_low"]
        self.health.reject("mark candles", "high below low", int(crossed.sum()))
        return between(kept.filter(~crossed), since_ms, until_ms)

    async def _statistics(
        self,
        market: Market,
        endpoint: str,
        parse: Callable[[Any, int], pl.DataFrame],
        since_ms: int,
        until_ms: int,
        schema: _Schema,
    ) -> pl.DataFrame:
        """Rows of five minutes as far back as there are any, of hours before; by the time they became known."""
        now_ms, tables = self._wire.now_ms(), [pl.DataFrame(schema=schema)]
        for period, period_ms in (("5m", _FIVE_MINUTES), ("1H", HOUR_MS)):

            async def read(start: int, end: int, period: str = period, period_ms: int = period_ms) -> pl.DataFrame:
                asked = {"instId": native_id(market), "period": period, "begin": start - 1, "end": end, "limit": 100}
                return parse(await self._wire.call(endpoint, asked), period_ms).filter(
                    pl.col("time").dt.epoch("ms") <= now_ms  # the period that still runs has no value yet
                )

            since = max(since_ms, now_ms - _STATISTICS_ROWS * period_ms)
            span = 100 * period_ms
            table = await self._pages(read, since - period_ms, until_ms - period_ms, span, schema)
            tables.append(between(table, since_ms, until_ms))
            if not tables[-1].is_empty():
                until_ms = int(tables[-1]["time"].dt.epoch("ms")[0])
            if until_ms - since_ms < HOUR_MS:
                break
        return pl.concat(tables)

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return open interest of the instrument: every five minutes for five days, hourly for sixty."""
        endpoint = "publicGetRubikStatContractsOpenInterestHistory"
        found = await self._statistics(market, endpoint, parse_open_interest, since_ms, until_ms, OPEN_INTEREST)
        kept = plausible_observations(found, "open_interest", self._wire.now_ms(), self.health, jumps=True)
        return between(kept, since_ms, until_ms)

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]"""
        return self._held(market, await self._interest(instId=native_id(market)))

    async def fetch_open_interests_now(self, markets: Sequence[Market]) -> dict[str, Observation]:
        """Return open interest now of many markets, by market id. [base coin]"""
        held = await self._interest()
        return each(markets, lambda market: self._held(market, held))

    async def _interest(self, **asked: str) -> dict[str, Any]:
        payload = await self._wire.call("publicGetPublicOpenInterest", {"instType": "SWAP", **asked})
        return parse_by_name(payload, "open-interest")

    def _held(self, market: Market, held: dict[str, Any]) -> Observation:
        seen = parse_open_interest_now(held, market)
        return self._levels.accept(market.id, seen, self._wire.now_ms(), "publicGetPublicOpenInterest")

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return accounts long per account short in the instrument, as deep as open interest."""
        endpoint = "publicGetRubikStatContractsLongShortAccountRatioContract"
        found = await self._statistics(market, endpoint, parse_long_short_ratio, since_ms, until_ms, LONG_SHORT_RATIO)
        kept = plausible_observations(found, "long_short_ratio", self._wire.now_ms(), self.health)
        return between(kept, since_ms, until_ms)

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding of the last three months at most."""

        async def read(start: int, end: int) -> pl.DataFrame:
            asked = {"instId": native_id(market), "before": start - 1, "after": end, "limit": 100}
            return parse_funding_rate(await self._wire.call("publicGetPublicFundingRateHistory", asked))

        since = max(since_ms, self._wire.now_ms() - 100 * DAY_MS)
        # Pages that hold 100 intervals of eight hours; shorter intervals take more requests.
        found = await self._pages(_walking(read), since, until_ms, 100 * 8 * HOUR_MS, FUNDING_RATE)
        now_ms = self._wire.now_ms()
        kept = plausible_observations(found, "funding_rate", now_ms, self.health, positive=False)
        return between(kept, since_ms, until_ms)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate in force."""
        return parse_funding_rate_now(await self._rates(native_id(market)), market)

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates in force of many markets, by market id."""
        rates = await self._rates("ANY")
        return each(markets, lambda market: parse_funding_rate_now(rates, market))

    async def _rates(self, name: str) -> dict[str, Any]:
        payload = await self._wire.call("publicGetPublicFundingRate", {"instId": name})
        return parse_by_name(payload, "funding-rate")

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return the position tiers of a market, in notional at the mark price now."""
        size = await self._contract_size(market)
        swap = {"instType": "SWAP"}
        tiers, mark = await together(
            [
                self._wire.call(
                    "publicGetPublicPositionTiers", {**swap, "tdMode": "cross", "instFamily": family(market)}
                ),
                self._wire.call("publicGetPublicMarkPrice", {**swap, "instId": native_id(market)}),
            ]
        )
        price = parse_mark_price(mark)
        return BracketTable(parse_brackets(tiers, market, size, price), f"public, contracts at {price:g}")

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return the book, up to 400 levels a side."""
        size = await self._contract_size(market)
        asked = {"instId": native_id(market), "sz": min(max(depth, 1), _BOOK_DEPTH)}
        return parse_order_book(await self._wire.call("publicGetMarketBooks", asked), market.contract, size)

    async def fetch_liquidations(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return the forced liquidations the venue shows, of the last day at most."""
        listings = {native_id(market): await self._listings.of(market)}
        asked = {"instType": "SWAP", "instFamily": family(market), "state": "filled", "limit": _PRINTS}
        found: dict[Liquidation, None] = {}  # an order is shown once a second: two that are the same are one
        end, now_ms = until_ms, self._wire.now_ms()
        while since_ms < end:
            payload = await self._past_prints({**asked, "after": end})
            page = dict.fromkeys(one for _, one in parse_liquidations(payload, listings))
            found |= page
            oldest = min((one.time_ms for one in page), default=0)
            end = oldest if len(page) >= _PRINTS and oldest < end else since_ms
        return prints_frame(found, since_ms, until_ms, now_ms, self.health)

    async def _past_prints(self, asked: dict[str, Any]) -> Any:
        """Ask an endpoint that ccxt does not know."""
        path, cost = "public/liquidation-orders", {"cost": 1}
        request = self._wire.client.request
        return await self._wire.attempt(
            "publicGetPublicLiquidationOrders", lambda: request(path, ["public"], "GET", dict(asked), cost)
        )

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        return [partial(self._candle_stream, markets)]

    async def _candle_stream(self, markets: Sequence[Market]) -> Stream[Tick]:
        client, by_name = self._wire.client, {native_id(market): market for market in markets}

        async def subscribe(names: list[str]) -> None:
            request = {"op": "subscribe", "args": [{"channel": "candle1m", "instId": name} for name in names]}
            await client.watch_multiple(client.get_url("candle1m"), names, request, names)

        attempt = subscribing(list(dict.fromkeys([*by_name, _PULSE])), subscribe, self.health)
        parse = partial(parse_candle_message, markets=by_name)
        accepts = _of_channel("candle1m")
        return Stream(self._wire, "candles", attempt, accepts, parse, silence_s=_SILENCE_S, says_closed=True)

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        return [partial(self._print_stream, markets)]

    async def _print_stream(self, markets: Sequence[Market]) -> Stream[Print]:
        client, listings = self._wire.client, await self._listings.by_native_id(markets, self.health)

        async def subscribe(names: list[str]) -> None:
            pulses = [{"channel": "open-interest", "instId": name} for name in names if name != _PRINTS_CHANNEL]
            request = {"op": "subscribe", "args": [{"channel": _PRINTS_CHANNEL, "instType": "SWAP"}, *pulses]}
            await client.watch_multiple(client.get_url(_PRINTS_CHANNEL, "public"), names, request, names)

        def parse(message: Any) -> list[Print]:
            if message["arg"]["channel"] != _PRINTS_CHANNEL:
                return []
            # A market shows one order a second, so two that are the same are one sent twice.
            return list(dict.fromkeys(parse_liquidations(message, listings)))

        attempt = subscribing([_PRINTS_CHANNEL, _PULSE], subscribe, self.health)
        accepts = _of_channel(_PRINTS_CHANNEL, "open-interest")
        dated = ("data", 0, "ts")  # of a pulse; prints are not in order
        return Stream(self._wire, "liquidations", attempt, accepts, parse, silence_s=_SILENCE_S, dated=dated)


def _of_channel(*channels: str) -> Callable[[Any], bool]:
    def accepts(message: Any) -> bool:
        argument = message.get("arg") if isinstance(message, dict) else None
        return isinstance(argument, dict) and argument.get("channel") in channels and "data" in message

    return accepts


def _walking(read: _Read) -> _Read:
    """Go back through a page that comes cut short: of too many rows the venue sends the latest."""

    async def page(start: int, end: int) -> pl.DataFrame:
        parts = [await read(start, end)]
        while parts[-1].height >= _LEAST_FULL_PAGE:
            oldest = int(parts[-1]["time"].dt.epoch("ms").to_numpy().min())
            if not start < oldest < end:
                break
            end = oldest
            parts.append(await read(start, end))
        return pl.concat(parts)

    return page
