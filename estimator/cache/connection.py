"""Clients of one Redis, and its errors in our words."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from estimator.errors import CacheError, CacheUnavailable, SettingsError

_LOG: Final = logging.getLogger(__name__)
_TIMEOUT_S: Final = 5.0
_CONNECT_TIMEOUT_S: Final = 2.0
_READ_SIZE: Final = 1 << 20  # entries are hundreds of kilobytes: read them in few pieces
_POOL_SIZE: Final = 64
_RETRIES: Final = 2
_WORTH_ANOTHER_TRY: Final = (redis.ConnectionError,)  # not a time-out: whoever waits has waited long enough

# Its memory is full, it follows another server, or it has just changed sides; MISCONF, its disk is full, has no class.
_FOR_NOW: Final = (redis.exceptions.OutOfMemoryError, redis.ReadOnlyError, redis.exceptions.TryAgainError)


def mask_password(url: str) -> str:
    """Hide the password of a Redis URL, wherever it stands."""
    url = re.sub(r"(?<=//)([^/@]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&#]*", r"\1***", url)


class Connection:
    """Lazy clients of one URL: one for threads, one per event loop.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``.

    Raises
    ------
    SettingsError
        If the URL has another form.
    """

    def __init__(self, url: str) -> None:
        self.shown_url = mask_password(url)
        try:
            # The pool opens no connection before the first command.
            pool = redis.BlockingConnectionPool.from_url(url, **_options(_retry()))
        except ValueError as error:
            text = f"REDIS_URL {self.shown_url!r}: {error}; use redis://host:6379/0 or unix:///path/to/socket"
            raise SettingsError(text) from None
        # Any: the client's types hold text, bytes and awaitable replies at once, whatever it was told to return.
        self.sync: Any = redis.Redis.from_pool(pool)
        self._url = url
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()

    @property
    def asynchronous(self) -> Any:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            retry = redis.asyncio.retry.Retry(ExponentialBackoff(cap=0.2, base=0.02), _RETRIES, _WORTH_ANOTHER_TRY)
            pool = redis.asyncio.BlockingConnectionPool.from_url(self._url, **_options(retry))
            client = self._by_loop[loop] = redis.asyncio.Redis.from_pool(pool)
        return client

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the client into `CacheUnavailable`, where trying again helps, and `CacheError`."""
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            text = f"Redis at {self.shown_url} does not answer ({error}): is it running, is REDIS_URL right?"
            raise CacheUnavailable(text) from error
        except redis.RedisError as error:
            passes = isinstance(error, _FOR_NOW) or "MISCONF" in str(error)
            kind = CacheUnavailable if passes else CacheError
            raise kind(f"Redis at {self.shown_url} refuses: {error}") from error

    def dropped(self) -> int:
        """Count the entries that the server has dropped since its start because its memory was full."""
        with self.translated():
            return int(self.sync.info("stats")["evicted_keys"])

    def check_kept(self) -> None:
        """Make sure that the server keeps what has no life time; warn where a stop of the server would cost it.

        Raises
        ------
        SettingsError
            If the server drops any entry, the journal's too, once its memory is full.
        """
        with self.translated():
            memory, persistence = self.sync.info("memory"), self.sync.info("persistence")
        policy = memory["maxmemory_policy"]
        if policy.startswith("allkeys"):
            raise SettingsError(
                f"Redis at {self.shown_url} has maxmemory-policy {policy}: it would drop liquidation prints that are "
                "not in history yet, which no venue tells twice; set it to volatile-lru"
            )
        if policy == "noeviction" and memory["maxmemory"]:
            _LOG.warning("%s: maxmemory-policy noeviction: full, it takes nothing in; use volatile-lru", self.shown_url)
        if not persistence["aof_enabled"]:
            _LOG.warning(
                "Redis at %s keeps no append-only file: if it stops, liquidation prints that are not in history yet "
                "are lost; set appendonly to yes",
                self.shown_url,
            )

    def close(self) -> None:
        """Close the connections of the threads."""
        self.sync.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._by_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def _retry() -> Retry:
    return Retry(ExponentialBackoff(cap=0.2, base=0.02), _RETRIES, _WORTH_ANOTHER_TRY)


def _options(retry: object) -> dict[str, Any]:
    return {
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_read_size": _READ_SIZE,
        "max_connections": _POOL_SIZE,
        "timeout": _TIMEOUT_S,
        "retry": retry,
    }
