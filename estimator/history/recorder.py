"""`Recorder`: moves the journal into history, losing nothing and storing nothing twice."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
from redis.backoff import FullJitterBackoff

from estimator.cache.journal import Delivered, Journal
from estimator.errors import CacheError, HistoryError, InputError, LiqheatError
from estimator.history.store import History
from estimator.history.tables import TABLES, TableName, prepare, with_market

_LOG: Final = logging.getLogger(__name__)
_READ: Final = 1000  # entries per read
_BLOCK_MS: Final = 500  # so that a stop is noticed soon


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """What a recorder has done and whether it is in trouble.

    Parameters
    ----------
    stored : int
        Rows stored since the start.
    known : int
        Rows that history already had.
    rejected : int
        Entries set aside because they can never be stored.
    waiting : int
        Entries in the journal when last looked.
    error : str or None
        Why the last attempt failed; None while all is well.
    overdue : bool
        More entries wait than `Recorder` was told to find normal.
    last_commit_ms : int or None
        When entries last became history; None before the first. [ms]
    """

    stored: int = 0
    known: int = 0
    rejected: int = 0
    waiting: int = 0
    error: str | None = None
    overdue: bool = False
    last_commit_ms: int | None = None


class Recorder:
    """Takes entries off the journal, commits them to history in batches, and only then acknowledges them.

    Killed at any point it loses nothing: entries without acknowledgement are taken again by the next recorder of that
    name, and rows of which the commit had succeeded are recognised by their key. (A loss of power is another matter:
    what the last second brought may not have reached the disk, neither of Redis nor of history.)

    Parameters
    ----------
    journal : Journal
    history : History
    consumer : str
        Name of this recorder, the same after a restart and unlike that of every other recorder.
    interval_s : float
        A batch is committed this long after its first entry at the latest. [s]
    batch_rows : int
        Or as soon as it has this many rows.
    warn_entries : int
        More entries than this waiting in the journal are reported: Redis keeps them in memory.
    backoff_s : float
        Greatest pause between attempts while history or Redis cannot be reached. [s]
    """

    def __init__(
        self,
        journal: Journal,
        history: History,
        *,
        consumer: str = "worker",
        interval_s: float = 5.0,
        batch_rows: int = 20_000,
        warn_entries: int = 50_000,
        backoff_s: float = 30.0,
    ) -> None:
        self._journal, self._history = journal, history
        self._consumer, self._interval_s, self._batch_rows = consumer, interval_s, batch_rows
        self._warn_entries = warn_entries
        self._pause = FullJitterBackoff(cap=backoff_s, base=min(0.2, backoff_s))
        self._failures = 0
        self._stored = self._known = self._rejected = self._waiting = 0
        self._error: str | None = None
        self._last_commit_ms: int | None = None
        self._warned_at = warn_entries

    @property
    def status(self) -> RecorderStatus:
        """How it is doing; may be read from any thread."""
        overdue = self._waiting > self._warn_entries
        return RecorderStatus(
            self._stored, self._known, self._rejected, self._waiting, self._error, overdue, self._last_commit_ms
        )

    def run(self, stop: threading.Event) -> None:
        """Move entries until `stop` is set, then what is left; failures are retried for ever, with a pause."""
        while not stop.is_set():
            try:
                self.move(stop)
            except (HistoryError, CacheError) as error:
                self._note(error)
                stop.wait(self._pause.compute(self._failures))
            except BaseException as error:  # noqa: BLE001 - delta-rs may panic; nothing ends this thread silently
                _LOG.exception("recording: a mistake of this program, tried again")
                self._note(HistoryError(f"a mistake of this program: {error!r}"))
                stop.wait(self._pause.compute(self._failures))
        self._finish()

    def move(self, stop: threading.Event | None = None) -> int:
        """Move one batch and return how many entries it had; 0 if none came within the interval.

        Raises
        ------
        HistoryUnavailable, CacheUnavailable
            The entries stay in the journal and the next call takes them again.
        """
        batch = self._journal.resume(self._consumer, _READ) or self._collect(stop)
        self._store(batch)
        self._failures, self._error = 0, None
        self._watch_length()
        return len(batch)

    def _collect(self, stop: threading.Event | None) -> list[Delivered]:
        """Take new entries until there are enough rows, the interval is over, or somebody waits for them."""
        batch: list[Delivered] = []
        rows, until = 0, time.monotonic() + self._interval_s
        while rows < self._batch_rows and (left_ms := int(1000 * (until - time.monotonic()))) > 0:
            taken = self._journal.read(self._consumer, _READ, min(left_ms, _BLOCK_MS))
            batch += taken
            rows += sum(d.entry.n_rows for d in taken)
            if (stop is not None and stop.is_set()) or (batch and self._journal.hurries()):
                break
        return batch

    def _store(self, batch: Sequence[Delivered]) -> None:
        by_table: dict[str, list[Delivered]] = defaultdict(list)
        for delivered in batch:
            by_table[delivered.entry.table].append(delivered)
        stored: list[bytes] = []
        for table, part in by_table.items():
            good, rows = self._decode(table, part)
            stored += good
            if rows is not None:
                added = self._history.append(_table_name(table), rows)
                self._stored += added
                self._known += rows.height - added
        self._journal.ack(stored)
        if stored:
            self._last_commit_ms = time.time_ns() // 1_000_000

    def _decode(self, table: str, part: Sequence[Delivered]) -> tuple[list[bytes], pl.DataFrame | None]:
        """Return the ids and the rows of the entries that can be stored, and set the others aside."""
        try:  # all at once, which is five times faster
            return [d.id for d in part], _rows(table, part)
        except (LiqheatError, pl.exceptions.PolarsError):
            decoded = {d.id: rows for d in part if (rows := self._decode_one(table, d)) is not None}
        return list(decoded), pl.concat(decoded.values()) if decoded else None

    def _decode_one(self, table: str, delivered: Delivered) -> pl.DataFrame | None:
        try:
            return _rows(table, [delivered])
        except LiqheatError as error:
            self._reject(delivered, error)
            return None

    def _reject(self, delivered: Delivered, error: LiqheatError) -> None:
        _LOG.error("journal entry %s can never be stored and is set aside: %s", delivered.id.decode(), error)
        self._journal.reject(delivered, str(error))
        self._rejected += 1

    def _note(self, error: LiqheatError) -> None:
        self._failures += 1
        if str(error) != self._error:
            _LOG.warning("recording waits, nothing is lost: %s", error)
        self._error = str(error)
        if isinstance(error, HistoryError):
            try:
                self._watch_length()
            except CacheError as second:
                self._error = f"{error}; {second}"

    def _watch_length(self) -> None:
        """Say when the journal grows beyond what is normal, and again whenever it has doubled since."""
        self._waiting = self._journal.length()
        if self._waiting <= self._warn_entries:
            self._warned_at = self._warn_entries
        elif self._waiting > self._warned_at:
            self._warned_at = 2 * self._waiting
            _LOG.warning(
                "%d entries wait in the journal, in the memory of Redis, because history does not take them (%s)",
                self._waiting,
                self._error or "it is too slow",
            )

    def _finish(self) -> None:
        """Store what was taken but not acknowledged and what is left, as far as that is possible at once."""
        try:
            while self._journal.length() and self.move(_SET):
                pass
        except (HistoryError, CacheError) as error:
            self._note(error)


_SET: Final = threading.Event()
_SET.set()


def _rows(table: str, part: Sequence[Delivered]) -> pl.DataFrame:
    """Return the rows of entries in the form the table stores.

    Raises
    ------
    CorruptEntry, InputError, ParameterError
        If one of them can never be stored.
    """
    frames = [with_market(d.entry.market_id, d.entry.frame()) for d in part]
    return prepare(_table_name(table), pl.concat(frames, how="diagonal_relaxed"))


def _table_name(table: str) -> TableName:
    for name in TABLES:
        if name == table:
            return name
    raise InputError("journal", "no such table", column="table", value=table)
