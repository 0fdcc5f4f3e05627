"""What somebody looks at is told sooner than the rest."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis

from estimator.cache import Cache
from estimator.cache.attention import ATTENTION, LASTS_S
from estimator.domain import MINUTE_MS, Candle, Market
from estimator.exchanges.base import MarketUpdate
from estimator.exchanges.simulated import SimulatedSource
from estimator.pipeline import MarketFollower

END_MS = 20_400 * 24 * 60 * MINUTE_MS


def note(cache: Cache, *coins: str) -> None:
    async def noted() -> None:
        for coin in coins:
            await cache.attention.note(coin)
        await cache.aclose()

    asyncio.run(noted())


def test_a_coin_is_watched_for_a_while_after_somebody_looked(url: str, cache: Cache) -> None:
    note(cache, "BTC", "ETH")
    assert cache.attention.watched() == {"BTC", "ETH"}
    with redis.Redis.from_url(url) as raw:
        raw.zadd(ATTENTION, {"ETH": time.time() - LASTS_S - 1})
        assert 0 < raw.ttl(ATTENTION) <= 2 * LASTS_S
    assert cache.attention.watched() == {"BTC"}


def test_a_note_fails_in_silence_and_soon_where_redis_is_gone(tmp_path: Path) -> None:
    began = time.monotonic()
    away = Cache(f"unix://{tmp_path}/nothing")
    note(away, "BTC")
    assert time.monotonic() - began < 2.0
    away.close()


def prices_told(url: str, market: Market, follower: MarketFollower) -> list[float]:
    """What is told when a price comes, right after a column and a while later."""
    told: list[float] = []
    with redis.Redis.from_url(url) as raw, raw.pubsub() as listener:
        listener.subscribe("liqheat:v1:updates")
        listener.get_message(timeout=1.0)
        follower.show()
        for i, price in enumerate((101.0, 102.0, 103.0)):
            candle = Candle(END_MS, 100.0, 200.0, 50.0, price, 1.0)
            follower.apply(MarketUpdate(market, END_MS + i, price, candle, candle_closed=False))
        time.sleep(0.3)
        follower.show()
        while (message := listener.get_message(ignore_subscribe_messages=True, timeout=0.05)) is not None:
            told.append(float(message["data"].split(b'"mark_price": ')[1].split(b",")[0].rstrip(b"}")))
    return told


@pytest.mark.parametrize("watched", [True, False])
def test_the_price_of_a_watched_market_is_told_between_its_columns(url: str, cache: Cache, *, watched: bool) -> None:
    source = SimulatedSource(7, end_ms=END_MS, days=0.3)
    market = source.markets()[0]
    follower = MarketFollower(market, 0, source, cache, "balanced")
    follower.backfill(source.history(market, lambda _done, _text: None))
    follower.watched, follower.pace = watched, 100.0
    candle = Candle(END_MS, 100.0, 200.0, 50.0, 100.0, 1.0)
    follower.apply(MarketUpdate(market, END_MS, 100.0, candle, candle_closed=False))  # its first is shown at once
    told = prices_told(url, market, follower)
    if watched:
        assert told[-1] == 103.0
        assert len(told) <= 2
    else:
        assert told == []
