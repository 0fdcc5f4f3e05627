"""Candle series of a market with everything drawn beside them, at the book's step and at coarser intervals."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from estimator.domain import TIME, BoolArray, Float64Array, Int64Array
from estimator.model.steps import Steps

SUMMED: Final = (
    "volume",
    "long_liquidated_usd",
    "short_liquidated_usd",
    "predicted_long_usd",
    "predicted_short_usd",
)
LAST: Final = ("close", "open_interest", "long_short_ratio", "funding_rate")
SERIES: Final = ("open", "high", "low", *LAST, *SUMMED)


def build_series(
    steps: Steps,
    swept_usd: Float64Array,
    step_ms: int,
    candles: pl.DataFrame,
    open_interest: pl.DataFrame,
    long_short_ratio: pl.DataFrame,
    funding_rate: pl.DataFrame,
    liquidations: pl.DataFrame,
    unheard: BoolArray | None = None,
) -> pl.DataFrame:
    """One row per step: candle, what was known at its close, what was liquidated and what the book predicted.

    Parameters
    ----------
    steps : Steps
    swept_usd : Float64Array, shape (n_step, 2)
        Predicted liquidations, longs and shorts. [USD]
    step_ms : int
        Length of a step. [ms]
    candles, open_interest, long_short_ratio, funding_rate, liquidations : pl.DataFrame
        As in `estimator.domain`; all but the candles may be empty.
    unheard : BoolArray, shape (n_step,), optional
        Steps in which prints may have been missed; without, a source that has any prints has all of them.

    Returns
    -------
    pl.DataFrame
        ``time`` (interval start), ``open high low close volume open_interest long_short_ratio funding_rate
        long_liquidated_usd short_liquidated_usd predicted_long_usd predicted_short_usd``. Where prints may have been
        missed, realised liquidations are what was heard, and null where that is nothing.
    """
    silent = np.full(len(steps), liquidations.is_empty()) if unheard is None else unheard
    start = ((pl.col("time").dt.epoch("ms") // step_ms) * step_ms).alias("start")
    rows = pl.DataFrame(
        {
            "start": steps.close_ms - step_ms,
            "predicted_long_usd": swept_usd[:, 0],
            "predicted_short_usd": swept_usd[:, 1],
            "silent": silent,
        }
    )
    merged = candles.group_by(start, maintain_order=True).agg(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.col("volume").sum(),
    )
    rows = rows.join(merged, on="start", how="left", maintain_order="left")
    rows = rows.with_columns((pl.col("start") + step_ms).cast(TIME).alias("time"))
    for known in (open_interest, long_short_ratio, funding_rate):
        rows = rows.join_asof(known.select(pl.col("time").cast(TIME), known.columns[1]), on="time")
    for side in ("long", "short"):
        name = f"{side}_liquidated_usd"
        total = (
            liquidations.filter(pl.col("side") == side).group_by(start).agg(pl.col("notional_usd").sum().alias(name))
        )
        rows = rows.join(total, on="start", how="left", maintain_order="left")
        rows = rows.with_columns(pl.when("silent").then(name).otherwise(pl.col(name).fill_null(0.0)).alias(name))
    return rows.select(pl.col("start").cast(TIME).alias("time"), *(pl.col(n).cast(pl.Float64) for n in SERIES))


def coarsen_series(rows: pl.DataFrame, interval_ms: int) -> pl.DataFrame:
    """Merge rows into intervals of `interval_ms`; sums are null only where every part is."""
    start = ((pl.col("time").dt.epoch("ms") // interval_ms) * interval_ms).cast(TIME).alias("time")
    return rows.group_by(start, maintain_order=True).agg(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        *(pl.col(n).last() for n in LAST),
        *(pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).alias(n) for n in SUMMED),
    )


def level_mask(close_ms: Int64Array, interval_ms: int, keep_ms: int, now_ms: int) -> BoolArray:
    """Which columns a stored level keeps: those on its interval and not too old."""
    kept: BoolArray = (close_ms % interval_ms == 0) & (close_ms > now_ms - keep_ms)
    return kept
