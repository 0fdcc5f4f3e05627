"""Peaks of a curve, as `scipy.signal` finds them: its import costs every process 54 MB for these two functions."""

from __future__ import annotations

import math

import numpy as np

from estimator.domain import Float64Array, Int64Array


def find_peaks(values: Float64Array, *, prominence: float, distance: float) -> Int64Array:
    """Return the indices of the peaks of a curve; of a flat top its middle.

    Parameters
    ----------
    values : Float64Array, shape (n,)
    prominence : float
        Least height above the higher of the two saddles around a peak.
    distance : float
        Least number of samples between two peaks; the higher one stays.

    Returns
    -------
    Int64Array, shape (n_peak,)
        Rising.
    """
    peaks = _apart(values, _tops(values), math.ceil(distance))
    return np.array([p for p in peaks if _standing(values, p)[0] >= prominence], dtype=np.int64)


def peak_edges(values: Float64Array, peaks: Int64Array, rel_height: float) -> tuple[Float64Array, Float64Array]:
    """Return where the flanks of peaks have fallen by a share of the prominence, interpolated, shape (n_peak,) each."""
    edges = [_edges(values, int(p), rel_height) for p in peaks]
    left, right = np.array(edges, dtype=np.float64).reshape(-1, 2).T
    return left, right


def _tops(values: Float64Array) -> Int64Array:
    """Middles of the stretches that are higher than what is on either side of them."""
    starts = np.r_[0, np.flatnonzero(np.diff(values)) + 1]
    ends = np.r_[starts[1:], len(values)] - 1
    level = values[starts]
    top = np.zeros(len(starts), dtype=np.bool_)
    top[1:-1] = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:])
    return np.asarray((starts[top] + ends[top]) // 2)


def _apart(values: Float64Array, peaks: Int64Array, distance: int) -> Int64Array:
    """Drop peaks that are nearer than `distance` to a higher one that stays."""
    kept = np.ones(len(peaks), dtype=np.bool_)
    for k in np.argsort(values[peaks])[::-1]:
        if kept[k]:
            kept &= np.abs(peaks - peaks[k]) >= distance
            kept[k] = True
    return peaks[kept]


def _standing(values: Float64Array, peak: int) -> tuple[float, int, int]:
    """Prominence of a peak, and the lowest points on its way down to higher ground on either side."""
    left, right = values[: peak + 1][::-1], values[peak:]
    lowest = []
    for side in (left, right):
        higher = np.flatnonzero(side > values[peak])
        lowest.append(int(side[: higher[0] if len(higher) else len(side)].argmin()))
    saddle = max(left[lowest[0]], right[lowest[1]])
    return float(values[peak] - saddle), peak - lowest[0], peak + lowest[1]


def _edges(values: Float64Array, peak: int, rel_height: float) -> tuple[float, float]:
    prominence, first, last = _standing(values, peak)
    height = values[peak] - prominence * rel_height
    left = right = peak
    while left > first and values[left] > height:
        left -= 1
    while right < last and values[right] > height:
        right += 1
    return (
        left + (height - values[left]) / (values[left + 1] - values[left]) if values[left] < height else float(left),
        right - (height - values[right]) / (values[right - 1] - values[right])
        if values[right] < height
        else float(right),
    )
