"""The position book in plain NumPy: what the compiled step must agree with.

Written for clarity from method.md, section 2: whole arrays, no lazy scales, no windows of touched bins, its own
profile and its own root finder. Tests hold the compiled kernel against it; nothing else uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq
from scipy.stats import triang

from estimator.domain import Float64Array, Market
from estimator.model.parameters import Parameters
from estimator.model.spread import build_kernels
from estimator.model.steps import Steps


@dataclass(eq=False)
class OracleBook:
    """A position book on a window fixed for good.

    Parameters
    ----------
    market : Market
    parameters : Parameters
        Already cut to the market.
    first_bin : int
        Lattice index of bin 0.
    """

    market: Market
    parameters: Parameters
    first_bin: int
    cells: Float64Array = field(init=False)  # (2, n_bucket, n_bins), contracts
    sink: Float64Array = field(init=False)  # (2,), contracts
    last: float | None = None
    moves: list[tuple[float, float, float]] = field(default_factory=list)  # hours a step took, its return, its end [h]

    def __post_init__(self) -> None:
        p = self.parameters
        self.cells = np.zeros((2, len(p.leverages), p.n_bins))
        self.sink = np.zeros(2)
        kernels = build_kernels(self.market, p)
        self.kernels = [
            [
                (int(kernels.offset[s, k]), kernels.mass[kernels.start[s, k] :][: kernels.length[s, k]])
                for k in range(len(p.leverages))
            ]
            for s in range(2)
        ]

    def step(self, steps: Steps, t: int) -> Float64Array:
        """Take step `t` and return its column, shape (2, n_bins). [USD per bin]"""
        p = self.parameters
        candle = steps.candle[steps.first[t] : steps.first[t + 1]]
        edges: Float64Array = np.asarray((self.first_bin + np.arange(p.n_bins + 1)) * p.bin_width, dtype=np.float64)
        close_bin = int(np.floor(np.log(candle[-1, 2]) / p.bin_width)) - self.first_bin
        if self.last is not None:
            low = min(int(np.floor(np.log(candle[:, 4].min()) / p.bin_width)) - self.first_bin, close_bin)
            high = max(int(np.floor(np.log(candle[:, 5].max()) / p.bin_width)) - self.first_bin, close_bin)
            self.cells[0, :, max(low, 0) :] = 0.0
            self.cells[1, :, : high + 1] = 0.0
        shares = self._shares(steps, t)
        interest = steps.contracts[t]
        change = interest - (self.last or 0.0)
        self.last = interest
        churned = max(candle[:, 3].sum() - abs(change), 0.0)
        gross = min(max(change, 0.0) + p.churn * churned / 2, interest)
        profile = self._profile(candle, edges)
        for s in range(2):
            self._close(s, interest - gross)
            opened = max(interest - self.cells[s].sum() - self.sink[s], 0.0)
            risky = min(opened * (1 - p.sink_share) * steps.at_risk[t, s], opened)
            allowed = np.arange(p.n_bins) < close_bin if s == 0 else np.arange(p.n_bins) > close_bin
            added = self._levels(s, profile) * allowed * risky * shares[:, None]
            self.cells[s] += added
            self.sink[s] += opened - added.sum()
        return self._column(close_bin, edges)

    def _shares(self, steps: Steps, t: int) -> Float64Array:
        """Mix of leverages, moved along the log distance by the volatility of the steps so far, which fade."""
        p = self.parameters
        now = steps.close_ms[t] / 3_600_000
        if t > 0:
            before, after = (steps.candle[steps.first[i + 1] - 1, 2] for i in (t - 1, t))
            self.moves.append((now - steps.close_ms[t - 1] / 3_600_000, float(np.log(after / before)), now))
        hours, returns, ends = np.array(self.moves).reshape(-1, 3).T
        weight = np.exp((ends - now) / (24 * p.volatility_days))
        usual, prior = p.usual_volatility**2 / 24, 24 * p.volatility_prior_days
        variance = (usual * prior + (weight * returns**2).sum()) / (prior + (weight * hours).sum())
        shift = p.volatility_scaling * np.log(np.sqrt(variance / usual))
        below = np.interp(p.reach - shift, p.reach, np.concatenate([[0.0], np.cumsum(p.shares)]))
        return np.asarray(np.diff(np.concatenate([[0.0], below[1:-1], [1.0]])))

    def _close(self, s: int, target: float) -> None:
        """Exponential closing with one scalar that makes the side hold `target`."""
        p = self.parameters
        mass, sink = self.cells[s].sum(axis=1), self.sink[s]
        if mass.sum() + sink <= target:
            return
        tau = np.array(p.tau_hours)

        def excess(theta: float) -> float:
            kept = (mass * np.exp(-theta / tau)).sum() + sink * np.exp(-theta / p.sink_tau_hours)
            return float(kept - target)

        top = 1.0
        while excess(top) > 0 and top < 1e9:
            top *= 2
        theta = brentq(excess, 0.0, top, xtol=1e-13, rtol=1e-15, maxiter=500)
        self.cells[s] *= np.exp(-theta / tau)[:, None]
        self.sink[s] *= np.exp(-theta / p.sink_tau_hours)

    @staticmethod
    def _profile(candle: Float64Array, edges: Float64Array) -> Float64Array:
        """Exact bin masses of the volume-weighted triangles."""
        volume = candle[:, 3]
        weights = volume / volume.sum() if volume.sum() > 0 else np.full(len(candle), 1 / len(candle))
        profile = np.zeros(len(edges) - 1)
        for weight, (low, high, close) in zip(weights, np.log(candle[:, :3]), strict=True):
            if high == low:
                profile[np.searchsorted(edges, low, side="right") - 1] += weight
            else:
                shape = triang((close - low) / (high - low), loc=low, scale=high - low)
                profile += weight * np.diff(shape.cdf(edges))
        return profile

    def _levels(self, s: int, profile: Float64Array) -> Float64Array:
        """Entry profile convolved with each bucket's kernel, shape (n_bucket, n_bins)."""
        n_bins = self.parameters.n_bins
        out = np.zeros((len(self.kernels[s]), n_bins))
        for k, (offset, kernel) in enumerate(self.kernels[s]):
            full = np.convolve(profile, kernel)
            at = np.arange(len(full)) + offset
            inside = (at >= 0) & (at < n_bins)
            out[k, at[inside]] = full[inside]
        return out

    def _column(self, close_bin: int, edges: Float64Array) -> Float64Array:
        p = self.parameters
        price = np.exp((edges[:-1] + edges[1:]) / 2) if self.market.contract == "linear" else np.ones(p.n_bins)
        away = np.abs(np.arange(p.n_bins) - close_bin)
        reach = round(p.background_range / p.bin_width)
        shape = np.where(away <= reach, np.sqrt(away), 0.0) / max(np.sqrt(np.arange(reach + 1)).sum(), 1.0)
        column = self.cells.sum(axis=1)
        near = away <= round(p.background_near / p.bin_width)
        for s, side in enumerate((np.arange(p.n_bins) < close_bin, np.arange(p.n_bins) > close_bin)):
            amount = min(p.background_share * column[s, near].sum(), self.sink[s])
            column[s] += amount * shape * side
        return np.asarray(column * price)
