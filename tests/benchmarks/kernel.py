"""The position book: one step, thirty days, three hundred markets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter
from typing import Final

import numpy as np
import polars as pl

from estimator import LeverageBracket, Market, PositionBook, estimate
from estimator.domain import TIME
from estimator.model.oracle import OracleBook
from estimator.model.parameters import Parameters
from estimator.model.steps import STEP_MS, Steps, build_steps
from tests.benchmarks.naive import NaiveBook
from tests.benchmarks.report import Result, best_of

DAYS: Final = 30
MARKET: Final = Market("binance", "BTC/USDT:USDT", "linear", (LeverageBracket(0.0, 125.0, 0.004),))
MARKETS: Final = 300
BATCH: Final = 60
PROCESSES: Final = 2
COMPARED: Final = 300  # steps of the slower ways


def frames(seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Thirty days of 5m candles and open interest: a random walk."""
    n, random = DAYS * 288, np.random.default_rng(seed)
    close = 60_000 * np.exp(np.cumsum(random.standard_t(4, n) * 0.0008))
    opened = np.concatenate([close[:1], close[:-1]])
    wick = np.abs(random.normal(0, 0.0005, (2, n)))
    times = 1_760_000_100_000 // STEP_MS * STEP_MS + STEP_MS * np.arange(n + 1)
    candles = {
        "time": pl.Series(times[:-1]).cast(TIME), "open": opened, "high": np.maximum(opened, close) * (1 + wick[0]),
        "low": np.minimum(opened, close) * (1 - wick[1]), "close": close, "volume": random.lognormal(5, 0.7, n),
    }  # fmt: skip
    interest = 1e5 * np.exp(np.cumsum(random.normal(0, 3e-4, n + 1)))
    return pl.DataFrame(candles), pl.DataFrame({"time": pl.Series(times).cast(TIME), "open_interest": interest})


def estimate_one(seed: int) -> float:
    """Estimate one market and return its last total, so that nothing is left out. [USD]"""
    grid = estimate(MARKET, *frames(seed))
    return float(grid.long_usd[-1].sum())


def _per_step(book: OracleBook | NaiveBook, steps: Steps) -> float:
    """Time of a step after the first. [s]"""
    book.step(steps, 0)
    began = perf_counter()
    for t in range(1, COMPARED + 1):
        book.step(steps, t)
    return (perf_counter() - began) / COMPARED


def measure() -> Iterator[Result]:
    """Yield the figures of the kernel."""
    candles, interest = frames(0)
    steps, _ = build_steps(MARKET, candles, interest)
    parameters = Parameters().for_leverage(MARKET.max_leverage)
    emit_last = np.arange(len(steps)) == len(steps) - 1

    def run_all() -> None:
        PositionBook(MARKET, parameters).run(steps, emit=emit_last)

    built = best_of(3, lambda: PositionBook(MARKET, parameters))
    kept = best_of(3, lambda: PositionBook(MARKET, parameters).run(steps)) - built
    step = kept / len(steps)
    unseen = (best_of(3, run_all) - built) / len(steps)
    first_bin = int(np.log(candles["close"][0]) / parameters.bin_width) - parameters.n_bins // 2
    oracle = _per_step(OracleBook(MARKET, parameters, first_bin), steps)
    naive = _per_step(NaiveBook(MARKET, parameters, first_bin), steps)
    ratios = f"{oracle / step:.0f}x faster than the oracle, {naive / step:.0f}x than naive NumPy"
    yield Result("step, 12 buckets x 2 sides x 1600 bins, column written", step * 1e6, "us", ratios, 20)
    yield Result("step without its column", unseen * 1e6, "us")

    grid = estimate(MARKET, candles, interest)
    whole = best_of(3, lambda: estimate(MARKET, candles, interest))
    copied = best_of(3, lambda: (grid.long_usd.copy(), grid.short_usd.copy()))
    megabytes = (grid.long_usd.nbytes + grid.short_usd.nbytes) / 1e6
    yield Result(
        f"estimate() of {len(steps)} candles",
        whole,
        "s",
        f"{whole / copied:.1f} x one copy of its {megabytes:.0f} MB",
        0.2,
    )

    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(estimate_one, range(2 * PROCESSES)))  # processes started, kernels loaded
        began = perf_counter()
        list(pool.map(estimate_one, range(BATCH)))
        batch = perf_counter() - began
    note = f"extrapolated from {BATCH} on {PROCESSES} processes in {batch:.1f} s"
    yield Result(f"{MARKETS} markets x {DAYS} days", batch * MARKETS / BATCH, "s", note, 45)
