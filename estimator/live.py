"""`LiveSource`: live venues as a `Source`; what arrives is in the journal before anybody sees it.

The book of a market is a function of what history holds, so that a worker that was killed computes the columns that
were shown, bit for bit. Three rules make it so:

- a closed candle is yielded once, in order, after those before it; what a stream left out is fetched first.
- an observation is stamped later than the last candle yielded before it, whatever its venue says: it was not known
  when that candle closed. Nothing that is fetched later is put before a candle that history holds.
- what is yielded is in the journal before, and a past is read only when the journal up to now is in history.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final, Literal, TypeVar

import polars as pl

from estimator.cache.journal import Entry, Journal
from estimator.domain import (
    DAY_MS,
    MINUTE_MS,
    TIME,
    Candle,
    Liquidation,
    Market,
    Observation,
    Origin,
)
from estimator.errors import CacheUnavailable, HistoryUnavailable, SettingsError, SourceError
from estimator.exchanges.base import MarketHistory, MarketUpdate, Progress
from estimator.exchanges.venue import Exchange, MarketListing
from estimator.history import TABLES, History, TableName, with_market

_LOG: Final = logging.getLogger(__name__)
VENUES: Final = ("binance", "bybit", "okx", "gate", "bitget", "hyperliquid")
_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS
_PATIENT: Final = 3  # times a venue is asked for candles that it does not have
_KEPT_MS: Final = 400 * DAY_MS  # no level of the cache reaches further back
_T = TypeVar("_T")
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


class LiveSource:
    """Markets of live venues; a `GrowingSource`. Made inside the running event loop.

    Parameters
    ----------
    venues : sequence of Exchange
    history : History
    journal : Journal
        Something must move it into `history`: see `estimator.history.Recorder`.
    wanted : str
        Coins and symbols (``"BTC,ETH,SOL/USDC:USDC"``), the largest linear market of each coin on each venue; or
        ``"top 100"``, the largest of each venue.
    days : float
        Length of the past.
    shard : (int, int)
        Which of how many workers this is.
    pace : Pace, optional
    clock : callable, optional
        Time in ms, where it is not that of this machine.

    Raises
    ------
    SettingsError
        If `wanted` cannot be read.
    """

    origin: Origin = Origin.LIVE

    def __init__(
        self,
        venues: Sequence[Exchange],
        history: History,
        journal: Journal,
        *,
        wanted: str = "BTC,ETH,SOL",
        days: float = 30.0,
        shard: tuple[int, int] = (0, 1),
        pace: Pace | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.description = f"live from {', '.join(v.name for v in venues)}"
        self._venues, self._history, self._journal = {v.name: v for v in venues}, history, journal
        self._wanted, self._days, self._shard, self._pace = _Wanted(wanted), days, shard, pace or Pace()
        self._clock = clock or _now_ms
        self._loop = asyncio.get_running_loop()
        self._chosen: dict[str, list[Market]] = {}
        self._tracked: dict[str, _Tracked] = {}
        self._arrived: asyncio.Queue[_Arrival | asyncio.Event] = asyncio.Queue()
        self._watching = False
        self._equal: Counter[tuple[str, Liquidation]] = Counter()
        self._oldest: dict[str, int] = {}
        self._deep: set[str] = set()
        self._failed: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def failures(self) -> str:
        """What the venues that did not answer said."""
        return "; ".join(f"{name}: {text}" for name, text in self._failed.items())

    # --- called from threads --------------------------------------------------------------------------------------

    def markets(self) -> Sequence[Market]:
        """Return the markets of the venues that answer, the same coin of all venues together."""
        self._call(self._list_all())
        order = {name: at for at, name in enumerate(self._venues)}
        found = [m for markets in self._chosen.values() for m in markets]
        return sorted(found, key=lambda m: (self._wanted.rank(m), order[m.exchange]))

    def history(self, market: Market, progress: Progress) -> MarketHistory:
        """Return what history holds of `market`, after adding what its venue has beyond it."""
        self._call(self._let_go(market))
        self._settle()
        progress(0.1, f"fetching {market.id}")
        now_ms = self._clock()
        last_ms = self._history.last_time("candles", market.id)
        first_ms = int(now_ms - self._pace.first_days * DAY_MS) // _FIVE_MINUTES_MS * _FIVE_MINUTES_MS
        start_ms = first_ms if last_ms is None else last_ms + MINUTE_MS
        # With candles in history, what was known when they closed is history too.
        known_ms = start_ms - _FIVE_MINUTES_MS if last_ms is None else start_ms + 1
        self._add(market, self._call(self._fetch(market, start_ms, known_ms, now_ms)))
        progress(0.9, f"fetched {market.id}")
        past = self._read(market, now_ms)
        self._loop.call_soon_threadsafe(self._track, past)
        return past

    def deepen(self, market: Market, progress: Progress) -> None:
        """Fetch what the venue has before the oldest candle in history, backwards."""
        start_ms = int(self._clock() - self._days * DAY_MS)
        first_ms = oldest_ms = self._oldest[market.id]
        while oldest_ms > start_ms:
            since_ms = max(start_ms, int(oldest_ms - self._pace.chunk_days * DAY_MS)) // MINUTE_MS * MINUTE_MS
            frames = self._call(self._fetch(market, since_ms, since_ms, oldest_ms))
            self._add(market, frames)
            if frames["candles"].is_empty():
                break  # not listed then
            oldest_ms = since_ms
            done_days, days = (round((first_ms - t) / DAY_MS) for t in (oldest_ms, start_ms))
            progress(done_days / max(days, 1), f"filling {market.id} backwards: {done_days} of {days} days")
        self._deep.add(market.id)

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _settle(self) -> None:
        """Wait until what is in the journal now is in history."""
        last_id, deadline = self._journal.last_id(), time.monotonic() + self._pace.settle_s
        while last_id is not None and self._journal.waits(last_id):
            if time.monotonic() > deadline:
                raise HistoryUnavailable("the journal does not reach history: its disk or object store refuses")
            time.sleep(0.05)

    def _add(self, market: Market, frames: dict[TableName, pl.DataFrame]) -> None:
        """Store what was fetched; candles last, for they say how far the rest is complete."""
        for table in sorted(frames, key=lambda name: name == "candles"):
            if not frames[table].is_empty():
                self._history.append(table, with_market(market.id, frames[table]))

    def _read(self, market: Market, now_ms: int) -> MarketHistory:
        names: tuple[TableName, ...] = ("candles", "open_interest", "long_short_ratio", "funding", "liquidations")
        span = now_ms - _KEPT_MS, now_ms + DAY_MS
        candles, interest, ratio, funding, prints = (self._history.read(n, market.id, *span) for n in names)
        if candles.is_empty():
            raise SourceError(f"{market.id}: no candles")
        present = [c for c in candles.columns if candles[c].null_count() == 0]
        oldest_ms = self._oldest[market.id] = int(candles["time"].to_physical()[0])
        share = (now_ms - oldest_ms) / DAY_MS / self._days
        complete = market.id in self._deep or share >= 1.0
        return MarketHistory(
            market, MINUTE_MS, candles.select(present), interest, ratio, funding, prints,
            progress=1.0 if complete else min(share, 0.99),
        )  # fmt: skip

    # --- fetching -------------------------------------------------------------------------------------------------

    async def _list_all(self) -> None:
        await asyncio.gather(*(self._list(venue) for venue in self._venues.values() if venue.name not in self._chosen))

    async def _list(self, venue: Exchange) -> bool:
        """List the markets of a venue; False if it does not answer in time."""
        try:
            listings = await asyncio.wait_for(venue.fetch_markets(), self._pace.listing_s)
        except (SourceError, TimeoutError) as error:
            self._failed[venue.name] = str(error) or "no answer in time"
            _LOG.warning("%s does not answer, it is tried again: %s", venue.name, self._failed[venue.name])
            return False
        self._failed.pop(venue.name, None)
        index, count = self._shard
        chosen = self._wanted.choose(listings)
        self._chosen[venue.name] = [m for m in chosen if zlib.crc32(m.id.encode()) % count == index]
        return True

    async def _fetch(
        self, market: Market, since_ms: int, known_ms: int, until_ms: int
    ) -> dict[TableName, pl.DataFrame]:
        """Fetch candles from `since_ms` and what was known from `known_ms` on; without the latter two it can do."""
        venue = self._venues[market.exchange]
        requests: dict[TableName, Awaitable[pl.DataFrame]] = {
            "candles": venue.fetch_candles(market, since_ms, until_ms),
            "open_interest": self._fetch_interest(venue, market, known_ms, until_ms),
            "long_short_ratio": venue.fetch_long_short_ratio(market, known_ms, until_ms),
            "funding": venue.fetch_funding_rate(market, known_ms, until_ms),
        }
        answers = await asyncio.gather(*requests.values(), return_exceptions=True)
        frames: dict[TableName, pl.DataFrame] = {}
        for table, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, BaseException):
                frames[table] = answer
            elif table in ("candles", "open_interest") or not isinstance(answer, SourceError):
                raise answer
            else:
                _LOG.warning("%s goes without %s: %s", market.id, table, answer)
        return frames

    async def _fetch_interest(self, venue: Exchange, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame:
        """Fetch its past; where the venue keeps none, what it is now: the book then starts there."""
        if venue.capabilities.open_interest_history is not None:
            return await venue.fetch_open_interest(market, since_ms, until_ms)
        schema = TABLES["open_interest"].required
        if until_ms < self._clock() - _FIVE_MINUTES_MS:
            return pl.DataFrame(schema=schema)
        seen = await venue.fetch_open_interest_now(market)
        return _rows([{"time": max(seen.time_ms, since_ms), "open_interest": seen.value}])

    # --- watching -------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        """Yield what happens, for ever. A market that `history` has not been asked for shows its moving candle only."""
        self._watching = True
        for venue in self._venues.values():
            self._start(self._follow(venue))
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
            self._watching = False
            await self._end()

    async def _write_down(self, arrivals: Sequence[_Arrival]) -> None:
        """Add what arrived to the journal, however long that takes."""
        rows: dict[tuple[TableName, str], list[dict[str, Any]]] = defaultdict(list)
        for arrival in arrivals:
            for table, row in arrival.rows:
                rows[table, arrival.market_id].append(row)
        entries = [Entry.of(table, market_id, _rows(some)) for (table, market_id), some in rows.items()]
        while entries:
            try:
                await asyncio.to_thread(self._journal.add, entries)
                return
            except CacheUnavailable as error:  # entries that were added after all are known by their keys
                _LOG.warning("%d entries wait for the journal: %s", len(entries), error)
                await asyncio.sleep(0.5)

    async def _follow(self, venue: Exchange) -> None:
        failures = 0
        while venue.name not in self._chosen and not await self._list(venue):
            failures += 1
            await asyncio.sleep(self._pause(failures))
        markets = self._chosen[venue.name]
        if not markets:
            return
        pace = self._pace
        for work in (
            lambda: self._hear_candles(venue, markets),
            lambda: self._hear_prints(venue, markets),
            lambda: self._poll(markets, pace.open_interest_s, partial(self._ask_interest, venue)),
            lambda: self._poll(markets, pace.others_s, partial(self._ask_ratio, venue)),
            lambda: self._poll(markets, pace.others_s, partial(self._ask_funding, venue)),
        ):
            self._start(self._again(venue.name, work))

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
            except Exception:
                _LOG.exception("%s: a mistake of this program", name)
            failures = 1 if time.monotonic() - began > 2 * self._pace.longest_s else failures + 1
            await asyncio.sleep(self._pause(failures))

    async def _hear_candles(self, venue: Exchange, markets: Sequence[Market]) -> bool:
        async for market, candle, closed in venue.watch_candles(markets):
            self._take_candle(market, candle, closed=closed)
        return True

    async def _hear_prints(self, venue: Exchange, markets: Sequence[Market]) -> bool:
        """Prints come once: they are kept even of a market that is still being loaded."""
        async for market, print_ in venue.watch_liquidations(markets):
            self._equal[market.id, print_] += 1
            if len(self._equal) > 50_000:
                self._equal = Counter(dict(list(self._equal.items())[25_000:]))
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
                tracked.filling = self._start(self._fill(tracked))
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
                await asyncio.sleep(self._pause(failures))
                continue
            if self._tracked.get(market.id) is tracked:
                self._close_run(tracked, _candles(table))
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

    def _track(self, past: MarketHistory) -> None:
        """From now on take in what arrives of a market: it continues this past."""
        latest = _candles(past.candles.tail(1))[0]
        frames: dict[Kind, pl.DataFrame] = {
            "open_interest": past.open_interest,
            "long_short_ratio": past.long_short_ratio,
            "funding": past.funding_rate,
        }
        stamped = {kind: int(f["time"].to_physical()[-1]) for kind, f in frames.items() if not f.is_empty()}
        self._tracked[past.market.id] = _Tracked(
            past.market, latest.time_ms + MINUTE_MS, latest, stamped, dict(stamped)
        )

    async def _let_go(self, market: Market) -> None:
        """Take nothing more in of a market, and wait until the journal has what was taken."""
        self._tracked.pop(market.id, None)
        if self._watching:
            written = asyncio.Event()
            self._arrived.put_nowait(written)
            await written.wait()

    def _pause(self, failures: int) -> float:
        """Exponential, with full jitter. [s]"""
        return random.uniform(0.0, min(self._pace.longest_s, 2.0 ** min(failures, 10)))  # noqa: S311 - no secret

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End what runs and close every connection."""
        await self._end()
        await asyncio.gather(*(venue.close() for venue in self._venues.values()), return_exceptions=True)


class _Wanted:
    """Which markets are chosen of those a venue lists."""

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        self._top = int(words[1]) if len(words) == 2 and words[0] == "top" and words[1].isdigit() else 0
        self._names = [] if self._top else [name.strip().upper() for name in text.split(",") if name.strip()]
        if not (self._top or self._names):
            raise SettingsError(f"LIQHEAT_MARKETS: got {text!r}, expected coins such as 'BTC,ETH' or 'top 100'")

    def choose(self, listings: Sequence[MarketListing]) -> list[Market]:
        """Choose from the listings of one venue, which come largest first as far as known."""
        by_size = sorted(listings, key=lambda one: -(one.open_interest_usd or 0.0))
        if self._top:
            return [one.market for one in by_size[: self._top]]
        found: dict[str, Market] = {}
        for one in by_size:
            market = one.market
            if market.symbol.upper() in self._names:
                found.setdefault(market.symbol, market)
            if market.base.upper() in self._names and market.contract == "linear":
                found.setdefault(market.base, market)
        return sorted(dict.fromkeys(found.values()), key=self.rank)

    def rank(self, market: Market) -> int:
        """Order on the page; the largest of a venue keep their order."""
        names = [n for n in self._names if n in (market.symbol.upper(), market.base.upper())]
        return self._names.index(names[0]) if names else 0


def make_venues(names: str, exchange_base: str | None = None) -> list[Exchange]:
    """Make the venues of a comma-separated list.

    Raises
    ------
    SettingsError
        Naming one that is not known.
    """
    venues: list[Exchange] = []
    for name in (n.strip().lower() for n in names.split(",")):
        if name not in VENUES:
            raise SettingsError(f"LIQHEAT_VENUES: {name!r} is not one of {', '.join(VENUES)}")
        module = importlib.import_module(f"estimator.exchanges.{name}")
        made = getattr(module, name.upper() if name == "okx" else name.capitalize())
        venues.append(made(exchange_base=exchange_base, throttle=exchange_base is None))
    return venues


def _fields(value: Candle | Liquidation) -> dict[str, Any]:
    """Fields by the names of history's columns."""
    row = {f.name: getattr(value, f.name) for f in fields(value)}
    return {"time": row.pop("time_ms"), **row}


def _rows(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None).with_columns(pl.col("time").cast(TIME))


def _candles(table: pl.DataFrame) -> list[Candle]:
    named = table.with_columns(pl.col("time").dt.epoch("ms")).rename({"time": "time_ms"})
    names = [f.name for f in fields(Candle) if f.name in named.columns]
    return [Candle(**row) for row in named.select(names).iter_rows(named=True)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
