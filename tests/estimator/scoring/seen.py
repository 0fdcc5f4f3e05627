"""A made-up market as it was seen: candles, columns as the book makes them, and prints along the way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache as memoised
from typing import Any

import numpy as np
import polars as pl

from estimator.domain import HOUR_MS, TIME, Int64Array, Side
from estimator.evaluation.events import Prints
from estimator.model.book import PositionBook
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import Parameters
from estimator.model.steps import Steps, build_steps
from estimator.scoring.evidence import STEP_MS, Evidence
from tests.estimator.model.markets import START, candles, interest, market

DAYS = 6
T0 = int(START.timestamp() * 1000)
END_MS = T0 + DAYS * 24 * HOUR_MS


@memoised
def walk() -> tuple[pl.DataFrame, pl.DataFrame, Steps]:
    """Candles, open interest and steps."""
    frame = candles(DAYS * 48, 5, minutes=30, swing=0.004)
    held = interest(frame, 5)
    steps, _ = build_steps(market(), frame, held, step_ms=STEP_MS)
    return frame, held, steps


def columns(parameters: Parameters | None = None) -> LiquidationGrid:
    """What a book with these parameters shows at full hours."""
    steps = walk()[2]
    grid, _ = PositionBook(market(), parameters).run(steps, tiers=True, emit=steps.close_ms % HOUR_MS == 0)
    return grid


def prints_frame(seed: int = 11, each: int = 3) -> pl.DataFrame:
    """Prints inside of every candle, longs below its open and shorts above."""
    rng = np.random.default_rng(seed)
    rows = []
    for start, open_, low, high in walk()[0].select("time", "open", "low", "high").iter_rows():
        for price in rng.uniform(low, high, each):
            time = int(start.timestamp() * 1000) + int(rng.integers(1, STEP_MS))
            usd = float(rng.lognormal(10, 1))
            rows.append((time, (Side.LONG if price < open_ else Side.SHORT).value, price, usd / price, usd))
    names = ("time", "side", "price", "quantity_base", "notional_usd")
    frame = pl.DataFrame(sorted(rows), schema=names, orient="row")
    return frame.with_columns(pl.col("time").cast(TIME))


def prints() -> Prints:
    """The same as scoring takes them."""
    frame = prints_frame()
    sign = np.where(frame["side"] == "long", 1, -1).astype(np.int64)
    return Prints(
        frame["time"].to_physical().to_numpy(), sign, frame["price"].to_numpy(), frame["notional_usd"].to_numpy()
    )


def evidence(**other: Any) -> Evidence:
    """All of it, every column shown two seconds after its close."""
    frame, held, _ = walk()
    grid = columns()
    made = Evidence(market(), frame, held, prints(), None, grid, closes(grid) + 2_000, ("v1",) * len(grid.time))
    return replace(made, **other)


def closes(grid: LiquidationGrid | None) -> Int64Array:
    """Close times of columns. [ms]"""
    assert grid is not None
    return grid.time.astype("datetime64[ms]").astype(np.int64)
