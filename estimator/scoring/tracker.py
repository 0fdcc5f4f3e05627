"""`Tracker`: scores what was published once its horizon is over, keeps the scores, and sums them up for the web."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Protocol
from zlib import crc32

import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Origin
from estimator.errors import CacheError, HistoryError, LiqheatError
from estimator.evaluation.events import HORIZONS_H
from estimator.history import History
from estimator.history.tables import MARKET, TRACK_OPTIONAL, TRACK_RECORD, TRACK_TOUCHES, with_market
from estimator.memory import give_back_heap
from estimator.model.grid import LEVELS
from estimator.scoring.evidence import LEVEL, Evidence, from_cache, from_history
from estimator.scoring.record import add_up, summarise_sums
from estimator.scoring.track import Due, judge

_LOG: Final = logging.getLogger(__name__)
SETTLE_MS: Final = 2 * MINUTE_MS  # after the end of a horizon: prints on their way have arrived by then
LOOK_BACK_MS: Final = 3 * DAY_MS  # what was published earlier and not scored in time is left
_PAUSE_S: Final = 30.0

Tables = tuple[pl.DataFrame, pl.DataFrame]


class Ledger(Protocol):
    """Where scores are kept and what they are made from."""

    def first_ms(self, status: MarketStatus) -> int:
        """Return the first close that may still be scored. [ms]"""
        ...

    def known(self, status: MarketStatus, first_ms: int) -> set[Due]:
        """Return what was scored of a market from a close on."""
        ...

    def read(self, status: MarketStatus, first_ms: int, last_ms: int) -> Evidence | None:
        """Return what was published between two closes, both included, and what came of it."""
        ...

    def add(self, market_id: str, scored: Tables) -> None:
        """Keep scores; those of a key that is there already change nothing."""
        ...

    def parts(self) -> Iterator[Tables]:
        """Yield everything kept, whole UTC days at a time."""
        ...


class InHistory:
    """The ledger of live markets: tables of history, made once and read by every later run.

    Parameters
    ----------
    history : History
    cache : Cache
        Its journal must be in history up to now before anything is read.
    journal_s : float
        So long is that waited for; what is due is due again afterwards. [s]
    """

    def __init__(self, history: History, cache: Cache, *, journal_s: float = 30.0) -> None:
        self._history, self._journal, self._journal_s = history, cache.journal, journal_s

    def first_ms(self, status: MarketStatus) -> int:
        """See `Ledger`."""
        return status.as_of_ms - LOOK_BACK_MS

    def known(self, status: MarketStatus, first_ms: int) -> set[Due]:
        """See `Ledger`."""
        return _keys(self._history.read("track_record", status.id, first_ms, status.as_of_ms + 1))

    def read(self, status: MarketStatus, first_ms: int, last_ms: int) -> Evidence | None:
        """See `Ledger`; None where the journal is not in history yet."""
        last_id, until = self._journal.last_id(), time.monotonic() + self._journal_s
        while last_id is not None and self._journal.waits(last_id):
            if time.monotonic() > until:
                return None
            self._journal.hurry()
            time.sleep(0.2)
        return from_history(self._history, status, first_ms, last_ms)

    def add(self, market_id: str, scored: Tables) -> None:
        """See `Ledger`. Touches go first: what has a record is taken for done."""
        record, touches = (with_market(market_id, frame) for frame in scored)
        if touches.height:
            times = touches["time"].dt.epoch("ms").to_numpy()
            known = self._history.read("track_touches", market_id, int(times.min()), int(times.max()) + 1)
            # Another version of this program may find other clusters: what was told of a column stays all there is.
            self._history.append("track_touches", touches.join(known, on=["time", "horizon_h"], how="anti"))
        self._history.append("track_record", record)

    def parts(self) -> Iterator[Tables]:
        """See `Ledger`."""
        no_record, no_touches = _nothing()
        yield from ((record, no_touches) for record in self._history.read_months("track_record"))
        yield from ((no_record, touches) for touches in self._history.read_months("track_touches"))


class InMemory:
    """The ledger of markets that have no history: simulated and recorded ones, made anew by every run.

    Parameters
    ----------
    cache : Cache
    every_h : int
        Columns of the past are scored this far apart, for there are many at once. [h]
    """

    def __init__(self, cache: Cache, *, every_h: int = 2) -> None:
        self._cache, self._every_h = cache, every_h
        self._kept: list[Tables] = [_nothing()]

    def first_ms(self, status: MarketStatus) -> int:
        """See `Ledger`."""
        return max(status.last_ms - LEVELS[LEVEL].keep_ms, status.first_ms)

    def known(self, status: MarketStatus, first_ms: int) -> set[Due]:
        """See `Ledger`."""
        del first_ms
        exchange, _, symbol = status.id.partition(":")
        mine = (pl.col("exchange") == exchange) & (pl.col("symbol") == symbol)
        return set().union(*(_keys(record.filter(mine)) for record, _ in self._kept))

    def read(self, status: MarketStatus, first_ms: int, last_ms: int) -> Evidence | None:
        """See `Ledger`."""
        return from_cache(self._cache, status, first_ms, last_ms, every_h=self._every_h)

    def add(self, market_id: str, scored: Tables) -> None:
        """See `Ledger`."""
        record, touches = (with_market(market_id, frame) for frame in scored)
        self._kept.append((record.select(_nothing()[0].columns), touches.select(_nothing()[1].columns)))

    def parts(self) -> Iterator[Tables]:
        """See `Ledger`."""
        record, touches = (pl.concat(frames) for frames in zip(*self._kept, strict=True))
        self._kept = [(record, touches)]
        yield record, touches


class Tracker:
    """Scores markets hour by hour, for as long as a worker runs.

    Parameters
    ----------
    cache : Cache
        Tells which markets there are; gets the record.
    ledger : Ledger
    origin : Origin
        Markets of another one are left alone.
    shard : (int, int)
        Which of how many workers this is. The first one sums up for all of them.
    """

    def __init__(self, cache: Cache, ledger: Ledger, origin: Origin, shard: tuple[int, int] = (0, 1)) -> None:
        self._cache, self._ledger, self._origin, self._shard = cache, ledger, origin, shard
        self._done: dict[str, set[Due]] = {}
        self._summed = False
        self._error = ""

    def run(self, stop: threading.Event) -> None:
        """Score what is due until `stop` is set; what fails is tried again."""
        while not stop.wait(_PAUSE_S if self._summed else 1.0):
            try:
                self.step(stop)
                self._error = ""
            except (HistoryError, CacheError) as error:
                self._note(error)
            except BaseException as error:  # noqa: BLE001 - delta-rs may panic; nothing ends this thread silently
                _LOG.exception("track record: a mistake of this program, tried again")
                self._note(HistoryError(repr(error)))
                stop.wait(_PAUSE_S)

    def step(self, stop: threading.Event | None = None) -> int:
        """Score what is due now and sum up if anything is new; return how many closes and horizons were scored.

        Raises
        ------
        HistoryUnavailable, CacheUnavailable
            What was not kept is scored by a later call.
        """
        begun = self._cache.get_progress()
        if self._origin is not Origin.LIVE and (begun is None or begun.done < 1):
            return 0  # what people wait for comes first
        statuses = [s for s in self._cache.get_statuses() if s.loaded and s.origin is self._origin and s.progress >= 1]
        scored = 0
        for status in statuses:
            if stop is not None and stop.is_set():
                return scored
            if crc32(status.id.encode()) % self._shard[1] == self._shard[0]:
                scored += self._score(status)
        if statuses and self._shard[0] == 0 and (scored or not self._cache.track.renew()):
            self._sum_up(statuses)
        return scored

    def _score(self, status: MarketStatus) -> int:
        """Score what is due of one market."""
        first_ms = -(-self._ledger.first_ms(status) // HOUR_MS) * HOUR_MS
        done = self._done.get(status.id)
        if done is None:
            done = self._done[status.id] = self._ledger.known(status, first_ms)
        due = due_between(first_ms, min(status.last_ms, status.as_of_ms - SETTLE_MS), done)
        if not due:
            return 0
        closes = [close_ms for close_ms, _ in due]
        evidence = self._ledger.read(status, min(closes), max(closes))
        if evidence is None:
            return 0
        self._ledger.add(status.id, judge(evidence, due))
        self._done[status.id] = {d for d in done | due if d[0] >= first_ms}
        give_back_heap()
        return len(due)

    def _sum_up(self, statuses: Iterable[MarketStatus]) -> None:
        # Piece by piece: the sums of a year take less memory than the rows of a month.
        sums = [add_up(*_nothing()), *(add_up(*part) for part in self._ledger.parts())]
        versions = pl.concat(one.versions for one in sums)
        first = next(iter(statuses))
        meta = {
            "origin": self._origin.value,
            "source": first.source,
            "made_ms": time.time_ns() // 1_000_000,
            "first_ms": _edge(versions["first"].dt.epoch("ms").min()),
            "last_ms": _edge(versions["last"].dt.epoch("ms").max()),
        }
        self._cache.track.put(meta, summarise_sums(sums))
        self._summed = True

    def _note(self, error: LiqheatError) -> None:
        if str(error) != self._error:
            _LOG.warning("the track record waits: %s", error)
        self._error = str(error)


def due_between(first_ms: int, known_until_ms: int, done: Collection[Due]) -> set[Due]:
    """Return closes at full hours and horizons that are over, from a close on, without those that are done."""
    closes = range(first_ms, known_until_ms - HOUR_MS + 1, HOUR_MS)
    over = {(t, h) for t in closes for h in HORIZONS_H if t + h * HOUR_MS <= known_until_ms}
    return over - set(done)


def _keys(record: pl.DataFrame) -> set[Due]:
    return set(record.select(pl.col("time").dt.epoch("ms"), pl.col("horizon_h").cast(pl.Int64)).unique().iter_rows())


def _edge(time_ms: object) -> int | None:
    return time_ms if isinstance(time_ms, int) else None


def _nothing() -> Tables:
    record, touches = (
        pl.DataFrame(schema={**MARKET, **schema, **TRACK_OPTIONAL}) for schema in (TRACK_RECORD, TRACK_TOUCHES)
    )
    return record, touches
