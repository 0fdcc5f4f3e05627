"""Truth by real positions: where exchanges say that accounts would be liquidated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from estimator.domain import HOUR_MS, BoolArray, Float64Array, Int64Array, Side
from estimator.evaluation.density import MarketPast
from estimator.evaluation.units import Truth, Unit

N_CELL: Final = 30
CELL: Final = 0.01  # of the mark price
CAP_USD: Final = 10_000_000.0  # what a position counts at most, or a few whales would be the score
APART_MS: Final = 3 * HOUR_MS


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Positions of one market at one time.

    Parameters
    ----------
    time_ms : int
    trader : Int64Array, shape (n,)
    is_long : BoolArray, shape (n,)
    mark, liquidation_price, notional_usd : Float64Array, shape (n,)
        NaN as liquidation price: never liquidated.
    """

    time_ms: int
    trader: Int64Array
    is_long: BoolArray
    mark: Float64Array
    liquidation_price: Float64Array
    notional_usd: Float64Array


def position_truth(source: str, past: MarketPast, snapshots: Iterable[Snapshot]) -> Truth:
    """Build units from snapshots at least `APART_MS` apart: positions within 30 % of the mark, in cells of 1 %."""
    units: list[Unit] = []
    last_ms = -APART_MS
    for snapshot in sorted(snapshots, key=lambda s: s.time_ms):
        step = int(np.searchsorted(past.steps.close_ms, snapshot.time_ms, side="right")) - 1
        if snapshot.time_ms - last_ms < APART_MS or step < 0 or not len(snapshot.mark):
            continue
        last_ms = snapshot.time_ms
        units += [unit for side in Side if (unit := _unit(step, side, snapshot)) is not None]
    kept = sum(float(u.weight.sum()) for u in units)
    return Truth("positions", source, tuple(units), note={"positions": sum(len(u.cell) for u in units), "usd": kept})


def _unit(step: int, side: Side, snapshot: Snapshot) -> Unit | None:
    distance = (1.0 - snapshot.liquidation_price / snapshot.mark) * side.sign
    inside = (snapshot.is_long == (side is Side.LONG)) & (distance > 0) & (distance < N_CELL * CELL)
    if not inside.any():
        return None
    edges = np.log(np.median(snapshot.mark) * (1.0 - side.sign * CELL * np.arange(N_CELL + 1)))
    return Unit(
        step,
        side,
        edges,
        np.minimum((distance[inside] / CELL).astype(np.int64), N_CELL - 1),
        np.minimum(snapshot.notional_usd[inside], CAP_USD),
        snapshot.trader[inside],
    )
