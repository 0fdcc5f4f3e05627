"""Truth by totals: how much was liquidated on each side in an hour, wherever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from estimator.domain import DAY_MS, Float64Array, Int64Array, Side
from estimator.evaluation.density import MarketPast
from estimator.evaluation.units import Truth, Unit
from estimator.model.grid import BIN_WIDTH


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Liquidated USD per candle and side, with the candle; arrays of shape (n,)."""

    start_ms: Int64Array
    low: Float64Array
    high: Float64Array
    long_usd: Float64Array
    short_usd: Float64Array


def total_truth(kind: str, source: str, past: MarketPast, totals: Totals) -> Truth:
    """Build units of one cell: the stretch a candle crosses on each side of the price before it, and the total there.

    The controls are both excursions of the candle and the open interest before it: what a model must add to.
    """
    units: list[Unit] = []
    controls: list[tuple[float, float, float]] = []
    log_close = np.log(past.close)
    for i, start_ms in enumerate(totals.start_ms):
        step = int(np.searchsorted(past.steps.close_ms, start_ms))
        if step >= len(past.steps) or past.steps.close_ms[step] != start_ms:
            continue
        close = log_close[step]
        down, up = max(close - np.log(totals.low[i]), 0.0), max(np.log(totals.high[i]) - close, 0.0)
        for side, reach, usd in ((Side.LONG, down, totals.long_usd[i]), (Side.SHORT, up, totals.short_usd[i])):
            # At least a bin: what a candle crosses is never nothing.
            edges = np.array([close, close - side.sign * max(reach, BIN_WIDTH)])
            block = np.array([start_ms // DAY_MS])
            units.append(Unit(step, side, edges, np.zeros(1, dtype=np.int64), np.array([usd]), block))
            controls.append((down, up, float(past.steps.contracts[step] * past.close[step])))
    return Truth(kind, source, tuple(units), np.array(controls).reshape(-1, 3))
