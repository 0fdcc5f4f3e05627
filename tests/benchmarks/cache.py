"""Reading columns: three venues of 24 hours, with an empty memory and a full one, and writing a live column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from estimator import PositionBook, estimate
from estimator.cache import Cache
from estimator.model.steps import build_steps
from estimator.redis_server import BundledServer
from tests.benchmarks.kernel import MARKET, frames
from tests.benchmarks.report import Result, best_of

VENUES: Final = ("binance:BTC/USDT:USDT", "bybit:BTC/USDT:USDT", "okx:BTC/USDT:USDT")
COLUMNS: Final = 288


def measure() -> Iterator[Result]:
    """Yield the figures of the cache."""
    with TemporaryDirectory() as folder, BundledServer(Path(folder)) as server:
        yield from _measure(server.url)


def _measure(url: str) -> Iterator[Result]:
    candles, interest = (frame.tail(2 * COLUMNS) for frame in frames(0))
    steps, _ = build_steps(MARKET, candles, interest)
    n = len(steps)
    book = PositionBook(MARKET)
    past, _ = book.run(steps.part(0, n - 1), tiers=True)
    column, _ = book.run(steps.part(n - 1, n), tiers=True)
    writer = Cache(url)
    for venue in VENUES:
        writer.put_columns(venue, 0, past)
    end_ms = int(steps.close_ms[-2])
    start_ms = end_ms - COLUMNS * 300_000

    def read(cache: Cache) -> None:
        for venue in VENUES:
            cache.get_columns(venue, 0, start_ms, end_ms)

    def cold() -> None:
        cache = Cache(url)
        read(cache)
        cache.close()

    warm = Cache(url)
    read(warm)
    grid = estimate(MARKET, candles, interest).pick(slice(n - COLUMNS, n))
    copied = best_of(5, lambda: [(grid.long_usd.copy(), grid.short_usd.copy()) for _ in VENUES])
    for name, seconds in (("cold", best_of(5, cold)), ("warm", best_of(5, lambda: read(warm)))):
        note = f"{seconds / copied:.1f} x a copy of the same arrays"
        yield Result(f"cache: totals of 3 venues x {COLUMNS} columns, {name}", seconds * 1e3, "ms", note)
    began = best_of(1, lambda: writer.put_columns(VENUES[0], 0, column))
    yield Result("cache: a live column with tiers into its tile", began * 1e3, "ms")
    for cache in (writer, warm):
        cache.close()
