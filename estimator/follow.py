"""Following the markets of a source: the past of each at once, then live, and tried again where a venue fails."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from estimator.cache import Cache
from estimator.domain import Market, Origin
from estimator.errors import HistoryError, InputError, SourceError
from estimator.exchanges.base import GrowingSource, MarketUpdate, Source
from estimator.history import Published
from estimator.model.parameters import Preset
from estimator.pipeline import MarketFollower, announced

_LOG: Final = logging.getLogger(__name__)
_CHECK_S: Final = 1.0
_RENEWALS: Final = 8  # times a quiet market is renewed within the life time of its entries
_CROWD: Final = 40  # with more markets than this each shows its open candle less often
_RETRY_S: Final = (2.0, 60.0)  # first and longest pause before a market is tried again
_FETCHED_AT_ONCE: Final = 8  # live markets being fetched
_FIRST_SHARE: Final = 0.3  # of the progress, where older parts are fetched afterwards

Report = Callable[[float, str], None]
Shard = tuple[int, int]


async def follow(
    source: Source,
    cache: Cache,
    preset: Preset,
    report: Report,
    published: Published | None = None,
    *,
    shard: Shard = (0, 1),
) -> None:
    """Publish every market of `source`: the past in parallel, most important first, then live for ever.

    Parameters
    ----------
    source : Source
    cache : Cache
        Emptied of markets first; it is rebuilt from the source. One of several workers clears its own markets only.
    preset : str
        Mix of effective leverages.
    report : callable
        Called with the share of the past done (0..1) and what is being done; also stored for the page.
    published : Published, optional
        Where columns and book states are kept.
    shard : (int, int)
        Which of how many workers this is; the source gives its markets only.

    Raises
    ------
    SourceError
        If a source that is not live fails; of a live one every market is tried again for itself.
    CacheUnavailable
        If Redis is gone; what is missing is rebuilt by starting again.
    """
    if shard[1] == 1:
        cache.clear_markets()
    markets = await asyncio.to_thread(source.markets)
    desk = _Desk(source, cache, preset, report, published, markets)
    try:
        desk.announce(markets)
        await asyncio.gather(*(desk.load(market) for market in markets))
        desk.tell_ready()
        async with contextlib.aclosing(source.watch()) as updates:  # type: ignore[type-var]
            async for update in updates:
                desk.take(update)
                desk.check()
        while True:  # a recording that has ended stays on show
            await asyncio.sleep(_CHECK_S)
            desk.check()
    finally:
        await desk.close()


class _Desk:
    """The followers of all markets, and what arrives for those that are being loaded."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        preset: Preset,
        report: Report,
        published: Published | None,
        markets: Sequence[Market],
    ) -> None:
        self._source, self._cache, self._preset = source, cache, preset
        self._report, self._published = report, published
        self._ranks = {m.id: rank for rank, m in enumerate(markets)}
        self._followers: dict[str, MarketFollower] = {}
        self._waiting: dict[str, list[MarketUpdate]] = {}  # of markets that are being loaded
        self._failures: dict[str, tuple[int, float]] = {}  # how often, and when to try again
        self._shares: dict[str, float] = dict.fromkeys(self._ranks, 0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewed = time.monotonic()
        live = source.origin is Origin.LIVE
        self._places = asyncio.Semaphore(_FETCHED_AT_ONCE if live else max(1, min(os.cpu_count() or 1, 4)))
        self._deepening = asyncio.Semaphore(2)

    def take(self, update: MarketUpdate) -> None:
        """Pass an update to its follower; load a market that is seen for the first time or failed before."""
        market_id = update.market.id
        if market_id in self._waiting:
            self._waiting[market_id].append(update)
        elif market_id in self._followers:
            self._followers[market_id].apply(update)
        elif self._failures.get(market_id, (0, 0.0))[1] <= time.monotonic():
            self._waiting[market_id] = []  # now: another update may come before the task begins
            self._start(self.load(update.market))

    def announce(self, markets: Sequence[Market]) -> None:
        """Say which markets are coming, so that nobody is told that they do not exist."""
        for market in markets:
            self._cache.put_status(announced(market, self._ranks[market.id], self._source, self._preset))

    def check(self) -> None:
        """Raise what ended a task of this desk; now and then keep what is quiet from expiring."""
        if time.monotonic() - self._renewed >= self._cache.ttl_s / _RENEWALS:
            self._renewed = time.monotonic()
            for follower in self._followers.values():
                follower.renew()
        for task in [t for t in self._tasks if t.done()]:
            self._tasks.remove(task)
            task.result()

    async def load(self, market: Market) -> None:
        """Fetch and compute the past of a market, then apply what arrived meanwhile."""
        self._ranks.setdefault(market.id, len(self._ranks))
        self._waiting.setdefault(market.id, [])
        self._followers.pop(market.id, None)
        try:
            async with self._places:
                follower = await asyncio.to_thread(self._load, market)
        except (SourceError, HistoryError, InputError) as error:
            self._note(market, error)
        else:
            self._failures.pop(market.id, None)
            self._followers[market.id] = follower
        arrived = self._waiting.pop(market.id)
        if market.id not in self._followers:
            return
        for update in arrived:
            if update.candle_closed or update.liquidations or _observes(update):
                self._followers[market.id].apply(update)
        for each in self._followers.values():
            each.pace = max(1.0, len(self._followers) / _CROWD)
        if self._followers[market.id].progress < 1.0 and isinstance(self._source, GrowingSource):
            self._start(self._deepen(market, self._source))

    def _load(self, market: Market) -> MarketFollower:
        """Fetch and compute a past; fetching counts for nine tenths of the progress."""
        share = _FIRST_SHARE if isinstance(self._source, GrowingSource) else 1.0
        history = self._source.history(market, lambda done, text: self._tell(market, 0.9 * share * done, text))
        self._tell(market, 0.9 * share, f"estimating {market.id}")
        rank = self._ranks[market.id]
        follower = MarketFollower(market, rank, self._source, self._cache, self._preset, self._published)
        if self._source.origin is Origin.LIVE:
            self._cache.clear_market(market.id)
        follower.backfill(history)
        self._tell(market, 1.0 if history.progress >= 1.0 else share, f"{market.id} ready")
        _give_back()
        return follower

    async def _deepen(self, market: Market, source: GrowingSource) -> None:
        """Fetch the older past of a market and compute it anew, from its beginning."""

        def tell(done: float, text: str) -> None:
            self._tell(market, _FIRST_SHARE + (1.0 - _FIRST_SHARE) * done, text)

        failures = 0
        async with self._deepening:
            while True:
                try:
                    await asyncio.to_thread(source.deepen, market, tell)
                    break
                except (SourceError, HistoryError) as error:
                    failures += 1
                    _LOG.warning("%s: the older past waits: %s", market.id, error)
                    await asyncio.sleep(_pause(failures))
            await self.load(market)
        self.tell_ready()

    def _note(self, market: Market, error: Exception) -> None:
        if self._source.origin is not Origin.LIVE:
            raise error
        count = self._failures.get(market.id, (0, 0.0))[0] + 1
        self._failures[market.id] = count, time.monotonic() + _pause(count)
        (_LOG.warning if count == 1 else _LOG.info)("%s is tried again: %s", market.id, error)

    def _tell(self, market: Market, done: float, text: str) -> None:
        self._shares[market.id] = max(done, self._shares.get(market.id, 0.0))
        total = min(sum(self._shares.values()) / len(self._shares), 0.999)
        self._cache.put_progress(total, text)
        self._report(total, text)

    def tell_ready(self) -> None:
        """Say that the start is over, once nothing older is being fetched."""
        behind = [f.market.id for f in self._followers.values() if f.progress < 1.0]
        if behind or self._waiting:
            return
        text = "following live" if self._source.origin is not Origin.RECORDED else "recording loaded"
        self._cache.put_progress(1.0, text if self._followers else "waiting for a venue to answer")
        self._report(1.0, f"{len(self._followers)} markets ready")

    def _start(self, task: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.ensure_future(task))

    async def close(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _observes(update: MarketUpdate) -> bool:
    return any(seen is not None for seen in (update.open_interest, update.long_short_ratio, update.funding_rate))


def _pause(failures: int) -> float:
    """Exponential, with full jitter. [s]"""
    first, longest = _RETRY_S
    return random.uniform(0.0, min(longest, first * 2.0 ** min(failures, 10)))  # noqa: S311 - no secret


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps what the large arrays of a past leave behind."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
