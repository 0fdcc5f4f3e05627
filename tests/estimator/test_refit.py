"""Fitting a market whose history has next to nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from estimator import LeverageBracket, Market
from estimator.domain import MINUTE_MS, TIME
from estimator.errors import InputError
from estimator.history import History, with_market
from estimator.model.parameters import Parameters
from estimator.model.steps import Steps
from estimator.refit import _heard, refit

NOW_MS = 20_400 * 24 * 60 * MINUTE_MS
MARKET = Market("okx", "BTC/USDT:USDT", "linear", (LeverageBracket(0.0, 100.0, 0.004),))


def at(*minutes: int) -> pl.Series:
    return pl.Series([NOW_MS + m * MINUTE_MS for m in minutes], dtype=pl.Int64).cast(TIME)


def hear(history: History) -> None:
    told = pl.DataFrame({"time": at(-10), "what": ["liquidations"], "connected": [True]})
    history.append("connections", with_market(MARKET.id, told))


@pytest.mark.parametrize("minutes", [1, 4, 6])
def test_a_market_that_was_heard_but_has_no_whole_step_has_too_little_to_be_fitted(
    tmp_path: Path, minutes: int
) -> None:
    history = History(tmp_path)
    candles = pl.DataFrame({"time": at(*range(-minutes, 0))}).with_columns(
        pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close", "volume")
    )
    history.append("candles", with_market(MARKET.id, candles))
    interest = pl.DataFrame({"time": at(-20), "open_interest": [1000.0]})
    history.append("open_interest", with_market(MARKET.id, interest))
    hear(history)
    with pytest.raises(InputError):
        refit(history, MARKET, Parameters(), now_ms=NOW_MS)


@pytest.mark.parametrize(("ends", "heard"), [([], []), ([-5], [True]), ([-15, -5, 0], [False, False, True])])
def test_steps_are_heard_from_the_first_connection_on_however_few_they_are(
    tmp_path: Path, ends: list[int], heard: list[bool]
) -> None:
    history, close_ms = History(tmp_path), np.array([NOW_MS + m * MINUTE_MS for m in ends], dtype=np.int64)
    hear(history)
    n = len(ends)
    steps = Steps(close_ms, np.arange(n + 1), np.ones((n, 6)), np.ones(n), np.ones((n, 2)))
    told = _heard(history, MARKET, steps, NOW_MS)
    assert told is not None
    assert (told.dtype, told.tolist()) == (np.dtype(bool), heard)
