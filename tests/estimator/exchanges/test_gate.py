"""Gate: payloads as documented become frames in base coin; the real ccxt client against a local server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, LeverageBracket, Market, Side
from estimator.errors import BadPayload, RegionBlocked, UnknownMarket
from estimator.exchanges.edge import Health
from estimator.exchanges.gate import Gate
from estimator.exchanges.gate_payloads import (
    CAPABILITIES,
    STATS_MS,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_liquidation_message,
    parse_long_short_ratio,
    parse_markets,
    parse_open_interest,
    parse_order_book,
)
from estimator.exchanges.venue import Exchange
from tests.venues.contract import IMPATIENT, VenueContract
from tests.venues.harness import LAST_HOUR, MINUTE_START, NOW, Work, at_work, golden, listing, row, times
from tests.venues.wire_gate import WIRE

LINEAR_LISTED = parse_markets(golden("gate", "contracts"), golden("gate", "tickers"), "usdt", Health())
INVERSE_LISTED = parse_markets(golden("gate", "contracts_btc"), golden("gate", "tickers_btc"), "btc", Health())
LINEAR, INVERSE = LINEAR_LISTED[0], INVERSE_LISTED[0]
SYMBOLS = pytest.mark.parametrize("symbol", ["BTC/USDT:USDT", "BTC/USD:BTC"])


# Payloads


def test_listings_are_the_contracts_that_trade_and_that_we_can_name() -> None:
    health = Health()
    (one,) = parse_markets(golden("gate", "contracts"), golden("gate", "tickers"), "usdt", health)
    assert (one.market.symbol, one.native_id, one.contract_size) == ("BTC/USDT:USDT", "BTC_USDT", 0.0001)
    assert one.open_interest_usd == 5_000_000 * 0.0001 * 64_000
    assert one.funding_interval_ms == 8 * HOUR_MS
    assert health.rejected == {("markets", "symbol not supported"): 1}


def test_coin_settled_listings_leave_quanto_contracts_out() -> None:
    (one,) = INVERSE_LISTED
    assert (one.market.symbol, one.market.contract, one.contract_size) == ("BTC/USD:BTC", "inverse", 1.0)
    assert one.open_interest_usd == 32_000_000


def test_candles_count_contracts_times_their_size() -> None:
    table = parse_candles(golden("gate", "candlesticks"), LINEAR)
    assert row(table) == pytest.approx((1_760_000_040_000, 64000.1, 64050.0, 63990.5, 64020.3, 120.5))


def test_inverse_candles_turn_dollars_into_coins_at_the_typical_price() -> None:
    typical = (64050.0 + 63990.5 + 64020.3) / 3
    assert parse_candles(golden("gate", "candlesticks"), INVERSE)["volume"][0] == pytest.approx(1_205_000 / typical)


def test_statistics_are_known_at_the_end_of_their_five_minutes() -> None:
    payload = golden("gate", "contract_stats")
    known = 1_759_999_800_000 + STATS_MS
    assert row(parse_open_interest(payload, LINEAR)) == pytest.approx((known, 285.1725))
    assert row(parse_open_interest(payload, INVERSE)) == pytest.approx((known, 2_851_725 / 64_000))
    assert row(parse_long_short_ratio(payload)) == (known, 3.28)


def test_funding_is_a_fraction_of_either_sign() -> None:
    assert parse_funding_rate(golden("gate", "funding_rate"))["funding_rate"].to_list() == [0.000157, -0.0001]


def test_a_tier_starts_where_the_one_below_ends_and_keeps_maintenance_continuous() -> None:
    table = parse_brackets(golden("gate", "risk_limit_tiers"), "BTC_USDT")
    assert table.brackets == (LeverageBracket(0.0, 125.0, 0.004, 0.0), LeverageBracket(20_000.0, 100.0, 0.005, 20.0))
    assert table.source.startswith("public")


def test_without_a_deduction_the_amount_follows_from_the_rates() -> None:
    payload = [{k: v for k, v in tier.items() if k != "deduction"} for tier in golden("gate", "risk_limit_tiers")]
    assert parse_brackets(payload, "BTC_USDT").brackets[1].maintenance_amount == pytest.approx(20.0)


def test_streamed_prints_tell_the_order_so_the_sign_is_the_other_way_round() -> None:
    message = golden("gate", "public_liquidates")
    (_, sold), (_, bought) = parse_liquidation_message(message, {"BTC_USDT": LINEAR})
    assert (sold.side, sold.time_ms, sold.price) == (Side.LONG, 1_541_486_601_123, 215.1)
    assert bought.side is Side.SHORT
    assert sold.quantity_base == pytest.approx(0.0124)
    assert sold.notional_usd == pytest.approx(0.0124 * 215.1)


def test_a_print_stamped_in_seconds_as_before_august_2026_is_read_too() -> None:
    message = golden("gate", "public_liquidates")
    message["result"][0]["time"] = 1_541_486_601
    (_, first), _ = parse_liquidation_message(message, {"BTC_USDT": LINEAR})
    assert first.time_ms == 1_541_486_601_000


def test_a_candle_message_says_whether_its_window_is_over() -> None:
    message = golden("gate", "candlestick_message")
    ((market, candle, closed),) = parse_candle_message(message, {"BTC_USDT": LINEAR})
    assert (market, candle.time_ms, closed) == (LINEAR.market, 1_760_000_040_000, True)
    assert candle.volume == pytest.approx(120.5)


def test_the_book_is_in_base_coin() -> None:
    book = parse_order_book(golden("gate", "order_book"), LINEAR)
    assert (book.time_ms, book.bids.tolist(), book.asks.tolist()) == (
        1_760_000_100_123, [[64000.0, 1.0], [63999.0, 0.5]], [[64001.0, 2.0]],
    )  # fmt: skip


def test_a_payload_of_another_shape_names_endpoint_and_field() -> None:
    payload = golden("gate", "contract_stats")
    payload[0]["open_interest"] = None
    with pytest.raises(BadPayload) as caught:
        parse_open_interest(payload, LINEAR)
    assert (caught.value.endpoint, caught.value.field) == ("contract_stats", "open_interest")


# Over sockets


def _zero_price(payload: Any) -> Any:
    payload[3]["l"] = "0"
    return payload


def _no_prices(payload: Any) -> Any:
    return [{"t": row["t"], "v": row["v"]} for row in payload]


class TestGate(VenueContract):
    wire = WIRE
    candle_path = "/futures/usdt/candlesticks"
    candle_field = "o"
    ratio_known_after_ms = 0  # the wire gives a row the value at its end
    absurd = staticmethod(_zero_price)
    drifted = staticmethod(_no_prices)

    def make(self, base: str, clock: Callable[[], int]) -> Gate:
        return Gate(exchange_base=base, patience=IMPATIENT, throttle=False, clock=clock)


@SYMBOLS
def test_the_past_is_that_of_the_market_in_base_coin(symbol: str) -> None:
    async def story(work: Work[Gate]) -> None:
        exchange: Exchange = work.venue
        market, source, since = work.markets[symbol], work.bitcoin, MINUTE_START - DAY_MS - HOUR_MS
        candles = await exchange.fetch_candles(market, since, NOW + HOUR_MS)
        assert times(candles) == list(range(since, MINUTE_START, MINUTE_MS))
        for column in ("open", "high", "low", "close", "volume"):
            want = [getattr(source.closed(t), column) for t in times(candles)]
            assert candles[column].to_list() == pytest.approx(want, rel=1e-6), column

        held = await exchange.fetch_open_interest(market, since, NOW + HOUR_MS)
        assert times(held) == list(range(since, NOW, STATS_MS))
        assert held["open_interest"].to_list() == pytest.approx([source.open_interest(t) for t in times(held)])
        ratio = await exchange.fetch_long_short_ratio(market, since, NOW + HOUR_MS)
        assert ratio["long_short_ratio"].to_list() == [source.long_short_ratio(t) for t in times(held)]
        now = await exchange.fetch_open_interest_now(market)
        assert now.time_ms == NOW
        assert now.value == pytest.approx(source.open_interest(NOW))

    at_work(Gate, WIRE, story)


@SYMBOLS
def test_funding_tiers_marks_and_the_book(symbol: str) -> None:
    async def story(work: Work[Gate]) -> None:
        market, source = work.markets[symbol], work.bitcoin
        funding = await work.venue.fetch_funding_rate(market, NOW - 2 * DAY_MS, NOW + HOUR_MS)
        assert times(funding) == [t for t in range(0, NOW, 8 * HOUR_MS) if t >= NOW - 2 * DAY_MS]
        assert funding["funding_rate"].to_list() == [source.funding_rate(t) for t in times(funding)]
        rate = await work.venue.fetch_funding_rate_now(market)
        assert (rate.rate, rate.interval_ms) == (source.funding_rate(NOW), 8 * HOUR_MS)
        marks = await work.venue.fetch_mark_candles(market, *LAST_HOUR)
        assert marks["mark_high"].to_list() == [source.mark_candle(t).high for t in times(marks)]
        assert len((await work.venue.fetch_brackets(market)).brackets) == 3
        book = await work.venue.fetch_order_book(market, 20)
        assert len(book.bids) == 20
        assert book.bids[0, 0] < source.price(NOW - 1) < book.asks[0, 0]

    at_work(Gate, WIRE, story, days=3)


def test_candles_older_than_the_venue_keeps_are_not_asked_for() -> None:
    async def story(work: Work[Gate]) -> None:
        got = await work.venue.fetch_candles(work.markets["BTC/USDT:USDT"], NOW - 8 * DAY_MS, NOW)
        depth = CAPABILITIES.candles.depth_ms
        assert depth is not None
        assert NOW - depth <= times(got)[0] <= NOW - depth + 2 * MINUTE_MS
        assert not work.venue.health.errors

    at_work(Gate, WIRE, story, days=9)


def test_every_print_arrives_once_though_messages_come_twice() -> None:
    async def story(work: Work[Gate]) -> None:
        work.faults.rewrite = lambda messages: [*messages, *messages]
        markets = [work.markets["BTC/USDT:USDT"], work.markets["BTC/USD:BTC"]]
        async with work.following(markets, prints=True, subscriptions=4):
            await work.feed.advance(10 * MINUTE_MS)
        want = work.bitcoin.prints(NOW, work.feed.now_ms)
        assert len(want) > 5
        for market in markets:
            got = [p for where, p in work.prints if where == market]
            assert [(p.time_ms, p.side, p.price) for p in got] == [(p.time_ms, p.side, p.price) for p in want]
            assert [p.quantity_base for p in got] == pytest.approx([p.quantity_base for p in want], rel=1e-3)

    at_work(Gate, WIRE, story)


def test_every_candle_closes_once_with_or_without_the_venue_saying_so() -> None:
    def silenced(messages: list[Any]) -> list[Any]:
        for message in messages:
            for one in message["result"]:
                one.pop("w", None)
        return messages

    async def story(work: Work[Gate]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        async with work.following([market], subscriptions=1):
            await work.feed.advance(3 * MINUTE_MS)
            work.faults.rewrite = silenced
            await work.feed.advance(3 * MINUTE_MS)
        got = work.closed(market)
        assert [c.time_ms for c in got] == [MINUTE_START + i * MINUTE_MS for i in range(6)]
        for one in got:
            want = work.bitcoin.closed(one.time_ms)
            assert (one.open, one.high, one.low, one.close) == (want.open, want.high, want.low, want.close)
            assert one.volume == pytest.approx(want.volume)
        assert not work.venue.health.rejected

    at_work(Gate, WIRE, story)


def test_after_a_lost_connection_no_candle_with_missing_trades_is_called_closed() -> None:
    async def story(work: Work[Gate]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        async with work.following([market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
            await work.drop_sockets()
            await work.feed.advance(MINUTE_MS)  # nobody hears
            await work.server.subscribed("gate", 1)
            await work.feed.advance(2 * MINUTE_MS)
        got = work.closed(market)
        assert all(c.volume == pytest.approx(work.bitcoin.closed(c.time_ms).volume) for c in got)
        assert len(got) == 3
        assert work.venue.health.reconnects == {"candles": 1}
        assert [gap.what for gap in work.venue.health.gaps] == ["candles"]

    at_work(Gate, WIRE, story)


def test_a_contract_that_is_refused_or_unlisted_does_not_stop_the_others() -> None:
    async def story(work: Work[Gate]) -> None:
        market, ether = work.markets["BTC/USDT:USDT"], work.markets["ETH/USDT:USDT"]
        unlisted = Market("gate", "LUNA/USDT:USDT", "linear", market.brackets)
        work.feed.coins = ("BTC",)  # ETH is taken off the list meanwhile
        async with work.following([unlisted, ether, market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
        assert {where for where, _, _ in work.ticks} == {market}
        assert work.venue.health.rejected == {("subscriptions", "refused by the venue"): 2}

    at_work(Gate, WIRE, story)


def test_faults_are_told_by_kind_and_unlisted_markets_as_such() -> None:
    async def story(work: Work[Gate]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        work.faults.add(path="/candlesticks", status=503)
        work.faults.add(path="/candlesticks", cut_at=0.5)
        assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60
        assert work.venue.health.errors == {"VenueDown": 1, "BadPayload": 1}
        work.faults.add(path="/candlesticks", status=451, times=9)
        with pytest.raises(RegionBlocked):
            await work.venue.fetch_candles(market, *LAST_HOUR)
        with pytest.raises(UnknownMarket):
            await work.venue.fetch_candles(Market("gate", "LUNA/USDT:USDT", "linear", market.brackets), *LAST_HOUR)

    at_work(Gate, WIRE, story)


def test_absurd_values_are_left_out_and_counted() -> None:
    def spoiled(payload: Any) -> Any:
        payload[1]["open_interest"], payload[5]["open_interest"] = 0, 9e15
        return payload

    async def story(work: Work[Gate]) -> None:
        work.faults.add(path="/contract_stats", edit=spoiled)
        got = await work.venue.fetch_open_interest(work.markets["BTC/USDT:USDT"], *LAST_HOUR)
        assert got.height == 10
        assert work.venue.health.rejected == {
            ("open_interest", "not above 0"): 1,
            ("open_interest", "sudden jump"): 1,
        }

    at_work(Gate, WIRE, story)


def test_listings_over_the_wire_come_largest_first() -> None:
    async def story(work: Work[Gate]) -> None:
        listings = await work.venue.fetch_markets()
        sizes = [one.open_interest_usd or 0.0 for one in listings]
        assert sizes == sorted(sizes, reverse=True)
        assert set(work.markets) == {"BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USD:BTC"}
        assert listing(listings, "BTC/USD:BTC").open_interest_usd == pytest.approx(2e9, rel=0.2)

    at_work(Gate, WIRE, story)
