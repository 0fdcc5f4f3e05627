"""Bitget: payloads as documented become frames in base coin; the real ccxt client against a local server."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, LeverageBracket, Market, Observation, Side
from estimator.errors import BadPayload, RateLimited, UnknownMarket
from estimator.exchanges.bitget import Bitget
from estimator.exchanges.bitget_payloads import (
    CAPABILITIES,
    RATIO_MS,
    RECENT_CANDLES_MS,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_liquidation_message,
    parse_long_short_ratio,
    parse_markets,
    parse_open_interest_now,
    parse_order_book,
)
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import Exchange
from tests.venues.harness import LAST_HOUR, MINUTE_START, NOW, Work, at_work, golden, row, times
from tests.venues.wire_bitget import RATIO_ROWS, WIRE

(LISTED,) = parse_markets(golden("bitget", "contracts"), golden("bitget", "tickers"), "USDT", Health())
BITCOIN = LISTED.market
NAMED = {"BTCUSDT": LISTED}
SYMBOLS = pytest.mark.parametrize("symbol", ["BTC/USDT:USDT", "BTC/USDC:USDC"])


# Payloads


def test_listings_are_the_perpetuals_that_trade() -> None:
    assert (BITCOIN.symbol, LISTED.native_id, LISTED.contract_size) == ("BTC/USDT:USDT", "BTCUSDT", 1.0)
    assert LISTED.open_interest_usd == pytest.approx(52234.134 * 64_000)
    assert LISTED.funding_interval_ms == 8 * HOUR_MS
    assert LISTED.bracket_source.startswith("rule")
    assert BITCOIN.maintenance_fee_rate == 0.0006


def test_candles_are_in_base_coin() -> None:
    assert row(parse_candles(golden("bitget", "candles"))) == (
        1_760_000_040_000, 64000.1, 64050.0, 63990.5, 64020.3, 120.5,
    )  # fmt: skip


def test_open_interest_is_stamped_by_the_venue() -> None:
    payload = golden("bitget", "open_interest")
    assert parse_open_interest_now(payload, "BTCUSDT") == Observation(1_700_866_041_023, 52234.134)
    with pytest.raises(BadPayload, match="ETHUSDT"):
        parse_open_interest_now(payload, "ETHUSDT")


def test_the_ratio_is_that_of_the_shares_and_known_at_the_end_of_its_period() -> None:
    known, ratio = row(parse_long_short_ratio(golden("bitget", "account_long_short")))
    assert (known, ratio) == (1_729_312_200_000 + RATIO_MS, pytest.approx(0.58 / 0.42))


def test_funding_past_and_present() -> None:
    assert row(parse_funding_rate(golden("bitget", "history_fund_rate"))) == (1_652_396_400_000, -0.0003)
    now = parse_funding_rate_now(golden("bitget", "current_fund_rate"), NOW)
    assert (now.rate, now.interval_ms) == (-0.000013, 8 * HOUR_MS)


def test_tiers_keep_maintenance_continuous() -> None:
    table = parse_brackets(golden("bitget", "query_position_lever"))
    first, second = table.brackets
    assert first == LeverageBracket(0.0, 125.0, 0.004, 0.0)
    assert (second.notional_floor, second.max_leverage) == (150_000.0, 100.0)
    assert second.maintenance_amount == pytest.approx(150.0)


def test_tiers_that_do_not_start_at_0_are_refused() -> None:
    payload = golden("bitget", "query_position_lever")
    del payload["data"][1]
    with pytest.raises(BadPayload, match="rise from 0"):
        parse_brackets(payload)


def test_the_side_of_a_print_is_that_of_the_position_and_its_amount_is_in_dollars() -> None:
    (_, long), (_, short) = parse_liquidation_message(golden("bitget", "liquidation_message"), NAMED)
    assert (long.side, long.price, long.notional_usd) == (Side.LONG, 89_000.0, 37.722858)
    assert long.quantity_base == pytest.approx(37.722858 / 89_000)
    assert short.side is Side.SHORT
    assert short.quantity_base == pytest.approx(0.1)


def test_a_side_that_is_not_documented_is_not_guessed() -> None:
    message = golden("bitget", "liquidation_message")
    message["data"][0]["side"] = "close"
    with pytest.raises(BadPayload, match="side"):
        parse_liquidation_message(message, NAMED)


def test_of_a_snapshot_only_the_last_candle_is_news() -> None:
    ((market, candle, closed),) = parse_candle_message(golden("bitget", "candle_snapshot"), NAMED)
    assert (market, candle.time_ms, candle.volume, closed) == (BITCOIN, 1_701_871_680_000, 17.139, False)


def test_the_book_is_in_base_coin() -> None:
    book = parse_order_book(golden("bitget", "merge_depth"))
    assert (book.bids.tolist(), book.asks.tolist()) == ([[64000.5, 1.773]], [[64001.0, 11.026]])


# Over sockets


@SYMBOLS
def test_the_past_is_that_of_the_market(symbol: str) -> None:
    async def story(work: Work[Bitget]) -> None:
        exchange: Exchange = work.venue
        market, source, since = work.markets[symbol], work.bitcoin, MINUTE_START - DAY_MS
        candles = await exchange.fetch_candles(market, since, NOW + HOUR_MS)
        assert times(candles) == list(range(since, MINUTE_START, MINUTE_MS))
        for column in ("open", "high", "low", "close", "volume"):
            assert candles[column].to_list() == [getattr(source.closed(t), column) for t in times(candles)], column
        marks = await exchange.fetch_mark_candles(market, *LAST_HOUR)
        assert marks is not None
        assert marks["mark_low"].to_list() == [source.mark_candle(t).low for t in times(marks)]
        funding = await exchange.fetch_funding_rate(market, NOW - DAY_MS, NOW)
        assert funding["funding_rate"].to_list() == [source.funding_rate(t) for t in times(funding)]
        assert funding.height == 3
        now = await exchange.fetch_open_interest_now(market)
        assert now == Observation(NOW, source.open_interest(NOW))
        assert (await exchange.fetch_funding_rate_now(market)).rate == source.funding_rate(NOW)
        assert len((await exchange.fetch_brackets(market)).brackets) == 3
        book = await exchange.fetch_order_book(market, 100)
        assert len(book.bids) >= 100
        assert book.bids[0, 0] < source.price(NOW) < book.asks[0, 0]

    at_work(Bitget, WIRE, story)


def test_candles_before_and_after_the_thirty_days_join_without_a_seam() -> None:
    async def story(work: Work[Bitget]) -> None:
        seam = NOW - RECENT_CANDLES_MS
        market, since, until = work.markets["BTC/USDT:USDT"], seam - 5 * HOUR_MS, seam + 5 * HOUR_MS
        candles = await work.venue.fetch_candles(market, since, until)
        first = -(-since // MINUTE_MS) * MINUTE_MS
        assert times(candles) == list(range(first, until, MINUTE_MS))
        asked = {call.path.rpartition("/")[2] for call in work.server.calls}
        assert {"candles", "history-candles"} <= asked
        marks = await work.venue.fetch_mark_candles(market, since, until)
        assert times(marks) == times(candles)

    at_work(Bitget, WIRE, story, days=31)


def test_funding_goes_back_page_by_page() -> None:
    async def story(work: Work[Bitget]) -> None:
        since = NOW - 40 * DAY_MS
        funding = await work.venue.fetch_funding_rate(work.markets["BTC/USDT:USDT"], since, NOW)
        assert times(funding) == [t for t in range(0, NOW, 8 * HOUR_MS) if t >= since]
        pages = [call.query["pageNo"] for call in work.server.calls if "fund-rate" in call.path]
        assert pages == ["1", "2"]

    at_work(Bitget, WIRE, story, days=60)


def test_what_has_no_history_is_empty_and_said_to_be() -> None:
    async def story(work: Work[Bitget]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        assert (await work.venue.fetch_open_interest(market, *LAST_HOUR)).is_empty()
        assert CAPABILITIES.open_interest_history is None
        ratio = await work.venue.fetch_long_short_ratio(market, NOW - DAY_MS, NOW + HOUR_MS)
        assert times(ratio) == [MINUTE_START - i * RATIO_MS for i in reversed(range(RATIO_ROWS - 1))]
        want = [work.bitcoin.long_short_ratio(t) for t in times(ratio)]
        assert ratio["long_short_ratio"].to_list() == pytest.approx(want)

    at_work(Bitget, WIRE, story)


def test_every_print_arrives_once_though_messages_come_twice() -> None:
    async def story(work: Work[Bitget]) -> None:
        work.faults.rewrite = lambda messages: [*messages, *messages]
        async with work.following([work.markets["BTC/USDT:USDT"]], prints=True, subscriptions=2):
            await work.feed.advance(10 * MINUTE_MS)
        want = work.bitcoin.prints(NOW, work.feed.now_ms)
        assert [(p.time_ms, p.side, p.price, p.notional_usd) for _, p in work.prints] == [
            (p.time_ms, p.side, p.price, p.notional_usd) for p in want
        ]

    at_work(Bitget, WIRE, story)


def test_a_candle_closes_when_the_next_one_comes() -> None:
    async def story(work: Work[Bitget]) -> None:
        markets = [work.markets["BTC/USDT:USDT"], work.markets["ETH/USDT:USDT"]]
        async with work.following(markets, subscriptions=2):
            await work.feed.advance(5 * MINUTE_MS)
        for market in markets:
            source = work.feed.market("bitget", market.base)
            got = work.closed(market)
            assert [c.time_ms for c in got] == [MINUTE_START + i * MINUTE_MS for i in range(5)]
            assert [c.volume for c in got] == [source.closed(c.time_ms).volume for c in got]

    at_work(Bitget, WIRE, story)


def test_after_a_lost_connection_no_candle_with_missing_trades_is_called_closed() -> None:
    async def story(work: Work[Bitget]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        async with work.following([market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
            await work.drop_sockets()
            await work.feed.advance(MINUTE_MS)  # nobody hears
            await work.server.subscribed("bitget", 1)
            await work.feed.advance(2 * MINUTE_MS)
        got = work.closed(market)
        assert [c.volume for c in got] == [work.bitcoin.closed(c.time_ms).volume for c in got]
        assert len(got) >= 2
        assert work.venue.health.reconnects == {"candles": 1}

    at_work(Bitget, WIRE, story)


def test_unreadable_messages_are_counted_and_the_stream_goes_on() -> None:
    def drifted(messages: list[Any]) -> list[Any]:
        return [{**m, "data": [{"symbol": "BTCUSDT", "side": "buy"}]} for m in messages] + messages

    async def story(work: Work[Bitget]) -> None:
        work.faults.rewrite = drifted
        async with work.following([work.markets["BTC/USDT:USDT"]], prints=True, subscriptions=2):
            await work.feed.advance(5 * MINUTE_MS)
        want = work.bitcoin.prints(NOW, work.feed.now_ms)
        assert len(work.prints) == len(want)
        assert work.venue.health.errors["BadPayload"] >= len(want)  # those of ETH came too

    at_work(Bitget, WIRE, story)


def test_a_pair_that_is_refused_does_not_stop_the_others() -> None:
    async def story(work: Work[Bitget]) -> None:
        market, ether = work.markets["BTC/USDT:USDT"], work.markets["ETH/USDT:USDT"]
        work.feed.coins = ("BTC",)  # ETH is taken off the list meanwhile
        async with work.following([ether, market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
        assert {where for where, _, _ in work.ticks} == {market}
        assert work.venue.health.rejected == {("subscriptions", "refused by the venue"): 1}

    at_work(Bitget, WIRE, story)


def test_faults_are_told_by_kind_and_unlisted_markets_as_such() -> None:
    async def story(work: Work[Bitget]) -> None:
        market = work.markets["BTC/USDT:USDT"]
        work.faults.add(path="/candles", status=429, headers={"retry-after": "0.1"})
        work.faults.add(path="/candles", drop=True)
        assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60
        assert work.venue.health.errors == {"RateLimited": 1, "VenueDown": 1}
        with pytest.raises(UnknownMarket):
            await work.venue.fetch_candles(Market("bitget", "LUNA/USDT:USDT", "linear", market.brackets), *LAST_HOUR)
        work.faults.add(path="/candles", status=429, headers={"retry-after": "900"}, times=9)
        with pytest.raises(RateLimited):
            await work.venue.fetch_candles(market, *LAST_HOUR)

    at_work(Bitget, WIRE, story)


def test_open_interest_that_cannot_be_is_not_told() -> None:
    def emptied(payload: Any) -> Any:
        payload["data"]["openInterestList"][0]["size"] = "0"
        return payload

    async def story(work: Work[Bitget]) -> None:
        work.faults.add(path="/open-interest", edit=emptied)
        with pytest.raises(BadPayload):
            await work.venue.fetch_open_interest_now(work.markets["BTC/USDT:USDT"])
        assert work.venue.health.rejected == {("open_interest", "not above 0"): 1}

    at_work(Bitget, WIRE, story)
