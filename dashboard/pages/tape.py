"""The tape: liquidations newest first or in another order, page by page and as they come."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import polars as pl

from dashboard.frame import NotReady
from dashboard.pages.feed import COLUMNS, Feed, PrintFilter, Recent, newest_first, totals
from dashboard.pages.paging import PAGING, read_limit
from dashboard.pages.sorting import SORTING, Column, Order, read_order
from dashboard.prints import read_prints
from dashboard.readings import source_words
from dashboard.view import ViewError, ViewState, read_parameters
from estimator.cache import Cache, MarketStatus
from estimator.cache.viewers import Flights
from estimator.domain import DAY_MS, HOUR_MS, Basis, Origin
from estimator.errors import LiqheatError

ALL: Final = "all"
PAGE_ROWS: Final = 100
LIMIT: Final = 1000  # rows of a page of the API where nothing is said
MAX_ROWS: Final = 5000
KEEP_ALIVE_S: Final = 10.0
_SPANS_MS: Final = (HOUR_MS, 6 * HOUR_MS, DAY_MS)  # read first: a page is mostly full after a few hours

HEADS: Final[tuple[Column[str | None], ...]] = (
    Column("time", "Time", "UTC", "When it was liquidated", "time_ms"),
    Column("coin", "Market", "", "Coin and what it is quoted in; opens its heatmap", "symbol", "text"),
    Column("venue", "Venue", "", "Who told of it", "exchange", "text"),
    Column("side", "Side", "closed", "Of the position that was closed", "side", "text"),
    Column("usd", "Size", "USD", "Notional", "notional_usd"),
    Column("price", "Price", "quote", "As the venue prints it", None),
    Column("quantity", "Quantity", "coins", "Size in coins", None),
)
NEWEST: Final = Order("time", descending=True)

_NOTHING: Final = pl.DataFrame(
    schema=dict(zip(COLUMNS, (pl.Int64, *(pl.String,) * 3, *(pl.Float64,) * 3), strict=True))
)

_CURSOR = re.compile(r"([0-9]{1,15})\.([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


class Cursor(NamedTuple):
    """Where the next page begins.

    Parameters
    ----------
    time_ms : int
        Newest first: with the prints of this time. In another order: of those up to this time. [ms]
    skip : int
        So many of them have been told.
    """

    time_ms: int
    skip: int

    def __str__(self) -> str:
        return f"{self.time_ms}.{self.skip}"


@dataclass(frozen=True, slots=True)
class TapeQuery:
    """What is on the tape.

    Parameters
    ----------
    wanted : PrintFilter
    span_ms : int
        How far back pages go. [ms]
    limit : int
        Rows of a page.
    before : Cursor, optional
        None for the first page.
    order : Order
    """

    wanted: PrintFilter
    span_ms: int
    limit: int = LIMIT
    before: Cursor | None = None
    order: Order = NEWEST

    @classmethod
    def of_view(cls, query: str, default_symbol: str) -> TapeQuery:
        """Read it from a view's query string with what else the API is asked beside it.

        Raises
        ------
        ViewError
        """
        more = ("min_usd", *SORTING, *PAGING, "format")
        view = ViewState.parse(query, default_symbol=default_symbol, also=more)
        given = read_parameters(query, (*ViewState.__slots__, *more))
        wanted = PrintFilter(None if view.symbol == ALL else view.symbol, view.venues, view.side, read_least(given))
        order = read_order(given, HEADS, NEWEST.key)
        return cls(wanted, view.span.duration_ms, read_limit(given, LIMIT, MAX_ROWS), _cursor(given), order)


def read_least(given: Mapping[str, str]) -> float:
    """Read ``min_usd``, the least notional. [USD]

    Raises
    ------
    ViewError
    """
    text = given.get("min_usd", "0")
    if not _NUMBER.fullmatch(text):
        raise ViewError("min_usd", text[:80], "an amount in USD such as 10000")
    return float(text)


def _cursor(given: Mapping[str, str]) -> Cursor | None:
    text = given.get("cursor")
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ViewError("cursor", text[:80], "what an earlier answer gave as `next`")
    return Cursor(int(found[1]), int(found[2]))


def read_page(cache: Cache, statuses: Sequence[MarketStatus], query: TapeQuery) -> tuple[pl.DataFrame, Cursor | None]:
    """Return a page of prints and where the next one begins; None after the last. Blocks."""
    chosen = [s for s in query.wanted.markets(statuses) if s.loaded]
    if not chosen:
        raise NotReady(f"{query.wanted.symbol} is being loaded", 0.0)
    as_of_ms = max(s.as_of_ms for s in chosen)
    before = query.before or Cursor(as_of_ms, 0)
    if query.order != NEWEST:
        return _read_sorted(cache, chosen, query, before)
    return _read_newest(cache, chosen, query, as_of_ms - query.span_ms, before)


def _read_newest(
    cache: Cache, statuses: Sequence[MarketStatus], query: TapeQuery, start_ms: int, before: Cursor
) -> tuple[pl.DataFrame, Cursor | None]:
    rows = pl.DataFrame()
    for span_ms in (*_SPANS_MS, query.span_ms):
        since_ms = max(start_ms, before.time_ms - span_ms)
        parts = _parts(cache, statuses, query.wanted, since_ms, before.time_ms)
        rows = arrange(pl.concat([_NOTHING, *parts]), NEWEST)
        rows = rows.slice(min(before.skip, int((rows["time_ms"] == before.time_ms).sum())))
        if rows.height > query.limit or since_ms <= start_ms:
            break
    page = rows.head(query.limit)
    return page, next_cursor(page, before) if rows.height > query.limit else None


def _read_sorted(
    cache: Cache, statuses: Sequence[MarketStatus], query: TapeQuery, before: Cursor
) -> tuple[pl.DataFrame, Cursor | None]:
    """Sort all prints of the span; of a market no more are held than pages up to this one may show."""
    end = before.skip + query.limit
    parts = _parts(cache, statuses, query.wanted, before.time_ms - query.span_ms + 1, before.time_ms)
    rows = arrange(pl.concat([_NOTHING, *(arrange(part, query.order).head(end + 1) for part in parts)]), query.order)
    page = rows.slice(before.skip, query.limit)
    return page, Cursor(before.time_ms, end) if rows.height > end else None


def _parts(
    cache: Cache, statuses: Sequence[MarketStatus], wanted: PrintFilter, start_ms: int, end_ms: int
) -> Iterator[pl.DataFrame]:
    """Yield the prints that pass by coin, for two coins of a venue must not become one."""
    for status in statuses:
        if status.has_prints:
            rows = read_prints(cache, [status], start_ms, end_ms).filter(wanted.passes())
            yield rows.with_columns(symbol=pl.lit(status.symbol)).select(COLUMNS)


def arrange(rows: pl.DataFrame, order: Order) -> pl.DataFrame:
    """Put prints into an order; of those alike in it the newest come first."""
    newest, (by,) = newest_first(rows), (h.value for h in HEADS if h.key == order.key)
    if order == NEWEST or by is None:
        return newest
    return newest.sort(by, descending=order.descending, maintain_order=True)


def next_cursor(page: pl.DataFrame, before: Cursor | None = None) -> Cursor | None:
    """Return where the page after this one of the newest begins; None where it is empty."""
    if page.is_empty():
        return None
    last_ms = int(page["time_ms"][-1])
    seen = int((page["time_ms"] == last_ms).sum())
    return Cursor(last_ms, seen + (before.skip if before is not None and before.time_ms == last_ms else 0))


def basis_of(statuses: Sequence[MarketStatus]) -> str:
    """How the prints of these markets are known."""
    if not any(s.has_prints for s in statuses):
        return "none"
    return "simulated" if statuses[0].origin is Origin.SIMULATED else Basis.MEASURED.value


def page_json(statuses: Sequence[MarketStatus], query: TapeQuery, rows: pl.DataFrame, after: Cursor | None) -> bytes:
    """Encode a page as JSON."""
    chosen = query.wanted.markets(statuses)
    return _dumps(
        {
            "as_of_ms": max(s.as_of_ms for s in chosen), "origin": chosen[0].origin.value, "basis": basis_of(chosen),
            "columns": list(COLUMNS), "rows": [list(r) for r in rows.iter_rows()],
            "next": None if after is None else str(after),
        }
    )  # fmt: skip


def page_csv(statuses: Sequence[MarketStatus], rows: pl.DataFrame) -> bytes:
    """Encode a page as CSV, with the origin in every row."""
    out = io.BytesIO()
    time = pl.from_epoch("time_ms", time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").alias("time")
    origin = pl.lit(statuses[0].origin.value).alias("origin")
    rows.select(time, pl.exclude("time_ms"), origin).write_csv(out)
    return out.getvalue()


async def stream(feed: Feed, wanted: PrintFilter, order: Order, encoding: Flights[bytes]) -> AsyncIterator[bytes]:
    """Yield server-sent events: the first page of 24 h at once, then what comes, with the totals of 1 h and 24 h.

    Parameters
    ----------
    feed : Feed
    wanted : PrintFilter
    order : Order
        Of the first page; what comes is told newest first.
    encoding : Flights
        Shared by all streams: those that want the same are all stirred at once, and one of them encodes.
    """
    before: Recent | None = None
    recent = await feed.recent()
    try:
        while True:
            make = partial(asyncio.to_thread, _event, recent, wanted, order, before)
            yield await encoding.join(repr((wanted, order, _state(recent), before and _state(before))), make)
            before, now = recent, await feed.recent()
            if now.serial != before.serial or now.generation != before.generation:
                recent = now  # what has come while that was on its way: nobody tells of it again
            while recent is before:
                try:
                    recent = await asyncio.wait_for(feed.change(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
    except LiqheatError:
        yield b"event: trouble\ndata: {}\n\n"  # the browser asks again by itself


def _state(recent: Recent) -> tuple[int, int, int]:
    return recent.generation, recent.serial, recent.as_of_ms


def _event(recent: Recent, wanted: PrintFilter, order: Order, before: Recent | None) -> bytes:
    """Encode what is new since an earlier state; the whole page where there is none, or the feed has begun anew."""
    day, chosen = recent.select(wanted), wanted.markets(recent.statuses)
    first = before is None or before.generation != recent.generation
    if before is None or first:
        rows = arrange(day, order).head(PAGE_ROWS)
    else:
        rows = day.filter(pl.col("serial") > before.serial)
    said: dict[str, Any] = {
        "first": first, "as_of_ms": recent.as_of_ms, "origin": chosen[0].origin.value, "basis": basis_of(chosen),
        "banner": source_words(recent.statuses[0]), "columns": list(COLUMNS),
        "rows": [list(r) for r in rows.select(COLUMNS).iter_rows()],
        "totals": [totals(recent, day, wanted, span) for span in (HOUR_MS, DAY_MS)],
    }  # fmt: skip
    if first:
        said["next"] = _after_first(recent, rows, order, day.height)
    return b"event: prints\ndata: " + _dumps(said) + b"\n\n"


def _after_first(recent: Recent, rows: pl.DataFrame, order: Order, count: int) -> str | None:
    """Tell the API's cursor after the first page of a stream; newest first it goes on beyond the day."""
    if order == NEWEST:
        return str(next_cursor(rows) or Cursor(recent.as_of_ms - DAY_MS, 0))
    known = int((rows["time_ms"] <= recent.as_of_ms).sum())
    return str(Cursor(recent.as_of_ms, known)) if count > rows.height else None


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
