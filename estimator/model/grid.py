"""The global log-price lattice and grids of liquidation density on it.

Bin ``i`` covers prices ``exp(i * bin_width) .. exp((i + 1) * bin_width)`` whatever the market and the time, so grids
of different venues and times add cell by cell without resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, BoolArray, Float32Array, Float64Array, Gap, Side, TimeArray
from estimator.errors import ParameterError

BIN_WIDTH: Final = 0.001  # about .1 % of price


class Tier(NamedTuple):
    """A display tier: the effective leverages from `floor` (inclusive) up to the next tier's floor."""

    name: str
    floor: float


TIERS: Final = (Tier("2-4x", 0.0), Tier("5-9x", 4.5), Tier("10-24x", 9.5), Tier("25-49x", 24.5), Tier("50x+", 49.5))
DIFFUSE: Final = "diffuse"  # positions whose entry nobody can know
TIER_NAMES: Final = (*(t.name for t in TIERS), DIFFUSE)


def tier_index(leverage: float) -> int:
    """Index into `TIERS` of an effective leverage."""
    return max(i for i, tier in enumerate(TIERS) if leverage >= tier.floor)


class Level(NamedTuple):
    """A stored resolution: columns every `interval_ms`, price bins merged `price_factor` at a time."""

    interval_ms: int
    price_factor: int
    keep_ms: int  # columns older than this are left to coarser levels


LEVELS: Final = (
    Level(5 * MINUTE_MS, 1, 3 * DAY_MS),
    Level(15 * MINUTE_MS, 1, 8 * DAY_MS),
    Level(30 * MINUTE_MS, 1, 16 * DAY_MS),
    Level(2 * HOUR_MS, 2, 70 * DAY_MS),
    Level(4 * HOUR_MS, 2, 140 * DAY_MS),
    Level(8 * HOUR_MS, 4, 400 * DAY_MS),
    Level(24 * HOUR_MS, 4, 3650 * DAY_MS),
)

TierSource = Callable[[int], tuple[Float32Array, Float32Array]]


@dataclass(frozen=True, slots=True, eq=False)
class LiquidationGrid:
    """Estimated USD notional that would be liquidated if the mark price reached a bin.

    Parameters
    ----------
    time : TimeArray, shape (n_time,)
        Close time at which each column is valid, UTC.
    first_bin : int
        Lattice index of the lowest bin.
    bin_width : float
        Width of a bin in log price.
    long_usd, short_usd : Float32Array, shape (n_time, n_price)
        Liquidation density per side. [USD per bin]
    tiers : tuple of str
        Names of the effective-leverage tiers `tier_usd` accepts.
    tier_source : callable, optional
        ``tier index -> (long_usd, short_usd)`` of that tier alone; the tiers sum to the totals.
    gaps : tuple of Gap
        Stretches where the inputs were missing or too old.
    """

    time: TimeArray
    first_bin: int
    bin_width: float
    long_usd: Float32Array
    short_usd: Float32Array
    tiers: tuple[str, ...] = TIER_NAMES
    tier_source: TierSource | None = field(default=None, repr=False)
    gaps: tuple[Gap, ...] = ()

    def __post_init__(self) -> None:
        if self.long_usd.shape != self.short_usd.shape or self.long_usd.shape[:1] != self.time.shape:
            shapes = (self.time.shape, self.long_usd.shape, self.short_usd.shape)
            raise ParameterError("grid shapes", shapes, "time (n,), long_usd and short_usd (n, n_price)")

    @property
    def n_price(self) -> int:
        """Number of price bins."""
        return int(self.long_usd.shape[1])

    @property
    def price_edges(self) -> Float64Array:
        """Edges of the price bins, shape (n_price + 1,)."""
        return np.asarray(np.exp((self.first_bin + np.arange(self.n_price + 1)) * self.bin_width))

    def side_usd(self, side: Side | Literal["long", "short"]) -> Float32Array:
        """Density of one side, shape (n_time, n_price). [USD per bin]"""
        return self.long_usd if Side(side) is Side.LONG else self.short_usd

    def tier_usd(self, side: Side | Literal["long", "short"], tier: str) -> Float32Array:
        """Density of one side and one effective-leverage tier, shape (n_time, n_price). [USD per bin]

        Raises
        ------
        ParameterError
            If the tier is unknown or the grid was made without tiers.
        """
        if tier not in self.tiers:
            raise ParameterError("tier", tier, f"one of {', '.join(self.tiers)}")
        if self.tier_source is None:
            raise ParameterError("tier", tier, "a grid that keeps its tiers (this one holds totals only)")
        long_usd, short_usd = self.tier_source(self.tiers.index(tier))
        return long_usd if Side(side) is Side.LONG else short_usd

    def with_source(self, tier_source: TierSource, gaps: tuple[Gap, ...] = ()) -> LiquidationGrid:
        """Attach the tiers and the gaps of the inputs."""
        return replace(self, tier_source=tier_source, gaps=gaps)

    def with_tiers(self, names: Sequence[str]) -> LiquidationGrid:
        """Keep only the named tiers."""
        if set(names) == set(self.tiers):
            return self
        parts = [(self.tier_usd(Side.LONG, n), self.tier_usd(Side.SHORT, n)) for n in names]
        zero = np.zeros_like(self.long_usd)
        return replace(
            self,
            long_usd=sum((p[0] for p in parts), zero),
            short_usd=sum((p[1] for p in parts), zero.copy()),
            tiers=tuple(names),
            tier_source=lambda i: parts[i],
        )

    def pick(self, columns: BoolArray | slice) -> LiquidationGrid:
        """Keep only some columns."""
        return self._map(lambda usd: usd[columns], time=self.time[columns])

    def coarsen(self, price_factor: int = 1, time_factor: int = 1) -> LiquidationGrid:
        """Merge bins and thin columns.

        Bins are summed (mass is kept), aligned to the lattice so that results of different grids still add. A density
        is a stock: of each run of `time_factor` columns the last is kept, as it was, never an average.
        """
        grid = self if time_factor == 1 else self.pick(slice(time_factor - 1, None, time_factor))
        first_bin = grid.first_bin
        return grid._map(  # noqa: SLF001 - the same class
            lambda usd: merge_bins(usd, first_bin, price_factor),
            first_bin=self.first_bin // price_factor,
            bin_width=self.bin_width * price_factor,
        )

    def crop(self, low: float, high: float) -> LiquidationGrid:
        """Keep the bins that overlap prices ``low .. high``, padded with empty bins where the grid ends earlier."""
        first = int(np.floor(np.log(low) / self.bin_width + 1e-9))
        stop = max(first + 1, int(np.ceil(np.log(high) / self.bin_width - 1e-9)))
        return self._map(lambda usd: fit_bins(usd, self.first_bin, first, stop - first), first_bin=first)

    def _map(self, change: Callable[[Float32Array], Float32Array], **fields: Any) -> LiquidationGrid:
        """Apply `change` to the density of each side, tiers included."""
        source = self.tier_source

        def changed(source: TierSource, tier: int) -> tuple[Float32Array, Float32Array]:
            long_usd, short_usd = source(tier)
            return change(long_usd), change(short_usd)

        return replace(
            self,
            long_usd=change(self.long_usd),
            short_usd=change(self.short_usd),
            tier_source=None if source is None else partial(changed, source),
            **fields,
        )


def merge_bins(usd: Float32Array, first_bin: int, factor: int) -> Float32Array:
    """Sum lattice bins `factor` at a time along the last axis, aligned to the global lattice.

    Parameters
    ----------
    usd : Float32Array, shape (..., n_price)
    first_bin : int
        Lattice index of ``usd[..., 0]``; that of the result is ``first_bin // factor``.
    """
    if factor == 1:
        return usd
    lead = first_bin % factor
    n_out = -(-(lead + usd.shape[-1]) // factor)
    padded = fit_bins(usd, lead, 0, n_out * factor)
    merged: Float32Array = (
        padded.reshape(*usd.shape[:-1], n_out, factor).sum(axis=-1, dtype=np.float64).astype(np.float32)
    )
    return merged


def fit_bins(usd: Float32Array, first_bin: int, new_first: int, n_bins: int) -> Float32Array:
    """Cut or zero-pad the last axis so that it starts at lattice bin `new_first` and holds `n_bins` bins."""
    if first_bin == new_first and usd.shape[-1] == n_bins:
        return usd
    out = np.zeros((*usd.shape[:-1], n_bins), dtype=np.float32)
    low, high = max(first_bin, new_first), min(first_bin + usd.shape[-1], new_first + n_bins)
    if high > low:
        out[..., low - new_first : high - new_first] = usd[..., low - first_bin : high - first_bin]
    return out


def add_grids(grids: Sequence[LiquidationGrid]) -> LiquidationGrid:
    """Add venues cell by cell on the union of their bins and times.

    A venue counts as zero in columns it does not have: the caller shows such gaps.

    Raises
    ------
    ParameterError
        If there is none, or bin widths or tiers differ.
    """
    if not grids:
        raise ParameterError("grids", 0, "at least one grid")
    head = grids[0]
    if len(grids) == 1:
        return head
    for grid in grids[1:]:
        if grid.bin_width != head.bin_width or grid.tiers != head.tiers:
            raise ParameterError(
                "grids", (grid.bin_width, grid.tiers), f"{head.bin_width} and {head.tiers} as the first"
            )
    time = np.unique(np.concatenate([g.time for g in grids]))
    first = min(g.first_bin for g in grids)
    n_price = max(g.first_bin + g.n_price for g in grids) - first
    rows = [np.searchsorted(time, g.time) for g in grids]

    def total(parts: Sequence[Float32Array]) -> Float32Array:
        out = np.zeros((len(time), n_price), dtype=np.float32)
        for grid, row, part in zip(grids, rows, parts, strict=True):
            at = grid.first_bin - first
            out[row, at : at + grid.n_price] += part
        return out

    def tier(index: int) -> tuple[Float32Array, Float32Array]:
        pairs = [g.tier_source(index) for g in grids if g.tier_source is not None]
        return total([p[0] for p in pairs]), total([p[1] for p in pairs])

    return replace(
        head,
        time=time,
        first_bin=first,
        long_usd=total([g.long_usd for g in grids]),
        short_usd=total([g.short_usd for g in grids]),
        tier_source=tier if all(g.tier_source is not None for g in grids) else None,
    )
