"""A worker under test: real venues' clients, journal, history and cache; run it and kill it."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib
import json
import logging
import mmap
import multiprocessing
import os
import signal
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Final

from estimator.cache import Cache
from estimator.cache.journal import Entry
from estimator.errors import HistoryError
from estimator.exchanges.venue import Exchange
from estimator.follow import follow
from estimator.history import History
from estimator.live import LiveSource, Pace
from estimator.memory import keep_little
from estimator.worker import recording
from tests.venues.harness import IMPATIENT

_FORK: Final = multiprocessing.get_context("forkserver")  # whose children need not import it all again
_FORK.set_forkserver_preload(["tests.estimator.live_worker"])
PACE = Pace(
    lag_s=30.0,  # of the market's clock, which runs a hundred times as fast as this machine's
    open_interest_s=0.1,
    others_s=0.5,
    listing_s=5.0,
    grace_s=0.05,
    settle_s=20.0,
    longest_s=0.2,
    first_days=0.5,
)


def shared_clock(path: str) -> Callable[[], int]:
    """Read the time that another process writes."""
    with Path(path).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: int(struct.unpack("<q", memory[:8])[0])


def set_clock(path: Path, now_ms: int) -> None:
    """Tell a worker the time, in place: it has the file mapped."""
    with path.open("r+b" if path.exists() else "wb") as out:
        out.write(struct.pack("<q", now_ms))


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


async def main(
    url: str,
    root: str,
    base: str,
    clock_file: str,
    witness: str,
    names: str = "binance,bybit",
    wanted: str = "BTC",
    compact_s: float = 0.0,
    silence_s: float = 60.0,
    days: float = 1.0,
) -> None:
    """Follow venues with a past of so many days until killed; compact history every so many seconds."""
    clock, patience = shared_clock(clock_file), replace(IMPATIENT, silence_s=silence_s)
    cache, history = Cache(url), History(root)
    options: dict[str, Any] = {"exchange_base": base, "patience": patience, "throttle": False, "clock": clock}
    journal: Any = Witness(cache.journal, witness)
    with recording(cache, history, interval_s=0.2) as published:
        venues = [make_venue(name, options) for name in names.split(",")]
        source = LiveSource(venues, history, journal, wanted=wanted, days=days, pace=PACE, clock=clock)
        keeping = asyncio.ensure_future(keep_house(history, compact_s))
        try:
            await follow(source, cache, "balanced", lambda _done, _text: None, published)
        finally:
            keeping.cancel()
            await source.close()


def make_venue(name: str, options: dict[str, Any]) -> Exchange:
    """Make the client of a venue."""
    made: Exchange = getattr(importlib.import_module(f"estimator.exchanges.{name}"), name.capitalize())(**options)
    return made


async def keep_house(history: History, every_s: float) -> None:
    """Compact without a rest, so that many a kill finds it at work."""
    while every_s > 0.0:
        await asyncio.sleep(every_s)
        with contextlib.suppress(HistoryError):
            await asyncio.to_thread(history.compact)


def end_with(parent: Any) -> None:
    """End when the process that started this one does, however it does."""
    if parent is not None:
        parent.join()
        os._exit(1)


def work(log: str, arguments: Sequence[Any]) -> None:
    """Be the worker of a process of one's own until killed or interrupted."""
    keep_little()
    threading.Thread(target=end_with, args=(parent_process(),), daemon=True).start()
    faulthandler.register(signal.SIGUSR1)  # for whoever wonders what it waits for
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*arguments))


def begin(log: Path, arguments: Sequence[Any]) -> Any:
    """Start a worker in a process of its own."""
    process = _FORK.Process(target=work, args=(str(log), arguments), daemon=True)
    process.start()
    return process
