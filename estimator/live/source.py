"""`LiveSource`: live venues as a `Source`, whose past is history and what the venues have beyond it.

The book of a market is a function of what history holds, so that a worker that was killed computes the columns that
were shown, bit for bit. `estimator.live.intake` sees to it while following; here, nothing that is fetched is put
before a candle that history holds, and a past is read only when the journal up to now is in history.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final, TypeVar

import polars as pl

from estimator.cache.journal import Journal
from estimator.domain import DAY_MS, MINUTE_MS, TIME, LeverageBracket, Market, Origin
from estimator.errors import BadPayload, HistoryUnavailable, RateLimited, RegionBlocked, SettingsError, SourceError
from estimator.exchanges.base import Connection, MarketHistory, MarketUpdate, Progress
from estimator.exchanges.venue import Exchange, MarketListing, PartlyListed, PublishesPositions
from estimator.history import History, TableName, with_market
from estimator.live.choice import Wanted
from estimator.live.hearing import PRINTS, with_ends
from estimator.live.holders import Holders, Watching
from estimator.live.intake import Intake
from estimator.live.pace import Pace
from estimator.live.past import Frames, fetch_past, usable

_LOG: Final = logging.getLogger(__name__)
_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS
_KEPT_MS: Final = 400 * DAY_MS  # no level of the cache reaches further back
_T = TypeVar("_T")
# What a venue that does not list its markets is said to do, first match wins.
_WORDS: Final = (
    (RegionBlocked, "does not serve this region"),
    (RateLimited, "asks for a pause"),
    (BadPayload, "answers something that it does not document"),
    (Exception, "does not answer"),
)


class LiveSource:
    """Markets of live venues; a `GrowingSource`. Made inside the running event loop.

    Parameters
    ----------
    venues : sequence of Exchange
    history : History
    journal : Journal
        Something must move it into `history`: see `estimator.history.Recorder`.
    wanted : str
        Coins and symbols (``"BTC,ETH,SOL/USDC:USDC"``), the largest linear market of each coin on each venue; or
        ``"top 100"``, the coins with the largest open interest of all venues together.
    days : float
        Length of the past.
    shard : (int, int)
        Which of how many workers this is.
    pace : Pace, optional
    clock : callable, optional
        Time in ms, where it is not that of this machine.
    watching : Watching, optional
        Where positions go that venues publish by account; without, none are asked for.

    Raises
    ------
    SettingsError
        If `wanted` cannot be read.
    """

    origin: Origin = Origin.LIVE

    def __init__(
        self,
        venues: Sequence[Exchange],
        history: History,
        journal: Journal,
        *,
        wanted: str = "BTC,ETH,SOL",
        days: float = 30.0,
        shard: tuple[int, int] = (0, 1),
        pace: Pace | None = None,
        clock: Callable[[], int] | None = None,
        watching: Watching | None = None,
    ) -> None:
        self.description = f"live from {', '.join(v.name for v in venues)}"
        self._venues, self._history, self._journal = {v.name: v for v in venues}, history, journal
        self._wanted, self._days, self._shard, self._pace = Wanted(wanted), days, shard, pace or Pace()
        self._clock, self._watching = clock or _now_ms, watching
        self._loop = asyncio.get_running_loop()
        self._chosen: dict[str, list[Market]] = {}
        self._oldest: dict[str, int] = {}
        self._listings: dict[str, list[MarketListing]] = {}  # of venues whose markets are not chosen yet
        self._whole: set[str] = set()  # venues that have listed all their families of contracts
        self._heard: defaultdict[str, set[str]] = defaultdict(set)  # markets that are followed, by venue
        self._warned: dict[str, str] = {}
        self._funding_ms: dict[str, int | None] = {}
        self._brackets: dict[str, tuple[LeverageBracket, ...]] = {}
        self._started_ms = self._clock()
        self._begun: set[str] = set()  # markets whose last connection of an earlier run has been ended
        self._settled = False  # whether what an earlier run left in the journal is in history
        self._deep: set[str] = set()
        self._failed: dict[str, str] = {}
        self._intake = Intake(self._venues, journal, self._pace, self._clock)

    @property
    def problems(self) -> dict[str, str]:
        """What the venues that did not answer said, by name."""
        return dict(self._failed)

    @property
    def answers(self) -> bool:
        """Whether any venue has listed its markets."""
        return bool(self._chosen)

    def followed(self) -> list[tuple[Exchange, int, str | None]]:
        """Return each venue, how many of its markets are followed, and why none where it does not answer."""
        chosen = ((venue, self._chosen.get(name, ())) for name, venue in self._venues.items())
        return [(venue, len(markets), self._failed.get(venue.name)) for venue, markets in chosen]

    # --- called from threads --------------------------------------------------------------------------------------

    def markets(self) -> Sequence[Market]:
        """Return the markets of the venues that answer, the same coin of all venues together.

        Raises
        ------
        SettingsError
            If all venues answer, and none has any of what is wanted.
        """
        self._call(self._list_all())
        unfound = ", ".join(self._wanted.unfound) if self._whole == set(self._venues) else ""
        if unfound and not self._wanted.found:
            raise SettingsError(f"LIQHEAT_MARKETS: {unfound}: not listed by {', '.join(self._venues)}")
        if unfound:
            _LOG.warning("LIQHEAT_MARKETS: %s: not listed by %s", unfound, ", ".join(self._venues))
        order = {name: at for at, name in enumerate(self._venues)}
        found = [m for markets in self._chosen.values() for m in markets]
        return sorted(found, key=lambda m: (self._wanted.rank(m), order[m.exchange]))

    def history(self, market: Market, progress: Progress) -> MarketHistory:
        """Return what history holds of `market`, after adding what its venue has beyond it."""
        self._call(self._intake.let_go(market))
        self._settle(market)
        progress(0.1, f"fetching {market.id}")
        now_ms = self._clock()
        last_ms = self._history.last_time("candles", market.id)
        if last_ms is not None and market.id not in self._begun:
            self._end_connection(market, last_ms)
        self._begun.add(market.id)
        first_ms = int(now_ms - self._pace.first_days * DAY_MS) // _FIVE_MINUTES_MS * _FIVE_MINUTES_MS
        start_ms = first_ms if last_ms is None else last_ms + MINUTE_MS
        # With candles in history, what was known when they closed is history too.
        known_ms = start_ms - _FIVE_MINUTES_MS if last_ms is None else start_ms + 1
        # What was missed is fetched as it would have been heard: no stream tells extremes of the mark price.
        self._add(market, self._fetch(market, start_ms, known_ms, now_ms, marks=last_ms is None))
        progress(0.9, f"fetched {market.id}")
        return self._call(self._intake.track(self._read(self._measured(market), now_ms)))

    def recall(self, market: Market) -> MarketHistory:
        """Return what history holds of a market that is followed; what has just arrived may be missing."""
        return self._read(self._measured(market), self._clock())

    def deepen(self, market: Market, progress: Progress) -> None:
        """Fetch what the venue has before the oldest candle in history, backwards."""
        start_ms = int(self._clock() - self._days * DAY_MS)
        first_ms = oldest_ms = self._oldest[market.id]
        while oldest_ms > start_ms:
            since_ms = max(start_ms, int(oldest_ms - self._pace.chunk_days * DAY_MS)) // MINUTE_MS * MINUTE_MS
            frames = self._fetch(market, since_ms, since_ms, oldest_ms, marks=True)
            self._add(market, frames)
            if frames["candles"].is_empty():
                break  # not listed then
            oldest_ms = since_ms
            done_days, days = (round((first_ms - t) / DAY_MS) for t in (oldest_ms, start_ms))
            progress(done_days / max(days, 1), f"filling {market.id} backwards: {done_days} of {days} days")
        self._deep.add(market.id)

    def forgotten(self) -> None:
        """Write into the journal again what it may have lost: Redis was emptied."""
        self._intake.write_again()

    def capabilities(self) -> dict[str, dict[str, Any]]:
        """Return what the venues declare, by name."""
        return {name: asdict(venue.capabilities) for name, venue in self._venues.items()}

    def _fetch(self, market: Market, since_ms: int, known_ms: int, until_ms: int, *, marks: bool) -> Frames:
        venue = self._venues[market.exchange]
        return self._call(fetch_past(venue, market, since_ms, known_ms, until_ms, now_ms=self._clock(), marks=marks))

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _measured(self, market: Market) -> Market:
        """Return a market with the maintenance tiers its venue publishes; as it was listed where it says none."""
        venue = self._venues[market.exchange]
        if market.id not in self._brackets and venue.capabilities.brackets == "public":
            try:
                self._brackets[market.id] = self._call(venue.fetch_brackets(market)).brackets
            except SourceError as error:
                _LOG.warning("%s goes by the tiers of its listing: %s", market.id, error)
        return replace(market, brackets=self._brackets.get(market.id, market.brackets))

    def _end_connection(self, market: Market, last_ms: int) -> None:
        """Say that the worker before this one has heard nothing since the last that history has of a market."""
        rows = self._history.read("connections", market.id, 0, self._started_ms)
        told = rows.filter(pl.col("what") == PRINTS).sort("time", "connected")
        if told.is_empty() or not told["connected"][-1]:
            return
        # Of the last candle's minute prints may have been under way: they come through another socket.
        heard_ms = max(int(told["time"].to_physical()[-1]) + 1, last_ms)
        if heard_ms < self._started_ms:
            row = {"time": [heard_ms], "what": [PRINTS], "connected": [False]}
            frame = pl.DataFrame(row).with_columns(pl.col("time").cast(TIME))
            self._history.append("connections", with_market(market.id, frame))

    def _settle(self, market: Market) -> None:
        """Wait until what is in the journal of a market is in history; at first, all that another run left there."""
        if self._settled and not self._intake.has_written(market):
            return
        last_id, deadline = self._journal.last_id(), time.monotonic() + self._pace.settle_s
        while last_id is not None and self._journal.waits(last_id):
            if time.monotonic() > deadline:
                raise HistoryUnavailable("the journal does not reach history: its disk or object store refuses")
            self._journal.hurry()
            time.sleep(0.05)
        self._settled = True

    def _add(self, market: Market, frames: Frames) -> None:
        """Store what was fetched; candles last, for they say how far the rest is complete."""
        for table in sorted(frames, key=lambda name: name == "candles"):
            if not frames[table].is_empty():
                self._history.append(table, with_market(market.id, frames[table]))

    def _read(self, market: Market, now_ms: int) -> MarketHistory:
        names: tuple[TableName, ...] = ("candles", "open_interest", "long_short_ratio", "funding", "liquidations")
        span = now_ms - _KEPT_MS, now_ms + DAY_MS
        candles, interest, ratio, funding, prints = (self._history.read(n, market.id, *span) for n in names)
        if candles.is_empty():
            raise SourceError(f"{market.id}: no candles")
        oldest_ms = self._oldest[market.id] = int(candles["time"].to_physical()[0])
        share = (now_ms - oldest_ms) / DAY_MS / self._days
        complete = market.id in self._deep or share >= 1.0
        return MarketHistory(
            market, MINUTE_MS, usable(candles), interest, ratio, funding, prints,
            progress=1.0 if complete else min(share, 0.99), funding_interval_ms=self._funding_ms.get(market.id),
            connections=with_ends(self._connections(market, span), prints["time"].to_physical().to_list()),
        )  # fmt: skip

    def _connections(self, market: Market, span: tuple[int, int]) -> tuple[Connection, ...]:
        rows = self._history.read("connections", market.id, *span).sort("time", "connected")
        columns = rows.select(pl.col("time").dt.epoch("ms"), "what", "connected")
        return tuple(Connection(t, what, connected) for t, what, connected in columns.iter_rows())

    # --- listing --------------------------------------------------------------------------------------------------

    async def _list_all(self) -> None:
        await asyncio.gather(*(self._list(venue) for venue in self._venues.values() if venue.name not in self._chosen))
        self._choose()

    async def _list(self, venue: Exchange) -> None:
        """List the markets of a venue, or note what it said instead."""
        try:
            listings = await asyncio.wait_for(venue.fetch_markets(), self._pace.listing_s)
            self._whole.add(venue.name)
        except PartlyListed as part:
            self._warn(venue, "does not list all", part)
            listings = part.found
        except (SourceError, TimeoutError) as error:
            self._failed[venue.name] = next(words for kind, words in _WORDS if isinstance(error, kind))
            self._warn(venue, self._failed[venue.name], error)
            return
        self._failed.pop(venue.name, None)
        self._funding_ms |= {one.market.id: one.funding_interval_ms for one in listings}
        self._listings[venue.name] = listings

    def _warn(self, venue: Exchange, words: str, error: Exception) -> None:
        said = str(error) or f"nothing within {self._pace.listing_s:g} s"
        level = logging.INFO if self._warned.get(venue.name) == words else logging.WARNING
        self._warned[venue.name] = words
        _LOG.log(level, "%s %s, it is tried again: %s", venue.name, words, said)

    def _choose(self) -> None:
        """Choose the markets of the venues that have answered since the last time."""
        self._wanted.settle(one for listings in self._listings.values() for one in listings)
        index, count = self._shard
        for name, listings in self._listings.items():
            chosen = [m for m in self._wanted.choose(listings) if zlib.crc32(m.id.encode()) % count == index]
            before = self._chosen.get(name, [])
            known = {m.id for m in before}
            self._chosen[name] = before + [m for m in chosen if m.id not in known]
        self._listings.clear()

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        """Yield what happens, for ever. A market that `history` has not been asked for shows its moving candle only."""
        for venue in self._venues.values():
            self._intake.keep(venue.name, partial(self._join, venue))
        try:
            async with aclosing(self._intake.updates()) as updates:  # type: ignore[type-var]
                async for update in updates:
                    yield update
        finally:
            await self._intake.end()

    async def _join(self, venue: Exchange) -> bool:
        """Follow what a venue lists; whether it is to be asked again, for it did not answer or not for all."""
        self._hear(venue)
        if venue.name not in self._whole:
            await self._list(venue)
            self._hear(venue)
        return venue.name not in self._whole

    def _hear(self, venue: Exchange) -> None:
        """Follow the chosen markets of a venue that are not followed yet."""
        self._choose()
        heard = self._heard[venue.name]
        markets = [m for m in self._chosen.get(venue.name, ()) if m.id not in heard]
        heard |= {m.id for m in markets}
        if markets:
            self._intake.hear(venue, markets)
        if markets and self._watching is not None and isinstance(venue, PublishesPositions):
            self._intake.keep(venue.name, *Holders(venue, markets, self._watching, self._pace, self._clock).works)

    async def close(self) -> None:
        """End what runs and close every connection."""
        await self._intake.end()
        await asyncio.gather(*(venue.close() for venue in self._venues.values()), return_exceptions=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
