"""Indicators on candles."""

from __future__ import annotations

import polars as pl


def rsi(close: pl.Series, length: int = 14) -> pl.Series:
    """Relative strength index after Wilder.

    The first average is the plain mean of the first `length` moves, as in J. W. Wilder, New Concepts in Technical
    Trading Systems (1978). A missing close is skipped: it neither moves the average nor has a value.

    Parameters
    ----------
    close : polars.Series, shape (n,)
    length : int
        Period; the first `length` values are null.

    Returns
    -------
    polars.Series, shape (n,)
        0..100, 100 where nothing fell; 50 where nothing moved.
    """
    known = close.drop_nulls()
    move = known.diff()
    gain, loss = (_wilder(part, length) for part in (move.clip(lower_bound=0), (-move).clip(lower_bound=0)))
    total = gain + loss
    value = pl.select(pl.when(total > 0).then(100 * gain / total).when(total == 0).then(50.0)).to_series()
    at = close.is_not_null().arg_true()
    out = pl.Series([None] * len(close), dtype=pl.Float64)
    return out.scatter(at, value) if len(known) else out


def _wilder(part: pl.Series, length: int) -> pl.Series:
    """Wilder's average: seeded with the mean of the first `length` moves, then ``ewm_mean(alpha=1/length)``."""
    if len(part) <= length:
        return pl.Series([None] * len(part), dtype=pl.Float64)
    seeded = pl.concat([pl.Series([part[1 : length + 1].mean()], dtype=pl.Float64), part[length + 1 :].cast(pl.Float64)])
    smooth = seeded.ewm_mean(alpha=1 / length, adjust=False)
    return pl.concat([pl.Series([None] * length, dtype=pl.Float64), smooth])
