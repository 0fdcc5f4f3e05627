"""`Intake`: what arrives of venues, in an order and with stamps that a restart reproduces, journaled before it is seen.

- a closed candle is yielded once, in order, after those before it; what a stream left out is fetched first.
- an observation is stamped later than the last candle yielded before it, whatever its venue says: it was not known
  when that candle closed.
- what is yielded is in the journal before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final, Literal

import polars as pl

from estimator.cache.journal import Entry, Journal
from estimator.domain import MINUTE_MS, TIME, Candle, Liquidation, Market, Observation
from estimator.errors import CacheUnavailable, SourceError
from estimator.exchanges.base import MarketHistory, MarketUpdate
from estimator.exchanges.venue import Exchange
from estimator.history import TableName

_LOG: Final = logging.getLogger(__name__)
_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS
_PATIENT: Final = 3  # times a venue is asked for candles that it does not have
_MOST_PRINTS: Final = 50_000  # remembered, to tell equal ones apart
Kind = Literal["open_interest", "long_short_ratio", "funding"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are asked for and how long they are waited for. [s]

    Parameters
    ----------
    open_interest_s, others_s : float
        One round over the markets of a venue.
    listing_s : float
        Wait for the list of markets at the start; a venue that is slower joins later.
    grace_s : float
        Wait for a closed candle on the stream before it is fetched.
    settle_s : float
        Wait for the journal to reach history.
    longest_s : float
        Longest pause before another try.
    first_days, chunk_days : float
        Length of the past that is fetched first, and of the pieces of the rest. [days]
    """

    open_interest_s: float = 60.0
    others_s: float = 300.0
    listing_s: float = 10.0
    grace_s: float = 3.0
    settle_s: float = 60.0
    longest_s: float = 60.0
    first_days: float = 2.0
    chunk_days: float = 4.0


@dataclass(slots=True)
class _Tracked:
    """Where a market stands that is followed."""

    market: Market
    next_ms: int  # start of the closed candle to come
    latest: Candle
    stamped: dict[Kind, int]  # time of the last observation, as stored
    told: dict[Kind, int] = field(default_factory=dict)  # and as its venue said
    held: list[Candle] = field(default_factory=list)  # closed, waiting for those before them
    filling: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One thing that arrived: rows for the journal, an update for the page, or both."""

    market_id: str
    rows: tuple[tuple[TableName, dict[str, Any]], ...] = ()
    update: MarketUpdate | None = None


class Intake:
    """Takes in what the venues send, for one reader.

    Parameters
    ----------
    venues : dict
        By name.
    journal : Journal
    pace : Pace
    clock : callable
        Time in ms.
    """

    def __init__(self, venues: dict[str, Exchange], journal: Journal, pace: Pace, clock: Callable[[], int]) -> None:
        self._venues, self._journal, self._pace, self._clock = venues, journal, pace, clock
        self._tracked: dict[str, _Tracked] = {}
        self._arrived: asyncio.Queue[_Arrival | asyncio.Event] = asyncio.Queue()
        self._reading = False
        self._equal: Counter[tuple[str, Liquidation]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def updates(self) -> AsyncIterator[MarketUpdate]:
        """Yield what happens, for ever; of a market that is not tracked, its moving candle only."""
        self._reading = True
        try:
            while True:
                batch = [await self._arrived.get()]
                while not self._arrived.empty():
                    batch.append(self._arrived.get_nowait())
                await self._write_down([a for a in batch if isinstance(a, _Arrival)])
                for arrival in batch:
                    if isinstance(arrival, asyncio.Event):
                        arrival.set()
                    elif arrival.update is not None:
                        yield arrival.update
        finally:
            self._reading = False

    def hear(self, venue: Exchange, markets: Sequence[Market]) -> None:
        """Follow markets of a venue from now on."""
        pace = self._pace
        for work in (
            lambda: self._hear_candles(venue, markets),
            lambda: self._hear_prints(venue, markets),
            lambda: self._poll(markets, pace.open_interest_s, partial(self._ask_interest, venue)),
            lambda: self._poll(markets, pace.others_s, partial(self._ask_ratio, venue)),
            lambda: self._poll(markets, pace.others_s, partial(self._ask_funding, venue)),
        ):
            self.start(self._again(venue.name, work))

    def track(self, past: MarketHistory) -> None:
        """From now on take in what arrives of a market: it continues this past."""
        latest = candles_of(past.candles.tail(1))[0]
        frames: dict[Kind, pl.DataFrame] = {
            "open_interest": past.open_interest,
            "long_short_ratio": past.long_short_ratio,
            "funding": past.funding_rate,
        }
        stamped = {kind: int(f["time"].to_physical()[-1]) for kind, f in frames.items() if not f.is_empty()}
        self._tracked[past.market.id] = _Tracked(
            past.market, latest.time_ms + MINUTE_MS, latest, stamped, dict(stamped)
        )

    async def let_go(self, market: Market) -> None:
        """Take nothing more in of a market, and wait until the journal has what was taken."""
        self._tracked.pop(market.id, None)
        if self._reading:
            written = asyncio.Event()
            self._arrived.put_nowait(written)
            await written.wait()

    async def _write_down(self, arrivals: Sequence[_Arrival]) -> None:
        """Add what arrived to the journal, however long that takes."""
        rows: dict[tuple[TableName, str], list[dict[str, Any]]] = defaultdict(list)
        for arrival in arrivals:
            for table, row in arrival.rows:
                rows[table, arrival.market_id].append(row)
        entries = [Entry.of(table, market_id, rows_of(some)) for (table, market_id), some in rows.items()]
        while entries:
            try:
                await asyncio.to_thread(self._journal.add, entries)
                entries = []
            except CacheUnavailable as error:  # entries that were added after all are known by their keys
                _LOG.warning("%d entries wait for the journal: %s", len(entries), error)
                await asyncio.sleep(0.5)

    async def _again(self, name: str, work: Callable[[], Awaitable[bool]]) -> None:
        """Do some work again whenever it fails; no failure reaches another venue."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                if not await work():
                    return
            except SourceError as error:
                _LOG.warning("%s: %s", name, error)
            except Exception:  # noqa: BLE001 - the other venues go on
                _LOG.exception("%s: a mistake of this program", name)
            failures = 1 if time.monotonic() - began > 2 * self._pace.longest_s else failures + 1
            await asyncio.sleep(self.pause(failures))

    async def _hear_candles(self, venue: Exchange, markets: Sequence[Market]) -> bool:
        async for market, candle, closed in venue.watch_candles(markets):
            self._take_candle(market, candle, closed=closed)
        return True

    async def _hear_prints(self, venue: Exchange, markets: Sequence[Market]) -> bool:
        """Keep prints, which come once, even of a market that is still being loaded."""
        async for market, print_ in venue.watch_liquidations(markets):
            self._equal[market.id, print_] += 1
            if len(self._equal) > _MOST_PRINTS:
                self._equal = Counter(dict(list(self._equal.items())[_MOST_PRINTS // 2 :]))
            ordinal = self._equal[market.id, print_] - 1  # equal prints that the venue tells apart are two
            row = {**_fields(print_), "side": print_.side.value, "print_id": str(ordinal)}
            tracked = self._tracked.get(market.id)
            update = None if tracked is None else self._update(tracked, liquidations=(print_,))
            self._arrived.put_nowait(_Arrival(market.id, (("liquidations", row),), update))
        return venue.capabilities.liquidations != "none"

    async def _poll(self, markets: Sequence[Market], period_s: float, ask: Callable[[Market], Awaitable[None]]) -> bool:
        """Ask for every market that is followed once in a period, evenly spread."""
        while True:
            for market in markets:
                due = time.monotonic() + period_s / len(markets)
                if market.id in self._tracked:
                    try:
                        await ask(market)
                    except SourceError as error:
                        _LOG.info("%s: %s", market.id, error)
                await asyncio.sleep(max(due - time.monotonic(), 0.0))

    async def _ask_interest(self, venue: Exchange, market: Market) -> None:
        self._take(market, "open_interest", await venue.fetch_open_interest_now(market))

    async def _ask_ratio(self, venue: Exchange, market: Market) -> None:
        tracked, now_ms = self._tracked[market.id], self._clock()
        since_ms = tracked.told.get("long_short_ratio", now_ms - 2 * _FIVE_MINUTES_MS) + 1
        rows = await venue.fetch_long_short_ratio(market, since_ms, now_ms + 1)
        for time_ms, value in rows.select(pl.col("time").dt.epoch("ms"), "long_short_ratio").iter_rows():
            self._take(market, "long_short_ratio", Observation(time_ms, value))

    async def _ask_funding(self, venue: Exchange, market: Market) -> None:
        rate = await venue.fetch_funding_rate_now(market)
        self._take(market, "funding", Observation(self._clock(), rate.rate))

    def _take(self, market: Market, kind: Kind, seen: Observation) -> None:
        """Take an observation in, stamped later than what has been yielded; see the head of this module."""
        tracked = self._tracked.get(market.id)
        if tracked is None or seen.time_ms <= tracked.told.get(kind, 0):
            return
        tracked.told[kind] = seen.time_ms
        stamp = max(seen.time_ms, tracked.next_ms + 1, tracked.stamped.get(kind, 0) + 1)
        tracked.stamped[kind] = stamp
        name = "funding_rate" if kind == "funding" else kind
        update = self._update(tracked, **{name: Observation(stamp, seen.value)})
        self._arrived.put_nowait(_Arrival(market.id, ((kind, {"time": stamp, name: seen.value}),), update))

    def _take_candle(self, market: Market, candle: Candle, *, closed: bool) -> None:
        tracked = self._tracked.get(market.id)
        if tracked is None:
            told = MarketUpdate(market, self._clock(), candle.close, candle, candle_closed=False)
            self._arrived.put_nowait(_Arrival(market.id, (), told))
        elif candle.time_ms > tracked.next_ms:
            # Those before it come first. Until then nothing newer is shown either: it would close their step.
            if closed:
                tracked.held.append(candle)
            if tracked.filling is None:
                tracked.filling = self.start(self._fill(tracked))
        elif candle.time_ms == tracked.next_ms and closed:
            self._close(tracked, candle)
        elif candle.time_ms == tracked.next_ms:
            tracked.latest = candle
            self._arrived.put_nowait(_Arrival(market.id, (), self._update(tracked)))

    def _close(self, tracked: _Tracked, candle: Candle) -> None:
        tracked.latest, tracked.next_ms = candle, candle.time_ms + MINUTE_MS
        row = {name: value for name, value in _fields(candle).items() if value is not None}
        update = self._update(tracked, candle_closed=True, time_ms=tracked.next_ms)
        self._arrived.put_nowait(_Arrival(tracked.market.id, (("candles", row),), update))

    async def _fill(self, tracked: _Tracked) -> None:
        """Fetch the closed candles that did not come; those nobody has stay a gap."""
        venue, market = self._venues[tracked.market.exchange], tracked.market
        failures = 0
        await asyncio.sleep(self._pace.grace_s)
        while self._tracked.get(market.id) is tracked:
            until_ms = self._clock() // MINUTE_MS * MINUTE_MS
            try:
                table = await venue.fetch_candles(market, tracked.next_ms, max(until_ms, tracked.next_ms + MINUTE_MS))
            except SourceError as error:
                failures += 1
                _LOG.info("%s: closed candles are missing: %s", market.id, error)
                await asyncio.sleep(self.pause(failures))
                continue
            if self._tracked.get(market.id) is tracked:
                self._close_run(tracked, candles_of(table))
                if tracked.held and tracked.held[0].time_ms > tracked.next_ms and failures < _PATIENT:
                    failures += 1
                    await asyncio.sleep(self._pace.grace_s)
                    continue
                self._close_run(tracked, tracked.held)
            break
        tracked.held.clear()
        tracked.filling = None

    def _close_run(self, tracked: _Tracked, candles: Iterable[Candle]) -> None:
        for candle in sorted(candles, key=lambda c: c.time_ms):
            if candle.time_ms >= tracked.next_ms:
                self._close(tracked, candle)

    def _update(self, tracked: _Tracked, **news: Any) -> MarketUpdate:
        what = {"time_ms": max(self._clock(), tracked.next_ms), "candle_closed": False, **news}
        return MarketUpdate(market=tracked.market, mark_price=tracked.latest.close, candle=tracked.latest, **what)

    def pause(self, failures: int) -> float:
        """Exponential, with full jitter. [s]"""
        return random.uniform(0.0, min(self._pace.longest_s, 2.0 ** min(failures, 10)))  # noqa: S311 - no secret

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task until `end`."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        """End everything that runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fields(value: Candle | Liquidation) -> dict[str, Any]:
    """Fields by the names of history's columns."""
    row = {f.name: getattr(value, f.name) for f in fields(value)}
    return {"time": row.pop("time_ms"), **row}


def rows_of(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Make a frame of rows with times in ms."""
    return pl.DataFrame(list(rows), infer_schema_length=None).with_columns(pl.col("time").cast(TIME))


def candles_of(table: pl.DataFrame) -> list[Candle]:
    """Turn rows of a candle frame into values."""
    named = table.with_columns(pl.col("time").dt.epoch("ms")).rename({"time": "time_ms"})
    names = [f.name for f in fields(Candle) if f.name in named.columns]
    return [Candle(**row) for row in named.select(names).iter_rows(named=True)]
