"""Clusters of liquidation levels: where density stands out, how likely the price is to get there, where a stop goes.

A side is read outward from the mark price, so that longs and shorts are treated alike. What is searched for peaks is
its *contrast*: the density smoothed along log price, less its own broad background, where positive. A cluster reaches
as far as half of its peak's prominence does, or to the lowest point between it and the next one; its mass is the whole
density inside.

The hitting probability is that of a driftless random walk: the chance that it touches a distance ``d`` within a time
``T`` is ``2 * Phi(-d / (sigma * sqrt(T)))`` (reflection principle). The *magnet score* multiplies it by the share of
open interest in the cluster. That clusters attract the price at all is unproven.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr

from estimator.domain import Float64Array, Side
from estimator.errors import ParameterError
from estimator.model.grid import LiquidationGrid
from estimator.model.peaks import find_peaks, peak_edges
from estimator.units import price_text

MAGNET_NOTE: Final = "unproven: nobody has shown yet that clusters attract the price"
_REACH: Final = 4.0  # standard deviations to which a Gaussian is carried
PAIN_REACH: Final = 0.15  # log price around the mark where max pain is looked for
PAIN_SHARE: Final = 1.2  # how far above the average of its side a maximum must stand to count as one


@dataclass(frozen=True, slots=True)
class ClusterRules:
    """When density counts as a cluster.

    Parameters
    ----------
    smoothing : float
        Standard deviation of the Gaussian along log price.
    background : float
        Standard deviation of the Gaussian that is the background, as in the contrast lens.
    window : float
        Farthest distance of a peak from the mark, in log price.
    prominence : float
        Least prominence of a peak, a share of the highest contrast of its side in the window.
    least_contrast : float
        How far above its background a peak must stand, a share of that background.
    separation : float
        Least distance between peaks, in log price.
    relative_height : float
        Part of its prominence below the peak at which the bounds lie.
    least_share : float
        Least mass, a share of open interest.
    """

    smoothing: float = 0.0015
    background: float = 0.014
    window: float = 0.15
    prominence: float = 0.35
    least_contrast: float = 0.15
    separation: float = 0.003
    relative_height: float = 0.5
    least_share: float = 0.005

    def __post_init__(self) -> None:
        for name in ("smoothing", "background", "window", "separation"):
            _check(name, getattr(self, name), 1e-6, 10.0)
        for name in ("prominence", "relative_height", "least_share"):
            _check(name, getattr(self, name), 0.0, 1.0)
        _check("least_contrast", self.least_contrast, 0.0, 1e6)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Levels of one side that stand out.

    Parameters
    ----------
    side : Side
        Whose positions; longs lie below the mark, shorts above.
    price : float
        Where the smoothed density peaks.
    low, high : float
        Bounds, on edges of bins.
    mass_usd : float
        Estimated notional between the bounds. [USD]
    share : float
        `mass_usd` over open interest in USD.
    distance : float
        ``price / mark - 1``.
    touch : float or None
        Probability that the price touches `price` within the horizon; None where the volatility is unknown.
    magnet : float or None
        ``share * touch``; see `MAGNET_NOTE`.
    """

    side: Side
    price: float
    low: float
    high: float
    mass_usd: float
    share: float
    distance: float
    touch: float | None
    magnet: float | None

    @property
    def far_edge(self) -> float:
        """The bound away from the mark."""
        return self.low if self.side is Side.LONG else self.high


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a stop goes, or why there is none.

    Parameters
    ----------
    price : float or None
        None where it is refused.
    refused : str
        Why; empty where it is not.
    cluster : Cluster or None
        The cluster it is put behind.
    room : float or None
        Distance from the cluster's far edge. [quote]
    """

    price: float | None
    refused: str
    cluster: Cluster | None
    room: float | None


class _Outward(NamedTuple):
    """Density of one side read outward from the mark: ``usd[k]`` is bin ``first + step * k`` of the lattice."""

    usd: Float64Array
    first: int
    step: int
    bin_width: float

    def edges(self, start: int, stop: int) -> tuple[float, float]:
        """Low and high price of the bins ``start .. stop - 1``."""
        ends = sorted((self.first + self.step * start, self.first + self.step * (stop - 1)))
        return math.exp(ends[0] * self.bin_width), math.exp((ends[1] + 1) * self.bin_width)

    def middle(self, at: int) -> float:
        return math.exp((self.first + self.step * at + 0.5) * self.bin_width)


def touch_probability(distance: float, hourly_volatility: float, hours: float) -> float:
    """Probability that a driftless random walk touches a distance within a time: ``2 * Phi(-d / (sigma * sqrt(T)))``.

    Parameters
    ----------
    distance : float
        In log price; its sign does not matter.
    hourly_volatility : float
        Standard deviation of the log return of an hour.
    hours : float

    Raises
    ------
    ParameterError
        If the volatility or the time is negative or not finite.
    """
    _check("hourly_volatility", hourly_volatility, 0.0, 100.0)
    _check("hours", hours, 0.0, 1e6)
    spread = hourly_volatility * math.sqrt(hours)
    if distance == 0 or spread == 0:
        return float(distance == 0)
    return float(2 * ndtr(-abs(distance) / spread))


def find_clusters(
    grid: LiquidationGrid,
    *,
    mark_price: float,
    open_interest_usd: float,
    hourly_volatility: float | None = None,
    hours: float = 24.0,
    rules: ClusterRules | None = None,
) -> tuple[Cluster, ...]:
    """Clusters of the latest column of a grid, both sides, the strongest first.

    Parameters
    ----------
    grid : LiquidationGrid
        At least as wide as `ClusterRules.window`, lest a peak lies on its edge.
    mark_price : float
        [quote]
    open_interest_usd : float
        What masses are shares of. [USD]
    hourly_volatility : float, optional
        Standard deviation of the log return of an hour; without it there is no magnet score.
    hours : float
        Horizon of the hitting probability. [h]
    rules : ClusterRules, optional

    Returns
    -------
    tuple of Cluster
        By falling magnet score, by falling mass where that is unknown. Bounds of a side are disjoint.

    Raises
    ------
    ParameterError
        If a value is outside its domain.
    """
    _check("mark_price", mark_price, 1e-12, 1e15)
    _check("open_interest_usd", open_interest_usd, 1e-9, 1e18)
    rules = rules or ClusterRules()
    found = []
    for side in Side:
        outward = _read_outward(grid, side, mark_price, rules)
        for peak, start, stop in _peaks(outward, rules):
            mass = float(outward.usd[start:stop].sum())
            if mass < rules.least_share * open_interest_usd:
                continue
            price, share = outward.middle(peak), mass / open_interest_usd
            low, high = outward.edges(start, stop)
            away = math.log(price / mark_price)
            touch = None if hourly_volatility is None else touch_probability(away, hourly_volatility, hours)
            magnet = None if touch is None else share * touch
            found.append(Cluster(side, price, low, high, mass, share, math.expm1(away), touch, magnet))
    return tuple(sorted(found, key=lambda c: (-(c.magnet or 0.0), -c.mass_usd, abs(c.distance))))


def nearest_cluster(clusters: tuple[Cluster, ...], side: Side) -> Cluster | None:
    """Return the cluster of a side that lies nearest to the mark."""
    return min((c for c in clusters if c.side is side), key=lambda c: abs(c.distance), default=None)


def place_stop(
    clusters: tuple[Cluster, ...],
    *,
    side: Side,
    mark_price: float,
    atr_1h: float | None,
    liquidation_price: float | None = None,
    atr_share: float = 0.25,
    least_room: float = 0.001,
    safety: float = 0.2,
) -> Stop:
    """Put a stop behind the nearest cluster that lies against a position.

    Parameters
    ----------
    clusters : tuple of Cluster
    side : Side
        Of the position to protect.
    mark_price : float
        The position's; clusters on its other side are left out.
    atr_1h : float or None
        Average true range of 14 hourly candles. [quote]
    liquidation_price : float, optional
        Of the position to protect; None where no price liquidates it.
    atr_share, least_room : float
        The stop lies ``max(atr_share * atr_1h, least_room * mark_price)`` beyond the cluster's far edge.
    safety : float
        Refused where less than this part of the way from the mark to the liquidation price would be left.
    """
    adverse = (c for c in clusters if c.side is side and side.sign * (mark_price - c.price) > 0)
    cluster = min(adverse, key=lambda c: abs(c.price - mark_price), default=None)
    where = "below" if side is Side.LONG else "above"
    if cluster is None:
        return Stop(None, f"no cluster of {side}s stands out {where} the price", None, None)
    if atr_1h is None:
        return Stop(None, "the average true range of the last hours is not known", cluster, None)
    room = max(atr_share * atr_1h, least_room * mark_price)
    price = cluster.far_edge - side.sign * room
    refused = _refusal(side, price, mark_price, liquidation_price, safety)
    return Stop(None if refused else price, refused, cluster, room)


def _refusal(side: Side, price: float, mark: float, liquidation: float | None, safety: float) -> str:
    if price <= 0:
        return "the room beyond the cluster reaches below zero"
    if liquidation is None:
        return ""
    at, own = price_text(price), price_text(liquidation)
    left = side.sign * (price - liquidation)
    if left <= 0:
        return f"it would lie at {at}, past the position's own liquidation price {own}"
    if left < safety * abs(mark - liquidation):
        return f"it would lie at {at}, within {safety:.0%} of the way to the liquidation price {own}"
    return ""


def max_pain(
    grid: LiquidationGrid, side: Side, rules: ClusterRules | None = None, *, around: float | None = None
) -> float | None:
    """Price at which most of a side would be liquidated per step of price.

    The highest density of the latest column after smoothing. It is undefined (None) where the side is empty, where the
    maximum lies on the edge of the grid, or where it stands less than a fifth above the average of its side.

    Parameters
    ----------
    around : float, optional
        Only prices within `PAIN_REACH` of this one, usually the mark price, count.
    """
    if around is not None:
        grid = grid.crop(around * math.exp(-PAIN_REACH), around * math.exp(PAIN_REACH))
    width = (rules or ClusterRules()).smoothing / grid.bin_width
    usd = gaussian_filter1d(grid.side_usd(side)[-1].astype(np.float64), width)
    held = usd > 0
    at = int(usd.argmax())
    if not held.any() or at in (0, len(usd) - 1) or usd[at] < PAIN_SHARE * usd[held].mean():
        return None
    return float(np.sqrt(grid.price_edges[at] * grid.price_edges[at + 1]))


def near_mass(grid: LiquidationGrid, mark_price: Float64Array, distance: float) -> Float64Array:
    """Mass of every column within a distance of its price: longs below it, shorts above.

    Parameters
    ----------
    grid : LiquidationGrid
    mark_price : Float64Array, shape (n_time,)
        Price at each column.
    distance : float
        In log price.

    Returns
    -------
    Float64Array, shape (n_time, 2)
        Longs and shorts; bins count by their middle. [USD]
    """
    middle = (grid.first_bin + np.arange(grid.n_price) + 0.5) * grid.bin_width
    away = middle - np.log(mark_price)[:, None]
    near = np.abs(away) <= distance
    longs = np.where(near & (away <= 0), grid.long_usd, 0.0).sum(axis=1, dtype=np.float64)
    shorts = np.where(near & (away >= 0), grid.short_usd, 0.0).sum(axis=1, dtype=np.float64)
    return np.column_stack([longs, shorts])


def _read_outward(grid: LiquidationGrid, side: Side, mark_price: float, rules: ClusterRules) -> _Outward:
    """Density of a side from the bin of the mark outward, with a margin beyond the window for its background."""
    step = -side.sign
    at = math.floor(math.log(mark_price) / grid.bin_width + 1e-9)
    n = math.ceil((rules.window + _REACH * (rules.smoothing + rules.background)) / grid.bin_width) + 1
    usd = np.zeros(n)
    where = at + step * np.arange(n) - grid.first_bin
    inside = (where >= 0) & (where < grid.n_price)
    usd[inside] = grid.side_usd(side)[-1][where[inside]]
    return _Outward(usd, at, step, grid.bin_width)


def _contrast(outward: _Outward, rules: ClusterRules) -> tuple[Float64Array, Float64Array]:
    """Smoothed density above its background, and the background; the cut at the mark makes no edge."""
    narrow, broad = rules.smoothing / outward.bin_width, rules.background / outward.bin_width
    smooth = gaussian_filter1d(outward.usd, narrow, mode="constant", truncate=_REACH)
    weight = gaussian_filter1d(np.ones_like(smooth), broad, mode="constant", truncate=_REACH)
    background = gaussian_filter1d(outward.usd, broad, mode="constant", truncate=_REACH) / weight
    # A bin of nothing before the first, so that levels right at the mark have a flank on that side too.
    seen = math.ceil(rules.window / outward.bin_width) + 1
    return np.r_[0.0, np.maximum(smooth - background, 0.0)[:seen]], np.r_[0.0, background[:seen]]


def _peaks(outward: _Outward, rules: ClusterRules) -> list[tuple[int, int, int]]:
    """Peaks of a side that stand out: ``(peak, start, stop)`` in bins from the mark, disjoint, nearest first."""
    contrast, background = _contrast(outward, rules)
    needed = max(rules.prominence * float(contrast.max()), np.finfo(np.float64).tiny)
    peaks = find_peaks(contrast, prominence=needed, distance=max(1.0, rules.separation / outward.bin_width))
    peaks = peaks[contrast[peaks] >= rules.least_contrast * background[peaks]]
    left, right = peak_edges(contrast, peaks, rules.relative_height)
    starts, stops = np.maximum(np.round(left), 1).astype(int), np.round(right).astype(int) + 1
    for k in range(len(peaks) - 1):
        # The flank of a high peak may hold a lower one: the lowest point between them parts the two.
        saddle = int(peaks[k] + contrast[peaks[k] : peaks[k + 1] + 1].argmin())
        stops[k], starts[k + 1] = min(stops[k], saddle), max(starts[k + 1], saddle)
    return [(int(p) - 1, int(a) - 1, int(b) - 1) for p, a, b in zip(peaks, starts, stops, strict=True)]


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ParameterError(name, value, f"a number from {low:g} to {high:g}")
