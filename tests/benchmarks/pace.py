"""The local venues at the pace of real ones: a process of its own, which writes down when each candle was sent."""

from __future__ import annotations

import asyncio
import heapq
import random
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from estimator.domain import MINUTE_MS
from tests.venues.feed import STEP_MS, CandleTick, Feed, FeedMarket, Print
from tests.venues.server import VenueServer, running

VENUES: Final = ("binance", "bybit", "okx")
# Seconds between messages of the moving candle, by the rank of the coin: Binance sends every 250 ms while there are
# trades, Bybit and OKX at most once a second; small coins do not trade all the time.
_PERIODS: Final = {
    "binance": ((10, 0.25), (40, 0.6), (100, 1.5)),
    "bybit": ((10, 1.0), (40, 1.0), (100, 1.6)),
    "okx": ((10, 1.0), (40, 1.0), (100, 1.6)),
}
RECORD: Final = struct.Struct("<Hdd")  # number of the market, close, when it was sent


def coins(count: int) -> tuple[str, ...]:
    """Names of coins."""
    return tuple(f"C{i:02}" for i in range(count))


def names(count: int) -> list[str]:
    """Market ids by their numbers in the file of what was sent."""
    return [f"{venue}:{coin}/USDT:USDT" for venue in VENUES for coin in coins(count)]


def _period_s(venue: str, rank: int) -> float:
    return next((period for below, period in _PERIODS[venue] if rank < below), _PERIODS[venue][-1][1])


def rate(count: int) -> float:
    """Messages a second, all venues together."""
    return sum(1.0 / _period_s(venue, rank) for venue in VENUES for rank in range(count))


class _Street:
    """Sends candles and prints of all markets, each at its own pace."""

    def __init__(self, server: VenueServer, count: int, sent: BinaryIO) -> None:
        self._server, self._feed, self._sent = server, server.feed, sent
        self._random = random.Random(1)  # noqa: S311 - no secret
        self._markets = [(v, c) for v in VENUES for c in coins(count)]
        self._numbers = {key: at for at, key in enumerate(self._markets)}
        self._count, self._ordinal, self._printed_ms = count, 0, self._feed.now_ms

    async def run(self) -> None:
        due = [(time.time() + self._random.random(), key) for key in self._markets]
        heapq.heapify(due)
        while True:
            at, key = heapq.heappop(due)
            await asyncio.sleep(max(at - time.time(), 0.0))
            before_ms, self._feed.now_ms = self._feed.now_ms, int(time.time() * 1000)
            if before_ms // MINUTE_MS < self._feed.now_ms // MINUTE_MS:
                await self._close()
            if self._feed.now_ms - self._printed_ms >= STEP_MS // 10:
                await self._print()
            market = self._feed.market(*key)
            await self._tick(market)
            rank = self._numbers[key] % self._count
            heapq.heappush(due, (at + _period_s(key[0], rank) * self._random.uniform(0.7, 1.3), key))

    async def _tick(self, market: FeedMarket) -> None:
        now_ms = self._feed.now_ms
        candle = market.candle(now_ms)
        close = round(candle.low + (candle.high - candle.low) * self._random.random(), 7)  # tells one from another
        candle = replace(candle, close=min(max(close, candle.low), candle.high))
        number = self._numbers[market.venue, market.coin]
        self._sent.write(RECORD.pack(number, candle.close, time.time()))
        await self._tell(CandleTick(market, candle, False, now_ms))

    async def _close(self) -> None:
        start_ms = self._feed.now_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS
        for key in self._markets:
            market = self._feed.market(*key)
            await self._tell(CandleTick(market, market.closed(start_ms), True, start_ms + MINUTE_MS))
        self._sent.flush()

    async def _print(self) -> None:
        for key in self._markets:
            market = self._feed.market(*key)
            for one in market.prints(self._printed_ms, self._feed.now_ms):
                self._ordinal += 1
                await self._tell(Print(market, one, self._ordinal))
        self._printed_ms = self._feed.now_ms

    async def _tell(self, event: CandleTick | Print) -> None:
        for listener in self._feed.listeners:
            await listener(event)


async def serve(count: int, sent: BinaryIO) -> None:
    """Serve until ended."""
    feed = Feed(int(time.time() * 1000), days=2.2, days_ahead=0.2, coins=coins(count))
    async with running(feed) as server:
        print(server.base, flush=True)
        await _Street(server, count, sent).run()


def main(count: int, path: str) -> None:
    """Serve until ended, noting in a file what was sent when."""
    with Path(path).open("wb") as sent:
        asyncio.run(serve(count, sent))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
