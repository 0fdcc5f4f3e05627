"""Forced liquidations of the past as a frame."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from estimator.domain import LIQUIDATIONS, Liquidation
from estimator.exchanges.edge import Health, plausible_liquidation


def prints_frame(
    prints: Iterable[Liquidation], since_ms: int, until_ms: int, now_ms: int, health: Health
) -> pl.DataFrame:
    """Return `LIQUIDATIONS` of ``since_ms <= time < until_ms``, sorted; what cannot be is counted and left out."""
    kept = [p for p in prints if plausible_liquidation(p, now_ms, health) and since_ms <= p.time_ms < until_ms]
    kept.sort(key=lambda p: p.time_ms)
    records = [(p.time_ms, p.side.value, p.price, p.quantity_base, p.notional_usd) for p in kept]
    table = pl.DataFrame(records, schema={**LIQUIDATIONS, "time": pl.Int64()}, orient="row")
    return table.with_columns(pl.from_epoch("time", time_unit="ms").dt.replace_time_zone("UTC"))
