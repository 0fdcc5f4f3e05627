"""Levels that only open, or open with the volume and fade: the usual alternatives to a position book."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numba import njit

from estimator.domain import HOUR_MS, BoolArray, Float32Array, Float64Array
from estimator.evaluation.density import MarketPast
from estimator.model.book import PositionBook, rules_of
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import SHARES, Parameters
from estimator.model.spread import Kernels, build_kernels
from estimator.model.step import (
    CLOSE,
    CLOSE_BIN,
    FIRST_BIN,
    HIGH,
    LOW,
    VOLUME,
    Inputs,
    Output,
    Rules,
    State,
    bin_of,
    deposit,
    emit,
    entry_profile,
    needs_recentre,
    recentre,
    set_prices,
    sweep_both,
    window_range,
)

LABELS: Final = replace(
    Parameters(),
    shares=SHARES["high-leverage"],
    sigmas=(0.05,) * 12,
    sink_share=0.0,
    background_share=0.0,
)
WIDE: Final = replace(LABELS, shares=SHARES["positions"], sigmas=(0.4,) * 12)


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels at label leverages of every entry, swept when the price reaches them, never closed by a trader.

    Parameters
    ----------
    opened_by : {"interest", "volume"}
        What opens levels: rises of open interest, or all volume.
    fade_hours : float
        Time in which unswept levels fade to 1/e; infinite keeps them. [h]
    name : str
    parameters : Parameters
        Leverages, shares and spreads; nothing else of them is used.
    """

    opened_by: Literal["interest", "volume"]
    fade_hours: float
    name: str
    parameters: Parameters = LABELS

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        steps = past.steps
        book = PositionBook(past.market, self.parameters)
        inputs = Inputs(steps.first, steps.candle, steps.contracts, steps.at_risk, steps.close_ms)
        p = book.parameters
        first, last = window_range(inputs, p.bin_width, p.n_bins, 0, 0)
        shape = (1, int(emit.sum()), last - first + p.n_bins)
        long_usd: Float32Array = np.zeros(shape, dtype=np.float32)
        short_usd: Float32Array = np.zeros(shape, dtype=np.float32)
        row = np.where(emit, np.cumsum(emit) - 1, -1)
        layer_of = np.zeros(len(p.leverages) + 1, dtype=np.int64)
        output = Output(row, layer_of, first, long_usd, short_usd, np.zeros((len(steps), 2)))
        kept = np.exp(-np.diff(steps.close_ms, prepend=steps.close_ms[:1]) / (self.fade_hours * HOUR_MS))
        _run_levels(
            book.state,
            rules_of(p, inverse=past.market.contract == "inverse"),
            build_kernels(past.market, p),
            inputs,
            self._opened(past),
            kept,
            output,
        )
        return LiquidationGrid(
            steps.close_ms[emit].astype("datetime64[ms]"), first, p.bin_width, long_usd[0], short_usd[0]
        )

    def _opened(self, past: MarketPast) -> Float64Array:
        """Contracts opened in each step, on both sides."""
        steps = past.steps
        if self.opened_by == "volume":
            return np.add.reduceat(steps.candle[:, VOLUME], steps.first[:-1])
        return np.maximum(np.diff(steps.contracts, prepend=steps.contracts[:1]), 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _run_levels(
    state: State, rules: Rules, kernels: Kernels, inputs: Inputs, opened: Float64Array, kept: Float64Array, out: Output
) -> None:
    """Sweep, fade, open and write, step by step; the window of bins moves as that of the book does."""
    n_bins = state.cells.shape[2]
    price = np.empty(n_bins)
    for t in range(len(opened)):
        candle = inputs.candle[inputs.first[t] : inputs.first[t + 1]]
        close_bin = bin_of(candle[-1, CLOSE], rules.bin_width)
        if t == 0:
            state.ints[FIRST_BIN] = close_bin - n_bins // 2
            set_prices(price, state.ints[FIRST_BIN], rules)
        else:
            sweep_both(state, rules, candle, close_bin, price, out.swept[t])
        if needs_recentre(close_bin, state.ints[FIRST_BIN], n_bins):
            recentre(state, close_bin - n_bins // 2 - state.ints[FIRST_BIN])
            set_prices(price, state.ints[FIRST_BIN], rules)
        state.ints[CLOSE_BIN] = close_bin
        if kept[t] < 1.0:
            state.cells[:] *= kept[t]
        low_bin = bin_of(candle[:, LOW].min(), rules.bin_width)
        n_bin = bin_of(candle[:, HIGH].max(), rules.bin_width) - low_bin + 1
        profile = entry_profile(candle, low_bin, n_bin, rules.bin_width)
        close, at = close_bin - state.ints[FIRST_BIN], low_bin - state.ints[FIRST_BIN]
        for s in range(2):
            begin, end = (0, close) if s == 0 else (close + 1, n_bins)
            deposit(state, s, kernels, opened[t] * rules.shares, profile, at, begin, end)
            if out.row[t] >= 0:
                emit(state, s, rules, close, begin, end, price, out, t)


def opens_only(*, wide: bool = False) -> Levels:
    """Return levels that open with rising open interest and stay until they are swept."""
    return Levels("interest", float("inf"), "opens-only, wide" if wide else "opens-only", WIDE if wide else LABELS)


def volume_day(*, wide: bool = False) -> Levels:
    """Return levels of all volume that fade within a day."""
    return Levels("volume", 24.0, "volume 1 d, wide" if wide else "volume 1 d", WIDE if wide else LABELS)


def volume_week() -> Levels:
    """Return levels of all volume that fade within a week, spread wide."""
    return Levels("volume", 168.0, "volume 7 d, wide", WIDE)
