"""Whether the prints of a venue are heard: what its `Health` says of the streams, as changes by market."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from estimator.domain import MINUTE_MS, Market
from estimator.exchanges.base import Connection
from estimator.exchanges.edge import Health

PRINTS: Final = "liquidations"
_LATE_MS: Final = 2 * MINUTE_MS


@dataclass(slots=True)
class _Stream:
    """One stream as it was when last looked at."""

    connected: bool = False
    since_ms: int = 0
    heard_ms: int = 0
    reconnects: int = 0


class Hearing:
    """The streams of prints of one venue.

    Parameters
    ----------
    health : Health
        Of the venue.
    markets : sequence of Market
        Those that are followed.
    lag_ms : int
        What a stream is not trusted for after its first message and before its last: other subscriptions may be under
        way then, and prints come later than what else is told. [ms]
    """

    def __init__(self, health: Health, markets: Sequence[Market], lag_ms: int) -> None:
        self._health, self._markets, self._lag_ms = health, markets, lag_ms
        self._streams: dict[str, _Stream] = {}

    def changes(self) -> Iterator[tuple[Market, Connection]]:
        """Yield what has changed since the last call.

        A stream counts as heard from shortly after its first message until shortly before the last that was seen: what
        came between that and the loss of the connection may have been all, but nobody knows.
        """
        unheard = {line.name for line in self._health.unheard}
        for name, heard_ms in list(self._health.last_message_ms.items()):
            if not name.startswith(PRINTS):
                continue
            stream = self._streams.setdefault(name, _Stream(reconnects=self._health.reconnects[name]))
            lost = name in unheard or self._health.reconnects[name] != stream.reconnects
            if stream.connected and lost:
                stream.connected = False
                end_ms = max(stream.heard_ms - self._lag_ms, stream.since_ms) + 1
                yield from self._of(name, Connection(end_ms, PRINTS, connected=False))
            if not stream.connected and name not in unheard:
                stream.connected, stream.since_ms = True, heard_ms + self._lag_ms
                yield from self._of(name, Connection(stream.since_ms, PRINTS, connected=True))
            stream.heard_ms = self._health.told_ms.get(name, heard_ms)
            stream.reconnects = self._health.reconnects[name]

    def _of(self, name: str, connection: Connection) -> Iterator[tuple[Market, Connection]]:
        """Tell every market that comes through a stream; inverse ones may have one of their own."""
        names = {*self._health.last_message_ms, *(line.name for line in self._health.unheard)}
        own = any(n != PRINTS and n.startswith(PRINTS) for n in names)
        for market in self._markets:
            if not own or (name != PRINTS) == (market.contract == "inverse"):
                yield market, connection


def with_ends(told: Iterable[Connection], prints_ms: Sequence[int]) -> tuple[Connection, ...]:
    """Put an end before each beginning that follows another: a run was killed, and the next before it could say so.

    Parameters
    ----------
    told : iterable of Connection
        Of one market, by rising time.
    prints_ms : sequence of int
        Times of its prints that were kept, rising: a run heard all until the last of its own. Those shortly before
        a beginning may be of the run that begins, which hears them late. [ms]
    """
    found: list[Connection] = []
    for connection in told:
        if found and found[-1].connected and connection.connected:
            before = prints_ms[: bisect.bisect_left(prints_ms, connection.time_ms - _LATE_MS)][-1:]
            end_ms = max([found[-1].time_ms, *before]) + 1
            found.append(Connection(min(end_ms, connection.time_ms), PRINTS, connected=False))
        found.append(connection)
    return tuple(found)
