"""What many viewers of one process share: one subscription, and one computation of each view."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import redis

from estimator.cache.connection import Connection
from estimator.errors import CacheError

_log = logging.getLogger(__name__)

_QUEUE_SIZE: Final = 256  # messages a slow reader may lag behind; then it loses the oldest
_POLL_S: Final = 1.0
_BACKOFF_S: Final = (0.1, 5.0)
RESYNC: Final = {"market": "*", "event": "resync"}

_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"

Message = dict[str, Any]
Value = TypeVar("Value")


class Updates:
    """One subscription of the process, copied to every reader; to be used within one event loop."""

    def __init__(self, connection: Connection, channel: str) -> None:
        self._connection, self._channel = connection, channel
        self._readers: set[asyncio.Queue[Message]] = set()
        self._task: asyncio.Task[None] | None = None
        self._subscribed = False

    async def read(self) -> AsyncGenerator[Message, None]:
        """Yield messages published from now on, for ever."""
        queue: asyncio.Queue[Message] = asyncio.Queue(_QUEUE_SIZE)
        self._readers.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._subscribe_forever())
        try:
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)
            if not self._readers:
                await self.aclose()

    async def aclose(self) -> None:
        """End the subscription."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _subscribe_forever(self) -> None:
        clock = asyncio.get_running_loop().time
        shortest, longest = _BACKOFF_S
        wait, self._subscribed = shortest, False
        while not _is_given_up():
            began = clock()
            try:
                async with self._connection.asynchronous.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    await self._listen(pubsub)
            except (redis.RedisError, OSError) as error:
                _log.warning("updates from %s lost (%s), trying again", self._connection.shown_url, error)
            wait = shortest if clock() - began > longest else wait
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _listen(self, pubsub: Any) -> None:
        while not _is_given_up():
            message = await pubsub.get_message(timeout=_POLL_S)
            if message is None:
                continue
            if message["type"] == "subscribe":
                if self._subscribed:  # a second time, ours or the client's own: what was published meanwhile is lost
                    self._hand_out(RESYNC)
                self._subscribed = True
            elif message["type"] == "message":
                self._parse_and_hand_out(message["data"])

    def _parse_and_hand_out(self, data: bytes) -> None:
        try:
            self._hand_out(json.loads(data))
        except ValueError as error:
            _log.warning("%s: a message is not JSON (%s), skipped", self._channel, error)

    def _hand_out(self, message: Message) -> None:
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)


def _is_given_up() -> bool:
    """Whether this task was cancelled: with Python 3.11 the client of Redis loses that while it sends a command."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class Flights(Generic[Value]):
    """One task per key, shared by all who wait for it and ended when the last of them leaves; for one event loop."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Value]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def join(self, key: str, start: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Return what the task of `key` does, after starting it if there is none; its error reaches all who wait."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(start()))
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.waiting += 1
        try:
            # A viewer who leaves must not take the view away from the others.
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()

    def _land(self, key: str, flight: _Flight[Value]) -> None:
        self._forget(key, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # seen, even if every viewer has left

    def _forget(self, key: str, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class SingleFlight:
    """Compute each missing view once, across tasks and processes; to be used within one event loop.

    Parameters
    ----------
    lock_s : float
        A process that dies while computing blocks the others for this long.
    """

    def __init__(self, connection: Connection, *, view_prefix: str, lock_prefix: str, lock_s: float) -> None:
        self._connection = connection
        self._view_prefix, self._lock_prefix, self._lock_s = view_prefix, lock_prefix, lock_s
        self._flights = Flights[bytes]()

    async def get(self, key: str, ttl_s: float, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the stored bytes, or those of the one `compute` under way; its error reaches all who wait."""
        return await self._flights.join(key, lambda: self._fly(key, ttl_s, compute))

    async def _fly(self, key: str, ttl_s: float, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        lock, token = self._lock_prefix + key, secrets.token_bytes(16)
        wait = 0.005
        try:
            while (stored := await self._stored(key)) is None and not await self._take(lock, token):
                await asyncio.sleep(wait)
                wait = min(2 * wait, 0.05)
            # Another process may have stored it between our look and our lock.
            if stored is not None or (stored := await self._stored(key)) is not None:
                return stored
            value = await compute()
            with self._connection.translated():
                client = self._connection.asynchronous
                await client.set(self._view_prefix + key, value, px=max(1, int(ttl_s * 1000)))
            return value
        finally:
            # Even where the last viewer left while the lock was asked for: only our token releases it.
            await self._release(lock, token)

    async def _take(self, lock: str, token: bytes) -> bool:
        with self._connection.translated():
            return bool(await self._connection.asynchronous.set(lock, token, nx=True, px=int(self._lock_s * 1000)))

    async def _stored(self, key: str) -> bytes | None:
        with self._connection.translated():
            value: bytes | None = await self._connection.asynchronous.get(self._view_prefix + key)
            return value

    async def _release(self, lock: str, token: bytes) -> None:
        # The lock expires by itself: failing to release it must not hide what the computation said.
        with contextlib.suppress(CacheError), self._connection.translated():
            await self._connection.asynchronous.eval(_RELEASE, 1, lock, token)
