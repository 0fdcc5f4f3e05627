"""What can be followed of coins, as server-sent events: prices, columns, prints, and how far they have been told.

The ``id`` of an event says that in terms of what is stored alone: the last closed column and the last print of each
market. Any process can go on from it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import polars as pl

from dashboard.export import three_digits
from dashboard.view import MAX_VENUES, ViewError, read_parameters
from estimator.cache import Cache, MarketStatus
from estimator.domain import HOUR_MS, Float32Array, Origin, Side
from estimator.latest import read_live
from estimator.model.grid import LEVELS, LiquidationGrid

PRICE, COLUMN, PRINT = "price", "column", "print"
EVENTS: Final = (PRICE, COLUMN, PRINT)
MAX_COINS: Final = 16
RESUME_MS: Final = HOUR_MS  # closed columns older than this are not told again
RESUME_PRINTS: Final = 2000  # of a market: no more are told again
REACH: Final = 0.3  # log price told of a column, to either side of the mark
PRINT_COLUMNS: Final = ("time_ms", "side", "price", "quantity_base", "notional_usd")
RETRY: Final = b"retry: 2000\n\n"
ALIVE: Final = b"event: alive\ndata: {}\n\n"

_COIN: Final = re.compile(r"[A-Za-z0-9]{1,20}")
_VENUE: Final = re.compile(r"[a-z0-9_]{1,24}")
_MARK: Final = re.compile(r"([a-z0-9_]{1,24}:[^=;\s]{1,60})=(\d{1,15})/(\d{1,15}-\d{1,15})")
_LONGEST_ID: Final = 16_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are followed.

    Parameters
    ----------
    coins : tuple of str
        Base coins, sorted.
    venues : tuple of str
        Sorted; empty for all.
    events : frozenset of str
        Of `EVENTS`.
    """

    coins: tuple[str, ...]
    venues: tuple[str, ...] = ()
    events: frozenset[str] = frozenset(EVENTS)

    @classmethod
    def parse(cls, query: str, default_symbol: str) -> Self:
        """Read a query string.

        Raises
        ------
        ViewError
        """
        given = read_parameters(query, ("symbol", "venues", "events"))
        coins = _listed(given.get("symbol", default_symbol))
        if not 0 < len(coins) <= MAX_COINS or not all(_COIN.fullmatch(c) for c in coins):
            raise ViewError("symbol", ",".join(coins)[:80], f"1 to {MAX_COINS} base coins such as BTC,ETH")
        venues = _listed(given.get("venues", "all"))
        if len(venues) > MAX_VENUES or not all(_VENUE.fullmatch(v) for v in venues):
            raise ViewError("venues", ",".join(venues)[:80], "'all' or venues such as binance,bybit")
        events = _listed(given.get("events", "all"))
        if not set(events) <= {*EVENTS, "all"} or not events:
            raise ViewError("events", ",".join(events)[:80], "'all' or some of " + ",".join(EVENTS))
        return cls(coins, () if "all" in venues else venues, frozenset(EVENTS if "all" in events else events))

    def markets(self, statuses: Iterable[MarketStatus]) -> list[MarketStatus]:
        """Return the loaded markets that are meant, by id.

        Raises
        ------
        ViewError
            If a coin or a venue is not on offer.
        """
        offered = [s for s in statuses if s.base in self.coins]
        for name, asked, known in (
            ("symbol", self.coins, {s.base for s in offered}),
            ("venues", self.venues, {s.exchange for s in offered}),
        ):
            if missing := sorted(set(asked) - known):
                raise ViewError(name, ",".join(missing)[:80], "one that /api/v1/markets lists")
        return self.among(offered)

    def among(self, statuses: Iterable[MarketStatus]) -> list[MarketStatus]:
        """Return the loaded markets that are meant, by id; none where there are none any more."""
        chosen = (s for s in statuses if s.base in self.coins and s.loaded)
        return sorted((s for s in chosen if not self.venues or s.exchange in self.venues), key=lambda s: s.id)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(sorted({part for part in text[:500].split(",") if part}))


class Mark(NamedTuple):
    """How far a market has been told: close of its last closed column, and id of its last print."""

    closed_ms: int
    print_id: str


def write_id(marks: Mapping[str, Mark]) -> str:
    """Spell marks by market as the id of an event."""
    return ";".join(f"{market}={mark.closed_ms}/{mark.print_id}" for market, mark in marks.items())


def read_id(text: str) -> dict[str, Mark]:
    """Read what `write_id` wrote.

    Raises
    ------
    ViewError
        For anything else.
    """
    parts = [_MARK.fullmatch(part) for part in text.split(";")] if len(text) <= _LONGEST_ID else [None]
    found = {p[1]: Mark(int(p[2]), p[3]) for p in parts if p is not None}
    if len(found) != len(parts):
        raise ViewError("Last-Event-ID", text[:80], "the id of an earlier event")
    return found


class Event(NamedTuple):
    """An event without its id, and the mark of its market once it has been told."""

    body: bytes
    market: str
    mark: Mark | None = None

    def encode(self, marks: dict[str, Mark]) -> bytes:
        """Return the bytes to send, after putting its mark among the marks."""
        if self.mark is None:
            return self.body
        marks[self.market] = self.mark
        return with_id(self.body, marks)


def with_id(body: bytes, marks: Mapping[str, Mark]) -> bytes:
    """Return an event with the id of marks."""
    return b"id: %b\n%b" % (write_id(marks).encode(), body)


def price_event(markets: Sequence[Mapping[str, Any]]) -> bytes:
    """Tell prices: the messages of the worker as they are."""
    return _encode(PRICE, {"markets": list(markets)})


def price_of(status: MarketStatus) -> dict[str, Any]:
    """Return what the worker would say of a market."""
    named = ("version", "as_of_ms", "mark_price")
    return {**{name: getattr(status, name) for name in named}, "market": status.id}


def read_closed(cache: Cache, status: MarketStatus, mark: Mark, until_ms: int) -> Iterator[Event]:
    """Yield the columns that closed after a mark, oldest first; what is too old is a gap. Blocks."""
    earliest_ms = until_ms - RESUME_MS
    if mark.closed_ms < earliest_ms:
        yield Event(_gap(status, COLUMN, mark.closed_ms, earliest_ms), status.id)
    grid = cache.get_columns(status.id, 0, max(mark.closed_ms, earliest_ms), until_ms)
    if grid is None:
        return
    for at in range(len(grid.time)):
        body = _column(status, grid, at, is_open=False)
        yield Event(body, status.id, mark._replace(closed_ms=_time_ms(grid, at)))


def read_open(cache: Cache, status: MarketStatus) -> Iterator[Event]:
    """Yield the column that is open, where there is one. Blocks."""
    found = read_live(cache, status, status.last_ms)
    if found is not None:
        yield Event(_column(status, found[0], -1, is_open=True), status.id)


def read_prints(cache: Cache, status: MarketStatus, mark: Mark, now: Mark) -> Iterator[Event]:
    """Yield the prints that came after a mark, up to another; of too many the newest, and a gap. Blocks."""
    rows = cache.get_liquidations_between(status, mark.print_id, now.print_id, RESUME_PRINTS + 1)
    if rows.height > RESUME_PRINTS:
        rows = rows.tail(RESUME_PRINTS)
        first_ms = int(rows["time"].dt.epoch("ms")[0])
        yield Event(_gap(status, PRINT, int(mark.print_id.partition("-")[0]), first_ms), status.id)
    if rows.height:
        yield prints_event(status, rows, now)


def prints_event(status: MarketStatus, rows: pl.DataFrame, mark: Mark) -> Event:
    """Tell prints of a market, in the order in which they came."""
    shown = rows.with_columns(time_ms=pl.col("time").dt.epoch("ms")).select(PRINT_COLUMNS)
    said = {
        "market": status.id, "origin": status.origin.value,
        "basis": "simulated" if status.origin is Origin.SIMULATED else "measured",
        "columns": PRINT_COLUMNS, "rows": [list(row) for row in shown.iter_rows()],
    }  # fmt: skip
    return Event(_encode(PRINT, said), status.id, mark)


def _time_ms(grid: LiquidationGrid, at: int) -> int:
    return int(grid.time[at].astype("datetime64[ms]").astype(np.int64))


def _column(status: MarketStatus, grid: LiquidationGrid, at: int, *, is_open: bool) -> bytes:
    reach = math.exp(REACH)
    near = grid.crop(status.mark_price / reach, status.mark_price * reach)
    said = {
        "market": status.id, "time_ms": _time_ms(grid, at), "interval_ms": LEVELS[0].interval_ms, "open": is_open,
        "origin": status.origin.value, "basis": "estimated", "unit": "USD per bin", "bin_width": near.bin_width,
        "mark_price": status.mark_price,
        **{side.value: _filled(near.first_bin, near.side_usd(side)[at]) for side in Side},
    }  # fmt: skip
    return _encode(COLUMN, said)


def _filled(first_bin: int, usd: Float32Array) -> dict[str, Any]:
    """Return the bins from the first that holds anything to the last, to three digits."""
    filled = np.flatnonzero(usd >= 1)
    if not len(filled):
        return {"first_bin": first_bin, "usd": []}
    first, last = int(filled[0]), int(filled[-1])
    return {"first_bin": first_bin + first, "usd": three_digits(usd[first : last + 1]).tolist()}


def _gap(status: MarketStatus, what: str, after_ms: int, until_ms: int) -> bytes:
    return _encode("gap", {"market": status.id, "what": what, "after_ms": after_ms, "until_ms": until_ms})


def _encode(kind: str, said: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(said, separators=(',', ':'), allow_nan=False)}\n\n".encode()
