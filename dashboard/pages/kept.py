"""Answers that are kept for a moment and made once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from dashboard.answers import Answer, Busy
from dashboard.limits import charge_drawing
from dashboard.pages.paging import Page
from estimator.cache.viewers import Flights

KEPT_S: Final = 1.0
MAX_WAITING: Final = 16  # answers being made, each for another query
_MOST: Final = 64


def packed(body: bytes, media_type: str, after: str | None = None) -> Answer:
    """Compress a body and name it by its content."""
    small = gzip.compress(body, 6, mtime=0)
    etag = hashlib.blake2b(small, digest_size=16).hexdigest()
    return Answer(small, f'"{etag}"', media_type, gzipped=True, after=after)


class Brief:
    """Answers by query, those that have to be made counted as worked out; for one event loop.

    Parameters
    ----------
    kept_s : float
        How old they may be. [s]
    most : int
        How many are kept.
    """

    def __init__(self, kept_s: float = KEPT_S, most: int = _MOST) -> None:
        self._kept_s, self._most = kept_s, most
        self._answers: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._flights = Flights[Answer]()

    async def get(self, key: str, media_type: str, make: Callable[[], Awaitable[bytes | Page]]) -> Answer:
        """Return the answer to `key`, made anew where it is too old.

        Raises
        ------
        Busy
            If too many are being made.
        TooMany
            If the client has made too much; and whatever `make` raises.
        """
        at, answer = self._answers.get(key, (0.0, None))
        if answer is not None and monotonic() - at < self._kept_s:
            return answer
        if key not in self._flights:
            if len(self._flights) >= MAX_WAITING:
                raise Busy("too much is asked at once")
            charge_drawing()

        async def pack() -> Answer:
            made = await make()
            body, after = made if isinstance(made, Page) else (made, None)
            return await asyncio.to_thread(packed, body, media_type, after)

        began = monotonic()
        answer = await self._flights.join(key, pack)
        self._answers[key] = began, answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)
        return answer
