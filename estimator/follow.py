"""Following the markets of a source: the past of each at once, then live, and tried again where a venue fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from estimator.bands import Bands
from estimator.cache import Cache
from estimator.domain import Market, Origin
from estimator.errors import CacheError, CacheUnavailable, HistoryError, InputError, SourceError
from estimator.exchanges.base import GrowingSource, MarketUpdate, Source
from estimator.history import Calibrations, Published
from estimator.memory import give_back_code, give_back_heap
from estimator.model.parameters import Preset
from estimator.pipeline import MarketFollower, announced

_LOG: Final = logging.getLogger(__name__)
_CHECK_S: Final = 1.0  # how often tasks, Redis and what people look at are looked after
_RENEWALS: Final = 8  # times a quiet market is renewed within the life time of its entries
_CROWD: Final = 30  # with more markets than this those that nobody looks at show their open candle less often
_SLOWEST: Final = 10.0  # but at least this often, in times of the usual pace
_SHOW_S: Final = 0.1  # how often it is looked what is due
_MOST_BESIDE: Final = 12  # markets with an ensemble: two coins on six venues
_OFFERS_S: Final = 60.0  # how often it is looked what was fitted to markets
_GO_ON_S: Final = 0.02  # so long others wait at most while updates are applied
_GIVE_BACK_S: Final = 20.0  # how often memory is given back while no past is loaded
_RETRY_S: Final = (2.0, 60.0)  # first and longest pause before a market is tried again
_FETCHED_AT_ONCE: Final = 8  # live markets being fetched
_DEEPENED_AT_ONCE: Final = 2  # and whose older past is
_CORES: Final = max(1, min(os.cpu_count() or 1, 4))
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
    CacheError
        If Redis is gone, or was emptied, and the source is not live: starting again makes it all anew. A live one is
        followed on: what came meanwhile is kept, and what is missing is published again.
    """
    if shard[1] == 1:
        cache.clear_markets()
    markets = await asyncio.to_thread(source.markets)
    desk = _Desk(source, cache, preset, report, published, markets, shard)
    try:
        desk.announce(markets)
        if source.origin is Origin.LIVE:  # prints come once: they are heard while the past is fetched
            await asyncio.gather(desk.load_all(markets), desk.watch(), desk.keep())
        else:
            await desk.load_all(markets)
            await asyncio.gather(desk.watch(), desk.keep())
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
        shard: Shard,
    ) -> None:
        self._source, self._cache, self._preset = source, cache, preset
        self._report, self._published = report, published
        self._ranks = {m.id: rank for rank, m in enumerate(markets)}
        self._followers: dict[str, MarketFollower] = {}
        self._waiting: dict[str, list[MarketUpdate]] = {}  # of markets that are being loaded
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._emptied = 0  # how often Redis was
        self._failures: dict[str, tuple[int, float]] = {}  # how often, and when to try again
        self._shares: dict[str, float] = dict.fromkeys(self._ranks, 0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewed = self._asked = self._given_back = time.monotonic()
        self._sign, self._gone = f"{shard[0]}/{shard[1]}", False
        self._untold = False  # that the start is over, because Redis was gone
        self._behind: dict[str, Market] = {}  # markets that missed something while Redis was gone
        self._watched: frozenset[str] = frozenset()
        self._unsure: frozenset[str] = frozenset()  # coins of which somebody asks how sure they are
        self._beside = asyncio.Semaphore(1)  # ensembles being computed
        live = self._live = source.origin is Origin.LIVE
        # Not the event loop's own threads: while all of these wait for it, it needs one to write the journal.
        self._threads = _past_threads()
        self._places = asyncio.Semaphore(_FETCHED_AT_ONCE if live else _CORES)
        self._deepening = asyncio.Semaphore(_DEEPENED_AT_ONCE)
        self._computing = threading.Semaphore(_CORES)  # a past being computed takes much memory

    async def watch(self) -> None:
        """Take in what the source says, to its end."""
        since = time.monotonic()
        async with contextlib.aclosing(self._source.watch()) as updates:  # type: ignore[type-var]
            async for update in updates:
                self.take(update)
                if time.monotonic() - since > _GO_ON_S:
                    await asyncio.sleep(0)
                    since = time.monotonic()

    async def keep(self) -> None:
        """Show what is due and look after everything, for ever."""
        checked = 0.0
        while True:
            if time.monotonic() - checked >= _CHECK_S:
                self._check_tasks()
                try:
                    await self._check_cache()
                except CacheError as error:
                    self._miss(error)
                checked = time.monotonic()
            if self._published is not None and time.monotonic() - self._asked >= _OFFERS_S:
                self._asked = time.monotonic()
                self._start(self.take_offers(self._published.calibrations))
            for follower in list(self._followers.values()):
                self._try(follower.market, follower.show)
            await asyncio.sleep(_SHOW_S)

    def take(self, update: MarketUpdate) -> None:
        """Pass an update to its follower; load a market that is seen for the first time or failed before."""
        market_id = update.market.id
        if market_id in self._waiting:
            if _matters(update):
                self._waiting[market_id].append(update)
        elif market_id in self._followers:
            self._try(update.market, lambda: self._followers[market_id].apply(update), matters=_matters(update))
        elif self._failures.get(market_id, (0, 0.0))[1] <= time.monotonic():
            self._set_aside([update.market])  # now: another update may come before the task begins
            self._start(self.load(update.market))

    def _try(self, market: Market, publish: Callable[[], None], *, matters: bool = False) -> None:
        """Publish something of a market. Where Redis is gone it is published anew later, if it matters."""
        if not self._gone:
            try:
                return publish()
            except CacheError as error:
                self._miss(error)
        if matters:
            self._behind[market.id] = market
        return None

    def _miss(self, error: CacheError) -> None:
        """Go on without Redis until it is back; a source that is not live ends."""
        if not self._live:
            raise error
        if not self._gone:
            _LOG.warning("nothing is published: %s", error)
        self._gone = True

    def announce(self, markets: Sequence[Market]) -> None:
        """Say which markets are coming, so that nobody is told that they do not exist."""
        for market in markets:
            self._cache.put_status(announced(market, self._ranks[market.id], self._source, self._preset))
        self._cache.put_sign(self._sign)
        self._declare()

    def _declare(self) -> None:
        if isinstance(self._source, GrowingSource):
            self._cache.put_capabilities(self._source.capabilities())

    def _check_tasks(self) -> None:
        """Raise what ended a task of this desk."""
        for task in [t for t in self._tasks if t.done()]:
            self._tasks.remove(task)
            task.result()

    async def _check_cache(self) -> None:
        """See whether Redis holds what it should, and what people look at; renew what is quiet now and then."""
        holds, restarted, watched, self._unsure = await asyncio.to_thread(self._ask_cache)
        self._gone = False
        if restarted or not holds:
            self._begin_again("started again" if holds else "emptied", shown=holds)
        elif self._behind:
            again, self._behind = list(self._behind.values()), {}
            self._load_again(again)
        elif self._untold:
            self.tell_ready()
        self._look(watched)
        self._look_beside()
        if not self._waiting and time.monotonic() - self._given_back >= _GIVE_BACK_S:
            self._given_back = time.monotonic()
            self._renew_threads()
            await asyncio.to_thread(_give_back)
        if time.monotonic() - self._renewed >= self._cache.ttl_s / _RENEWALS:
            self._renewed = time.monotonic()
            self._declare()
            for follower in self._followers.values():
                self._try(follower.market, follower.renew)

    def _ask_cache(self) -> tuple[bool, bool, frozenset[str], frozenset[str]]:
        cache = self._cache
        holds, watched, unsure = cache.has_sign(self._sign), cache.attention.watched(), cache.band_attention.watched()
        return holds, cache.was_restarted(), watched, unsure  # it says so once: nothing may fail after it

    def _begin_again(self, what: str, *, shown: bool) -> None:
        """Publish everything anew: Redis was emptied, is another one, or lost what it took last as it ended.

        What is `shown` still stays until it is each market's turn.
        """
        if not self._live:
            raise CacheUnavailable(f"Redis was {what}: the market is made anew by starting again")
        _LOG.warning("Redis was %s: every market is published anew", what)
        self._emptied += 1
        if isinstance(self._source, GrowingSource):
            self._source.forgotten()
        markets = [f.market for f in self._followers.values()]
        self._behind.clear()
        if not shown:
            self._shares = dict.fromkeys(self._ranks, 0.0)
            self.announce([m for m in markets if m.id not in self._waiting])
        self._load_again(markets)

    def _load_again(self, markets: Sequence[Market]) -> None:
        """Load markets anew, first those that somebody looks at."""
        again = [m for m in markets if m.id not in self._waiting]
        self._set_aside(again)  # now: an update may come before the task begins, and what it misses changes its column
        self._start(self.load_all(sorted(again, key=lambda m: (m.base not in self._watched, self._ranks[m.id]))))

    def _set_aside(self, markets: Sequence[Market]) -> None:
        """Follow markets no longer: what arrives of them waits until their past is there."""
        for market in markets:
            self._waiting.setdefault(market.id, [])
            self._followers.pop(market.id, None)

    def _look(self, watched: frozenset[str]) -> None:
        """Show markets that somebody looks at at the usual pace, and others less often the more there are."""
        self._watched = watched
        crowd = min(max(1.0, len(self._followers) / _CROWD), _SLOWEST)
        for follower in self._followers.values():
            follower.watched = follower.market.base in watched
            follower.pace = 1.0 if follower.watched else crowd

    async def take_offers(self, calibrations: Calibrations) -> None:
        """Put in force what was offered to the markets of this worker, and go by what has come into force."""
        try:
            for market_id, calibration in (await asyncio.to_thread(calibrations.due)).items():
                follower = self._followers.get(market_id)
                if follower is not None and follower.can_go_by(calibration):
                    await asyncio.to_thread(calibrations.put_in_force, market_id, follower.change_ms, calibration)
            for market_id, changes in (await asyncio.to_thread(calibrations.changes)).items():
                follower = self._followers.get(market_id)
                if follower is not None and follower.change(*changes[-1]):
                    _LOG.info("%s goes by what was fitted to it, from %d on", market_id, changes[-1].time_ms)
        except HistoryError as error:
            _LOG.warning("what was fitted to markets is not known: %s", error)

    def _look_beside(self) -> None:
        """Compute ensembles of markets that are asked for, and give up those that are not any more.

        A source that is not live cannot tell its past again: its few markets keep what closes from the start on.
        """
        asked = [f for f in self._followers.values() if f.progress >= 1.0 and f.market.base in self._unsure]
        asked = sorted(asked, key=lambda f: self._ranks[f.market.id])[:_MOST_BESIDE]
        for follower in self._followers.values() if self._live else ():
            if follower not in asked:
                follower.bands = None
        for follower in asked:
            bands = follower.bands or (follower.begin_bands() if self._live else None)
            if bands is not None and not bands.begun:
                bands.begun = True
                self._start(self._compute_beside(follower, bands))

    async def _compute_beside(self, follower: MarketFollower, bands: Bands) -> None:
        """Run an ensemble over the past of its market, one at a time, and let it follow."""

        def compute() -> int:
            source, market = self._source, follower.market
            history = source.recall(market) if isinstance(source, GrowingSource) else source.history(market, _quiet)
            return bands.past(follower.steps_of(history)[0])

        async with self._beside:
            try:
                last_ms = await asyncio.get_running_loop().run_in_executor(self._threads, compute)
            except (SourceError, HistoryError, InputError, CacheError) as error:
                _LOG.warning("%s goes without a band: %s", follower.market.id, error)
                await asyncio.sleep(_pause(4))
                follower.bands = None
                return
        self._try(follower.market, lambda: bands.catch_up(last_ms))
        self._try(follower.market, follower.touch)
        give_back_heap()

    async def load_all(self, markets: Sequence[Market]) -> None:
        """Load markets, most important first."""
        self._set_aside(markets)
        await asyncio.gather(*(self.load(market) for market in markets))
        self.tell_ready()

    async def load(self, market: Market) -> None:
        """Fetch and compute the past of a market, then apply what arrived meanwhile."""
        self._ranks.setdefault(market.id, len(self._ranks))
        async with self._loading[market.id]:  # of two at once the last to end might know less
            self._set_aside([market])
            await self._follow_from_past(market)
        follower = self._followers.get(market.id)
        if follower is not None and follower.progress < 1.0 and isinstance(self._source, GrowingSource):
            self._start(self._deepen(market, self._source))

    async def _follow_from_past(self, market: Market) -> None:
        emptied = self._emptied
        try:
            async with self._places:
                follower = await asyncio.get_running_loop().run_in_executor(self._threads, self._load, market)
        except (SourceError, HistoryError, InputError, CacheError) as error:
            self._note(market, error)
        else:
            self._failures.pop(market.id, None)
            self._followers[market.id] = follower
        arrived = self._waiting.pop(market.id)
        if market.id not in self._followers:
            return
        for update in arrived:
            self.take(update)
        if self._emptied != emptied:  # of what is published a part is gone
            self._behind[market.id] = market

    def _load(self, market: Market) -> MarketFollower:
        """Fetch and compute a past; fetching counts for nine tenths of the progress."""
        share = _FIRST_SHARE if isinstance(self._source, GrowingSource) else 1.0
        history = self._source.history(market, lambda done, text: self._tell(market, 0.9 * share * done, text))
        self._tell(market, 0.9 * share, f"estimating {market.id}")
        rank = self._ranks[market.id]
        follower = MarketFollower(history.market, rank, self._source, self._cache, self._preset, self._published)
        if self._source.origin is Origin.LIVE:
            self._cache.clear_market(market.id)
        with self._computing:
            follower.backfill(history)
        if not self._live:
            follower.begin_bands()
        self._tell(market, 1.0 if history.progress >= 1.0 else share, f"{market.id} ready")
        give_back_heap()
        return follower

    async def _deepen(self, market: Market, source: GrowingSource) -> None:
        """Fetch the older past of a market and compute it anew, from its beginning."""

        def tell(done: float, text: str) -> None:
            self._tell(market, _FIRST_SHARE + (1.0 - _FIRST_SHARE) * done, text)

        failures = 0
        async with self._deepening:
            while True:
                try:
                    await asyncio.get_running_loop().run_in_executor(self._threads, source.deepen, market, tell)
                    break
                except (SourceError, HistoryError, CacheError) as error:
                    failures += 1
                    _LOG.warning("%s: the older past waits: %s", market.id, error)
                    await asyncio.sleep(_pause(failures))
            await self.load(market)
        self.tell_ready()

    def _note(self, market: Market, error: Exception) -> None:
        if not self._live:
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
            return None
        text = "following live" if self._source.origin is not Origin.RECORDED else "recording loaded"
        try:
            self._cache.put_progress(1.0, text if self._followers else "waiting for a venue to answer")
        except CacheError as error:
            self._untold = True
            return self._miss(error)
        self._untold = False
        self._report(1.0, f"{len(self._followers)} markets ready")
        self._renew_threads()
        return None

    def _renew_threads(self) -> None:
        """Let go of the threads of pasts: those that have read history keep it open, each for itself."""
        self._threads.shutdown(wait=False)
        self._threads = _past_threads()

    def _start(self, task: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.ensure_future(task))

    async def close(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _give_back() -> None:
    give_back_heap()
    give_back_code()


def _quiet(_done: float, _text: str) -> None:
    """Nobody waits for what is computed beside."""


def _past_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_FETCHED_AT_ONCE + _DEEPENED_AT_ONCE, "past")


def _matters(update: MarketUpdate) -> bool:
    """Whether an update tells more than where the price is, which the next one tells again."""
    told = (update.open_interest, update.long_short_ratio, update.funding_rate, update.connection)
    return update.candle_closed or bool(update.liquidations) or any(one is not None for one in told)


def _pause(failures: int) -> float:
    """Exponential, with full jitter. [s]"""
    first, longest = _RETRY_S
    return random.uniform(0.0, min(longest, first * 2.0 ** min(failures, 10)))  # noqa: S311 - no secret
