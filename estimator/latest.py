"""What markets show now: their open column, and the latest of every venue added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS
from estimator.model.grid import LEVELS, LiquidationGrid, add_grids

NOW_COLUMNS: Final = 6  # how far back a venue's latest column is looked for

Live = tuple[LiquidationGrid, pl.DataFrame]  # the provisional column and the open candle's rows


def by_open_interest(statuses: Iterable[MarketStatus]) -> tuple[MarketStatus, ...]:
    """Sort markets by falling open interest in USD: the first one's price and candles stand for all."""
    return tuple(sorted(statuses, key=lambda s: (-(s.open_interest_base or 0.0) * s.mark_price, s.rank)))


def open_interest_usd(statuses: Sequence[MarketStatus]) -> float | None:
    """Open interest of all venues at the price of the first; None where one of them has none. [USD]"""
    known = [s.open_interest_base for s in statuses if s.open_interest_base is not None]
    return sum(known) * statuses[0].mark_price if len(known) == len(statuses) and sum(known) > 0 else None


def read_day_before(cache: Cache, status: MarketStatus) -> tuple[float | None, float | None]:
    """Return close and open interest of the candle that closed a day before the last column, or up to 2 h earlier."""
    end_ms = status.last_ms - DAY_MS
    rows = cache.get_series(status.id, 0, end_ms - 2 * HOUR_MS, end_ms)
    if rows is None:
        return None, None
    values = (rows[name].fill_nan(None).drop_nulls() for name in ("close", "open_interest"))
    close, interest = (float(v[-1]) if len(v) else None for v in values)
    return close, interest


def read_live(cache: Cache, status: MarketStatus, closed_ms: int) -> Live | None:
    """Read the open column; one that has closed since, or of a venue that fell behind, is none."""
    live = cache.get_live(status.id)
    return (
        live
        if live is not None and int(live[0].time.astype("datetime64[ms]").astype(np.int64)[-1]) > closed_ms
        else None
    )


def read_now(
    cache: Cache, statuses: Sequence[MarketStatus], window: tuple[float, float], lives: Sequence[Live | None]
) -> LiquidationGrid | None:
    """Return the latest column of every venue, added up, with its tiers; None if no venue has one.

    Parameters
    ----------
    cache : Cache
    statuses : sequence of MarketStatus
        The first one's time stands for all.
    window : tuple of float
        Lowest and highest price.
    lives : sequence
        What `read_live` gave for each venue.
    """
    latest = []
    for status, live in zip(statuses, lives, strict=True):
        grid = live[0] if live is not None else None
        if grid is None or grid.tier_source is None:
            start_ms = status.last_ms - NOW_COLUMNS * LEVELS[0].interval_ms
            grid = cache.get_columns(status.id, 0, start_ms, status.last_ms, tiers=True)
            grid = grid.coarsen(1, len(grid.time)) if grid is not None else None  # the last column alone
        if grid is not None:
            latest.append(replace(grid.crop(*window), time=np.array([statuses[0].as_of_ms], dtype="datetime64[ms]")))
    return add_grids(latest) if latest else None
