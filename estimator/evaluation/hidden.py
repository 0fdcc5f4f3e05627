"""Truth by simulation: the book that a simulated market hides."""

from __future__ import annotations

from typing import Final

import numpy as np

from estimator.domain import DAY_MS, Float32Array, Int64Array, Side
from estimator.evaluation.density import Column, MarketPast
from estimator.evaluation.units import Truth, Unit
from estimator.model.grid import BIN_WIDTH

N_CELL: Final = 60
CELL: Final = 0.005  # of log price


def hidden_truth(
    source: str,
    past: MarketPast,
    time_ms: Int64Array,
    first_bin: int,
    long_base: Float32Array,
    short_base: Float32Array,
) -> Truth:
    """Build units of 60 cells of .5 % from the true book at the closes of steps.

    Parameters
    ----------
    source : str
    past : MarketPast
    time_ms : Int64Array, shape (n,)
    first_bin : int
        Lattice index of the first column of the books.
    long_base, short_base : Float32Array, shape (n, n_bin)
        Base coin liquidated if the mark price reaches a bin.
    """
    units: list[Unit] = []
    for i, now_ms in enumerate(time_ms):
        step = int(np.searchsorted(past.steps.close_ms, now_ms))
        if step >= len(past.steps) or past.steps.close_ms[step] != now_ms:
            continue
        close = np.log(past.close[step])
        for side, base in ((Side.LONG, long_base[i]), (Side.SHORT, short_base[i])):
            edges = close - side.sign * CELL * np.arange(N_CELL + 1)
            mass = Column(base, first_bin, BIN_WIDTH).between(edges) * np.exp((edges[1:] + edges[:-1]) / 2)
            block = np.full(N_CELL, now_ms // DAY_MS)
            units.append(Unit(step, side, edges, np.arange(N_CELL), mass, block))
    return Truth("simulated", source, tuple(units))
