"""What the worker does when Redis goes, comes back or forgets, and what it says of prints that nobody heard."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import redis

from estimator.cache import Cache
from estimator.domain import MINUTE_MS, LeverageBracket, Liquidation, Market, Side
from estimator.exchanges.binance import Binance
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.edge import Health
from estimator.history import History
from estimator.live.intake import Intake
from estimator.live.pace import Pace
from estimator.model.steps import STEP_MS
from tests.estimator.test_live import (
    BTC,
    FOR_EVER,
    World,
    assert_candles_are_the_venues,
    market_of,
)
from tests.estimator.test_pipeline import assert_same_bits, read
from tests.soak.world import Redis
from tests.venues.feed import Feed
from tests.venues.harness import NOW
from tests.venues.server import running


def tell(folder: Path, story: Any) -> None:
    """Tell a story of one worker whose Redis can be killed."""

    async def told(server: Redis) -> None:
        async with running(Feed(NOW, days=2.0, coins=("BTC",), held=True)) as venues:
            world = World(Cache(server.url), History(folder / "history"), venues)
            async with asyncio.timeout(100):
                await story(world, server)
            world.cache.close()

    server = Redis(folder / "redis")
    server.start()
    try:
        asyncio.run(told(server))
    finally:
        server.stop()


def prints_of(world: World, venue: str, since_ms: int, until_ms: int) -> tuple[Counter[Any], Counter[Any]]:
    """Prints that history has of a market, and those that its venue told."""
    rows = world.history.read("liquidations", f"{venue}:{BTC}", since_ms, until_ms)
    kept = Counter(rows.select(pl.col("time").dt.epoch("ms"), "side", "price", "quantity_base").iter_rows())
    told = world.feed.market(venue, "BTC").prints(since_ms, until_ms)
    return kept, Counter((p.time_ms, p.side.value, p.price, p.quantity_base) for p in told)


def test_a_redis_that_is_emptied_is_filled_again_while_the_worker_runs(tmp_path: Path) -> None:
    async def story(world: World, server: Redis) -> None:
        async with world.worker(Binance, Bybit):
            await world.ready(2)
            await world.play(6)
            await world.caught_up()
            markets = [await market_of(world, venue) for venue in (Binance, Bybit)]
            before = [read(world.cache, market) for market in markets]
            with redis.Redis.from_url(server.url) as raw:
                raw.flushall()
            await world.ready(2)
            for market, stored in zip(markets, before, strict=True):
                after = read(world.cache, market)
                assert after.columns.keys() == stored.columns.keys()
                for level, grid in stored.columns.items():
                    assert_same_bits(after.columns[level], grid)
            await world.play(6)
            await world.caught_up()
        for venue in ("binance", "bybit"):
            assert_candles_are_the_venues(world, venue, until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)
            kept, told = prints_of(world, venue, NOW, world.feed.now_ms)
            assert not kept - told

    tell(tmp_path, story)


def test_a_redis_that_was_gone_for_minutes_has_cost_nothing(tmp_path: Path) -> None:
    async def story(world: World, server: Redis) -> None:
        market = await market_of(world, Bybit)
        async with world.worker(Bybit):
            await world.ready()
            await world.play(3)
            away_ms = world.feed.now_ms
            server.kill()
            await world.play(8)
            back_ms = world.feed.now_ms
            server.start()
            await world.until(lambda: world.cache.journal.length() == 0)
            await world.ready()
            await world.play(6)
            await world.caught_up()
            live = read(world.cache, market)
            assert [g for g in live.status.gaps if g.what in ("candles", "liquidations")] == []
            times = live.columns[0].time.astype("datetime64[ms]").astype(int).tolist()
            assert {t for t in range(away_ms, back_ms) if t % STEP_MS == 0} <= set(times)
        assert_candles_are_the_venues(world, "bybit", until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)
        kept, told = prints_of(world, "bybit", away_ms, back_ms)
        assert told
        assert kept == told

    tell(tmp_path, story)


def test_a_redis_that_has_lost_what_it_took_last_is_told_again(tmp_path: Path) -> None:
    async def story(world: World, server: Redis) -> None:
        market = await market_of(world, Bybit)
        async with world.worker(Bybit):
            await world.ready()
            await world.play(3)
            await world.caught_up()
            on_disk, saved = tmp_path / "redis" / "redis", tmp_path / "saved"
            shutil.copytree(on_disk, saved)
            then_ms = world.feed.now_ms
            await world.play(11)
            await world.caught_up()
            lost_ms = world.feed.now_ms
            server.kill()
            shutil.rmtree(on_disk)
            shutil.copytree(saved, on_disk)
            server.start()

            def missing() -> set[int]:
                grid = world.cache.get_columns(market.id, 0, then_ms, FOR_EVER)
                times = [] if grid is None else grid.time.astype("datetime64[ms]").astype(int).tolist()
                return {t for t in range(then_ms + 1, world.feed.now_ms + 1) if t % STEP_MS == 0} - set(times)

            await world.until(lambda: not missing())
            await world.play(6)
            await world.caught_up()
            assert not missing()
        kept, told = prints_of(world, "bybit", then_ms, lost_ms)
        assert told
        assert kept == told

    tell(tmp_path, story)


def test_what_nobody_heard_is_a_gap_and_not_nothing(tmp_path: Path) -> None:
    async def story(world: World, _server: Redis) -> None:
        market = await market_of(world, Bybit)
        async with world.worker(Bybit):
            await world.ready()
            await world.play(8)
            stopped_ms = world.feed.now_ms
        await world.play(20, step_s=0.0)
        began_ms = world.feed.now_ms
        async with world.worker(Bybit):
            await world.ready()
            await world.play(12)
            await world.caught_up()
            stored = read(world.cache, market)
        (gap,) = [g for g in stored.status.gaps if g.what == "liquidations"]
        assert stopped_ms - 2 * MINUTE_MS <= gap.start_ms <= stopped_ms
        assert began_ms <= gap.end_ms <= began_ms + MINUTE_MS
        rows = stored.series[0].with_columns(start=pl.col("time").dt.epoch("ms"))
        realised = rows.select("start", total=pl.col("long_liquidated_usd") + pl.col("short_liquidated_usd"))
        before_any = realised.filter(pl.col("start") + STEP_MS <= NOW)
        assert before_any["total"].null_count() == before_any.height > 100
        unheard = realised.filter(pl.col("start") >= gap.start_ms, pl.col("start") + STEP_MS <= gap.end_ms)
        assert unheard["total"].null_count() == unheard.height >= 3
        heard = realised.filter(pl.col("start") >= gap.end_ms)
        assert heard["total"].null_count() == 0
        assert heard.height >= 1
        assert world.history.read("connections", market.id, 0, FOR_EVER)["connected"].to_list() == [True, False, True]

    tell(tmp_path, story)


class Street:
    """A venue that tells of prints as they are put, and of nothing else."""

    name, capabilities = (
        "street",
        SimpleNamespace(bulk_open_interest=True, bulk_funding=True, ratio_history=None, liquidations="full"),
    )

    def __init__(self) -> None:
        self.health = Health()
        self.told: asyncio.Queue[tuple[Market, Liquidation]] = asyncio.Queue()

    async def watch_candles(self, _markets: Sequence[Market]) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    async def watch_liquidations(self, _markets: Sequence[Market]) -> AsyncIterator[tuple[Market, Liquidation]]:
        while True:
            yield await self.told.get()


def test_what_waits_for_redis_is_bounded_and_prints_that_had_to_go_are_counted_and_a_gap(tmp_path: Path) -> None:
    server, market = Redis(tmp_path), Market("street", BTC, "linear", (LeverageBracket(0.0, 100.0, 0.004),))
    clock = SimpleNamespace(now=1000)

    async def story() -> None:
        cache, street = Cache(server.url), Street()
        venues: Any = {"street": street}
        intake = Intake(venues, cache.journal, Pace(longest_s=0.1), lambda: clock.now, most_waiting=5)
        intake.hear(venues["street"], [market])
        reading = asyncio.ensure_future(_drain(intake))
        try:
            await _print(street, market, clock, 20)
            assert intake.dropped >= 20 - 2 * 6  # a batch on its way, and as many as may wait
            dropped, gone_ms = intake.dropped, clock.now
            server.start()
            await asyncio.sleep(1.5)
            await _print(street, market, clock, 3)
            assert intake.dropped == dropped
            await asyncio.sleep(0.5)
            delivered = [d.entry for d in cache.journal.read("test", 100, 100)]
            prints = sum(e.n_rows for e in delivered if e.table == "liquidations")
            assert prints == 23 - dropped
            changes = pl.concat([e.frame() for e in delivered if e.table == "connections"])
            assert changes["connected"].to_list() == [False, True]
            start_ms, end_ms = changes["time"].dt.epoch("ms")
            assert 1000 <= start_ms <= gone_ms < end_ms
        finally:
            reading.cancel()
            await intake.end()
            cache.close()

    try:
        asyncio.run(story())
    finally:
        server.stop()


async def _drain(intake: Intake) -> None:
    async for _ in intake.updates():
        pass


async def _print(street: Street, market: Market, clock: Any, count: int) -> None:
    for _ in range(count):
        clock.now += 10
        street.told.put_nowait((market, Liquidation(clock.now, Side.LONG, 100.0, 1.0, 100.0)))
        await asyncio.sleep(0.01)
