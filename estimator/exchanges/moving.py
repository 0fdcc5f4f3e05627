"""Streams of moving candles and of prints, for venues whose messages need more than reading.

Most venues do not say when a candle has closed. It has when a younger one of the same market comes, or when the stream
has gone on long enough with those of others; but only if the connection held all the while, or its last trades may be
missing. The clock of this machine has no say: a stream may be read late.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from estimator.domain import MINUTE_MS, Candle, Liquidation, Market
from estimator.exchanges.edge import Health, Recent, plausible_candle, plausible_liquidation, readable
from estimator.exchanges.wire import Wire

GRACE_MS: Final = MINUTE_MS  # so long after its end, by the stream's own time, a candle of a quiet market is closed

Tick = tuple[Market, Candle, bool]


@dataclass(frozen=True, slots=True)
class Stream:
    """How to follow one stream of a venue.

    Parameters
    ----------
    name : str
        As in `Health`.
    subscribe : callable
        A ccxt call that asks for the stream.
    accepts : callable
        Whether a message is of this stream.
    silence_s : float
        Without a message for so long the connection is taken for dead. [s]
    refused : callable
        Whether a message of the stream refuses a subscription; that is counted, and the others go on.
    """

    name: str
    subscribe: Callable[[], Awaitable[Any]]
    accepts: Callable[[Any], bool]
    refused: Callable[[Any], bool]
    silence_s: float = 60.0


class RollingCandles:
    """The latest candle of every market, and which of them have closed.

    A closed candle is told once. Of one open candle the volume only grows, so a smaller one is an older message.
    Markets settled in another coin may come through another socket, whose time is its own.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._open: dict[str, tuple[Market, Candle]] = {}
        self._closed_ms: dict[str, int] = {}
        self._stream_ms: dict[str, int] = {}

    def take(self, market: Market, candle: Candle, *, closed: bool = False) -> list[Tick]:
        """Return what a message tells: candles that have closed by now, and that this one has moved or closed."""
        last = self._open.get(market.id)
        if self._is_late(market, candle, last):
            self._health.reject("candles", "late or repeated message", example=candle)
            return []
        told = self._close(market.id) if last is not None and candle.time_ms > last[1].time_ms else []
        self._open[market.id] = (market, candle)
        told += self._close(market.id) if closed else [(market, candle, False)]
        return [*told, *self._close_quiet(_settled_in(market), candle.time_ms)]

    def forget(self) -> None:
        """Take open candles for incomplete, after a connection was lost."""
        self._open.clear()

    def _is_late(self, market: Market, candle: Candle, last: tuple[Market, Candle] | None) -> bool:
        if candle.time_ms <= self._closed_ms.get(market.id, -1):
            return True
        return last is not None and (candle.time_ms, candle.volume) < (last[1].time_ms, last[1].volume)

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

    def _close(self, key: str) -> list[Tick]:
        market, candle = self._open.pop(key)
        self._closed_ms[key] = candle.time_ms
        return [(market, candle, True)]


def _settled_in(market: Market) -> str:
    return market.symbol.rpartition(":")[2]


async def follow_candles(wire: Wire, stream: Stream, parse: Callable[[Any], list[Tick]]) -> AsyncGenerator[Tick, None]:
    """Yield moving candles of a stream for ever.

    Parameters
    ----------
    wire : Wire
    stream : Stream
    parse : callable
        Message to candles, each with whether the venue calls it closed; may raise `BadPayload`.
    """
    rolling, health = RollingCandles(wire.health), wire.health
    async with contextlib.aclosing(_messages(wire, stream)) as messages:
        async for message, reconnected in messages:
            if reconnected:
                rolling.forget()
            for market, candle, closed in readable(parse, message, health) or ():
                if plausible_candle(candle, wire.now_ms(), health):
                    for tick in rolling.take(market, candle, closed=closed):
                        yield tick


async def follow_prints(
    wire: Wire, stream: Stream, parse: Callable[[Any], list[tuple[Market, Liquidation]]]
) -> AsyncGenerator[tuple[Market, Liquidation], None]:
    """Yield the liquidations of a stream for ever, each once.

    Venues give prints no number. What is equal in all it says is the same print, unless it comes several times in one
    message.
    """
    recent, health = Recent(), wire.health
    async with contextlib.aclosing(_messages(wire, stream)) as messages:
        async for message, _ in messages:
            count: Counter[tuple[str, Liquidation]] = Counter()
            for market, liquidation in readable(parse, message, health) or ():
                key = (market.id, liquidation)
                count[key] += 1
                if recent.repeats((key, count[key])):
                    health.reject("liquidations", "repeated message", example=liquidation)
                elif plausible_liquidation(liquidation, wire.now_ms(), health):
                    yield market, liquidation


async def _messages(wire: Wire, stream: Stream) -> AsyncGenerator[tuple[Any, bool], None]:
    """Messages, each with whether the connection was lost before it."""
    reconnects = wire.health.reconnects
    seen = reconnects[stream.name]
    source = wire.stream(stream.name, stream.subscribe, stream.accepts, silence_s=stream.silence_s)
    async with contextlib.aclosing(source) as messages:
        async for message in messages:
            before, seen = seen, reconnects[stream.name]
            if stream.refused(message):
                wire.health.reject("subscriptions", "refused by the venue", example=message)
            else:
                yield message, seen != before
