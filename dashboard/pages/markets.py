"""The table of all markets: what it can be asked for, its rows as JSON and CSV, its page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

import polars as pl

from dashboard.api import market_json
from dashboard.navigation import Look
from dashboard.pages.coins import coin_rows
from dashboard.pages.feed import Recent, market_totals
from dashboard.pages.overview import Facts, market_row, venue_sums
from dashboard.pages.shell import Part
from dashboard.pages.sorting import SORTING, Column, Order, head, read_order
from dashboard.readings import source_words
from dashboard.view import ViewError, read_parameters
from estimator.cache import MarketStatus

PATH: Final = "/markets"
MAX_WORDS: Final = 60
MAX_ROWS: Final = 1000  # of a page of the API
ROWS: Final = {"venue": "markets", "coin": "coins, venues together"}  # what a row may be

Row = Mapping[str, Any]


def _part(row: Row, *names: str) -> Any:
    found: Any = row
    for name in names:
        found = None if found is None else found.get(name)
    return found


def _liquidated(row: Row) -> float | None:
    day = row["liquidated_24h"]
    return None if day is None else float(day["long_usd"] + day["short_usd"])


def _away(name: str) -> Callable[[Row], float | None]:
    def distance(row: Row) -> float | None:
        price, mark = _part(row, name, "price"), row["mark_price"]
        return None if price is None or not mark else abs(price / mark - 1)

    return distance


def _nearest_pain(row: Row) -> float | None:
    known, mark = [p for p in row["max_pain"].values() if p is not None], row["mark_price"]
    return min(abs(p / mark - 1) for p in known) if known and mark else None


COLUMNS: Final[tuple[Column[Callable[[Row], Any]], ...]] = (
    Column("coin", "Market", "", "Coin and venue; opens its heatmap", lambda r: (r["base"], r["exchange"]), "text"),
    Column("price", "Price", "quote", "Mark price", lambda r: r["mark_price"]),
    Column("change", "Change", "%, 24 h", "Change of the price in 24 h", lambda r: r["price_change_24h"]),
    Column("liquidated", "Liquidated", "USD, 24 h", "Longs and shorts liquidated in 24 h", _liquidated),
    Column("long", "Longs", "USD, 24 h", "Longs liquidated in 24 h", lambda r: _part(r, "liquidated_24h", "long_usd")),
    Column(
        "short", "Shorts", "USD, 24 h", "Shorts liquidated in 24 h", lambda r: _part(r, "liquidated_24h", "short_usd"),
    ),
    Column(
        "largest", "Largest", "USD, 24 h", "Largest liquidation of 24 h",
        lambda r: _part(r, "liquidated_24h", "largest", "notional_usd"),
    ),
    Column(
        "below", "Cluster below", "estimated", "Nearest cluster of longs below: distance and size. Estimated.",
        _away("cluster_below"),
    ),
    Column(
        "above", "Cluster above", "estimated", "Nearest cluster of shorts above: distance and size. Estimated.",
        _away("cluster_above"),
    ),
    Column(
        "pain", "Max pain", "estimated",
        "Where most longs (below) and shorts (above) would be liquidated; – where no level of a side stands out; "
        "sorted by how far away the nearer one is. Estimated.",
        _nearest_pain,
    ),
    Column("funding", "Funding", "% / 8 h", "Funding rate, put to eight hours", lambda r: r["funding_rate_8h"]),
    Column("oi", "Open interest", "USD", "Open interest at the mark price", lambda r: r["open_interest_usd"]),
    Column(
        "oi_change", "OI change", "%, 24 h", "Change of open interest in 24 h, counted in coins",
        lambda r: r["open_interest_change_24h"],
    ),
    Column("ratio", "Long/short", "accounts", "Accounts long over accounts short", lambda r: r["long_short_ratio"]),
    Column("age", "Data", "UTC", "Time of the latest data", lambda r: _part(r, "provenance", "as_of_ms")),
)  # fmt: skip
_BY_KEY: Final = {c.key: c for c in COLUMNS}
USUAL: Final = Order("oi", descending=True)


@dataclass(frozen=True, slots=True)
class MarketsQuery:
    """Which rows, in which order.

    Parameters
    ----------
    find : str
        Part of a coin's or a venue's name.
    venues : tuple of str
        Empty for all.
    order : Order
    by : str
        What a row is: one of `ROWS`.
    """

    find: str = ""
    venues: tuple[str, ...] = ()
    order: Order = USUAL
    by: str = "venue"
    look: Look = field(default_factory=Look)

    @classmethod
    def parse(cls, query: str, *also: str) -> MarketsQuery:
        """Read it from the query string of the page or of the API.

        Raises
        ------
        ViewError
            Naming the parameter and the value.
        """
        given = read_parameters(query, ("find", "venues", *SORTING, "by", "theme", "palette", *also))
        order = read_order(given, COLUMNS, USUAL.key)
        find = given.get("find", "")
        if len(find) > MAX_WORDS:
            raise ViewError("find", find[:40] + "…", f"at most {MAX_WORDS} characters")
        venues, by = given.get("venues", "all"), given.get("by", "venue")
        if by not in ROWS:
            raise ViewError("by", by[:80], " or ".join(ROWS))
        chosen = () if venues == "all" else tuple(sorted(set(venues.split(","))))
        if chosen and by == "coin":
            raise ViewError("venues", venues[:80], "all, where a row is a coin on all its venues")
        return cls(find, chosen, order, by, Look.parse(given))

    def check(self, statuses: Sequence[MarketStatus]) -> None:
        """Refuse a venue that is not on offer.

        Raises
        ------
        ViewError
        """
        offered = sorted({s.exchange for s in statuses})
        unknown = [v for v in self.venues if v not in offered]
        if unknown:
            raise ViewError("venues", unknown[0][:80], "'all' or some of " + ",".join(offered))

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Filter and sort; what is not known comes last either way."""
        word = self.find.strip().lower()
        shown = (r for r in rows if (not self.venues or r["exchange"] in self.venues) and _is_named(r, word))
        return self.order.arrange(shown, _BY_KEY[self.order.key].value)


def _is_named(row: Row, word: str) -> bool:
    """Whether a word is part of the name of a market, or of one of a coin's markets."""
    return any(word in f"{row['symbol']} {venue}".lower() for venue in row.get("venues", (row["exchange"],)))


def markets_json(query: MarketsQuery, recent: Recent, facts: Mapping[str, Facts]) -> dict[str, Any]:
    """Return all the page and the API show."""
    days = market_totals(recent)
    rows = [market_row(s, facts.get(s.id), days.get(s.id), recent.as_of_ms) for s in recent.statuses]
    lead = recent.statuses[0]
    shown = coin_rows(rows, facts) if query.by == "coin" else rows
    return {
        "as_of_ms": recent.as_of_ms, "origin": lead.origin.value, "banner": source_words(lead),
        "venues": venue_sums(rows), "markets": query.apply(shown),
    }  # fmt: skip


def offer_json(statuses: Sequence[MarketStatus]) -> dict[str, Any]:
    """Return the markets on offer, without what takes reading more than their statuses."""
    return {"markets": [market_json(s) for s in statuses]}


def to_json(answer: Mapping[str, Any]) -> bytes:
    """Encode an answer; NaN is an error."""
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


_CSV: Final[dict[str, tuple[str, ...]]] = {
    "market": ("id",), "exchange": ("exchange",), "symbol": ("symbol",), "origin": ("provenance", "origin"),
    "as_of_ms": ("provenance", "as_of_ms"), "stale": ("stale",), "mark_price": ("mark_price",),
    "price_change_24h": ("price_change_24h",),
    "long_liquidated_24h_usd": ("liquidated_24h", "long_usd"),
    "short_liquidated_24h_usd": ("liquidated_24h", "short_usd"),
    "liquidations_24h": ("liquidated_24h", "count"),
    "largest_liquidation_usd": ("liquidated_24h", "largest", "notional_usd"),
    "largest_liquidation_side": ("liquidated_24h", "largest", "side"),
    "largest_liquidation_ms": ("liquidated_24h", "largest", "time_ms"),
    "cluster_below_price": ("cluster_below", "price"), "cluster_below_usd": ("cluster_below", "usd"),
    "cluster_above_price": ("cluster_above", "price"), "cluster_above_usd": ("cluster_above", "usd"),
    "long_max_pain": ("max_pain", "long"), "short_max_pain": ("max_pain", "short"),
    "funding_rate_8h": ("funding_rate_8h",), "open_interest_base": ("open_interest_base",),
    "open_interest_usd": ("open_interest_usd",), "open_interest_change_24h": ("open_interest_change_24h",),
    "long_short_ratio": ("long_short_ratio",),
}  # fmt: skip


def to_csv(rows: Sequence[Row]) -> bytes:
    """Encode rows as a table; what is not known is empty."""
    out = io.BytesIO()
    pl.DataFrame({n: [_part(r, *path) for r in rows] for n, path in _CSV.items()}, strict=False).write_csv(out)
    return out.getvalue()


def page(query: MarketsQuery) -> Part:
    """Return the page; its script fetches the rows."""
    heads = "".join(head(c, query.order) for c in COLUMNS)
    venues = escape(",".join(query.venues))
    rows = "".join(
        f'<option value="{name}"{" selected" if name == query.by else ""}>{words}</option>'
        for name, words in ROWS.items()
    )
    body = f"""<h1 class="off-screen">Markets</h1>
<div class="bar tools page-tools" role="search">
<label class="tool"><span class="tool-name">Find</span><input id="find" type="search" value="{escape(query.find)}"
 maxlength="{MAX_WORDS}" placeholder="coin or venue" autocomplete="off" spellcheck="false"></label>
<label class="tool"><span class="tool-name">Rows</span><select id="by">{rows}</select></label>
<fieldset class="tool chips-row" id="venues" data-chosen="{venues}"><legend class="tool-name">Venues</legend></fieldset>
<span class="tool dim" id="count" role="status"></span>
<div class="spacer"></div>
<span class="tool dim number" id="as-of"></span>
<a class="tool tool-button" id="csv" href="/api/v1/markets?format=csv" download="liqheat-markets.csv">CSV</a>
</div>
<div class="cards" id="sums" tabindex="0" role="region" aria-label="By venue"></div>
<div class="table-box" data-state="loading" id="box">
<div class="skeleton" aria-hidden="true"></div>
<div class="scroll" tabindex="0" role="region" aria-label="Markets, scrolls sideways">
<table id="table" data-sort="{query.order.key}" data-order="{query.order.word}">
<caption class="off-screen">All markets. Liquidations are as the source prints them, clusters and max pain are
estimated. Column heads sort.</caption>
<thead><tr>{heads}</tr></thead>
<tbody id="rows"></tbody>
</table></div>
<div class="empty" id="empty" role="status" hidden></div>
</div>"""
    foot = (
        "<span>– : not known or not measured; never zero</span>"
        "<span>≈ : estimated from open interest and assumed leverages</span>"
    )
    words = "Liquidations, clusters, funding and open interest of all markets."
    return Part(PATH, "Markets", words, body, "markets.js", foot)
