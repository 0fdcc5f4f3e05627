"""Rows of the markets' table by coin: what the venues of a coin are together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from dashboard.pages.overview import Facts, coin_id

EVERY_VENUE: Final = "all"

Row = Mapping[str, Any]


def coin_rows(rows: Iterable[Row], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """Put the rows of a coin's venues into one, in order of the first of each.

    Parameters
    ----------
    rows : iterable of mapping
        As `dashboard.pages.overview.market_row` makes them.
    facts : mapping of str to Facts
        Of coins, by `coin_id`; clusters and max pain are of the sum of their venues.
    """
    of_coin: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_coin[row["base"]].append(row)
    return [_coin_row(found, facts.get(coin_id(base))) for base, found in of_coin.items()]


def _coin_row(rows: Sequence[Row], facts: Facts | None) -> dict[str, Any]:
    lead = max(rows, key=lambda r: r["open_interest_usd"] or 0.0)  # its price is the one the heatmap shows
    known = facts or Facts("")
    return {
        **lead,
        "id": coin_id(lead["base"]), "exchange": EVERY_VENUE, "venues": [r["exchange"] for r in rows],
        "pending": any(r["pending"] for r in rows) or (facts is None and lead["mark_price"] is not None),
        "stale": any(r["stale"] for r in rows),
        "open_interest_base": _sum(r["open_interest_base"] for r in rows),
        "open_interest_usd": _sum(r["open_interest_usd"] for r in rows),
        "open_interest_change_24h": _held_change(rows),
        "funding_rate_8h": _held_mean(rows, "funding_rate_8h"), "funding_rate": None, "funding_interval_ms": None,
        "long_short_ratio": _held_mean(rows, "long_short_ratio"),
        "liquidated_24h": _liquidated([r["liquidated_24h"] for r in rows if r["liquidated_24h"] is not None]),
        "cluster_above": known.cluster_above, "cluster_below": known.cluster_below,
        "max_pain": {"long": known.long_pain, "short": known.short_pain},
        "provenance": _provenance(rows, lead),
    }  # fmt: skip


def _sum(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _held_mean(rows: Sequence[Row], name: str) -> float | None:
    """Mean weighted by open interest, of the venues that know it."""
    known = [(r[name], r["open_interest_usd"]) for r in rows if r[name] is not None and r["open_interest_usd"]]
    weight = sum(w for _, w in known)
    return sum(v * w for v, w in known) / weight if weight else None


def _held_change(rows: Sequence[Row]) -> float | None:
    """Change of the coins held, of the venues that know it."""
    parts = ((r["open_interest_base"], r["open_interest_change_24h"]) for r in rows)
    known = [(held, change) for held, change in parts if held and change is not None]
    before = sum(held / (1 + change) for held, change in known)
    return sum(held for held, _ in known) / before - 1 if before else None


def _liquidated(days: Sequence[Row]) -> dict[str, Any] | None:
    if not days:
        return None
    sums = {name: sum(d[name] for d in days) for name in ("long_usd", "short_usd", "count")}
    largest = sorted((d["largest"] for d in days if d["largest"]), key=itemgetter("notional_usd"))
    return {**sums, "largest": largest[-1] if largest else None}


def _provenance(rows: Sequence[Row], lead: Row) -> dict[str, Any]:
    """As old as the oldest part, with the gaps of all."""
    times = [r["provenance"]["as_of_ms"] for r in rows]
    gaps = sorted(chain.from_iterable(r["provenance"]["gaps"] for r in rows), key=lambda g: int(g["start_ms"]))
    return {**lead["provenance"], "as_of_ms": min((t for t in times if t is not None), default=None), "gaps": gaps}
