"""Cascades: how far a shock runs when liquidations push the price into further liquidations.

The displacement ``D`` (log price, away from the mark) solves

    D = s0 + I(eta * Q(D))

with ``s0`` the shock, ``Q(D)`` the base coins liquidated between the mark and ``D``, ``eta`` the part of them that
trades at market, and ``I`` the price impact. Both are monotone, so the least solution is where the market stops. `Q`
is a staircase, one step per level, so that solution is exact: it is the first step that the price, pushed by all
before it, does not reach.

Impact models. Square root [1]_: ``I = Y * sigma * sqrt(Q / V)`` with daily volatility and volume; it is what large
orders worked over hours cost, so it is the lower end. Linear: an order fills at once against what rests in the book,
so it is the upper end; its slope comes from an order book, or from turnover [2]_. The choice between the two decides
the result: never show one number.

References
----------
.. [1] B. Tóth et al., *Anomalous price impact and the critical nature of liquidity*, Phys. Rev. X 1, 021006, 2011.
.. [2] A. S. Kyle, *Continuous auctions and insider trading*, Econometrica 53, 1985.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from estimator.domain import Float64Array, Side
from estimator.errors import ParameterError
from estimator.model.grid import LiquidationGrid

BRANCHING_WIDTH: Final = 0.004  # log price over which the local slope is taken
PARTS: Final = 8  # steps a bin of the lattice is cut into: its levels lie anywhere inside it
_INTERVALS: Final = 288  # of five minutes, in a day


class Impact(Protocol):
    """Price impact of an order: a monotone function with ``I(0) = 0``."""

    @property
    def name(self) -> str:
        """What to call it."""

    def __call__(self, quantity: Float64Array) -> Float64Array:
        """Displacement in log price of orders of these sizes, same shape. [base]"""


@dataclass(frozen=True, slots=True)
class SquareRootImpact:
    """``prefactor * daily_volatility * sqrt(Q / daily_volume)``.

    Parameters
    ----------
    daily_volatility : float
        Standard deviation of the log return of a day.
    daily_volume : float
        [base]
    prefactor : float
        About .9 on futures.
    """

    daily_volatility: float
    daily_volume: float
    prefactor: float = 0.9

    def __post_init__(self) -> None:
        _positive(daily_volatility=self.daily_volatility, daily_volume=self.daily_volume, prefactor=self.prefactor)

    @property
    def name(self) -> str:
        """What to call it."""
        return "square root"

    def __call__(self, quantity: Float64Array) -> Float64Array:
        """Displacement in log price."""
        out: Float64Array = self.prefactor * self.daily_volatility * np.sqrt(quantity / self.daily_volume)
        return out


@dataclass(frozen=True, slots=True)
class LinearImpact:
    """``stress * slope * Q``.

    Parameters
    ----------
    slope : float
        [log price per base coin]
    stress : float
        How many times thinner than usual the market is.
    """

    slope: float
    stress: float = 1.0

    def __post_init__(self) -> None:
        _positive(slope=self.slope, stress=self.stress)

    @property
    def name(self) -> str:
        """What to call it."""
        return "linear"

    def __call__(self, quantity: Float64Array) -> Float64Array:
        """Displacement in log price."""
        out: Float64Array = self.stress * self.slope * quantity
        return out

    @classmethod
    def from_turnover(
        cls, daily_volatility: float, daily_volume: float, *, imbalance: float = 0.25, stress: float = 1.0
    ) -> LinearImpact:
        """Slope by which the usual order flow makes the usual volatility.

        In five minutes the price moves by ``daily_volatility / sqrt(288)`` and a net flow of `imbalance` times a 288th
        of the volume goes through; their ratio is the slope. For markets whose order book is not at hand.

        Parameters
        ----------
        daily_volatility, daily_volume
            As in `SquareRootImpact`.
        imbalance : float
            Standard deviation of buying less selling, a share of the volume of five minutes.
        """
        _positive(daily_volatility=daily_volatility, daily_volume=daily_volume, imbalance=imbalance)
        return cls(daily_volatility * math.sqrt(_INTERVALS) / (imbalance * daily_volume), stress)


@dataclass(frozen=True, slots=True)
class BookImpact:
    """Walk an order book: straight lines between its levels, and on in the mean slope beyond the last.

    Parameters
    ----------
    displacement : sequence of float
        Distance of each level from the mark in log price, rising from above 0.
    quantity : sequence of float
        What rests up to there, rising from above 0. [base]
    stress : float
        How many times thinner than that the book becomes.
    """

    displacement: Sequence[float]
    quantity: Sequence[float]
    stress: float = 1.0

    def __post_init__(self) -> None:
        _positive(stress=self.stress)
        for name in ("displacement", "quantity"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.size == 0 or not np.isfinite(values).all() or (np.diff(values, prepend=0.0) <= 0).any():
                raise ParameterError(name, getattr(self, name), "finite numbers that rise from above 0")
        if len(self.displacement) != len(self.quantity):
            raise ParameterError("quantity", len(self.quantity), f"{len(self.displacement)} values, one for each level")

    @property
    def name(self) -> str:
        """What to call it."""
        return "order book"

    def __call__(self, quantity: Float64Array) -> Float64Array:
        """Displacement in log price."""
        taken = self.stress * quantity
        last, depth = self.displacement[-1], self.quantity[-1]
        inside = np.interp(taken, [0.0, *self.quantity], [0.0, *self.displacement])
        out: Float64Array = np.where(taken > depth, last * taken / depth, inside)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """What is liquidated on the way out from the mark.

    Parameters
    ----------
    displacement : Float64Array, shape (n,)
        Distance of each level from the mark in log price, rising, >= 0.
    quantity : Float64Array, shape (n,)
        What is liquidated there, >= 0. [base]
    end : float
        How far levels are known, in log price.
    """

    displacement: Float64Array
    quantity: Float64Array
    end: float

    def __post_init__(self) -> None:
        if self.displacement.shape != self.quantity.shape or self.displacement.ndim != 1:
            raise ParameterError("quantity", self.quantity.shape, f"the shape of the levels {self.displacement.shape}")
        if (np.diff(self.displacement, prepend=0.0) < 0).any() or not (self.quantity >= 0).all():
            raise ParameterError("displacement", "levels", "levels that rise from 0, with quantities >= 0")

    def up_to(self, displacement: float) -> float:
        """``Q``: what is liquidated up to and including a displacement."""
        return float(self.quantity[: np.searchsorted(self.displacement, displacement, side="right")].sum())


@dataclass(frozen=True, slots=True)
class CascadeEnd:
    """Where a cascade stops under one impact model.

    Parameters
    ----------
    impact : str
        Name of the model.
    displacement : float
        ``D*``, log price away from the mark, >= 0.
    price : float
        There; where it ran past the levels that are known, at the last of them (or the shock, if that is farther).
    liquidated_base, liquidated_usd : float
        ``Q(D*)``, and its notional at the liquidation prices.
    amplification : float
        ``D* / s0``.
    branching : float
        Slope of ``I(eta * Q(D))`` around ``D*``: above 1 a further push feeds itself.
    beyond_known : bool
        Whether it ran past the levels that are known: it may run further.
    """

    impact: str
    displacement: float
    price: float
    liquidated_base: float
    liquidated_usd: float
    amplification: float
    branching: float
    beyond_known: bool


@dataclass(frozen=True, slots=True)
class CascadeBand:
    """Where a cascade stops, as a band: `lower` runs less far than `upper`.

    Parameters
    ----------
    side : Side
        Who is liquidated: longs where the price falls, shorts where it rises.
    shock : float
        ``s0``, log price, >= 0.
    lower, upper : CascadeEnd
    """

    side: Side
    shock: float
    lower: CascadeEnd
    upper: CascadeEnd


def read_ladder(grid: LiquidationGrid, side: Side, mark_price: float) -> Ladder:
    """Read the ladder of the latest column of a grid; a bin's levels are spread evenly inside it.

    What lies on the wrong side of the mark counts as gone: the column may be a little older than the price.
    """
    _positive(mark_price=mark_price)
    usd = grid.side_usd(side)[-1].astype(np.float64)
    inside = (np.arange(PARTS) + 0.5) / PARTS
    level = (grid.first_bin + np.arange(grid.n_price)[:, None] + inside).ravel() * grid.bin_width
    away = side.sign * (math.log(mark_price) - level)
    order = np.flatnonzero((away >= 0) & np.repeat(usd > 0, PARTS))[:: -side.sign]
    edge = grid.first_bin if side is Side.LONG else grid.first_bin + grid.n_price
    end = side.sign * (math.log(mark_price) - edge * grid.bin_width)
    base = np.repeat(usd / PARTS, PARTS) / np.exp(level)
    return Ladder(away[order], base[order], max(end, 0.0))


def run_cascade(
    ladder: Ladder, *, side: Side, mark_price: float, shock: float, impact: Impact, participation: float = 1.0
) -> CascadeEnd:
    """Follow a shock to where it stops.

    Parameters
    ----------
    ladder : Ladder
    side : Side
        Who is liquidated.
    mark_price : float
    shock : float
        ``s0``, log price, > 0.
    impact : Impact
    participation : float
        ``eta``: the part of what is liquidated that trades at market.

    Raises
    ------
    ParameterError
        If a value is outside its domain.
    """
    _positive(mark_price=mark_price, shock=shock, participation=participation)
    taken = np.r_[0.0, ladder.quantity.cumsum()]
    pushed = shock + impact(participation * taken)
    # The price that is pushed by the first k levels and does not reach the next.
    stopped = int(np.argmax(pushed < np.r_[ladder.displacement, math.inf]))
    ended, half = float(pushed[stopped]), BRANCHING_WIDTH / 2
    notional = ladder.quantity * mark_price * np.exp(-side.sign * ladder.displacement)
    around = np.array([ladder.up_to(ended - half), ladder.up_to(ended + half)])
    branching = float(np.diff(impact(participation * around))[0]) / BRANCHING_WIDTH
    return CascadeEnd(
        impact=impact.name,
        displacement=ended,
        price=mark_price * math.exp(-side.sign * min(ended, max(ladder.end, shock))),
        liquidated_base=float(taken[stopped]),
        liquidated_usd=float(notional[:stopped].sum()),
        amplification=ended / shock,
        branching=branching,
        beyond_known=ended > ladder.end,
    )


def find_cascade(
    grid: LiquidationGrid,
    *,
    mark_price: float,
    change: float,
    mild: Impact,
    harsh: Impact,
    participation: float = 1.0,
) -> CascadeBand:
    """Find what a change of price would set off, as a band between two impact models.

    Parameters
    ----------
    grid : LiquidationGrid
        Its latest column is used.
    mark_price : float
    change : float
        Of the price, a fraction such as -.03: a fall liquidates longs, a rise shorts.
    mild, harsh : Impact
        Whichever runs farther is the upper end.
    participation : float
        As in `run_cascade`.

    Raises
    ------
    ParameterError
        If a value is outside its domain.
    """
    if not (-1 < change < math.inf and change != 0):
        raise ParameterError("change", change, "a fraction above -1, not 0")
    side, shock = (Side.LONG if change < 0 else Side.SHORT), abs(math.log1p(change))
    ladder = read_ladder(grid, side, mark_price)
    ends = [
        run_cascade(ladder, side=side, mark_price=mark_price, shock=shock, impact=impact, participation=participation)
        for impact in (mild, harsh)
    ]
    lower, upper = sorted(ends, key=lambda end: end.displacement)
    return CascadeBand(side, shock, lower, upper)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ParameterError(name, value, "a finite number > 0")
