"""How far other assumptions would lead: the lowest and the highest estimate of every cell of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dashboard.view import ViewState
from estimator.cache import Cache, MarketStatus
from estimator.domain import HOUR_MS, BoolArray, Float32Array, Int64Array, Side
from estimator.model.grid import LiquidationGrid, add_grids, fit_bins
from estimator.model.members import MEMBER_NAMES


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The lowest and the highest of the estimate shown and of the books beside it.

    Parameters
    ----------
    low, high : Float32Array, shape (n_time, n_price)
        On the grid of the picture, both sides together; as shown where no other book has computed. [USD per bin]
    known : BoolArray, shape (n_time,)
        Columns of which every venue has other books.
    now : LiquidationGrid
        The latest column of the other books on the finest lattice, all venues added up; its tiers are the books.
    """

    low: Float32Array
    high: Float32Array
    known: BoolArray
    now: LiquidationGrid

    @property
    def certainty(self) -> Float32Array:
        """Lowest over highest, shape (n_time, n_price): 1 where all books agree, or nothing is there."""
        return np.divide(self.low, self.high, out=np.ones_like(self.low), where=self.high > 0)

    @property
    def fading(self) -> Float32Array:
        """Factor on colour, shape (n_time, n_price): 1 for the most certain twentieth of the cells.

        Columns that are not known, such as those before the first hour of a range, fade like the known ones on average.
        """
        sure, held = self.certainty[self.known], self.high[self.known] > 0
        if not held.any():
            return np.ones_like(self.low)
        out = np.broadcast_to(sure.mean(axis=0), self.low.shape).copy()
        out[self.known] = sure
        return np.asarray(np.minimum(out / np.percentile(sure[held], 95), 1), dtype=np.float32)


def read_band(
    cache: Cache,
    statuses: Sequence[MarketStatus],
    view: ViewState,
    grid: LiquidationGrid,
    window: tuple[float, float],
    present: NDArray[np.bool_],
) -> Band | None:
    """Read the band around a grid; None while not every venue has other books. Blocks.

    Venues are added book by book before the lowest and the highest are taken: all of them go by the same assumptions.

    Parameters
    ----------
    grid : LiquidationGrid
        What is shown, on the axis of the view.
    window : tuple of float
        Lowest and highest price of `now`.
    present : array of bool, shape (n_venue, n_time)
        Which venues are in which column.
    """
    latest = [_latest(cache, status, window) for status in statuses]
    if any(one is None for one in latest):
        return None
    time_ms = grid.time.astype("datetime64[ms]").astype(np.int64)
    spacing_ms = max(view.span.interval_ms, HOUR_MS)
    hours = np.flatnonzero(time_ms % spacing_ms == 0)  # a range has many
    known = np.ones(len(hours), dtype=bool)
    books = [np.zeros((len(hours), grid.n_price), dtype=np.float32) for _ in MEMBER_NAMES]
    for status, there in zip(statuses, present[:, hours], strict=True):
        members, rows = _at_hours(cache, status, view, grid, time_ms[hours])
        known &= (rows >= 0) | ~there
        held = there & (rows >= 0)
        for total, member in zip(books, members, strict=False):  # none of a venue that has none
            total[held] += member[rows[held]]
    shown = grid.long_usd + grid.short_usd
    lowest, highest = _factors(shown[hours], books)
    # The latest hour that is known, if it is not too old: what opened since is not varied until the next one.
    latest_known = np.maximum.accumulate(np.where(known, np.arange(len(hours)), -1))
    passed = np.searchsorted(hours, np.arange(len(time_ms)), side="right") - 1
    use = np.where(passed >= 0, latest_known[passed], -1)
    fresh = (use >= 0) & (time_ms - time_ms[hours[use]] <= 2 * spacing_ms)
    low, high = (np.where(fresh[:, None], shown * factor[use], shown) for factor in (lowest, highest))
    return Band(low, high, fresh, add_grids([one for one in latest if one is not None]))


def _factors(shown: Float32Array, books: Sequence[Float32Array]) -> tuple[Float32Array, Float32Array]:
    """Lowest and highest book as factors on the one shown; 1 where nothing is shown."""
    ends = np.minimum.reduce([shown, *books]), np.maximum.reduce([shown, *books])
    low, high = (np.divide(end, shown, out=np.ones_like(shown), where=shown > 0) for end in ends)
    return low, high


def _latest(cache: Cache, status: MarketStatus, window: tuple[float, float]) -> LiquidationGrid | None:
    """Return the newest column of the other books of a market, at most two hours old."""
    grid = cache.get_bands(status.id, 0, status.last_ms - 2 * HOUR_MS, status.last_ms)
    if grid is None:
        return None
    last = grid.coarsen(1, len(grid.time)).crop(*window)
    return replace(last, time=np.array([0], dtype="datetime64[ms]"))  # venues close their hours at different times


def _at_hours(
    cache: Cache, status: MarketStatus, view: ViewState, grid: LiquidationGrid, hour_ms: Int64Array
) -> tuple[list[Float32Array], Int64Array]:
    """Columns of each book on the bins of a grid, and which of them is that of each hour, -1 for none."""
    found = cache.get_bands(status.id, view.span.level, int(hour_ms[0]) - 1, int(hour_ms[-1]))
    if found is None:
        return [], np.full(len(hour_ms), -1)
    merged = found.coarsen(round(grid.bin_width / found.bin_width))
    sides = [[merged.tier_usd(side, name) for side in Side] for name in MEMBER_NAMES]
    bins = merged.first_bin, grid.first_bin, grid.n_price
    members = [_one_side(view, *(fit_bins(usd, *bins) for usd in pair)) for pair in sides]
    of_ms = found.time.astype("datetime64[ms]").astype(np.int64)
    rows = np.minimum(np.searchsorted(of_ms, hour_ms), len(of_ms) - 1)
    return members, np.where(of_ms[rows] == hour_ms, rows, -1)


def _one_side(view: ViewState, long_usd: Float32Array, short_usd: Float32Array) -> Float32Array:
    return {"both": long_usd + short_usd, "long": long_usd, "short": short_usd}[view.side.value]
