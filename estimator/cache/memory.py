"""Decoded tiles kept in the process, so that what cannot change is fetched and decoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple


class Kept(NamedTuple):
    """A decoded entry.

    `epoch` names the run of the worker that wrote it: a cache that was flushed and filled again has another one.
    """

    value: object
    digest: bytes
    epoch: bytes | None
    complete: bool
    nbytes: int


class TileMemory:
    """Least recently used entries up to a number of bytes; safe to share between threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def complete(self, key: str, epoch: bytes | None) -> object | None:
        """Return the entry if it is complete, thus immutable, and of this epoch."""
        kept = self._find(key)
        return kept.value if kept and kept.complete and epoch is not None and kept.epoch == epoch else None

    def same(self, key: str, digest: bytes) -> object | None:
        """Return the entry if it was decoded from bytes of this digest."""
        kept = self._find(key)
        return kept.value if kept and kept.digest == digest else None

    def keep(self, key: str, kept: Kept) -> None:
        """Remember an entry in place of an older one of that key."""
        with self._lock:
            self._drop(key)
            self._kept[key] = kept
            self._bytes += kept.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def _find(self, key: str) -> Kept | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def _drop(self, key: str) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.nbytes
