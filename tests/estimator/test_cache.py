"""The cache keeps its promises on every server we support: the bundled Valkey and a plain Redis."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estimator.cache import (
    Cache,
    MarketStatus,
    Progress,
    RecorderHealth,
    Rejected,
    StreamHealth,
    VenueHealth,
    WorkerHealth,
    codec,
)
from estimator.cache.journal import Entry
from estimator.domain import LIQUIDATIONS, TIME, Gap, Liquidation, Origin, Side
from estimator.errors import CacheError, CacheUnavailable, CorruptEntry, InputError, ParameterError, SettingsError
from estimator.model.grid import BIN_WIDTH, LEVELS, TIER_NAMES, LiquidationGrid
from estimator.redis_server import BundledServer

BTC = "simulated:BTC/USDT:USDT"
STEP = LEVELS[0].interval_ms
TILE_MS = 96 * STEP
T0 = 1_700_000_000_000 // TILE_MS * TILE_MS
F16 = 2.0**-11  # relative rounding of a float16
TTL_S = 3600

STATUS = MarketStatus(
    exchange="simulated", symbol="BTC/USDT:USDT", base="BTC", contract="linear", max_leverage=125.0,
    origin=Origin.SIMULATED, source="agent-based market, seed 7", rank=0, as_of_ms=T0, mark_price=60_000.0,
    interval_ms=STEP, first_ms=T0 + STEP, last_ms=T0 + 96 * STEP, provisional_until_ms=T0,
    open_interest_base=1e5, long_short_ratio=None, funding_rate=1e-4,
    gaps=(Gap(T0, T0 + STEP, "candles"),), preset="balanced", progress=1.0, version=3,
)  # fmt: skip

VENUE = VenueHealth(
    name="okx", markets=2, problem=None, streams=(StreamHealth("candles", True, T0, 1),),
    gaps=(Gap(T0 - 5000, T0, "candles"),), errors={"RateLimited": 2},
    rejected=(Rejected("open_interest", "sudden jump", 3),),
)  # fmt: skip
READING = Entry.of(
    "open_interest", BTC, pl.DataFrame({"time": [T0], "open_interest": [1.0]}).with_columns(pl.col("time").cast(TIME))
)
HEALTH = WorkerHealth(
    time_ms=T0, started_ms=T0 - 60_000, shard=0, shards=1, markets=2, rss_bytes=1 << 28, loop_delay_ms=1.5,
    venues=(VENUE,), recorder=RecorderHealth(7, 900, T0 - 2000, 10, 1, 0, "disk full", False, 4),
)  # fmt: skip


def make_grid(first: int, n: int, *, seed: int = 0, first_bin: int = 11_000, n_price: int = 40, level: int = 0,
              tiers: bool = True, scale: float = 1e6) -> LiquidationGrid:  # fmt: skip
    """Columns `first` .. `first + n - 1` after T0, of random heavy-tailed densities."""
    spec = LEVELS[level]
    density = np.random.default_rng(seed).lognormal(0, 3, (n, 6, 2, n_price)).astype(np.float32) * np.float32(scale)
    time_ms = T0 + spec.interval_ms * np.arange(first, first + n)
    return LiquidationGrid(
        time=time_ms.astype("datetime64[ms]"),
        first_bin=first_bin,
        bin_width=BIN_WIDTH * spec.price_factor,
        long_usd=density[:, :, 0].sum(axis=1),
        short_usd=density[:, :, 1].sum(axis=1),
        tier_source=(lambda i: (density[:, i, 0], density[:, i, 1])) if tiers else None,
    )


def make_series(first: int, n: int, *, seed: int = 0) -> pl.DataFrame:
    start = T0 + STEP * (np.arange(first, first + n) - 1)
    values = np.random.default_rng(seed).random((2, n))
    frame = pl.DataFrame({"time": start, "close": values[0], "funding_rate": values[1]})
    return frame.with_columns(pl.col("time").cast(TIME))


def make_prints(times_ms: list[int], *, notional: float = 1.0) -> list[Liquidation]:
    return [Liquidation(t, Side.LONG, 60_000.0 + i, 0.5, notional + i) for i, t in enumerate(times_ms)]


def assert_same_density(got: LiquidationGrid, put: LiquidationGrid) -> None:
    """Equal up to float16, on whatever window `got` has."""
    np.testing.assert_array_equal(got.time, put.time.astype("datetime64[ms]"))
    at = put.first_bin - got.first_bin
    for mine, theirs in ((got.long_usd, put.long_usd), (got.short_usd, put.short_usd)):
        inside = mine[:, at : at + put.n_price]
        tiny = theirs.max(axis=1, keepdims=True) * 2.0**-38
        assert (np.abs(inside - theirs) <= theirs * F16 + tiny).all()
        assert mine.sum() == pytest.approx(inside.sum())


class CacheContract:
    """What holds on any server. Subclasses supply `url`."""

    @pytest.fixture
    def raw(self, url: str) -> Iterator[Any]:
        """The server itself, so that the cache does not vouch for itself."""
        with redis.Redis.from_url(url) as client:
            client.flushall()
            yield client

    @pytest.fixture
    def cache(self, url: str, raw: Any) -> Iterator[Cache]:  # noqa: ARG002  # raw empties the server first
        cache = Cache(url, ttl_s=TTL_S)
        yield cache
        cache.close()

    @pytest.fixture
    def reader(self, url: str) -> Iterator[Cache]:
        """A second process, as far as Redis can tell."""
        reader = Cache(url, ttl_s=TTL_S)
        yield reader
        reader.close()

    # columns

    def test_nothing_stored_reads_as_none(self, cache: Cache) -> None:
        assert cache.get_columns(BTC, 0, T0, T0 + TILE_MS) is None
        assert cache.get_series(BTC, 0, T0, T0 + TILE_MS) is None
        assert cache.get_live(BTC) is None
        assert cache.get_progress() is None
        assert cache.get_statuses() == []
        assert cache.get_liquidations(BTC, 0, T0).schema == pl.Schema(LIQUIDATIONS)

    def test_columns_come_back_as_they_were_put(self, cache: Cache) -> None:
        grid = make_grid(50, 120)
        cache.put_columns(BTC, 0, grid)
        got = cache.get_columns(BTC, 0, T0, T0 + 2 * TILE_MS)
        assert got is not None
        assert (got.first_bin, got.bin_width, got.n_price) == (11_000, BIN_WIDTH, 40)
        assert_same_density(got, grid)

    def test_start_is_exclusive_and_end_inclusive(self, cache: Cache) -> None:
        cache.put_columns(BTC, 0, make_grid(90, 20))
        got = cache.get_columns(BTC, 0, T0 + 94 * STEP, T0 + 99 * STEP)
        assert got is not None
        assert got.time.astype(np.int64).tolist() == [T0 + STEP * i for i in range(95, 100)]

    def test_tiles_with_different_windows_are_read_on_their_union(self, cache: Cache) -> None:
        low, high = make_grid(90, 6, first_bin=10_990, n_price=30), make_grid(96, 6, first_bin=11_005, n_price=50)
        cache.put_columns(BTC, 0, low)
        cache.put_columns(BTC, 0, high)
        got = cache.get_columns(BTC, 0, T0, T0 + 2 * TILE_MS, tiers=True)
        assert got is not None
        assert (got.first_bin, got.n_price) == (10_990, 65)
        for part, rows in ((low, slice(0, 6)), (high, slice(6, 12))):
            cut = replace(got, time=got.time[rows], long_usd=got.long_usd[rows], short_usd=got.short_usd[rows])
            assert_same_density(cut, part)

    def test_a_window_that_moves_within_a_tile_keeps_the_earlier_columns(self, cache: Cache) -> None:
        before, after = make_grid(1, 3, first_bin=11_000), make_grid(4, 3, first_bin=10_970, n_price=90)
        cache.put_columns(BTC, 0, before)
        cache.put_columns(BTC, 0, after)
        got = cache.get_columns(BTC, 0, T0, T0 + 3 * STEP)
        assert got is not None
        assert_same_density(got, before)

    def test_a_coarse_level_has_its_own_lattice(self, cache: Cache) -> None:
        grid = make_grid(1, 5, level=3, first_bin=5_500)
        cache.put_columns(BTC, 3, grid)
        got = cache.get_columns(BTC, 3, T0, T0 + 5 * LEVELS[3].interval_ms)
        assert got is not None
        assert got.bin_width == 0.002
        assert_same_density(got, grid)

    def test_stored_columns_never_change(self, cache: Cache, reader: Cache) -> None:
        cache.put_columns(BTC, 0, make_grid(1, 10, seed=1))
        first = cache.get_columns(BTC, 0, T0, T0 + 10 * STEP, tiers=True)
        assert first is not None
        cache.put_columns(BTC, 0, make_grid(5, 20, seed=2, scale=1e9, n_price=60))
        again = reader.get_columns(BTC, 0, T0, T0 + 10 * STEP, tiers=True)
        assert again is not None
        np.testing.assert_array_equal(again.long_usd[:, :40], first.long_usd)
        np.testing.assert_array_equal(again.short_usd[:, :40], first.short_usd)
        for tier in TIER_NAMES:
            np.testing.assert_array_equal(again.tier_usd("long", tier)[:, :40], first.tier_usd("long", tier))

    def test_a_quiet_column_keeps_its_precision_beside_a_loud_one(self, cache: Cache) -> None:
        grid = make_grid(1, 4, tiers=False)
        loudness = np.array([[1e-9], [1.0], [0.0], [1e9]], dtype=np.float32)
        grid = replace(grid, long_usd=grid.long_usd * loudness, short_usd=grid.short_usd * loudness)
        cache.put_columns(BTC, 0, grid)
        got = cache.get_columns(BTC, 0, T0, T0 + TILE_MS)
        assert got is not None
        assert_same_density(got, grid)

    def test_columns_put_out_of_order_are_read_in_order(self, cache: Cache) -> None:
        whole = make_grid(1, 8)
        for rows in (slice(4, 8), slice(0, 4)):
            part = replace(whole, time=whole.time[rows], long_usd=whole.long_usd[rows],
                           short_usd=whole.short_usd[rows], tier_source=None)  # fmt: skip
            cache.put_columns(BTC, 0, part)
        got = cache.get_columns(BTC, 0, T0, T0 + 8 * STEP)
        assert got is not None
        assert_same_density(got, whole)

    def test_columns_put_piece_by_piece_are_there_in_the_end_and_written_once_a_tile(
        self, cache: Cache, raw: Any
    ) -> None:
        cache.put_columns(BTC, 0, make_grid(40, 3, seed=9))  # stays as it is
        pieces = [make_grid(first, n, seed=first) for first, n in ((30, 20), (50, 50), (100, 8), (108, 60), (170, 5))]
        coarse = [make_grid(first, n, level=3, seed=first) for first, n in ((2, 3), (5, 4))]
        written = raw.info("commandstats")["cmdstat_set"]["calls"]
        with cache.gathering(BTC) as columns:
            for piece in pieces:
                columns.put(0, piece)
            for piece in coarse:
                columns.put(3, piece)
        # Totals and tiers of two tiles and of a coarse one, and the epoch with each.
        assert raw.info("commandstats")["cmdstat_set"]["calls"] - written == 3 * 3
        found = cache.get_columns(BTC, 0, 0, 2**42)
        assert found is not None
        cache.clear_market(BTC)
        cache.put_columns(BTC, 0, make_grid(40, 3, seed=9))
        for piece in pieces:
            cache.put_columns(BTC, 0, piece)
        one_by_one = cache.get_columns(BTC, 0, 0, 2**42)
        assert one_by_one is not None
        np.testing.assert_array_equal(found.time, one_by_one.time)
        np.testing.assert_array_equal(found.long_usd, one_by_one.long_usd)
        np.testing.assert_array_equal(found.short_usd, one_by_one.short_usd)

    def test_tiers_sum_to_the_totals(self, cache: Cache) -> None:
        cache.put_columns(BTC, 0, make_grid(90, 20))
        got = cache.get_columns(BTC, 0, T0, T0 + 2 * TILE_MS, tiers=True)
        assert got is not None
        for side in Side:
            total = sum(got.tier_usd(side, tier).astype(float) for tier in got.tiers)
            np.testing.assert_allclose(total, got.side_usd(side), rtol=2 * F16)

    def test_without_tiers_a_grid_holds_totals_only(self, cache: Cache) -> None:
        cache.put_columns(BTC, 0, make_grid(1, 5))
        cache.put_columns(BTC, 0, make_grid(6, 5, tiers=False))
        for tiers in (False, True):  # the second five have none: half a tier would be a wrong tier
            got = cache.get_columns(BTC, 0, T0, T0 + TILE_MS, tiers=tiers)
            assert got is not None
            with pytest.raises(ParameterError, match="totals only"):
                got.tier_usd("long", "50x+")

    def test_an_unbounded_range_reads_what_there_is(self, cache: Cache) -> None:
        grid = make_grid(90, 200)
        cache.put_columns(BTC, 0, grid)
        got = cache.get_columns(BTC, 0, 0, 2**53)
        assert got is not None
        assert_same_density(got, grid)

    @pytest.mark.parametrize(
        "grid",
        [
            make_grid(1, 2, level=3),
            replace(make_grid(1, 2), time=np.array([T0 + 1, T0 + STEP], "datetime64[ms]")),
            replace(make_grid(1, 2), long_usd=np.full((2, 40), np.nan, np.float32)),
            replace(make_grid(1, 2), long_usd=np.full((2, 40), -1, np.float32)),
        ],
        ids=["lattice of another level", "times off the level", "not finite", "negative"],
    )
    def test_columns_that_do_not_fit_the_level_are_refused(self, cache: Cache, grid: LiquidationGrid) -> None:
        with pytest.raises(ParameterError):
            cache.put_columns(BTC, 0, grid)

    # memory of the process

    def test_a_cache_filled_anew_is_not_answered_from_memory(self, cache: Cache, reader: Cache) -> None:
        cache.put_columns(BTC, 0, make_grid(0, 96, seed=1))
        assert reader.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS) is not None
        cache.clear_markets()
        assert reader.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS) is None
        second = make_grid(0, 96, seed=2)
        cache.put_columns(BTC, 0, second)
        got = reader.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS)
        assert got is not None
        assert_same_density(got, second)

    def test_a_flushed_server_is_not_answered_from_memory(self, cache: Cache, raw: Any) -> None:
        cache.put_columns(BTC, 0, make_grid(0, 96))
        assert cache.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS) is not None
        raw.flushall()
        assert cache.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS) is None

    def test_a_growing_tile_is_read_as_it_is_now(self, cache: Cache, reader: Cache) -> None:
        for n in (3, 4):
            cache.put_columns(BTC, 0, make_grid(n, 1, seed=n))
            got = reader.get_columns(BTC, 0, T0, T0 + TILE_MS)
            assert got is not None
            assert len(got.time) == n - 2

    def test_a_complete_tile_is_fetched_once(self, cache: Cache, raw: Any) -> None:
        cache.put_columns(BTC, 0, make_grid(0, 96))
        cache.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS - 1)
        before = raw.info("stats")["total_net_output_bytes"]
        cache.get_columns(BTC, 0, T0 - 1, T0 + TILE_MS - 1)
        assert raw.info("stats")["total_net_output_bytes"] - before < 10_000

    # damaged entries

    @pytest.mark.parametrize("kept", [slice(-7), slice(1, None), slice(0)], ids=["cut short", "shifted", "empty"])
    def test_damaged_entries_name_their_key(self, cache: Cache, raw: Any, kept: slice) -> None:
        cache.put_columns(BTC, 0, make_grid(1, 5))
        cache.get_columns(BTC, 0, T0, T0 + TILE_MS)
        key = f"liqheat:v1:{BTC}:tile:0:{T0 // TILE_MS}"
        payload = raw.get(key)
        assert isinstance(payload, bytes)
        raw.set(key, payload[kept])
        with pytest.raises(CorruptEntry, match=key):
            cache.get_columns(BTC, 0, T0, T0 + TILE_MS)

    def test_a_damaged_status_is_named(self, cache: Cache, raw: Any) -> None:
        raw.hset("liqheat:v1:statuses", BTC, b'{"exchange": "simulated"}')
        with pytest.raises(CorruptEntry, match=BTC):
            cache.get_statuses()

    # series, live, status

    def test_series_come_back_with_their_missing_values(self, cache: Cache) -> None:
        frame = make_series(90, 20).with_columns(funding_rate=pl.when(pl.int_range(20) % 3 > 0).then("funding_rate"))
        cache.put_series(BTC, 0, frame)
        got = cache.get_series(BTC, 0, T0, T0 + 2 * TILE_MS)
        assert got is not None
        assert got.equals(frame)

    def test_series_rows_belong_to_the_columns_of_their_close(self, cache: Cache) -> None:
        cache.put_series(BTC, 0, make_series(90, 20))
        cache.put_columns(BTC, 0, make_grid(90, 20))
        span = (T0 + 94 * STEP, T0 + 99 * STEP)
        series, grid = cache.get_series(BTC, 0, *span), cache.get_columns(BTC, 0, *span)
        assert series is not None
        assert grid is not None
        np.testing.assert_array_equal(series["time"].dt.epoch("ms").to_numpy() + STEP, grid.time.astype(np.int64))

    def test_stored_series_rows_never_change(self, cache: Cache) -> None:
        first = make_series(1, 10, seed=1)
        cache.put_series(BTC, 0, first)
        cache.put_series(BTC, 0, make_series(5, 20, seed=2).with_columns(volume=pl.lit(1.0)))
        got = cache.get_series(BTC, 0, T0, T0 + TILE_MS)
        assert got is not None
        assert got.height == 24
        assert got.head(10).select(first.columns).equals(first)
        assert got["volume"].null_count() == 10

    def test_series_of_other_types_are_refused(self, cache: Cache) -> None:
        with pytest.raises(InputError, match="close"):
            cache.put_series(BTC, 0, make_series(1, 2).with_columns(pl.col("close").cast(pl.String)))

    def test_the_live_column_is_replaced(self, cache: Cache) -> None:
        for seed in (1, 2):
            grid, series = make_grid(7, 1, seed=seed), make_series(7, 1, seed=seed)
            cache.put_live(BTC, grid, series)
            live = cache.get_live(BTC)
            assert live is not None
            np.testing.assert_array_equal(live[0].long_usd, grid.long_usd)
            np.testing.assert_array_equal(live[0].tier_usd("short", "5-9x"), grid.tier_usd("short", "5-9x"))
            assert live[1].equals(series)

    def test_statuses_come_by_rank(self, cache: Cache) -> None:
        second = replace(STATUS, symbol="ETH/USDT:USDT", rank=1)
        for status in (second, STATUS):
            cache.put_status(status)
        assert cache.get_statuses() == [STATUS, second]

    def test_progress_of_the_start(self, cache: Cache) -> None:
        cache.put_progress(0.25, "history of BTC")
        assert cache.get_progress() == Progress(0.25, "history of BTC")

    # prints

    def test_a_worker_says_how_it_is_doing(self, cache: Cache) -> None:
        assert cache.get_health() == []
        cache.put_health(HEALTH)
        later = replace(HEALTH, time_ms=T0 + 3000, recorder=None, venues=())
        cache.put_health(later)
        assert cache.get_health() == [later]

    def test_workers_of_an_earlier_number_are_not_told_of(self, cache: Cache) -> None:
        second = replace(HEALTH, shard=1, shards=2, time_ms=T0 + 3000)
        for record in (HEALTH, second, replace(HEALTH, shards=2, time_ms=T0 + 2000)):
            cache.put_health(record)
        assert [(r.shard, r.shards) for r in cache.get_health()] == [(0, 2), (1, 2)]

    def test_a_damaged_record_of_health_is_named(self, cache: Cache, raw: Any) -> None:
        raw.hset("liqheat:v1:health", "0/1", b'{"time_ms": 1}')
        with pytest.raises(CorruptEntry, match="liqheat:v1:health 0/1"):
            cache.get_health()

    def test_prints_are_complete_and_in_order_of_time(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        burst = make_prints([T0] * 300 + [T0 + 1] * 5)
        cache.add_liquidations(BTC, burst[:200])
        cache.add_liquidations(BTC, burst[200:])
        got = cache.get_liquidations(BTC, T0, T0 + 1)
        assert got["price"].to_list() == [p.price for p in burst]
        assert got["time"].is_sorted()
        assert got["side"].unique().to_list() == ["long"]

    def test_equal_prints_of_one_batch_all_count(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        cache.add_liquidations(BTC, [Liquidation(T0, Side.SHORT, 1.0, 1.0, 1.0)] * 3)
        assert cache.get_liquidations(BTC, T0, T0).height == 3

    def test_the_same_history_again_changes_nothing(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        history = make_prints([T0, T0, T0 + 5, T0 + 9])
        for _ in range(2):
            cache.add_liquidations(BTC, history)
        cache.add_liquidations(BTC, make_prints([T0, T0, T0 + 5, T0 + 9, T0 + 12]))
        assert cache.get_liquidations(BTC, T0, T0 + 100)["price"].to_list() == [60_000.0 + i for i in range(5)]

    def test_late_prints_take_their_place(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        prints = make_prints([T0 + i for i in range(10)])
        for late_first in (prints[5:], prints[:3], prints[3:5]):
            cache.add_liquidations(BTC, late_first)
        assert cache.get_liquidations(BTC, T0, T0 + 9)["price"].to_list() == [p.price for p in prints]
        assert cache.get_liquidations(BTC, T0 + 2, T0 + 4).height == 3

    def test_a_full_stream_takes_no_older_history(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("estimator.cache.prints.MAX_PRINTS", 200)
        cache.put_status(STATUS)
        history = make_prints([T0 + i for i in range(1000)])
        for _ in range(2):
            cache.add_liquidations(BTC, history)
        got = cache.get_liquidations(BTC, T0, T0 + 1000)
        assert got["price"].to_list() == [p.price for p in history][-got.height :]
        assert 200 <= got.height < 400

    def test_beyond_the_limit_the_largest_prints_are_kept(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        cache.add_liquidations(BTC, make_prints([T0 + i for i in range(20)], notional=1000.0))
        got = cache.get_liquidations(BTC, T0, T0 + 100, limit=5)
        assert got["notional_usd"].to_list() == [1015.0, 1016.0, 1017.0, 1018.0, 1019.0]

    def test_prints_of_different_sources_never_mix(self, cache: Cache) -> None:
        others = [replace(STATUS, source="agent-based market, seed 8"), replace(STATUS, origin=Origin.RECORDED)]
        for n, status in enumerate((STATUS, *others), start=1):
            cache.put_status(status)
            cache.add_liquidations(BTC, make_prints([T0] * n))
            assert cache.get_liquidations(BTC, T0, T0).height == n

    def test_a_mark_gives_what_came_since_late_prints_included(self, cache: Cache) -> None:
        quiet = replace(STATUS, symbol="ETH/USDT:USDT")
        for status in (STATUS, quiet):
            cache.put_status(status)
        cache.add_liquidations(BTC, make_prints([T0, T0 + 5, T0 + 5]))
        (first, mark), (none, start) = (cache.get_liquidations_from(s, T0 + 1) for s in (STATUS, quiet))
        assert (first.height, none.height) == (2, 0)
        marks = {BTC: mark, quiet.id: start}
        assert cache.get_liquidations_after([STATUS, quiet], marks) == {}
        cache.add_liquidations(BTC, make_prints([T0 + 2, T0 + 7]))
        cache.add_liquidations(quiet.id, make_prints([T0 + 3]))
        news = cache.get_liquidations_after([STATUS, quiet], marks)
        assert {i: new["time"].dt.epoch("ms").to_list() for i, (new, _) in news.items()} == {
            BTC: [T0 + 2, T0 + 7], quiet.id: [T0 + 3],
        }  # fmt: skip
        assert cache.get_liquidations_after([STATUS, quiet], {i: m for i, (_, m) in news.items()}) == {}

    def test_forgotten_prints_can_be_told_anew(self, cache: Cache, raw: Any) -> None:
        cache.put_status(STATUS)
        cache.add_liquidations(BTC, make_prints([T0 + 5]))
        cache.add_liquidations(BTC, make_prints([T0]))  # late: what says so must go as well
        cache.forget_liquidations(BTC)
        assert [key for key in raw.keys("*") if b":prints:" in key] == []
        cache.add_liquidations(BTC, make_prints([T0, T0 + 1]))
        assert cache.get_liquidations(BTC, T0, T0 + 9).height == 2

    def test_damaged_prints_are_named(self, cache: Cache, raw: Any) -> None:
        cache.put_status(STATUS)
        cache.add_liquidations(BTC, make_prints([T0]))
        (key,) = [key for key in raw.keys("*") if b":prints:" in key]
        raw.xadd(key, {"p": b"short"}, id=f"{T0}-*")
        with pytest.raises(CorruptEntry, match=key.decode()):
            cache.get_liquidations(BTC, T0, T0)

    def test_prints_need_a_source(self, cache: Cache) -> None:
        with pytest.raises(CacheError, match="put_status"):
            cache.add_liquidations(BTC, make_prints([T0]))

    # life time

    def fill(self, cache: Cache) -> None:
        cache.put_status(STATUS)
        cache.put_progress(1.0, "done")
        cache.put_columns(BTC, 0, make_grid(90, 20))
        cache.put_series(BTC, 0, make_series(90, 20))
        cache.put_live(BTC, make_grid(110, 1), make_series(110, 1))
        cache.add_liquidations(BTC, make_prints([T0]))

        async def view() -> bytes:
            return b"view"

        async def ask() -> None:
            await cache.get_or_compute("view", 60, view)
            await cache.aclose()

        asyncio.run(ask())

    def test_all_but_the_prints_expire(self, cache: Cache, raw: Any) -> None:
        self.fill(cache)
        ttl_s = {key.decode(): raw.ttl(key) for key in raw.keys("*")}
        prints = {key for key in ttl_s if ":prints:" in key}
        assert len(prints) == 1
        assert {ttl_s.pop(key) for key in prints} == {-1}
        assert len(ttl_s) == 12
        assert all(0 < ttl <= TTL_S for ttl in ttl_s.values())

    @pytest.mark.usefixtures("raw")
    def test_a_published_market_keeps_its_tiles(self, url: str) -> None:
        cache = Cache(url, ttl_s=1)
        cache.put_columns(BTC, 0, make_grid(90, 20))
        for _ in range(8):
            cache.put_status(STATUS)
            time.sleep(0.2)
        assert cache.get_columns(BTC, 0, T0, T0 + 2 * TILE_MS) is not None
        cache.close()

    def test_clearing_spares_the_prints_only(self, cache: Cache, raw: Any) -> None:
        self.fill(cache)
        cache.clear_markets()
        left = {key.decode().removeprefix("liqheat:v1:").split(":prints:")[0] for key in raw.keys("*")}
        assert left == {"epoch", BTC}

    # the web

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
    def test_a_server_that_drops_anything_when_full_is_refused(self, cache: Cache, raw: Any, policy: str) -> None:
        before = raw.config_get("maxmemory-policy")["maxmemory-policy"]
        raw.config_set("maxmemory-policy", policy)
        try:
            with pytest.raises(SettingsError, match=rf"maxmemory-policy {policy}.*volatile-lru"):
                cache.journal.check_kept()
        finally:
            raw.config_set("maxmemory-policy", before)

    def test_a_server_that_forgets_at_its_stop_is_warned_of(
        self, cache: Cache, raw: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = raw.config_get("appendonly", "maxmemory-policy", "maxmemory")
        try:
            for name, value in {"appendonly": "yes", "maxmemory-policy": "volatile-lru", "maxmemory": "64mb"}.items():
                raw.config_set(name, value)
            cache.journal.check_kept()
            assert caplog.messages == []
            raw.config_set("appendonly", "no")
            raw.config_set("maxmemory-policy", "noeviction")
            cache.journal.check_kept()
        finally:
            for name, value in before.items():
                raw.config_set(name, value)
        full, forgets = caplog.messages
        assert "noeviction" in full
        assert "set appendonly to yes" in forgets

    def test_a_server_whose_memory_is_full_is_worth_another_try(self, cache: Cache, raw: Any) -> None:
        before = raw.config_get("maxmemory", "maxmemory-policy")
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", "1")
        try:
            with pytest.raises(CacheUnavailable, match="refuses"):
                cache.journal.add([READING])
            with pytest.raises(CacheUnavailable, match="refuses"):
                cache.put_progress(0.5, "half")
        finally:
            for name, value in before.items():
                raw.config_set(name, value)
        assert len(cache.journal.add([READING])) == 1

    def test_ping_tells_whether_redis_answers(self, cache: Cache) -> None:
        async def ping(cache: Cache) -> bool:
            answer = await cache.ping()
            await cache.aclose()
            return answer

        assert asyncio.run(ping(cache))
        assert not asyncio.run(ping(Cache("unix:///nowhere/at/all")))

    def test_fifty_viewers_cost_one_computation(self, cache: Cache, reader: Cache) -> None:
        calls = []

        async def compute() -> bytes:
            calls.append(1)
            await asyncio.sleep(0.05)
            return b"picture"

        async def view(caches: list[Cache]) -> list[bytes]:
            asked = [caches[i % 2].get_or_compute("v", 60, compute) for i in range(50)]
            answers = await asyncio.gather(*asked)
            for c in caches:
                await c.aclose()
            return answers

        assert asyncio.run(view([cache, reader])) == [b"picture"] * 50
        assert len(calls) == 1

    def test_a_failed_computation_reaches_all_and_is_not_stored(self, cache: Cache) -> None:
        async def fail() -> bytes:
            await asyncio.sleep(0.01)
            raise LookupError("no such market")

        async def succeed() -> bytes:
            return b"ok"

        async def view() -> None:
            got = await asyncio.gather(*(cache.get_or_compute("v", 60, fail) for _ in range(5)), return_exceptions=True)
            assert [type(g) for g in got] == [LookupError] * 5
            assert await cache.get_or_compute("v", 60, succeed) == b"ok"
            await cache.aclose()

        asyncio.run(view())

    def test_a_viewer_who_leaves_does_not_stop_the_others(self, cache: Cache) -> None:
        async def compute() -> bytes:
            await asyncio.sleep(0.05)
            return b"ok"

        async def view() -> bytes:
            first, second = (asyncio.create_task(cache.get_or_compute("v", 60, compute)) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            answer = await second
            await cache.aclose()
            return answer

        assert asyncio.run(view()) == b"ok"

    def test_the_lock_of_a_dead_process_expires(self, cache: Cache, raw: Any) -> None:
        raw.set("liqheat:v1:lock:v", "someone else", px=150)

        async def compute() -> bytes:
            return b"ok" if raw.exists("liqheat:v1:lock:v") else b"computed without a lock"

        async def view() -> bytes:
            answer = await cache.get_or_compute("v", 60, compute)
            await cache.aclose()
            return answer

        began = time.monotonic()
        assert asyncio.run(view()) == b"ok"
        assert time.monotonic() - began > 0.1
        assert not raw.exists("liqheat:v1:lock:v")

    def test_a_lock_taken_over_is_not_released(self, cache: Cache, raw: Any) -> None:
        async def compute() -> bytes:
            raw.set("liqheat:v1:lock:v", "someone else")
            return b"ok"

        async def view() -> None:
            await cache.get_or_compute("v", 60, compute)
            await cache.aclose()

        asyncio.run(view())
        assert raw.get("liqheat:v1:lock:v") == b"someone else"

    def test_views_expire(self, cache: Cache) -> None:
        async def view() -> None:
            n = 0

            async def compute() -> bytes:
                nonlocal n
                n += 1
                return str(n).encode()

            assert await cache.get_or_compute("v", 0.05, compute) == b"1"
            assert await cache.get_or_compute("v", 0.05, compute) == b"1"
            await asyncio.sleep(0.1)
            assert await cache.get_or_compute("v", 0.05, compute) == b"2"
            await cache.aclose()

        asyncio.run(view())

    def test_updates_reach_a_hundred_readers_over_one_connection(self, cache: Cache, raw: Any) -> None:
        async def read(wanted: int) -> list[int]:
            got: list[int] = []
            async with aclosing(cache.updates()) as updates:
                async for message in updates:
                    assert message["market"] == BTC
                    got += [message["n"]] if message["n"] >= 0 else []
                    if len(got) == wanted:
                        break
            return got

        async def run() -> list[list[int]]:
            readers = [asyncio.create_task(read(20)) for _ in range(100)]
            await subscribed(raw)
            for n in range(20):
                await asyncio.to_thread(cache.publish, BTC, {"n": n})
            return await asyncio.wait_for(asyncio.gather(*readers), 10)

        assert asyncio.run(run()) == [list(range(20))] * 100

    def test_a_lost_subscription_comes_back_and_says_so(self, cache: Cache, raw: Any) -> None:
        async def run() -> list[dict[str, object]]:
            async with aclosing(cache.updates()) as updates:
                first = asyncio.ensure_future(anext(updates))
                await subscribed(raw)
                raw.client_kill_filter(_type="pubsub")
                got = [await asyncio.wait_for(first, 10)]
                cache.publish(BTC, {"n": 1})
                return [*got, await asyncio.wait_for(anext(updates), 10)]

        assert asyncio.run(run()) == [{"market": "*", "event": "resync"}, {"market": BTC, "n": 1}]

    def test_threads_share_a_cache(self, cache: Cache) -> None:
        grid = make_grid(0, 192)
        cache.put_columns(BTC, 0, grid)
        got: list[LiquidationGrid | None] = []
        threads = [
            threading.Thread(target=lambda: got.append(cache.get_columns(BTC, 0, T0 - 1, T0 + 2 * TILE_MS, tiers=True)))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 12
        for one in got:
            assert one is not None
            assert_same_density(one, grid)


async def subscribed(raw: Any) -> None:
    """Wait until someone, and only one connection, listens to the updates."""
    for _ in range(500):
        ((_, n),) = raw.pubsub_numsub("liqheat:v1:updates")
        if n:
            assert n == 1
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody subscribed")


class TestOnBundledValkey(CacheContract):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with BundledServer(tmp_path_factory.mktemp("data")) as server:
            yield server.url


class TestOnPlainRedis(CacheContract):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        binary = shutil.which("redis-server")
        if binary is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("no redis-server on the PATH")
        folder = tmp_path_factory.mktemp("redis")
        socket = folder / "s"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
        with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(socket)
                yield f"unix://{socket}"
            finally:
                process.terminate()


def wait_for(path: Path) -> None:
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


# without a server


def test_an_unreachable_redis_is_named_without_its_password() -> None:
    cache = Cache("redis://someone:hunter2@127.0.0.1:1/0")
    with pytest.raises(CacheUnavailable, match=r"redis://someone:\*\*\*@127.0.0.1:1.*REDIS_URL") as caught:
        cache.get_statuses()
    assert "hunter2" not in str(caught.value)


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        Cache("http://:hunter2@host")
    assert "hunter2" not in str(caught.value)


ARRAYS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(["<f2", "<f4", "<f8", "<i2", "<i8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=3,
)
META = st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none() | st.lists(st.booleans()), max_size=3)


@given(meta=META, arrays=ARRAYS)
def test_the_codec_returns_what_it_was_given(meta: dict[str, object], arrays: dict[str, codec.Array]) -> None:
    got_meta, got_arrays = codec.unpack("key", codec.pack(meta, arrays))
    assert got_meta == meta
    assert list(got_arrays) == list(arrays)
    for name, array in arrays.items():
        assert got_arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(got_arrays[name], array)


@given(arrays=ARRAYS, data=st.data())
def test_no_damaged_byte_goes_unnoticed(arrays: dict[str, codec.Array], data: st.DataObject) -> None:
    payload = bytearray(codec.pack({}, arrays))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptEntry, match="some key"):
        codec.unpack("some key", bytes(payload))


def _entry(raw: bytes) -> bytes:
    body = zstandard.ZstdCompressor().compress(raw)
    return b"LQHT\x01" + blake2b(body, digest_size=16).digest() + body


def test_a_small_entry_cannot_ask_for_all_memory() -> None:
    with pytest.raises(CorruptEntry, match="at most"):
        codec.unpack("k", _entry(bytes(300 << 20)))


@pytest.mark.parametrize(
    "header",
    [b"[" * 200_000, b"[]", b'{"meta":{},"arrays":[["a","<f4",[-1]]]}', b'{"meta":{},"arrays":[["a","<f4",[1e400]]]}'],
)
def test_a_header_that_is_none_is_a_corrupt_entry(header: bytes) -> None:
    with pytest.raises(CorruptEntry, match=r"^k: "):
        codec.unpack("k", _entry(len(header).to_bytes(4, "little") + header))


def test_the_codec_never_stores_objects() -> None:
    with pytest.raises(ValueError, match="cannot store object"):
        codec.pack({}, {"a": np.array([{}], dtype=object)})
