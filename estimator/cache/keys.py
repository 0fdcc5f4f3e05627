"""Names under which everything lies in Redis."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "liqheat:v1"
EPOCH: Final = f"{PREFIX}:epoch"  # which run of the worker wrote the markets


def market_key(market_id: str, *parts: str | int) -> str:
    """Name an entry of a market."""
    return ":".join((PREFIX, market_id, *map(str, parts)))
