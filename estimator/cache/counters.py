"""Counts that all web processes share: what a client has asked for within a minute or a day."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

from limits.aio.storage import RedisStorage

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX

COUNTERS: Final = f"{PREFIX}:counters"
_ANY_ADDRESS: Final = "async+redis://localhost:6379"  # not looked at: the connections are those of `Connection`


class Counters:
    """Counts by name. Obtained as `estimator.cache.Cache.counters`; calls raise as those of the cache do.

    Parameters
    ----------
    connection : Connection
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, RedisStorage] = WeakKeyDictionary()

    async def add(self, name: str, amount: int, lasts_s: int) -> int:
        """Add to a count and return what all processes together have added; it is forgotten after `lasts_s`.

        Raises
        ------
        CacheError
        """
        with self._connection.translated():
            return await self._storage().incr(name, lasts_s, amount)

    def _storage(self) -> RedisStorage:
        loop = asyncio.get_running_loop()
        storage = self._by_loop.get(loop)
        if storage is None:
            pool = self._connection.asynchronous.connection_pool
            storage = self._by_loop[loop] = RedisStorage(
                _ANY_ADDRESS, implementation="redispy", key_prefix=COUNTERS, connection_pool=pool
            )
        return storage
