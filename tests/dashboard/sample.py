"""A small made-up set of markets, put into a real cache: what the pages and their tests are drawn from.

Prices are a random walk and the venues shares of one market; levels are the estimator's own over that history. Nothing
here says anything about a real market, and its origin says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as memoised
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from filelock import FileLock
from numpy.typing import NDArray

from estimator import LeverageBracket, LiquidationGrid, Market, estimate
from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, TIME, Float64Array, Gap, Int64Array, Liquidation, Origin, Side
from estimator.model.grid import LEVELS
from estimator.redis_server import BundledServer

STEP_MS: Final = 5 * MINUTE_MS
LAST_MS: Final = 1_768_487_400_000  # 2026-01-15 14:30 UTC, the last closed 5m column
AS_OF_MS: Final = LAST_MS + 127_000
GAP: Final = Gap(LAST_MS - 3 * HOUR_MS, LAST_MS - 2 * HOUR_MS - 30 * MINUTE_MS, "candles")
COINS: Final = {"BTC": (96_000.0, 90_000.0, 0.024), "ETH": (3_300.0, 1_900_000.0, 0.034)}  # price, OI, daily volatility
SHARES: Final = {"binance": 0.5, "bybit": 0.3, "okx": 0.2}
FINE_DAYS: Final = 9
COARSE_DAYS: Final = 366
COARSE_MS: Final = 2 * HOUR_MS
KEPT: Final = "LIQHEAT_TEST_SAMPLES"  # names the folder in which a run of tests keeps its samples


@dataclass(frozen=True)
class Walk:
    """A made-up history of one coin at one interval."""

    step_ms: int
    candles: pl.DataFrame
    open_interest: pl.DataFrame


def _candles(
    start_ms: int, close: Float64Array, step_ms: int, volume: float, random: np.random.Generator
) -> pl.DataFrame:
    opened = np.concatenate([close[:1], close[:-1]])
    wick = np.abs(random.normal(0, 0.35, (2, len(close)))) * np.std(np.diff(np.log(close))) * close
    return pl.DataFrame(
        {
            "time": pl.Series(start_ms + np.arange(len(close), dtype=np.int64) * step_ms).cast(TIME),
            "open": opened,
            "high": np.maximum(opened, close) + wick[0],
            "low": np.minimum(opened, close) - wick[1],
            "close": close,
            "volume": volume * random.lognormal(0, 0.5, len(close)),
        }
    )


def _walk(price: float, held: float, sigma: float, step_ms: int, days: int, random: np.random.Generator) -> Walk:
    """A history that ends at `price` at `LAST_MS`."""
    last = LAST_MS // step_ms * step_ms
    n = days * DAY_MS // step_ms
    moves = random.standard_t(4, n) * sigma * np.sqrt(step_ms / DAY_MS) / np.sqrt(2)
    close = price * np.exp(np.cumsum(moves) - moves.sum())
    times = last - n * step_ms + np.arange(n + 1, dtype=np.int64) * step_ms
    swing = np.cumsum(random.normal(0, 0.0015 * np.sqrt(step_ms / STEP_MS), n + 1))
    interest = pl.DataFrame(
        {"time": pl.Series(times).cast(TIME), "open_interest": held * np.exp(0.05 * np.tanh(8 * swing))}
    )
    return Walk(step_ms, _candles(int(times[0]), close, step_ms, held * step_ms / DAY_MS, random), interest)


@memoised
def _walks(coin: str) -> tuple[Walk, Walk]:
    price, held, sigma = COINS[coin]
    random = np.random.default_rng(len(coin) + ord(coin[0]))
    coarse = _walk(price, held, sigma, COARSE_MS, COARSE_DAYS, random)
    # The fine path ends where the coarse one does; the two agree on the present, which is all a page compares.
    fine = _walk(price, held, sigma, STEP_MS, FINE_DAYS, random)
    return fine, coarse


def sample_market(exchange: str, coin: str) -> Market:
    """A linear perpetual with one maintenance tier."""
    return Market(exchange, f"{coin}/USDT:USDT", "linear", (LeverageBracket(0.0, 125.0, 0.004),))


@memoised
def _grid(coin: str, level: int) -> LiquidationGrid:
    fine, coarse = _walks(coin)
    walk = fine if LEVELS[level].interval_ms < COARSE_MS else coarse
    grid = estimate(
        sample_market("binance", coin),
        walk.candles,
        walk.open_interest,
        step_ms=walk.step_ms,
        every_ms=LEVELS[level].interval_ms,
    )
    keep = grid.time >= np.datetime64(LAST_MS - LEVELS[level].keep_ms, "ms")
    grid = grid.coarsen(LEVELS[level].price_factor)
    parts = [tuple(a[keep] for a in (grid.tier_usd(Side.LONG, t), grid.tier_usd(Side.SHORT, t))) for t in grid.tiers]
    return LiquidationGrid(
        grid.time[keep], grid.first_bin, grid.bin_width, grid.long_usd[keep], grid.short_usd[keep],
        tier_source=lambda i: (parts[i][0], parts[i][1]),
    )  # fmt: skip


def _share(grid: LiquidationGrid, share: float, keep: NDArray[Any] | None = None) -> LiquidationGrid:
    rows = slice(None) if keep is None else keep
    source = grid.tier_source
    assert source is not None
    factor = np.float32(share)
    return LiquidationGrid(
        grid.time[rows], grid.first_bin, grid.bin_width, grid.long_usd[rows] * factor, grid.short_usd[rows] * factor,
        tier_source=lambda i: (source(i)[0][rows] * factor, source(i)[1][rows] * factor),
    )  # fmt: skip


@memoised
def _series(coin: str, level: int) -> pl.DataFrame:
    fine, coarse = _walks(coin)
    step = LEVELS[level].interval_ms
    walk = fine if step < COARSE_MS else coarse
    merged = (
        walk.candles.group_by_dynamic("time", every=f"{step}ms")
        .agg(pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close"), pl.sum("volume"))
        .filter(pl.col("time").dt.epoch("ms") + step <= LAST_MS)
    )
    times = merged["time"].dt.epoch("ms").to_numpy()
    interest = np.interp(
        times + step,
        walk.open_interest["time"].dt.epoch("ms").to_numpy(),
        walk.open_interest["open_interest"].to_numpy(),
    )
    turn = np.sin(times / DAY_MS * 2)
    fall = np.maximum(-np.diff(np.log(merged["close"].to_numpy()), prepend=np.nan), 0)
    rise = np.maximum(np.diff(np.log(merged["close"].to_numpy()), prepend=np.nan), 0)
    return merged.with_columns(
        open_interest=pl.Series(interest),
        long_short_ratio=pl.Series(1.6 + 0.4 * turn),
        funding_rate=pl.Series(1e-4 + 1.5e-4 * turn),
        long_liquidated_usd=pl.Series(np.nan_to_num(fall) * 4e8),
        short_liquidated_usd=pl.Series(np.nan_to_num(rise) * 4e8),
        predicted_long_usd=pl.Series(np.nan_to_num(fall) * 6e8),
        predicted_short_usd=pl.Series(np.nan_to_num(rise) * 6e8),
    )


def _prints(coin: str, exchange: str, share: float) -> list[Liquidation]:
    rows = _series(coin, 0).filter(pl.col("time").dt.epoch("ms") >= LAST_MS - 2 * DAY_MS)
    out = []
    for row in rows.iter_rows(named=True):
        time_ms = int(row["time"].timestamp() * 1000) + 1000 + len(exchange) * 7
        for side, price in ((Side.LONG, row["low"]), (Side.SHORT, row["high"])):
            usd = row[f"{side}_liquidated_usd"] * share
            if usd > 0:
                out.append(Liquidation(time_ms, side, price, usd / price, usd))
    return out


def sample_status(exchange: str, coin: str, rank: int, *, version: int = 1) -> MarketStatus:
    """The status of one made-up market."""
    series = _series(coin, 0)
    return MarketStatus(
        exchange=exchange, symbol=f"{coin}/USDT:USDT", base=coin, contract="linear", max_leverage=125.0,
        origin=Origin.SIMULATED, source="made-up random walk for tests", rank=rank, as_of_ms=AS_OF_MS - 400 * rank,
        mark_price=float(series["close"][-1]) * 1.0008, interval_ms=STEP_MS, first_ms=LAST_MS - COARSE_DAYS * DAY_MS,
        last_ms=LAST_MS, provisional_until_ms=LAST_MS - (COARSE_DAYS - 30) * DAY_MS,
        open_interest_base=float(series["open_interest"][-1]) * SHARES[exchange], long_short_ratio=1.7,
        funding_rate=1.2e-4, gaps=(GAP,) if exchange == "okx" else (), preset="balanced", progress=1.0, version=version,
        funding_interval_ms=8 * HOUR_MS, maintenance_margin_rate=0.004, maintenance_fee_rate=0.0, has_prints=True,
    )  # fmt: skip


def _live(coin: str, share: float, price: float) -> tuple[LiquidationGrid, pl.DataFrame]:
    last = _share(_grid(coin, 0), share, np.array([len(_grid(coin, 0).time) - 1]))
    series = _series(coin, 0).tail(1)
    close = float(series["close"][0])
    row = series.with_columns(
        time=pl.lit(LAST_MS).cast(pl.Int64).cast(TIME), open=pl.lit(close), close=pl.lit(price),
        high=pl.lit(max(close, price) * 1.0002), low=pl.lit(min(close, price) * 0.9997),
    )  # fmt: skip
    return replace(last, time=np.array([AS_OF_MS], dtype="datetime64[ms]")), row


def _scaled(series: pl.DataFrame, share: float) -> pl.DataFrame:
    return series.with_columns(pl.col("^(volume|open_interest|.*_usd)$") * share)


def fill_cache(
    cache: Cache, *, levels: Sequence[int] = range(len(LEVELS)), coins: Sequence[str] = tuple(COINS)
) -> None:
    """Put BTC and ETH of three venues into `cache`: every level, series, prints, the live column and statuses.

    OKX lacks `GAP` at the finest level. Pass fewer `levels` for a faster test.
    """
    for rank, (coin, exchange) in enumerate((c, e) for c in coins for e in SHARES):
        share, status = SHARES[exchange], sample_status(exchange, coin, rank)
        cache.put_status(status)
        for level in levels:
            _put_level(cache, status.id, coin, level, share, gap=GAP if exchange == "okx" and level == 0 else None)
        grid, row = _live(coin, share, status.mark_price)
        cache.put_live(status.id, grid, _scaled(row, share))
        cache.add_liquidations(status.id, _prints(coin, exchange, share))
    cache.put_progress(1.0, "ready")


def _put_level(cache: Cache, market_id: str, coin: str, level: int, share: float, gap: Gap | None) -> None:
    grid, series = _grid(coin, level), _scaled(_series(coin, level), share)
    close: Int64Array = grid.time.astype("datetime64[ms]").astype(np.int64)
    keep = np.ones(len(close), dtype=bool)
    if gap is not None:
        keep = (close <= gap.start_ms) | (close > gap.end_ms)
        start = pl.col("time").dt.epoch("ms")
        series = series.filter((start < gap.start_ms) | (start >= gap.end_ms))
    cache.put_columns(market_id, level, _share(grid, share, keep))
    cache.put_series(market_id, level, series)


@contextmanager
def sample_server(
    folder: Path, *, levels: Sequence[int] = range(len(LEVELS)), coins: Sequence[str] = tuple(COINS)
) -> Iterator[str]:
    """The bundled server with the sample in it; yields its URL.

    Within a run of tests a sample is made once, and each server starts from a copy of its files.
    """
    kept = os.environ.get(KEPT)
    if kept is not None:
        files = Path(kept, f"{'-'.join(coins)}-{''.join(map(str, levels))}")
        with FileLock(f"{files}.lock"):
            if not files.exists():
                made = Path(tempfile.mkdtemp(dir=kept))
                with _filled(made, levels, coins):
                    pass
                made.rename(files)
        shutil.copytree(files / "redis" / "appendonlydir", folder / "redis" / "appendonlydir")
        with BundledServer(folder) as server:
            yield server.url
    else:
        with _filled(folder, levels, coins) as url:
            yield url


@contextmanager
def _filled(folder: Path, levels: Sequence[int], coins: Sequence[str]) -> Iterator[str]:
    with BundledServer(folder) as server:
        cache = Cache(server.url)
        fill_cache(cache, levels=levels, coins=coins)
        cache.close()
        yield server.url
