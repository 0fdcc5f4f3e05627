"""Indicators agree with TA-Lib, warm-up included; ranks and z-scores look back only, and only at what is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import Float64Array
from estimator.errors import ParameterError
from estimator.model.indicators import atr, percentile_rank, rsi, z_score

TOLERANCE = 1e-9


def _candles(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    wick = np.abs(rng.normal(0, 0.004, (2, n)))
    previous = np.r_[60_000, close[:-1]]
    high = np.maximum(close, previous) * (1 + wick[0])
    low = np.minimum(close, previous) * (1 - wick[1])
    return pl.DataFrame({"high": high, "low": low, "close": close})


def _evaluated(frame: pl.DataFrame, expression: pl.Expr) -> Float64Array:
    return frame.select(expression.cast(pl.Float64)).to_series().to_numpy()


@pytest.mark.parametrize("period", [2, 5, 14, 50])
@pytest.mark.parametrize("length", [3, 15, 600])
def test_rsi_is_that_of_talib(period: int, length: int) -> None:
    frame = _candles(length, seed=period)
    expected = talib.RSI(frame["close"].to_numpy(), period)
    np.testing.assert_allclose(_evaluated(frame, rsi(pl.col("close"), period)), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("period", [2, 5, 14, 50])
@pytest.mark.parametrize("length", [3, 15, 600])
def test_atr_is_that_of_talib(period: int, length: int) -> None:
    frame = _candles(length, seed=period)
    high, low, close = (frame[c].to_numpy() for c in ("high", "low", "close"))
    found = _evaluated(frame, atr(pl.col("high"), pl.col("low"), pl.col("close"), period))
    np.testing.assert_allclose(found, talib.ATR(high, low, close, period), rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize(("path", "expected"), [("rising", 100.0), ("falling", 0.0), ("flat", 0.0)])
def test_rsi_of_a_one_way_market_is_at_its_end(path: str, expected: float) -> None:
    close = {"rising": np.arange(1.0, 31.0), "falling": np.arange(31.0, 1.0, -1.0), "flat": np.full(30, 5.0)}[path]
    found = _evaluated(pl.DataFrame({"close": close}), rsi(pl.col("close")))
    assert np.isnan(found[:14]).all()
    np.testing.assert_array_equal(found[14:], expected)
    np.testing.assert_array_equal(talib.RSI(close, 14)[14:], expected)


@given(st.lists(st.floats(1.0, 1e5), min_size=20, max_size=60), st.floats(1e-3, 1e3))
def test_rsi_does_not_depend_on_the_unit_of_price(prices: list[float], unit: float) -> None:
    frame = pl.DataFrame({"close": prices}, schema={"close": pl.Float64})
    there = _evaluated(frame, rsi(pl.col("close")))
    np.testing.assert_allclose(_evaluated(frame, rsi(pl.col("close") * unit)), there, atol=1e-6)
    assert ((there[14:] >= 0) & (there[14:] <= 100)).all()


def test_a_rank_counts_equal_values_half_and_a_z_score_of_equal_values_is_not_known() -> None:
    frame = pl.DataFrame({"a": [5.0, 1.0, 2.0, 2.0, 2.0, None, 9.0], "same": [0.1] * 7})
    told = frame.select(
        rank=percentile_rank(pl.col("a"), 4, 2),
        level=percentile_rank(pl.col("same"), 4, 2),
        z=z_score(pl.col("same"), 4, 2),
    )
    assert told["rank"].to_list() == pytest.approx([None, 0.25, 0.5, 0.5, 0.625, None, 5 / 6])
    assert told["level"].to_list()[1:] == pytest.approx([0.5] * 6)
    assert told["z"].null_count() == 7


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=30))
def test_a_z_score_is_that_of_the_last_values(values: list[float]) -> None:
    (z,) = pl.DataFrame({"a": values}).select(z_score(pl.col("a"), 5, 5)).to_series().tail(1)
    tail = np.array(values[-5:])
    deviation = tail.std(ddof=1)
    if deviation > 1e-3:
        assert z == pytest.approx((tail[-1] - tail.mean()) / deviation, rel=1e-3, abs=1e-3)


def test_a_period_that_means_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="period"):
        rsi(pl.col("close"), 1)
