"""The page of the tape: its address and its markup; a script follows the stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Final

from dashboard.navigation import Look
from dashboard.pages.feed import PrintFilter
from dashboard.pages.shell import Part
from dashboard.pages.sorting import SORTING, Order, head, read_order
from dashboard.pages.tape import ALL, HEADS, NEWEST, read_least
from dashboard.view import SideFilter, ViewState, read_parameters

PATH: Final = "/tape"


@dataclass(frozen=True, slots=True)
class TapePage:
    """The address of the page: the filter, all coins by default, the order and the look."""

    wanted: PrintFilter
    order: Order = NEWEST
    look: Look = field(default_factory=Look)

    @classmethod
    def parse(cls, query: str) -> TapePage:
        """Read it from the page's query string, or that of the stream.

        Raises
        ------
        ViewError
        """
        given = read_parameters(query, ("symbol", "venues", "side", "min_usd", *SORTING, "theme", "palette"))
        view = ViewState.parse({n: given[n] for n in ("symbol", "venues", "side") if n in given}, default_symbol=ALL)
        symbol = None if view.symbol == ALL else view.symbol
        wanted = PrintFilter(symbol, view.venues, view.side, read_least(given))
        return cls(wanted, read_order(given, HEADS, NEWEST.key), Look.parse(given))


def page(asked: TapePage) -> Part:
    """Return the page; its script opens the stream."""
    wanted = asked.wanted
    sides = {SideFilter.BOTH: "Both", SideFilter.LONG: "Longs", SideFilter.SHORT: "Shorts"}
    options = "".join(
        f'<option value="{value}"{" selected" if value is wanted.side else ""}>{name}</option>'
        for value, name in sides.items()
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
<span class="tool dim" id="scope" role="status"></span>
<span class="tool" id="link" role="status"><span class="dot"></span><span id="link-words">connecting</span></span>
<button type="button" class="tool tool-button" id="pause" aria-pressed="false">Pause</button>
<a class="tool tool-button" id="csv" download="liqheat-liquidations.csv"
 href="/api/v1/liquidations?symbol=all&amp;format=csv">CSV</a>
</div>
<div class="cards" id="sums" tabindex="0" role="region" aria-label="Totals" aria-live="off"></div>
<div class="table-box" data-state="loading" id="box">
<div class="skeleton" aria-hidden="true"></div>
<div class="scroll" tabindex="0" role="region" aria-label="Liquidations">
<table id="table" class="tape" data-sort="{asked.order.key}" data-order="{asked.order.word}">
<caption class="off-screen">Liquidations. The side is that of the position that was closed. Column heads sort those of
the last 24 hours; newest first they go back further.</caption>
<thead><tr>{"".join(head(h, asked.order) for h in HEADS)}</tr></thead>
<tbody id="rows"></tbody>
</table></div>
<div class="empty" id="empty" role="status" hidden></div>
<button type="button" class="more" id="older" hidden>Older</button>
</div>"""
    foot = '<span id="basis"></span>'
    return Part(PATH, "Tape", "Liquidations as they happen, with totals by venue.", body, "tape.js", foot)
