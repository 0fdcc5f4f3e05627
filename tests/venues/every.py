"""Stories that hold at every venue, told with its own client and wire format."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from estimator.exchanges.venue import Exchange
from tests.venues.harness import Work, at_work
from tests.venues.server import VENUES

EACH = pytest.mark.parametrize("name", VENUES)


def at(
    name: str,
    story: Callable[[Work[Exchange]], Awaitable[None]],
    *,
    connection: dict[str, Any] | None = None,
    days: float = 0.2,
    **feed: Any,
) -> None:
    """Tell a story at a venue.

    Parameters
    ----------
    name : str
    story : callable
    connection : dict, optional
        How its client is made, where not as everywhere.
    days, feed
        As in `Feed`.
    """
    wire = importlib.import_module(f"tests.venues.wire_{name}").WIRE
    made = getattr(importlib.import_module(f"estimator.exchanges.{name}"), name.capitalize())

    def make(**usual: Any) -> Exchange:
        venue: Exchange = made(**usual | (connection or {}))
        return venue

    at_work(make, wire, story, days=days, **feed)
