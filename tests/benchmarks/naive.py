"""The position book as one would write it first: NumPy over whole arrays, every cell scaled at every step.

It takes the same steps as the book (sweep, close, open, emit), with one simplification in its own favour: closing is
proportional, which the equal holding times of the defaults nearly are.
"""

from __future__ import annotations

import numpy as np

from estimator.domain import Float64Array, Market
from estimator.model.parameters import Parameters
from estimator.model.spread import build_kernels
from estimator.model.steps import Steps


class NaiveBook:
    """Cells of shape (2, n_bucket, n_bins) on a window fixed for good, whose lowest bin is `first_bin`."""

    def __init__(self, market: Market, parameters: Parameters, first_bin: int) -> None:
        self.p, self.first_bin = parameters, first_bin
        kernels = build_kernels(market, parameters)
        n = len(parameters.leverages)
        self.kernels = [
            [(int(kernels.offset[s, k]), kernels.mass[kernels.start[s, k] :][: kernels.length[s, k]]) for k in range(n)]
            for s in range(2)
        ]
        self.cells = np.zeros((2, n, parameters.n_bins))
        self.sink = np.zeros(2)
        self.last = 0.0
        self.price = np.exp((first_bin + np.arange(parameters.n_bins) + 0.5) * parameters.bin_width)

    def step(self, steps: Steps, t: int) -> Float64Array:
        """Take step `t` and return its column, shape (2, n_bins). [USD per bin]"""
        p, candle = self.p, steps.candle[steps.first[t]]
        low, high, close = (int(np.log(x) / p.bin_width) - self.first_bin for x in candle[:3])
        self.cells[0, :, low:] = 0.0
        self.cells[1, :, : high + 1] = 0.0
        interest = float(steps.contracts[t])
        change = interest - self.last
        self.last = interest
        gross = max(change, 0.0) + p.churn * max(candle[3] - abs(change), 0.0) / 2
        entry = np.zeros(p.n_bins)
        entry[low : high + 1] = 1.0 / (high + 1 - low)
        for s in range(2):
            held = self.cells[s].sum() + self.sink[s]
            keep = min((interest - gross) / held, 1.0) if held > 0 else 1.0
            self.cells[s] *= keep
            self.sink[s] *= keep
            opened = max(interest - held * keep, 0.0)
            for k, (offset, kernel) in enumerate(self.kernels[s]):
                full = np.convolve(entry[low : high + 1], kernel) * opened * (1 - p.sink_share) * p.shares[k]
                at = low + offset
                begin, end = max(at, 0), min(at + len(full), p.n_bins)
                self.cells[s, k, begin:end] += full[begin - at : end - at]
        self.cells[0, :, close:] = 0.0
        self.cells[1, :, : close + 1] = 0.0
        for s in range(2):
            self.sink[s] = max(interest - self.cells[s].sum(), 0.0)
        return np.asarray(self.cells.sum(axis=1) * self.price)
