"""Asking venues for what they do not send by themselves: open interest, account ratios, funding."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import polars as pl

from estimator.domain import MINUTE_MS, Market, Observation
from estimator.errors import SourceError
from estimator.exchanges.venue import Exchange
from estimator.live.pace import Kind, Pace

_LOG: Final = logging.getLogger(__name__)
_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS


class Taker(Protocol):
    """Where the answers go."""

    def follows(self, market: Market) -> bool:
        """Whether observations of a market are taken in."""
        ...

    def told_ms(self, market: Market, kind: Kind) -> int | None:
        """Return the time of the latest observation of a kind, as its venue said; None before the first."""
        ...

    def take(self, market: Market, kind: Kind, seen: Observation) -> None:
        """Take an observation in."""
        ...


class Polling:
    """Rounds over the markets of one venue, for ever; what one market fails at, the others do not notice.

    Parameters
    ----------
    venue : Exchange
    markets : sequence of Market
    taker : Taker
    pace : Pace
    clock : callable
        Time in ms.
    """

    def __init__(
        self, venue: Exchange, markets: Sequence[Market], taker: Taker, pace: Pace, clock: Callable[[], int]
    ) -> None:
        self._venue, self._markets, self._taker = venue, markets, taker
        self._pace, self._clock = pace, clock

    async def interests(self) -> bool:
        """Ask for open interest."""
        every, bulk = self._pace.open_interest_s, self._venue.capabilities.bulk_open_interest
        return await (self._at_once(every, self._all_interests) if bulk else self._spread(every, self._interest))

    async def fundings(self) -> bool:
        """Ask for the rates in force."""
        every, bulk = self._pace.others_s, self._venue.capabilities.bulk_funding
        return await (self._at_once(every, self._all_fundings) if bulk else self._spread(every, self._funding))

    async def ratios(self) -> bool:
        """Ask for account ratios, where there are any."""
        if self._venue.capabilities.ratio_history is None:
            return False
        return await self._spread(self._pace.others_s, self._ratio)

    async def _spread(self, period_s: float, ask: Callable[[Market], Awaitable[None]]) -> bool:
        """Ask for every market that is followed once in a period, evenly spread."""
        while True:
            for market in self._markets:
                due = time.monotonic() + period_s / len(self._markets)
                if self._taker.follows(market):
                    try:
                        await ask(market)
                    except SourceError as error:
                        _LOG.info("%s: %s", market.id, error)
                await asyncio.sleep(max(due - time.monotonic(), 0.0))

    async def _at_once(self, period_s: float, ask: Callable[[Sequence[Market]], Awaitable[None]]) -> bool:
        """Ask for all markets that are followed once in a period."""
        while True:
            due = time.monotonic() + period_s
            followed = [m for m in self._markets if self._taker.follows(m)]
            if followed:
                await ask(followed)
            # Soon, as long as markets are still being loaded.
            await asyncio.sleep(max(due - time.monotonic(), 0.0) if followed else min(period_s, 1.0))

    async def _all_interests(self, markets: Sequence[Market]) -> None:
        found = await self._venue.fetch_open_interests_now(markets)
        for market in markets:
            if market.id in found:
                self._taker.take(market, "open_interest", found[market.id])

    async def _interest(self, market: Market) -> None:
        self._taker.take(market, "open_interest", await self._venue.fetch_open_interest_now(market))

    async def _all_fundings(self, markets: Sequence[Market]) -> None:
        found = await self._venue.fetch_funding_rates_now(markets)
        for market in markets:
            if market.id in found:
                self._taker.take(market, "funding", Observation(self._clock(), found[market.id].rate))

    async def _funding(self, market: Market) -> None:
        rate = await self._venue.fetch_funding_rate_now(market)
        self._taker.take(market, "funding", Observation(self._clock(), rate.rate))

    async def _ratio(self, market: Market) -> None:
        now_ms = self._clock()
        told_ms = self._taker.told_ms(market, "long_short_ratio")
        since_ms = now_ms - 2 * _FIVE_MINUTES_MS if told_ms is None else told_ms
        rows = await self._venue.fetch_long_short_ratio(market, since_ms + 1, now_ms + 1)
        for time_ms, value in rows.select(pl.col("time").dt.epoch("ms"), "long_short_ratio").iter_rows():
            self._taker.take(market, "long_short_ratio", Observation(time_ms, value))
