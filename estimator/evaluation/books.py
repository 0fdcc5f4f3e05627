"""The position book as a model to be scored, with any parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

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


# What the method was designed with, before the defaults were fitted: a fixed mix, narrow where leverage is high.
_DESIGNED: Final = Parameters(
    sigmas=(0.03, 0.03, 0.03, 0.03, 0.03, 0.03, 0.05, 0.08, 0.12, 0.20, 0.40, 0.40), churn=0.15, volatility_scaling=0.0
)


def as_designed() -> Book:
    """Return the book with the parameters the method was designed with."""
    return Book("as designed", _DESIGNED)


def smooth() -> Book:
    """Return the book with every bucket spread more: the best on real positions, less to see."""
    return Book("smooth", Parameters(sigmas=(0.4,) * 5 + (0.3,) * 3 + (0.2,) * 4))


def label_leverage() -> Book:
    """Return the book with what is printed on positions as their leverage, closing the faster the higher it is."""
    n = len(_DESIGNED.leverages)
    tau = tuple(480.0 / leverage for leverage in _DESIGNED.leverages)
    base = replace(_DESIGNED, shares=SHARES["high-leverage"], background_share=0.0)
    return Book("label-leverage", replace(base, sigmas=(0.03,) * n, tau_hours=tau))


def wide(*, background_share: float, name: str) -> Book:
    """Return the featureless wash: what large accounts hold, every bucket spread by .4, whatever the volatility."""
    base = replace(_DESIGNED, shares=SHARES["positions"], background_share=background_share)
    return Book(name, replace(base, sigmas=(0.4,) * len(base.leverages)))
