"""How a leverage bucket spreads an entry over liquidation prices: fixed kernels on the log-price lattice.

The liquidation price of an estimated position is its entry times a constant of side and leverage, so on a log lattice a
bucket is one kernel. A bucket is an *effective* leverage with a continuous spread: its distance to liquidation beyond
maintenance is log-normal, integrated over the bins, so there is no comb of lines.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from estimator.domain import Float64Array, Market, Side
from estimator.errors import ParameterError
from estimator.model.margin import margin_ratio
from estimator.model.parameters import Parameters
from estimator.model.step import Kernels

_NEGLIGIBLE = 1e-9  # kernel mass below this goes to the sink with the rest that is never liquidated
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def build_kernels(market: Market, parameters: Parameters) -> Kernels:
    """Build the kernels of `market` under `parameters` (its buckets already cut to the market).

    Raises
    ------
    ParameterError
        If a bucket's initial margin does not even cover maintenance.
    """
    maintenance = market.brackets[0].maintenance_margin_rate + market.maintenance_fee_rate
    masses: list[Float64Array] = []
    offsets: list[int] = []
    for side in (Side.LONG, Side.SHORT):
        for leverage, sigma in zip(parameters.leverages, parameters.sigmas, strict=True):
            distance = 1.0 / leverage - maintenance
            if distance <= 0:
                raise ParameterError(
                    "leverages",
                    leverage,
                    f"a leverage whose margin exceeds maintenance ({maintenance:g}) on {market.id}",
                )
            offset, mass = _bucket_kernel(market, side, distance, sigma, maintenance, parameters)
            masses.append(mass)
            offsets.append(offset)
    shape = (2, len(parameters.leverages))
    lengths = np.array([len(m) for m in masses], dtype=np.int64)
    return Kernels(
        mass=np.concatenate(masses),
        cumulative=np.concatenate([np.concatenate([[0.0], np.cumsum(m)]) for m in masses]),
        start=(np.cumsum(lengths) - lengths).reshape(shape),
        length=lengths.reshape(shape),
        offset=np.array(offsets, dtype=np.int64).reshape(shape),
    )


def _bucket_kernel(
    market: Market, side: Side, distance: float, sigma: float, maintenance: float, parameters: Parameters
) -> tuple[int, Float64Array]:
    """Mass per bin offset of one bucket, for an entry anywhere in its own bin with equal probability."""
    reach = parameters.n_bins
    edges = np.arange(-reach, reach + 2, dtype=np.float64)
    inside = (_NODES + 1) / 2  # where in its bin the entry is
    levels = (edges[:, None] - inside) * parameters.bin_width  # ln(liquidation price / entry)
    share = _share_below(market, side, levels, distance, sigma, maintenance)
    mass = np.diff(share @ (_WEIGHTS / 2))
    kept = np.flatnonzero(mass > _NEGLIGIBLE)
    if not len(kept):  # a narrow lattice ends before the bucket begins
        return 0, np.zeros(0)
    first, last = int(kept[0]), int(kept[-1])
    return first - reach, np.ascontiguousarray(mass[first : last + 1])


def _share_below(
    market: Market, side: Side, levels: Float64Array, distance: float, sigma: float, maintenance: float
) -> Float64Array:
    """Share of the bucket whose liquidation price lies below ``entry * exp(levels)``."""
    ratio = margin_ratio(np.exp(levels), side=side, maintenance_margin_rate=maintenance, contract=market.contract)
    beyond = ratio - maintenance
    # Nearer than maintenance or past a price of zero (infinity for inverse shorts): nothing is there.
    z = np.log(np.where(beyond > 0, beyond, np.nan) / distance) / sigma
    nearer = np.where(np.isnan(z), 0.0, ndtr(z))
    if side is Side.SHORT:
        return np.where(levels > 0, nearer, 0.0)
    return np.where(levels < 0, 1.0 - nearer, 1.0)
