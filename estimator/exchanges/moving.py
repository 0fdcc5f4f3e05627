"""Streams of moving candles and of prints: what they say, in order and once.

Most venues do not say when a candle has closed. It has when a younger one of the same market comes, or when the stream
has gone on long enough with those of others; but only if the connection held all the while, or its last trades may be
missing: what was under way when a connection was lost is left to be fetched, for old messages may be told again after
it. The clock of this machine has no say: a stream may be read late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from estimator.domain import MINUTE_MS, Candle, Liquidation, Market
from estimator.exchanges.edge import Health, Recent, plausible_candle, plausible_liquidation, readable
from estimator.exchanges.wire import Wire

GRACE_MS: Final = MINUTE_MS  # so long after its end, by the stream's own time, a candle of a quiet market is closed
_SKEW_MS: Final = 2_000  # the clock of a venue is known to so much

Tick = tuple[Market, Candle, bool]
Print = tuple[Market, Liquidation]
_Item = TypeVar("_Item")


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Stream(Generic[_Item]):
    """How to follow one stream of a venue.

    Parameters
    ----------
    wire : Wire
    name : str
        As in `Health`.
    subscribe : callable
        A ccxt call that asks for the stream.
    accepts : callable
        Whether a message is of this stream.
    parse : callable
        Message to candles, each with whether the venue calls it closed, or to prints; may raise `BadPayload`.
    refused : callable
        Whether a message of the stream refuses a subscription; that is counted, and the others go on.
    silence_s : float
        Without a message for so long the connection is taken for dead. [s]
    says_closed : bool
        Whether the venue says of every candle that it has closed: then none is taken for closed without that.
    dated : sequence of str or int
        Where a message has its time. [ms]
    """

    wire: Wire
    name: str
    subscribe: Callable[[], Awaitable[Any]]
    accepts: Callable[[Any], bool]
    parse: Callable[[Any], Sequence[_Item]]
    refused: Callable[[Any], bool] = lambda _message: False
    silence_s: float = 60.0
    says_closed: bool = False
    dated: Sequence[str | int] = ()

    async def items(self, lost: Callable[[], None] = _nothing) -> AsyncGenerator[Sequence[_Item], None]:
        """Yield what each message says; `lost` is called whenever the connection was."""
        health = self.wire.health
        source = self.wire.stream(self.name, self.subscribe, self.accepts, silence_s=self.silence_s, lost=lost)
        async with contextlib.aclosing(source) as messages:
            async for message in messages:
                if self.dated:
                    health.note_time(self.name, message, self.dated, self.wire.now_ms())
                if self.refused(message):
                    health.reject("subscriptions", "refused by the venue", example=message)
                else:
                    yield readable(self.parse, message, health) or ()


MakeStream = Callable[[], Awaitable[Stream[_Item]]]
"""Makes a stream once it is followed; raises `UnknownMarket` where there is nothing to follow."""


class MovingCandles:
    """The latest candle of every market, and which of them have closed.

    A closed candle is told once. Messages come twice and out of order: of one open candle the volume only grows, so a
    smaller one is an older message. Markets settled in another coin may come through another socket, whose time is its
    own.

    Parameters
    ----------
    health : Health
    says_closed : bool
        As in `Stream`.
    """

    def __init__(self, health: Health, *, says_closed: bool = False) -> None:
        self._health, self._says_closed = health, says_closed
        self._open: dict[str, tuple[Market, Candle]] = {}
        self._closed_ms: dict[str, int] = {}
        self._stream_ms: dict[str, int] = {}
        self._youngest_ms = self._doubtful_ms = -1

    def take(self, market: Market, candle: Candle, *, closed: bool = False) -> list[Tick]:
        """Return what a message tells: candles that have closed by now, and that this one has moved or closed."""
        last = self._open.get(market.id)
        if self._is_late(market, candle, last, closed=closed):
            self._health.reject("candles", "late or repeated message", example=candle)
            return []
        self._youngest_ms = max(self._youngest_ms, candle.time_ms)
        over = last is not None and candle.time_ms > last[1].time_ms and not self._says_closed
        told = self._close(market.id) if over else []
        self._open[market.id] = (market, candle)
        told += self._close(market.id, said=True) if closed else [(market, candle, False)]
        return told if self._says_closed else [*told, *self._close_quiet(_settled_in(market), candle.time_ms)]

    def forget(self) -> None:
        """Take candles begun so far for incomplete, after a connection was lost."""
        self._open.clear()
        self._doubtful_ms = self._youngest_ms

    def _is_late(self, market: Market, candle: Candle, last: tuple[Market, Candle] | None, *, closed: bool) -> bool:
        if candle.time_ms <= self._closed_ms.get(market.id, -1):
            return True
        if last is None or candle.time_ms > last[1].time_ms:
            return False
        return candle.time_ms < last[1].time_ms or (candle.volume < last[1].volume and not closed)

    def _close_quiet(self, coin: str, stream_ms: int) -> list[Tick]:
        if stream_ms <= self._stream_ms.get(coin, 0):
            return []
        self._stream_ms[coin] = stream_ms
        over = [
            key
            for key, (market, candle) in self._open.items()
            if candle.time_ms + MINUTE_MS + GRACE_MS <= stream_ms and _settled_in(market) == coin
        ]
        return [tick for key in over for tick in self._close(key)]

    def _close(self, key: str, *, said: bool = False) -> list[Tick]:
        market, candle = self._open.pop(key)
        if not said and candle.time_ms <= self._doubtful_ms:
            return []
        self._closed_ms[key] = candle.time_ms
        return [(market, candle, True)]


def _settled_in(market: Market) -> str:
    return market.symbol.rpartition(":")[2]


async def follow_candles(make: MakeStream[Tick]) -> AsyncGenerator[Tick, None]:
    """Yield moving candles of a stream for ever."""
    stream = await make()
    wire, health = stream.wire, stream.wire.health
    order = MovingCandles(health, says_closed=stream.says_closed)
    async with contextlib.aclosing(stream.items(order.forget)) as messages:
        async for items in messages:
            for market, candle, closed in items:
                now_ms = wire.now_ms()
                if plausible_candle(candle, now_ms, health):
                    over = closed and candle.time_ms + MINUTE_MS <= now_ms + _SKEW_MS  # else it is not, whoever says so
                    for tick in order.take(market, candle, closed=over):
                        yield tick


async def follow_prints(make: MakeStream[Print], recent: Recent) -> AsyncGenerator[Print, None]:
    """Yield the liquidations of a stream for ever, each once.

    Venues give prints no number. What is equal in all it says is the same print, unless it comes several times in one
    message. `recent` outlives the stream: one that begins anew may be told of old prints again.
    """
    stream = await make()
    wire, health = stream.wire, stream.wire.health
    async with contextlib.aclosing(stream.items()) as messages:
        async for items in messages:
            count: Counter[tuple[str, Liquidation]] = Counter()
            for market, liquidation in items:
                key = (market.id, liquidation)
                count[key] += 1
                if recent.repeats((key, count[key])):
                    health.reject("liquidations", "repeated message", example=liquidation)
                elif plausible_liquidation(liquidation, wire.now_ms(), health):
                    yield market, liquidation


@dataclass(frozen=True, slots=True)
class _Ended:
    error: BaseException | None


async def merged(streams: Sequence[AsyncGenerator[_Item, None]]) -> AsyncGenerator[_Item, None]:
    """Yield what any of several streams yields, as it comes; the first failure ends all and is raised."""
    if len(streams) == 1:  # needs no queue
        async with contextlib.aclosing(streams[0]) as only:
            async for item in only:
                yield item
        return
    arrived: asyncio.Queue[_Item | _Ended] = asyncio.Queue()
    pumps = [asyncio.ensure_future(_pump(stream, arrived)) for stream in streams]
    running = len(pumps)
    try:
        while running:
            came = await arrived.get()
            if not isinstance(came, _Ended):
                yield came
                continue
            running -= 1
            if came.error is not None:
                raise came.error
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(stream: AsyncGenerator[_Item, None], arrived: asyncio.Queue[_Item | _Ended]) -> None:
    try:
        async for item in stream:
            arrived.put_nowait(item)
    except Exception as error:  # noqa: BLE001 - raised by the reader
        arrived.put_nowait(_Ended(error))
    else:
        arrived.put_nowait(_Ended(None))
    finally:
        await stream.aclose()
