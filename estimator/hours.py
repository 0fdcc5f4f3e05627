"""The last thirty days of markets by the hour: what signals, volatility and turnover are read from.

The finest stored series that reaches back far enough has a row every half hour; what is older is known every two
hours, so that stocks and rates of every other hour, and flows of all of them, are null there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, TIME, Float64Array, Int64Array
from estimator.model.clusters import near_mass
from estimator.model.combine import combine_venues, complete
from estimator.model.features import BARS, DAY
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.indicators import atr
from estimator.model.rules import SignalRules
from estimator.model.series import SERIES, coarsen_series

FINE, COARSE = 2, 3  # stored levels
HOURS: Final = SignalRules().window + DAY
FINE_COLUMNS_MS: Final = 3 * DAY_MS  # columns of every hour are read for so long, of every other before
EIGHT_HOURS_MS: Final = 8 * HOUR_MS
_STEP_MS: Final = 5 * MINUTE_MS
_STOCKS: Final = ("close", "open_interest", "long_short_ratio", "funding_rate")
_MARGIN: Final = 0.01  # of log price, for the bins at the ends


def funding_8h(status: MarketStatus) -> float | None:
    """Funding per eight hours; None where the rate or its interval is not known."""
    if status.funding_rate is None or not status.funding_interval_ms:
        return None
    return status.funding_rate * EIGHT_HOURS_MS / status.funding_interval_ms


def last_hour(statuses: Sequence[MarketStatus]) -> int:
    """Close of the last full hour that the freshest venue has."""
    return max(s.last_ms for s in statuses) // HOUR_MS * HOUR_MS


def read_hours(cache: Cache, statuses: Sequence[MarketStatus]) -> pl.DataFrame:
    """Read hourly bars of several venues. Blocks.

    Parameters
    ----------
    cache : Cache
    statuses : sequence of MarketStatus
        The first one's candles are shown; funding is per 8 h and, like the account ratio, weighted by open interest.

    Returns
    -------
    pl.DataFrame
        `HOURS` rows as `estimator.model.features.BARS`, and ``high, low, volume``.

    Raises
    ------
    CacheError
    """
    end_ms = last_hour(statuses)
    starts = end_ms + (np.arange(HOURS, dtype=np.int64) - HOURS) * HOUR_MS
    axis = pl.DataFrame({"time": pl.Series(starts).cast(TIME)})
    rows = [_venue_rows(cache, status, axis, int(starts[0]), end_ms) for status in statuses]
    bars = combine_venues(rows, [s.open_interest_base for s in statuses])
    near = _near(cache, statuses, starts + HOUR_MS, bars["close"].fill_null(math.nan).to_numpy(), SignalRules().near)
    liquidated = pl.sum_horizontal("long_liquidated_usd", "short_liquidated_usd", ignore_nulls=False)
    return bars.select(
        (pl.col("time") + pl.duration(hours=1)).cast(TIME),
        *_STOCKS,
        "high",
        "low",
        "volume",
        liquidated_usd=liquidated,
        near_long_usd=pl.Series(near[:, 0]).fill_nan(None),
        near_short_usd=pl.Series(near[:, 1]).fill_nan(None),
    ).select(*BARS, "high", "low", "volume")


def _venue_rows(cache: Cache, status: MarketStatus, axis: pl.DataFrame, start_ms: int, end_ms: int) -> pl.DataFrame:
    """Hourly series of one venue on the axis of starts, funding per 8 h."""
    parts = [_full_hours(cache, status, start_ms, end_ms)]
    oldest = start_ms if parts[0].is_empty() else int(parts[0]["time"].to_physical()[0])
    known = cache.get_series(status.id, COARSE, start_ms, oldest)
    if known is not None:
        shift = pl.duration(milliseconds=LEVELS[COARSE].interval_ms - HOUR_MS)
        stocks = complete(known).with_columns(
            (pl.col("time") + shift).cast(TIME),
            *(pl.lit(None, pl.Float64).alias(n) for n in SERIES if n not in _STOCKS),
        )
        parts.append(stocks)
    per_8h = EIGHT_HOURS_MS / status.funding_interval_ms if status.funding_interval_ms else None
    rows = (
        pl.concat(parts)
        .unique("time", keep="first", maintain_order=True)
        .with_columns(pl.col("funding_rate") * pl.lit(per_8h, pl.Float64))
    )
    return axis.join(rows, on="time", how="left", maintain_order="left")


def _full_hours(cache: Cache, status: MarketStatus, start_ms: int, end_ms: int) -> pl.DataFrame:
    """Hours of which every part is there."""
    stored = cache.get_series(status.id, FINE, start_ms, end_ms)
    if stored is None:
        return pl.DataFrame(schema={"time": TIME} | dict.fromkeys(SERIES, pl.Float64))
    step_ms = max(_STEP_MS, status.interval_ms)  # a source of longer candles has fewer rows than the level could hold
    parts = max(HOUR_MS // max(LEVELS[FINE].interval_ms, step_ms), 1)
    rows = complete(stored).with_columns(pl.col("time").dt.truncate("1h").alias("hour"))
    whole = rows.filter(pl.len().over("hour") >= parts).drop("hour")
    return coarsen_series(whole, HOUR_MS).select("time", *SERIES)


def _near(
    cache: Cache, statuses: Sequence[MarketStatus], closes_ms: Int64Array, price: Float64Array, distance: float
) -> Float64Array:
    """Near mass of every hour whose columns all venues have, shape (n_hour, 2); NaN elsewhere. [USD]"""
    total = np.zeros((len(price), 2))
    for status in statuses:
        mine = np.full((len(price), 2), np.nan)
        for grid in _columns(cache, status, closes_ms[np.isfinite(price)]):
            at = np.searchsorted(closes_ms, _times(grid))
            window = float(price[at].min()), float(price[at].max())
            reach = math.exp(distance + _MARGIN)
            mine[at] = near_mass(grid.crop(window[0] / reach, window[1] * reach), price[at], distance)
        total += mine
    return total


def _columns(cache: Cache, status: MarketStatus, wanted_ms: Int64Array) -> Iterator[LiquidationGrid]:
    """Columns of a venue at some of the times wanted: all of the last days, every other before."""
    if not len(wanted_ms):
        return
    first_ms, last_ms = int(wanted_ms[0]), int(wanted_ms[-1])
    fine_ms = max(last_ms - FINE_COLUMNS_MS, first_ms - 1)
    for level, start_ms, end_ms in ((COARSE, first_ms - 1, fine_ms), (FINE, fine_ms, last_ms)):
        grid = cache.get_columns(status.id, level, start_ms, end_ms) if end_ms > start_ms else None
        if grid is not None and (kept := np.isin(_times(grid), wanted_ms)).any():
            yield grid.pick(kept)


def _times(grid: LiquidationGrid) -> Int64Array:
    return grid.time.astype("datetime64[ms]").astype(np.int64)


def hourly_volatility(bars: pl.DataFrame, hours: int = 72, least: int = 24) -> float | None:
    """Return the standard deviation of the hourly log returns of the last hours; None where too few are known."""
    returns = bars["close"].log().diff().tail(hours).drop_nulls()
    deviation = returns.std() if len(returns) >= least else None
    return deviation if isinstance(deviation, float) and deviation > 0 else None


def daily_volume_base(bars: pl.DataFrame, days: int = 7, least: int = 24) -> float | None:
    """Return the mean volume of a day, from the last days' hours; None where too few are known. [base]"""
    volume = bars["volume"].tail(days * DAY).drop_nulls()
    mean = volume.mean() if len(volume) >= least else None
    return DAY * mean if isinstance(mean, float) and mean > 0 else None


def atr_1h(bars: pl.DataFrame, period: int = 14) -> float | None:
    """Return the average true range of hourly candles; None where too few are known. [quote]"""
    known = bars.drop_nulls(("high", "low", "close"))
    value = (
        known.select(atr(pl.col("high"), pl.col("low"), pl.col("close"), period).last()).item()
        if known.height
        else None
    )
    return value if value is not None and value > 0 else None
