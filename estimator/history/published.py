"""`Published`: what the worker publishes, kept in history, so that it can be shown again as it was."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from estimator.cache.tiles import TILE_COLUMNS
from estimator.domain import DAY_MS, TIME, BoolArray, Int64Array
from estimator.errors import HistoryError
from estimator.history.calibrations import Calibrations
from estimator.history.columns import columns_frame, columns_grid
from estimator.history.store import History
from estimator.history.tables import TableName, with_market
from estimator.model.book import FORMAT, PositionBook
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.schedule import Schedule

_LOG: Final = logging.getLogger(__name__)
_MOST_BYTES: Final = 128 << 20  # of what waits; all of it can be computed again
_BOOK_DAYS: Final = 4
_REMEMBERED: Final = 512  # times of columns a market still needs once it follows live, by width of bins


@dataclass(frozen=True, slots=True)
class PublishedStatus:
    """How the writing of what was published is doing.

    Parameters
    ----------
    waiting : int
        Batches of columns and saved books not yet in history.
    error : str or None
        Why the last attempt failed; None while all is well.
    """

    waiting: int = 0
    error: str | None = None


class Published:
    """Published columns and daily book states, written in batches.

    Nothing of it is irreplaceable: what a killed process had not yet written, the next one computes again from the
    observations, bit for bit, and writes then. So does the next one with what had to be let go because history could
    not be written for too long.

    Parameters
    ----------
    history : History
    interval_s : float
        A batch is written this often. [s]
    most_bytes : int
        Beyond this the oldest of what waits is let go. [bytes]
    now_ms : callable
        The clock that says when columns were shown. [ms]
    """

    def __init__(
        self,
        history: History,
        *,
        interval_s: float = 10.0,
        most_bytes: int = _MOST_BYTES,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._history, self._interval_s, self._most_bytes, self._now_ms = history, interval_s, most_bytes, now_ms
        self.calibrations = Calibrations(history)
        self._waiting: deque[tuple[TableName, pl.DataFrame]] = deque()
        self._bytes = 0
        self._known: dict[tuple[str, int], Int64Array] = {}  # by market and width of bins: times that need no writing
        self._lock = threading.Lock()
        self._error: str | None = None

    @property
    def status(self) -> PublishedStatus:
        """How it is doing; may be read from any thread."""
        return PublishedStatus(len(self._waiting), self._error)

    def add(self, level: int, grid: LiquidationGrid, book: PositionBook) -> None:
        """Take closed columns of a level, to be written soon, as far as history does not have them."""
        times = grid.time.astype("datetime64[ms]").astype(np.int64)
        new = self._new((book.market.id, LEVELS[level].price_factor), times)
        if new.any():
            frame = columns_frame(
                book.market.id,
                level,
                grid.pick(new),
                parameters_version=book.parameters.version,
                book_format=FORMAT,
                published_ms=self._now_ms(),
            )
            self._wait("columns", frame)

    def add_book(self, book: PositionBook, close_ms: int) -> None:
        """Take the state of a book at the close of a step, to be written soon."""
        closed = pl.Series("time", [close_ms], dtype=pl.Int64).cast(TIME)
        state = pl.Series("state", [book.save()], dtype=pl.Binary)
        self._wait("books", with_market(book.market.id, pl.DataFrame([closed, state])))

    def columns(
        self, book: PositionBook, now_ms: int, schedule: Schedule | None = None
    ) -> Iterator[tuple[int, LiquidationGrid]]:
        """Yield levels and the columns that were published with what was in force then and the format of `book`.

        Without a schedule, what `book` goes by was in force all the time. A grid holds a tile of the cache at most: all
        tiers of a whole level would take a hundred megabytes and more.
        """
        in_force = _version_in_force(schedule or Schedule(book.parameters), book.market.max_leverage)
        for level, spec in enumerate(LEVELS):
            rows = self._history.read("columns", book.market.id, now_ms - spec.keep_ms + 1, now_ms + 1, level=level)
            self._new((book.market.id, spec.price_factor), rows["time"].dt.epoch("ms").to_numpy())
            same = (pl.col("parameters_version") == in_force) & (pl.col("book_format") == FORMAT)
            tile = pl.col("time").dt.epoch("ms") // spec.interval_ms // TILE_COLUMNS
            for _, part in rows.filter(same).group_by(tile, maintain_order=True):
                grid = columns_grid(part, tiers=True)
                if grid is not None:
                    yield level, grid

    def books(self, market_id: str, now_ms: int) -> list[tuple[int, bytes]]:
        """Return saved states and their times, the newest first."""
        rows = self._history.read("books", market_id, now_ms - _BOOK_DAYS * DAY_MS, now_ms + 1)
        return list(rows.select(pl.col("time").dt.epoch("ms"), "state").reverse().iter_rows())

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set, then what is left; what cannot be written waits."""
        while not stop.wait(self._interval_s):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits, one commit for each table."""
        with self._lock:
            batch, self._waiting, self._bytes = self._waiting, deque(), 0
        errors = []
        for table in ("columns", "books"):
            frames = [frame for name, frame in batch if name == table]
            try:
                if frames:
                    self._history.append(table, pl.concat(frames))
            except BaseException as error:  # noqa: BLE001 - delta-rs may panic; nothing ends this thread silently
                if not isinstance(error, HistoryError):
                    _LOG.exception("published columns: a mistake of this program, tried again")
                errors.append(str(error))
                self._put_back([(table, frame) for frame in frames])
        self._note("; ".join(errors) or None)

    def _note(self, error: str | None) -> None:
        if error is not None and error != self._error:
            _LOG.warning("published columns wait: %s", error)
        self._error = error

    def _new(self, key: tuple[str, int], times: Int64Array) -> BoolArray:
        """Which of rising times are not known to be in history or on the way there; from now on they are."""
        with self._lock:
            known = self._known.get(key, times[:0])
            new = np.isin(times, known, invert=True)
            if new.any():
                follows = len(times) == 1 and (not len(known) or times[0] > known[-1])
                before = known[-_REMEMBERED:] if follows else known
                self._known[key] = np.union1d(before, times)
        return new

    def _wait(self, table: TableName, frame: pl.DataFrame) -> None:
        with self._lock:
            self._waiting.append((table, frame))
            self._bytes += int(frame.estimated_size())
            self._let_go()

    def _put_back(self, frames: list[tuple[TableName, pl.DataFrame]]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(frames))
            self._bytes += sum(int(frame.estimated_size()) for _, frame in frames)
            self._let_go()

    def _let_go(self) -> None:
        while self._bytes > self._most_bytes and self._waiting:
            table, frame = self._waiting.popleft()
            self._bytes -= int(frame.estimated_size())
            _LOG.error("%d %s are let go, the next start computes them again: %s", frame.height, table, self._error)


def _version_in_force(schedule: Schedule, max_leverage: float) -> pl.Expr:
    """Version that a column carries which was published as the schedule has it."""
    version = pl.lit(schedule.first.for_leverage(max_leverage).version)
    for time_ms, parameters in schedule.changes:
        changed = pl.lit(parameters.for_leverage(max_leverage).version)
        version = pl.when(pl.col("time").dt.epoch("ms") > time_ms).then(changed).otherwise(version)
    return version
