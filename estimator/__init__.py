"""liqheat's estimator: from open interest to liquidation levels. The names below are the public API."""

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
