"""OKX: contracts become coins, periods are known at their end, and a sell closes a long."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, LeverageBracket, Liquidation, Market, Side
from estimator.errors import BadPayload, UnknownMarket
from estimator.exchanges import okx_payloads as payloads
from estimator.exchanges.edge import Health
from estimator.exchanges.okx import Okx
from estimator.exchanges.venue import Exchange, FundingRate, MarketListing
from tests.venues.contract import HOUR, IMPATIENT, NOW, PulseContract, times
from tests.venues.feed import OI_EVERY_MS
from tests.venues.server import VenueServer
from tests.venues.wire_okx import WIRE, OkxWire

GOLDEN = Path(__file__).parents[2] / "venues" / "golden" / "okx"
MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
FIXTURES = MARKET_DATA / "wire-fixtures-nautilus" / "okx"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.exists(), reason="no recorded payloads; set LIQHEAT_MARKET_DATA to the folder of the market data"
)
BRACKETS = (LeverageBracket(0.0, 100.0, 0.005),)
LINEAR = Market("okx", "IOST/USDT:USDT", "linear", BRACKETS)
INVERSE = Market("okx", "BTC/USD:BTC", "inverse", BRACKETS)
LISTED = {
    "IOST-USDT-SWAP": MarketListing(LINEAR, "IOST-USDT-SWAP", 1000.0, "public"),
    "BTC-USD-SWAP": MarketListing(INVERSE, "BTC-USD-SWAP", 100.0, "public"),
}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def _zero_price(payload: Any) -> Any:
    payload["data"][5][3] = "0"
    return payload


def _no_prices(payload: Any) -> Any:
    payload["data"] = [[row[0], *[None] * 7, "1"] for row in payload["data"]]
    return payload


class TestOkx(PulseContract):
    wire = WIRE
    candle_path = "/api/v5/market/candles"
    open_interest_known_after_ms = OI_EVERY_MS
    absurd = staticmethod(_zero_price)
    drifted = staticmethod(_no_prices)

    def make(self, base: str, clock: Callable[[], int]) -> Okx:
        return Okx(exchange_base=base, patience=IMPATIENT, throttle=False, clock=clock)

    def test_statistics_are_fine_for_five_days_and_hourly_before(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, since = self.feed_of(server), NOW - 30_000 - 7 * DAY_MS
            got = await venue.fetch_open_interest(markets[self.linear], since, NOW)
            stamps = times(got)
            steps = {b - a for a, b in pairwise(stamps)}
            assert stamps[0] == since
            assert {OI_EVERY_MS, HOUR_MS} <= steps
            assert max(steps) == HOUR_MS
            fine = [t for t in stamps if t > NOW - 5 * DAY_MS + HOUR_MS]
            assert len(fine) == (NOW - 30_000 - fine[0]) // OI_EVERY_MS + 1
            want = [feed.open_interest(t - OI_EVERY_MS) for t in fine]
            assert got["open_interest"].to_list()[-len(fine) :] == pytest.approx(want)

        self.run(story, days=8)

    def test_no_open_interest_is_known_before_its_period_is_over(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            await server.feed.advance(2 * MINUTE_MS)  # 09:02:30, in the middle of a period
            got = await venue.fetch_open_interest(markets[self.linear], NOW - HOUR_MS, NOW + HOUR_MS)
            assert times(got)[-1] == NOW - 30_000

        self.run(story)

    def test_too_many_requests_are_waited_out(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            body = '{"code":"50011","msg":"Requests too frequent","data":[]}'
            server.faults["okx"].add(path=self.candle_path, status=429, body=body)
            assert (await venue.fetch_candles(markets[self.linear], *HOUR)).height == 60
            assert venue.health.errors == {"RateLimited": 1}

        self.run(story)

    @pytest.mark.parametrize("kind", ["linear", "inverse"])
    def test_past_prints_go_back_a_day_page_by_page(self, kind: str) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            since = NOW - 20 * HOUR_MS
            got = await venue.fetch_liquidations(markets[getattr(self, kind)], since, NOW - HOUR_MS)
            want = self.feed_of(server).prints(since, NOW - HOUR_MS)
            assert len(want) > 1000
            assert times(got) == [p.time_ms for p in want]
            assert got["side"].to_list() == [p.side.value for p in want]
            assert got["quantity_base"].to_list() == pytest.approx([p.quantity_base for p in want])

        self.run(story)

    def test_an_order_shown_twice_in_the_past_is_one(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            def twice(payload: Any) -> Any:
                payload["data"][0]["details"] *= 2
                return payload

            server.faults["okx"].add(path="/public/liquidation-orders", edit=twice)
            got = await venue.fetch_liquidations(markets[self.linear], *HOUR)
            assert times(got) == [p.time_ms for p in self.feed_of(server).prints(*HOUR)]

        self.run(story)

    def test_brackets_bounded_in_contracts_become_notional_at_the_price(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            price = self.feed_of(server).price(NOW - 1)
            linear = await venue.fetch_brackets(markets[self.linear])
            inverse = await venue.fetch_brackets(markets[self.inverse])
            assert linear.brackets[1].notional_floor == pytest.approx(1000 * 0.01 * price)
            assert inverse.brackets[1].notional_floor == pytest.approx(1000 * 100 / price)
            assert linear.source.startswith("public, contracts at ")

        self.run(story)


def test_a_venue_that_sends_less_than_was_asked_for_loses_nothing() -> None:
    contract = TestOkx()
    contract.wire = OkxWire(largest_page=100)
    contract.test_candles_are_those_of_the_feed_over_several_pages("linear")


def test_a_market_has_the_name_okx_gives_it() -> None:
    assert payloads.native_id(LINEAR) == "IOST-USDT-SWAP"
    assert payloads.native_id(INVERSE) == "BTC-USD-SWAP"
    assert payloads.family(INVERSE) == "BTC-USD"


def test_volume_is_base_coin_and_an_unconfirmed_candle_is_left_out() -> None:
    got = payloads.parse_candles(golden("candles"))
    assert got["volume"].to_list() == [10.5401, 13.5937]
    assert times(got) == [1_678_928_700_000, 1_678_928_640_000]


def test_statistics_are_stamped_with_the_end_of_their_period_in_coins() -> None:
    got = payloads.parse_open_interest(golden("open_interest_history"), HOUR_MS)
    assert got.rows()[0][1] == 28006.5419
    assert times(got) == [1_790_550_000_000 + HOUR_MS, 1_790_546_400_000 + HOUR_MS]
    ratio = payloads.parse_long_short_ratio(golden("account_ratio"), OI_EVERY_MS)
    assert times(ratio)[0] == 1_729_323_600_000 + OI_EVERY_MS


def test_funding_is_what_was_paid_where_the_venue_says_so() -> None:
    got = payloads.parse_funding_rate(golden("funding_rate_history"))
    assert got["funding_rate"].to_list() == [0.00015, -0.0000236017]


def test_funding_now_carries_its_interval() -> None:
    rates = payloads.parse_by_name(golden("funding_rate"), "funding-rate")
    rate = payloads.parse_funding_rate_now(rates, INVERSE)
    assert rate == FundingRate(1_700_724_675_402, 0.0001875391284828, 8 * HOUR_MS)
    with pytest.raises(UnknownMarket):
        payloads.parse_funding_rate_now(rates, LINEAR)


def test_a_tier_holds_for_the_whole_position_so_nothing_is_deducted() -> None:
    tiers = payloads.parse_brackets(golden("position_tiers"), LINEAR, 0.01, 60_000.0)
    assert [b.notional_floor for b in tiers] == [0, 600_000, 3_000_000]
    assert [b.maintenance_margin_rate for b in tiers] == [0.004, 0.006, 0.01]
    assert [b.maintenance_amount for b in tiers] == [0, 0, 0]
    with pytest.raises(UnknownMarket):
        payloads.parse_brackets({"data": []}, LINEAR, 0.01, 60_000.0)


def test_a_sell_closes_a_long_at_its_bankruptcy_price() -> None:
    (_, short), (market, long) = payloads.parse_liquidations(golden("ws_liquidation_orders"), LISTED)
    assert short == Liquidation(1_692_266_434_010, Side.SHORT, 0.007831, 13_000.0, 13_000 * 0.007831)
    assert market is INVERSE
    assert (long.side, long.quantity_base, long.notional_usd) == (Side.LONG, 500 / 25_000, 500.0)


def test_a_side_that_contradicts_the_position_is_not_guessed() -> None:
    message = golden("ws_liquidation_orders")
    message["data"][0]["details"][0]["posSide"] = "long"
    with pytest.raises(BadPayload, match="cannot close"):
        payloads.parse_liquidations(message, LISTED)


def test_the_book_is_turned_from_contracts_into_coins() -> None:
    linear = payloads.parse_order_book(golden("books"), "linear", 0.01)
    inverse = payloads.parse_order_book(golden("books"), "inverse", 100.0)
    assert linear.asks.tolist() == [[50_000.0, 2.56]]
    assert inverse.asks.tolist() == [[50_000.0, 256 * 100 / 50_000]]


def test_swaps_of_another_kind_are_counted_and_left_out() -> None:
    health = Health()
    listings = payloads.parse_markets(golden("instruments"), golden("tickers"), {"data": []}, health)
    assert [one.native_id for one in listings] == ["ETH-USDT-SWAP"]
    assert listings[0].contract_size == 0.1
    assert listings[0].volume_usd == pytest.approx(2222 * 3000)
    assert health.rejected == {("markets", "a market of another kind"): 1}


def test_instruments_that_all_lack_a_field_are_schema_drift() -> None:
    instruments = golden("instruments")
    for row in instruments["data"]:
        row.pop("ctVal")
    with pytest.raises(BadPayload) as caught:
        payloads.parse_markets(instruments, golden("tickers"), {"data": []}, Health())
    assert (caught.value.endpoint, caught.value.field) == ("instruments", "ctVal")


def test_prints_of_a_market_that_is_gone_do_not_stop_the_others() -> None:
    contract = TestOkx()

    async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
        gone = Market("okx", "LUNA/USDT:USDT", "linear", BRACKETS)
        want = contract.feed_of(server).prints(NOW, NOW + 5 * MINUTE_MS)
        both = [gone, markets[contract.linear]]
        got = await contract.prints_while(server, venue, both, lambda: server.feed.advance(5 * MINUTE_MS), len(want))
        assert [one.time_ms for _, one in got] == [one.time_ms for one in want]
        with pytest.raises(UnknownMarket):
            await asyncio.wait_for(anext(venue.watch_liquidations([gone])), 2)
        with pytest.raises(UnknownMarket):
            await venue.fetch_order_book(gone, 5)

    contract.run(story)


@needs_fixtures
def test_recorded_payloads_are_read() -> None:
    def recorded(name: str) -> Any:
        return json.loads((FIXTURES / name).read_text())

    assert payloads.parse_candles(recorded("http_get_candlesticks.json")).is_empty()  # none is confirmed
    full = payloads.parse_candles(recorded("http_get_candlesticks_full.json"))
    assert full.row(0)[1:] == (102806.1, 102820.4, 102806.1, 102820.4, 10.4037)
    funding = payloads.parse_funding_rate(recorded("http_get_funding_rate_history.json"))
    assert funding["funding_rate"].to_list() == [0.00015, -0.00002]
    assert payloads.parse_mark_price(recorded("http_get_mark_price.json")) == 84660.1
    listings = payloads.parse_markets(recorded("http_get_instruments_swap.json"), {"data": []}, {"data": []}, Health())
    sizes = {one.native_id: (one.contract_size, one.market.contract) for one in listings}
    assert sizes["BTC-USD-SWAP"] == (100.0, "inverse")
    assert sizes["ETH-USDT-SWAP"] == (0.1, "linear")
    ((_, candle, closed),) = payloads.parse_candle_message(recorded("ws_candle.json"), {"BTC-USDT": LINEAR})
    assert (candle.close, candle.volume, closed) == (8548.26, 529.5858061, True)
