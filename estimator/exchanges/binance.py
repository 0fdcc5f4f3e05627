"""Binance: USD-M (linear) and COIN-M (inverse) perpetual futures, without a key.

Facts that matter here (endpoints and units as Binance documents them):

- klines carry taker-buy volume, which unified calls drop; USD-M counts volume in base coin, COIN-M in contracts with
  the base-coin volume beside it.
- open interest and account ratios of the past reach back 30 days, in steps of 5 minutes. A row of open interest holds
  the value at its stamp; a ratio stamped with the start of a period counts as known at its end.
- COIN-M counts open interest in contracts of 100 USD (BTC) or 10 USD; base coin is taken at the close of the stamp.
- ``forceOrder`` sends at most one order per symbol per second: right in shape, a lower bound in scale. SELL closes a
  long. ``p`` is the order's limit, ``ap`` the average fill, which is what is kept.
- maintenance tiers need a key: `rule_brackets` stands in, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal, Unpack

import polars as pl

from estimator.domain import (
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
from estimator.exchanges.binance_payloads import (
    FAMILIES,
    INVERSE,
    LINEAR,
    MARK,
    PERIOD_MS,
    Family,
    native_id,
    parse_candles,
    parse_funding,
    parse_funding_rate_now,
    parse_kline_message,
    parse_liquidation_message,
    parse_listings,
    parse_mark_candles,
    parse_mark_price,
    parse_marks,
    parse_open_interest,
    parse_open_interest_now,
    parse_order_book,
    parse_ratio,
    rule_brackets,
)
from estimator.exchanges.connected import ConnectedVenue, Connection, each, listed_by_family
from estimator.exchanges.edge import (
    between,
    frame,
    plausible_candles,
    plausible_observations,
)
from estimator.exchanges.frames import usd_to_base
from estimator.exchanges.listings import Listings
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

CAPABILITIES: Final = Capabilities(
    candles=Depth(MINUTE_MS, None, 499),  # a page of up to 499 rows costs least per row
    taker_buy_volume=True,
    mark_candles=Depth(MINUTE_MS, None, 499),
    open_interest_history=Depth(PERIOD_MS, 30 * DAY_MS, 500),
    ratio_history=Depth(PERIOD_MS, 30 * DAY_MS, 500),
    funding_history=Depth(HOUR_MS, None, 1000),
    open_interest_unit="base",
    liquidations="sampled",
    liquidation_price_kind="fill",
    brackets="rule",
    order_book=True,
    bulk_funding=True,
    limits={
        "fapiData": RateLimit(1000, 300),
        "dapiData": RateLimit(1000, 300),
        "fapiPublicGetFundingRate": RateLimit(500, 300),
        "dapiPublicGetFundingRate": RateLimit(500, 300),
    },
    notes=(
        "forceOrder sends at most one order per symbol per second",
        "COIN-M open interest and order books are in contracts of 100 USD (BTC) or 10 USD",
        "no call gives open interest of every market at once: the largest are chosen by volume",
        "status 403 is the web firewall, not always a region",
    ),
)

_STREAMS: Final = 200  # of one socket
_BOOK_DEPTHS: Final = (5, 10, 20, 50, 100, 500, 1000)
_CANDLE_SILENCE_S: Final = 30.0
_LIQUIDATION_SILENCE_S: Final = 300.0  # of all markets together


class Binance(ConnectedVenue):
    """Binance through ccxt; parameters as in `ConnectedVenue`."""

    name: str = "binance"
    capabilities: Capabilities = CAPABILITIES

    def __init__(self, **connection: Unpack[Connection]) -> None:
        super().__init__(**connection)
        self._by_contract = {
            contract: self._connect(family.client, CAPABILITIES.limits, concurrent=8)
            for contract, family in FAMILIES.items()
        }
        self._listings = {
            contract: Listings(f"binance ({contract})", partial(self._list, family))
            for contract, family in FAMILIES.items()
        }

    async def fetch_markets(self) -> list[MarketListing]:
        """List the perpetual futures of both families, largest volume first."""
        found = await listed_by_family(listings.renew() for listings in self._listings.values())
        return sorted(found, key=lambda listing: -(listing.volume_usd or 0.0))

    async def _list(self, family: Family) -> list[MarketListing]:
        calls = (f"{family.public}Get{what}" for what in ("ExchangeInfo", "Ticker24hr", "FundingInfo"))
        info, tickers, funding = await together([self._by_contract[family.contract].call(call) for call in calls])
        return parse_listings(info, tickers, funding, family, self.health)

    async def _listing(self, market: Market) -> MarketListing:
        return await self._listings[market.contract].of(market)

    async def _contract_size(self, market: Market) -> float:
        return 1.0 if market.contract == "linear" else (await self._listing(market)).contract_size

    async def fetch_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return closed 1m candles with taker-buy volume."""
        family, wire = self._of(market)
        asked_ms = wire.now_ms()  # an answer may hold a part of a candle that has closed by the time it is here
        payloads = await self._klines(market, "Klines", "1m", MINUTE_MS, since_ms, until_ms)
        candles = pl.concat([parse_candles(p, family, asked_ms) for p in payloads] or [parse_candles([], family, 0)])
        return between(plausible_candles(candles, wire.now_ms(), self.health), since_ms, until_ms)

    async def fetch_mark_candles(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame | None:
        """Return 1m extremes of the mark price."""
        family, wire = self._of(market)
        asked_ms = wire.now_ms()
        payloads = await self._klines(market, "MarkPriceKlines", "1m", MINUTE_MS, since_ms, until_ms)
        marks = pl.concat([parse_mark_candles(p, family, asked_ms) for p in payloads] or [frame(MARK, [])])
        for column in ("mark_low", "mark_high"):
            marks = plausible_observations(marks, column, wire.now_ms(), self.health)
        return between(marks, since_ms, until_ms)

    async def _klines(
        self, market: Market, what: Literal["Klines", "MarkPriceKlines"], interval: str, step_ms: int,
        since_ms: int, until_ms: int,
    ) -> list[Any]:  # fmt: skip
        family, wire = self._of(market)
        size = CAPABILITIES.candles.rows
        query = {"symbol": native_id(market), "interval": interval, "limit": size}
        return await all_pages(
            lambda start, end: wire.call(f"{family.public}Get{what}", query | {"startTime": start, "endTime": end - 1}),
            windows(since_ms, min(until_ms, wire.now_ms()), size * step_ms),
        )

    async def fetch_open_interest(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return open interest in steps of 5 minutes, of the last 30 days at most."""
        family, wire = self._of(market)
        payloads = await self._statistics(market, "OpenInterestHist", since_ms, until_ms)
        pages = [parse_open_interest(p, family) for p in payloads]
        table = pl.concat(pages or [frame(OPEN_INTEREST, [])])
        kept = plausible_observations(table, "open_interest", wire.now_ms(), self.health, jumps=True)
        kept = between(kept, since_ms, until_ms)
        return kept if family is LINEAR or kept.is_empty() else await self._contracts_to_base(market, kept)

    async def _contracts_to_base(self, market: Market, contracts: pl.DataFrame) -> pl.DataFrame:
        """Turn contracts of so many USD into base coin, at the close of each stamp."""
        first, last = (int(t) for t in contracts["time"].dt.epoch("ms").to_numpy()[[0, -1]])
        payloads = await self._klines(market, "Klines", "5m", PERIOD_MS, first - PERIOD_MS, last + 1)
        now_ms = self._by_contract["inverse"].now_ms()
        candles = plausible_candles(
            pl.concat([parse_candles(p, INVERSE, now_ms) for p in payloads]), now_ms, self.health
        )
        usd = contracts.with_columns(pl.col("open_interest") * await self._contract_size(market))
        return usd_to_base(usd, between(candles, 0, now_ms))

    async def fetch_open_interest_now(self, market: Market) -> Observation:
        """Return open interest now. [base coin]

        Raises
        ------
        SourceError
            Also where the value cannot be.
        """
        family, wire = self._of(market)
        symbol = {"symbol": native_id(market)}
        seen = parse_open_interest_now(await wire.call(f"{family.public}GetOpenInterest", symbol), family)
        if family is INVERSE:
            mark = parse_mark_price(await self._marks(family, symbol=native_id(market)), native_id(market), family)
            seen = Observation(seen.time_ms, seen.value * await self._contract_size(market) / mark)
        return self._levels.accept(market.id, seen, wire.now_ms(), f"{family.public}GetOpenInterest")

    async def fetch_long_short_ratio(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return the ratio of all accounts, of the last 30 days at most."""
        family, wire = self._of(market)
        until_ms = min(until_ms, wire.now_ms() + 1)  # a period that has begun is not known yet
        payloads = await self._statistics(
            market, "GlobalLongShortAccountRatio", since_ms - PERIOD_MS, until_ms - PERIOD_MS
        )
        pages = [parse_ratio(p, f"{family.data}GetGlobalLongShortAccountRatio") for p in payloads]
        table = pl.concat(pages or [frame(LONG_SHORT_RATIO, [])])
        kept = plausible_observations(table, "long_short_ratio", wire.now_ms(), self.health)
        return between(kept, since_ms, until_ms)

    async def _statistics(self, market: Market, what: str, since_ms: int, until_ms: int) -> list[Any]:
        family, wire = self._of(market)
        # Older than the venue keeps is refused, not answered with nothing.
        since_ms = max(since_ms, wire.now_ms() - 30 * DAY_MS + PERIOD_MS)
        name = native_id(market)
        query: dict[str, Any] = {"symbol": name} if family is LINEAR else {"pair": name.removesuffix("_PERP")}
        if family is INVERSE and what == "OpenInterestHist":
            query["contractType"] = "PERPETUAL"
        query |= {"period": "5m", "limit": 500}
        return await all_pages(
            lambda start, end: wire.call(f"{family.data}Get{what}", query | {"startTime": start, "endTime": end - 1}),
            windows(since_ms, min(until_ms, wire.now_ms() + 1), 500 * PERIOD_MS),
        )

    async def fetch_funding_rate(self, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Return settled funding, a fraction per interval of the market."""
        family, wire = self._of(market)
        pages, start, limit = [frame(FUNDING_RATE, [])], since_ms, 1000
        while start < until_ms:
            query = {"symbol": native_id(market), "startTime": start, "endTime": until_ms - 1, "limit": limit}
            page = parse_funding(await wire.call(f"{family.public}GetFundingRate", query), family)
            pages.append(page)
            if page.height < limit:
                break
            start = int(page["time"].dt.epoch("ms").to_numpy()[-1]) + 1
        table = plausible_observations(pl.concat(pages), "funding_rate", wire.now_ms(), self.health, positive=False)
        return between(table, since_ms, until_ms)

    async def fetch_funding_rate_now(self, market: Market) -> FundingRate:
        """Return the rate that is forming."""
        listing = await self._listing(market)
        marks = await self._marks(FAMILIES[market.contract], symbol=listing.native_id)
        return self._rate(listing, marks)

    async def fetch_funding_rates_now(self, markets: Sequence[Market]) -> dict[str, FundingRate]:
        """Return the rates that are forming of many markets, by market id."""
        contracts = sorted({market.contract for market in markets})
        await together([self._listings[contract].load() for contract in contracts])
        told = await together([self._marks(FAMILIES[contract]) for contract in contracts])
        marks = dict(zip(contracts, told, strict=True))
        return each(markets, lambda m: self._rate(self._listings[m.contract].known(m), marks[m.contract]))

    def _rate(self, listing: MarketListing, marks: dict[str, Any]) -> FundingRate:
        return parse_funding_rate_now(marks, listing, FAMILIES[listing.market.contract])

    async def _marks(self, family: Family, **asked: str) -> dict[str, Any]:
        payload = await self._by_contract[family.contract].call(f"{family.public}GetPremiumIndex", asked)
        return parse_marks(payload, family)

    async def fetch_brackets(self, market: Market) -> BracketTable:
        """Return tiers by rule."""
        return rule_brackets(market.base, market.contract)

    async def fetch_order_book(self, market: Market, depth: int) -> OrderBook:
        """Return the visible book, up to 1000 levels a side."""
        family, wire = self._of(market)
        limit = next((d for d in _BOOK_DEPTHS if d >= depth), _BOOK_DEPTHS[-1])
        payload = await wire.call(f"{family.public}GetDepth", {"symbol": native_id(market), "limit": limit})
        return parse_order_book(payload, family, await self._contract_size(market))

    def _candle_streams(self, markets: Sequence[Market]) -> list[MakeStream[Tick]]:
        return [partial(self._candle_stream, group) for group in _by_family(markets)]

    async def _candle_stream(self, markets: Sequence[Market]) -> Stream[Tick]:
        family, wire = self._of(markets[0])
        named = await self._listings[family.contract].by_native_id(markets, self.health)
        return Stream(
            wire,
            "candles" + family.suffix,
            lambda: _subscribed(wire, family, "kline", [f"{native.lower()}@kline_1m" for native in named]),
            lambda message: isinstance(message, dict) and message.get("e") == "kline",
            partial(parse_kline_message, family=family, listings=named),
            silence_s=_CANDLE_SILENCE_S,
            says_closed=True,
        )

    def _print_streams(self, markets: Sequence[Market]) -> list[MakeStream[Print]]:
        return [partial(self._print_stream, group) for group in _by_family(markets)]

    async def _print_stream(self, markets: Sequence[Market]) -> Stream[Print]:
        family, wire = self._of(markets[0])
        named = await self._listings[family.contract].by_native_id(markets, self.health)
        return Stream(
            wire,
            "liquidations" + family.suffix,
            lambda: _subscribed(wire, family, "forceOrder", ["!forceOrder@arr"]),
            lambda message: isinstance(message, dict) and message.get("e") == "forceOrder",
            partial(parse_liquidation_message, listings=named),
            silence_s=_LIQUIDATION_SILENCE_S,
            dated=("E",),
        )

    def _of(self, market: Market) -> tuple[Family, Wire]:
        return FAMILIES[market.contract], self._by_contract[market.contract]


def _by_family(markets: Iterable[Market]) -> list[list[Market]]:
    groups: dict[ContractType, list[Market]] = {}
    for market in markets:
        groups.setdefault(market.contract, []).append(market)
    return list(groups.values())


async def _subscribed(wire: Wire, family: Family, channel: str, streams: list[str]) -> None:
    """Subscribe to streams, so many on a socket; returns only by raising, for no message reaches ccxt."""
    parts = [streams[i : i + _STREAMS] for i in range(0, len(streams), _STREAMS)]
    await asyncio.gather(*(_socket(wire, family, f"{channel} {n}", channel, part) for n, part in enumerate(parts)))


async def _socket(wire: Wire, family: Family, name: str, channel: str, streams: list[str]) -> None:
    client = wire.client
    base = client.get_ws_url(family.contract, client.get_future_ws_category(channel))
    url = f"{base}/{client.stream(family.contract, name, len(streams))}"
    request = {"method": "SUBSCRIBE", "params": streams, "id": client.request_id(url)}
    await client.watch_multiple(url, [name], request, [name], {"id": request["id"]})
