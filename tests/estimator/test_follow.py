"""What a market misses while Redis is gone is in its columns afterwards, and nothing half-known ever is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator.cache import Cache
from estimator.domain import Market, Origin
from estimator.exchanges.base import MarketHistory, MarketUpdate
from estimator.exchanges.simulated import SimulatedSource
from estimator.follow import follow
from estimator.history import History, Published
from estimator.model.steps import STEP_MS
from tests.estimator.test_pipeline import END_MS, FAR, assert_same_bits, at_rest, ignore, read, until, updates
from tests.soak.world import Redis

CLOSE_MS = END_MS // STEP_MS * STEP_MS  # of the step during which Redis is gone


class Street:
    """A live source of one market, whose past grows by what it tells; Redis dies within the last step it tells of."""

    origin, description = Origin.LIVE, "live"

    def __init__(
        self, whole: MarketHistory, redis: Redis, loaded: Callable[[], bool], noticed: Callable[[], bool]
    ) -> None:
        self._whole, self._redis, self._loaded, self._noticed = whole, redis, loaded, noticed
        self.told_ms, self._asked_again = CLOSE_MS - STEP_MS, False

    def markets(self) -> Sequence[Market]:
        return [self._whole.market]

    def history(self, _market: Market, _progress: object) -> MarketHistory:
        self._asked_again = self.told_ms == CLOSE_MS
        return until(self._whole, self.told_ms)

    def recall(self, market: Market) -> MarketHistory:
        return self.history(market, None)

    def deepen(self, _market: Market, _progress: object) -> None: ...

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def forgotten(self) -> None: ...

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        while not self._loaded():  # noqa: ASYNC110 - another task loads it
            await asyncio.sleep(0.01)
        first, *missed, last = [
            replace(update, liquidations=()) for update in updates(until(self._whole, CLOSE_MS), self.told_ms)
        ]
        yield first
        self._redis.kill()
        while not self._noticed():  # noqa: ASYNC110 - another task looks
            await asyncio.sleep(0.01)
        for update in missed:
            yield update
        self.told_ms = CLOSE_MS
        self._redis.start()
        while not self._asked_again:  # at every moment one has come that closes the step
            yield last
            await asyncio.sleep(0)
        await asyncio.Event().wait()


class Slow(Street):
    """The same at rest; the older part of its past, and then the whole of it, take until they are let through."""

    def __init__(self, whole: MarketHistory) -> None:
        self._whole, self._deep = whole, False
        self.asked = self.reading = self.most_reading = 0
        self.dug, self.let_through = threading.Event(), threading.Event()

    def history(self, _market: Market, _progress: object) -> MarketHistory:
        self.asked += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        if self.asked == 2:
            self.let_through.wait(20.0)
        self.reading -= 1
        return replace(self._whole, progress=1.0 if self._deep else 0.5)

    def deepen(self, _market: Market, _progress: object) -> None:
        self.dug.wait(20.0)
        self._deep = True

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]


def test_a_market_is_loaded_once_at_a_time_though_redis_is_emptied_while_its_past_grows(cache: Cache, raw: Any) -> None:
    simulated = SimulatedSource(7, end_ms=END_MS, days=0.25)
    whole = simulated.history(simulated.markets()[0], ignore)
    source, expected = Slow(whole), at_rest(cache, whole)

    def complete() -> bool:
        columns = [cache.get_columns(whole.market.id, level, 0, FAR) for level in expected.columns]
        return [g and len(g.time) for g in columns] == [len(g.time) for g in expected.columns.values()]

    async def story() -> None:
        task = asyncio.ensure_future(follow(source, cache, "balanced", ignore))

        async def holds(true: Callable[[], object]) -> None:
            while not true():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.02)

        async with asyncio.timeout(30.0):
            await holds(lambda: [s.progress for s in cache.get_statuses()] == [0.5])
            raw.flushall()
            await holds(lambda: source.asked == 2)
            source.dug.set()
            await asyncio.sleep(0.2)  # a load at once would begin now
            source.let_through.set()
            await holds(lambda: source.asked == 3 and not source.reading and complete())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
    assert source.most_reading == 1
    got = read(cache, whole.market)
    for level, grid in expected.columns.items():
        assert_same_bits(got.columns[level], grid)


def test_a_step_is_not_closed_by_a_follower_that_missed_candles_of_it(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulated = SimulatedSource(7, end_ms=END_MS, days=0.5)
    whole = simulated.history(simulated.markets()[0], ignore)
    expected = at_rest(cache, until(whole, CLOSE_MS))
    redis, history = Redis(tmp_path / "redis"), History(tmp_path / "history")
    redis.start()
    shown = Cache(redis.url)

    def stands(last_ms: int) -> bool:
        return any(s.last_ms == last_ms for s in shown.get_statuses())

    async def story() -> None:
        source = Street(whole, redis, lambda: stands(CLOSE_MS - STEP_MS), lambda: "nothing is published" in caplog.text)
        task = asyncio.ensure_future(follow(source, shown, "balanced", ignore, published))
        async with asyncio.timeout(30.0):
            while not (source.told_ms == CLOSE_MS and stands(CLOSE_MS)) and not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    published = Published(history)
    try:
        asyncio.run(story())
        got = read(shown, whole.market)
    finally:
        redis.stop()
        shown.close()
    assert int(got.columns[0].time[-1].astype("datetime64[ms]").astype(np.int64)) == CLOSE_MS
    for level, grid in expected.columns.items():
        assert_same_bits(got.columns[level], grid)
