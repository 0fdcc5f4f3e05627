"""Observed positions of a view: levels that venues publish by account, summed up, with how much that covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dashboard.view import ALL_TIERS, SideFilter, ViewState
from estimator.cache import Cache, MarketStatus
from estimator.model.grid import LiquidationGrid, add_grids
from estimator.model.holdings import Coverage, Observed


class VenueMeasured(NamedTuple):
    """What was observed on one venue, and how much of its open interest that is, where that is known."""

    exchange: str
    observed: Observed
    coverage: Coverage | None


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was observed on the venues of a view that publish positions.

    Parameters
    ----------
    venues : tuple of VenueMeasured
        At least one.
    grid : LiquidationGrid
        Levels of all of them as one column, in a price window, of the view's sides. A level that the price has crossed
        since its account was asked is left out until it is asked again.
    """

    venues: tuple[VenueMeasured, ...]
    grid: LiquidationGrid


def read_measured(
    cache: Cache, statuses: Sequence[MarketStatus], view: ViewState, window: tuple[float, float]
) -> Measured | None:
    """Read what was observed; None where no venue of a view publishes positions, or only some leverages are shown.

    Parameters
    ----------
    statuses : sequence of MarketStatus
        The markets of the view; the first one's mark price counts.
    window : tuple of float
        Lowest and highest price of the levels.
    """
    found = cache.positions.get([s.id for s in statuses]) if view.tiers == ALL_TIERS else {}
    if not found:
        return None
    of_venues = tuple(
        VenueMeasured(s.exchange, found[s.id], found[s.id].coverage(s.open_interest_base))
        for s in statuses
        if s.id in found
    )
    grid = add_grids([one.observed.grid().crop(*window) for one in of_venues])
    return Measured(of_venues, _ahead(grid, statuses[0].mark_price, view.side))


def _ahead(grid: LiquidationGrid, mark_price: float, side: SideFilter) -> LiquidationGrid:
    """Keep longs below the price and shorts above it, of one side where only that is shown."""
    longs = (grid.price_edges[:-1] < mark_price) & (side is not SideFilter.SHORT)
    shorts = (grid.price_edges[1:] > mark_price) & (side is not SideFilter.LONG)
    return replace(
        grid, long_usd=np.where(longs, grid.long_usd, 0), short_usd=np.where(shorts, grid.short_usd, 0)
    )  # fmt: skip


def venues_json(measured: Measured) -> list[dict[str, Any]]:
    """Tell of each venue how much was observed, what share of open interest that is, and how old it is."""
    return [
        {
            "exchange": exchange, "accounts": seen.addresses, "positions": seen.positions, "priced": seen.priced,
            "coverage": None if share is None else {"long": share.long, "short": share.short, "both": share.both},
            "oldest_ms": seen.oldest_ms, "median_ms": seen.median_ms, "newest_ms": seen.newest_ms,
        }
        for exchange, seen, share in measured.venues
    ]  # fmt: skip
