"""Realised liquidations of a view: prints of its venues, totals of a day, and who reports any at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, LIQUIDATIONS, Side

MAX_PRINTS: Final = 1_000_000  # per venue, more than the cache keeps
MAX_SHOWN: Final = 5000


def read_prints(cache: Cache, statuses: Sequence[MarketStatus], start_ms: int, end_ms: int) -> pl.DataFrame:
    """Every print of the venues, with ``exchange`` and ``time_ms``, by time."""
    parts = []
    for status in statuses:
        prints = cache.get_liquidations(status.id, start_ms, end_ms, limit=MAX_PRINTS).select(*LIQUIDATIONS)
        parts.append(prints.with_columns(exchange=pl.lit(status.exchange), time_ms=pl.col("time").dt.epoch("ms")))
    return pl.concat(parts).sort("time_ms", maintain_order=True)


def largest(prints: pl.DataFrame) -> pl.DataFrame:
    """Keep the largest `MAX_SHOWN`, by time."""
    return prints.top_k(MAX_SHOWN, by="notional_usd").sort("time_ms") if prints.height > MAX_SHOWN else prints


def day_totals(prints: pl.DataFrame, end_ms: int, reporting: Sequence[str]) -> pl.DataFrame:
    """Realised liquidations of the last 24 h by venue.

    A venue that reports none at all has no row: nothing known is not nothing liquidated.
    """
    last = prints.filter(pl.col("time_ms").is_between(end_ms - DAY_MS, end_ms, closed="right"))
    sums = [pl.col("notional_usd").filter(pl.col("side") == s).sum().alias(f"{s}_usd") for s in Side]
    venues = pl.DataFrame({"exchange": reporting}, schema={"exchange": pl.String})
    known = last.group_by("exchange").agg(sums)
    return venues.join(known, on="exchange", how="left", maintain_order="left").fill_null(0.0)


def largest_of_day(prints: pl.DataFrame, end_ms: int) -> dict[str, object] | None:
    """Return the largest print of the last 24 h."""
    top = prints.filter(pl.col("time_ms") > end_ms - DAY_MS).top_k(1, by="notional_usd").drop("time")
    return next(iter(top.to_dicts()), None)


def reporting_venues(rows: Sequence[pl.DataFrame], prints: pl.DataFrame, statuses: Sequence[MarketStatus]) -> list[str]:
    """Venues that report liquidations: as prints, or as totals of candles."""
    printed = set(prints["exchange"].unique())
    pairs = zip(statuses, rows, strict=True)
    return [s.exchange for s, r in pairs if s.exchange in printed or r["long_liquidated_usd"].count() > 0]
