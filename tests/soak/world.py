"""A world for workers under test: one market, and for each worker its own venue server, Redis, history and process.

All workers see the same market, whose clock stands still until `World.play` turns it. So one that was killed misses
nothing that another has seen, unless the clock is turned while it is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from estimator.cache import Cache
from estimator.domain import DAY_MS, TIME, Gap
from estimator.history import History, with_market
from estimator.model.steps import STEP_MS as CLOSE_MS
from estimator.redis_server import BundledServer
from tests.estimator.live_worker import begin, set_clock
from tests.venues.feed import STEP_MS, Feed
from tests.venues.server import VenueServer, running

START: Final = 20_605 * DAY_MS - 25 * 60_000 + 30_000  # 23:35:30 UTC: a book is saved at midnight
PATIENT_S: Final = 10.0  # a side that is given less than this may go without
REDIS_LATE_S: Final = 2.0  # so long its file may lag behind its answers while the disk is slow
NO_PAST: Final = ("bitget", "hyperliquid")  # venues that keep no open interest: their markets begin when asked
NO_PRINTS: Final = ("hyperliquid",)  # venues that tell of none


class Redis:
    """The bundled server at one address, through being killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._address = folder, folder / "address"
        self._server = BundledServer(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"unix://{self._address}"

    def start(self) -> None:
        """Start it, on the files it left."""
        self._server = BundledServer(self._folder)
        self._server.__enter__()
        self._address.unlink(missing_ok=True)
        self._address.symlink_to(self._server.url.removeprefix("unix://"))

    def kill(self) -> None:
        """End it as a loss of power to its process would."""
        self.signal(signal.SIGKILL)
        self._server.__exit__(None, None, None)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. to have it stand still for a while."""
        assert self._server.pid is not None
        os.kill(self._server.pid, number)

    def stop(self) -> None:
        """End it properly."""
        self._server.__exit__(None, None, None)


@dataclass
class Side:
    """One worker and all that belongs to it."""

    name: str
    folder: Path
    server: VenueServer
    redis: Redis
    venues: tuple[str, ...]
    compact_s: float = 0.0
    silence_s: float = 60.0
    days: float = 1.0  # of past; the first half is shown before the rest
    patience_s: float = 120.0  # how long the clock waits for what it must know at a close
    process: Any = None
    crashes: list[int | None] = field(default_factory=list)
    unwritten: list[Gap] = field(default_factory=list)  # before it died together with its Redis
    _read: int = 0
    _known: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = Cache(self.redis.url)
        self.history = History(self.folder / "history")

    @property
    def coins(self) -> tuple[str, ...]:
        return self.server.feed.coins

    @property
    def clock_file(self) -> Path:
        return self.folder / "clock"

    @property
    def witness(self) -> Path:
        """What its journal has acknowledged, a JSON list of entries a line."""
        return self.folder / "witness"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def market_ids(self) -> list[str]:
        return [f"{venue}:{coin}/{_quote(venue)}" for venue in self.venues for coin in self.coins]

    def start(self) -> None:
        """Start the worker."""
        told = (self.redis.url, self.history.root, self.server.base, str(self.clock_file), str(self.witness))
        arguments = (*told, ",".join(self.venues), ",".join(self.coins), self.compact_s, self.silence_s, self.days)
        self.process = begin(self.log, arguments)

    def remember_interest(self, time_ms: int) -> None:
        """Have history know an open interest of the markets whose venues tell none of the past.

        As if from an earlier run: else they were tried again, with growing pauses, until a step has closed.
        """
        for market_id in (m for m in self.market_ids() if m.startswith(NO_PAST)):
            value = self.server.feed.market(*coin_of(market_id)).open_interest(time_ms)
            row = pl.DataFrame({"time": [time_ms], "open_interest": [value]}).with_columns(pl.col("time").cast(TIME))
            self.history.append("open_interest", with_market(market_id, row))

    def die_with_redis(self, now_ms: int, step_s: float) -> None:
        """Kill Redis after the worker: what it answered but had not written is known to nobody, which is a gap."""
        self.redis.kill()
        self.unwritten.append(Gap(now_ms - int(REDIS_LATE_S / step_s) * STEP_MS, now_ms, "journal"))

    async def kill(self) -> None:
        """Kill the worker and wait until its sockets are gone."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> None:
        """Wait until the process that was killed is gone."""
        await asyncio.to_thread(self.process.join, 10.0)
        await until(lambda: not self.server.sessions, f"{self.name}: sockets of a killed worker")

    async def stop(self) -> None:
        """Ask the worker to end; what waits is written."""
        os.kill(self.process.pid, signal.SIGINT)
        await self.ended()
        assert self.process.exitcode == 0, self.process.exitcode

    def keep_alive(self) -> None:
        """Do as a supervisor does: start a worker that ended by itself, and take note."""
        if self.process is not None and not self.process.is_alive():
            self.crashes.append(self.process.exitcode)
            self.start()

    def listening(self) -> bool:
        """Whether its worker would be told of everything that happens."""
        return not self.deaf()

    def deaf(self) -> list[str]:
        """Markets of which its worker would not be told."""
        told = [
            (v, c, p) for v in self.venues for c in self.coins for p in (False, True) if not p or v not in NO_PRINTS
        ]
        return [f"{v} {c} {'prints' if p else 'candles'}" for v, c, p in told if not self.server.hears(v, c, prints=p)]

    def behind(self) -> list[str]:
        """Markets that have not closed their last step, or lack some of their past, and where they stand."""
        over_ms = self.server.feed.now_ms // CLOSE_MS * CLOSE_MS
        stand = {s.id: (s.last_ms - over_ms, s.progress) for s in self.cache.get_statuses()}
        return [f"{m}: {stand.get(m)}" for m in self.market_ids() if stand.get(m) != (0, 1.0)]

    def caught_up(self) -> bool:
        """Whether every market has closed its last step and has all of its past."""
        return not self.behind()

    def entries(self) -> Iterator[tuple[str, str, dict[str, list[Any]]]]:
        """Every entry that the journal acknowledged: table, market, columns."""
        if self.witness.exists():
            for line in self.witness.read_text().splitlines():
                yield from json.loads(line)

    def unasked(self, close_ms: int) -> list[str]:
        """Markets whose open interest at a coming close the worker has not yet written down."""
        self._follow_witness()
        feed = self.server.feed
        return [
            market_id
            for market_id in self.market_ids()
            if not _is(self._known.get(("open_interest", market_id)), close_ms, _interest(feed, market_id, close_ms))
        ]

    def _follow_witness(self) -> None:
        if not self.witness.exists():
            return
        with self.witness.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                for table, market_id, columns in json.loads(line):
                    if table == "open_interest":  # one that is told again to a Redis started again is not news
                        told = columns["time"][-1], columns[table][-1]
                        self._known[table, market_id] = max(told, self._known.get((table, market_id), told))


@dataclass
class World:
    """The market and its sides."""

    feed: Feed
    sides: list[Side]
    step_s: float = 0.05
    start_ms: int = START

    async def play(self, steps: int, stop: Callable[[], bool] = lambda: False) -> int:
        """Turn the clock, ten seconds a step, until it has made so many or `stop`; return how many were made.

        No step closes before every worker that runs knows the open interest to close it with: how often they ask
        in the time of the market is a matter of this machine's speed.
        """
        for done in range(steps):
            close_ms = (self.feed.now_ms // CLOSE_MS + 1) * CLOSE_MS
            if self.feed.now_ms + STEP_MS >= close_ms:
                await self._asked(close_ms, stop)
            if stop():
                return done
            await self.feed.advance(STEP_MS - self.feed.now_ms % STEP_MS)
            await asyncio.sleep(self.step_s)
        return steps

    async def _asked(self, close_ms: int, stop: Callable[[], bool]) -> None:
        for side in self.sides:
            deadline = time.monotonic() + side.patience_s
            while not stop() and side.alive and side.unasked(close_ms):
                if time.monotonic() > deadline:
                    if side.patience_s < PATIENT_S:
                        break
                    raise TimeoutError(f"{side.name}: no open interest for {close_ms} of {side.unasked(close_ms)}")
                await asyncio.sleep(self.step_s)
                await self.feed.tell_again()  # what failed is tried again when something is heard of it

    async def at_rest(self) -> None:
        """Play on until something has closed after all came together, and every worker has caught up."""
        await self.play(2 * CLOSE_MS // STEP_MS)
        for side in self.sides:
            await until(side.caught_up, f"{side.name}: the last close", side.behind)


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    names: Sequence[str],
    venues: tuple[str, ...],
    coins: tuple[str, ...],
    *,
    prints_per_minute: float,
    days: float = 1.0,
    **options: Any,
) -> AsyncIterator[World]:
    """Make a world whose sides have their servers; workers are started by whoever asks for it."""
    feed = Feed(START, days=days + 0.25, days_ahead=2.0, coins=coins, prints_per_minute=prints_per_minute, held=True)
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name in names:
            server = await stack.enter_async_context(running(feed))
            redis = Redis(folder / name / "data")
            redis.start()
            stack.callback(redis.stop)
            sides.append(Side(name, folder / name, server, redis, venues, days=days, **options))
            set_clock(sides[-1].clock_file, feed.now_ms)
            feed.clocks.append(partial(set_clock, sides[-1].clock_file))
        made = World(feed, sides)
        try:
            yield made
        finally:
            for side in sides:
                if side.alive:
                    side.process.kill()
                    side.process.join(10.0)
                side.cache.close()


async def until(
    true: Callable[[], Any],
    what: str,
    tell: Callable[[], object] = lambda: "",
    *,
    timeout_s: float = 120.0,
    fatal: bool = True,
) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            if not fatal:
                return
            raise TimeoutError(f"{what}: not within {timeout_s:g} s {tell()}")
        await asyncio.sleep(0.01)


def coin_of(market_id: str) -> tuple[str, str]:
    """Return venue and coin of a market id."""
    venue, _, symbol = market_id.partition(":")
    return venue, symbol.split("/")[0]


def _quote(venue: str) -> str:
    return "USDC:USDC" if venue == "hyperliquid" else "USDT:USDT"


def _interest(feed: Feed, market_id: str, close_ms: int) -> float:
    return feed.market(*coin_of(market_id)).open_interest(close_ms)


def _is(seen: tuple[int, float] | None, close_ms: int, value: float) -> bool:
    return seen is not None and close_ms - CLOSE_MS < seen[0] <= close_ms and math.isclose(seen[1], value, rel_tol=1e-6)
