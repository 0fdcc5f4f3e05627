"""A worker under test: real venues' clients, journal, history and cache; run it and kill it."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estimator.cache import Cache
from estimator.cache.journal import Entry
from estimator.exchanges.binance import Binance
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.venue import Exchange
from estimator.follow import follow
from estimator.history import History
from estimator.live import LiveSource, Pace
from estimator.worker import recording
from tests.venues.harness import IMPATIENT

PACE = Pace(
    open_interest_s=0.1, others_s=0.5, listing_s=5.0, grace_s=0.05, settle_s=20.0, longest_s=0.2, first_days=0.5
)


def shared_clock(path: str) -> Callable[[], int]:
    """Read the time that another process writes."""
    with Path(path).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: int(struct.unpack("<q", memory[:8])[0])


class Witness:
    """A journal that writes down, in a file of its own, what it has acknowledged."""

    def __init__(self, journal: Any, path: str) -> None:
        self._journal = journal
        self._out = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def add(self, entries: Sequence[Entry]) -> Any:
        """Add and witness."""
        ids = self._journal.add(entries)
        told = [(e.table, e.market_id, json.loads(e.rows)) for e in entries]
        os.write(self._out, (json.dumps(told) + "\n").encode())
        return ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


async def main(url: str, root: str, base: str, clock_file: str, witness: str) -> None:
    """Follow two venues until killed."""
    clock = shared_clock(clock_file)
    cache, history = Cache(url), History(root)
    options: dict[str, Any] = {"exchange_base": base, "patience": IMPATIENT, "throttle": False, "clock": clock}
    journal: Any = Witness(cache.journal, witness)
    with recording(cache, history, interval_s=0.2) as published:
        venues: list[Exchange] = [Binance(**options), Bybit(**options)]
        source = LiveSource(venues, history, journal, wanted="BTC", days=1.0, pace=PACE, clock=clock)
        await follow(source, cache, "balanced", lambda _done, _text: None, published)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
