"""Which coins somebody looks at: the web notes it, and the worker shows those sooner than others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX
from estimator.errors import CacheError

ATTENTION: Final = f"{PREFIX}:attention"
BAND_ATTENTION: Final = f"{ATTENTION}:bands"
BAND_LASTS_S: Final = 900.0  # what takes seconds to make is kept for a while
LASTS_S: Final = 60.0  # a coin is watched for so long after somebody looked
_NOTED_S: Final = 10.0  # a process notes a coin at most once in this time
_LONGEST_S: Final = 0.5  # nobody waits longer for a note
_MOST: Final = 500  # coins


class Attention:
    """Coins by when somebody last looked. Obtained as `Cache.attention`, and `Cache.band_attention` for their bands."""

    def __init__(self, connection: Connection, key: str = ATTENTION, lasts_s: float = LASTS_S) -> None:
        self._connection, self._key, self._lasts_s = connection, key, lasts_s
        self._noted: dict[str, float] = {}

    async def note(self, coin: str) -> None:
        """Say that somebody looks at a coin that there is; where Redis does not take it, nothing is lost."""
        now = time.monotonic()
        if now - self._noted.get(coin, -_NOTED_S) < _NOTED_S:
            return
        self._noted = {c: at for c, at in self._noted.items() if now - at < _NOTED_S} | {coin: now}
        with contextlib.suppress(CacheError, TimeoutError):
            async with asyncio.timeout(_LONGEST_S):
                await self._put(coin)

    async def _put(self, coin: str) -> None:
        with self._connection.translated():
            pipe = self._connection.asynchronous.pipeline(transaction=False)
            pipe.zadd(self._key, {coin: time.time()})
            pipe.zremrangebyrank(self._key, 0, -_MOST - 1)
            pipe.expire(self._key, int(2 * self._lasts_s))
            await pipe.execute()

    def watched(self) -> frozenset[str]:
        """Return the coins that somebody has looked at lately."""
        with self._connection.translated():
            found = self._connection.sync.zrangebyscore(self._key, time.time() - self._lasts_s, "+inf")
        return frozenset(coin.decode() for coin in found)
