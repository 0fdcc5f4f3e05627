"""The wire to a venue and the edge where its numbers come in: faults over real sockets, values that cannot be."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import CANDLES, MINUTE_MS, OPEN_INTEREST, Candle, Liquidation, Observation, Side
from estimator.errors import (
    BadPayload,
    Banned,
    RateLimited,
    RegionBlocked,
    SourceError,
    SourceUnavailable,
    UnknownMarket,
    VenueDown,
)
from estimator.exchanges.edge import (
    AHEAD_MS,
    LARGEST_JUMP,
    Health,
    Recent,
    between,
    frame,
    get,
    number,
    number_or_none,
    plausible_candle,
    plausible_candles,
    plausible_liquidation,
    plausible_observation,
    plausible_observations,
    rows,
    steady,
    text,
)
from estimator.exchanges.moving import merged
from estimator.exchanges.paging import all_pages, windows
from estimator.exchanges.venue import RateLimit
from estimator.exchanges.wire import Patience, Wire
from tests.venues.feed import Event, Feed, Print
from tests.venues.loop import run
from tests.venues.server import Call, Json, RefusedError, Session, VenueServer, running
from tests.waiting import until

NOW = 1_760_000_100_000
QUICK = Patience(attempts=3, first_s=0.005, longest_s=0.01, obeyed_s=0.5)
TIME = "fapiPublicGetTime"
_T = TypeVar("_T")


class PlainWire:
    """Answers anything with its path; numbers the prints it tells."""

    venue = "plain"
    hosts: tuple[str, ...] = ("fapi.binance.com", "fstream.binance.com")

    def answer(self, call: Call, feed: Feed) -> Json:  # noqa: ARG002 - as in VenueWire
        if call.query.get("symbol") == "GONE":
            raise RefusedError(400, {"code": -1121, "msg": "Invalid symbol."})
        return {"path": call.path, "query": call.query}

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:  # noqa: ARG002 - as in VenueWire
        session.subscriptions.update(message["params"])
        return [{"result": None, "id": message["id"]}]

    def push(self, session: Session, event: Event) -> list[Json]:  # noqa: ARG002 - as in VenueWire
        return [{"e": "numbered", "n": event.ordinal}] if isinstance(event, Print) else []


def on_wire(
    test: Callable[[Wire, VenueServer, Feed], Awaitable[_T]], *, patience: Patience = QUICK, **options: Any
) -> _T:
    async def main() -> _T:
        feed = Feed(NOW, days=0.1)
        feed.market("plain", "BTC")
        async with running(feed, {"plain": PlainWire()}) as server:
            settings: dict[str, Any] = {"exchange_base": server.base, "throttle": False, "patience": patience} | options
            wire = Wire("binanceusdm", Health(), **settings)
            try:
                return await test(wire, server, feed)
            finally:
                await wire.close()

    return run(main())


# Requests


def test_every_host_of_a_venue_is_a_folder_of_the_base() -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        assert (await wire.call(TIME))["path"] == "/fapi/v1/time"
        port = server.base.rsplit(":", 1)[1]
        api = wire.client.urls["api"]
        assert api["dapiPublic"] == f"http://127.0.0.1:{port}/dapi.binance.com/dapi/v1"
        assert api["ws"]["spot"] == f"ws://127.0.0.1:{port}/stream.binance.com/ws"

    on_wire(test)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "body": "<html>busy</html>"},
        {"status": 429},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"cut_at": 0.5},
        {"cut_at": 0.0},
        {"drop": True},
    ],
    ids=str,
)
def test_what_passes_is_tried_again(fault: dict[str, Any]) -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        server.faults["plain"].add(**fault, times=2)
        assert (await wire.call(TIME))["path"] == "/fapi/v1/time"
        assert len(server.calls) == 3
        assert wire.health.errors.total() == 2

    on_wire(test)


@pytest.mark.parametrize(
    ("fault", "error", "attempts"),
    [
        ({"status": 500}, VenueDown, 3),
        ({"status": 429}, RateLimited, 3),
        ({"cut_at": 0.5}, BadPayload, 3),
        ({"drop": True}, VenueDown, 3),
        ({"latency_s": 0.4}, VenueDown, 3),
        ({"status": 451, "body": '{"code": 0, "msg": "restricted location"}'}, RegionBlocked, 1),
        ({"status": 403}, RegionBlocked, 1),
        ({"status": 400, "body": '{"code": -1130, "msg": "bad parameter"}'}, SourceError, 1),
    ],
    ids=str,
)
def test_what_stays_is_raised_in_our_own_words(fault: dict[str, Any], error: type[SourceError], attempts: int) -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        server.faults["plain"].add(**fault, times=9)
        with pytest.raises(error) as caught:
            await wire.call(TIME)
        assert type(caught.value) is error
        assert TIME in str(caught.value)
        assert len(server.calls) == attempts

    on_wire(test, timeout_s=0.2)


def test_a_delisted_symbol_is_an_unknown_market() -> None:
    async def test(wire: Wire, _server: VenueServer, _feed: Feed) -> None:
        with pytest.raises(UnknownMarket):
            await wire.call(TIME, {"symbol": "GONE"})

    on_wire(test)


def test_a_venue_that_is_not_there_is_unavailable() -> None:
    async def test(wire: Wire, _server: VenueServer, _feed: Feed) -> None:
        with pytest.raises(SourceUnavailable):
            await wire.call(TIME)

    on_wire(test, exchange_base="http://127.0.0.1:9")


@pytest.mark.parametrize("as_date", [False, True])
def test_a_short_retry_after_is_waited_for_by_every_request(as_date: bool) -> None:  # noqa: FBT001
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        wait_s = 2.0 if as_date else 0.3
        asked = email.utils.formatdate(time.time() + wait_s, usegmt=True) if as_date else str(wait_s)
        server.faults["plain"].add(status=429, headers={"Retry-After": asked})
        began = time.monotonic()
        await wire.call(TIME)
        await wire.call(TIME)
        waited = time.monotonic() - began
        assert waited >= (0.9 if as_date else 0.3)  # a date has whole seconds
        assert len(server.calls) == 3

    on_wire(test, patience=replace(QUICK, obeyed_s=5.0))


def test_a_long_ban_is_raised_at_once_and_nobody_asks_again() -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        server.faults["plain"].add(status=418, headers={"Retry-After": "120"})
        began = time.monotonic()
        with pytest.raises(Banned) as caught:
            await wire.call(TIME)
        assert caught.value.retry_after_s == 120
        with pytest.raises(RateLimited) as later:
            await wire.call(TIME)
        assert later.value.retry_after_s == pytest.approx(120, abs=5)
        assert time.monotonic() - began < 1
        assert len(server.calls) == 1

    on_wire(test)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        in_flight, most = 0, 0
        fetch = wire.client.fetch

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            try:
                return await fetch(*args, **kwargs)
            finally:
                in_flight -= 1

        wire.client.fetch = counted
        server.faults["plain"].add(latency_s=0.02, times=12)
        await asyncio.gather(*(wire.call(TIME) for _ in range(12)))
        assert most == 3

    on_wire(test, concurrent=3)


def test_declared_limits_space_requests() -> None:
    async def test(wire: Wire, server: VenueServer, _feed: Feed) -> None:
        began = time.monotonic()
        await asyncio.gather(*(wire.call(TIME) for _ in range(6)))
        # A bucket of half the rate, two, then ten a second.
        assert time.monotonic() - began >= 0.35
        assert len(server.calls) == 6

    on_wire(test, throttle=True, limits={"fapiPublicGetTime": RateLimit(4, 0.2), "fapi": RateLimit(1, 999)})


def test_the_venue_tells_the_time_where_this_machine_is_wrong() -> None:
    async def test(wire: Wire, _server: VenueServer, feed: Feed) -> None:
        assert abs(wire.now_ms() - time.time() * 1000) < 1000
        await wire.call(TIME)
        assert abs(wire.now_ms() - feed.now_ms) < 1500

    on_wire(test)


# Streams


@asynccontextmanager
async def numbered(
    wire: Wire, server: VenueServer, into: list[int], *, silence_s: float = 5.0
) -> AsyncIterator[asyncio.Task[None]]:
    wire.client.markets = {}

    def accepts(message: Any) -> bool:
        return isinstance(message, dict) and message.get("e") == "numbered"

    async def read() -> None:
        stream = wire.stream(
            "prints", lambda: wire.client.watch_liquidations_for_symbols([]), accepts, silence_s=silence_s
        )
        async with aclosing(stream):
            async for message in stream:
                into.append(message["n"])  # noqa: PERF401 - what came so far counts when this is cancelled

    task = asyncio.create_task(read())
    await server.subscribed("plain", 1)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_every_message_arrives_in_order_however_fast_they_come() -> None:
    async def test(wire: Wire, server: VenueServer, feed: Feed) -> None:
        got: list[int] = []
        async with numbered(wire, server, got):
            await feed.advance(120 * MINUTE_MS)
            wanted = len(feed.market("plain", "BTC").prints(NOW, feed.now_ms))
            await until(lambda: len(got) == wanted)
        assert got == list(range(1, wanted + 1))
        assert wanted > 100

    on_wire(test)


def test_a_dropped_stream_connects_again_and_tells_the_gap() -> None:
    async def test(wire: Wire, server: VenueServer, feed: Feed) -> None:
        got: list[int] = []
        async with numbered(wire, server, got):
            for _ in range(3):
                heard = len(got)
                await feed.advance(20 * MINUTE_MS)
                await until(lambda heard=heard: len(got) > heard)  # type: ignore[misc]
                await asyncio.sleep(0.05)
                (dropped,) = server.sessions
                await server.drop_sockets("plain")
                await until(lambda dropped=dropped: all(s is not dropped for s in server.sessions))  # type: ignore[misc]
                await server.subscribed("plain", 1)
            await feed.advance(20 * MINUTE_MS)
            wanted = len(feed.market("plain", "BTC").prints(NOW, feed.now_ms))
            await until(lambda: len(got) == wanted)
        assert got == list(range(1, wanted + 1))
        assert wire.health.reconnects == {"prints": 3}
        assert [gap.what for gap in wire.health.gaps] == ["prints"] * 3

    on_wire(test)


def test_a_silent_stream_is_taken_for_dead() -> None:
    async def test(wire: Wire, server: VenueServer, feed: Feed) -> None:
        got: list[int] = []
        async with numbered(wire, server, got, silence_s=0.5):
            first = server.sessions[0]
            server.faults["plain"].silent = True
            await feed.advance(10 * MINUTE_MS)
            await until(lambda: bool(server.sessions) and server.sessions[0] is not first)
            server.faults["plain"].silent = False
            await server.subscribed("plain", 1)
            async with asyncio.timeout(20):
                while not got:  # on a busy machine the new socket may be taken for dead, too
                    await feed.advance(10 * MINUTE_MS)
                    await asyncio.sleep(0.02)
        assert wire.health.reconnects["prints"] >= 1

    on_wire(test)


def test_a_venue_that_refuses_sockets_is_asked_again_until_it_does_not() -> None:
    async def test(wire: Wire, server: VenueServer, feed: Feed) -> None:
        server.faults["plain"].refuse_sockets = True
        got: list[int] = []

        async def relent() -> None:
            await until(lambda: wire.health.reconnects["prints"] >= 2)
            server.faults["plain"].refuse_sockets = False

        relenting = asyncio.create_task(relent())
        async with numbered(wire, server, got):
            await relenting
            await feed.advance(10 * MINUTE_MS)
            await until(lambda: bool(got))

    on_wire(test)


def test_merged_streams_end_together_with_the_first_failure() -> None:
    closed = []

    async def count(name: str, upto: int) -> AsyncGenerator[str, None]:
        try:
            for n in range(upto):
                yield f"{name}{n}"
                await asyncio.sleep(0)
            raise VenueDown(name)
        finally:
            closed.append(name)

    async def main() -> None:
        got: list[str] = []

        async def read() -> None:
            async for item in merged([count("a", 2), count("b", 10**6)]):
                got.append(item)  # noqa: PERF401 - it ends by raising

        with pytest.raises(VenueDown, match="a"):
            await read()
        assert [item for item in got if item[0] == "a"] == ["a0", "a1"]
        assert sorted(closed) == ["a", "b"]

    run(main())


# Pages


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 3000))
def test_windows_cover_every_millisecond_once(since: int, length: int, page: int) -> None:
    pages = windows(since, since + length, page)
    assert sum(end - start for start, end in pages) == length
    assert all(end == start for (_, end), (start, _) in pairwise(pages))
    assert all(0 < end - start <= page for start, end in pages)


def test_the_first_page_that_fails_ends_the_others() -> None:
    ended = []

    async def fetch(start: int, _end: int) -> int:
        try:
            await asyncio.sleep(0 if start == 10 else 5)
        except asyncio.CancelledError:
            ended.append(start)
            raise
        raise VenueDown(str(start))

    async def main() -> None:
        with pytest.raises(VenueDown, match="10"):
            await all_pages(fetch, windows(0, 30, 10))
        assert ended == [0, 20]

    run(main())


# Reading


def test_a_field_that_is_not_there_or_no_number_is_named() -> None:
    payload = {"data": [{"price": "1.5", "empty": "", "flag": True, "nan": "nan"}]}
    assert number(get(payload, ["data", 0], "x"), "price", "x") == 1.5
    assert number_or_none(payload["data"][0], "empty", "x") is None
    assert number_or_none(payload["data"][0], "absent", "x") is None
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: get(payload, ["data", 1, "price"], "x"), "data.1"),
        (lambda: rows(payload, ["data", 0], "x"), "data.0"),
        (lambda: rows(payload, [], "x"), "body"),
        (lambda: number(payload["data"][0], "flag", "x"), "flag"),
        (lambda: number(payload["data"][0], "nan", "x"), "nan"),
        (lambda: number(payload["data"][0], "absent", "x"), "absent"),
        (lambda: text(payload["data"][0], "empty", "x"), "empty"),
    ]
    for read, field in wrong:
        with pytest.raises(BadPayload) as caught:
            read()
        assert (caught.value.endpoint, caught.value.field) == ("x", field)


def test_between_sorts_and_keeps_the_last_of_rows_with_one_time() -> None:
    table = frame(OPEN_INTEREST, [(30, 3.0), (10, 1.0), (20, 2.0), (20, 2.5), (40, 4.0)])
    assert between(table, 10, 40)["open_interest"].to_list() == [1.0, 2.5, 3.0]


# What cannot be

GOOD = Candle(NOW - MINUTE_MS, 100.0, 110.0, 90.0, 105.0, 5.0)
BAD = {
    "price not above 0": replace(GOOD, low=0.0),
    "low above another price": replace(GOOD, low=101.0),
    "high below another price": replace(GOOD, high=104.0),
    "negative volume": replace(GOOD, volume=-1.0),
    "not on the minute": replace(GOOD, time_ms=NOW - MINUTE_MS + 1),
    "in the future": replace(GOOD, time_ms=NOW + 2 * AHEAD_MS),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_candle_that_cannot_be_is_left_out_for_its_reason(reason: str) -> None:
    candles = [replace(GOOD, time_ms=GOOD.time_ms - MINUTE_MS), BAD[reason], GOOD]
    table = frame(CANDLES, [(c.time_ms, c.open, c.high, c.low, c.close, c.volume) for c in candles])
    health = Health()
    assert plausible_candles(table, NOW, health).height == 2
    assert not plausible_candle(BAD[reason], NOW, health)
    assert plausible_candle(GOOD, NOW, health)
    assert health.rejected == {("candles", reason): 2}


def test_a_print_needs_a_price_a_quantity_and_a_time_that_has_come() -> None:
    good = Liquidation(NOW, Side.LONG, 100.0, 1.0, 100.0)
    health = Health()
    assert plausible_liquidation(good, NOW, health)
    for bad in (replace(good, price=0.0), replace(good, quantity_base=-1.0), replace(good, time_ms=NOW + 2 * AHEAD_MS)):
        assert not plausible_liquidation(bad, NOW, health)
    assert health.rejected.total() == 3


def test_open_interest_is_above_zero_and_does_not_jump() -> None:
    values = [100.0, 0.0, 101.0, 101.0 * LARGEST_JUMP, 102.0, 102.0 / LARGEST_JUMP, 103.0]
    table = frame(OPEN_INTEREST, [(NOW - 1000 + i, v) for i, v in enumerate(values)])
    health = Health()
    kept = plausible_observations(table, "open_interest", NOW, health, jumps=True)
    assert kept["open_interest"].to_list() == [100.0, 101.0, 102.0, 103.0]
    assert health.rejected == {("open_interest", "not above 0"): 1, ("open_interest", "sudden jump"): 2}
    assert not plausible_observation(Observation(NOW, 101.0 * LARGEST_JUMP), NOW, health, "oi", last=101.0)


@given(st.lists(st.floats(1.0, LARGEST_JUMP * 0.99), max_size=40), st.data())
def test_one_slip_is_found_among_values_that_do_not_jump(values: list[float], data: st.DataObject) -> None:
    assert steady(np.array(values)).all()
    if len(values) >= 3:
        at = data.draw(st.integers(0, len(values) - 1))
        slipped = [*values[:at], 1e9, *values[at:]]
        assert steady(np.array(slipped)).tolist() == [i != at for i in range(len(slipped))]


def test_a_new_level_that_holds_is_believed() -> None:
    assert steady(np.array([1.0, 1.0, 1.0, 1.0, 1000.0, 1001.0, 1002.0, 1003.0])).tolist() == [True] * 4 + [
        False, False, True, True,
    ]  # fmt: skip


def test_only_recent_keys_are_remembered() -> None:
    recent = Recent(2)
    assert [recent.repeats(key) for key in "aabca"] == [False, True, False, False, False]


def test_the_first_value_left_out_of_its_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    table = frame(OPEN_INTEREST, [(1, 0.0), (2, -1.0)])
    plausible_observations(table, "open_interest", NOW, health)
    plausible_observations(pl.concat([table, table]), "open_interest", NOW, health)
    assert len(caplog.records) == 1
    assert health.rejected == {("open_interest", "not above 0"): 6}
