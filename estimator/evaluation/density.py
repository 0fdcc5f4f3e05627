"""What a model is when it is scored: a market's past in, densities on the log-price lattice out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from estimator.domain import BoolArray, Float32Array, Float64Array, Int64Array, Market
from estimator.model.grid import BIN_WIDTH, LiquidationGrid
from estimator.model.step import CLOSE
from estimator.model.steps import Steps

REACH = 450  # bins each side of the price that path-free models fill: past ln 1.5


@dataclass(frozen=True, slots=True, eq=False)
class MarketPast:
    """What is known of a market, step by step.

    Parameters
    ----------
    market : Market
    steps : Steps
        Candles and open interest, as the position book takes them.
    known : mapping of str to Float64Array, shape (n_step,)
        Further series by name, each value known at the close of its step, NaN where nothing is known; e.g.
        ``"funding_rate"`` [fraction per hour].
    """

    market: Market
    steps: Steps
    known: Mapping[str, Float64Array] = field(default_factory=dict)

    @property
    def close(self) -> Float64Array:
        """Last price of each step, shape (n_step,)."""
        return np.asarray(self.steps.candle[self.steps.first[1:] - 1, CLOSE])

    def until(self, n_step: int) -> MarketPast:
        """Return the first `n_step` steps."""
        known = {name: values[:n_step] for name, values in self.known.items()}
        return MarketPast(self.market, self.steps.part(0, n_step), known)


@runtime_checkable
class DensityModel(Protocol):
    """A model of where positions would be liquidated.

    A frozen, picklable value: it holds assumptions, never data. Column ``i`` may use steps up to ``i`` only, so
    that a density stands still from the moment it is scored; tests poison later steps of every shipped model.
    """

    @property
    def name(self) -> str:
        """Short name, unique among the models scored together."""
        ...

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """Return a column for each step where `emit` is true.

        Parameters
        ----------
        past : MarketPast
        emit : BoolArray, shape (n_step,)

        Returns
        -------
        LiquidationGrid
            USD (or any fixed multiple) per bin: longs below each column's close, shorts above.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One side of one column: a density on the lattice, in the order of rising price."""

    usd: Float32Array | Float64Array
    first_bin: int
    bin_width: float

    def between(self, edges: Float64Array) -> Float64Array:
        """Mass between consecutive log prices, shape (n_edge - 1,); edges may rise or fall, bins are cut evenly."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.usd, dtype=np.float64)])
        at = np.interp(edges / self.bin_width - self.first_bin, np.arange(len(cumulative)), cumulative)
        return np.asarray(np.abs(np.diff(at)))


def close_bins(past: MarketPast, emit: BoolArray) -> Int64Array:
    """Lattice bins of the closes of the columns, shape (n_column,)."""
    return np.floor(np.log(past.close[emit]) / BIN_WIDTH).astype(np.int64)


def empty_grid(past: MarketPast, emit: BoolArray) -> LiquidationGrid:
    """Grid of zeros that reaches `REACH` bins beyond the closes of its columns."""
    bins = close_bins(past, emit)
    first, last = (int(bins.min()), int(bins.max())) if len(bins) else (0, 0)
    shape = (len(bins), last - first + 2 * REACH + 1)
    zero = np.zeros(shape, dtype=np.float32)
    time = past.steps.close_ms[emit].astype("datetime64[ms]")
    return LiquidationGrid(time, first - REACH, BIN_WIDTH, zero, zero.copy())


def fill_sides(grid: LiquidationGrid, row: int, close_bin: int, density: Float64Array) -> None:
    """Write a density around the price, shape (n_price,), below the close's bin as longs and above it as shorts."""
    at = close_bin - grid.first_bin
    grid.long_usd[row, :at] = density[:at]
    grid.short_usd[row, at + 1 :] = density[at + 1 :]
