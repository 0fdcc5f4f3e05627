"""Binance: payloads as documented become frames in base coin; the real ccxt client against a local server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from estimator.domain import (
    CANDLES,
    DAY_MS,
    HOUR_MS,
    LIQUIDATIONS,
    MINUTE_MS,
    OPEN_INTEREST,
    TIME,
    Candle,
    Liquidation,
    Market,
    Observation,
    Side,
)
from estimator.errors import BadPayload, SourceUnavailable, UnknownMarket
from estimator.exchanges.binance import Binance
from estimator.exchanges.binance_payloads import (
    INVERSE,
    LINEAR,
    PERIOD_MS,
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
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import Exchange, MarketListing, PartlyListed
from estimator.exchanges.wire import Patience
from tests.venues.contract import IMPATIENT, VenueContract
from tests.venues.feed import Feed, FeedMarket
from tests.venues.loop import run
from tests.venues.server import VenueServer, running
from tests.venues.wire_binance import WIRE
from tests.waiting import until

GOLDEN = Path(__file__).parents[2] / "venues" / "golden" / "binance"
MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
NOW = 1_760_000_100_000  # a whole minute, 08:55 UTC
AFTER_GOLDEN = 1_760_000_200_000
LINEAR_BTC = Market("binance", "BTC/USDT:USDT", "linear", rule_brackets("BTC", "linear").brackets)
INVERSE_BTC = Market("binance", "BTC/USD:BTC", "inverse", rule_brackets("BTC", "inverse").brackets)
INVERSE_LISTED = MarketListing(INVERSE_BTC, "BTCUSD_PERP", 100.0, "rule", funding_interval_ms=8 * HOUR_MS)
LISTED = {"BTCUSDT": MarketListing(LINEAR_BTC, "BTCUSDT", 1.0, "rule"), "BTCUSD_PERP": INVERSE_LISTED}
BOTH = pytest.mark.parametrize("market", [LINEAR_BTC, INVERSE_BTC], ids=["usdm", "coinm"])
_Item = TypeVar("_Item")


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())["payload"]


def recorded(name: str) -> Any:
    file = MARKET_DATA / "wire-fixtures-nautilus" / "binance" / f"futures__market_data_json__{name}.json"
    if not file.exists():
        pytest.skip(f"no {file.name}; set LIQHEAT_MARKET_DATA to the folder that holds it")
    return json.loads(file.read_text())


def row(table: pl.DataFrame, at: int = 0) -> tuple[Any, ...]:
    return table.with_columns(pl.col("time").dt.epoch("ms")).row(at)


# Payloads


def test_klines_keep_taker_buy_volume_and_drop_the_candle_that_is_still_open() -> None:
    table = parse_candles(golden("fapi_klines"), LINEAR, AFTER_GOLDEN)
    assert table.schema == pl.Schema({**CANDLES, "taker_buy_volume": pl.Float64()})
    assert table.height == 2
    assert row(table) == (1_760_000_040_000, 64000.1, 64050.0, 63990.5, 64020.3, 120.5, 70.25)


def test_coin_m_klines_count_volume_in_base_coin_not_contracts() -> None:
    table = parse_candles(golden("dapi_klines"), INVERSE, AFTER_GOLDEN)
    assert row(table) == (1_760_000_040_000, 64000.1, 64050.0, 63990.5, 64020.3, 20.0, 12.0)


def test_mark_klines_give_the_extremes_of_the_mark_price() -> None:
    assert row(parse_mark_candles(golden("fapi_markPriceKlines"), LINEAR, AFTER_GOLDEN)) == (
        1_760_000_040_000, 64044.1, 63995.2,
    )  # fmt: skip


def test_past_open_interest_is_known_at_its_stamp_even_where_the_stamp_is_a_text() -> None:
    table = parse_open_interest(golden("fapi_openInterestHist"), LINEAR)
    assert table.schema == pl.Schema(OPEN_INTEREST)
    assert row(table) == (1_583_127_900_000, 20403.637)
    assert row(parse_open_interest(golden("dapi_openInterestHist"), INVERSE)) == (1_760_000_100_000, 6_402_030.0)


def test_a_ratio_is_known_at_the_end_of_its_period() -> None:
    assert row(parse_ratio(golden("fapi_globalLongShortAccountRatio"), "")) == (1_760_000_100_000 + PERIOD_MS, 1.5)


def test_funding_is_a_fraction_of_either_sign() -> None:
    assert parse_funding(golden("fapi_fundingRate"), LINEAR)["funding_rate"].to_list() == [-0.0375, 0.0001]


def test_values_of_now() -> None:
    now = parse_open_interest_now(golden("fapi_openInterest"), LINEAR)
    assert now == Observation(1_589_437_530_011, 10659.509)
    marks = parse_marks(golden("dapi_premiumIndex"), INVERSE)
    funding = parse_funding_rate_now(marks, INVERSE_LISTED, INVERSE)
    assert (funding.rate, funding.time_ms, funding.interval_ms) == (0.00071003, 1_596_094_042_000, 8 * HOUR_MS)
    assert parse_mark_price(marks, "BTCUSD_PERP", INVERSE) == 11029.69574559


def test_the_book_is_in_base_coin_and_never_crossed() -> None:
    payload = golden("fapi_depth")
    book = parse_order_book(payload, LINEAR, 1.0)
    assert book.bids.tolist() == [[64000.0, 4.5], [63999.9, 1.0]]
    contracts = parse_order_book(payload, INVERSE, 100.0)
    assert contracts.asks[0].tolist() == [64000.1, 2.0 * 100.0 / 64000.1]
    payload["asks"][0][0] = "63999.00"
    with pytest.raises(BadPayload, match="crossed"):
        parse_order_book(payload, LINEAR, 1.0)


def test_listings_are_the_perpetuals_that_trade_with_names_we_can_write() -> None:
    health = Health()
    info, tickers, funding = golden("fapi_exchangeInfo"), golden("fapi_ticker24hr"), golden("fapi_fundingInfo")
    bitcoin, shiba = parse_listings(info, tickers, funding, LINEAR, health)
    assert bitcoin.market.symbol == "BTC/USDT:USDT"
    assert (bitcoin.native_id, bitcoin.volume_usd, bitcoin.funding_interval_ms) == ("BTCUSDT", 64e6, 8 * HOUR_MS)
    assert (shiba.market.symbol, shiba.funding_interval_ms) == ("1000SHIB/USDT:USDT", 4 * HOUR_MS)
    assert health.rejected == {("markets", "a name that is no symbol"): 1}
    assert "rule" in bitcoin.bracket_source


def test_a_sell_closes_a_long_at_its_average_fill() -> None:
    ((market, print_),) = parse_liquidation_message(recorded("liquidation_stream"), LISTED)
    assert market is LINEAR_BTC
    assert print_ == Liquidation(1_568_014_460_893, Side.LONG, 9910.12345678, 0.014, 0.014 * 9910.12345678)


def test_a_coin_m_order_is_worth_its_contracts() -> None:
    ((market, print_),) = parse_liquidation_message(golden("dapi_forceOrder"), LISTED)
    assert (market, print_.notional_usd, print_.price) == (INVERSE_BTC, 100.0, 9496.5)
    assert print_.quantity_base == pytest.approx(100.0 / 9496.5)


def test_a_kline_message_says_whether_its_candle_has_closed() -> None:
    open_, closed = recorded("kline_stream_open"), recorded("kline_stream_closed")
    assert parse_kline_message(open_, LINEAR, LISTED) == [
        (LINEAR_BTC, Candle(1_638_747_660_000, 0.001, 0.0025, 0.0015, 0.002, 1000.0, 500.0), False)
    ]
    assert [done for *_, done in parse_kline_message(closed, LINEAR, LISTED)] == [True]
    ((_, candle, _),) = parse_kline_message(golden("dapi_kline"), INVERSE, LISTED)
    assert candle.volume == 20.0


def test_messages_about_markets_nobody_follows_are_passed_over() -> None:
    assert parse_kline_message(golden("dapi_kline"), INVERSE, {}) == []
    assert parse_liquidation_message(golden("dapi_forceOrder"), {}) == []


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda p: p["o"].pop("ap"), "ap"),
        (lambda p: p["o"].update(z="many"), "z"),
        (lambda p: p["o"].update(S="LONG"), "o.S"),
        (lambda p: p.pop("o"), "o"),
    ],
)
def test_a_message_of_another_shape_names_the_field(spoil: Callable[[Any], Any], field: str) -> None:
    payload = golden("dapi_forceOrder")
    spoil(payload)
    with pytest.raises(BadPayload) as caught:
        parse_liquidation_message(payload, LISTED)
    assert (caught.value.endpoint, caught.value.field) == ("forceOrder", field)


INFO, TICKERS, FUNDING = (golden(f"fapi_{name}") for name in ("exchangeInfo", "ticker24hr", "fundingInfo"))
PARSERS: dict[str, Callable[[Any], Any]] = {
    "fapi_exchangeInfo": lambda p: parse_listings(p, TICKERS, FUNDING, LINEAR, Health()),
    "fapi_ticker24hr": lambda p: parse_listings(INFO, p, FUNDING, LINEAR, Health()),
    "fapi_fundingInfo": lambda p: parse_listings(INFO, TICKERS, p, LINEAR, Health()),
    "fapi_klines": lambda p: parse_candles(p, LINEAR, AFTER_GOLDEN),
    "dapi_klines": lambda p: parse_candles(p, INVERSE, AFTER_GOLDEN),
    "fapi_markPriceKlines": lambda p: parse_mark_candles(p, LINEAR, AFTER_GOLDEN),
    "fapi_openInterestHist": lambda p: parse_open_interest(p, LINEAR),
    "fapi_globalLongShortAccountRatio": lambda p: parse_ratio(p, "ratio"),
    "fapi_fundingRate": lambda p: parse_funding(p, LINEAR),
    "fapi_openInterest": lambda p: parse_open_interest_now(p, LINEAR),
    "dapi_premiumIndex": lambda p: parse_funding_rate_now(parse_marks(p, INVERSE), INVERSE_LISTED, INVERSE),
    "fapi_depth": lambda p: parse_order_book(p, INVERSE, 100.0),
    "dapi_forceOrder": lambda p: parse_liquidation_message(p, LISTED),
    "dapi_kline": lambda p: parse_kline_message(p, INVERSE, LISTED),
}
JUNK: tuple[Any, ...] = (None, True, -2, 10**20, 1e-300, "", "0", "-1", "1e400", "nan", "BTC", [], {}, [[]], [{}])


def places(payload: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inside = payload.items() if isinstance(payload, dict) else enumerate(payload if isinstance(payload, list) else [])
    for key, value in inside:
        yield from places(value, (*at, key))


@pytest.mark.parametrize("name", PARSERS)
def test_an_answer_of_any_shape_is_read_or_refused(name: str) -> None:
    for place in places(golden(name)):
        for junk in JUNK:
            payload = [golden(name)]
            at = payload
            for key in (0, *place)[:-1]:
                at = at[key]
            at[(0, *place)[-1]] = copy.copy(junk)
            with contextlib.suppress(BadPayload, UnknownMarket):
                PARSERS[name](payload[0])


@pytest.mark.parametrize("coin", ["BTC", "ETH"])
def test_the_rule_for_tiers_stays_close_to_the_measured_table(coin: str) -> None:
    file = MARKET_DATA / "tiers/binance/ALL/leverage_tiers/binance_leverage_tiers_2026-09-29_freqtrade-2026.9.json.gz"
    if not file.exists():
        pytest.skip(f"no {file.name}; set LIQHEAT_MARKET_DATA to the folder that holds it")
    tiers = json.loads(gzip.decompress(file.read_bytes()))[f"{coin}/USDT:USDT"]
    brackets = rule_brackets(coin, "linear").brackets
    for notional in (1e3, 5e4, 5e5, 2e6, 8e6, 3e7, 9e7, 3e8):
        measured = [t["maintenanceMarginRate"] for t in tiers if t["minNotional"] <= notional][-1]
        ruled = [b.maintenance_margin_rate for b in brackets if b.notional_floor <= notional][-1]
        assert ruled == pytest.approx(measured, rel=0.2), notional


# The client against the server


def _zero_price(payload: Any) -> Any:
    payload[5][3] = "0"
    return payload


def _no_prices(payload: Any) -> Any:
    return [row[:1] for row in payload]


class TestBinance(VenueContract):
    wire = WIRE
    candle_path = "/fapi/v1/klines"
    absurd = staticmethod(_zero_price)
    drifted = staticmethod(_no_prices)

    def make(self, base: str, clock: Callable[[], int]) -> Binance:
        return Binance(exchange_base=base, patience=IMPATIENT, throttle=False, clock=clock)

    def test_lists_the_markets_that_trade_largest_first(self) -> None:
        async def story(_server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            assert {self.linear, self.inverse} <= set(markets)
            # No call of Binance gives open interest of every market, so volume decides.
            volumes = [one.volume_usd or 0.0 for one in await venue.fetch_markets()]
            assert volumes == sorted(volumes, reverse=True)
            assert min(volumes) > 0

        self.run(story)

    def test_schema_drift_names_endpoint_and_field(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].add(path=self.candle_path, edit=type(self).drifted, times=9)
            with pytest.raises(BadPayload) as caught:
                await venue.fetch_candles(markets[self.linear], server.feed.now_ms - HOUR_MS, server.feed.now_ms)
            assert (caught.value.endpoint, caught.value.field) == ("fapiPublicGetKlines", "6")

        self.run(story)

    def test_funding_is_what_was_settled(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            for symbol in (self.linear, self.inverse):
                got = await venue.fetch_funding_rate(markets[symbol], server.feed.now_ms - 2 * DAY_MS, 2**53)
                stamps = got["time"].dt.epoch("ms").to_list()
                assert [t % (8 * HOUR_MS) for t in stamps] == [3] * 6  # settled a little after the hour
                wanted = [self.feed_of(server).funding_rate(t) for t in stamps]
                assert got["funding_rate"].to_list() == pytest.approx(wanted)
                now = await venue.fetch_funding_rate_now(markets[symbol])
                assert now.rate == pytest.approx(self.feed_of(server).funding_rate(server.feed.now_ms))
                assert now.interval_ms == 8 * HOUR_MS

        self.run(story, days=3)

    def test_a_quiet_market_is_no_dead_socket_but_a_silent_venue_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Nothing else comes on the socket of forced orders: its silence costs a new connection, and only its own.
        monkeypatch.setattr("estimator.exchanges.binance._LIQUIDATION_SILENCE_S", 0.3)

        async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
            server.faults["binance"].rewrite = lambda said: [m for m in said if m["e"] == "kline"]
            ticks: list[tuple[Market, Candle, bool]] = []
            prints = taken(venue.watch_liquidations([LINEAR_BTC]), [])
            async with following(server, prints, taken(venue.watch_candles([LINEAR_BTC]), ticks), subscriptions=2):
                for _ in range(6):
                    await feed.advance(MINUTE_MS)
                    await asyncio.sleep(0.1)
                await until(lambda: venue.health.reconnects["liquidations"] > 0)
                await until(lambda: sum(closed for *_, closed in ticks) == 6)
            assert venue.health.reconnects["candles"] == 0

        with_binance(test)


@asynccontextmanager
async def binance(days: float = 2.0) -> AsyncIterator[tuple[Binance, VenueServer, Feed]]:
    feed = Feed(NOW, days=days)
    async with running(feed) as server:
        patience = Patience(attempts=3, first_s=0.01, longest_s=0.02)
        venue = Binance(exchange_base=server.base, patience=patience, throttle=False, clock=lambda: feed.now_ms)
        try:
            yield venue, server, feed
        finally:
            await venue.close()


def with_binance(test: Callable[[Binance, VenueServer, Feed], Awaitable[_Item]], days: float = 2.0) -> _Item:
    async def main() -> _Item:
        async with binance(days) as (venue, server, feed):
            return await test(venue, server, feed)

    return run(main())


def expected_candles(market: FeedMarket, since_ms: int, until_ms: int) -> pl.DataFrame:
    candles = [market.closed(t) for t in range(since_ms, until_ms, MINUTE_MS)]
    rows = [(c.time_ms, c.open, c.high, c.low, c.close, c.volume, c.taker_buy_volume) for c in candles]
    schema = {**CANDLES, "taker_buy_volume": pl.Float64()}
    plain = pl.DataFrame(rows, schema={**schema, "time": pl.Int64}, orient="row")
    return plain.with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").cast(TIME))


@BOTH
def test_candles_of_many_pages_are_those_of_the_market(market: Market) -> None:
    async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
        since = NOW - DAY_MS
        table = await venue.fetch_candles(market, since, NOW + HOUR_MS)
        assert_frame_equal(table, expected_candles(feed.market("binance", "BTC"), since, NOW))
        assert len(server.calls) == len({tuple(c.query.items()) for c in server.calls}) == 4
        assert not venue.health.rejected

    with_binance(test)


@BOTH
def test_the_other_series_are_those_of_the_market_in_base_coin(market: Market) -> None:
    async def test(venue: Binance, _server: VenueServer, feed: Feed) -> None:
        source, since = feed.market("binance", "BTC"), NOW - 6 * HOUR_MS
        held = await venue.fetch_open_interest(market, since, NOW)
        stamps = held["time"].dt.epoch("ms").to_list()
        assert stamps == list(range(since, NOW, PERIOD_MS))
        assert held["open_interest"].to_list() == pytest.approx([source.open_interest(t) for t in stamps], rel=1e-9)

        ratios = await venue.fetch_long_short_ratio(market, since, NOW)
        stamps = ratios["time"].dt.epoch("ms").to_list()
        assert stamps[-1] == NOW - PERIOD_MS
        assert ratios["long_short_ratio"].to_list() == [source.long_short_ratio(t - PERIOD_MS) for t in stamps]

        marks = await venue.fetch_mark_candles(market, since, NOW)
        assert marks is not None
        assert marks["mark_high"].to_list() == pytest.approx(
            [source.mark_candle(t).high for t in range(since, NOW, MINUTE_MS)]
        )

        funding = await venue.fetch_funding_rate(market, NOW - DAY_MS, NOW)
        assert funding.height == 3
        now = await venue.fetch_open_interest_now(market)
        assert now.value == pytest.approx(source.open_interest(NOW), rel=1e-9)
        rate = await venue.fetch_funding_rate_now(market)
        assert (rate.rate, rate.interval_ms) == (source.funding_rate(NOW), 8 * HOUR_MS)
        book = await venue.fetch_order_book(market, 15)
        assert len(book.bids) == 20
        assert book.bids[0, 0] < source.price(NOW - 1) < book.asks[0, 0]

    with_binance(test)


def test_statistics_older_than_the_venue_keeps_are_not_asked_for() -> None:
    async def test(venue: Binance, _server: VenueServer, _feed: Feed) -> None:
        table = await venue.fetch_open_interest(LINEAR_BTC, NOW - 90 * DAY_MS, NOW)
        first = table["time"].dt.epoch("ms").to_list()[0]
        assert NOW - 30 * DAY_MS <= first <= NOW - 30 * DAY_MS + 2 * PERIOD_MS
        assert (await venue.fetch_open_interest(LINEAR_BTC, NOW - 90 * DAY_MS, NOW - 60 * DAY_MS)).is_empty()

    with_binance(test, days=31)


def test_one_family_out_of_service_leaves_the_other() -> None:
    async def test(venue: Binance, server: VenueServer, _feed: Feed) -> None:
        server.faults["binance"].add(path="/dapi/", status=503, times=99)
        with pytest.raises(PartlyListed) as part:
            await venue.fetch_markets()
        assert {m.market.contract for m in part.value.found} == {"linear"}
        server.faults["binance"].add(path="/fapi/", status=503, times=99)
        with pytest.raises(SourceUnavailable):
            await venue.fetch_markets()

    with_binance(test)


def test_absurd_values_of_the_past_are_left_out_and_counted() -> None:
    def spoil(payload: Any) -> Any:
        payload[3]["sumOpenInterest"], payload[7]["sumOpenInterest"] = "0", "9e15"
        return payload

    async def test(venue: Binance, server: VenueServer, _feed: Feed) -> None:
        server.faults["binance"].add(path="openInterestHist", edit=spoil)
        table = await venue.fetch_open_interest(LINEAR_BTC, NOW - HOUR_MS, NOW)
        assert table.height == 10
        assert venue.health.rejected == {
            ("open_interest", "not above 0"): 1,
            ("open_interest", "sudden jump"): 1,
        }

    with_binance(test)


async def taken(stream: AsyncIterator[_Item], into: list[_Item]) -> None:
    async with aclosing(stream) as items:  # type: ignore[type-var]
        async for item in items:
            into.append(item)  # noqa: PERF401 - what came so far counts when this is cancelled


@asynccontextmanager
async def following(server: VenueServer, *readers: Awaitable[None], subscriptions: int) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(reader) for reader in readers]
    await server.subscribed("binance", subscriptions)
    yield
    await asyncio.sleep(0.1)  # what is under way arrives
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def expected_prints(feed: Feed, market: Market, since_ms: int) -> list[Liquidation]:
    return feed.market("binance", market.base).prints(since_ms, feed.now_ms)


def by_market(items: list[tuple[Market, Liquidation]], market: Market) -> list[Liquidation]:
    return [print_ for where, print_ in items if where == market]


def assert_prints_equal(got: list[Liquidation], wanted: list[Liquidation]) -> None:
    assert [(p.time_ms, p.side, p.price) for p in got] == [(p.time_ms, p.side, p.price) for p in wanted]
    for column in set(LIQUIDATIONS) - {"time", "side", "price"}:
        assert [getattr(p, column) for p in got] == pytest.approx([getattr(p, column) for p in wanted], rel=1e-6)


def test_every_print_arrives_once_and_every_candle_closes_once() -> None:
    async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
        prints: list[tuple[Market, Liquidation]] = []
        ticks: list[tuple[Market, Candle, bool]] = []
        markets = [LINEAR_BTC, INVERSE_BTC]
        readers = (taken(venue.watch_liquidations(markets), prints), taken(venue.watch_candles(markets), ticks))
        async with following(server, *readers, subscriptions=4):
            await feed.advance(10 * MINUTE_MS)
            wanted = 2 * len(expected_prints(feed, LINEAR_BTC, NOW))
            await until(lambda: len(prints) >= wanted and sum(closed for *_, closed in ticks) >= 20)
        source = feed.market("binance", "BTC")
        for market in markets:
            assert_prints_equal(by_market(prints, market), expected_prints(feed, market, NOW))
            closed = [candle for where, candle, is_closed in ticks if is_closed and where == market]
            assert closed == [source.closed(NOW + i * MINUTE_MS) for i in range(10)]
        assert len(prints) > 10
        assert not venue.health.rejected

    with_binance(test)


def test_twice_late_absurd_and_unreadable_messages_change_nothing() -> None:
    def spoil(messages: list[Any]) -> list[Any]:
        spoiled: list[Any] = []
        for message in messages:
            spoiled += [message, message, "{not json"[1:], {"e": "kline"}, {"e": "forceOrder", "o": {}}]
            if message["e"] == "forceOrder":
                order = message["o"]
                spoiled += [message | {"o": order | {"ap": "0"}}, message | {"o": order | {"T": order["T"] + DAY_MS}}]
            else:
                kline = message["k"]
                spoiled.append(message | {"k": kline | {"t": kline["t"] - MINUTE_MS, "x": True}})
                spoiled.append(message | {"k": kline | {"l": "-1"}})
        return spoiled

    async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
        prints: list[tuple[Market, Liquidation]] = []
        ticks: list[tuple[Market, Candle, bool]] = []
        readers = (
            taken(venue.watch_liquidations([LINEAR_BTC]), prints),
            taken(venue.watch_candles([LINEAR_BTC]), ticks),
        )
        async with following(server, *readers, subscriptions=2):
            await feed.advance(2 * MINUTE_MS)  # one closed candle goes before, so that late ones are late
            server.faults["binance"].rewrite = spoil
            await feed.advance(5 * MINUTE_MS)
            wanted = expected_prints(feed, LINEAR_BTC, NOW)
            await until(lambda: len(prints) >= len(wanted) and sum(closed for *_, closed in ticks) >= 7)
        source = feed.market("binance", "BTC")
        assert_prints_equal(by_market(prints, LINEAR_BTC), expected_prints(feed, LINEAR_BTC, NOW))
        closed = [candle for _, candle, is_closed in ticks if is_closed]
        assert closed == [source.closed(NOW + i * MINUTE_MS) for i in range(7)]
        reasons = {reason for _, reason in venue.health.rejected}
        assert reasons >= {
            "repeated message", "late or repeated message", "price not above 0",
            "price or quantity not above 0", "in the future",
        }  # fmt: skip
        assert venue.health.errors["BadPayload"] > 0
        assert not venue.health.reconnects

    with_binance(test)


def test_a_candle_has_not_closed_before_its_end_whoever_says_so() -> None:
    async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
        ticks: list[tuple[Market, Candle, bool]] = []
        async with following(server, taken(venue.watch_candles([LINEAR_BTC]), ticks), subscriptions=1):
            server.faults["binance"].rewrite = lambda messages: [m | {"k": m["k"] | {"x": True}} for m in messages]
            await feed.advance(MINUTE_MS // 2)
            await until(lambda: len(ticks) >= 3)
            assert not any(closed for *_, closed in ticks)
            server.faults["binance"].rewrite = None
            await feed.advance(MINUTE_MS)
            await until(lambda: any(closed for *_, closed in ticks))
        (over,) = [candle for _, candle, closed in ticks if closed]
        assert over == feed.market("binance", "BTC").closed(NOW)

    with_binance(test)


def test_a_delisted_market_does_not_stop_the_others() -> None:
    async def test(venue: Binance, server: VenueServer, feed: Feed) -> None:
        gone = Market("binance", "LUNA/USDT:USDT", "linear", LINEAR_BTC.brackets)
        ticks: list[tuple[Market, Candle, bool]] = []
        async with following(server, taken(venue.watch_candles([gone, LINEAR_BTC]), ticks), subscriptions=1):
            await feed.advance(MINUTE_MS)
            await until(lambda: bool(ticks))
        assert {market for market, *_ in ticks} == {LINEAR_BTC}
        assert venue.health.rejected == {("subscriptions", "refused by the venue"): 1}
        with pytest.raises(UnknownMarket, match="LUNA"):
            await taken(venue.watch_candles([gone]), [])

    with_binance(test)
