"""A worker that is killed again and again must end where one that never was ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from estimator.domain import MINUTE_MS
from estimator.model.grid import LEVELS, LiquidationGrid
from tests.soak.account import (
    Check,
    no_mistakes,
    nothing_waits,
    owed_prints,
    recomputed,
    same_cache,
    same_candles,
    same_columns,
    same_observations,
    shown,
    unchanged,
    whole_tables,
)
from tests.soak.world import Side, World, until, world

KINDS: Final = ("starting", "running", "committing", "compacting", "down for minutes", "redis", "both")
_WEIGHTS: Final = (8, 12, 10, 6, 6, 5, 3)
_LONGEST: Final = 60  # steps that are played before a kill
_Tell = Callable[[int, str], None]


@dataclass
class Outcome:
    """What a run of kills has shown."""

    checks: list[Check] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    minutes: float = 0.0
    prints: int = 0

    @property
    def good(self) -> bool:
        """Whether everything held and was held against something."""
        return not any(check.wrong for check in self.checks)


@dataclass
class _Killer:
    """Kills one side of a world."""

    world: World
    side: Side
    luck: random.Random
    settled: bool = False  # had all of its past once, which reaches back from when it was fetched
    snapshots: list[dict[tuple[str, int], LiquidationGrid]] = field(default_factory=list)

    async def strike(self, kind: str) -> None:
        """Start the worker if it does not run, kill it at a random moment of a kind, and see what it showed."""
        side, luck = self.side, self.luck
        calls = len(side.server.calls)
        if not side.alive:
            side.start()
        if kind == "starting":
            await until(lambda: len(side.server.calls) > calls or side.listening(), "a first request")
            await asyncio.sleep(luck.uniform(0.0, 2.0))
            await side.kill()
        else:
            await until(side.listening, f"{side.name}: listening")
            await until(lambda: self.settled or side.caught_up(), f"{side.name}: its past", side.behind)
            self.settled = True
            await self._strike_running(kind)
        self._look()

    async def _strike_running(self, kind: str) -> None:
        side, luck = self.side, self.luck
        if kind == "committing":
            await self._while_watching(luck.choice(("liquidations", "candles", "columns", "open_interest")), ".parquet")
        elif kind == "compacting":
            await self._while_watching(luck.choice(("liquidations", "open_interest", "candles")), ".checkpoint.parquet")
        else:
            await self._after(
                luck.uniform(0.0, _LONGEST * self.world.step_s),
                side.process.kill if kind != "redis" else side.redis.kill,
            )
        if kind in ("redis", "both"):
            if kind == "both":
                side.die_with_redis(self.world.feed.now_ms, self.world.step_s)
            await asyncio.sleep(luck.uniform(0.0, 1.0))
            side.redis.start()
        if kind == "redis":
            await asyncio.sleep(1.0)
            side.keep_alive()
            return
        await side.ended()
        if kind == "down for minutes":
            await self.world.play(luck.randint(1, _LONGEST))

    async def _after(self, seconds: float, strike: Callable[[], None]) -> None:
        """Play until a moment, which may lie anywhere within a step."""
        struck = asyncio.Event()

        def do() -> None:
            strike()
            struck.set()

        asyncio.get_running_loop().call_later(seconds, do)
        await self.world.play(10 * _LONGEST, struck.is_set)
        await struck.wait()

    async def _while_watching(self, table: str, ending: str) -> None:
        """Play until a new file appears in a table: its commit is under way; then kill at once or a little later."""
        struck, late_s = threading.Event(), self.luck.choice((0.0, 0.0, 0.002, 0.005, 0.01, 0.03))
        folder, pid = Path(self.side.history.root) / table, self.side.process.pid

        def watch() -> None:
            before = _files(folder, ending)
            deadline = time.monotonic() + 20.0
            while time.monotonic() < deadline and not _files(folder, ending) - before:
                time.sleep(0.0005)
            time.sleep(late_s)
            os.kill(pid, signal.SIGKILL)
            struck.set()

        watching = asyncio.ensure_future(asyncio.to_thread(watch))
        await self.world.play(100 * _LONGEST, struck.is_set)
        await watching

    def _look(self) -> None:
        """Remember what is on the page of markets that are whole: it must never change."""
        whole = [s.id for s in self.side.cache.get_statuses() if s.progress == 1.0 and s.loaded]
        grids = {(m, level): shown(self.side.cache, m, level) for m in whole for level in range(len(LEVELS))}
        self.snapshots.append({at: grid for at, grid in grids.items() if grid is not None})


async def kill_again_and_again(
    folder: Path,
    moments: int,
    seed: int,
    *,
    venues: tuple[str, ...] = (
        "binance",
        "bybit",
        "gate",
    ),  # the others keep no open interest of each moment to catch up with
    coins: tuple[str, ...] = ("BTC", "ETH"),
    prints_per_minute: float = 40.0,
    days: float = 1.0,
    kinds: tuple[str, ...] = KINDS,
    tell: _Tell = lambda _done, _what: None,
) -> Outcome:
    """Run two workers, kill one of them so many times, and compare them.

    Parameters
    ----------
    folder : Path
        For everything.
    moments, seed : int
    venues, coins : tuple of str
        Venues that keep the open interest of each moment, for a worker that was down to catch up with.
    prints_per_minute : float
        Of each market.
    days : float
        Of past.
    kinds : tuple of str
        Kinds of moments to choose from, see `KINDS`; each comes at least once if there are as many.
    tell : callable
        Called with how many moments are over, and what comes next.
    """
    luck, outcome = random.Random(seed), Outcome()  # noqa: S311 - no secret
    async with world(folder, ("whole", "broken"), venues, coins, prints_per_minute=prints_per_minute,
                     days=days, compact_s=1.0) as made:  # fmt: skip
        whole, broken = made.sides
        whole.start()
        await until(whole.listening, "whole: listening")
        await until(whole.caught_up, "whole: its past", whole.behind)
        killer = _Killer(made, broken, luck)
        for at, kind in enumerate(_plan(luck, moments, kinds)):
            tell(at, kind)
            await killer.strike(kind)
            outcome.kinds[kind] += 1
        tell(moments, "at rest")
        if not broken.alive:
            broken.start()
        await until(broken.listening, "broken: listening")
        await made.at_rest()
        outcome.minutes = (made.feed.now_ms - made.feed.start_ms) / MINUTE_MS
        outcome.checks = await _compare(whole, broken, killer)
    outcome.prints = len(whole.server.delivered)
    return outcome


async def _compare(whole: Side, broken: Side, killer: _Killer) -> list[Check]:
    checks = [unchanged(killer.snapshots, broken), *same_cache(whole, broken)]
    for side in (whole, broken):
        await side.stop()
    checks += [same_candles(whole, broken), same_observations(whole, broken), *same_columns(whole, broken)]
    for side in (whole, broken):
        for check in (*owed_prints(side), whole_tables(side), nothing_waits(side), no_mistakes(side)):
            check.what = f"{side.name}: {check.what}"
            checks.append(check)
    never_lost = next(check for check in checks if check.what.startswith("whole: prints lost"))
    never_lost.wrong = [f"lost though nobody was killed: {never_lost.compared}"] if never_lost.compared else []
    return [*checks, await recomputed(broken)]


def _plan(luck: random.Random, moments: int, kinds: tuple[str, ...]) -> list[str]:
    weights = [w for kind, w in zip(KINDS, _WEIGHTS, strict=True) if kind in kinds]
    chosen: list[str] = [kind for kind in KINDS if kind in kinds]
    plan = chosen[:moments] + luck.choices(chosen, weights, k=max(moments - len(chosen), 0))
    luck.shuffle(plan)
    return plan


def _files(folder: Path, ending: str) -> set[str]:
    found: set[str] = set()
    try:
        for entry in os.scandir(folder):
            if entry.is_dir():
                found.update(e.path for e in os.scandir(entry.path) if e.name.endswith(ending))
    except FileNotFoundError:  # not made yet, or deleted meanwhile
        pass
    return found
