"""The worker: builds the source the settings ask for, follows it, and moves what arrives into history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from estimator.alerts.config import read_config
from estimator.auto import Auto
from estimator.cache import Cache
from estimator.domain import DAY_MS, ContractType, Market, Origin
from estimator.errors import CacheError, HistoryError, InputError, SettingsError
from estimator.exchanges.base import Source
from estimator.exchanges.binance_payloads import rule_brackets
from estimator.exchanges.recorded import RecordedSource
from estimator.exchanges.simulated import SimulatedSource
from estimator.follow import Report, Shard, follow
from estimator.history import History, Published, Recorder
from estimator.live import LiveSource, make_venues
from estimator.live.holders import Watching, read_addresses
from estimator.model.parameters import Parameters
from estimator.probe import in_words
from estimator.refit import refit
from estimator.reporting import Reporter, begin_beside, reporting
from estimator.scoring.tracker import InHistory, InMemory, Tracker
from estimator.settings import Settings

_LOG: Final = logging.getLogger(__name__)
RECORD_S: Final = 10.0  # the journal reaches history this often: each commit is a file; it hurries where a past waits
_ALERT_MEMORY: Final = 4 << 20  # what alerts read they read once an hour
_OBSERVE_S: Final = 15.0  # a big coin takes a tenth of a second to sum
_PATIENCE_S: Final = 1.0  # a venue that is there answers sooner


def build_source(settings: Settings) -> Source:
    """Make the source the settings ask for, where it is not a live one.

    Raises
    ------
    SettingsError
        If a recording is asked for without a path.
    """
    if settings.source == "recorded":
        if settings.recording is None:
            raise SettingsError("source 'recorded' needs a file or folder: --data PATH or LIQHEAT_RECORDING=PATH")
        return RecordedSource(settings.recording, replay=settings.replay)
    return SimulatedSource(settings.seed, days=settings.days)


def history_root(settings: Settings) -> str | Path:
    """Where history is kept."""
    return settings.history or settings.data / "history"


def archived_markets(symbols: str) -> list[Market]:
    """Make the Binance markets of comma-separated symbols, for an archive that knows no tiers."""
    names = [s.strip() for s in symbols.split(",") if s.strip()]
    contracts: list[tuple[str, ContractType]] = [(n, "linear" if "/USD:" not in n else "inverse") for n in names]
    return [Market("binance", n, c, rule_brackets(n.split("/")[0], c).brackets) for n, c in contracts]


async def work(settings: Settings, cache: Cache, report: Report, shard: Shard = (0, 1)) -> None:
    """Run the worker the settings ask for, for ever.

    With ``auto`` it returns where a user asks for live data while the simulated market is shown: the caller then begins
    again in a new process, because threads of this one may still compute what is simulated.

    Raises
    ------
    SettingsError
        Also where Redis would drop what arrives before it is in history.
    SourceError, CacheUnavailable
        As `follow`.
    """
    with alerting(settings, cache, shard):
        await _work(settings, cache, report, shard)


async def _work(settings: Settings, cache: Cache, report: Report, shard: Shard) -> None:
    if settings.source != "auto":
        await asyncio.to_thread(cache.choices.forget)
    if settings.source in ("simulated", "recorded"):
        return await _show(build_source(settings), settings, cache, report, shard)
    if settings.source == "live":
        await _follow_live(settings, cache, report, shard)
        return None
    return await _follow_either(settings, cache, report, shard)


async def _show(source: Source, settings: Settings, cache: Cache, report: Report, shard: Shard) -> None:
    """Follow a source that is not live: nothing of it is recorded."""
    async with reporting(Reporter(cache, shard)), observing(source, cache):
        with tracking(Tracker(cache, InMemory(cache), source.origin)):
            await follow(source, cache, settings.preset, report)


@contextlib.asynccontextmanager
async def observing(source: Source, cache: Cache) -> AsyncIterator[None]:
    """Publish what agents of a simulated market hold while the block runs; nothing for any other source."""
    task = begin_beside(_observe(source, cache)) if isinstance(source, SimulatedSource) else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _observe(source: SimulatedSource, cache: Cache) -> None:
    while True:
        for market in source.published_markets():
            seen = await asyncio.to_thread(source.observed, market)
            with contextlib.suppress(CacheError):  # an extra: the market goes on, or ends, by itself
                await asyncio.to_thread(cache.positions.put, {market.id: seen})
        await asyncio.sleep(_OBSERVE_S)


async def _follow_either(settings: Settings, cache: Cache, report: Report, shard: Shard) -> None:
    """Follow the venues where one answers, else the simulated market; see `estimator.auto`."""
    auto = Auto(settings, cache.choices, shard)
    simulated = SimulatedSource(settings.seed, days=settings.days)
    stands = await auto.is_chosen()
    problems: dict[str, str] = {}
    if not stands:
        # First of all: nothing that another run simulated may be on show while venues are asked.
        await asyncio.to_thread(cache.clear_markets)
        await asyncio.to_thread(cache.forget_simulated)
        cache.put_progress(0.0, f"asking {settings.venues}")
        report(0.0, f"asking {settings.venues}")
        problems = await _ask_ahead(auto, simulated)
    if not problems:
        problems = await _follow_live(settings, cache, report, shard, auto, must_answer=not stands)
    simulated.description += f"; no venue answers ({in_words(problems)})"
    _LOG.warning("no venue answers (%s): the SIMULATED market is shown", in_words(problems))
    following = asyncio.ensure_future(_show(simulated, settings, cache, report, shard))
    asking = asyncio.ensure_future(auto.until_asked(problems))
    try:
        done, _ = await asyncio.wait((following, asking), return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        following.cancel()
        asking.cancel()


async def _ask_ahead(auto: Auto, simulated: SimulatedSource) -> dict[str, str]:
    """Ask the venues; where they let one wait, simulate meanwhile what may have to be shown, without showing it."""
    asking = asyncio.ensure_future(auto.ask())
    try:
        await asyncio.wait((asking,), timeout=_PATIENCE_S)
        if not asking.done():
            first = simulated.markets()[0]
            threading.Thread(target=simulated.history, args=(first, lambda _done, _text: None), daemon=True).start()
        return await asking
    finally:
        asking.cancel()


async def _follow_live(
    settings: Settings,
    cache: Cache,
    report: Report,
    shard: Shard,
    auto: Auto | None = None,
    *,
    must_answer: bool = False,
) -> dict[str, str]:
    """Follow the venues for ever; or return what every one of them said where one must answer and none does."""
    await asyncio.to_thread(cache.journal.check_kept)
    columns_days = {5: settings.columns_5m_days, 15: settings.columns_15m_days, 30: settings.columns_30m_days}
    history = History(history_root(settings), retention_days=settings.retention_days, columns_days=columns_days)
    beside: list[asyncio.Task[None]] = []
    recorder = make_recorder(cache, history, shard)
    with recording(cache, history, shard, recorder=recorder) as published:
        async with (
            live(settings, cache, history, shard) as source,
            reporting(Reporter(cache, shard, source.followed, recorder, published)),
        ):
            if must_answer:
                await asyncio.to_thread(source.markets)
                if not source.answers:
                    return source.problems
            beside.append(begin_beside(_keep_house(history, settings.compact_hours, shard)))
            if settings.refit_hours is not None:
                beside.append(begin_beside(_refit(history, source, settings)))
            if auto is not None:
                beside.append(begin_beside(auto.keep_live()))
            try:
                with tracking(Tracker(cache, InHistory(history, cache), Origin.LIVE, shard)):
                    await follow(source, cache, settings.preset, report, published, shard=shard)
            finally:
                for task in beside:
                    task.cancel()
    return {}


@contextlib.asynccontextmanager
async def live(settings: Settings, cache: Cache, history: History, shard: Shard) -> AsyncIterator[LiveSource]:
    """Make the live source of the settings; its connections are closed afterwards."""
    venues = make_venues(settings.venues, settings.exchange_base)
    watching = Watching(cache.positions.put, read_addresses(settings.hyperliquid_addresses), shard[1])
    source = LiveSource(
        venues, history, cache.journal, wanted=settings.markets, days=settings.days, shard=shard, watching=watching
    )
    if settings.exchange_base is not None:
        source.description += f"; {settings.exchange_base} stands in for them"
    try:
        yield source
    finally:
        await source.close()


def make_recorder(cache: Cache, history: History, shard: Shard = (0, 1), interval_s: float = RECORD_S) -> Recorder:
    """Make the recorder of a worker, which takes up what an earlier one of its name left."""
    return Recorder(cache.journal, history, consumer=f"worker-{shard[0]}", interval_s=interval_s)


@contextlib.contextmanager
def recording(
    cache: Cache,
    history: History,
    shard: Shard = (0, 1),
    *,
    interval_s: float = RECORD_S,
    recorder: Recorder | None = None,
) -> Iterator[Published]:
    """Move the journal, and what is published, into history while the block runs."""
    stop, published = threading.Event(), Published(history)
    recorder = recorder or make_recorder(cache, history, shard, interval_s)
    threads = [threading.Thread(target=t.run, args=(stop,), daemon=True) for t in (recorder, published)]
    for thread in threads:
        thread.start()
    try:
        yield published
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=10.0)


@contextlib.contextmanager
def tracking(tracker: Tracker) -> Iterator[None]:
    """Score what is published while the block runs."""
    stop = threading.Event()
    threading.Thread(target=tracker.run, args=(stop,), name="track record", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


@contextlib.contextmanager
def alerting(settings: Settings, cache: Cache, shard: Shard = (0, 1)) -> Iterator[None]:
    """Tell alerts while the block runs, where any are configured. A market simulated for want of venues has none.

    Raises
    ------
    SettingsError
        If what is configured cannot be.
    """
    config = read_config(settings.alerts_file, settings.alerts_urls)
    if config is None:
        yield
        return
    from estimator.alerts.watch import watching  # noqa: PLC0415 - with what it needs, for those who use it

    own = cache if settings.redis_url is None else Cache(settings.redis_url, memory_bytes=_ALERT_MEMORY)
    origins = (Origin.LIVE,) if settings.source == "auto" else tuple(Origin)
    with watching(own, config, origins, shard):
        yield


async def _refit(history: History, source: LiveSource, settings: Settings) -> None:
    """Fit the markets of this worker to their own liquidations now and then, one after the other."""
    default = Parameters.preset(settings.preset)
    while settings.refit_hours is not None:
        await asyncio.sleep(settings.refit_hours * 3600)
        for market in await asyncio.to_thread(source.markets):
            try:
                await asyncio.to_thread(refit, history, market, default)
            except (InputError, HistoryError) as error:
                _LOG.info("%s is not calibrated: %s", market.id, error)


async def _keep_house(history: History, compact_hours: float, shard: Shard) -> None:
    """Compact history every few hours and drop what is too old once a day; the first worker does it."""
    retained_ms = 0
    while shard[0] == 0:
        await asyncio.sleep(compact_hours * 3600)
        now_ms = time.time_ns() // 1_000_000
        try:
            await asyncio.to_thread(history.compact)
            if now_ms - retained_ms >= DAY_MS:
                await asyncio.to_thread(history.retain, now_ms)
                retained_ms = now_ms
        except HistoryError as error:
            _LOG.warning("history is not compacted: %s", error)
