"""What a worker says of itself is what happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from estimator.cache import Cache, VenueHealth, WorkerHealth
from estimator.cache.journal import Entry
from estimator.domain import TIME
from estimator.exchanges.okx import Okx
from estimator.history import History, Published, Recorder
from estimator.redis_server import BundledServer
from estimator.reporting import Reporter, begin_beside, venue_health
from tests.venues import wire_okx
from tests.venues.harness import NOW, Work, at_work
from tests.waiting import until

SILENCE_S = 0.05


@contextlib.asynccontextmanager
async def reported(cache: Cache, reporter: Reporter) -> AsyncIterator[Callable[[], WorkerHealth]]:
    """Report often while the block runs; gives the newest record, made after it was asked for."""
    task = asyncio.ensure_future(reporter.run(0.05))

    def newest() -> WorkerHealth:
        (record,) = cache.get_health()
        return record

    try:
        async with asyncio.timeout(5):
            while not cache.get_health():  # noqa: ASYNC110 - it is written by a thread
                await asyncio.sleep(0.01)
        yield newest
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def waiting(cache: Cache, n: int) -> None:
    """Let `n` readings wait in the journal."""
    for i in range(n):
        frame = pl.DataFrame({"time": [NOW + i], "open_interest": [1.0 + i]}).with_columns(pl.col("time").cast(TIME))
        cache.journal.add([Entry.of("open_interest", "okx:BTC/USDT:USDT", frame)])


def test_a_mistake_in_what_runs_beside_the_markets_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def keep_house() -> None:
        raise ZeroDivisionError

    async def scene() -> None:
        ended = begin_beside(keep_house())
        begin_beside(asyncio.sleep(60)).cancel()
        await until(ended.done)

    asyncio.run(scene())
    (told,) = caplog.records
    assert (told.levelname, "keep_house" in told.message, told.exc_info is not None) == ("ERROR", True, True)


def test_a_stream_is_connected_once_it_was_heard_and_until_it_is_lost() -> None:
    async def story(work: Work[Okx]) -> None:
        def now() -> VenueHealth:
            return venue_health(work.venue, 1, None)

        assert now() == VenueHealth("okx", 1, None, (), (), {}, ())
        async with work.following([work.markets["BTC/USDT:USDT"]], subscriptions=1):
            assert [(s.name, s.connected, s.last_message_ms) for s in now().streams] == [("candles", False, None)]
            await work.feed.advance(1000)
            await until(lambda: now().streams[0].connected)
            assert now().streams[0].last_message_ms == work.feed.now_ms
            work.faults.refuse_sockets = True
            await work.drop_sockets()
            await until(lambda: not now().streams[0].connected)
            assert now().streams[0].reconnects >= 1
            assert now().errors["VenueDown"] >= 1
            work.faults.refuse_sockets = False
            lost_ms = work.feed.now_ms
            await work.server.subscribed("okx", 1)
            await work.feed.advance(5000)
            await until(lambda: now().streams[0].connected)
            assert [(g.start_ms, g.what) for g in now().gaps] == [(lost_ms, "candles")]
        assert now().streams[0].connected  # what nobody follows any more is not called lost

    wire: Any = wire_okx.WIRE
    at_work(Okx, wire, story)


def test_values_left_out_are_told_by_kind_and_reason() -> None:
    venue = Okx(exchange_base="http://127.0.0.1:9")
    venue.health.reject("open_interest", "sudden jump", 3)
    told = venue_health(venue, 0, "does not answer")
    assert [(r.what, r.reason, r.count) for r in told.rejected] == [("open_interest", "sudden jump", 3)]
    assert (told.markets, told.problem) == (0, "does not answer")


def test_a_history_that_refuses_shows_as_entries_that_wait_and_why(cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "history"
    root.write_text("no folder can be made here")
    history = History(root)
    recorder = Recorder(cache.journal, history, interval_s=0.05, backoff_s=0.05)
    published, stop = Published(history), threading.Event()

    async def story() -> None:
        async with reported(cache, Reporter(cache, (0, 1), None, recorder, published)) as newest:
            assert newest().recorder is not None
            waiting(cache, 3)
            recording = asyncio.ensure_future(asyncio.to_thread(recorder.run, stop))
            await until(lambda: (r := newest().recorder) is not None and r.error is not None and r.waiting == 3)
            told = newest().recorder
            assert told is not None
            assert "history/open_interest" in str(told.error)
            assert told.lag_ms > 0
            assert told.last_commit_ms is None
            root.unlink()
            await until(lambda: (r := newest().recorder) is not None and r.error is None and r.waiting == 0)
            told = newest().recorder
            assert told is not None
            assert (told.stored, told.known, told.rejected, told.lag_ms) == (3, 0, 0, 0)
            assert told.last_commit_ms is not None
            stop.set()
            await recording

    asyncio.run(story())


def test_a_loop_that_was_held_up_says_for_how_long(cache: Cache) -> None:
    async def story() -> None:
        async with reported(cache, Reporter(cache)) as newest:
            first = newest()
            assert (first.shard, first.shards, first.venues, first.recorder) == (0, 1, (), None)
            assert 1 << 24 < first.rss_bytes < 1 << 34
            time.sleep(0.3)  # noqa: ASYNC251 - on purpose
            await until(lambda: newest().loop_delay_ms > 200)
            assert newest().time_ms > first.time_ms

    asyncio.run(story())


def test_reporting_outlives_a_redis_that_is_gone(tmp_path: Path) -> None:
    async def story() -> None:
        with BundledServer(tmp_path) as server:
            cache = Cache(server.url)
            reporter = asyncio.ensure_future(Reporter(cache).run(0.02))
            await until(lambda: bool(cache.get_health()))
        await asyncio.sleep(0.3)
        assert not reporter.done()
        reporter.cancel()
        cache.close()

    asyncio.run(story())
