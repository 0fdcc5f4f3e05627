"""Live venues → journal → history → grids: nothing lost, nothing twice, and the same grids after any interruption."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from estimator.cache import Cache
from estimator.domain import DAY_MS, MINUTE_MS, Market, Origin
from estimator.errors import SettingsError
from estimator.exchanges.base import MarketHistory
from estimator.exchanges.binance import Binance
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.hyperliquid import Hyperliquid
from estimator.exchanges.okx import Okx
from estimator.follow import follow
from estimator.history import History
from estimator.live import LiveSource, Pace, make_venues
from estimator.live.holders import Watching
from estimator.live.past import usable
from estimator.model.steps import STEP_MS
from estimator.pipeline import MarketFollower
from estimator.redis_server import BundledServer
from estimator.worker import recording
from tests.estimator.live_worker import begin, set_clock
from tests.estimator.test_pipeline import Stored, assert_same_bits, candle_gaps, read
from tests.venues.feed import Feed
from tests.venues.harness import IMPATIENT, NOW
from tests.venues.server import VenueServer, running
from tests.venues.wire_hyperliquid import HOLDERS_SHARE, holders

PACE = Pace(
    lag_s=0.0,
    open_interest_s=0.05,
    others_s=0.2,
    listing_s=3.0,
    grace_s=0.05,
    settle_s=20.0,
    longest_s=0.1,
    listen_s=0.02,
    account_s=0.01,
    positions_s=0.05,
    first_days=0.5,
)
DAYS = 1.0
BTC = "BTC/USDT:USDT"
FOR_EVER = 2**42
KILLS = 3


@dataclass
class World:
    """A worker's surroundings: a cache, a history, and the server of the venues."""

    cache: Cache
    history: History
    server: VenueServer
    source: LiveSource | None = None

    @property
    def feed(self) -> Feed:
        return self.server.feed

    @contextlib.asynccontextmanager
    async def worker(self, *venues: type[Any], wanted: str = "BTC") -> AsyncIterator[None]:
        """Run a worker while the block runs."""
        options = {"exchange_base": self.server.base, "patience": IMPATIENT, "throttle": False, "clock": self.clock}
        with recording(self.cache, self.history, interval_s=0.1) as published:
            made = [venue(**options) for venue in venues]
            source = LiveSource(
                made, self.history, self.cache.journal, wanted=wanted, days=DAYS, pace=PACE, clock=self.clock,
                watching=Watching(self.cache.positions.put),
            )  # fmt: skip
            task = asyncio.ensure_future(follow(source, self.cache, "balanced", lambda _done, _text: None, published))
            try:
                yield
                assert not task.done(), task.exception()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await source.close()

    def clock(self) -> int:
        return self.feed.now_ms

    async def until(self, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - what is waited for happens on the other side of a socket
                await asyncio.sleep(0.02)

    async def ready(self, count: int = 1) -> None:
        def started() -> bool:
            progress = self.cache.get_progress()
            statuses = self.cache.get_statuses()
            whole = len(statuses) >= count and all(s.progress == 1.0 for s in statuses)
            return whole and progress is not None and progress.done == 1.0

        await self.until(started)
        await self.until(lambda: len(self.server.sessions) >= count)
        await asyncio.sleep(0.3)  # sockets subscribe

    async def caught_up(self) -> None:
        """Wait until every market's last step is the last one that is over."""
        over_ms = self.feed.now_ms // STEP_MS * STEP_MS
        await self.until(lambda: all(s.last_ms == over_ms for s in self.cache.get_statuses()))

    async def play(self, minutes: int, *, step_s: float = 0.04) -> None:
        for _ in range(6 * minutes):
            await self.feed.advance(10_000)
            await asyncio.sleep(step_s)

    async def play_until(self, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not true():
                await self.play(1)

    def candles(self, market_id: str) -> pl.DataFrame:
        return self.history.read("candles", market_id, 0, FOR_EVER)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with (
        BundledServer(tmp_path_factory.mktemp("one")) as one,
        BundledServer(tmp_path_factory.mktemp("two")) as two,
    ):
        yield one.url, two.url


def tell(servers: tuple[str, str], folder: Path, story: Callable[..., Awaitable[None]], *, worlds: int = 1) -> None:
    """Tell a story of one or two worlds before the same venues."""

    async def told() -> None:
        async with running(Feed(NOW, days=2.0, coins=("BTC",), held=True)) as server:
            made = []
            for at, url in enumerate(servers[:worlds]):
                with redis.Redis.from_url(url) as raw:
                    raw.flushall()
                made.append(World(Cache(url), History(folder / str(at)), server))
            async with asyncio.timeout(150):
                await story(*made)
            for world in made:
                world.cache.close()

    asyncio.run(told())


def recomputed(world: World, market: Market) -> Stored:
    """What a plain backfill of what history holds would publish."""
    names: Any = ("candles", "open_interest", "long_short_ratio", "funding", "liquidations")
    frames: list[Any] = [world.history.read(name, market.id, 0, FOR_EVER) for name in names]
    candles = usable(frames[0])
    world.cache.clear_markets()
    source: Any = type("Past", (), {"origin": Origin.LIVE, "description": "live"})()
    follower = MarketFollower(market, 0, source, world.cache, "balanced")
    follower.backfill(MarketHistory(market, MINUTE_MS, candles, *frames[1:]))
    return read(world.cache, market)


async def market_of(world: World, venue: type[Any]) -> Market:
    made = venue(exchange_base=world.server.base, patience=IMPATIENT, throttle=False, clock=world.clock)
    try:
        listings = await made.fetch_markets()
        found: Market = next(one.market for one in listings if one.market.symbol == BTC)
        if made.capabilities.brackets == "public":
            found = replace(found, brackets=(await made.fetch_brackets(found)).brackets)
        return found
    finally:
        await made.close()


def assert_candles_are_the_venues(world: World, venue: str, *, until_ms: int) -> None:
    """History has every minute once, as the venue has it."""
    rows = world.candles(f"{venue}:{BTC}")
    starts = rows["time"].dt.epoch("ms").to_list()
    assert starts == list(range(starts[0], until_ms, MINUTE_MS))
    truth = [world.feed.market(venue, "BTC").closed(t) for t in starts]
    for name in ("open", "high", "low", "close", "volume"):
        assert rows[name].to_list() == [getattr(c, name) for c in truth], name


def test_a_first_start_gives_a_map_and_then_the_whole_past(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.worker(Binance, Bybit, Okx):
            await world.until(lambda: any(s.loaded for s in world.cache.get_statuses()))
            early = next(s for s in world.cache.get_statuses() if s.loaded)
            assert early.progress < 1.0
            shown = world.cache.get_columns(early.id, 0, 0, FOR_EVER)
            assert shown is not None
            await world.ready(3)
            assert [s.id for s in world.cache.get_statuses()] == [f"{v}:{BTC}" for v in ("binance", "bybit", "okx")]
            assert all(s.first_ms <= NOW - 0.98 * DAY_MS for s in world.cache.get_statuses())
            await world.play(6)
            await world.caught_up()
            assert all(candle_gaps(s) == [] for s in world.cache.get_statuses())
        for venue in ("binance", "bybit", "okx"):
            assert_candles_are_the_venues(world, venue, until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)

    tell(servers, tmp_path, story)


def test_published_columns_are_what_history_gives(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        market = await market_of(world, Bybit)
        async with world.worker(Bybit):
            await world.ready()
            await world.play(16)
            await world.caught_up()
            live = read(world.cache, market)
        again = recomputed(world, market)
        for level, grid in live.columns.items():
            assert_same_bits(again.columns[level], grid)

    tell(servers, tmp_path, story)


def test_a_restart_gives_the_grids_of_an_uninterrupted_run(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(broken: World, whole: World) -> None:
        market = await market_of(broken, Binance)
        async with whole.worker(Binance):
            async with broken.worker(Binance):
                await broken.ready()
                await whole.ready()
                await whole.play(6, step_s=0.06)
                before = read(broken.cache, market)
            await whole.play(6, step_s=0.06)  # nobody listens for this long
            async with broken.worker(Binance):
                await broken.ready()
                await whole.play(6, step_s=0.06)
                await broken.caught_up()
                await whole.caught_up()
                after, never = read(broken.cache, market), read(whole.cache, market)
        for level, grid in before.columns.items():
            assert_same_bits(after.columns[level], grid)
        for level, grid in never.columns.items():
            assert_same_bits(after.columns[level], grid)
        assert candle_gaps(after.status) == []

    tell(servers, tmp_path, story, worlds=2)


def test_candles_a_dropped_socket_left_out_are_fetched(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.worker(Bybit):
            await world.ready()
            await world.feed.advance(10_000)
            world.server.faults["bybit"].refuse_sockets = True
            await world.server.drop_sockets("bybit")
            await world.play(4)
            world.server.faults["bybit"].refuse_sockets = False
            await world.until(lambda: bool(world.server.sessions))
            await asyncio.sleep(0.3)
            await world.play(6)
            await world.caught_up()
            (status,) = world.cache.get_statuses()
            assert candle_gaps(status) == []
        assert_candles_are_the_venues(world, "bybit", until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)

    tell(servers, tmp_path, story)


def test_a_venue_that_is_down_joins_later_and_stops_nobody(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        down = world.server.faults["bybit"].add(status=503, times=10**9)
        async with world.worker(Binance, Bybit):
            await world.ready()
            await world.play(6)
            await world.caught_up()
            assert [s.exchange for s in world.cache.get_statuses()] == ["binance"]
            down.times = 0
            await world.until(lambda: any("bybit" in session.host for session in world.server.sessions))
            await world.play_until(lambda: {s.exchange for s in world.cache.get_statuses()} == {"binance", "bybit"})
            await world.ready(2)
            await world.play(5)
            await world.caught_up()
        assert_candles_are_the_venues(world, "bybit", until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)

    tell(servers, tmp_path, story)


def test_markets_that_no_venue_lists_end_the_run_and_some_of_them_do_not(
    servers: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        async def listed(wanted: str) -> list[str]:
            venues = [made(exchange_base=world.server.base, patience=IMPATIENT) for made in (Binance, Bybit)]
            source = LiveSource(venues, world.history, world.cache.journal, wanted=wanted, pace=PACE)
            try:
                return [market.id for market in await asyncio.to_thread(source.markets)]
            finally:
                await source.close()

        with pytest.raises(SettingsError, match="NOPE: not listed by binance, bybit"):
            await listed("NOPE")
        assert await listed("BTC,NOPE") == [f"binance:{BTC}", f"bybit:{BTC}"]
        assert "NOPE: not listed by binance, bybit" in caplog.text
        world.server.faults["bybit"].add(status=503, times=99)
        assert await listed("NOPE") == []  # it may be one of the venue that does not answer

    tell(servers, tmp_path, story)


def test_contracts_that_a_venue_does_not_list_at_first_join_later(servers: tuple[str, str], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        down = world.server.faults["binance"].add(path="/fapi/", status=503, times=10**9)
        async with world.worker(Binance, wanted="BTC,BTC/USD:BTC"):
            await world.ready()
            assert [s.id for s in world.cache.get_statuses()] == ["binance:BTC/USD:BTC"]
            down.times = 0
            await world.play_until(lambda: len(world.cache.get_statuses()) >= 2)
            await world.ready(2)
            await world.play(5)
            await world.caught_up()
        assert_candles_are_the_venues(world, "binance", until_ms=world.feed.now_ms // MINUTE_MS * MINUTE_MS)

    tell(servers, tmp_path, story)


def test_a_venue_without_past_open_interest_starts_where_it_was_first_known(
    servers: tuple[str, str], tmp_path: Path
) -> None:
    async def story(world: World) -> None:
        async with world.worker(Hyperliquid):
            await world.play_until(lambda: any(s.loaded for s in world.cache.get_statuses()))
            (status,) = world.cache.get_statuses()
            assert NOW <= status.first_ms <= world.feed.now_ms

    tell(servers, tmp_path, story)


def test_positions_that_a_venue_publishes_are_summed_up_and_no_account_is_named(
    servers: tuple[str, str], tmp_path: Path
) -> None:
    async def story(world: World) -> None:
        market_id, accounts = "hyperliquid:BTC/USDC:USDC", holders(world.feed.market("hyperliquid", "BTC"))

        def held() -> list[float]:
            return [one.quantity(world.feed.now_ms) for one in accounts]

        def levels() -> float:
            prices = [one.liquidation_price(world.feed.now_ms) for one in accounts]
            return sum(quantity * price for quantity, price in zip(held(), prices, strict=True) if price is not None)

        def seen() -> bool:
            found = world.cache.positions.get([market_id]).get(market_id)
            if found is None or found.addresses < len(accounts):
                return False
            told = found.long_base + found.short_base, sum(found.long_usd) + sum(found.short_usd)
            return told == pytest.approx((sum(held()), levels()))

        async with world.worker(Hyperliquid):
            await world.until(lambda: "trades" in str([s.subscriptions for s in world.server.sessions]))
            await world.play(2)  # every account trades
            await world.play_until(lambda: 0.0 in held())
            await world.until(seen)  # and one has closed
            found = world.cache.positions.get([market_id])[market_id]
            now = world.feed.now_ms
            assert found.positions == sum(quantity > 0 for quantity in held())
            coverage = found.coverage(world.feed.market("hyperliquid", "BTC").open_interest(now))
            assert coverage is not None
            assert 0.4 * HOLDERS_SHARE < coverage.both <= HOLDERS_SHARE
            assert found.newest_ms <= now
        with redis.Redis.from_url(servers[0]) as raw:
            said = [raw.dump(key) or b"" for key in raw.scan_iter("*")]
        for account in accounts:
            assert not any(account.address.encode() in value for value in said)

    tell(servers, tmp_path, story)


def test_the_worker_killed_at_any_moment_loses_and_changes_nothing(servers: tuple[str, str], tmp_path: Path) -> None:
    witness, clock_file = tmp_path / "witness", tmp_path / "clock"

    async def story(world: World) -> None:
        markets = [await market_of(world, venue) for venue in (Binance, Bybit)]
        set_clock(clock_file, NOW)
        world.feed.clocks.append(partial(set_clock, clock_file))
        arguments = (servers[0], world.history.root, world.server.base, str(clock_file), str(witness))
        luck = random.Random(3)  # noqa: S311 - no secret
        shown = [await killed(world, arguments, luck.uniform(0.5, 12.0), markets) for _ in range(KILLS)]
        last = await killed(world, arguments, 6.0, markets, at_rest=True)
        with recording(world.cache, world.history, interval_s=0.1):
            await world.until(lambda: world.cache.journal.length() == 0)
        for market in markets:
            for early in shown:
                if early[market.id] is not None:  # killed before it had the whole past
                    assert_same_bits(last[market.id], early[market.id])
            assert_same_bits(recomputed(world, market).columns[0], last[market.id])
            end_ms = int(world.candles(market.id)["time"].dt.epoch("ms")[-1]) + MINUTE_MS
            assert_candles_are_the_venues(world, market.exchange, until_ms=end_ms)
            assert_prints_are_kept(world, market, witness)

    tell(servers, tmp_path, story)


async def killed(
    world: World, arguments: tuple[str, ...], minutes: float, markets: list[Market], *, at_rest: bool = False
) -> dict[str, Any]:
    """Run a worker for so long of the market's time, kill it and return the columns it showed by then."""

    async def play(length: float) -> None:
        for _ in range(int(6 * length)):
            await world.feed.advance(10_000)
            await asyncio.sleep(0.05)

    process = begin(Path(f"{world.history.root}.log"), arguments)
    try:
        while len(world.server.sessions) < len(markets):
            assert process.is_alive()
            await play(1 / 6)
        if at_rest:
            await world.ready(len(markets))
        await play(minutes)
        if at_rest:
            await world.caught_up()
        whole = {s.id for s in world.cache.get_statuses() if s.progress == 1.0}  # before, what is shown is provisional
        return {
            m.id: world.cache.get_columns(m.id, 0, 0, FOR_EVER, tiers=True) if m.id in whole else None for m in markets
        }
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
        await world.until(lambda: not world.server.sessions)


def assert_prints_are_kept(world: World, market: Market, witness: Path) -> None:
    """Everything acknowledged is in history, and nothing that the venue did not print, or twice."""
    rows = world.history.read("liquidations", market.id, 0, FOR_EVER)
    kept = Counter(rows.select(pl.col("time").dt.epoch("ms"), "side", "price", "quantity_base").iter_rows())
    acknowledged: Counter[Any] = Counter()
    for line in witness.read_text().splitlines():
        for table, market_id, columns in json.loads(line):
            if table == "liquidations" and market_id == market.id:
                acknowledged.update(zip(*(columns[n] for n in ("time", "side", "price", "quantity_base")), strict=True))
    feed = world.feed.market(market.exchange, "BTC").prints(NOW, world.feed.now_ms)
    printed = Counter((p.time_ms, p.side.value, p.price, p.quantity_base) for p in feed)
    assert acknowledged
    assert not acknowledged - kept  # a kill may come before the witness of what the journal had taken
    assert not kept - printed


@pytest.mark.parametrize("text", ["", " , "])
def test_a_choice_of_markets_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    async def made() -> None:
        journal: Any = None
        LiveSource([], History(tmp_path), journal, wanted=text)

    with pytest.raises(SettingsError, match="LIQHEAT_MARKETS"):
        asyncio.run(made())


def test_an_unknown_venue_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="mtgox"):
        make_venues("binance,mtgox")
