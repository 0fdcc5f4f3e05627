"""Models that know nothing of positions: what any estimate has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from estimator.domain import HOUR_MS, BoolArray
from estimator.evaluation.density import MarketPast, close_bins, empty_grid, fill_sides
from estimator.model.grid import BIN_WIDTH, LiquidationGrid
from estimator.model.step import HIGH, LOW

_REACH_DISTANCE: Final = 0.4054651081081644  # ln 1.5, as the diffuse background of the book


@dataclass(frozen=True, slots=True)
class Uniform:
    """The same density in every bin."""

    name: str = "uniform"

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        grid = empty_grid(past, emit)
        for row, close_bin in enumerate(close_bins(past, emit)):
            fill_sides(grid, row, int(close_bin), np.ones(grid.n_price))
        return grid


@dataclass(frozen=True, slots=True)
class Distance:
    """Density like the square root of the log distance from the price, whatever the path was."""

    name: str = "distance"

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        grid = empty_grid(past, emit)
        bins = np.arange(grid.n_price) + grid.first_bin
        for row, close_bin in enumerate(close_bins(past, emit)):
            away = np.abs(bins - close_bin) * BIN_WIDTH
            fill_sides(grid, row, int(close_bin), np.where(away <= _REACH_DISTANCE, np.sqrt(away), 0.0))
        return grid


@dataclass(frozen=True, slots=True)
class Freshness:
    """Density by the time since a price was last traded: what was just there has been swept.

    Parameters
    ----------
    half_hours : float
        Age at which a price counts half of one that was never traded. [h]
    """

    half_hours: float = 72.0  # the best of 6 h to 100 days on positions, near the best elsewhere
    name: str = "freshness"

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        grid = empty_grid(past, emit)
        traded_ms = np.full(grid.n_price, -np.inf)
        candle = np.floor(np.log(past.steps.candle[:, (LOW, HIGH)]) / BIN_WIDTH).astype(np.int64) - grid.first_bin
        closes = close_bins(past, emit)
        row = 0
        for step, time_ms in enumerate(past.steps.close_ms):
            for low, high in candle[past.steps.first[step] : past.steps.first[step + 1]]:
                traded_ms[max(low, 0) : max(high + 1, 0)] = time_ms
            if emit[step]:
                half_over_age = self.half_hours * HOUR_MS / np.maximum(time_ms - traded_ms, 1.0)
                fill_sides(grid, row, int(closes[row]), 1.0 / (1.0 + half_over_age))
                row += 1
        return grid


@dataclass(frozen=True, slots=True)
class StaticLines:
    """Lines at the naive ``price * (1 -+ 1 / leverage)`` of the present price, as public tools draw them.

    Parameters
    ----------
    leverages, shares : tuple of float
        Labels on positions, and what part of the interest carries each.
    """

    leverages: tuple[float, ...] = (100.0, 50.0, 25.0, 20.0, 10.0, 5.0, 3.0)
    shares: tuple[float, ...] = (0.1, 0.15, 0.2, 0.15, 0.2, 0.1, 0.1)
    name: str = "static"

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        grid = empty_grid(past, emit)
        for row, price in enumerate(past.close[emit]):
            for leverage, share in zip(self.leverages, self.shares, strict=True):
                for usd, level in ((grid.long_usd, 1 - 1 / leverage), (grid.short_usd, 1 + 1 / leverage)):
                    at = int(np.floor(np.log(price * level) / BIN_WIDTH)) - grid.first_bin
                    usd[row, min(max(at, 0), grid.n_price - 1)] += share
        return grid
