"""A disk that fills up under Redis and history, and is freed again; run where a file system may be mounted.

``unshare --user --map-root-user --mount python -m tests.estimator.history.full_disk FOLDER`` prints what became of it.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from estimator.cache import Cache
from estimator.errors import CacheUnavailable
from estimator.history import History, Published, Recorder
from estimator.model.book import PositionBook
from estimator.model.grid import BIN_WIDTH, LEVELS, LiquidationGrid
from estimator.redis_server import BundledServer
from tests.estimator.history.writing import entries_of
from tests.estimator.model.markets import market


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no byte free while the block runs."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    yield
    ballast.unlink()


class Producer:
    """Puts batches into the journal, holding on to one until it is taken."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.taken = 0
        self.refused: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        """Produce until told to stop."""
        while not self.stop.is_set():
            try:
                self._cache.journal.add(entries_of(self.taken))
                self.taken += 1
            except CacheUnavailable as error:
                self.refused.append(str(error))
            time.sleep(0.01)


def main(folder: Path) -> None:
    """Fill the disk under a running recorder, free it, and print what is in history."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    with BundledServer(folder) as server:
        cache, history = Cache(server.url), History(folder / "history")
        recorder = Recorder(cache.journal, history, interval_s=0.05, backoff_s=0.2)
        published, producer, stop = Published(history, interval_s=0.1), Producer(cache), threading.Event()
        threads = [threading.Thread(target=t.run, args=(stop,), daemon=True) for t in (recorder, published)]
        threads.append(threading.Thread(target=producer.run, daemon=True))
        for thread in threads:
            thread.start()
        until(lambda: recorder.status.stored > 0)
        with full(folder):
            publish(published)
            until(lambda: recorder.status.error is not None and published.status.error is not None)
            until(lambda: len(producer.refused) > 20)
            shown = {"recorder": recorder.status.error, "published": published.status.error}
            until(lambda: published.status.waiting == 1)  # between two tries
            waiting = published.status.waiting
        taken = producer.taken
        until(lambda: producer.taken > taken + 10)
        producer.stop.set()
        until(lambda: cache.journal.length() == 0 and recorder.status.error is None)
        until(lambda: published.status.waiting == 0 and published.status.error is None)
        stop.set()
        for thread in threads:
            thread.join()
        prints = history.times("liquidations", 0, 2**42).height
        columns = history.times("columns", 0, 2**42).height
        told = {"batches": producer.taken, "prints": prints, "columns": columns, "waiting": waiting, "shown": shown}
        print(json.dumps(told | {"refused": sorted(set(producer.refused))}))


def publish(published: Published) -> None:
    """Publish ten columns of random densities, which no codec makes small."""
    time = (LEVELS[0].interval_ms * np.arange(1, 11)).astype("datetime64[ms]")
    long_usd, short_usd = np.random.default_rng(1).lognormal(8, 3, (2, 10, 500)).astype(np.float32)
    published.add(0, LiquidationGrid(time, 11_000, BIN_WIDTH, long_usd, short_usd), PositionBook(market()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
