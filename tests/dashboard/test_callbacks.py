"""What the server pushes to the pages."""

from __future__ import annotations

import asyncio

from dashboard.callbacks import Pulse
from estimator.cache import Cache

BTC, ETH = "binance:BTC/USDT:USDT", "okx:ETH/USDT:USDT"


async def _until_read(cache: Cache, pulse: Pulse) -> int:
    """Publish until the subscription stands; return what has been seen."""
    for version in range(100):
        cache.publish(BTC, {"version": version})
        seen, markets = await pulse.next("BTC", 0, 0.1)
        if markets:
            return seen
    raise AssertionError("nothing arrived")


def test_a_change_between_two_looks_is_not_lost(cache: Cache) -> None:
    async def scene() -> None:
        pulse = Pulse(cache)
        seen = await _until_read(cache, pulse)
        await asyncio.sleep(0.3)  # let earlier messages arrive
        seen, _ = await pulse.next("BTC", seen, 0.05)
        cache.publish(BTC, {"version": 1000})
        await asyncio.sleep(0.3)  # nobody waits meanwhile
        seen, markets = await pulse.next("BTC", seen, 0.05)
        assert [m["version"] for m in markets] == [1000]
        assert await pulse.next("BTC", seen, 0.05) == (seen, [])
        await cache.aclose()

    asyncio.run(scene())


def test_every_page_of_a_coin_is_woken_and_no_other(cache: Cache) -> None:
    async def scene() -> None:
        pulse = Pulse(cache)
        seen = await _until_read(cache, pulse)
        await asyncio.sleep(0.3)
        seen, _ = await pulse.next("BTC", seen, 0.05)
        btc = [asyncio.create_task(pulse.next("BTC", seen, 5)) for _ in range(100)]
        eth = asyncio.create_task(pulse.next("ETH", 0, 0.5))
        await asyncio.sleep(0.05)
        cache.publish(BTC, {"version": 7})
        answers = await asyncio.gather(*btc)
        assert all(m[-1]["version"] == 7 and m[-1]["market"] == BTC for _, m in answers)
        assert await eth == (0, [])
        cache.publish(ETH, {"version": 8})
        _, markets = await pulse.next("ETH", 0, 5)
        assert [m["market"] for m in markets] == [ETH]
        await cache.aclose()

    asyncio.run(scene())


def test_a_coin_nobody_waits_for_any_more_leaves_nothing_behind(cache: Cache) -> None:
    async def scene() -> None:
        pulse = Pulse(cache)
        for number in range(50):
            assert await pulse.next(f"MADEUP{number}", 0, 0.001) == (0, [])
        assert not pulse._waiting
        assert not [name for name in (*pulse._latest, *pulse._messages) if name.startswith("MADEUP")]
        await cache.aclose()

    asyncio.run(scene())
