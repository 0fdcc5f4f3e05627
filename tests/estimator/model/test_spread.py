"""A bucket's kernel is the exact law of its liquidation prices, integrated over bins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import lognorm

from estimator.domain import ContractType
from estimator.model.margin import liquidation_price
from estimator.model.parameters import Parameters
from estimator.model.spread import build_kernels
from tests.estimator.model.markets import market


@pytest.mark.parametrize("contract", ["linear", "inverse"])
@pytest.mark.parametrize("side", [0, 1])
def test_each_kernel_matches_liquidation_prices_of_sampled_positions(contract: ContractType, side: int) -> None:
    parameters = Parameters()
    venue = market(contract)
    kernels = build_kernels(venue, parameters)
    rng = np.random.default_rng(5)
    for bucket in (0, 6, 9):
        leverage, sigma = parameters.leverages[bucket], parameters.sigmas[bucket]
        distances = lognorm(sigma, scale=1 / leverage - 0.004).rvs(20_000, random_state=rng)
        sign = 1 if side == 0 else -1
        needed = 0.004
        ratio = (
            (1 - sign * (distances + needed)) / (1 - sign * needed)
            if contract == "linear"
            else (1 + sign * needed) / (1 + sign * (distances + needed))
        )
        entry = rng.random(20_000) * parameters.bin_width
        bins = np.floor((np.log(ratio[ratio > 0]) + entry[ratio > 0]) / parameters.bin_width).astype(int)
        at = kernels.start[side, bucket]
        mass = kernels.mass[at : at + kernels.length[side, bucket]]
        expected = kernels.offset[side, bucket] + np.arange(len(mass))
        counted = np.array([(bins == b).mean() for b in expected])
        assert np.abs(np.cumsum(counted) - np.cumsum(mass)).max() < 0.02


@pytest.mark.parametrize("side", ["long", "short"])
def test_the_middle_of_a_sharp_kernel_is_the_exact_liquidation_price(side: str) -> None:
    kernels = build_kernels(market(), Parameters(sigmas=(0.03,) * 12))
    bucket = Parameters().leverages.index(50.0)
    s = 0 if side == "long" else 1
    at = kernels.start[s, bucket]
    mass = kernels.mass[at : at + kernels.length[s, bucket]]
    middle = (kernels.offset[s, bucket] + np.average(np.arange(len(mass)), weights=mass)) * Parameters().bin_width
    exact = liquidation_price(
        side=side,  # type: ignore[arg-type]
        entry_price=1.0,
        quantity=1.0,
        margin=1 / 50,
        maintenance_margin_rate=0.004,
    )
    assert exact is not None
    assert middle == pytest.approx(np.log(exact), abs=3e-4)


def test_mass_that_is_never_liquidated_within_reach_is_missing_from_the_kernel() -> None:
    kernels = build_kernels(market(), Parameters(sigmas=(0.2,) * 10 + (0.4,) * 2))
    total = np.add.reduceat(kernels.mass, kernels.start.ravel()).reshape(kernels.start.shape)
    assert (total <= 1 + 1e-12).all()
    np.testing.assert_allclose(total[:, :9], 1.0, atol=1e-6)
    assert total[0, 11] < 0.95, "a part of 2x longs would need a price below zero"


def test_no_comb_every_bucket_is_wider_than_a_bin() -> None:
    kernels = build_kernels(market(), Parameters())
    assert (kernels.length >= 2).all()
    assert kernels.mass.max() < 0.95
