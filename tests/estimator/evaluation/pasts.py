"""Random pasts for the tests of scoring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from estimator.domain import HOUR_MS, Market
from estimator.evaluation.density import MarketPast
from estimator.model.margin import brackets_from_max_leverage
from estimator.model.steps import Steps

N_STEP = 240
START_MS = 450_000 * HOUR_MS
MARKET = Market("binance", "BTC/USDT:USDT", "linear", brackets_from_max_leverage([(0.0, 100.0)]))


def make_past(seed: int = 3) -> MarketPast:
    """Hourly steps of a random walk."""
    rng = np.random.default_rng(seed)
    log_close = np.log(30_000) + np.cumsum(rng.normal(0, 0.006, N_STEP))
    log_open = np.concatenate([log_close[:1], log_close[:-1]])
    spread = rng.exponential(0.003, (2, N_STEP))
    low, high = np.minimum(log_open, log_close) - spread[0], np.maximum(log_open, log_close) + spread[1]
    interest = 50_000 * np.exp(np.cumsum(rng.normal(0, 0.01, N_STEP)))
    candle = np.stack([np.exp(low), np.exp(high), np.exp(log_close), rng.gamma(2, 2_000, N_STEP)], axis=1)
    candle = np.ascontiguousarray(np.concatenate([candle, candle[:, :2]], axis=1))
    close_ms = START_MS + (np.arange(N_STEP, dtype=np.int64) + 1) * HOUR_MS
    steps = Steps(close_ms, np.arange(N_STEP + 1), candle, interest, np.ones((N_STEP, 2)))
    return MarketPast(MARKET, steps, {"funding_rate": rng.normal(0, 1e-5, N_STEP)})


def poisoned(past: MarketPast, after: int) -> MarketPast:
    """The same past with everything after a step made absurd."""
    candle, contracts = past.steps.candle.copy(), past.steps.contracts.copy()
    candle[after + 1 :] *= np.array([0.2, 5.0, 3.0, 100.0, 0.2, 5.0])
    contracts[after + 1 :] *= 50.0
    known = {name: np.where(np.arange(len(v)) > after, np.nan, v) for name, v in past.known.items()}
    return MarketPast(past.market, replace(past.steps, candle=candle, contracts=contracts), known)
