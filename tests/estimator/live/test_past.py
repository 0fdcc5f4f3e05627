"""What is fetched of the past of a market."""

from __future__ import annotations

import asyncio

import polars as pl

from estimator.domain import HOUR_MS, MINUTE_MS
from estimator.live.past import fetch_past
from tests.estimator.live_worker import make_venue
from tests.venues.contract import IMPATIENT, NOW
from tests.venues.feed import Feed
from tests.venues.server import running


def test_a_candle_that_is_open_when_it_is_asked_for_is_not_taken_though_the_answer_comes_after_its_end() -> None:
    async def told() -> None:
        feed = Feed(NOW, coins=("BTC",))
        async with running(feed) as server:
            options = {"exchange_base": server.base, "patience": IMPATIENT, "throttle": False}
            venue = make_venue("binance", {**options, "clock": lambda: feed.now_ms + MINUTE_MS})
            try:
                market = next(m.market for m in await venue.fetch_markets() if m.market.symbol == "BTC/USDT:USDT")
                frames = await fetch_past(venue, market, NOW - HOUR_MS, NOW - HOUR_MS, NOW, now_ms=NOW, marks=False)
            finally:
                await venue.close()
        last = frames["candles"].select(pl.col("time").dt.epoch("ms")).to_series()[-1]
        assert last == (NOW // MINUTE_MS - 1) * MINUTE_MS

    asyncio.run(told())
