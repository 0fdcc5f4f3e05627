"""Six venues with every fault at random, Redis and history now and then gone: nothing is lost, doubled or made up."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import MINUTE_MS, Gap
from estimator.model.grid import LEVELS
from estimator.model.steps import STEP_MS as CLOSE_MS
from estimator.pipeline import MOST_GAPS, STALE_MS
from tests.soak.account import (
    FOR_EVER,
    Check,
    closes_of,
    known_at,
    no_mistakes,
    nothing_waits,
    owed_prints,
    recomputed,
    same_bits,
    shown,
    status_of,
    whole_tables,
    within,
)
from tests.soak.world import Side, World, until, world
from tests.venues.faults import muddled, wounded
from tests.venues.server import VENUES

COINS: Final = ("BTC", "ETH")
_SILENCE_S: Final = 3.0  # after which a worker here takes a socket for dead
_WARM_S: Final = 120.0  # before, memory still fills
_GIVEN_BACK_S: Final = 45.0  # a worker gives memory back every 20 s
_FLAT: Final = 1.1  # the last third of the trouble over the one before
_KEPT: Final = 1.4  # what allocators may keep, over what a worker needs that saw no trouble: measured 1.25 to 1.29
_MEGA: Final = 1 << 20
_NUMBER: Final = re.compile(r"[A-Z]{3,}")
_Tell = Callable[[float, str], None]
_Maker = Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Outcome:
    """What a run of faults has shown."""

    checks: list[Check] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    minutes: float = 0.0
    prints: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds, MB
    at_rest: tuple[float, float] = (0.0, 0.0)  # MB of the calm worker and of the troubled one, after all of it

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return not any(check.wrong for check in self.checks)


class Troubles:
    """Makes trouble for one side of a world, one thing after another and several at once."""

    def __init__(self, side: Side, luck: random.Random) -> None:
        self._side, self._luck = side, luck
        self.count: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()

    async def go_on(self, seconds: float, *, rest_s: float) -> None:
        """Make trouble for so long, then wait until all of it is over."""
        until_s = time.monotonic() + seconds
        rare = until_s - seconds + self._luck.uniform(0.1, 0.3) * seconds
        while time.monotonic() < until_s:
            self._start(self._luck.choice(self._of_venues()))
            if time.monotonic() > rare:
                self._start(self._luck.choice((self._redis_stands_still, self._redis_dies, self._history_is_gone)))
                rare = time.monotonic() + self._luck.uniform(10.0, 30.0)
            await asyncio.sleep(self._luck.uniform(0.0, 2.0 * rest_s))
        await asyncio.gather(*self._under_way)

    def _of_venues(self) -> list[_Maker]:
        venue = self._luck.choice(VENUES)
        makers = (self._answer, self._answer, self._drop, self._refuse, self._silence, self._muddle, self._delist)
        return [partial(make, venue) for make in makers]

    def _start(self, make: _Maker) -> None:
        task = asyncio.ensure_future(make())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, venue: str) -> None:
        """Answer requests wrongly for a while."""
        luck = self._luck
        kinds: dict[str, dict[str, Any]] = {
            "slow": {"latency_s": luck.uniform(0.1, 2.0)},
            "time-out": {"latency_s": 12.0},
            "429": {"status": 429, "headers": {"retry-after": f"{luck.uniform(0.1, 3.0):.1f}"}},
            "418": {"status": 418, "headers": {"retry-after": f"{luck.uniform(0.5, 3.0):.1f}"}},
            "451": {"status": 451},
            "403": {"status": 403, "body": "<html>blocked</html>"},
            "500": {"status": 500},
            "502": {"status": 502, "body": "<html>bad gateway</html>"},
            "503": {"status": 503},
            "cut": {"cut_at": luck.uniform(0.05, 0.95)},
            "dropped": {"drop": True},
            "no JSON": {"status": 200, "body": "<html>maintenance</html>"},
            "drift": {"edit": lambda payload: wounded(payload, luck)},
        }
        kind = luck.choice(list(kinds))
        self.count[f"answers: {kind}"] += 1
        fault = self._side.server.faults[venue].add(times=luck.choice((1, 3, 10, 1000)), **kinds[kind])
        await asyncio.sleep(luck.uniform(0.5, 4.0))
        self._side.server.faults[venue].rest.remove(fault)

    async def _drop(self, venue: str) -> None:
        self.count["sockets dropped"] += 1
        await self._side.server.drop_sockets(venue)

    async def _refuse(self, venue: str) -> None:
        self.count["sockets refused"] += 1
        faults = self._side.server.faults[venue]
        faults.refuse_sockets = True
        await self._side.server.drop_sockets(venue)
        await asyncio.sleep(self._luck.uniform(0.2, 3.0))
        faults.refuse_sockets = False

    async def _silence(self, venue: str) -> None:
        self.count["sockets silent"] += 1
        self._side.server.faults[venue].silent = True
        await asyncio.sleep(self._luck.uniform(0.2, 3.0 * _SILENCE_S))
        self._side.server.faults[venue].silent = False
        await self._side.server.drop_sockets(venue)  # what was lost on it never comes

    async def _muddle(self, venue: str) -> None:
        self.count["messages muddled"] += 1
        feed = self._side.server.feed

        def price_of(message: Any) -> float:
            named = [coin for word in _NUMBER.findall(str(message)) for coin in feed.coins if word.startswith(coin)]
            return feed.market(venue, named[0]).price(feed.now_ms - 1) if named else float("nan")

        faults = self._side.server.faults[venue]
        faults.muddle = partial(muddled, self._luck, price_of)
        await asyncio.sleep(self._luck.uniform(0.5, 4.0))
        faults.muddle = None

    async def _delist(self, venue: str) -> None:
        self.count["coin delisted"] += 1
        gone = (venue, self._luck.choice(COINS))
        self._side.server.delisted.add(gone)
        await self._side.server.drop_sockets(venue)  # the market here trades on, and nobody would know
        await asyncio.sleep(self._luck.uniform(0.5, 4.0))
        self._side.server.delisted.discard(gone)
        await self._side.server.drop_sockets(venue)  # a venue does not list a market anew within a connection

    async def _redis_stands_still(self) -> None:
        self.count["Redis stood still"] += 1
        self._side.redis.signal(signal.SIGSTOP)
        await asyncio.sleep(self._luck.choice((0.3, 2.0, 7.0)))
        self._side.redis.signal(signal.SIGCONT)

    async def _redis_dies(self) -> None:
        self.count["Redis killed"] += 1
        self._side.redis.kill()
        await asyncio.sleep(self._luck.uniform(0.0, 3.0))
        self._side.redis.start()

    async def _history_is_gone(self) -> None:
        self.count["history unwritable"] += 1
        _take_away(self._side.history.root)
        await asyncio.sleep(self._luck.uniform(0.5, 4.0))
        _bring_back(self._side.history.root)


def _take_away(root: str) -> None:
    """Put a file where a folder was: nobody can write there, nor make a new one."""
    Path(root).rename(f"{root}.away")
    Path(root).touch()


def _bring_back(root: str) -> None:
    Path(root).unlink()
    Path(f"{root}.away").rename(root)


async def trouble(
    folder: Path,
    seconds: float,
    seed: int,
    *,
    venues: tuple[str, ...] = VENUES,
    coins: tuple[str, ...] = COINS,
    prints_per_minute: float = 20.0,
    rest_s: float = 0.4,
    days: float = 1.0,
    tell: _Tell = lambda _seconds, _what: None,
) -> Outcome:
    """Follow six venues with a calm worker and a troubled one, and compare them.

    Parameters
    ----------
    folder : Path
        For everything.
    seconds : float
        How long trouble is made. [s]
    seed : int
    venues, coins : tuple of str
    prints_per_minute : float
        Of each market.
    rest_s : float
        Between two troubles, on average. [s]
    days : float
        Of past.
    tell : callable
        Called with the seconds gone and what was done so far.
    """
    luck, outcome = random.Random(seed), Outcome()  # noqa: S311 - no secret
    options = {"silence_s": _SILENCE_S, "compact_s": 2.0, "days": days}
    async with world(folder, ("calm", "troubled"), venues, coins, prints_per_minute=prints_per_minute,
                     **options) as made:  # fmt: skip
        calm, troubled = made.sides
        await _begin(made)
        troubled.patience_s = 0.3
        troubles = Troubles(troubled, luck)
        making = asyncio.ensure_future(troubles.go_on(seconds, rest_s=rest_s))
        await _play(made, troubled, making, outcome, tell)
        outcome.faults = troubles.count
        await _settle(made)
        await asyncio.sleep(_GIVEN_BACK_S if seconds >= _WARM_S else 0.0)
        outcome.at_rest = _memory_mb(calm), _memory_mb(troubled)
        outcome.minutes = (made.feed.now_ms - made.start_ms) / MINUTE_MS
        outcome.checks = await _compare(calm, troubled)
    outcome.prints = len(calm.server.delivered)
    if seconds >= _WARM_S:
        outcome.checks.append(memory_is_flat(outcome))
    return outcome


async def _begin(made: World) -> None:
    """Start the workers and wait until all markets are there; the clock stands still, so that all have one past."""
    for side in made.sides:
        side.remember_interest(made.start_ms - MINUTE_MS)
        side.start()
    for side in made.sides:
        await until(side.listening, f"{side.name}: listening", side.deaf)
        await until(side.caught_up, f"{side.name}: the past", side.behind)
    await _come_together(made)


async def _come_together(made: World) -> None:
    """Play until every market is there and has closed its last step, on all sides."""
    for _ in range(30):
        await made.play(6)
        for side in made.sides:
            await until(side.caught_up, f"{side.name}: its past", timeout_s=2.0, fatal=False)
        if all(side.caught_up() for side in made.sides):
            break
    else:
        raise TimeoutError([side.behind() for side in made.sides])


async def _play(made: World, troubled: Side, making: asyncio.Future[None], outcome: Outcome, tell: _Tell) -> None:
    began = time.monotonic()
    while not making.done():
        await made.play(6, making.done)
        troubled.keep_alive()
        gone = time.monotonic() - began
        outcome.memory.append((gone, _memory_mb(troubled)))
        minutes = (made.feed.now_ms - made.start_ms) // MINUTE_MS
        tell(gone, f"{minutes} minutes of the market, {outcome.memory[-1][1]:.0f} MB")
    await making


async def _settle(made: World) -> None:
    """Let everything come back, then play until all have closed a step together."""
    for side in made.sides:
        side.keep_alive()
        side.patience_s = 0.5
        await until(side.listening, f"{side.name}: listening", side.deaf)
    await _come_together(made)
    for side in made.sides:
        side.patience_s = 120.0
    await made.at_rest()


async def _compare(calm: Side, troubled: Side) -> list[Check]:
    checks = [same_where_data_is(calm, troubled)]
    for side in (calm, troubled):
        await side.stop()
    checks += [candles_or_gaps(calm, troubled), observations_or_gaps(calm, troubled)]
    for side in (calm, troubled):
        for check in (*owed_prints(side), whole_tables(side), nothing_waits(side), no_mistakes(side)):
            check.what = f"{side.name}: {check.what}"
            checks.append(check)
    return [*checks, await recomputed(troubled)]


def candles_or_gaps(calm: Side, troubled: Side) -> Check:
    """A candle is the venue's, or it is not there and a gap says so."""
    check = Check("candles are right, or a gap")
    for market_id in calm.market_ids():
        one, two = (s.history.read("candles", market_id, 0, FOR_EVER) for s in (calm, troubled))
        check.compared += one.height
        both = (x.join(y.select("time"), on="time", how="semi").iter_rows() for x, y in ((one, two), (two, one)))
        for a, b in zip(*both, strict=True):
            if a != b:
                check.wrong.append(f"{market_id}: {a} and {b}")
        gaps, told_ms = _gaps(troubled, market_id, "candles")
        first_ms = int(two["time"].dt.epoch("ms")[0])  # how far back its past was fetched is a matter of when
        for missing in one.join(two.select("time"), on="time", how="anti")["time"].dt.epoch("ms"):
            if missing > max(first_ms, told_ms) and not within(gaps, missing, missing + MINUTE_MS):
                check.wrong.append(f"{market_id}: no candle of {missing} and no gap")
    return check


def observations_or_gaps(calm: Side, troubled: Side) -> Check:
    """What was known at a close is what the venue said, or a gap says that it could not be asked."""
    check = Check("observations at closes are right, or a gap")
    for market_id in calm.market_ids():
        closes = closes_of(calm, market_id)
        one, two = (s.history.read("open_interest", market_id, 0, FOR_EVER) for s in (calm, troubled))
        gaps, told_ms = _gaps(troubled, market_id, "open_interest")
        stamped = two.with_columns(pl.col("time").dt.epoch("ms").cast(pl.Float64).alias("stamp")).select(
            "time", "stamp"
        )
        told = zip(
            closes.to_list(), known_at(one, closes), known_at(two, closes), known_at(stamped, closes), strict=True
        )
        for close, a, b, stamp in told:
            fresh = stamp is not None and close - stamp <= STALE_MS  # the last known, which counts for a while
            if close - CLOSE_MS >= told_ms or a == b:
                right = a == b or fresh or within(gaps, close - CLOSE_MS, close)
                check.expect(right, f"{market_id} at {close}: {a}, {b}")
    return check


def same_where_data_is(calm: Side, troubled: Side) -> Check:
    """Columns are those of the calm side up to the first thing that the troubled one was not told."""
    check = Check("columns are equal where data is")
    differ = 0
    for market_id in calm.market_ids():
        until_ms = min(_first_candle_apart(calm, troubled, market_id), _first_seen_apart(calm, troubled, market_id))
        differ += until_ms < FOR_EVER
        for level in range(len(LEVELS)):
            one, two = (shown(s.cache, market_id, level) for s in (calm, troubled))
            if one is None or two is None:
                check.expect(one is two, f"{market_id} level {level}: none on one side")
                continue
            before = one.time < np.datetime64(until_ms, "ms")
            check.compared += int(before.sum())
            if before.any() and not same_bits(two, one.pick(before)):
                check.wrong.append(f"{market_id} level {level}")
    check.note = f"{differ} of {len(calm.market_ids())} markets were not told everything"
    return check


def memory_is_flat(outcome: Outcome) -> Check:
    """Trouble takes no more the longer it lasts, and gives back what it took, but for what allocators keep of pasts.

    Those are read again whenever Redis or history is gone.
    """
    calm, troubled = outcome.at_rest
    _, mega = np.array(outcome.memory).T
    thirds = [float(np.nanmedian(third)) for third in np.array_split(mega, 3)]
    check = Check("memory is flat, and at rest near that of a calm worker")
    by_thirds = ", ".join(f"{third:.0f}" for third in thirds)
    check.note = f"calm {calm:.0f} MB, after trouble {troubled:.0f} MB; by thirds of the trouble {by_thirds} MB"
    check.expect(thirds[2] <= _FLAT * thirds[1], check.note)
    check.expect(troubled <= _KEPT * calm, check.note)
    return check


def _first_candle_apart(calm: Side, troubled: Side, market_id: str) -> int:
    """Close of the first step whose candles are not the same."""
    one, two = (s.history.read("candles", market_id, 0, FOR_EVER) for s in (calm, troubled))
    apart = one.join(two, on=one.columns, how="anti", nulls_equal=True)["time"].dt.epoch("ms")
    return FOR_EVER if apart.is_empty() else int(apart[0]) // CLOSE_MS * CLOSE_MS + CLOSE_MS


def _first_seen_apart(calm: Side, troubled: Side, market_id: str) -> int:
    """First close with another open interest."""
    closes = closes_of(calm, market_id)
    one, two = (known_at(s.history.read("open_interest", market_id, 0, FOR_EVER), closes) for s in (calm, troubled))
    return next((c for c, a, b in zip(closes.to_list(), one, two, strict=True) if a != b), FOR_EVER)


def _gaps(side: Side, market_id: str, what: str) -> tuple[list[Gap], int]:
    """Gaps of a kind that the page is told of, and the time from which on it is told of every one: of the latest."""
    told = status_of(side, market_id).gaps
    since_ms = told[0].start_ms if len(told) >= MOST_GAPS else 0
    return [gap for gap in told if gap.what == what], since_ms


def _memory_mb(side: Side) -> float:
    try:
        pages = int(Path(f"/proc/{side.process.pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGA
