"""Scores say what they claim: proper, bounded, and silent where there is nothing to know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estimator.domain import Float64Array
from estimator.evaluation import metrics

MASSES = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(0.0, 1e6))


@given(MASSES)
def test_shares_sum_to_one(mass: Float64Array) -> None:
    assert metrics.shares(mass).sum() == pytest.approx(1.0)


def test_knowing_nothing_scores_nothing() -> None:
    assert metrics.bits(metrics.shares(np.ones(30))) == pytest.approx(np.zeros(30), abs=1e-12)


@given(MASSES, MASSES)
def test_no_density_scores_better_on_average_than_the_true_one(true: Float64Array, other: Float64Array) -> None:
    n = min(len(true), len(other))
    held = metrics.shares(true[:n])
    # The uniform mix makes the score that of a mixed density: the truth mixed alike is what must not be beaten.
    truth = (1 - metrics.UNIFORM_MIX) * held + metrics.UNIFORM_MIX / n
    ours, theirs = metrics.bits(held), metrics.bits(metrics.shares(other[:n]))
    assert (truth * ours).sum() >= (truth * theirs).sum() - 1e-9


@given(MASSES)
def test_a_level_in_an_empty_cell_costs_what_the_uniform_mix_allows(mass: Float64Array) -> None:
    assert metrics.bits(metrics.shares(mass)).min() >= np.log2(metrics.UNIFORM_MIX) - 1e-9


@given(MASSES)
def test_sharpness_is_none_for_the_uniform_and_most_for_a_single_cell(mass: Float64Array) -> None:
    n = len(mass)
    assert -1e-9 <= metrics.sharpness(metrics.shares(mass)) <= np.log2(n) + 1e-9
    assert metrics.sharpness(np.eye(n)[0]) == pytest.approx(np.log2(n))


def test_the_densest_tenth_catches_what_lies_in_it() -> None:
    share = metrics.shares(np.arange(30.0))
    assert metrics.capture(share, (np.arange(30.0) >= 27).astype(float)) == 1.0
    assert metrics.capture(share, (np.arange(30.0) < 27).astype(float)) == 0.0


def test_a_border_cell_of_the_tenth_counts_in_part() -> None:
    assert metrics.capture(np.array([0.4, 0.3, 0.2, 0.1, 0.0]), np.array([1.0, 0, 0, 0, 0])) == pytest.approx(0.5)


@given(MASSES)
def test_ranks_of_draws_from_the_density_itself_are_uniform(mass: Float64Array) -> None:
    share = metrics.shares(mass)
    distance = metrics.ks_distance(metrics.middle_rank(share), share)
    assert distance <= share.max() + 1e-9  # a cell is the finest the ranks can tell


def test_a_shifted_density_is_as_far_as_it_was_shifted() -> None:
    edges = np.linspace(0.0, 0.3, 31)
    assert metrics.wasserstein(edges, np.eye(30)[3], np.eye(30)[8]) == pytest.approx(0.05)


def test_proportional_predictions_are_calibrated_whatever_their_scale() -> None:
    observed = np.random.default_rng(1).lognormal(size=1000)
    assert metrics.calibration_slope(metrics.deciles(7.0 * observed, observed)) == pytest.approx(1.0)


def test_predictions_twice_as_spread_as_the_truth_have_half_the_slope() -> None:
    observed = np.random.default_rng(1).lognormal(sigma=0.1, size=5000)
    assert metrics.calibration_slope(metrics.deciles(observed**2, observed)) == pytest.approx(0.5, abs=0.01)


def test_what_follows_from_the_controls_leaves_no_correlation() -> None:
    rng = np.random.default_rng(2)
    controls = rng.exponential(size=(2000, 2))
    predicted, observed = controls[:, 0] ** 1.5, controls[:, 0] * rng.lognormal(sigma=0.5, size=2000)
    left = metrics.residual(predicted, controls), metrics.residual(observed, controls)
    day = np.arange(2000) // 24
    value, low, high = metrics.correlation_interval(*left, day)
    assert abs(value) < 0.07
    knows_more = metrics.residual(observed * rng.lognormal(sigma=0.2, size=2000), controls)
    assert metrics.correlation_interval(knows_more, left[1], day).low > 0.5
    assert low < value < high


def test_intervals_cover_the_truth_and_respect_blocks() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(60):
        block = np.repeat(np.arange(40), 25)
        value = np.repeat(rng.normal(size=40), 25) + rng.normal(scale=0.1, size=1000)
        found = metrics.mean_interval(value, np.ones(1000), block)
        hits += found.low <= 0.0 <= found.high
    assert hits >= 50


def test_a_single_block_has_no_interval() -> None:
    found = metrics.mean_interval(np.array([1.0, 2.0]), np.ones(2), np.zeros(2, dtype=np.int64))
    assert found.value == 1.5
    assert np.isnan([found.low, found.high]).all()


def test_the_same_blocks_are_drawn_for_every_model() -> None:
    rng = np.random.default_rng(4)
    block = rng.integers(0, 20, 300)
    one = rng.normal(size=300)
    apart = metrics.mean_replicates(one + 0.25, np.ones(300), block) - metrics.mean_replicates(one, np.ones(300), block)
    assert apart == pytest.approx(np.full(metrics.N_RESAMPLE, 0.25))
