"""Estimating from files, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from estimator.domain import LeverageBracket, Market
from estimator.errors import InputError, ParameterError
from estimator.exchanges.recorded import as_candles, as_open_interest, read_frame
from estimator.model.book import estimate
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import Parameters, Preset


class _Table(BaseModel):
    """An object of the market's file: nothing is converted on the quiet, and no key is left over."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Bracket(_Table):
    notional_floor: float
    max_leverage: float
    maintenance_margin_rate: float
    maintenance_amount: float = 0.0


class _Market(_Table):
    exchange: str
    symbol: str
    contract: Literal["linear", "inverse"]
    brackets: list[_Bracket]
    taker_fee_rate: float = 0.0


def estimate_files(
    candles: Path, open_interest: Path, market: Market, preset: Preset, report: Callable[[float, str], None]
) -> tuple[LiquidationGrid, pl.DataFrame]:
    """Estimate from files and return the grid with the candles it was made of.

    Raises
    ------
    InputError, ParameterError
        Naming what cannot be used, and the file it is in.
    """
    with _naming({"candles": candles, "open_interest": open_interest}):
        report(0.0, f"reading {candles.name}")
        frame = as_candles(read_frame(candles))
        report(0.2, f"reading {open_interest.name}")
        interest = as_open_interest(read_frame(open_interest), frame)
        report(0.4, f"estimating {len(frame)} candles")
        grid = estimate(market, frame, interest, parameters=Parameters.preset(preset))
    report(1.0, f"{len(grid.time)} columns of {grid.n_price} prices")
    return grid, frame


@contextmanager
def _naming(files: Mapping[str, Path]) -> Iterator[None]:
    """Put the file before what is wrong with a frame."""
    try:
        yield
    except InputError as error:
        if error.frame not in files:
            raise
        frame = f"{files[error.frame]}: {error.frame}"
        raise InputError(frame, error.problem, column=error.column, row=error.row, value=error.value) from error


def read_market(path: Path) -> Market:
    """Read a market from JSON: exchange, symbol, contract, brackets and taker_fee_rate.

    Raises
    ------
    InputError
        Naming the file and the first field that cannot be used.
    """
    try:
        given = _Market.model_validate(json.loads(path.read_text(encoding="utf-8")))
        brackets = [LeverageBracket(**bracket.model_dump()) for bracket in given.brackets]
        return Market(given.exchange, given.symbol, given.contract, tuple(brackets), given.taker_fee_rate)
    except ValidationError as error:
        raise InputError(str(path), _problem(error)) from None
    except ParameterError as error:
        raise InputError(str(path), str(error)) from None
    except OSError as error:
        raise InputError(str(path), (error.strerror or str(error)).lower()) from None
    except ValueError as error:
        raise InputError(str(path), f"not JSON: {error}") from None


def _problem(error: ValidationError) -> str:
    """Tell the first fault: where, what was given and what would be accepted."""
    first = error.errors(include_url=False)[0]
    where, kind = ".".join(map(str, first["loc"])), first["type"]
    if not where:
        return "not an object with exchange, symbol, contract and brackets"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "extra_forbidden":
        known = _Bracket if len(first["loc"]) > 1 else _Market
        return f"{where}: there is no such field; known here: {', '.join(known.model_fields)}"
    wanted = first["msg"].removeprefix("Input should be ").replace("dictionary or instance of _Bracket", "object")
    return f"{where}: got {json.dumps(first['input'])[:80]}, expected {wanted}"


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
