"""Streams that share a connection, or what ccxt keeps of one, must each come back after a silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from estimator.domain import MINUTE_MS
from tests.estimator.live_worker import make_venue
from tests.venues.contract import IMPATIENT, NOW
from tests.venues.feed import Feed
from tests.venues.server import running
from tests.waiting import until


@pytest.mark.parametrize("name", ["binance", "bybit", "okx", "gate", "bitget"])
def test_a_stream_that_gives_up_does_not_end_another(name: str) -> None:
    """Candles and prints time out again and again beside one another; in the end both are heard."""

    async def told() -> None:
        feed = Feed(NOW, coins=("BTC",))
        async with running(feed) as server:
            patience = replace(IMPATIENT, silence_s=0.15)
            options = {"exchange_base": server.base, "patience": patience, "throttle": False}
            venue = make_venue(name, {**options, "clock": lambda: feed.now_ms})
            markets = [m.market for m in await venue.fetch_markets() if m.market.symbol == "BTC/USDT:USDT"]
            heard: list[set[Any]] = [set(), set()]
            readers = [
                asyncio.ensure_future(_read(stream, into))
                for stream, into in zip(
                    (venue.watch_candles(markets), venue.watch_liquidations(markets)), heard, strict=True
                )
            ]
            try:
                await until(lambda: all(venue.health.reconnects[s] > 4 for s in ("candles", "liquidations")))
                async with asyncio.timeout(20.0):
                    while not all(heard):
                        await feed.advance(MINUTE_MS)
                        await asyncio.sleep(0.02)
                assert not any(reader.done() for reader in readers)
            finally:
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
                await venue.close()

    asyncio.run(told())


async def _read(stream: AsyncIterator[Any], into: set[Any]) -> None:
    async with aclosing(stream) as items:  # type: ignore[type-var]
        async for item in items:
            into.add(item[1])
