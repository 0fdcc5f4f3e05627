"""Several workers on one Redis and one history: each market is one worker's, none is nobody's."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import polars as pl

from estimator.cache import Cache
from estimator.domain import MINUTE_MS
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.okx import Okx
from estimator.follow import follow
from estimator.history import History
from estimator.live import LiveSource, Pace
from estimator.model.steps import STEP_MS
from estimator.redis_server import BundledServer
from estimator.worker import recording
from tests.venues.feed import Feed
from tests.venues.harness import IMPATIENT, NOW
from tests.venues.server import VenueServer, running
from tests.waiting import until

COINS = ("BTC", "ETH", "SOL", "XRP")
VENUES = (Okx, Bybit)
PACE = Pace(
    lag_s=0.0,
    open_interest_s=0.1,
    others_s=0.3,
    listing_s=5.0,
    grace_s=0.05,
    settle_s=20.0,
    longest_s=0.1,
    first_days=0.5,
)
MINUTES = 6
FOR_EVER = 2**42


@contextlib.asynccontextmanager
async def worker(server: VenueServer, url: str, root: Path, shard: tuple[int, int]) -> AsyncIterator[LiveSource]:
    """Run one worker of several, with connections of its own, while the block runs."""
    cache, history = Cache(url), History(root)
    options: dict[str, Any] = {"exchange_base": server.base, "patience": IMPATIENT, "throttle": False}
    venues = [make(clock=lambda: server.feed.now_ms, **options) for make in VENUES]
    with recording(cache, history, shard, interval_s=0.1) as published:
        source = LiveSource(
            venues, history, cache.journal, wanted=",".join(COINS), days=0.5, shard=shard, pace=PACE,
            clock=lambda: server.feed.now_ms,
        )  # fmt: skip
        following = follow(source, cache, "balanced", lambda _done, _text: None, published, shard=shard)
        task = asyncio.ensure_future(following)
        try:
            yield source
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()
    cache.close()


def test_two_workers_follow_every_market_once_and_record_it_whole(tmp_path: Path) -> None:
    root = tmp_path / "history"

    async def story(url: str) -> None:
        feed = Feed(NOW, days=1.0, coins=COINS, held=True)
        async with (
            running(feed) as server,
            worker(server, url, root, (0, 2)) as one,
            worker(server, url, root, (1, 2)) as two,
        ):
            cache, journal = Cache(url), Cache(url).journal
            wanted = {f"{venue}:{coin}/USDT:USDT" for venue in ("okx", "bybit") for coin in COINS}
            await until(lambda: {s.id for s in cache.get_statuses() if s.progress == 1.0} == wanted)
            shares = [{m.id for m in await asyncio.to_thread(source.markets)} for source in (one, two)]
            assert shares[0] | shares[1] == wanted
            assert not shares[0] & shares[1]
            assert all(shares)
            venues_and_coins = [(v, c) for v in ("okx", "bybit") for c in COINS]
            await until(lambda: all(server.hears(v, c, prints=True) for v, c in venues_and_coins))
            begin_ms = feed.now_ms
            for _ in range(6 * MINUTES):
                await feed.advance(10_000)
                await asyncio.sleep(0.05)
            over_ms = feed.now_ms // STEP_MS * STEP_MS
            await until(lambda: all(s.last_ms == over_ms for s in cache.get_statuses()))
            await until(lambda: journal.length() == 0)
            assert len(cache.get_statuses()) == len(wanted)
            cache.close()
            check(server, begin_ms, wanted)

    def check(server: VenueServer, begin_ms: int, wanted: set[str]) -> None:
        history = History(root)
        last_ms = server.feed.now_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS
        for market_id in wanted:
            times = history.read("candles", market_id, 0, FOR_EVER)["time"].dt.epoch("ms")
            assert times.to_list() == list(range(times[0], last_ms + 1, MINUTE_MS))
        sent = Counter(
            (f"{venue}:{coin}/USDT:USDT", p.time_ms, p.side.value, p.price)
            for (venue, coin, _), p in server.delivered.items()
        )
        prints = pl.read_delta(f"{root}/liquidations").with_columns(pl.col("time").dt.epoch("ms"))
        stored = Counter(
            (f"{venue}:{symbol}", *rest)
            for venue, symbol, *rest in prints.filter(pl.col("time") >= begin_ms)
            .select("exchange", "symbol", "time", "side", "price").iter_rows()
        )  # fmt: skip
        assert sum(sent.values()) > 10
        assert stored == sent

    with BundledServer(tmp_path) as redis:
        asyncio.run(story(redis.url))
