"""Accounts are asked no faster than declared, each in its turn, and what fails takes nothing else with it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from estimator.exchanges.hyperliquid import Hyperliquid
from estimator.exchanges.venue import PublishesPositions
from estimator.live import Pace, make_venues
from estimator.live.holders import Holders, Watching
from estimator.live.watchlist import STALE_MS
from estimator.model.holdings import Observed
from estimator.settings import VENUES
from tests.venues.harness import Work, at_work
from tests.venues.wire_hyperliquid import WIRE, Holder, holders

PACE = Pace(account_s=0.04, positions_s=0.02)
BTC = "hyperliquid:BTC/USDC:USDC"


class Told:
    """What was told last of each market."""

    def __init__(self) -> None:
        self.last: dict[str, Observed | None] = {}

    def put(self, observed: Mapping[str, Observed | None]) -> None:
        self.last |= observed

    @property
    def bitcoin(self) -> Observed | None:
        return self.last.get(BTC)


@asynccontextmanager
async def asking(work: Work[Hyperliquid], told: Told, accounts: list[Holder], *, shards: int = 1) -> Any:
    watching = Watching(told.put, tuple(one.address for one in accounts), shards)
    markets = list(work.markets.values())
    ticks = itertools.count()  # the clock of the feed stands still between its steps
    made = Holders(work.venue, markets, watching, PACE, lambda: work.feed.now_ms + next(ticks))
    tasks = [asyncio.ensure_future(one()) for one in (made.ask, made.tell)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        assert {type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 - what is waited for happens on the other side of a socket
            await asyncio.sleep(0.005)


def asked(work: Work[Hyperliquid]) -> list[str]:
    bodies = [call.body for call in work.server.calls]
    return [body["user"] for body in bodies if body["type"] == "clearinghouseState"]


def test_venues_that_declare_to_publish_positions_are_those_that_can_be_asked() -> None:
    async def told() -> dict[str, tuple[bool, bool]]:
        venues = make_venues(",".join(VENUES), "http://127.0.0.1:9")
        found = {v.name: (v.capabilities.positions, isinstance(v, PublishesPositions)) for v in venues}
        await asyncio.gather(*(venue.close() for venue in venues))
        return found

    assert asyncio.run(told()) == {name: (name == "hyperliquid",) * 2 for name in VENUES}


@pytest.mark.parametrize("shards", [1, 3])
def test_one_account_after_the_other_as_often_as_the_share_of_a_worker_allows(shards: int) -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        clock, listed = asyncio.get_running_loop().time, holders(work.bitcoin)[:4]
        async with asking(work, Told(), listed, shards=shards):
            began = clock()
            await until(lambda: len(asked(work)) >= 8)
            took = clock() - began
        times = Counter(asked(work)[:8])
        assert set(times.values()) == {2}
        assert took >= 7 * PACE.account_s * shards

    at_work(Hyperliquid, WIRE, story)


def test_what_an_account_closes_goes_with_its_next_answer_and_all_of_it_when_none_answers() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        listed, told = holders(work.bitcoin)[:2], Told()  # the first never closes
        async with asking(work, told, listed):
            await until(lambda: told.bitcoin is not None and told.bitcoin.positions == 2)
            while listed[1].quantity(work.feed.now_ms) > 0:
                await work.feed.advance(60_000)
            await until(lambda: told.bitcoin is not None and told.bitcoin.positions == 1)
            assert told.bitcoin is not None
            assert told.bitcoin.short_base == 0
            work.faults.add(path="/info", status=503, times=10_000)
            before = len(asked(work))
            await until(lambda: len(asked(work)) > before + 3)
            assert told.bitcoin is not None
            await work.feed.advance(STALE_MS + 60_000)
            await until(lambda: told.bitcoin is None)
            work.faults.rest.clear()
            await until(lambda: told.bitcoin is not None)

    at_work(Hyperliquid, WIRE, story)
