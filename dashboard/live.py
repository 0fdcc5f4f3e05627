"""What moves, told to many: each set of events is read, encoded and told by one task, however many follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final

from dashboard.answers import Answers, Busy
from dashboard.events import (
    ALIVE,
    COLUMN,
    PRINT,
    RETRY,
    Event,
    Mark,
    Wanted,
    price_event,
    price_of,
    prints_event,
    read_closed,
    read_open,
    read_prints,
    with_id,
)
from estimator.cache import Cache, MarketStatus
from estimator.errors import LiqheatError

_log = logging.getLogger(__name__)

MAX_FOLLOWERS: Final = 2000  # per process
MAX_TOPICS: Final = 256  # a coin each, of more coins than a worker is made for
MAX_BEHIND: Final = 64  # events; a follower that is further behind is let go
TELL_S: Final = 0.5  # between two prices of a topic
COLUMN_S: Final = 2.0  # between two states of open columns
PRINT_S: Final = 1.0
KEEP_ALIVE_S: Final = 5.0  # said at least this often, so that a quiet market is told from a dead connection


class Follower:
    """One who follows a topic: what it is told first, then what comes.

    Parameters
    ----------
    leave : callable
        Ends it.

    Attributes
    ----------
    lost : asyncio.Event
        Set once it is too far behind.
    """

    def __init__(self, leave: Callable[[Follower], None]) -> None:
        self._leave = leave
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_BEHIND)
        self.first: list[bytes] = []
        self.lost = asyncio.Event()

    def tell(self, event: bytes) -> None:
        """Put an event into the queue; where it is full, all is lost."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.lost.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield for ever."""
        for event in self.first:
            yield event
        while True:
            yield await self._waiting.get()

    def leave(self) -> None:
        """Follow no longer."""
        self._leave(self)


class Live:
    """All that is followed in this process, over one subscription; for one event loop.

    Parameters
    ----------
    cache : Cache
    answers : Answers
        Gives the markets on offer.
    """

    def __init__(self, cache: Cache, answers: Answers) -> None:
        self._cache, self._answers = cache, answers
        self._topics: dict[Wanted, Topic] = {}
        self._reader: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many follow."""
        return sum(topic.holders for topic in self._topics.values())

    async def follow(self, wanted: Wanted, after: Mapping[str, Mark] | None = None) -> Follower:
        """Begin to follow: what was missed since marks, the state now, then what comes.

        Raises
        ------
        Busy
            If too many follow, or too many different things are followed.
        ViewError, NotReady, CacheError
        """
        markets = wanted.markets(await self._answers.statuses())
        if len(self) >= MAX_FOLLOWERS or (wanted not in self._topics and len(self._topics) >= MAX_TOPICS):
            raise Busy("too many follow what moves")
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="live")
        topic = self._topics.get(wanted)
        if topic is None:
            topic = self._topics[wanted] = Topic(wanted, self._cache, self._answers, lambda: self._end(wanted))
        return await topic.join(markets, after or {})

    def _end(self, wanted: Wanted) -> None:
        del self._topics[wanted]
        if not self._topics and self._reader is not None:
            self._reader.cancel()
            self._reader = None  # it takes a while to end: who follows meanwhile needs another one

    async def _read(self) -> None:
        async for message in self._cache.updates():
            market_id = str(message.get("market", ""))
            coin = market_id.partition(":")[2].partition("/")[0]
            for wanted, topic in list(self._topics.items()):
                if not coin or coin in wanted.coins:  # of no one market: the subscription was interrupted
                    topic.stir(market_id, message)


class Topic:
    """A set of events and those who follow it, from the first to the last of them.

    Parameters
    ----------
    wanted : Wanted
    cache : Cache
    answers : Answers
    ended : callable
        Called when the last has left.
    """

    def __init__(self, wanted: Wanted, cache: Cache, answers: Answers, ended: Callable[[], None]) -> None:
        self._wanted, self._cache, self._answers, self._ended = wanted, cache, answers, ended
        self.holders = 0  # followers, and those who are about to be
        self._followers: set[Follower] = set()
        self._stirred = asyncio.Event()
        self._stirred.set()  # what was published before the subscription stood is found in the statuses
        self._news: dict[str, Mapping[str, Any]] = {}  # the latest message by market
        self._told_ms: dict[str, int] = {}  # as of when a market's price was last told
        self._moved: set[str] = set()  # markets whose open column is another than the one told
        self._marks: dict[str, Mark] = {}
        self._columns_at = self._prints_at = self._told_at = monotonic()
        self._task = asyncio.create_task(self._run(), name="topic")
        self._task.add_done_callback(self._fail)

    async def join(self, markets: Sequence[MarketStatus], after: Mapping[str, Mark]) -> Follower:
        """Return a new follower; what it is told first and what comes then fit together without a seam."""
        self.holders += 1
        follower = Follower(self._leave)
        try:
            await self._take_up(markets)
            self._check()
            now = dict(self._marks)
            self._followers.add(follower)  # nothing may be told between this line and the one above
            follower.first = await asyncio.to_thread(self._state, markets, after, now)
        except BaseException:
            self._leave(follower)
            raise
        return follower

    def stir(self, market_id: str, message: Mapping[str, Any]) -> None:
        """Take in a message of the worker."""
        if market_id != "*" and (not self._wanted.venues or market_id.partition(":")[0] in self._wanted.venues):
            self._news[market_id] = message
        self._stirred.set()

    def _check(self) -> None:
        if self._task.done():
            raise Busy("what moves is not told just now")

    def _fail(self, task: asyncio.Task[None]) -> None:
        """Let everybody go where the task has met a mistake of ours: they come back to another one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("what moves is told no longer", exc_info=error)
            for follower in self._followers:
                follower.lost.set()

    def _leave(self, follower: Follower) -> None:
        self._followers.discard(follower)
        self.holders -= 1
        if self.holders == 0:
            self._task.cancel()
            self._ended()

    def _tell(self, events: Iterable[bytes]) -> None:
        for event in events:
            self._told_at = monotonic()
            for follower in self._followers:
                follower.tell(event)

    async def _take_up(self, markets: Sequence[MarketStatus]) -> None:
        """Begin with markets not told of yet, with what is there now."""
        fresh = [s for s in markets if s.id not in self._marks]
        if fresh:
            ids = await asyncio.to_thread(self._cache.get_newest_print_ids, fresh)
            for status in fresh:
                self._marks.setdefault(status.id, Mark(status.last_ms, ids[status.id].decode()))
                self._told_ms.setdefault(status.id, status.as_of_ms)

    def _state(
        self, markets: Sequence[MarketStatus], after: Mapping[str, Mark], now: Mapping[str, Mark]
    ) -> list[bytes]:
        """Tell what was missed, then everything as it stands. Blocks."""
        marks = {market: after.get(market, mark) for market, mark in now.items()}
        missed = [e for s in markets if s.id in after for e in self._missed(s, after[s.id], now[s.id])]
        columns = [e for s in markets if COLUMN in self._wanted.events for e in read_open(self._cache, s)]
        prices = price_event([price_of(s) for s in markets])
        return [RETRY, *(e.encode(marks) for e in [*missed, *columns]), with_id(prices, now)]

    def _missed(self, status: MarketStatus, seen: Mark, now: Mark) -> list[Event]:
        said: list[Event] = []
        if COLUMN in self._wanted.events and seen.closed_ms < now.closed_ms:
            said += read_closed(self._cache, status, seen, now.closed_ms)
        if PRINT in self._wanted.events and seen.print_id != now.print_id:
            said += read_prints(self._cache, status, seen, now)
        return said

    async def _run(self) -> None:
        """Tell what moves, and now and then that nothing does."""
        longest = PRINT_S if PRINT in self._wanted.events else KEEP_ALIVE_S
        while self.holders:  # to be cancelled is not enough: with Python 3.11 the client of Redis may lose that
            try:
                async with asyncio.timeout(longest):
                    await self._stirred.wait()
            except TimeoutError:
                pass
            self._stirred.clear()
            try:
                await self._tell_news()
                if monotonic() - self._told_at >= KEEP_ALIVE_S:
                    self._tell([ALIVE])
            except LiqheatError as error:  # nor is it said that nothing moves: nobody knows
                _log.warning("what moves is not told for a while: %s", error)
            await asyncio.sleep(TELL_S)

    async def _tell_news(self) -> None:
        news, self._news = self._news, {}
        self._tell_prices(news)
        markets = self._wanted.among(await self._answers.statuses())
        # What no message has told: before there was a subscription, while it was interrupted, of a slow reader.
        self._tell_prices({s.id: price_of(s) for s in markets if s.as_of_ms > self._told_ms.get(s.id, 0)})
        for coin in {s.base for s in markets}:
            await self._cache.attention.note(coin)
        await self._take_up(markets)
        if COLUMN in self._wanted.events:
            await self._tell_columns(markets)
        if PRINT in self._wanted.events:
            await self._tell_prints(markets)

    def _tell_prices(self, news: Mapping[str, Mapping[str, Any]]) -> None:
        if news:
            self._moved |= news.keys()
            self._told_ms |= {market: int(message.get("as_of_ms", 0)) for market, message in news.items()}
            self._tell([price_event(list(news.values()))])

    async def _tell_columns(self, markets: Sequence[MarketStatus]) -> None:
        closed = [s for s in markets if s.last_ms > self._marks[s.id].closed_ms]
        due = monotonic() - self._columns_at >= COLUMN_S
        moved = [s for s in markets if due and s.id in self._moved]
        if not closed and not moved:
            return
        marks = dict(self._marks)

        def read() -> list[Event]:
            told = [e for s in closed for e in read_closed(self._cache, s, marks[s.id], s.last_ms)]
            return told + [e for s in moved for e in read_open(self._cache, s)]

        if moved:
            self._columns_at = monotonic()
            self._moved -= {s.id for s in moved}
        events = await asyncio.to_thread(read)
        self._tell(e.encode(self._marks) for e in events)

    async def _tell_prints(self, markets: Sequence[MarketStatus]) -> None:
        if monotonic() - self._prints_at < PRINT_S:
            return
        self._prints_at = monotonic()
        after = {market: mark.print_id.encode() for market, mark in self._marks.items()}
        found = await asyncio.to_thread(self._cache.get_liquidations_after, markets, after)
        by_id = {s.id: s for s in markets}
        for market, (rows, newest) in found.items():
            mark = self._marks[market]._replace(print_id=newest.decode())
            self._tell([prints_event(by_id[market], rows, mark).encode(self._marks)])
