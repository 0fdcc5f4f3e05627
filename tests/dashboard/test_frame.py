"""Reading a view: venues add up on one axis, and what is missing stays visible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from dashboard.frame import ChartFrame, NotReady, default_window, read_frame, read_statuses, select_statuses
from dashboard.marks import missing_runs
from dashboard.view import RANGES, ViewError, ViewState
from estimator.cache import Cache
from estimator.model.grid import LEVELS
from tests.dashboard.sample import AS_OF_MS, GAP, LAST_MS, SHARES, sample_status


def test_the_axis_is_the_range_and_the_open_interval(frame: ChartFrame) -> None:
    span = RANGES["24h"]
    assert len(frame.time_ms) == span.columns + 1
    assert set(np.diff(frame.time_ms)) == {span.interval_ms}
    assert frame.time_ms[-2] == LAST_MS
    assert frame.time_ms[-1] > AS_OF_MS > LAST_MS
    assert frame.live
    assert frame.grid.long_usd.shape[0] == frame.series.height == len(frame.time_ms)


def test_venues_add_up_cell_by_cell(cache: Cache, frame: ChartFrame) -> None:
    parts = [read_frame(cache, ViewState("BTC", venues=(v,), price=frame.window)).grid for v in SHARES]
    together = read_frame(cache, ViewState("BTC", price=frame.window)).grid
    np.testing.assert_allclose(sum(p.long_usd for p in parts), together.long_usd, rtol=1e-5)
    np.testing.assert_allclose(sum(p.short_usd for p in parts), together.short_usd, rtol=1e-5)


def test_tiers_add_up_to_the_whole(cache: Cache) -> None:
    window = (90_000.0, 102_000.0)
    whole = read_frame(cache, ViewState("BTC", price=window)).grid.long_usd
    low = read_frame(cache, ViewState("BTC", price=window, tiers=("2-4x", "5-9x", "diffuse"))).grid.long_usd
    high = read_frame(cache, ViewState("BTC", price=window, tiers=("10-24x", "25-49x", "50x"))).grid.long_usd
    np.testing.assert_allclose(low + high, whole, atol=whole.max() * 2e-3)
    assert low.any()
    assert high.any()


def test_a_side_filter_leaves_the_other_side_out_everywhere(cache: Cache) -> None:
    frame = read_frame(cache, ViewState.parse("symbol=BTC&side=long"))
    assert frame.grid.long_usd.any()
    assert not frame.grid.short_usd.any()
    assert all(not frame.now.tier_usd("short", tier).any() for tier in frame.now.tiers)


def test_a_gap_of_one_venue_is_told_and_not_filled(frame: ChartFrame) -> None:
    [run] = missing_runs(frame)
    assert (run.start_ms, run.end_ms) == (GAP.start_ms, GAP.end_ms)
    assert run.venues == ("okx",)
    assert not run.everywhere


def test_open_interest_of_a_silent_venue_is_no_fall(frame: ChartFrame) -> None:
    interest = frame.series.filter(pl.col("time").dt.epoch("ms").is_between(GAP.start_ms, GAP.end_ms - 1))[
        "open_interest"
    ]
    assert interest.null_count() == len(interest) > 0
    known = frame.series["open_interest"].drop_nulls()
    assert known.min() > 0.9 * known.max()  # type: ignore[operator]


def test_the_venue_with_most_open_interest_leads(frame: ChartFrame) -> None:
    assert [s.exchange for s in frame.statuses] == ["binance", "bybit", "okx"]


def test_rsi_is_warm_at_the_left_edge(frame: ChartFrame) -> None:
    assert frame.series["rsi"].null_count() == 0
    assert frame.series["rsi"].is_between(0, 100).all()


@pytest.mark.parametrize("query", ["price=30000,300000", "range=30d&price=20000,390000"])
def test_a_wide_window_is_coarsened_to_the_screen(cache: Cache, query: str) -> None:
    frame = read_frame(cache, ViewState.parse("symbol=BTC&" + query))
    assert frame.grid.n_price <= 400 + 2
    assert len(frame.time_ms) <= 600
    fine = read_frame(cache, ViewState.parse("symbol=BTC")).grid
    if frame.view.range == "24h":
        assert frame.grid.long_usd[-2].sum() >= fine.long_usd[-2].sum()


def test_the_open_interval_of_a_coarse_level_ends_after_its_last_closed_column(cache: Cache) -> None:
    frame = read_frame(cache, ViewState("BTC", range="30d"))
    step = LEVELS[3].interval_ms
    assert frame.time_ms[-2] == LAST_MS // step * step
    last = frame.series.tail(1)
    assert last["low"][0] <= last["close"][0] <= last["high"][0]


def test_an_unknown_coin_or_venue_is_answered_with_what_there_is(cache: Cache) -> None:
    statuses = read_statuses(cache)
    with pytest.raises(ViewError, match="one of BTC"):
        select_statuses(statuses, ViewState("DOGE"))
    with pytest.raises(ViewError, match="binance,bybit,okx"):
        select_statuses(statuses, ViewState("BTC", venues=("mexc",)))


def test_a_range_that_is_not_filled_yet_says_so(cache: Cache) -> None:
    statuses = [replace(s, progress=0.4, exchange="gate", symbol="BTC/USDC:USDC") for s in read_statuses(cache)[:1]]
    with pytest.raises(NotReady) as caught:
        read_frame(cache, ViewState("BTC"), statuses)
    assert caught.value.progress == 0.4


def test_the_default_window_grows_with_what_the_price_does() -> None:
    def window(sigma: float) -> tuple[float, float]:
        close = 100 * np.exp(np.cumsum(np.random.default_rng(5).normal(0, sigma, 288)))
        rows = pl.DataFrame({"low": close * 0.999, "high": close * 1.001, "close": close})
        return default_window(rows, float(close[-1]))

    calm, wild = window(1e-4), window(4e-3)
    assert calm[1] / calm[0] == pytest.approx(np.exp(0.08), rel=0.01)
    assert wild[1] / wild[0] > 1.2


def test_a_late_venue_is_called_stale(frame: ChartFrame) -> None:
    assert not frame.is_stale(frame.statuses[0])
    assert frame.is_stale(replace(sample_status("okx", "BTC", 2), as_of_ms=AS_OF_MS - 600_000))


def test_an_open_column_that_has_closed_since_is_not_drawn_twice(cache: Cache) -> None:
    ahead = [replace(s, last_ms=LAST_MS + 300_000, as_of_ms=LAST_MS + 300_000) for s in read_statuses(cache)]
    frame = read_frame(cache, ViewState("BTC"), ahead)
    assert not frame.live
    assert frame.time_ms[-1] == LAST_MS + 300_000
    assert [r.everywhere for r in missing_runs(frame)][-1]
