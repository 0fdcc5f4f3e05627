"""What processes under test do; light to import, so that twenty of them start quickly."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import polars as pl

from estimator.cache import Cache
from estimator.cache.journal import Entry
from estimator.domain import TIME
from estimator.history import History, Recorder, with_market

MARKETS = ("binance:BTC/USDT:USDT", "bybit:ETH/USDT:USDT")
BATCH = 3
DAYS_MS = 3 * 86_400_000


def append_open_interest(root: str, first_ms: int, n: int) -> None:
    """Add `n` rows, one commit each."""
    history = History(root)
    for i in range(n):
        frame = pl.DataFrame({"time": [first_ms + i], "open_interest": [float(i)]}).with_columns(
            pl.col("time").cast(TIME)
        )
        history.append("open_interest", with_market("binance:BTC/USDT:USDT", frame))


def append_until_killed(root: str, acknowledged: str, first_ms: int) -> None:
    """Add a row after the other, over three days; the number of each goes to a file once it is stored."""
    with Path(acknowledged).open("ab", buffering=0) as out:
        for i in range(1_000_000):
            append_open_interest(root, first_ms + i * 3_600_000 % DAYS_MS + i, 1)
            os.write(out.fileno(), b"%d\n" % i)


def compact_for_ever(root: str) -> None:
    """Compact and drop what is old, again and again."""
    history = History(root, retention_days=30)
    while True:
        history.compact(grace_hours=1)
        history.retain(1_700_000_000_000)


def entries_of(batch: int) -> list[Entry]:
    """What producer batch number `batch` consists of: three prints, two of them equal, and a reading of each market."""
    entries = []
    for market_id in MARKETS:
        time_ms = 1_700_000_000_000 + 1000 * batch
        prints = pl.DataFrame(
            {"time": [time_ms] * BATCH, "side": ["long", "long", "short"], "price": [1.1 * batch + 1] * BATCH,
             "quantity_base": [0.3] * BATCH, "notional_usd": [0.33] * BATCH}
        ).with_columns(pl.col("time").cast(TIME))  # fmt: skip
        reading = pl.DataFrame({"time": [time_ms], "open_interest": [batch + 1.0]}).with_columns(
            pl.col("time").cast(TIME)
        )
        entries += [Entry.of("liquidations", market_id, prints), Entry.of("open_interest", market_id, reading)]
    return entries


def produce_and_record(url: str, root: str, acknowledged: str, first: int) -> None:
    """Produce batches from number `first` on and record them, until killed; acknowledged numbers go to a file."""
    cache = Cache(url)
    recorder = Recorder(cache.journal, History(root), interval_s=0.02, backoff_s=0.05)
    threading.Thread(target=recorder.run, args=(threading.Event(),), daemon=True).start()
    with Path(acknowledged).open("ab", buffering=0) as out:
        for batch in range(first, 1_000_000):
            cache.journal.add(entries_of(batch))
            os.write(out.fileno(), b"%d\n" % batch)
            time.sleep(0.005)  # leave the recorder its share of the processor
