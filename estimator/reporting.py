"""How this worker is doing, told to the cache every few seconds: for the page's badges and for ``/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

from estimator.cache import Cache, RecorderHealth, Rejected, StreamHealth, VenueHealth, WorkerHealth
from estimator.errors import CacheError
from estimator.exchanges.venue import Exchange
from estimator.history import Published, Recorder

_LOG: Final = logging.getLogger(__name__)
PERIOD_S: Final = 3.0
_TICK_S: Final = 0.25  # the loop's delay is measured this often
_TOLD_GAPS: Final = 20

Followed = tuple[Exchange, int, str | None]
"""A venue, how many of its markets are followed, and why none where it does not answer."""


class Reporter:
    """Writes what a worker knows of itself.

    Parameters
    ----------
    cache : Cache
    shard : (int, int)
        Which of how many workers this is.
    followed : callable, optional
        The venues, now; None where the source is not live.
    recorder, published : optional
        The ways into history, where there are any.
    """

    def __init__(
        self,
        cache: Cache,
        shard: tuple[int, int] = (0, 1),
        followed: Callable[[], Sequence[Followed]] | None = None,
        recorder: Recorder | None = None,
        published: Published | None = None,
    ) -> None:
        self._cache, self._shard, self._followed = cache, shard, followed
        self._recorder, self._published = recorder, published
        self._started_ms = _now_ms()
        self._dropped: int | None = None

    async def run(self, period_s: float = PERIOD_S) -> None:
        """Report until cancelled; while Redis is gone nothing is told."""
        delay_s = 0.0
        while True:
            venues = [] if self._followed is None else [venue_health(*one) for one in self._followed()]
            try:
                await asyncio.to_thread(self._report, venues, 1000 * delay_s)
            except CacheError as error:
                _LOG.debug("health is not reported: %s", error)
            delay_s = await _watch_loop(period_s)

    def _report(self, venues: Sequence[VenueHealth], loop_delay_ms: float) -> None:
        shard, shards = self._shard
        shown = sum(v.markets for v in venues) if venues else sum(s.loaded for s in self._cache.get_statuses())
        self._cache.put_health(
            WorkerHealth(
                time_ms=_now_ms(),
                started_ms=self._started_ms,
                shard=shard,
                shards=shards,
                markets=shown,
                rss_bytes=resident_bytes(),
                loop_delay_ms=loop_delay_ms,
                venues=tuple(venues),
                recorder=self._recorder_health(),
                dropped=self._count_dropped(),
            )
        )

    def _count_dropped(self) -> int:
        """Count what a full Redis has dropped; say so when it becomes more."""
        dropped, before = self._cache.dropped(), self._dropped
        if before is not None and dropped > before:
            _LOG.warning(
                "Redis is full and dropped %d entries: parts of charts are missing until the next start; follow fewer "
                "markets, or give it more memory (LIQHEAT_REDIS_MEMORY for the bundled server)",
                dropped - before,
            )
        self._dropped = dropped
        return dropped

    def _recorder_health(self) -> RecorderHealth | None:
        if self._recorder is None or self._published is None:
            return None
        status, columns = self._recorder.status, self._published.status
        waiting, lag_ms = self._cache.journal.backlog()
        return RecorderHealth(
            waiting=waiting,
            lag_ms=lag_ms,
            last_commit_ms=status.last_commit_ms,
            stored=status.stored,
            known=status.known,
            rejected=status.rejected,
            error=status.error or columns.error,
            overdue=status.overdue,
            columns_waiting=columns.waiting,
        )


@contextlib.asynccontextmanager
async def reporting(reporter: Reporter) -> AsyncIterator[None]:
    """Report while the block runs."""
    task = begin_beside(reporter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def begin_beside(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Begin what runs beside the markets: a mistake in it ends it alone, but not in silence."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_tell_end)
    return task


def _tell_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        name = getattr(task.get_coro(), "__qualname__", "")
        _LOG.error("%s: a mistake of this program; the worker goes on without it", name, exc_info=error)


def venue_health(venue: Exchange, markets: int, problem: str | None) -> VenueHealth:
    """Return a venue's counters as they are now."""
    health = venue.health
    unheard = {line.name for line in health.unheard}
    names = dict.fromkeys([*health.last_message_ms, *unheard])
    return VenueHealth(
        name=venue.name,
        markets=markets,
        problem=problem,
        streams=tuple(
            StreamHealth(name, name not in unheard, health.last_message_ms.get(name), health.reconnects[name])
            for name in sorted(names)
        ),
        gaps=tuple(health.gaps)[-_TOLD_GAPS:],
        errors=dict(health.errors),
        rejected=tuple(Rejected(what, reason, n) for (what, reason), n in health.rejected.items()),
    )


def resident_bytes() -> int:
    """Return the resident memory of this process; where the system does not tell, the most it ever was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


async def _watch_loop(period_s: float) -> float:
    """Wait; return the longest time for which the loop was late meanwhile. [s]"""
    loop, late_s = asyncio.get_running_loop(), 0.0
    until = loop.time() + period_s
    while (left_s := until - loop.time()) > 0:
        due = loop.time() + min(_TICK_S, left_s)
        await asyncio.sleep(due - loop.time())
        late_s = max(late_s, loop.time() - due)
    return late_s


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
