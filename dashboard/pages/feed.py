"""The last day of liquidations of every market, in memory and kept up while somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import polars as pl

from dashboard.view import SideFilter, ViewError
from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, Side

TICK_S: Final = 1.0
IDLE_S: Final = 60.0  # kept for this long after somebody last looked
_TIDY_TICKS: Final = 60

_SCHEMA: Final = {
    "market": pl.UInt16,  # index into `Feed.ids`
    "time_ms": pl.Int64,
    "side": pl.String,
    "price": pl.Float64,
    "quantity_base": pl.Float64,
    "notional_usd": pl.Float64,
    "serial": pl.Int64,  # order of arrival in this process
}
COLUMNS: Final = ("time_ms", "exchange", "symbol", "side", "price", "quantity_base", "notional_usd")
ORDER: Final = ("time_ms", "exchange", "symbol", "side", "price", "notional_usd")  # newest first, and one order only


@dataclass(frozen=True, slots=True)
class PrintFilter:
    """Which liquidations are meant.

    Parameters
    ----------
    symbol : str, optional
        Base coin; None for all.
    venues : tuple of str
        Empty for all.
    side : SideFilter
    min_usd : float
        Least notional. [USD]
    """

    symbol: str | None = None
    venues: tuple[str, ...] = ()
    side: SideFilter = SideFilter.BOTH
    min_usd: float = 0.0

    def markets(self, statuses: Sequence[MarketStatus]) -> list[MarketStatus]:
        """Return the markets whose prints may pass.

        Raises
        ------
        ViewError
            If the coin or a venue is not on offer.
        """
        of_symbol = [s for s in statuses if self.symbol in (None, s.base)]
        if not of_symbol:
            offered = ", ".join(dict.fromkeys(s.base for s in statuses))
            raise ViewError("symbol", str(self.symbol), f"'all' or one of {offered}")
        unknown = sorted(set(self.venues) - {s.exchange for s in of_symbol})
        if unknown:
            accepted = "'all' or some of " + ",".join(sorted({s.exchange for s in of_symbol}))
            raise ViewError("venues", ",".join(self.venues), accepted)
        return [s for s in of_symbol if not self.venues or s.exchange in self.venues]

    def passes(self) -> pl.Expr:
        """Return the condition on side and size."""
        sides = [s.value for s in Side] if self.side is SideFilter.BOTH else [self.side.value]
        return pl.col("side").is_in(sides) & (pl.col("notional_usd") >= self.min_usd)


@dataclass(frozen=True, slots=True, eq=False)
class Recent:
    """What is known of the last 24 hours.

    Parameters
    ----------
    statuses : tuple of MarketStatus
        Every market, loaded or not.
    ids : tuple of str
        Market ids by index.
    prints : polars.DataFrame
        In order of arrival, a little more than a day of them.
    serial : int
        Of the newest print.
    generation : int
        Serials of another one count differently.
    """

    statuses: tuple[MarketStatus, ...]
    ids: tuple[str, ...]
    prints: pl.DataFrame
    serial: int
    generation: int

    @property
    def as_of_ms(self) -> int:
        """Time of the freshest market. [ms]"""
        return max(s.as_of_ms for s in self.statuses)

    def select(self, wanted: PrintFilter, *, after: int = -1) -> pl.DataFrame:
        """Return the prints that pass, newest first, with their markets; `after` leaves out earlier serials."""
        chosen = {s.id: s for s in wanted.markets(self.statuses)}
        rows = self.prints.filter(
            pl.col("serial") > after,
            pl.col("time_ms") > self.as_of_ms - DAY_MS,
            pl.col("market").is_in([at for at, market in enumerate(self.ids) if market in chosen]),
            wanted.passes(),
        )
        names = pl.DataFrame(
            {
                "market": range(len(self.ids)),
                "exchange": [i.partition(":")[0] for i in self.ids],
                "symbol": [i.partition(":")[2] for i in self.ids],
            },
            schema={"market": pl.UInt16, "exchange": pl.String, "symbol": pl.String},
        )
        return newest_first(rows.join(names, on="market", how="left"))


def newest_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort prints, always the same way."""
    return rows.sort(ORDER, descending=[name == "time_ms" for name in ORDER])


def market_totals(recent: Recent) -> dict[str, dict[str, Any]]:
    """Return longs, shorts and the largest print of the last 24 hours by market id; [USD]

    Only markets that have told of any liquidation have an entry.
    """
    rows = recent.prints.filter(pl.col("time_ms") > recent.as_of_ms - DAY_MS)
    known = rows.group_by("market").agg(
        *_sums(),
        pl.len().alias("count"),
        pl.struct("time_ms", "side", "price", "notional_usd").sort_by("notional_usd").last().alias("largest"),
    )
    found = {recent.ids[row.pop("market")]: row for row in known.to_dicts()}
    nothing = {"long_usd": 0.0, "short_usd": 0.0, "count": 0, "largest": None}
    return {s.id: found.get(s.id, nothing) for s in recent.statuses if s.has_prints}


def totals(recent: Recent, rows: pl.DataFrame, wanted: PrintFilter, span_ms: int) -> dict[str, Any]:
    """Sum selected prints over the last hours: longs against shorts, by venue, and the largest. [USD]

    A venue that has never told of a liquidation has null sums: nothing known is not nothing liquidated.
    """
    inside = rows.filter(pl.col("time_ms") > recent.as_of_ms - span_ms)
    by_venue = {v["exchange"]: v for v in inside.group_by("exchange").agg(*_sums()).to_dicts()}
    told: dict[str, bool] = {}
    for status in wanted.markets(recent.statuses):
        told[status.exchange] = told.get(status.exchange, False) or status.has_prints
    venues = [
        by_venue.get(name) or {"exchange": name, **dict.fromkeys(("long_usd", "short_usd"), 0.0 if prints else None)}
        for name, prints in told.items()
    ]
    top = inside.top_k(1, by="notional_usd").select(COLUMNS).to_dicts()
    sums = inside.select(*_sums()).to_dicts()[0] if any(told.values()) else {"long_usd": None, "short_usd": None}
    return {
        "hours": span_ms // HOUR_MS,
        **sums,
        "count": inside.height,
        "venues": venues,
        "largest": next(iter(top), None),
    }


def _sums() -> list[pl.Expr]:
    return [pl.col("notional_usd").filter(pl.col("side") == s.value).sum().alias(f"{s}_usd") for s in Side]


class Feed:
    """Reads the prints of a day once, then what arrives, for all pages of this process; for one event loop.

    Parameters
    ----------
    cache : Cache
    statuses : callable
        Returns the markets on offer.
    """

    def __init__(self, cache: Cache, statuses: Callable[[], Awaitable[list[MarketStatus]]]) -> None:
        self._cache, self._statuses = cache, statuses
        self._asked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[Recent] | None = None
        self._recent: Recent | None = None
        self._generation = 0
        self._forget()

    async def recent(self) -> Recent:
        """Return what is known now.

        Raises
        ------
        NotReady, CacheError
        """
        if self._recent is not None and self._task is not None and not self._task.done():
            self._asked = monotonic()
            return self._recent
        return await self.change()

    async def change(self) -> Recent:
        """Wait until there is something new, and return all that is known then.

        Raises
        ------
        NotReady, CacheError
        """
        self._asked = monotonic()
        if self._task is None or self._task.done():
            self._forget()
            self._task = asyncio.create_task(self._run(), name="feed")
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    def _forget(self) -> None:
        self._ids: list[str] = []
        self._marks: dict[str, bytes] = {}
        self._sources: dict[str, tuple[str, str]] = {}
        self._prints = pl.DataFrame(schema=_SCHEMA)
        self._serial = 0
        self._generation += 1
        self._recent = None

    async def _run(self) -> None:
        ticks = 0
        try:
            while self._next is not None or monotonic() - self._asked < IDLE_S:
                before, statuses = self._recent, await self._statuses()
                news = await asyncio.to_thread(self._advance, statuses, tidy=ticks % _TIDY_TICKS == 0)
                self._recent = Recent(tuple(statuses), tuple(self._ids), self._prints, self._serial, self._generation)
                if news or before is None:
                    self._tell(self._recent)
                ticks += 1
                await asyncio.sleep(TICK_S)
            self._forget()
        except Exception as error:  # told to whoever waits; the next to ask begins anew
            waiting, self._next = self._next, None
            if waiting is None or waiting.done():
                raise
            waiting.set_exception(error)
            waiting.exception()  # seen, even if nobody waits any more

    def _tell(self, recent: Recent) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(recent)

    def _advance(self, statuses: Sequence[MarketStatus], *, tidy: bool) -> bool:
        """Read what is new; markets whose source is another one are read anew. Blocks."""
        loaded = [s for s in statuses if s.loaded]
        sources = {s.id: (s.origin.value, s.source) for s in loaded}
        gone = [i for i in self._marks if sources.get(i) != self._sources[i]]
        end_ms = max(s.as_of_ms for s in loaded)
        self._drop(gone, end_ms if tidy or gone else None)
        parts = []
        for status in loaded:
            if status.id not in self._marks:
                rows, self._marks[status.id] = self._cache.get_liquidations_from(status, end_ms - DAY_MS)
                parts.append(self._rows(status.id, rows))
        self._sources = sources
        for market_id, (rows, mark) in self._cache.get_liquidations_after(loaded, self._marks).items():
            self._marks[market_id] = mark
            parts.append(self._rows(market_id, rows))
        self._prints = pl.concat([self._prints, *parts], rechunk=tidy) if parts else self._prints
        return bool(gone) or any(not p.is_empty() for p in parts)

    def _drop(self, gone: Collection[str], end_ms: int | None) -> None:
        for market_id in gone:
            del self._marks[market_id]
        if end_ms is not None:
            kept = [at for at, market_id in enumerate(self._ids) if market_id not in gone]
            recent = pl.col("time_ms") > end_ms - DAY_MS - HOUR_MS
            self._prints = self._prints.filter(pl.col("market").is_in(kept), recent)

    def _rows(self, market_id: str, prints: pl.DataFrame) -> pl.DataFrame:
        if market_id not in self._ids:
            self._ids.append(market_id)
        first, self._serial = self._serial + 1, self._serial + prints.height
        return prints.select(
            pl.lit(self._ids.index(market_id), pl.UInt16).alias("market"),
            pl.col("time").dt.epoch("ms").alias("time_ms"),
            "side",
            "price",
            "quantity_base",
            "notional_usd",
            (pl.int_range(pl.len(), dtype=pl.Int64) + first).alias("serial"),
        )
