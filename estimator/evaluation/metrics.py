"""Scores of a density over a row of cells, and their uncertainty.

A *cell* is a stretch of price on one side, a *share* what part of a side's density (or of what was observed) lies in
it. The shares of the cells in question sum to 1: every score is conditional on those cells.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from estimator.domain import Float64Array, Int64Array

UNIFORM_MIX: Final = 0.05  # so that a level in an empty cell costs 4.3 bits, not all there is
N_RESAMPLE: Final = 2000


class Interval(NamedTuple):
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def shares(mass: Float64Array) -> Float64Array:
    """Normalise masses of cells, shape (n_cell,); nothing anywhere says as much as the same everywhere."""
    total = mass.sum()
    return mass / total if total > 0 else np.full(len(mass), 1.0 / max(len(mass), 1))


def bits(share: Float64Array) -> Float64Array:
    """Log score over uniform of an event in each cell, with the uniform mix, shape (n_cell,). [bits]"""
    return np.log2((1 - UNIFORM_MIX) * share * len(share) + UNIFORM_MIX)


def sharpness(share: Float64Array) -> float:
    """How much a density claims to know: its information over uniform, whether right or wrong. [bits]"""
    held = share[share > 0]
    return float((held * np.log2(held * len(share))).sum())


def capture(share: Float64Array, observed: Float64Array, part: float = 0.1) -> float:
    """Share of `observed` in the densest `part` of the cells; a cell on the border counts in part."""
    order = np.argsort(-share, kind="stable")
    counted = np.clip(part * len(share) - np.arange(len(share)), 0.0, 1.0)
    return float((shares(observed)[order] * counted).sum())


def middle_rank(share: Float64Array) -> Float64Array:
    """Probability integral transform of an event in each cell: density before it and half of its own."""
    return np.asarray(np.cumsum(share) - share / 2)


def ks_distance(rank: Float64Array, weight: Float64Array) -> float:
    """Kolmogorov-Smirnov distance of weighted ranks from uniform on 0..1."""
    order = np.argsort(rank, kind="stable")
    above = np.cumsum(weight[order]) / weight.sum()
    below = np.concatenate([[0.0], above[:-1]])
    return float(np.maximum(np.abs(above - rank[order]), np.abs(below - rank[order])).max())


def spearman(predicted: Float64Array, observed: Float64Array) -> float:
    """Rank correlation; NaN where either is constant."""
    if np.ptp(predicted) == 0 or np.ptp(observed) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(predicted), _ranks(observed))[0, 1])


def wasserstein(edges: Float64Array, share: Float64Array, observed: Float64Array) -> float:
    """Earth mover's distance between two sets of shares, in the units of `edges`, shape (n_cell + 1,)."""
    width = np.abs(np.diff((edges[1:] + edges[:-1]) / 2))
    return float((np.abs(np.cumsum(share - observed))[:-1] * width).sum())


class Decile(NamedTuple):
    """Cells of like predicted density, and what was observed in them; 1 is the mean of all cells."""

    predicted: float
    observed: float


def deciles(
    predicted: Float64Array, observed: Float64Array, weight: Float64Array | None = None, n: int = 10
) -> list[Decile]:
    """Group cells into `n` equal parts by prediction and average both in each.

    Parameters
    ----------
    predicted, observed : Float64Array, shape (n_cell,)
    weight : Float64Array, shape (n_cell,), optional
        What a cell counts; all alike by default.
    n : int
        Number of groups.
    """
    weight = np.ones(len(predicted)) if weight is None else weight
    order = np.argsort(predicted, kind="stable")
    group = np.minimum((np.cumsum(weight[order]) - weight[order] / 2) / weight.sum() * n, n - 1).astype(np.int64)
    total = np.bincount(group, weight[order], n)
    x = np.bincount(group, (weight * predicted)[order], n) / np.where(total > 0, total, 1)
    y = np.bincount(group, (weight * observed)[order], n) / np.where(total > 0, total, 1)
    return [Decile(float(a), float(b)) for a, b, t in zip(x, y, total, strict=True) if t > 0]


def calibration_slope(groups: list[Decile]) -> float:
    """Least-squares slope of log observed over log predicted of groups where both are positive; 1 is calibrated.

    NaN where fewer than three groups are left, or all are predicted alike.
    """
    kept = np.array([g for g in groups if g.predicted > 0 and g.observed > 0])
    if len(kept) < 3 or np.ptp(np.log(kept[:, 0])) < 1e-9:
        return float("nan")
    x, y = np.log(kept).T
    return float(np.polyfit(x, y, 1)[0])


def block_times(block: Int64Array, seed: int = 0) -> tuple[Float64Array, Int64Array]:
    """Draw blocks with replacement: how often each counts, shape (N_RESAMPLE, n_block), and the block of each item.

    The same items draw the same blocks, so differences between models are paired.
    """
    _, index = np.unique(block, return_inverse=True)
    n = int(index.max()) + 1 if len(index) else 1
    return _draw(n, seed), index


@lru_cache(maxsize=16)  # a long-lived record adds a block a day, and a draw of a year is 6 MB
def _draw(n: int, seed: int) -> Float64Array:
    times: Float64Array = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLE).astype(float)
    times.setflags(write=False)
    return times


def block_sums(values: Float64Array, index: Int64Array, n: int) -> Float64Array:
    """Sum values by the index of their block or cell, shape (n,)."""
    return np.asarray(np.bincount(index, values, n), dtype=np.float64)


def mean_replicates(value: Float64Array, weight: Float64Array, block: Int64Array) -> Float64Array:
    """Bootstrap replicates of a weighted mean, whole blocks redrawn, shape (N_RESAMPLE,); NaN for a single block."""
    times, index = block_times(block)
    n = times.shape[1]
    if n < 2:
        return np.full(N_RESAMPLE, np.nan)
    total = times @ block_sums(weight, index, n)
    return np.asarray(times @ block_sums(value * weight, index, n) / np.where(total > 0, total, np.nan))


def interval(value: float, replicates: Float64Array) -> Interval:
    """Return an estimate with the 95 % interval of its replicates."""
    if not np.isfinite(replicates).any():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def mean_interval(value: Float64Array, weight: Float64Array, block: Int64Array) -> Interval:
    """Weighted mean with its block-bootstrap interval; entries that are not numbers are left out."""
    kept = np.isfinite(value) & (weight > 0)
    if not kept.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    value, weight, block = value[kept], weight[kept], block[kept]
    return interval(float(np.average(value, weights=weight)), mean_replicates(value, weight, block))


def correlation_interval(one: Float64Array, two: Float64Array, block: Int64Array) -> Interval:
    """Correlation of two series of mean 0 with its block-bootstrap interval."""
    times, index = block_times(block)
    n = times.shape[1]
    products = [one * two, one * one, two * two]
    cross, first, second = (block_sums(p, index, n) for p in products)
    scale = np.sqrt(first.sum() * second.sum())
    if not scale > 0:
        return Interval(0.0, 0.0, 0.0)
    replicates = times @ cross / np.sqrt((times @ first) * (times @ second))
    return interval(float(cross.sum() / scale), replicates)


def residual(values: Float64Array, controls: Float64Array) -> Float64Array:
    """Return what is left of the ranks of `values` after a cubic in the ranks of each control.

    Parameters
    ----------
    values : Float64Array, shape (n,)
    controls : Float64Array, shape (n, n_control)
    """
    design = np.hstack([np.ones((len(values), 1)), *(_ranked(controls) ** power for power in (1, 2, 3))])
    ranked = _ranked(values[:, None])[:, 0]
    return np.asarray(ranked - design @ np.linalg.lstsq(design, ranked, rcond=None)[0])


def _ranked(columns: Float64Array) -> Float64Array:
    """Ranks from -1 to 1, column by column."""
    n = max(len(columns), 2)
    return np.asarray((np.apply_along_axis(_ranks, 0, columns) - (n + 1) / 2) * 2 / n)


def _ranks(values: Float64Array) -> Float64Array:
    """Ranks from 1, the mean of them where values are equal; SciPy's would bring 40 MB into every worker."""
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[index])
