"""Models made of models: linear mixtures and log-linear pools of densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from estimator.domain import BoolArray, Float32Array, Float64Array
from estimator.evaluation.density import REACH, DensityModel, MarketPast
from estimator.model.grid import LiquidationGrid, fit_bins

FLOOR = 0.02  # share of a density uniform over `REACH` bins mixed into each part: a zero would veto all others


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weighted sum of densities, each side of each model brought to the same mass first.

    The sides of the mixture keep the masses of the first model.
    """

    name: str
    models: tuple[DensityModel, ...]
    weights: tuple[float, ...]

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        return _combine(self.models, past, emit, lambda parts: _weighted(self.weights, parts))


@dataclass(frozen=True, slots=True)
class LogPool:
    """Weighted geometric mean of densities; the sides keep the masses of the first model."""

    name: str
    models: tuple[DensityModel, ...]
    weights: tuple[float, ...]

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        return _combine(self.models, past, emit, self._pool)

    def _pool(self, parts: Sequence[Float64Array]) -> Float64Array:
        return np.exp(_weighted(self.weights, [np.log((1 - FLOOR) * q + FLOOR / REACH) for q in parts]))


def _weighted(weights: Sequence[float], parts: Sequence[Float64Array]) -> Float64Array:
    return np.asarray(sum(w * q for w, q in zip(weights, parts, strict=True)))


def _combine(
    models: Sequence[DensityModel],
    past: MarketPast,
    emit: BoolArray,
    pool: Callable[[Sequence[Float64Array]], Float64Array],
) -> LiquidationGrid:
    grids = [model.densities(past, emit) for model in models]
    head = grids[0]
    first = min(g.first_bin for g in grids)
    n_bins = max(g.first_bin + g.n_price for g in grids) - first
    sides = []
    for side in ("long", "short"):
        mass = _total(head.side_usd(side))
        parts = [_normalised(fit_bins(g.side_usd(side), g.first_bin, first, n_bins)) for g in grids]
        held = reduce(np.logical_or, (q > 0 for q in parts))
        sides.append((mass * _normalised(np.where(held, pool(parts), 0.0))).astype(np.float32))
    long_usd, short_usd = sides
    return LiquidationGrid(head.time, first, head.bin_width, long_usd, short_usd)


def _normalised(usd: Float32Array | Float64Array) -> Float64Array:
    total = _total(usd)
    return np.asarray(usd / np.where(total > 0, total, 1.0))


def _total(usd: Float32Array | Float64Array) -> Float64Array:
    """Sum each row from its start: empty bins around it, as many as a later price asks for, then round nothing."""
    return np.cumsum(usd, axis=1, dtype=np.float64)[:, -1:]
