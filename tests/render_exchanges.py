"""What `docs/exchanges.md` says of the venues' declared capabilities; ``python -m tests.render_exchanges`` rewrites it.

The page holds parts between marks, ``<!-- begin NAME -->`` and ``<!-- end NAME -->``: one table of all venues and, for
each venue, the notes it declares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS
from estimator.exchanges.binance import Binance
from estimator.exchanges.bitget import Bitget
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.gate import Gate
from estimator.exchanges.hyperliquid import Hyperliquid
from estimator.exchanges.okx import Okx
from estimator.exchanges.venue import Capabilities, Depth

PAGE: Final = Path(__file__).parents[1] / "docs" / "exchanges.md"
VENUES: Final[Mapping[str, Capabilities]] = {
    venue.name: venue.capabilities for venue in (Binance, Bybit, Okx, Gate, Bitget, Hyperliquid)
}
_PRICE_KINDS: Final = {
    "fill": "average fill",
    "order_limit": "limit of the order",
    "bankruptcy": "bankruptcy",
}


def _depth(depth: Depth | None) -> str:
    if depth is None:
        return "none"
    reach = "all" if depth.depth_ms is None else _time(depth.depth_ms)
    return f"{reach}, every {_time(depth.granularity_ms)}, {depth.rows} a page"


def _time(ms: int) -> str:
    unit, name = next(((u, n) for u, n in ((DAY_MS, "days"), (HOUR_MS, "h")) if ms % u == 0), (MINUTE_MS, "min"))
    return f"{ms / unit:g} {name}"


def _price(venue: Capabilities) -> str:
    kind = venue.liquidation_price_kind
    return "no prints" if venue.liquidations == "none" else "not documented" if kind is None else _PRICE_KINDS[kind]


def _past_prints(venue: Capabilities) -> str:
    return "none" if venue.past_liquidations_ms is None else f"{venue.past_liquidations_ms / HOUR_MS:g} h"


def _at_once(venue: Capabilities) -> str:
    of_interest, of_funding = (
        "in one answer" if bulk else "each by itself" for bulk in (venue.bulk_open_interest, venue.bulk_funding)
    )
    return of_interest if of_interest == of_funding else f"{of_interest}, {of_funding}"


def _limits(venue: Capabilities) -> str:
    return "<br>".join(
        f"`{group}` {limit.requests} in {limit.per_seconds:g} s" for group, limit in venue.limits.items()
    )


def _yes(*, given: bool) -> str:
    return "yes" if given else "no"


_ROWS: Final[Mapping[str, Callable[[Capabilities], str]]] = {
    "candles, past": lambda venue: _depth(venue.candles),
    "taker-buy volume": lambda venue: _yes(given=venue.taker_buy_volume),
    "mark price candles, past": lambda venue: _depth(venue.mark_candles),
    "open interest, past": lambda venue: _depth(venue.open_interest_history),
    "open interest on the wire": lambda venue: venue.open_interest_unit,
    "open interest and funding now, of many markets": _at_once,
    "account ratio, past": lambda venue: _depth(venue.ratio_history),
    "funding, past": lambda venue: _depth(venue.funding_history),
    "liquidation prints": lambda venue: venue.liquidations,
    "price of a print": _price,
    "prints, past": _past_prints,
    "maintenance tiers": lambda venue: venue.brackets,
    "positions by account": lambda venue: _yes(given=venue.positions),
    "order book": lambda venue: _yes(given=venue.order_book),
    "limits declared": _limits,
}


def render_table() -> str:
    """Return the capabilities of all venues as a Markdown table, a column per venue."""
    lines = [["", *VENUES], ["---"] * (1 + len(VENUES))]
    lines += [[title, *map(tell, VENUES.values())] for title, tell in _ROWS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_notes(venue: str) -> str:
    """Return the notes a venue declares as a Markdown list."""
    return "\n".join(f"- {note.rstrip('.')}." for note in VENUES[venue].notes)


def rewritten(page: str) -> str:
    """Return the page with its marked parts as the capabilities have them now.

    Raises
    ------
    ValueError
        If a part is not marked exactly once.
    """
    parts = {"table": render_table(), **{f"notes {venue}": render_notes(venue) for venue in VENUES}}
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        found = re.findall(f"{re.escape(begin)}.*?{re.escape(end)}", page, flags=re.DOTALL)
        if len(found) != 1:
            raise ValueError(f"{begin} … {end}: found {len(found)} times, expected once")
        page = page.replace(found[0], f"{begin}\n\n{part}\n\n{end}")
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
