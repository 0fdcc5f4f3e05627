"""What is fetched of the past of a market."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import polars as pl
import pytest

from estimator.domain import HOUR_MS, MINUTE_MS, Market
from estimator.exchanges.venue import Exchange
from estimator.live.past import fetch_past
from estimator.model.steps import STEP_MS
from tests.estimator.live_worker import make_venue
from tests.venues.contract import IMPATIENT, NOW
from tests.venues.feed import Feed
from tests.venues.server import running


@asynccontextmanager
async def asking(name: str, now_ms: int, ahead_ms: int = 0) -> AsyncIterator[tuple[Exchange, Market]]:
    """A venue at a time of its market, its client, whose clock may be ahead, and BTC there."""
    feed = Feed(now_ms, coins=("BTC",))
    async with running(feed) as server:
        options = {"exchange_base": server.base, "patience": IMPATIENT, "throttle": False}
        venue = make_venue(name, {**options, "clock": lambda: feed.now_ms + ahead_ms})
        try:
            yield venue, next(m.market for m in await venue.fetch_markets() if m.market.symbol == "BTC/USDT:USDT")
        finally:
            await venue.close()


def last_ms(frame: pl.DataFrame) -> int:
    """Time of the last row."""
    return int(frame["time"].dt.epoch("ms")[-1])


def test_a_candle_that_is_open_when_it_is_asked_for_is_not_taken_though_the_answer_comes_after_its_end() -> None:
    async def told() -> None:
        async with asking("binance", NOW, ahead_ms=MINUTE_MS) as (venue, market):
            frames = await fetch_past(venue, market, NOW - HOUR_MS, NOW - HOUR_MS, NOW, now_ms=NOW, marks=False)
        assert last_ms(frames["candles"]) == (NOW // MINUTE_MS - 1) * MINUTE_MS

    asyncio.run(told())


@pytest.mark.parametrize("name", ["binance", "bybit", "gate", "okx"])
def test_with_the_last_candle_comes_the_open_interest_of_its_close(name: str) -> None:
    """Asked for up to a close, and a little later: else the next start would take the step for complete without it."""

    async def told() -> None:
        close_ms = NOW // STEP_MS * STEP_MS
        async with asking(name, close_ms + 10_000) as (venue, market):
            since_ms = close_ms - HOUR_MS
            frames = await fetch_past(
                venue, market, since_ms, since_ms, close_ms, now_ms=close_ms + 10_000, marks=False
            )
        assert last_ms(frames["candles"]) + MINUTE_MS == close_ms
        assert last_ms(frames["open_interest"]) == close_ms

    asyncio.run(told())
