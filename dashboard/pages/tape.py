"""The tape: liquidations newest first, page by page and as they come."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any, Final, NamedTuple

import polars as pl

from dashboard.frame import NotReady
from dashboard.navigation import Look
from dashboard.pages.feed import COLUMNS, Feed, PrintFilter, Recent, newest_first, totals
from dashboard.pages.paging import PAGING, read_limit
from dashboard.pages.shell import Part
from dashboard.prints import read_prints
from dashboard.readings import source_words
from dashboard.view import SideFilter, ViewError, ViewState, read_parameters
from estimator.cache import Cache, MarketStatus
from estimator.cache.viewers import Flights
from estimator.domain import DAY_MS, HOUR_MS, Basis, Origin
from estimator.errors import LiqheatError

PATH: Final = "/tape"
ALL: Final = "all"
PAGE_ROWS: Final = 100
LIMIT: Final = 1000  # rows of a page of the API where nothing is said
MAX_ROWS: Final = 5000
KEEP_ALIVE_S: Final = 10.0
_SPANS_MS: Final = (HOUR_MS, 6 * HOUR_MS, DAY_MS)  # read first: a page is mostly full after a few hours

_CURSOR = re.compile(r"([0-9]{1,15})\.([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


class Cursor(NamedTuple):
    """Where the next page begins: at this time, after this many of the prints of that very millisecond."""

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
        None for the newest page.
    """

    wanted: PrintFilter
    span_ms: int
    limit: int = LIMIT
    before: Cursor | None = None

    @classmethod
    def of_view(cls, query: str, default_symbol: str) -> TapeQuery:
        """Read it from a view's query string with ``min_usd, limit, cursor`` beside it, as the API is asked.

        Raises
        ------
        ViewError
        """
        more = ("min_usd", *PAGING, "format")
        view = ViewState.parse(query, default_symbol=default_symbol, also=more)
        given = read_parameters(query, (*ViewState.__slots__, *more))
        wanted = PrintFilter(
            None if view.symbol == ALL else view.symbol, view.venues, view.side, _number(given, "min_usd")
        )
        return cls(wanted, view.span.duration_ms, read_limit(given, LIMIT, MAX_ROWS), _cursor(given))


@dataclass(frozen=True, slots=True)
class TapePage:
    """The address of the page: the filter, all coins by default, and the look."""

    wanted: PrintFilter
    look: Look = field(default_factory=Look)

    @classmethod
    def parse(cls, query: str) -> TapePage:
        """Read it from the page's query string, or that of the stream.

        Raises
        ------
        ViewError
        """
        given = read_parameters(query, ("symbol", "venues", "side", "min_usd", "theme", "palette"))
        view = ViewState.parse({n: given[n] for n in ("symbol", "venues", "side") if n in given}, default_symbol=ALL)
        symbol = None if view.symbol == ALL else view.symbol
        return cls(PrintFilter(symbol, view.venues, view.side, _number(given, "min_usd")), Look.parse(given))


def _number(given: dict[str, str], name: str) -> float:
    text = given.get(name, "0")
    if not _NUMBER.fullmatch(text):
        raise ViewError(name, text[:80], "an amount in USD such as 10000")
    return float(text)


def _cursor(given: dict[str, str]) -> Cursor | None:
    text = given.get("cursor")
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ViewError("cursor", text[:80], "what an earlier answer gave as `next`")
    return Cursor(int(found[1]), int(found[2]))


def read_page(cache: Cache, statuses: Sequence[MarketStatus], query: TapeQuery) -> tuple[pl.DataFrame, Cursor | None]:
    """Return a page of prints, newest first, and where the next one begins; None after the last. Blocks."""
    chosen = [s for s in query.wanted.markets(statuses) if s.loaded]
    if not chosen:
        raise NotReady(f"{query.wanted.symbol} is being loaded", 0.0)
    as_of_ms = max(s.as_of_ms for s in chosen)
    start_ms, before = as_of_ms - query.span_ms, query.before or Cursor(as_of_ms, 0)
    rows = pl.DataFrame()
    for span_ms in (*_SPANS_MS, query.span_ms):
        since_ms = max(start_ms, before.time_ms - span_ms)
        rows = _read(cache, chosen, query.wanted, since_ms, before)
        if rows.height > query.limit or since_ms <= start_ms:
            break
    page = rows.head(query.limit)
    return page, next_cursor(page, before) if rows.height > query.limit else None


def _read(
    cache: Cache, statuses: Sequence[MarketStatus], wanted: PrintFilter, start_ms: int, before: Cursor
) -> pl.DataFrame:
    # By coin, for two coins of a venue must not become one.
    parts = [
        read_prints(cache, [s], start_ms, before.time_ms).with_columns(symbol=pl.lit(s.symbol))
        for s in statuses
        if s.has_prints
    ]
    if not parts:
        return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Float64))
    rows = newest_first(pl.concat(parts).filter(wanted.passes())).select(COLUMNS)
    now = int((rows["time_ms"] == before.time_ms).sum())
    return rows.slice(min(before.skip, now))


def next_cursor(page: pl.DataFrame, before: Cursor | None = None) -> Cursor | None:
    """Return where the page after this one begins; None where it is empty."""
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


async def stream(feed: Feed, wanted: PrintFilter, encoding: Flights[bytes]) -> AsyncIterator[bytes]:
    """Yield server-sent events: the newest page at once, then what comes, with the totals of 1 h and 24 h.

    Parameters
    ----------
    feed : Feed
    wanted : PrintFilter
    encoding : Flights
        Shared by all streams: those that want the same are all stirred at once, and one of them encodes.
    """
    before: Recent | None = None
    recent = await feed.recent()
    try:
        while True:
            make = partial(asyncio.to_thread, _event, recent, wanted, before)
            yield await encoding.join(repr((wanted, _state(recent), before and _state(before))), make)
            before = recent
            while recent is before:
                try:
                    recent = await asyncio.wait_for(feed.change(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
    except LiqheatError:
        yield b"event: trouble\ndata: {}\n\n"  # the browser asks again by itself


def _state(recent: Recent) -> tuple[int, int, int]:
    return recent.generation, recent.serial, recent.as_of_ms


def _event(recent: Recent, wanted: PrintFilter, before: Recent | None) -> bytes:
    """Encode what is new since an earlier state; the whole page where there is none, or the feed has begun anew."""
    day, chosen = recent.select(wanted), wanted.markets(recent.statuses)
    first = before is None or before.generation != recent.generation
    rows = day.head(PAGE_ROWS) if before is None or first else day.filter(pl.col("serial") > before.serial)
    said: dict[str, Any] = {
        "first": first, "as_of_ms": recent.as_of_ms, "origin": chosen[0].origin.value, "basis": basis_of(chosen),
        "banner": source_words(recent.statuses[0]), "columns": list(COLUMNS),
        "rows": [list(r) for r in rows.select(COLUMNS).iter_rows()],
        "totals": [totals(recent, day, wanted, span) for span in (HOUR_MS, DAY_MS)],
    }  # fmt: skip
    if first:
        said["next"] = str(next_cursor(rows) or Cursor(recent.as_of_ms - DAY_MS, 0))
    return b"event: prints\ndata: " + _dumps(said) + b"\n\n"


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def page(asked: TapePage) -> Part:
    """Return the page; its script opens the stream."""
    wanted = asked.wanted
    sides = {SideFilter.BOTH: "Both", SideFilter.LONG: "Longs", SideFilter.SHORT: "Shorts"}
    options = "".join(
        f'<option value="{value}"{" selected" if value is wanted.side else ""}>{name}</option>'
        for value, name in sides.items()
    )
    heads = (
        ("time", "Time", "UTC"), ("coin", "Market", ""), ("venue", "Venue", ""), ("side", "Side", "closed"),
        ("usd", "Size", "USD"), ("price", "Price", "quote"), ("quantity", "Quantity", "coins"),
    )  # fmt: skip
    columns = "".join(
        f'<th scope="col" class="c-{key}">{name}{f"<span class=unit>{unit}</span>" if unit else ""}</th>'
        for key, name, unit in heads
    )
    least = f"{wanted.min_usd:.9f}".rstrip("0").rstrip(".") if wanted.min_usd else ""
    body = f"""<h1 class="off-screen">Tape of liquidations</h1>
<div class="bar tools page-tools" role="search">
<label class="tool"><span class="tool-name">Coin</span>
<select id="symbol" data-chosen="{escape(wanted.symbol or ALL)}"><option value="all">all</option></select></label>
<fieldset class="tool chips-row" id="venues" data-chosen="{escape(",".join(wanted.venues))}">
<legend class="tool-name">Venues</legend></fieldset>
<label class="tool"><span class="tool-name">Side</span><select id="side">{options}</select></label>
<label class="tool"><span class="tool-name">At least</span><input id="min" type="number" inputmode="numeric"
 min="0" step="1000" value="{escape(least)}" placeholder="0"><span class="dim">USD</span></label>
<div class="spacer"></div>
<span class="tool" id="link" role="status"><span class="dot"></span><span id="link-words">connecting</span></span>
<button type="button" class="tool tool-button" id="pause" aria-pressed="false">Pause</button>
<a class="tool tool-button" id="csv" download="liqheat-liquidations.csv"
 href="/api/v1/liquidations?symbol=all&amp;format=csv">CSV</a>
</div>
<div class="cards" id="sums" tabindex="0" role="region" aria-label="Totals" aria-live="off"></div>
<div class="table-box" data-state="loading" id="box">
<div class="skeleton" aria-hidden="true"></div>
<div class="scroll" tabindex="0" role="region" aria-label="Liquidations, newest first">
<table id="table" class="tape">
<caption class="off-screen">Liquidations, newest first. The side is that of the position that was closed.</caption>
<thead><tr>{columns}</tr></thead>
<tbody id="rows"></tbody>
</table></div>
<div class="empty" id="empty" role="status" hidden></div>
<button type="button" class="more" id="older" hidden>Older</button>
</div>"""
    foot = '<span id="basis"></span>'
    return Part(PATH, "Tape", "Liquidations as they happen, with totals by venue.", body, "tape.js", foot)
