"""Made-up markets and random walks for tests of the kernel."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
from hypothesis import strategies as st

from estimator.domain import TIME, ContractType, LeverageBracket, Market
from estimator.model.steps import Steps

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def market(contract: ContractType = "linear", exchange: str = "binance", maintenance: float = 0.004) -> Market:
    """A market of one bracket."""
    symbol = "BTC/USDT:USDT" if contract == "linear" else "BTC/USD:BTC"
    return Market(exchange, symbol, contract, (LeverageBracket(0, 125, maintenance),), taker_fee_rate=0.0005)


def candles(n: int, seed: int, price: float = 60_000.0, minutes: int = 5, swing: float = 0.0015) -> pl.DataFrame:
    """A random walk with fat tails."""
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.standard_t(4, n) * swing))
    open_ = np.concatenate([[price], close[:-1]])
    high = np.maximum(open_, close) * (1 + np.abs(rng.normal(0, swing / 2, n)))
    low = np.minimum(open_, close) * (1 - np.abs(rng.normal(0, swing / 2, n)))
    time = pl.datetime_range(START, START + dt.timedelta(minutes=minutes * (n - 1)), f"{minutes}m", eager=True)
    return pl.DataFrame(
        {
            "time": time.cast(TIME),
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": rng.gamma(2, 500, n),
        }
    )


def interest(frame: pl.DataFrame, seed: int, level: float = 80_000.0, swing: float = 2e-3) -> pl.DataFrame:
    """Open interest known at the start of every candle."""
    rng = np.random.default_rng(seed + 1)
    walk = level * np.exp(np.cumsum(rng.normal(0, swing, len(frame))))
    return pl.DataFrame({"time": frame["time"], "open_interest": walk})


@st.composite
def walks(draw: st.DrawFn, min_steps: int = 3, max_steps: int = 40) -> Steps:
    """Steps of one to three sub-candles around a walk that may jump, with open interest that may vanish."""
    n = draw(st.integers(min_steps, max_steps))
    seed = draw(st.integers(0, 2**32 - 1))
    swing = draw(st.sampled_from([1e-4, 2e-3, 3e-2]))
    rng = np.random.default_rng(seed)
    subs = rng.integers(1, 4, n)
    first = np.concatenate([[0], np.cumsum(subs)]).astype(np.int64)
    close = draw(st.sampled_from([0.01, 1.0, 63_000.0])) * np.exp(np.cumsum(rng.standard_t(3, first[-1]) * swing))
    up, down = np.exp(np.abs(rng.normal(0, swing, (2, first[-1]))))
    volume = np.where(rng.random(first[-1]) < 0.1, 0.0, rng.gamma(2, 300, first[-1]))
    flat = rng.random(first[-1]) < 0.1
    low, high = np.where(flat, close, close / down), np.where(flat, close, close * up)
    contracts = 50_000 * np.exp(np.cumsum(rng.normal(0, 0.03, n)))
    contracts[rng.random(n) < 0.03] = 0.0
    return Steps(
        close_ms=(np.arange(n, dtype=np.int64) + 1) * 300_000,
        first=first,
        candle=np.stack([low, high, close, volume, low, high], axis=1),
        contracts=contracts,
        at_risk=np.ones((n, 2)),
    )
