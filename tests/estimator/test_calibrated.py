"""A market goes by what was fitted to it from when its worker says so, and a restart says the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pytest

from estimator import LiquidationGrid
from estimator.cache import Cache
from estimator.domain import DAY_MS, HOUR_MS
from estimator.exchanges.base import MarketHistory
from estimator.exchanges.simulated import SimulatedSource
from estimator.history import Calibrations, History, Published
from estimator.model.calibration import Calibration
from estimator.model.members import MEMBER_NAMES
from estimator.model.parameters import Parameters
from estimator.model.steps import STEP_MS
from estimator.pipeline import MarketFollower
from tests.estimator.test_pipeline import play, until, updates

MIDNIGHT: Final = 20_400 * DAY_MS
SOURCE: Final = SimulatedSource(7, end_ms=MIDNIGHT + 3 * HOUR_MS, days=1)
DEFAULT: Final = Parameters()
FITTED: Final = replace(DEFAULT, churn=0.4, shares=Parameters.preset("high-leverage").shares)
FAR: Final = 4_000_000_000_000


def calibration(parameters: Parameters) -> Calibration:
    return Calibration(parameters, 0, MIDNIGHT, MIDNIGHT // 2, 900, 300, 0.1, 0.2, 0.05, 0.15)


@pytest.fixture(scope="module")
def whole() -> MarketHistory:
    return SOURCE.history(SOURCE.markets()[0], lambda _done, _what: None)


def started(cache: Cache, store: History, history: MarketHistory) -> tuple[MarketFollower, Published]:
    published = Published(store)
    follower = MarketFollower(history.market, 0, SOURCE, cache, "balanced", published)
    cache.clear_markets()
    follower.backfill(history)
    return follower, published


def follow(follower: MarketFollower, history: MarketHistory, start_ms: int, end_ms: int) -> None:
    """Tell the candles of a stretch one by one, each with what became known then."""
    play(follower, [u for u in updates(history, start_ms) if u.time_ms <= end_ms])


def versions(store: History, history: MarketHistory) -> dict[int, str]:
    rows = store.read("columns", history.market.id, 0, FAR, level=0)
    return dict(rows.select(pl.col("time").dt.epoch("ms"), "parameters_version").iter_rows())


def shown(cache: Cache, history: MarketHistory) -> LiquidationGrid:
    grid = cache.get_columns(history.market.id, 0, 0, FAR)
    assert grid is not None
    price = history.candles["close"][-1]
    return grid.crop(price / 2, price * 1.5)  # windows of bins may differ where both are empty


def cut(parameters: Parameters, history: MarketHistory) -> str:
    return parameters.for_leverage(history.market.max_leverage).version


def test_columns_say_what_they_were_made_with_and_a_restart_shows_and_continues_them_bit_for_bit(
    cache: Cache, tmp_path: Path, whole: MarketHistory
) -> None:
    store = History(tmp_path)
    begin_ms, end_ms = MIDNIGHT - HOUR_MS, MIDNIGHT + HOUR_MS
    follower, published = started(cache, store, until(whole, begin_ms))
    from_ms = follower.change_ms
    published.calibrations.put_in_force(whole.market.id, from_ms, calibration(FITTED))
    assert follower.change(from_ms, calibration(FITTED))
    assert not follower.change(from_ms, calibration(FITTED)), "it is known"
    follow(follower, whole, begin_ms, end_ms)
    published.flush()
    seen = shown(cache, whole)
    found = versions(store, whole)
    assert begin_ms < from_ms < end_ms
    assert {t for t, v in found.items() if v == cut(FITTED, whole)} == {
        t for t in found if t > from_ms
    }  # of the same market: an earlier column keeps the version it was published with
    assert {v for t, v in found.items() if t <= from_ms} == {cut(DEFAULT, whole)}

    again, published = started(cache, store, until(whole, end_ms))
    mine = shown(cache, whole)
    assert np.array_equal(mine.pick(np.isin(mine.time, seen.time)).long_usd, seen.long_usd)
    (status,) = cache.get_statuses()
    assert (status.parameters_version, status.calibrated_ms) == (cut(FITTED, whole), from_ms)
    assert status.calibration == calibration(FITTED)

    follow(follower, whole, end_ms, end_ms + HOUR_MS)
    one = shown(cache, whole)
    cache.clear_markets()
    again.backfill(until(whole, end_ms))
    follow(again, whole, end_ms, end_ms + HOUR_MS)
    two = shown(cache, whole)
    late = one.time > np.datetime64(end_ms, "ms")
    assert late.any()
    assert np.array_equal(one.pick(late).long_usd, two.pick(two.time > np.datetime64(end_ms, "ms")).long_usd)


def test_a_fit_makes_other_columns_than_the_default(cache: Cache, tmp_path: Path, whole: MarketHistory) -> None:
    begin_ms = MIDNIGHT - HOUR_MS
    grids = []
    for name, parameters in (("default", None), ("fitted", FITTED)):
        follower, _ = started(cache, History(tmp_path / name), until(whole, begin_ms))
        if parameters is not None:
            follower.change(follower.change_ms, calibration(parameters))
        follow(follower, whole, begin_ms, MIDNIGHT)
        grids.append(shown(cache, whole))
    before = grids[0].time <= np.datetime64(begin_ms + 2 * STEP_MS, "ms")
    assert np.array_equal(grids[0].long_usd[before], grids[1].long_usd[before]), "what was published stays"
    assert not np.array_equal(grids[0].long_usd[-1], grids[1].long_usd[-1])


def test_only_the_latest_offer_that_is_not_in_force_is_due(tmp_path: Path, whole: MarketHistory) -> None:
    market_id = whole.market.id
    kept = Calibrations(History(tmp_path))
    kept.keep(market_id, 1_000, calibration(DEFAULT), offer=False)
    assert kept.due() == {}, "kept for the record"
    kept.keep(market_id, 2_000, calibration(FITTED), offer=True)
    assert kept.due() == {market_id: calibration(FITTED)}
    kept.put_in_force(market_id, 3_000, calibration(FITTED))
    assert kept.due() == {}
    kept.keep(market_id, 4_000, calibration(DEFAULT), offer=True)
    assert kept.due() == {market_id: calibration(DEFAULT)}
    schedule, last = kept.schedule(market_id, DEFAULT)
    assert schedule.changes == ((3_000, FITTED),)
    assert last == calibration(FITTED)
    other = replace(DEFAULT, n_bins=800)
    assert kept.schedule(market_id, other)[0].changes == (), "it cannot follow a book of another form"


def test_what_is_in_force_outlives_the_retention(tmp_path: Path, whole: MarketHistory) -> None:
    store = History(tmp_path, retention_days=1)
    Calibrations(store).put_in_force(whole.market.id, 1_000, calibration(FITTED))
    store.retain(FAR)
    assert Calibrations(store).changes(whole.market.id)[whole.market.id][0].time_ms == 1_000


def test_other_books_beside_a_market_miss_no_step_while_their_past_is_computed(
    cache: Cache, tmp_path: Path, whole: MarketHistory
) -> None:
    begin_ms, end_ms = MIDNIGHT - HOUR_MS, MIDNIGHT + 2 * HOUR_MS
    follower, _ = started(cache, History(tmp_path), until(whole, begin_ms))
    bands = follower.begin_bands()
    follow(follower, whole, begin_ms, MIDNIGHT)
    last_ms = bands.past(follower.steps_of(until(whole, begin_ms))[0])
    bands.catch_up(last_ms)
    follow(follower, whole, MIDNIGHT, end_ms)
    late = cache.get_bands(whole.market.id, 0, begin_ms, end_ms)

    cache.clear_markets()
    other, _ = started(cache, History(tmp_path), until(whole, end_ms))
    other.begin_bands().past(other.steps_of(until(whole, end_ms))[0])
    at_once = cache.get_bands(whole.market.id, 0, begin_ms, end_ms)
    assert late is not None
    assert at_once is not None
    assert late.time.tolist() == at_once.time.tolist()
    assert len(late.time) == 3, "a column an hour"
    for name in MEMBER_NAMES:
        one, two = (g.tier_usd("long", name).sum(axis=1) for g in (late, at_once))
        assert one == pytest.approx(two, rel=1e-3)
    shown_now = shown(cache, whole).pick(slice(-1, None))
    price = whole.candles["close"][-1]
    late = late.crop(price / 2, price * 1.5)
    assert late.tier_usd("long", "balanced")[-1].sum() == pytest.approx(float(shown_now.long_usd.sum()), rel=1e-2)


def test_gaps_are_not_made_by_a_change(cache: Cache, tmp_path: Path, whole: MarketHistory) -> None:
    follower, _ = started(cache, History(tmp_path), until(whole, MIDNIGHT))
    follower.change(follower.change_ms, calibration(FITTED))
    follow(follower, whole, MIDNIGHT, MIDNIGHT + HOUR_MS)
    (status,) = cache.get_statuses()
    assert [g for g in status.gaps if g.what == "candles"] == []
