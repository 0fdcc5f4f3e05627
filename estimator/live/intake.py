"""`Intake`: what arrives of venues, in an order and with stamps that a restart reproduces, journaled before it is seen.

- a closed candle is yielded once, in order, after those before it; what a stream left out is fetched first.
- an observation is stamped later than the last candle yielded before it, whatever its venue says: it was not known
  when that candle closed.
- what is yielded is in the journal before; a moving candle, which no journal keeps, is yielded as it is then.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from estimator.cache.journal import Entry, Journal
from estimator.domain import MINUTE_MS, Candle, Liquidation, Market, Observation
from estimator.errors import CacheError, SourceError
from estimator.exchanges.base import Connection, MarketHistory, MarketUpdate
from estimator.exchanges.venue import Exchange
from estimator.history import TableName
from estimator.live.hearing import PRINTS, Hearing
from estimator.live.pace import Kind, Pace
from estimator.live.polling import Polling
from estimator.observed import candles_of

_LOG: Final = logging.getLogger(__name__)
_PATIENT: Final = 3  # times a venue is asked for candles that it does not have
_MOST_PRINTS: Final = 10_000  # remembered, to tell equal ones apart
_MOST_WAITING: Final = 100_000  # arrivals that wait for the journal, which is an hour or more of 300 markets
_MOVE_S: Final = 0.1  # prices wait no longer while much else has come
_FARTHEST: Final = 10.0  # no price is so many times the one before; after a longer pause candles are fetched
_REMEMBERED_S: Final = 60.0  # entries are written again when the journal was emptied within this time


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
    """A row for the journal, and what the page is told of it; the latter alone where the journal has it already."""

    market_id: str
    table: TableName | None
    row: Mapping[str, Any]
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
    most_waiting : int
        Arrivals that may wait for the journal. Beyond it prints are dropped, counted and told of as a gap; candles
        are fetched again later.

    Attributes
    ----------
    dropped : int
        Prints dropped so far.
    """

    def __init__(
        self,
        venues: dict[str, Exchange],
        journal: Journal,
        pace: Pace,
        clock: Callable[[], int],
        *,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._venues, self._journal, self._pace, self._clock = venues, journal, pace, clock
        self._most_waiting, self.dropped = most_waiting, 0
        self._tracked: dict[str, _Tracked] = {}
        self._closes: dict[str, float] = {}  # the last of each market that was ever tracked
        self._arrived: list[_Arrival | asyncio.Event] = []
        self._pending: Counter[str] = Counter()  # how much of it is of each market
        self._moving: dict[str, MarketUpdate] = {}  # the latest moving candle of each market
        self._wake = asyncio.Event()
        self._reading = False
        self._equal: Counter[tuple[str, Liquidation]] = Counter()
        self._meanwhile: dict[str, list[Liquidation]] = {}  # prints of markets whose past is being read
        self._connections: dict[str, list[Connection]] = defaultdict(list)  # of this run, by market
        self._has_rows: set[str] = set()  # markets that this run put rows of into the journal
        self._deaf: set[str] = set()  # markets of which prints are being dropped
        self._written: deque[tuple[float, list[Entry]]] = deque()  # what the journal took lately
        self._writing: asyncio.Task[None] | None = None  # of what a journal has lost
        self._tasks: set[asyncio.Task[None]] = set()

    async def updates(self) -> AsyncIterator[MarketUpdate]:
        """Yield what happens, for ever; of a market that is not tracked, its moving candle only."""
        self._reading = True
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._arrived = self._arrived, []
                await self._write_down([a for a in batch if isinstance(a, _Arrival) and a.table is not None])
                moved = 0.0
                for arrival in [*batch, None]:
                    if isinstance(arrival, asyncio.Event):
                        arrival.set()
                    elif arrival is not None:
                        self._pending[arrival.market_id] -= 1
                        if arrival.update is not None:
                            yield arrival.update
                    if arrival is None or time.monotonic() - moved > _MOVE_S:
                        for update in self._free():
                            yield update
                        moved = time.monotonic()
        finally:
            self._reading = False

    def _free(self) -> list[MarketUpdate]:
        """Take the moving candles of the markets that nothing waits of, which would have to come before."""
        free = [market_id for market_id in self._moving if not self._pending[market_id]]
        return [self._moving.pop(market_id) for market_id in free]

    def hear(self, venue: Exchange, markets: Sequence[Market]) -> None:
        """Follow markets of a venue from now on."""
        polling = Polling(venue, markets, self, self._pace, self._clock)
        self.keep(
            venue.name,
            lambda: self._hear_candles(venue, markets),
            lambda: self._hear_prints(venue, markets),
            lambda: self._watch_streams(Hearing(venue.health, markets, int(self._pace.lag_s * 1000))),
            polling.interests,
            polling.ratios,
            polling.fundings,
        )

    def keep(self, name: str, *works: Callable[[], Awaitable[bool]]) -> None:
        """Keep works of a venue running until `end`; each until it returns False."""
        for work in works:
            self.start(self._again(name, work))

    async def track(self, past: MarketHistory) -> MarketHistory:
        """From now on take in what arrives of a market; return its past with what this run knows beyond history."""
        market, latest = past.market, candles_of(past.candles.tail(1))[0]
        frames = {
            "open_interest": past.open_interest,
            "long_short_ratio": past.long_short_ratio,
            "funding": past.funding_rate,
        }
        stamped: Any = {kind: int(f["time"].to_physical()[-1]) for kind, f in frames.items() if not f.is_empty()}
        tracked = _Tracked(market, latest.time_ms + MINUTE_MS, latest, stamped, dict(stamped))
        self._tracked[market.id], self._closes[market.id] = tracked, latest.close
        prints = self._meanwhile.pop(market.id, None)
        if prints:
            self._put(_Arrival(market.id, None, {}, self._update(tracked, liquidations=tuple(prints))))
        known = {*past.connections, *self._connections[market.id]}
        return replace(past, connections=tuple(sorted(known, key=lambda c: (c.time_ms, c.connected))))

    async def let_go(self, market: Market) -> None:
        """Take nothing more in of a market, and wait until the journal has what was taken."""
        self._tracked.pop(market.id, None)
        self._meanwhile[market.id] = []
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._reading:
            written = asyncio.Event()
            self._put(written)
            await written.wait()

    def tell(self, market: Market, connection: Connection) -> None:
        """Keep that a stream was heard from a time on, or not any more."""
        self._connections[market.id].append(connection)
        tracked = self._tracked.get(market.id)
        update = None if tracked is None else self._update(tracked, connection=connection)
        row = {"time": connection.time_ms, "what": connection.what, "connected": connection.connected}
        self._put(_Arrival(market.id, "connections", row, update))

    def write_again(self) -> None:
        """Write what was written lately into a journal that has lost it; what history has is known by its key."""
        entries = [entry for _, some in self._written for entry in some]
        self._written.clear()
        if entries:
            self._writing = self.start(self._journaled(entries))

    def has_written(self, market: Market) -> bool:
        """Whether this run has put rows of a market into the journal, other than of its connections."""
        return market.id in self._has_rows

    def follows(self, market: Market) -> bool:
        """Whether observations of a market are taken in."""
        return market.id in self._tracked

    def told_ms(self, market: Market, kind: Kind) -> int | None:
        """Return the time of the latest observation of a kind, as its venue said; None before the first."""
        return self._tracked[market.id].told.get(kind)

    def take(self, market: Market, kind: Kind, seen: Observation) -> None:
        """Take an observation in, stamped later than what has been yielded; see the head of this module."""
        tracked = self._tracked.get(market.id)
        if tracked is None or seen.time_ms <= tracked.told.get(kind, 0) or self._is_full:
            return
        tracked.told[kind] = seen.time_ms
        stamp = max(seen.time_ms, tracked.next_ms + 1, tracked.stamped.get(kind, 0) + 1)
        tracked.stamped[kind] = stamp
        name = "funding_rate" if kind == "funding" else kind
        update = self._update(tracked, **{name: Observation(stamp, seen.value)})
        self._put(_Arrival(market.id, kind, {"time": stamp, name: seen.value}, update))

    # --- into the journal -----------------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return len(self._arrived) >= self._most_waiting

    def _put(self, arrival: _Arrival | asyncio.Event) -> None:
        self._arrived.append(arrival)
        if isinstance(arrival, _Arrival):
            self._pending[arrival.market_id] += 1
        self._wake.set()

    async def _write_down(self, arrivals: Sequence[_Arrival]) -> None:
        """Add what arrived to the journal."""
        rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for arrival in arrivals:
            rows[str(arrival.table), arrival.market_id].append(arrival.row)
        self._has_rows |= {market_id for table, market_id in rows if table != "connections"}
        if rows:
            await self._journaled([Entry.of_rows(table, market_id, some) for (table, market_id), some in rows.items()])

    async def _journaled(self, entries: list[Entry]) -> None:
        """Add entries to the journal, however long that takes."""
        while True:
            try:
                await asyncio.to_thread(self._journal.add, entries)
                break
            except CacheError as error:  # entries that were added after all are known by their keys
                _LOG.warning("%d entries wait for the journal: %s", len(entries), error)
                await asyncio.sleep(0.5)
        now = time.monotonic()
        self._written.append((now, entries))
        while self._written[0][0] < now - _REMEMBERED_S:
            self._written.popleft()

    # --- from the venues ------------------------------------------------------------------------------------------

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
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                _LOG.exception("%s: given up by a library", name)  # nobody asked for it: it must not end in silence
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
            if not self._is_near(market, PRINTS, print_.price, print_.price):
                continue
            if self._has_room(market):
                self._take_print(market, print_)
            else:
                self.dropped += 1
        return venue.capabilities.liquidations != "none"

    def _has_room(self, market: Market) -> bool:
        """Whether a print can be taken in; the stretch for which it cannot is a gap."""
        if self._is_full != (market.id in self._deaf):
            (self._deaf.discard if market.id in self._deaf else self._deaf.add)(market.id)
            self.tell(market, Connection(self._clock(), PRINTS, connected=market.id not in self._deaf))
        return market.id not in self._deaf

    def _take_print(self, market: Market, print_: Liquidation) -> None:
        self._equal[market.id, print_] += 1
        if len(self._equal) > _MOST_PRINTS:
            self._equal = Counter(dict(list(self._equal.items())[_MOST_PRINTS // 2 :]))
        ordinal = self._equal[market.id, print_] - 1  # equal prints that the venue tells apart are two
        row = {**_fields(print_), "side": print_.side.value, "print_id": str(ordinal)}
        tracked = self._tracked.get(market.id)
        update = None if tracked is None else self._update(tracked, liquidations=(print_,))
        if market.id in self._meanwhile:
            self._meanwhile[market.id].append(print_)
        self._put(_Arrival(market.id, "liquidations", row, update))

    async def _watch_streams(self, hearing: Hearing) -> bool:
        while True:
            for market, connection in hearing.changes():
                self.tell(market, connection)
            await asyncio.sleep(self._pace.listen_s)

    def _take_candle(self, market: Market, candle: Candle, *, closed: bool) -> None:
        tracked = self._tracked.get(market.id)
        if not self._is_near(market, "candles", candle.low, candle.high):
            return
        if tracked is None:
            self._move(MarketUpdate(market, self._clock(), candle.close, candle, candle_closed=False))
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
            self._move(self._update(tracked))

    def _is_near(self, market: Market, what: str, low: float, high: float) -> bool:
        """Whether prices may be of this market, after the last one stored; counted where not."""
        last = self._closes.get(market.id)
        if last is None or (last / _FARTHEST <= low and high <= last * _FARTHEST):
            return True
        self._venues[market.exchange].health.reject(what, "far from the market's price", example=(market.id, low, high))
        return False

    def _move(self, update: MarketUpdate) -> None:
        self._moving[update.market.id] = update
        self._wake.set()

    def _close(self, tracked: _Tracked, candle: Candle) -> None:
        if self._is_full:
            return  # what follows finds it missing, and has it fetched
        tracked.latest, tracked.next_ms = candle, candle.time_ms + MINUTE_MS
        self._closes[tracked.market.id] = candle.close
        row = {name: value for name, value in _fields(candle).items() if value is not None}
        update = self._update(tracked, candle_closed=True, time_ms=tracked.next_ms)
        self._put(_Arrival(tracked.market.id, "candles", row, update))

    async def _fill(self, tracked: _Tracked) -> None:
        """Fetch the closed candles that did not come; those nobody has stay a gap."""
        venue, market = self._venues[tracked.market.exchange], tracked.market
        failures = 0
        await asyncio.sleep(self._pace.grace_s)
        while self._tracked.get(market.id) is tracked:
            until_ms = self._clock() // MINUTE_MS * MINUTE_MS
            try:
                await self._until_room()
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

    async def _until_room(self) -> None:
        while self._is_full:  # noqa: ASYNC110 - what is waited for is in another program's hands
            await asyncio.sleep(self._pace.grace_s)

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
