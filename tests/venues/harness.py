"""A venue's real client at work against the local server, for tests of the smaller venues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from estimator.domain import HOUR_MS, Candle, Liquidation, Market
from estimator.exchanges.venue import Exchange, MarketListing
from estimator.exchanges.wire import Patience
from tests.venues.faults import Faults
from tests.venues.feed import Feed, FeedMarket
from tests.venues.loop import run
from tests.venues.server import VenueServer, VenueWire, running

NOW = 1_780_304_430_000  # 2026-06-01 09:00:30 UTC
MINUTE_START = NOW - 30_000
LAST_HOUR = (MINUTE_START - HOUR_MS, MINUTE_START)
IMPATIENT = Patience(attempts=3, first_s=0.01, longest_s=0.02, obeyed_s=2.0)
_Venue = TypeVar("_Venue", bound=Exchange)
Tick = tuple[Market, Candle, bool]


@dataclass
class Work(Generic[_Venue]):
    """A client, the server it talks to, and what it followed so far."""

    venue: _Venue
    server: VenueServer
    feed: Feed
    markets: dict[str, Market]
    ticks: list[Tick] = field(default_factory=list)
    prints: list[tuple[Market, Liquidation]] = field(default_factory=list)

    @property
    def bitcoin(self) -> FeedMarket:
        """What the venue's BTC market is made from."""
        return self.feed.market(self.venue.name, "BTC")

    @property
    def faults(self) -> Faults:
        """What goes wrong at the venue."""
        return self.server.faults[self.venue.name]

    def closed(self, market: Market) -> list[Candle]:
        """Closed candles of a market, as they came."""
        return [candle for where, candle, closed in self.ticks if closed and where == market]

    @asynccontextmanager
    async def following(
        self, markets: list[Market], *, prints: bool = False, subscriptions: int
    ) -> AsyncIterator[None]:
        """Follow candles, or prints, while the block runs."""
        reader = (
            _taken(self.venue.watch_liquidations(markets), self.prints)
            if prints
            else _taken(self.venue.watch_candles(markets), self.ticks)
        )
        task = asyncio.ensure_future(reader)
        try:
            await self.server.subscribed(self.venue.name, subscriptions)
            yield
            await self.settled()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until what is under way has arrived."""
        heard = -1
        while heard < len(self.ticks) + len(self.prints):
            heard = len(self.ticks) + len(self.prints)
            await asyncio.sleep(0.15)

    async def drop_sockets(self) -> None:
        """Cut the venue's sockets and wait until they are gone."""
        await asyncio.sleep(0.05)
        await self.server.drop_sockets(self.venue.name)
        while self.server.sessions:  # noqa: ASYNC110 - no event of the server says so
            await asyncio.sleep(0.002)


def at_work(
    make: Callable[..., _Venue],
    wire: VenueWire,
    story: Callable[[Work[_Venue]], Awaitable[None]],
    **feed: Any,
) -> None:
    """Tell a story of a venue at work; afterwards nothing may be left running."""

    async def told() -> None:
        market = Feed(NOW, **feed)
        async with running(market, {wire.venue: wire}) as server:
            venue = make(exchange_base=server.base, patience=IMPATIENT, throttle=False, clock=lambda: market.now_ms)
            try:
                listings = await venue.fetch_markets()
                await story(Work(venue, server, market, {one.market.symbol: one.market for one in listings}))
            finally:
                await venue.close()

    run(told())


async def _taken(stream: AsyncIterator[Any], into: list[Any]) -> None:
    async with aclosing(stream) as items:  # type: ignore[type-var]
        async for item in items:
            into.append(item)  # noqa: PERF401 - what came so far counts when this is cancelled


def golden(venue: str, name: str) -> Any:
    """Return a payload that was typed after the venue's documentation."""
    said = json.loads((Path(__file__).parent / "golden" / venue / f"{name}.json").read_text())
    return said.get("payload", said)


def times(table: pl.DataFrame) -> list[int]:
    """Return the times of a frame. [ms]"""
    return table["time"].dt.epoch("ms").to_list()


def row(table: pl.DataFrame, at: int = 0) -> tuple[Any, ...]:
    """Return a row, its time in ms."""
    return table.with_columns(pl.col("time").dt.epoch("ms")).row(at)


def listing(listings: list[MarketListing], symbol: str) -> MarketListing:
    """Return the listing of a symbol."""
    return next(one for one in listings if one.market.symbol == symbol)
