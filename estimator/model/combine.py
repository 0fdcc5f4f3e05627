"""Series of several venues on one time axis, made into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from estimator.domain import TIME, Float64Array
from estimator.model.indicators import rsi
from estimator.model.series import SERIES, SUMMED

RSI_LENGTH: Final = 14
PRICES: Final = ("open", "high", "low", "close")
STOCKS: Final = ("open_interest",)
WEIGHTED: Final = ("funding_rate", "long_short_ratio")


def complete(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep time and `SERIES`, a column the worker does not write as nulls."""
    missing = [pl.lit(None, pl.Float64).alias(n) for n in SERIES if n not in frame.columns]
    return frame.with_columns(missing).select(
        pl.col("time").cast(TIME), *(pl.col(n).cast(pl.Float64).fill_nan(None) for n in SERIES)
    )


def combine_venues(rows: Sequence[pl.DataFrame], held_base: Sequence[float | None]) -> pl.DataFrame:
    """Candles of the first venue; stocks and flows added, rates weighted by open interest.

    A stock is added only where every venue that reports it has a value: a venue that falls silent must not look like
    a fall.

    Parameters
    ----------
    rows : sequence of pl.DataFrame
        ``time`` and `SERIES` of every venue, all on one axis.
    held_base : sequence of float or None
        Open interest of every venue now, the weight where a row has none. [base]

    Returns
    -------
    pl.DataFrame
        ``time``, `SERIES` and ``rsi``.
    """
    stacked = {n: np.array([r[n].to_numpy() for r in rows], dtype=np.float64) for n in SERIES}
    held = np.array([[h or 0.0] for h in held_base])
    weight = np.where(np.isfinite(stacked["open_interest"]), stacked["open_interest"], held)
    out = {n: stacked[n][0] for n in PRICES}
    out |= {n: _sum_known(stacked[n], strict=n in STOCKS) for n in (*STOCKS, *SUMMED)}
    out |= {n: _weighted_mean(stacked[n], weight) for n in WEIGHTED}
    frame = pl.DataFrame({n: out[n] for n in SERIES}).fill_nan(None)
    frame = frame.select(rows[0]["time"], *SERIES)
    # A missing candle neither moves the index nor has one.
    known = frame.drop_nulls("close").select("time", rsi=rsi(pl.col("close"), RSI_LENGTH))
    return frame.join(known, on="time", how="left", maintain_order="left")


def _sum_known(values: Float64Array, *, strict: bool) -> Float64Array:
    known = np.isfinite(values)
    reporting = known.any(axis=1)
    total = np.where(known, values, 0.0).sum(axis=0)
    enough = known[reporting].all(axis=0) if strict and reporting.any() else known.any(axis=0)
    out: Float64Array = np.where(enough, total, np.nan)
    return out


def _weighted_mean(values: Float64Array, weight: Float64Array) -> Float64Array:
    known = np.isfinite(values) & (weight > 0)
    total = np.where(known, weight, 0.0).sum(axis=0)
    mean = np.where(known, values * weight, 0.0).sum(axis=0) / np.where(total > 0, total, 1.0)
    out: Float64Array = np.where(total > 0, mean, np.nan)
    return out
