"""Fitting the assumptions of markets to what history holds of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import polars as pl

from estimator.domain import DAY_MS, BoolArray, Market
from estimator.errors import InputError
from estimator.evaluation.calibrate import calibrate, path_of, prints_of
from estimator.evaluation.density import MarketPast
from estimator.exchanges.base import Connection
from estimator.history import Calibrations, History, TableName
from estimator.live.past import usable
from estimator.model.calibration import Calibration
from estimator.model.parameters import Parameters
from estimator.model.steps import Steps, build_steps
from estimator.observed import Heard

DAYS: Final = 60  # positions of longer ago say little of those now
_PRINTS: Final = "liquidations"

Report = Callable[[float, str], None]


def markets_with_prints(history: History, days: float = DAYS, now_ms: int | None = None) -> list[str]:
    """Return the ids of markets that history has prints of."""
    now_ms = _now_ms() if now_ms is None else now_ms
    rows = history.times("liquidations", int(now_ms - days * DAY_MS), now_ms + 1)
    ids = rows.select(pl.concat_str("exchange", "symbol", separator=":")).to_series().unique()
    return sorted(ids.to_list())


def refit(
    history: History,
    market: Market,
    default: Parameters,
    report: Report = lambda _done, _what: None,
    *,
    days: float = DAYS,
    offer: bool | None = None,
    now_ms: int | None = None,
) -> Calibration:
    """Fit the assumptions of a market, and keep them in history.

    Parameters
    ----------
    history : History
    market : Market
    default : Parameters
        What is shrunk to, and held against.
    report : callable
        Told the share done and what is being done.
    days : float
        How far back data are taken. [days]
    offer : bool, optional
        Whether the worker of the market is to go by them; by default where they score higher than the default on what
        they were not fitted to.
    now_ms : int, optional
        Now, by the clock of this machine unless given. [ms]

    Raises
    ------
    InputError
        If history has too little of the market.
    HistoryError
    """
    now_ms = _now_ms() if now_ms is None else now_ms
    first_ms = int(now_ms - days * DAY_MS)

    def read(table: TableName) -> pl.DataFrame:
        return history.read(table, market.id, first_ms, now_ms + 1)

    report(0.0, f"reading {market.id}")
    candles = usable(read("candles"))
    if candles.is_empty():
        raise InputError("candles", f"history has none of {market.id} in the last {days:g} days")
    steps, _ = build_steps(market, candles, read("open_interest"))
    found = calibrate(
        MarketPast(market, steps), prints_of(read("liquidations"), market), path_of(candles), default, report,
        _heard(history, market, steps, now_ms),
    )  # fmt: skip
    wanted = found.gain > 0.0 if offer is None else offer
    Calibrations(history).keep(market.id, now_ms, found, offer=wanted)
    return found


def reset(history: History, market_id: str, default: Parameters, now_ms: int | None = None) -> None:
    """Let a market go by the defaults again."""
    back = Calibration(default, 0, 0, 0, 0, 0, 0.0, 0.0, None, None)
    Calibrations(history).keep(market_id, _now_ms() if now_ms is None else now_ms, back, offer=True)


def _heard(history: History, market: Market, steps: Steps, now_ms: int) -> BoolArray | None:
    """Mark the steps in which no print was missed; None where nothing is said about that."""
    heard = Heard(_PRINTS)
    rows = history.read("connections", market.id, 0, now_ms + 1).sort("time", "connected")
    for time_ms, what, connected in rows.select(pl.col("time").dt.epoch("ms"), "what", "connected").iter_rows():
        heard.note(Connection(time_ms, what, connected))
    if not heard.told:
        return None
    ends = steps.close_ms.tolist()
    starts = [ends[0] - (ends[1] - ends[0]), *ends[:-1]] if len(ends) > 1 else ends
    return np.array([heard.covers(a, b) for a, b in zip(starts, ends, strict=True)], dtype=bool)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
