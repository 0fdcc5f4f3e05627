"""What goes wrong at any venue: told by kind, survived, and never a wrong number."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest

from estimator.domain import HOUR_MS, MINUTE_MS, Candle, Market
from estimator.errors import BadPayload, Banned, RateLimited, RegionBlocked, SourceError, UnknownMarket, VenueDown
from estimator.exchanges.venue import Exchange
from tests.venues.every import EACH, at
from tests.venues.harness import IMPATIENT, LAST_HOUR, MINUTE_START, NOW, Work
from tests.waiting import until

CANDLES: Final = {
    "binance": "/fapi/v1/klines",
    "bybit": "/v5/market/kline",
    "okx": "/market/candles",
    "gate": "/candlesticks",
    "bitget": "/market/candles",
    "hyperliquid": "/info",
}
REFUSED: Final[list[tuple[dict[str, Any], type[SourceError]]]] = [
    ({"status": 500}, VenueDown),
    ({"status": 503, "body": "<html>busy</html>"}, VenueDown),
    ({"drop": True}, VenueDown),
    ({"status": 429}, RateLimited),
    ({"cut_at": 0.5}, BadPayload),
    ({"status": 200, "body": "<html>maintenance</html>"}, BadPayload),
    ({"status": 200, "body": "null"}, BadPayload),
]
Tick = tuple[Market, Candle, bool]


def dollar(work: Work[Exchange]) -> Market:
    """Return the venue's BTC market that is settled in dollars."""
    return next(m for m in work.markets.values() if m.base == "BTC" and m.contract == "linear")


@EACH
def test_what_passes_is_tried_again_and_counted_and_what_stays_is_told_by_kind(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        market, counted = dollar(work), work.venue.health.errors
        for fault, error in REFUSED:
            counted.clear()
            work.faults.add(path=CANDLES[name], **fault)
            assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60, fault
            assert counted == {error.__name__: 1}, fault
            work.faults.add(path=CANDLES[name], **fault, times=IMPATIENT.attempts)
            with pytest.raises(error) as caught:
                await work.venue.fetch_candles(market, *LAST_HOUR)
            assert type(caught.value) is error, fault

    at(name, story)


@pytest.mark.parametrize("name", ["gate", "hyperliquid"])
def test_an_answer_without_a_time_is_as_old_as_the_question(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        before = len(work.server.calls)
        if name == "hyperliquid":
            await work.feed.advance(MINUTE_MS)  # what was asked at the start is not fresh any more
        asked_ms = work.feed.now_ms
        work.faults.add(latency_s=0.2)
        asking = asyncio.ensure_future(work.venue.fetch_open_interest_now(dollar(work)))
        while len(work.server.calls) == before:  # noqa: ASYNC110 - no event of the server says so
            await asyncio.sleep(0.005)
        await work.feed.advance(5 * MINUTE_MS)
        assert (await asking).time_ms == asked_ms

    at(name, story)


@EACH
def test_an_answer_that_does_not_come_is_not_waited_for(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        work.faults.add(path=CANDLES[name], latency_s=3.0)
        with pytest.raises(VenueDown):
            await work.venue.fetch_candles(dollar(work), NOW - MINUTE_MS, NOW)

    at(name, story, connection={"timeout_s": 1.0, "patience": replace(IMPATIENT, attempts=1)})


@EACH
def test_a_pause_is_waited_out_and_a_ban_told_with_its_length_and_obeyed(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        market, now = dollar(work), asyncio.get_running_loop().time
        work.faults.add(path=CANDLES[name], status=429, headers={"Retry-After": "0.2"})
        began = now()
        assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60
        assert now() - began >= 0.2
        work.faults.add(path=CANDLES[name], status=418, headers={"Retry-After": "900"})
        with pytest.raises(Banned) as caught:
            await work.venue.fetch_candles(market, *LAST_HOUR)
        assert caught.value.retry_after_s == 900
        asked = len(work.server.calls)
        await work.feed.advance(MINUTE_MS)
        with pytest.raises(RateLimited):
            await work.venue.fetch_open_interest_now(market)
        assert len(work.server.calls) == asked

    at(name, story)


@EACH
def test_a_blocked_region_is_not_asked_twice_and_another_shape_or_a_market_that_is_gone_is_told(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        market, asked = dollar(work), len(work.server.calls)
        fault = work.faults.add(path=CANDLES[name], status=451, times=9)
        with pytest.raises(RegionBlocked):
            await work.venue.fetch_candles(market, NOW - MINUTE_MS, NOW)
        assert len(work.server.calls) == asked + 1
        work.faults.rest.remove(fault)
        fault = work.faults.add(path=CANDLES[name], edit=lambda _: {"rows": [], "code": "0", "retCode": 0}, times=9)
        with pytest.raises(SourceError):
            await work.venue.fetch_candles(market, *LAST_HOUR)
        work.faults.rest.remove(fault)
        gone = Market(name, f"LUNA/{market.symbol.partition('/')[2]}", "linear", market.brackets)
        with pytest.raises(UnknownMarket):
            await work.venue.fetch_candles(gone, *LAST_HOUR)

    at(name, story)


@EACH
def test_of_messages_twice_late_and_cut_every_candle_closes_once_in_order_and_whole(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        before: list[Any] = []

        def muddled(messages: list[Any]) -> list[Any]:
            sent = [*messages, *before, *messages, "no json", '{"cut": ']
            before[:] = messages
            return sent

        work.faults.rewrite = muddled
        market = dollar(work)
        async with work.following([market], subscriptions=1):
            await work.feed.advance(4 * MINUTE_MS)
            await until(lambda: len(work.closed(market)) >= 3)
        got = work.closed(market)
        assert [c.time_ms for c in got] == [MINUTE_START + i * MINUTE_MS for i in range(len(got))]
        assert [c.volume for c in got] == pytest.approx([work.bitcoin.closed(c.time_ms).volume for c in got])
        assert work.venue.health.rejected["candles", "late or repeated message"] > 0
        assert work.venue.health.errors["BadPayload"] > 0

    at(name, story, coins=("BTC",))


@EACH
def test_a_dropped_socket_is_opened_again_and_the_stretch_is_a_gap(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        market, health = dollar(work), work.venue.health
        async with work.following([market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
            await until(lambda: bool(work.ticks))
            await work.drop_sockets()
            await work.feed.advance(MINUTE_MS)  # nobody hears
            await work.server.subscribed(name, 1)
            await asyncio.sleep(0.05)
            await work.feed.advance(2 * MINUTE_MS)
            await until(lambda: bool(health.gaps))
        (gap,) = health.gaps
        assert gap.what == "candles"
        assert gap.start_ms <= NOW + MINUTE_MS < gap.end_ms
        got = work.closed(market)
        assert [c.volume for c in got] == pytest.approx([work.bitcoin.closed(c.time_ms).volume for c in got])

    at(name, story)


@EACH
def test_a_silent_socket_is_taken_for_dead(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        market, health = dollar(work), work.venue.health
        async with work.following([market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
            await until(lambda: bool(work.ticks))
            work.faults.silent = True
            await until(lambda: health.reconnects["candles"] > 0)
            work.faults.silent = False
            await work.server.subscribed(name, 1)
            heard = len(work.ticks)
            while len(work.ticks) == heard:  # on a busy machine the new socket may be taken for dead, too
                await work.feed.advance(MINUTE_MS)
                await asyncio.sleep(0.2)

    at(name, story, connection={"patience": replace(IMPATIENT, silence_s=0.5)})


@EACH
def test_a_venue_that_refuses_sockets_is_asked_again_and_still_answers(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        work.faults.refuse_sockets = True
        market, health = dollar(work), work.venue.health
        async with work.following([market], subscriptions=0):
            await until(lambda: health.reconnects["candles"] > 0)
            assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60

    at(name, story)


@EACH
def test_what_cannot_be_of_the_future_is_not_told(name: str) -> None:
    """The venue's clock runs an hour ahead of the one its own answers carry."""

    async def story(work: Work[Exchange]) -> None:
        market = dollar(work)
        ahead = work.venue.fetch_candles(market, NOW - HOUR_MS, NOW + HOUR_MS)
        assert max((await ahead)["time"].dt.epoch("ms").to_list()) < NOW
        async with work.following([market], subscriptions=1):
            work.feed.now_ms += 2 * HOUR_MS
            clock = work.feed.now_ms - 2 * HOUR_MS
            for wire in work.venue._wires:  # type: ignore[attr-defined]
                wire.clock = lambda: clock
            await work.feed.advance(MINUTE_MS)
            await until(lambda: work.venue.health.rejected["candles", "in the future"] > 0)
        assert all(candle.time_ms <= clock for _, candle, _ in work.ticks)

    at(name, story)
