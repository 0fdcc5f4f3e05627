"""Past and live give the same columns, a closed column never changes, and nothing missing is invented."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import pytest

from dashboard.frame import NotReady, read_frame
from dashboard.view import RANGES, ViewState
from estimator import LiquidationGrid, PositionBook, estimate, pipeline
from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, TIME, Float32Array, Gap, Market, Observation, Origin, Side
from estimator.exchanges import recorded
from estimator.exchanges.base import MarketHistory, MarketUpdate, Source
from estimator.exchanges.recorded import RecordedSource
from estimator.exchanges.simulated import SimulatedSource
from estimator.follow import follow
from estimator.model.grid import LEVELS, TIER_NAMES, fit_bins
from estimator.model.series import level_mask
from estimator.model.steps import STEP_MS, build_steps
from estimator.observed import candles_of, liquidations_of
from estimator.pipeline import MarketFollower

MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[3] / "shared" / "market"))
MIDNIGHT: Final = 20_400 * DAY_MS
END_MS: Final = MIDNIGHT + 4 * HOUR_MS + 23 * MINUTE_MS  # inside a step and inside an interval of every level
FAR: Final = 4_000_000_000_000
F16: Final = 2.0**-11  # relative rounding of a float16
SOURCE: Final = SimulatedSource(7, end_ms=END_MS, days=2)


def ignore(_done: float, _text: str) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="module")
def whole() -> MarketHistory:
    """Two simulated days of the first market."""
    return SOURCE.history(SOURCE.markets()[0], ignore)


class Stored(NamedTuple):
    """Everything the cache holds of a market's past."""

    columns: dict[int, LiquidationGrid]
    series: dict[int, pl.DataFrame]
    status: MarketStatus


def read(cache: Cache, market: Market) -> Stored:
    columns = {n: g for n in range(len(LEVELS)) if (g := cache.get_columns(market.id, n, 0, FAR, tiers=True))}
    series = {n: s for n in range(len(LEVELS)) if (s := cache.get_series(market.id, n, 0, FAR)) is not None}
    (status,) = [s for s in cache.get_statuses() if s.id == market.id]
    return Stored(columns, series, status)


def backfilled(cache: Cache, history: MarketHistory, source: Source = SOURCE) -> MarketFollower:
    follower = MarketFollower(history.market, 0, source, cache, "balanced")
    follower.backfill(history)
    return follower


def at_rest(cache: Cache, history: MarketHistory) -> Stored:
    """What a backfill of the whole stores."""
    cache.clear_markets()
    backfilled(cache, history)
    return read(cache, history.market)


def times(grid: LiquidationGrid) -> list[int]:
    return [int(t) for t in grid.time.astype("datetime64[ms]").astype(np.int64)]


def layers(grid: LiquidationGrid) -> list[Float32Array]:
    tiers = [grid.tier_usd(side, name) for name in grid.tiers for side in Side]
    assert len(tiers) == 2 * len(TIER_NAMES)
    return [grid.long_usd, grid.short_usd, *tiers]


def assert_same_bits(got: LiquidationGrid, expected: LiquidationGrid) -> None:
    """Every column of `expected` is in `got`, bit for bit; the windows of bins may differ where both are empty."""
    mine = got.pick(np.isin(times(got), times(expected)))
    assert times(mine) == times(expected)
    first = min(got.first_bin, expected.first_bin)
    n = max(got.first_bin + got.n_price, expected.first_bin + expected.n_price) - first
    for one, two in zip(layers(mine), layers(expected), strict=True):
        assert np.array_equal(fit_bins(one, got.first_bin, first, n), fit_bins(two, expected.first_bin, first, n))


def assert_same(got: Stored, expected: Stored) -> None:
    assert got.columns.keys() == expected.columns.keys()
    for level, grid in expected.columns.items():
        assert_same_bits(got.columns[level], grid)
    assert got.series.keys() == expected.series.keys()
    for level, rows in expected.series.items():
        mine = got.series[level].join(rows.select("time"), on="time", how="semi")
        assert mine["time"].equals(rows["time"])
        for name in rows.columns[1:]:  # sums of a step's parts may be added in another order
            np.testing.assert_allclose(mine[name].to_numpy(), rows[name].to_numpy(), rtol=1e-12, err_msg=name)
    assert got.status.last_ms == expected.status.last_ms
    assert candle_gaps(got.status) == candle_gaps(expected.status)


def candle_gaps(status: MarketStatus) -> list[Gap]:
    return [gap for gap in status.gaps if gap.what == "candles"]


def at(time_ms: int) -> pl.Expr:
    return pl.lit(time_ms).cast(TIME)


def until(history: MarketHistory, end_ms: int) -> MarketHistory:
    """The history as it was known at `end_ms`."""
    return replace(
        history,
        candles=history.candles.filter(pl.col("time") < at(end_ms)),
        open_interest=history.open_interest.filter(pl.col("time") <= at(end_ms)),
        long_short_ratio=history.long_short_ratio.filter(pl.col("time") <= at(end_ms)),
        funding_rate=history.funding_rate.filter(pl.col("time") <= at(end_ms)),
        liquidations=history.liquidations.filter(pl.col("time") < at(end_ms)),
    )


def without(history: MarketHistory, start_ms: int, end_ms: int) -> MarketHistory:
    """The history with nothing received for the candles of ``start_ms .. end_ms``."""

    def keep(frame: pl.DataFrame, *, seen_at_end: bool) -> pl.DataFrame:
        inside = pl.col("time").is_between(at(start_ms), at(end_ms), closed="right" if seen_at_end else "left")
        return frame.filter(~inside)

    return replace(
        history,
        candles=keep(history.candles, seen_at_end=False),
        open_interest=keep(history.open_interest, seen_at_end=True),
        long_short_ratio=keep(history.long_short_ratio, seen_at_end=True),
        funding_rate=keep(history.funding_rate, seen_at_end=True),
        liquidations=keep(history.liquidations, seen_at_end=False),
    )


def updates(history: MarketHistory, start_ms: int, *, opened: bool = False) -> Iterator[MarketUpdate]:
    """What a source would have sent from `start_ms` on; with `opened`, every candle once before it is closed, too."""
    known = {
        name: {o.time_ms: o for o in observations(getattr(history, name))}
        for name in ("open_interest", "long_short_ratio", "funding_rate")
    }
    prints = liquidations_of(history.liquidations)
    for candle in candles_of(history.candles.filter(pl.col("time") >= at(start_ms))):
        end_ms = candle.time_ms + history.interval_ms
        mine = tuple(p for p in prints if candle.time_ms <= p.time_ms < end_ms)
        if opened:
            half = replace(candle, close=candle.open, volume=candle.volume / 2)
            wrong = Observation(end_ms - 1, 1.1 * history.open_interest["open_interest"][0])
            yield MarketUpdate(history.market, end_ms - 1, candle.open, half, candle_closed=False, open_interest=wrong)
        news: dict[str, Any] = {
            name: found for name, values in known.items() if (found := values.get(end_ms)) is not None
        }
        yield MarketUpdate(history.market, end_ms, candle.close, candle, candle_closed=True, liquidations=mine, **news)


def observations(frame: pl.DataFrame) -> list[Observation]:
    return [Observation(t, v) for t, v in zip(frame["time"].dt.epoch("ms"), frame[frame.columns[1]], strict=True)]


def play(follower: MarketFollower, played: Sequence[MarketUpdate] | Iterator[MarketUpdate]) -> None:
    for update in played:
        follower.apply(update)


# the past


def test_every_level_holds_the_estimate_of_the_same_frames_coarsened(cache: Cache, whole: MarketHistory) -> None:
    stored = at_rest(cache, whole)
    grid = estimate(whole.market, whole.candles, whole.open_interest)
    close_ms = np.array(times(grid))
    assert stored.columns.keys() == set(range(len(LEVELS)))
    for level, (interval_ms, factor, keep_ms) in enumerate(LEVELS):
        expected = grid.pick(level_mask(close_ms, interval_ms, keep_ms, int(close_ms[-1]))).coarsen(factor)
        got = stored.columns[level]
        assert times(got) == times(expected)
        for mine, theirs in zip(layers(got), layers(expected), strict=True):
            shown = fit_bins(mine, got.first_bin, expected.first_bin, expected.n_price)
            tiny = theirs.max(axis=1, keepdims=True) * 2.0**-37
            assert (np.abs(shown - theirs) <= theirs * F16 * 1.01 + tiny).all()
            assert mine.sum() == pytest.approx(shown.sum())  # nothing outside


def test_the_series_of_every_level_adds_up_to_the_candles(cache: Cache, whole: MarketHistory) -> None:
    stored = at_rest(cache, whole)
    for level, (interval_ms, *_) in enumerate(LEVELS[:6]):
        rows = stored.series[level]
        assert set(np.diff(rows["time"].dt.epoch("ms"))) == {interval_ms}
        span = pl.col("time").is_between(rows["time"][1], rows["time"][-1], closed="left")
        candles, merged, prints = (f.filter(span) for f in (whole.candles, rows, whole.liquidations))
        assert merged["volume"].sum() == pytest.approx(candles["volume"].sum())
        assert merged["high"].max() == candles["high"].max()
        assert merged["low"].min() == candles["low"].min()
        realised = merged.select(pl.sum("long_liquidated_usd") + pl.sum("short_liquidated_usd")).item()
        assert realised == pytest.approx(prints["notional_usd"].sum())


# past and live


@pytest.mark.parametrize("cut_ms", [END_MS - 9 * HOUR_MS, END_MS - 5 * HOUR_MS - 20 * MINUTE_MS, MIDNIGHT])
def test_part_and_live_store_what_the_whole_stores(cache: Cache, whole: MarketHistory, cut_ms: int) -> None:
    expected = at_rest(cache, whole)
    cache.clear_markets()
    follower = backfilled(cache, until(whole, cut_ms))
    play(follower, updates(whole, cut_ms))
    assert_same(read(cache, whole.market), expected)


@pytest.mark.parametrize("emptied", [True, False], ids=["cache lost", "cache kept"])
def test_a_restart_in_the_middle_leaves_no_seam(cache: Cache, whole: MarketHistory, *, emptied: bool) -> None:
    expected = at_rest(cache, whole)
    cache.clear_markets()
    first, second = END_MS - 7 * HOUR_MS, END_MS - 3 * HOUR_MS - 4 * MINUTE_MS
    play(backfilled(cache, until(whole, first)), updates(until(whole, second), first))
    if emptied:
        cache.clear_markets()
    play(backfilled(cache, until(whole, second)), updates(whole, second))
    assert_same(read(cache, whole.market), expected)


def test_a_provisional_column_is_shown_and_leaves_no_trace(
    cache: Cache, whole: MarketHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PUBLISH_S", 0.0)
    expected = at_rest(cache, whole)
    cache.clear_markets()
    cut_ms = END_MS - 2 * HOUR_MS
    follower = backfilled(cache, until(whole, cut_ms))
    for update in updates(whole, cut_ms, opened=True):
        follower.apply(update)
        live = cache.get_live(whole.market.id)
        open_ms = update.candle.time_ms // STEP_MS * STEP_MS + STEP_MS
        if update.time_ms == open_ms:  # the step has closed and the next has not begun
            assert live is None
        else:
            assert live is not None
            assert times(live[0]) == [open_ms]
            assert live[1]["close"].to_list() == [update.mark_price]
    assert_same(read(cache, whole.market), expected)


def test_a_closed_column_never_changes_while_the_worker_goes_on(
    cache: Cache, whole: MarketHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PUBLISH_S", 0.0)
    cut_ms = END_MS - 4 * HOUR_MS
    follower = backfilled(cache, until(whole, cut_ms))
    before = read(cache, whole.market)
    for end_ms in range(cut_ms + HOUR_MS, END_MS + 1, HOUR_MS):
        play(follower, updates(until(whole, end_ms), end_ms - HOUR_MS, opened=True))
        after = read(cache, whole.market)
        assert len(after.columns[0].time) == len(before.columns[0].time) + 12
        for level, grid in before.columns.items():
            assert_same_bits(after.columns[level], grid)
            same = after.series[level].join(before.series[level].select("time"), on="time", how="semi")
            assert same.equals(before.series[level])
        before = after


def test_the_last_step_of_a_fast_replay_is_announced(cache: Cache, whole: MarketHistory) -> None:
    cut_ms = END_MS - HOUR_MS
    follower = backfilled(cache, until(whole, cut_ms))
    play(follower, updates(whole, cut_ms))  # all within the pause between two announcements
    (status,) = cache.get_statuses()
    assert status.last_ms == END_MS // STEP_MS * STEP_MS


# what is missing, late or repeated

LOST: Final = {
    "two candles inside a step": (MIDNIGHT + 61 * MINUTE_MS, MIDNIGHT + 63 * MINUTE_MS),
    "the first of a step": (MIDNIGHT + 60 * MINUTE_MS, MIDNIGHT + 61 * MINUTE_MS),
    "the last of a step": (MIDNIGHT + 63 * MINUTE_MS, MIDNIGHT + 65 * MINUTE_MS),
    "a whole step": (MIDNIGHT + 60 * MINUTE_MS, MIDNIGHT + 65 * MINUTE_MS),
    "steps and parts of others": (MIDNIGHT + 58 * MINUTE_MS, MIDNIGHT + 72 * MINUTE_MS),
    "the turn of the day": (MIDNIGHT - 13 * MINUTE_MS, MIDNIGHT + 21 * MINUTE_MS),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
def test_missing_candles_are_a_gap_and_their_step_closes_with_what_came(
    cache: Cache, whole: MarketHistory, lost: tuple[int, int]
) -> None:
    received = until(without(whole, *lost), MIDNIGHT + 2 * HOUR_MS)
    expected = at_rest(cache, received)
    cache.clear_markets()
    follower = backfilled(cache, until(whole, MIDNIGHT - HOUR_MS))
    play(follower, updates(received, MIDNIGHT - HOUR_MS))
    assert_same(read(cache, whole.market), expected)
    (status,) = cache.get_statuses()
    assert candle_gaps(status) == [Gap(*lost, "candles")]


def test_an_open_interest_that_comes_after_a_step_does_not_reach_back_into_it(
    cache: Cache, whole: MarketHistory
) -> None:
    lost = LOST["the last of a step"]
    received = until(without(whole, *lost), MIDNIGHT + 2 * HOUR_MS)
    expected = at_rest(cache, received)
    cache.clear_markets()
    follower = backfilled(cache, until(whole, MIDNIGHT))
    for update in updates(received, MIDNIGHT):
        if update.candle.time_ms == lost[1]:  # the first candle after the loss brings news of its own
            update = replace(update, open_interest=Observation(update.time_ms, 1.0))  # noqa: PLW2901
        follower.apply(update)
    got = read(cache, whole.market).columns[0]
    assert_same_bits(got.pick(np.array(times(got)) <= lost[1]), expected.columns[0].pick(
        np.array(times(expected.columns[0])) <= lost[1]))  # fmt: skip


@pytest.mark.parametrize("back", [0, 1, 7, 90])
def test_late_and_repeated_candles_change_nothing(cache: Cache, whole: MarketHistory, back: int) -> None:
    cut_ms = END_MS - 3 * HOUR_MS
    expected = at_rest(cache, whole)
    cache.clear_markets()
    follower = backfilled(cache, until(whole, cut_ms))
    sent = list(updates(whole, cut_ms))
    for i, update in enumerate(sent):
        follower.apply(update)
        follower.apply(sent[max(i - back, 0)])
        follower.apply(replace(sent[max(i - back, 0)], candle_closed=False))
    assert_same(read(cache, whole.market), expected)
    assert (follower._as_of_ms, follower._mark) == (sent[-1].time_ms, sent[-1].mark_price)
    prints = cache.get_liquidations(whole.market.id, cut_ms, END_MS)
    assert prints.height == whole.liquidations.filter(pl.col("time") >= at(cut_ms)).height


def test_a_candle_that_comes_after_its_step_closed_without_it_stays_out(cache: Cache, whole: MarketHistory) -> None:
    lost = LOST["the last of a step"]
    received = until(without(whole, *lost), MIDNIGHT + 2 * HOUR_MS)
    expected = at_rest(cache, received)
    cache.clear_markets()
    follower = backfilled(cache, until(whole, MIDNIGHT))
    stragglers = [u for u in updates(whole, lost[0]) if u.candle.time_ms < lost[1]]
    for update in updates(received, MIDNIGHT):
        if update.candle.time_ms == lost[1]:
            follower.apply(replace(update, candle_closed=False, open_interest=None, liquidations=()))
            play(follower, [replace(s, liquidations=()) for s in stragglers])
        follower.apply(update)
    assert_same(read(cache, whole.market), expected)


# coarser candles


def test_hourly_candles_make_hourly_columns_and_rows_live_as_at_rest(cache: Cache, whole: MarketHistory) -> None:
    start = (pl.col("time").dt.epoch("ms") // HOUR_MS * HOUR_MS).cast(TIME).alias("time")
    hourly = whole.candles.group_by(start, maintain_order=True).agg(
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.col("volume").sum(),
    )
    history = replace(whole, interval_ms=HOUR_MS, candles=hourly[1:-1])  # the first and the last are not whole
    expected = at_rest(cache, history)
    cache.clear_markets()
    follower = backfilled(cache, until(history, MIDNIGHT - 2 * HOUR_MS))
    play(follower, updates(history, MIDNIGHT - 2 * HOUR_MS))
    assert_same(read(cache, history.market), expected)
    assert set(np.diff(expected.series[0]["time"].dt.epoch("ms"))) == {HOUR_MS}


def test_an_inverse_market_counts_its_contracts_live_as_at_rest(cache: Cache, whole: MarketHistory) -> None:
    market = replace(whole.market, symbol="BTC/USD:BTC", contract="inverse")
    history = replace(whole, market=market)
    expected = at_rest(cache, history)
    cache.clear_markets()
    cut_ms = END_MS - 2 * HOUR_MS
    play(backfilled(cache, until(history, cut_ms)), updates(history, cut_ms))
    assert_same(read(cache, market), expected)


# the worker's loop


def run_until(source: Source, cache: Cache, last_ms: int) -> None:
    """Follow `source` until every market has closed its step at `last_ms`."""

    async def main() -> None:
        task = asyncio.create_task(follow(source, cache, "balanced", ignore))
        count = len(source.markets())
        while not task.done():
            statuses = await asyncio.to_thread(cache.get_statuses)
            if len(statuses) == count and all(s.last_ms >= last_ms for s in statuses):
                break
            await asyncio.sleep(0.02)
        if not task.cancel():
            task.result()

    asyncio.run(main())


class Slow:
    """A recorded source whose past takes until `let_go`, and which has nothing to watch."""

    origin, description = Origin.RECORDED, "two simulated days, at rest"

    def __init__(self, history: MarketHistory) -> None:
        self.past, self.go = history, threading.Event()

    def markets(self) -> Sequence[Market]:
        return [self.past.market]

    def history(self, market: Market, progress: Callable[[float, str], None]) -> MarketHistory:
        progress(0.5, f"reading {market.id}")
        assert self.go.wait(10)
        return self.past

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        return
        yield


def test_a_market_is_announced_while_its_past_is_loaded_and_then_stays_though_nothing_happens(
    url: str, cache: Cache, whole: MarketHistory
) -> None:
    source, short = Slow(whole), Cache(url, ttl_s=3)
    view = ViewState.parse("symbol=BTC&range=24h", default_symbol="BTC")

    async def main() -> None:
        task = asyncio.create_task(follow(source, short, "balanced", ignore))
        while not cache.get_statuses():  # noqa: ASYNC110 - what is waited for is in another program's hands
            await asyncio.sleep(0.01)
        (announced,) = cache.get_statuses()
        assert not announced.loaded
        assert announced.id == whole.market.id
        with pytest.raises(NotReady):  # and not: there is no such coin
            read_frame(cache, view)
        source.go.set()
        until = time.monotonic() + 5  # longer than an entry lives that nobody renews
        while time.monotonic() < until:
            assert not task.done()
            await asyncio.sleep(0.1)
        assert read_frame(cache, view).loading == ()
        task.cancel()

    asyncio.run(main())
    short.close()


def test_the_worker_follows_every_market_as_a_longer_history_would_have_it(cache: Cache) -> None:
    end_ms = MIDNIGHT + 57 * MINUTE_MS
    last_ms = end_ms // STEP_MS * STEP_MS + 2 * STEP_MS
    run_until(SimulatedSource(5, end_ms=end_ms, days=0.25, speed=1200), cache, last_ms)
    longer = SimulatedSource(5, end_ms=last_ms, days=0.25 + (last_ms - end_ms) / DAY_MS)
    got = {m.id: read(cache, m) for m in longer.markets()}
    assert {s.status.origin for s in got.values()} == {Origin.SIMULATED}
    assert len(got) == 9
    for market in longer.markets():
        expected = at_rest(cache, longer.history(market, ignore))
        for level, grid in expected.columns.items():
            assert_same_bits(got[market.id].columns[level], grid)
    assert cache.get_progress() is None  # of the last clear_markets


# real recordings

RECORDINGS: Final = {
    "OKX SOL, a month of 1m candles": ("okx-sol-jabine", "SOL"),
    "Binance BTC, 5m candles": ("binance-5m-ism", "BTC"),
}


@pytest.fixture(params=list(RECORDINGS.values()), ids=list(RECORDINGS))
def recording(request: pytest.FixtureRequest) -> tuple[Path, str]:
    folder, base = request.param
    if not (MARKET_DATA / folder).exists():
        pytest.skip(f"no {folder}; set LIQHEAT_MARKET_DATA to the folder that holds it")
    return MARKET_DATA / folder, base


def test_the_book_holds_the_open_interest_at_every_real_step(recording: tuple[Path, str]) -> None:
    source = RecordedSource(recording[0], replay=None)
    (market,) = source.markets()
    history = source.history(market, ignore)
    steps, _ = build_steps(market, history.candles, history.open_interest)
    book = PositionBook(market)
    for i in range(len(steps)):
        book.run(steps.part(i, i + 1))
        np.testing.assert_allclose(book.total, steps.contracts[i], rtol=1e-9)
    assert book.n_steps == len(steps) > 6000


def test_a_real_recording_reaches_the_page_in_every_range_it_covers(cache: Cache, recording: tuple[Path, str]) -> None:
    path, base = recording
    source = RecordedSource(path, replay=None)
    history = source.history(source.markets()[0], ignore)
    last_ms = int(history.candles["time"].to_physical()[-1]) + history.interval_ms
    run_until(source, cache, last_ms // STEP_MS * STEP_MS)
    for name in ("24h", "3d", "7d", "30d"):
        assert name in RANGES
        frame = read_frame(cache, ViewState.parse(f"symbol={base}&range={name}", default_symbol=base))
        assert {s.origin for s in frame.statuses} == {Origin.RECORDED}
        assert np.isfinite(frame.grid.long_usd).all()
        close = frame.series["close"].drop_nulls()
        below = frame.grid.price_edges[1:] < close[-1]
        assert frame.grid.long_usd[-1, below].sum() > 0
        assert frame.grid.short_usd[-1, ~below].sum() > 0
        assert frame.present.any()


def test_a_replayed_recording_stores_what_it_stores_at_rest(
    cache: Cache, recording: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "REPLAY_FROM", 0.985)  # a live step writes seven tiles: the last hundred will do
    source = RecordedSource(recording[0], replay=1e9)
    (market,) = source.markets()
    full = RecordedSource(recording[0], replay=None).history(market, ignore)
    backfilled(cache, source.history(market, ignore), source)
    before = read(cache, market)
    cache.clear_markets()
    last_ms = (int(full.candles["time"].to_physical()[-1]) + full.interval_ms) // STEP_MS * STEP_MS
    run_until(source, cache, last_ms)
    got = read(cache, market)
    assert len(got.columns[0].time) > len(before.columns[0].time) + 80
    for level, grid in before.columns.items():
        assert_same_bits(got.columns[level], grid)  # no column changed after its candle closed
    assert_same(got, at_rest(cache, full))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(candle_gaps(got.status)))
