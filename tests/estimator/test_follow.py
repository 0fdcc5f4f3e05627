"""What a market misses while Redis is gone is in its columns afterwards, and nothing half-known ever is."""

from __future__ import annotations

import asyncio
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
from tests.estimator.test_pipeline import END_MS, assert_same_bits, at_rest, ignore, read, until, updates
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
