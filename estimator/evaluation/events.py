"""Truth by liquidation prints: of the cells a price crosses, which ones held the positions that were liquidated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS, Float64Array, Int64Array, Side
from estimator.evaluation.density import MarketPast
from estimator.evaluation.units import Truth, Unit, units_by_step
from estimator.model.grid import BIN_WIDTH

UNKNOWN: Final = 0  # side of a print that does not say; the side of the price it lies on then decides
HORIZONS_H: Final = (1, 4)
CAP_USD: Final = 1_000_000.0  # what a print counts at most


@dataclass(frozen=True, slots=True, eq=False)
class Prints:
    """Liquidations in order of time.

    Parameters
    ----------
    time_ms : Int64Array, shape (n,)
    sign : Int64Array, shape (n,)
        +1 a long was liquidated, -1 a short, 0 unknown.
    price : Float64Array, shape (n,)
        Mark price at which it was triggered, as well as that is known.
    usd : Float64Array, shape (n,)
    """

    time_ms: Int64Array
    sign: Int64Array
    price: Float64Array
    usd: Float64Array

    def between(self, after_ms: int, until_ms: int) -> Prints:
        """Return the prints in ``(after_ms, until_ms]``."""
        part = slice(*np.searchsorted(self.time_ms, (after_ms, until_ms), side="right"))
        return Prints(self.time_ms[part], self.sign[part], self.price[part], self.usd[part])


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Where the price of the prints' own venue went, shape (n,) each; `start_ms` of equally long candles."""

    start_ms: Int64Array
    low: Float64Array
    high: Float64Array
    close: Float64Array
    interval_ms: int = HOUR_MS


def event_truth(
    source: str, past: MarketPast, prints: Prints, path: Path, horizon_h: int, *, kind: str = "events"
) -> Truth:
    """Build units: at every full hour, the cells crossed within the horizon and the prints in them.

    A horizon counts if prints were recorded throughout it: it starts no earlier than the hour of the first print and
    ends no later than the hour of the last.
    """
    units: list[Unit] = []
    seen = 0
    hour_of = path.start_ms + path.interval_ms
    first_ms = int(prints.time_ms[0]) // HOUR_MS * HOUR_MS
    last_ms = -(-int(prints.time_ms[-1]) // HOUR_MS) * HOUR_MS
    for start_ms in range(first_ms, last_ms - horizon_h * HOUR_MS + 1, HOUR_MS):
        end_ms = start_ms + horizon_h * HOUR_MS
        at = np.searchsorted(hour_of, start_ms)
        inside = (path.start_ms >= start_ms) & (path.start_ms < end_ms)
        step = int(np.searchsorted(past.steps.close_ms, start_ms, side="right")) - 1
        if (
            step < 0
            or at >= len(hour_of)
            or hour_of[at] != start_ms
            or inside.sum() * path.interval_ms < end_ms - start_ms
        ):
            continue
        now = prints.between(start_ms, end_ms)
        seen += len(now.usd)
        close_bin = _bin(path.close[at])
        edge_bins = {Side.LONG: _bin(path.low[inside].min()), Side.SHORT: _bin(path.high[inside].max())}
        units += [unit for side in Side if (unit := _unit(step, side, close_bin, edge_bins[side], now)) is not None]
    counted = sum(len(u.cell) for u in units)
    return Truth(
        f"{kind} {horizon_h} h", source, units_by_step(units), note={"prints": seen, "in crossed cells": counted}
    )


def _bin(price: float) -> int:
    return int(np.floor(np.log(price) / BIN_WIDTH))


def _unit(step: int, side: Side, close_bin: int, last_bin: int, prints: Prints) -> Unit | None:
    """Cells of one lattice bin from next to the price out to the last one crossed; None for fewer than two of them."""
    n = (close_bin - last_bin) * side.sign
    if n < 2:
        return None
    cell = (close_bin - np.floor(np.log(prints.price) / BIN_WIDTH).astype(np.int64)) * side.sign - 1
    mine = np.isin(prints.sign, (side.sign, UNKNOWN)) & (cell >= 0) & (cell < n)
    if not mine.any():
        return None
    first = close_bin if side is Side.LONG else close_bin + 1
    edges: Float64Array = np.asarray((first - side.sign * np.arange(n + 1)) * BIN_WIDTH)
    return Unit(step, side, edges, cell[mine], np.minimum(prints.usd[mine], CAP_USD), prints.time_ms[mine] // DAY_MS)
