"""The position book as a model to be scored, with any parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from estimator.domain import BoolArray
from estimator.evaluation.density import MarketPast
from estimator.model.book import PositionBook
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import SHARES, Parameters, Preset


@dataclass(frozen=True, slots=True)
class Book:
    """Our own book.

    Parameters
    ----------
    name : str
    parameters : Parameters
    """

    name: str
    parameters: Parameters

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """See `DensityModel.densities`."""
        grid, _ = PositionBook(past.market, self.parameters).run(past.steps, emit=emit)
        return grid


def preset(name: Preset) -> Book:
    """Return the book as shipped, with a named mix of leverages."""
    return Book(name, Parameters.preset(name))


def label_leverage() -> Book:
    """Return the book with what is printed on positions as their leverage, closing the faster the higher it is."""
    base = Parameters(shares=SHARES["high-leverage"], background_share=0.0)
    n = len(base.leverages)
    tau = tuple(480.0 / leverage for leverage in base.leverages)
    return Book("label-leverage", replace(base, sigmas=(0.03,) * n, tau_hours=tau))


def wide(*, background_share: float, name: str) -> Book:
    """Return the featureless wash: what large accounts hold, every bucket spread by .4."""
    base = Parameters.preset("positions")
    return Book(name, replace(base, sigmas=(0.4,) * len(base.leverages), background_share=background_share))
