"""Truth by liquidation prints: of the cells a price crosses, which ones held the positions that were liquidated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS, Float64Array, Int64Array, Side
from estimator.evaluation.density import MarketPast
from estimator.evaluation.units import Truth, Unit
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
    """Where the price of the prints' own venue went, hour by hour; shape (n,) each, `start_ms` of the hour."""

    start_ms: Int64Array
    low: Float64Array
    high: Float64Array
    close: Float64Array


def event_truth(
    kind: str, source: str, past: MarketPast, prints: Prints, path: Path, horizon_h: int, *, block_ms: int = DAY_MS
) -> Truth:
    """Build units: at every full hour, the cells first crossed within the horizon and the prints in them.

    A horizon counts if prints were recorded throughout it: it starts no earlier than the hour of the first print and
    ends no later than the hour of the last. A print in a cell that was crossed in an earlier hour of the horizon is
    left out: what was there at the start is gone, so it was opened since.

    Parameters
    ----------
    kind, source : str
    past : MarketPast
    prints : Prints
    path : Path
        Hourly.
    horizon_h : int
        [h]
    block_ms : int
        Prints this close are drawn together in the bootstrap. [ms]
    """
    units: list[Unit] = []
    note = {"prints": 0.0, "scored": 0.0}
    last_ms = -(-int(prints.time_ms[-1]) // HOUR_MS) * HOUR_MS
    for at in np.flatnonzero(path.start_ms + HOUR_MS >= prints.time_ms[0] // HOUR_MS * HOUR_MS):
        start_ms = int(path.start_ms[at]) + HOUR_MS
        end_ms = start_ms + horizon_h * HOUR_MS
        inside = slice(at + 1, at + 1 + horizon_h)
        step = int(np.searchsorted(past.steps.close_ms, start_ms, side="right")) - 1
        if (
            end_ms > last_ms
            or step < 0
            or len(path.low[inside]) < horizon_h
            or path.start_ms[inside][-1] != end_ms - HOUR_MS
        ):
            continue
        now = prints.between(start_ms, end_ms)
        hour = (now.time_ms - 1 - start_ms) // HOUR_MS
        found = [
            unit
            for side, extreme in ((Side.LONG, path.low[inside]), (Side.SHORT, path.high[inside]))
            if (unit := crossed_unit(step, side, bins_of(path.close[at]), bins_of(extreme), now, hour, block_ms))
            is not None
        ]
        note["prints"] += len(now.usd)
        note["scored"] += sum(len(u.cell) for u in found)
        units += found
    return Truth(kind, source, tuple(units), block_ms=block_ms, note=note)


def bins_of(price: Float64Array) -> Int64Array:
    """Lattice bins of prices."""
    return np.floor(np.log(price) / BIN_WIDTH).astype(np.int64)


def crossed_unit(
    step: int, side: Side, close_bin: Int64Array, extreme: Int64Array, prints: Prints, hour: Int64Array, block_ms: int
) -> Unit | None:
    """Cells of one lattice bin from next to the price out to the last one crossed; None for fewer than two of them.

    Parameters
    ----------
    step : int
        Of the column.
    side : Side
    close_bin : Int64Array, shape ()
        Lattice bin of the price at the close of the column.
    extreme : Int64Array, shape (n_hour,)
        Lattice bin of the extreme of each hour of the horizon, on this side.
    prints : Prints
        Within the horizon.
    hour : Int64Array, shape (n_print,)
        Hour of the horizon of each print.
    block_ms : int
        See `event_truth`. [ms]
    """
    reached = np.maximum.accumulate(np.maximum((close_bin - extreme) * side.sign, 0))  # cells crossed by each hour
    n = int(reached[-1])
    if n < 2:
        return None
    cell = (close_bin - bins_of(prints.price)) * side.sign - 1
    before = np.concatenate([[0], reached])[hour]
    mine = np.isin(prints.sign, (side.sign, UNKNOWN)) & (cell >= before) & (cell < n)
    if not mine.any():
        return None
    first = int(close_bin) if side is Side.LONG else int(close_bin) + 1
    edges: Float64Array = np.asarray((first - side.sign * np.arange(n + 1)) * BIN_WIDTH)
    return Unit(step, side, edges, cell[mine], np.minimum(prints.usd[mine], CAP_USD), prints.time_ms[mine] // block_ms)
