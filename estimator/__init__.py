"""liqheat's estimator: from open interest to liquidation levels. The names below are the public API.

They load on first use, so that commands which need none of the numeric stack start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from estimator.domain import LeverageBracket, Market, Position
    from estimator.model.book import PositionBook, estimate
    from estimator.model.grid import LiquidationGrid
    from estimator.model.margin import bankruptcy_price, cross_liquidation_price, liquidation_price
    from estimator.model.parameters import Parameters

__all__ = [
    "LeverageBracket",
    "LiquidationGrid",
    "Market",
    "Parameters",
    "Position",
    "PositionBook",
    "bankruptcy_price",
    "cross_liquidation_price",
    "estimate",
    "liquidation_price",
]

_HOMES = {
    "estimator.domain": ("LeverageBracket", "Market", "Position"),
    "estimator.model.book": ("PositionBook", "estimate"),
    "estimator.model.grid": ("LiquidationGrid",),
    "estimator.model.margin": ("bankruptcy_price", "cross_liquidation_price", "liquidation_price"),
    "estimator.model.parameters": ("Parameters",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
