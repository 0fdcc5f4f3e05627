"""Indicators as Polars expressions: RSI, ATR, and where a value stands among its last ones.

Wilder's smoothing is an exponential mean with ``alpha = 1 / period`` that starts from the plain mean of its first
`period` values. Rows of the warm-up are null. Input columns must be without nulls, sorted by time.

References
----------
.. [1] J. Welles Wilder, *New Concepts in Technical Trading Systems*, 1978.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from estimator.errors import ParameterError

_SAME: Final = 1e-9  # relative deviation below which values count as equal


def rsi(close: pl.Expr, period: int = 14) -> pl.Expr:
    """Relative strength index [1]_.

    Parameters
    ----------
    close : pl.Expr
    period : int
        At least 2.

    Returns
    -------
    pl.Expr
        0 .. 100; 0 where nothing has moved. Null in the first `period` rows.

    Raises
    ------
    ParameterError
        If the period is too short.
    """
    change = close.diff()
    gain = _wilder(pl.when(change.is_not_null()).then(change.clip(lower_bound=0.0)), period)
    loss = _wilder(pl.when(change.is_not_null()).then((-change).clip(lower_bound=0.0)), period)
    moved = gain + loss
    return pl.when(moved > 0).then(100 * gain / moved).when(moved.is_not_null()).then(0.0)


def atr(high: pl.Expr, low: pl.Expr, close: pl.Expr, period: int = 14) -> pl.Expr:
    """Average true range [1]_, in the unit of price.

    Parameters
    ----------
    high, low, close : pl.Expr
    period : int
        At least 2.

    Returns
    -------
    pl.Expr
        Null in the first `period` rows: the first candle has no previous close.

    Raises
    ------
    ParameterError
        If the period is too short.
    """
    before = close.shift(1)
    true_range = pl.max_horizontal(high, before) - pl.min_horizontal(low, before)
    return _wilder(pl.when(before.is_not_null()).then(true_range), period)


def z_score(values: pl.Expr, period: int, least: int) -> pl.Expr:
    """Distance from the mean of the last `period` values, in their standard deviations.

    Parameters
    ----------
    values : pl.Expr
        May hold nulls, which do not count.
    period : int
        At least 2; the value itself is one of them.
    least : int
        How many values there must be.

    Returns
    -------
    pl.Expr
        Null where there are fewer, and where they do not differ.

    Raises
    ------
    ParameterError
        If the period is too short.
    """
    mean = values.rolling_mean(_checked(period), min_samples=least)
    deviation = values.rolling_std(period, min_samples=least)
    # A rolling sum keeps rounding errors of what has left it: equal values need not give exactly 0.
    return pl.when(deviation > _SAME * mean.abs()).then((values - mean) / deviation)


def percentile_rank(values: pl.Expr, period: int, least: int) -> pl.Expr:
    """Share of the last `period` values that lie below a value, equal ones counted half.

    Parameters as in `z_score`.

    Returns
    -------
    pl.Expr
        Between 0 and 1, null where there are fewer than `least` values.

    Raises
    ------
    ParameterError
        If the period is too short.
    """
    rank = values.rolling_rank(_checked(period), method="average", min_samples=least)
    known = values.is_not_null().cast(pl.Float64).rolling_sum(period, min_samples=1)
    return pl.when(values.is_not_null()).then((rank - 0.5) / known.round())


def _wilder(values: pl.Expr, period: int) -> pl.Expr:
    """Smooth a column whose first row is null; the first value out is the plain mean of `period` values."""
    row = pl.int_range(pl.len())
    first = values.rolling_mean(_checked(period))
    seeded = pl.when(row == period).then(first).when(row > period).then(values)
    return seeded.ewm_mean(alpha=1 / period, adjust=False, ignore_nulls=True)


def _checked(period: int) -> int:
    if period < 2:  # one value has no spread and no smoothing
        raise ParameterError("period", period, "an integer >= 2")
    return period
