"""How a leverage bucket spreads an entry over liquidation prices: fixed kernels on the log-price lattice.

The liquidation price of an estimated position is its entry times a constant of side and leverage, so on a log lattice a
bucket is one kernel. A bucket is an *effective* leverage with a continuous spread: its distance to liquidation beyond
maintenance is log-normal, integrated over the bins, so there is no comb of lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from estimator.domain import ContractType, Float64Array, Int64Array, Market, Side
from estimator.errors import ParameterError
from estimator.model.margin import margin_ratio
from estimator.model.parameters import Parameters

_NEGLIGIBLE = 1e-9  # kernel mass below this goes to the sink with the rest that is never liquidated
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


class Kernels(NamedTuple):
    """Level kernels of every side and bucket, end to end."""

    mass: Float64Array  # (n_total,), share of an opening per bin; what lacks to 1 is never liquidated within reach
    cumulative: Float64Array  # (n_total + 2 * n_bucket,), running sums of each kernel, from 0
    start: Int64Array  # (2, n_bucket), first element in `mass`
    length: Int64Array  # (2, n_bucket)
    offset: Int64Array  # (2, n_bucket), bins from the entry's bin to the first element


def build_kernels(market: Market, parameters: Parameters) -> Kernels:
    """Build the kernels of `market` under `parameters` (its buckets already cut to the market).

    Markets of equal maintenance and contract share them.

    Raises
    ------
    ParameterError
        If a bucket's initial margin does not even cover maintenance.
    """
    maintenance = market.brackets[0].maintenance_margin_rate + market.maintenance_fee_rate
    for leverage in parameters.leverages:
        if 1.0 / leverage <= maintenance:
            raise ParameterError(
                "leverages", leverage, f"a leverage whose margin exceeds maintenance ({maintenance:g}) on {market.id}"
            )
    lattice = parameters.bin_width, parameters.n_bins
    return _kernels(market.contract, maintenance, tuple(parameters.leverages), tuple(parameters.sigmas), *lattice)


@lru_cache(maxsize=64)
def _kernels(
    contract: ContractType,
    maintenance: float,
    leverages: tuple[float, ...],
    sigmas: tuple[float, ...],
    bin_width: float,
    n_bins: int,
) -> Kernels:
    made = [
        _bucket_kernel(_Bucket(contract, side, 1.0 / leverage - maintenance, sigma, maintenance), bin_width, n_bins)
        for side in (Side.LONG, Side.SHORT)
        for leverage, sigma in zip(leverages, sigmas, strict=True)
    ]
    masses = [mass for _, mass in made]
    shape = (2, len(leverages))
    lengths = np.array([len(m) for m in masses], dtype=np.int64)
    return Kernels(
        mass=np.concatenate(masses),
        cumulative=np.concatenate([np.concatenate([[0.0], np.cumsum(m)]) for m in masses]),
        start=(np.cumsum(lengths) - lengths).reshape(shape),
        length=lengths.reshape(shape),
        offset=np.array([offset for offset, _ in made], dtype=np.int64).reshape(shape),
    )


@dataclass(frozen=True, slots=True)
class _Bucket:
    """What makes the kernel of one side and bucket."""

    contract: ContractType
    side: Side
    distance: float
    sigma: float
    maintenance: float


def _bucket_kernel(bucket: _Bucket, bin_width: float, reach: int) -> tuple[int, Float64Array]:
    """Mass per bin offset of one bucket, for an entry anywhere in its own bin with equal probability."""
    edges = np.arange(-reach, reach + 2, dtype=np.float64)
    inside = (_NODES + 1) / 2  # where in its bin the entry is
    levels = (edges[:, None] - inside) * bin_width  # ln(liquidation price / entry)
    mass = np.diff(_share_below(bucket, levels) @ (_WEIGHTS / 2))
    kept = np.flatnonzero(mass > _NEGLIGIBLE)
    if not len(kept):  # a narrow lattice ends before the bucket begins
        return 0, np.zeros(0)
    first, last = int(kept[0]), int(kept[-1])
    return first - reach, np.ascontiguousarray(mass[first : last + 1])


def _share_below(bucket: _Bucket, levels: Float64Array) -> Float64Array:
    """Share of the bucket whose liquidation price lies below ``entry * exp(levels)``."""
    ratio = margin_ratio(
        np.exp(levels), side=bucket.side, maintenance_margin_rate=bucket.maintenance, contract=bucket.contract
    )
    beyond = ratio - bucket.maintenance
    # Nearer than maintenance or past a price of zero (infinity for inverse shorts): nothing is there.
    z = np.log(np.where(beyond > 0, beyond, np.nan) / bucket.distance) / bucket.sigma
    nearer = np.where(np.isnan(z), 0.0, ndtr(z))
    if bucket.side is Side.SHORT:
        return np.where(levels > 0, nearer, 0.0)
    return np.where(levels < 0, 1.0 - nearer, 1.0)
