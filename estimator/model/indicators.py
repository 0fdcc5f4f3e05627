"""Technical indicators as Polars expressions: RSI, ATR and realised volatility.

Wilder's smoothing is an exponential mean with ``alpha = 1 / period`` that starts from the plain mean of its first
`period` values. Rows of the warm-up are null. Input columns must be without nulls, sorted by time.

References
----------
.. [1] J. Welles Wilder, *New Concepts in Technical Trading Systems*, 1978.
"""

from __future__ import annotations

import math
from typing import Final

import polars as pl

from estimator.errors import ParameterError

YEAR_MS: Final = 365 * 86_400_000  # perpetuals trade every day


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


def realised_volatility(close: pl.Expr, period: int, interval_ms: int) -> pl.Expr:
    """Annualised standard deviation of log returns over the last `period` returns.

    Parameters
    ----------
    close : pl.Expr
    period : int
        At least 2.
    interval_ms : int
        Time between closes. [ms]

    Returns
    -------
    pl.Expr
        Fraction per square root of a year of 365 days; sample standard deviation. Null in the first `period` rows.

    Raises
    ------
    ParameterError
        If the period is too short or the interval not positive.
    """
    if interval_ms <= 0:
        raise ParameterError("interval_ms", interval_ms, "a time > 0")
    returns = close.log().diff()
    return returns.rolling_std(_checked(period)) * math.sqrt(YEAR_MS / interval_ms)


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
