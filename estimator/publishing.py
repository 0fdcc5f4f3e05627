"""`Publisher`: the columns and the series of one market on their way into the cache, and into history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache
from estimator.domain import DAY_MS, TIME, Float64Array, Int64Array
from estimator.errors import ParameterError
from estimator.history import Published
from estimator.model.book import PositionBook
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.schedule import Schedule
from estimator.model.series import SERIES, coarsen_series, level_mask
from estimator.model.steps import STEP_MS, Steps
from estimator.observed import since

_CHUNK: Final = 128  # columns with tiers held at once during a backfill
_WARM_UP: Final = 200  # rows of series kept before the first column, for indicators
_LONGEST_MS: Final = LEVELS[-1].interval_ms
_ROW: Final = {"time": TIME, **dict.fromkeys(SERIES, pl.Float64())}


class Publisher:
    """Shows the columns and rows of a market on every level they belong to.

    Parameters
    ----------
    book : PositionBook
        Of the market. Runs over the past here; steps live elsewhere.
    cache : Cache
    kept : Published, optional
        Where columns and book states are kept; what it holds is shown as it was.

    Attributes
    ----------
    schedule : Schedule
        Which assumptions hold when.
    """

    def __init__(self, book: PositionBook, cache: Cache, kept: Published | None = None) -> None:
        self.step_ms = STEP_MS
        self._book, self._market_id = book, book.market.id
        self.schedule = Schedule(book.parameters)
        self._cache, self._kept = cache, kept
        self._today = Rows()

    def keep_nothing(self) -> None:
        """Keep columns no longer: what is to change is not history."""
        self._kept = None

    def past(self, steps: Steps) -> Float64Array:
        """Run the book over the past in chunks, so that memory stays bounded; return predicted liquidations."""
        last_ms = int(steps.close_ms[-1])
        saved_ms, state = self._show_kept(last_ms)
        wanted = [level_mask(steps.close_ms, s.interval_ms, s.keep_ms, last_ms) for s in LEVELS]
        emit = np.logical_or.reduce(wanted)
        resumed, midnight = (
            int(np.searchsorted(steps.close_ms, ms, side="right")) for ms in (saved_ms, last_ms // DAY_MS * DAY_MS)
        )
        changes = [int(np.searchsorted(steps.close_ms, ms, side="right")) for ms, _ in self.schedule.changes]
        edges = sorted({0, resumed, midnight, *changes, *np.flatnonzero(emit)[_CHUNK::_CHUNK].tolist(), len(steps)})
        swept = [np.empty((0, 2))]
        with self._cache.gathering(self._market_id) as columns:
            for begin, end in pairwise(edges):
                if begin == resumed and state is not None:
                    self._restore(self._book, saved_ms, state)
                part = steps.part(begin, end)
                self._book.adopt(self.schedule.at(int(part.close_ms[0])))
                grid, predicted = self._book.run(part, tiers=True, emit=emit[begin:end])
                swept.append(predicted)
                shown = part.close_ms[emit[begin:end]]
                for level, mask in enumerate(wanted):
                    rows = np.isin(shown, part.close_ms[mask[begin:end]])
                    if rows.any():
                        self._put_columns(level, grid.pick(rows).coarsen(LEVELS[level].price_factor), columns.put)
                self._keep_book(int(steps.close_ms[end - 1]))
        if resumed == len(steps) and state is not None:
            self._restore(self._book, saved_ms, state)
        return np.concatenate(swept)

    def past_series(self, rows: pl.DataFrame, last_ms: int) -> None:
        """Show the series of the past, and go on from it."""
        for level, spec in enumerate(LEVELS):
            interval_ms = max(spec.interval_ms, self.step_ms)
            keep_ms = last_ms - spec.keep_ms - _WARM_UP * interval_ms
            self._put_series(level, rows, *(t // interval_ms * interval_ms for t in (keep_ms, last_ms)))
        self._today = Rows.of(rows.filter(since(last_ms // _LONGEST_MS * _LONGEST_MS)))

    def step(self, grid: LiquidationGrid, row: Mapping[str, float | None], last_ms: int, close_ms: int) -> None:
        """Show a step that has closed on every level whose interval ended since the one before, at `last_ms`."""
        self._today.add(close_ms - self.step_ms, row)
        put = partial(self._cache.put_columns, self._market_id)
        for level, spec in enumerate(LEVELS):
            if close_ms % spec.interval_ms == 0:
                self._put_columns(level, grid.coarsen(spec.price_factor), put)
            interval_ms = max(spec.interval_ms, self.step_ms)
            start_ms, end_ms = (t // interval_ms * interval_ms for t in (last_ms, close_ms))
            if end_ms > start_ms:  # all that ended meanwhile: their own last step may be missing
                self._put_series(level, self._today.frame(start_ms, end_ms), start_ms, end_ms)
        self._keep_book(close_ms)
        self._today.forget(close_ms // _LONGEST_MS * _LONGEST_MS)

    def open_step(self, grid: LiquidationGrid, row: Mapping[str, float | None], close_ms: int) -> None:
        """Show a step that is still open as a provisional column."""
        self._cache.put_live(self._market_id, grid, Rows.single(close_ms - self.step_ms, row))

    def no_open_step(self) -> None:
        """Say that no step is open."""
        self._cache.drop_live(self._market_id)

    def _show_kept(self, last_ms: int) -> tuple[int, bytes | None]:
        """Publish the columns that history kept; return the newest saved state that fits, and its time."""
        if self._kept is None:
            return 0, None
        for level, grid in self._kept.columns(self._book, last_ms, self.schedule):
            self._cache.put_columns(self._market_id, level, grid)
        for time_ms, state in self._kept.books(self._market_id, last_ms):
            try:
                self._restore(self._book.copy(), time_ms, state)
            except ParameterError:
                continue  # of other parameters: the past is computed anew
            return time_ms, state
        return 0, None

    def _restore(self, book: PositionBook, time_ms: int, state: bytes) -> None:
        """Take over what was saved at a time, with what was in force then."""
        book.adopt(self.schedule.at(time_ms))
        book.restore(state)

    def _put_columns(self, level: int, grid: LiquidationGrid, put: Callable[[int, LiquidationGrid], None]) -> None:
        """Publish columns, and keep those that history does not have."""
        put(level, grid)
        if self._kept is not None:
            self._kept.add(level, grid, self._book)

    def _keep_book(self, close_ms: int) -> None:
        if self._kept is not None and close_ms % DAY_MS == 0:
            self._kept.add_book(self._book, close_ms)

    def _put_series(self, level: int, rows: pl.DataFrame, start_ms: int, end_ms: int) -> None:
        """Publish the whole intervals of a level that `rows` have between two of its boundaries."""
        inside = rows.filter(since(start_ms), ~since(end_ms))
        if not inside.is_empty():
            merged = coarsen_series(inside, max(LEVELS[level].interval_ms, self.step_ms))
            self._cache.put_series(self._market_id, level, merged)


class Rows:
    """Rows of a series, as plain arrays: a frame for every row would take a hundred times the memory.

    Parameters
    ----------
    start_ms : Int64Array, shape (n,)
        Starts of the intervals, rising.
    values : Float64Array, shape (n, len(SERIES))
        NaN for what is missing.
    """

    __slots__ = ("_start_ms", "_values")

    def __init__(self, start_ms: Int64Array | None = None, values: Float64Array | None = None) -> None:
        self._start_ms = np.empty(0, dtype=np.int64) if start_ms is None else start_ms
        self._values = np.empty((0, len(SERIES))) if values is None else values

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Rows:
        """Take the rows of a series frame."""
        values = frame.select(pl.col(n).fill_null(float("nan")) for n in SERIES).to_numpy()
        return cls(frame["time"].to_physical().to_numpy().copy(), np.ascontiguousarray(values))

    @staticmethod
    def single(start_ms: int, row: Mapping[str, float | None]) -> pl.DataFrame:
        """Make a frame of one row."""
        return pl.DataFrame([(start_ms, *(row[name] for name in SERIES))], schema=_ROW, orient="row")

    def add(self, start_ms: int, row: Mapping[str, float | None]) -> None:
        """Add a row."""
        values = [np.nan if (value := row[name]) is None else value for name in SERIES]
        self._start_ms = np.append(self._start_ms, start_ms)
        self._values = np.vstack([self._values, values])

    def forget(self, before_ms: int) -> None:
        """Drop the rows that start before a time."""
        if len(self._start_ms) and self._start_ms[0] < before_ms:
            kept = self._start_ms >= before_ms
            self._start_ms, self._values = self._start_ms[kept], self._values[kept]

    def frame(self, start_ms: int, end_ms: int) -> pl.DataFrame:
        """Make a frame of the rows with ``start_ms <= start < end_ms``."""
        first, last = np.searchsorted(self._start_ms, [start_ms, end_ms])
        columns = {name: self._values[first:last, at] for at, name in enumerate(SERIES)}
        frame = pl.DataFrame({"time": self._start_ms[first:last], **columns})
        return frame.with_columns(pl.col("time").cast(TIME), pl.col(pl.Float64).fill_nan(None))
