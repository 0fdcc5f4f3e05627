"""`liqheat calibrate` on a history: what it says, keeps and offers."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from estimator.exchanges.base import MarketHistory
from estimator.exchanges.simulated import SimulatedSource
from estimator.history import Calibrations, History, with_market
from estimator.history.calibrations import FITTED, OFFERED
from estimator.model.parameters import Parameters
from tests.test_commands import liqheat

DAYS = 10
MARKET = "binance:BTC/USDT:USDT"
QUIET = "okx:BTC/USDT:USDT"


@pytest.fixture(scope="module")
def past() -> MarketHistory:
    """A simulated market, whose rows stand for those of a venue."""
    now_ms = time.time_ns() // 1_000_000 // 60_000 * 60_000
    source = SimulatedSource(7, end_ms=now_ms - 600_000, days=DAYS)
    return source.history(source.markets()[0], lambda _done, _what: None)


def stored(folder: Path, past: MarketHistory, *, prints: bool = True) -> History:
    history = History(folder / "data" / "history")
    history.append("open_interest", with_market(MARKET, past.open_interest))
    if prints:
        numbered = past.liquidations.with_columns(print_id=pl.int_range(pl.len()).cast(pl.String))
        history.append("liquidations", with_market(MARKET, numbered))
        history.append("liquidations", with_market(QUIET, numbered.tail(20)))
    history.append("candles", with_market(MARKET, past.candles))
    history.append("candles", with_market(QUIET, past.candles))
    history.append("open_interest", with_market(QUIET, past.open_interest))
    return history


def test_markets_are_fitted_kept_and_offered_or_refused_with_the_reason(tmp_path: Path, past: MarketHistory) -> None:
    history = stored(tmp_path, past)
    done = liqheat(tmp_path, "calibrate")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stderr.splitlines() if line.startswith(("binance", "okx")))
    assert "prints fitted" in said[MARKET]
    assert "6 are needed" in said[QUIET], "too few days of prints"
    rows = history.read("parameters", MARKET, 0, 4_000_000_000_000)
    assert rows.height == 1
    state, text = rows["state"][0], said[MARKET]
    assert state == (OFFERED if "offered" in text else FITTED)
    assert history.read("parameters", QUIET, 0, 4_000_000_000_000).is_empty()

    assert liqheat(tmp_path, "calibrate", "--markets", MARKET, "--record-only").returncode == 0
    assert history.read("parameters", MARKET, 0, 4_000_000_000_000)["state"].to_list() == [state, FITTED]
    assert liqheat(tmp_path, "calibrate", "--markets", MARKET, "--reset").returncode == 0
    (due,) = Calibrations(history).due().values()
    assert due.parameters == Parameters()
    assert (due.first_ms, due.fitted) == (0, 0), "nothing was fitted to"


def test_without_prints_it_says_so(tmp_path: Path, past: MarketHistory) -> None:
    stored(tmp_path, past, prints=False)
    for arguments in ((), ("--markets", MARKET)):
        done = liqheat(tmp_path, "calibrate", *arguments)
        assert done.returncode == 1
        assert "without prints there is nothing to fit to" in done.stderr
