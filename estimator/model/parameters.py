"""What the position book assumes, every value with its unit and its reason.

docs/accuracy.md scores them, docs/accuracy-research.md tells how each was found. The rule for defaults is the sharpest
mix whose scores are within noise of the best.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from estimator.domain import Float64Array
from estimator.errors import ParameterError
from estimator.model.grid import BIN_WIDTH

Preset = Literal["balanced", "positions", "high-leverage"]

LEVERAGES: Final = (125.0, 75.0, 50.0, 40.0, 25.0, 20.0, 15.0, 10.0, 7.0, 5.0, 3.0, 2.0)
SIGMAS: Final = (0.4, 0.4, 0.4, 0.4, 0.4, 0.15, 0.15, 0.15, 0.12, 0.12, 0.15, 0.15)
SHARES: Final[dict[Preset, tuple[float, ...]]] = {
    # .7 of what large accounts hold and .3 of what retail flow looks like
    "balanced": (0.00625, 0.00925, 0.0155, 0.0155, 0.028, 0.031, 0.0345, 0.080, 0.106, 0.185, 0.249, 0.240),
    "positions": (0.0025, 0.0025, 0.005, 0.005, 0.01, 0.01, 0.015, 0.05, 0.10, 0.20, 0.30, 0.30),
    "high-leverage": (0.015, 0.025, 0.04, 0.04, 0.07, 0.08, 0.08, 0.15, 0.12, 0.15, 0.13, 0.10),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Assumptions of the position book.

    Parameters
    ----------
    leverages : tuple of float, length n_bucket
        Effective leverages, falling: notional over the margin really backing a position, not the label on it.
    shares : tuple of float, length n_bucket
        Share of the opening flow in each bucket; they sum to 1.
    sigmas : tuple of float, length n_bucket
        Standard deviation of the log of the distance to liquidation within a bucket.
    volatility_scaling : float
        How far the mix of leverages follows how much the market's price moves: 0 not at all, 1 in proportion, so
        that the distance to liquidation is the same number of usual daily moves on every market.
    usual_volatility : float
        Standard deviation of a day's log return at which the shares hold as they are.
    volatility_days : float
        Memory of the volatility: long, since leverage differs between markets and hardly with the times. [days]
    volatility_prior_days : float
        What a new book takes for granted: so many days of the usual volatility. [days]
    tau_hours : tuple of float, length n_bucket
        Relative holding time of a bucket; equal values close every bucket alike. [h]
    churn : float
        Share of the volume beyond the change of open interest that opens positions anew ("rho").
    sink_share : float
        Share of openings never at risk in range: hedgers, market makers, unlevered ("zeta").
    sink_tau_hours : float
        Relative holding time of the sink. [h]
    background_share : float
        Diffuse mass, as a share of the mass within `background_near`, for entries nobody can know.
    background_near, background_range : float
        Log distances from the price: where the mass is counted and how far the background reaches.
    ratio_lean : float
        Exponent by which the account ratio moves the at-risk share of a side. 0 (off) scored best so far.
    bin_width : float
        Lattice bin in log price.
    n_bins : int
        Bins the book keeps, centred on the price.
    """

    leverages: tuple[float, ...] = LEVERAGES
    shares: tuple[float, ...] = SHARES["balanced"]
    sigmas: tuple[float, ...] = SIGMAS
    tau_hours: tuple[float, ...] = (48.0,) * len(LEVERAGES)
    volatility_scaling: float = 1.0
    usual_volatility: float = 0.025
    volatility_days: float = 1000.0
    volatility_prior_days: float = 30.0
    churn: float = 0.3
    sink_share: float = 0.3
    sink_tau_hours: float = 240.0
    background_share: float = 0.1
    background_near: float = 0.3
    background_range: float = 0.4054651081081644  # ln 1.5
    ratio_lean: float = 0.0
    bin_width: float = BIN_WIDTH
    n_bins: int = 1600

    def __post_init__(self) -> None:
        n = len(self.leverages)
        for name in ("shares", "sigmas", "tau_hours"):
            if len(getattr(self, name)) != n:
                raise ParameterError(name, getattr(self, name), f"{n} values, one for each leverage")
        _check_all("leverages", self.leverages, 1.0, 1000.0)
        _check_all("shares", self.shares, 0.0, 1.0)
        _check_all("sigmas", self.sigmas, 1e-3, 2.0)
        _check_all("tau_hours", self.tau_hours, 1e-3, 1e6)
        if abs(sum(self.shares) - 1.0) > 1e-9:
            raise ParameterError("shares", self.shares, "shares that sum to 1")
        if any(a <= b for a, b in pairwise(self.leverages)):
            raise ParameterError("leverages", self.leverages, "leverages that fall from one to the next")
        for name, low, high in (
            ("volatility_scaling", 0.0, 2.0),
            ("usual_volatility", 1e-4, 1.0),
            ("volatility_days", 1e-2, 1e4),
            ("volatility_prior_days", 1e-2, 1e4),
            ("churn", 0.0, 1.0),
            ("sink_share", 0.0, 0.99),
            ("sink_tau_hours", 1e-3, 1e6),
            ("background_share", 0.0, 1.0),
            ("background_near", 0.0, 10.0),
            ("background_range", 1e-3, 10.0),
            ("ratio_lean", -4.0, 4.0),
            ("bin_width", 1e-5, 0.1),
            ("n_bins", 64, 100_000),
        ):
            _check_all(name, (getattr(self, name),), low, high)

    @classmethod
    def preset(cls, name: Preset) -> Parameters:
        """Return the defaults with a named mix of leverages."""
        if name not in SHARES:
            raise ParameterError("preset", name, f"one of {', '.join(SHARES)}")
        return cls(shares=SHARES[name])

    def for_leverage(self, max_leverage: float) -> Parameters:
        """Cut the buckets a venue does not offer and renormalise the rest."""
        keep = [i for i, leverage in enumerate(self.leverages) if leverage <= max_leverage]
        total = sum(self.shares[i] for i in keep)
        if total <= 0:
            raise ParameterError("max_leverage", max_leverage, f"at least one of the buckets {self.leverages}")

        def pick(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values[i] for i in keep)

        return replace(
            self,
            leverages=pick(self.leverages),
            shares=tuple(self.shares[i] / total for i in keep),
            sigmas=pick(self.sigmas),
            tau_hours=pick(self.tau_hours),
        )

    @property
    def reach(self) -> Float64Array:
        """Edges between the buckets in ``ln(1 / leverage)``, shape (n_bucket + 1,); half a bucket beyond the ends."""
        middle = [-math.log(leverage) for leverage in self.leverages]
        if len(middle) == 1:
            return np.array([middle[0] - 0.5, middle[0] + 0.5])
        between = [(a + b) / 2 for a, b in pairwise(middle)]
        return np.array([2 * middle[0] - between[0], *between, 2 * middle[-1] - between[-1]])

    @property
    def provisional_ms(self) -> int:
        """How long a new book is provisional: three times the longest holding time of a bucket. [ms]"""
        return int(3 * max(self.tau_hours) * 3_600_000)

    @property
    def version(self) -> str:
        """Short hash of every value: two columns with one version were made with the same assumptions."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def _check_all(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    for value in values:
        if not low <= value <= high:
            raise ParameterError(name, value, f"a number from {low:g} to {high:g}")
