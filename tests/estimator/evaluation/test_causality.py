"""Scoring cannot see the future: poisoned later data changes no column of any model, and no score of the past."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from estimator.domain import HOUR_MS, Float64Array, Market
from estimator.evaluation.books import preset
from estimator.evaluation.density import DensityModel, MarketPast
from estimator.evaluation.mixtures import LogPool, Mixture
from estimator.model.margin import brackets_from_max_leverage
from estimator.model.steps import Steps
from estimator.scoring.run import BASELINES, OURS

N_STEP = 400
FROZEN = 300
MARKET = Market("binance", "BTC/USDT:USDT", "linear", brackets_from_max_leverage([(0.0, 100.0)]))
MODELS = (
    *BASELINES,
    *OURS,
    Mixture("mixture", (preset("balanced"), *BASELINES[2:4]), (0.5, 0.3, 0.2)),
    LogPool("pool", (preset("balanced"), *BASELINES[4:6]), (0.5, 0.3, 0.2)),
)


def make_past(seed: int = 3) -> MarketPast:
    rng = np.random.default_rng(seed)
    log_close = np.log(30_000) + np.cumsum(rng.normal(0, 0.006, N_STEP))
    log_open = np.concatenate([log_close[:1], log_close[:-1]])
    spread = rng.exponential(0.003, (2, N_STEP))
    low, high = np.minimum(log_open, log_close) - spread[0], np.maximum(log_open, log_close) + spread[1]
    interest = 50_000 * np.exp(np.cumsum(rng.normal(0, 0.01, N_STEP)))
    candle = np.stack([np.exp(low), np.exp(high), np.exp(log_close), rng.gamma(2, 2_000, N_STEP)], axis=1)
    candle = np.concatenate([candle, candle[:, :2]], axis=1)
    close_ms = (np.arange(N_STEP, dtype=np.int64) + 450_000) * HOUR_MS
    steps = Steps(close_ms, np.arange(N_STEP + 1), np.ascontiguousarray(candle), interest, np.ones((N_STEP, 2)))
    return MarketPast(MARKET, steps, {"funding_rate": rng.normal(0, 1e-5, N_STEP)})


def poisoned(past: MarketPast, after: int) -> MarketPast:
    """The same past with everything after a step made absurd."""
    candle, contracts = past.steps.candle.copy(), past.steps.contracts.copy()
    candle[after + 1 :] *= np.array([0.2, 5.0, 3.0, 100.0, 0.2, 5.0])
    contracts[after + 1 :] *= 50.0
    known = {name: np.where(np.arange(len(v)) > after, np.nan, v) for name, v in past.known.items()}
    return MarketPast(past.market, replace(past.steps, candle=candle, contracts=contracts), known)


def column(model: DensityModel, past: MarketPast, step: int) -> tuple[Float64Array, Float64Array]:
    """One column between prices that hold all of it."""
    emit = np.zeros(len(past.steps), dtype=bool)
    emit[step] = True
    grid = model.densities(past, emit).crop(5_000, 150_000)
    return grid.long_usd[0].astype(np.float64), grid.short_usd[0].astype(np.float64)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_what_happens_later_changes_no_column(model: DensityModel) -> None:
    past = make_past()
    for kept, spoilt in zip(column(model, past, FROZEN), column(model, poisoned(past, FROZEN), FROZEN), strict=True):
        assert kept.sum() > 0
        assert np.array_equal(kept, spoilt)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_a_past_that_ends_at_the_column_gives_the_same_column(model: DensityModel) -> None:
    past = make_past()
    for whole, cut in zip(column(model, past, FROZEN), column(model, past.until(FROZEN + 1), FROZEN), strict=True):
        assert np.array_equal(whole, cut)


@pytest.mark.parametrize(
    "model", [m for m in MODELS if m.name not in ("uniform", "distance", "static")], ids=lambda m: m.name
)
def test_what_happened_before_does_change_the_column(model: DensityModel) -> None:
    past = make_past()
    before = poisoned(past, FROZEN - 50)
    before.steps.candle[FROZEN] = past.steps.candle[FROZEN]
    pairs = zip(column(model, past, FROZEN), column(model, before, FROZEN), strict=True)
    assert any(not np.array_equal(one, two) for one, two in pairs)
