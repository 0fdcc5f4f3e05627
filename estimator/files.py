"""Estimating from files, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from estimator.domain import LeverageBracket, Market
from estimator.errors import InputError
from estimator.exchanges.recorded import as_candles, as_open_interest, read_frame
from estimator.model.book import estimate
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import Parameters, Preset


def estimate_files(
    candles: Path, open_interest: Path, market: Path, preset: Preset, report: Callable[[float, str], None]
) -> tuple[LiquidationGrid, pl.DataFrame]:
    """Estimate from files and return the grid with the candles it was made of.

    Raises
    ------
    InputError, ParameterError
        Naming what cannot be used.
    """
    report(0.0, f"reading {candles.name}")
    frame = as_candles(read_frame(candles))
    report(0.2, f"reading {open_interest.name}")
    interest = as_open_interest(read_frame(open_interest), frame)
    report(0.4, f"estimating {len(frame)} candles")
    grid = estimate(read_market(market), frame, interest, parameters=Parameters.preset(preset))
    report(1.0, f"{len(grid.time)} columns of {grid.n_price} prices")
    return grid, frame


def read_market(path: Path) -> Market:
    """Read a market from JSON: exchange, symbol, contract, brackets and taker_fee_rate.

    Raises
    ------
    InputError
        If the file is not such an object.
    """
    try:
        fields = json.loads(path.read_text())
        brackets = tuple(LeverageBracket(**b) for b in fields.pop("brackets"))
        return Market(brackets=brackets, **fields)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError("market", f"{path} is not a market: {error}") from error


def write_grid(grid: LiquidationGrid, path: Path) -> int:
    """Write the cells that hold anything as Parquet and return their number.

    Columns: ``time``, ``price_low``, ``price_high``, ``long_usd``, ``short_usd``.
    """
    row, column = np.nonzero((grid.long_usd > 0) | (grid.short_usd > 0))
    edges = grid.price_edges
    frame = pl.DataFrame(
        {
            "time": pl.Series(grid.time[row]).dt.replace_time_zone("UTC"),
            "price_low": edges[column],
            "price_high": edges[column + 1],
            "long_usd": grid.long_usd[row, column],
            "short_usd": grid.short_usd[row, column],
        }
    )
    frame.write_parquet(path)
    return len(frame)
