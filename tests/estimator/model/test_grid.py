"""Lattice arithmetic: mass is kept, venues add without resampling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estimator.domain import Float32Array, Side
from estimator.errors import ParameterError
from estimator.model.grid import LEVELS, TIER_NAMES, LiquidationGrid, add_grids, fit_bins, merge_bins, tier_index

cells = hnp.arrays(np.float32, (3, 24), elements=st.floats(0, 1e9, width=32))


def grid(first_bin: int, usd: Float32Array, start: int = 0) -> LiquidationGrid:
    time = (np.arange(len(usd)) + start).astype("datetime64[h]").astype("datetime64[ms]")
    parts = [usd * share for share in (0.1, 0.2, 0.3, 0.1, 0.2, 0.1)]
    return LiquidationGrid(time, first_bin, 0.001, usd, usd * 2, tier_source=lambda i: (parts[i], parts[i] * 2))


@given(cells, st.integers(-5000, 5000), st.integers(1, 7))
def test_merging_bins_keeps_mass_and_stays_on_the_global_lattice(usd: Float32Array, first: int, factor: int) -> None:
    merged = merge_bins(usd, first, factor)
    np.testing.assert_allclose(merged.sum(axis=1), usd.sum(axis=1, dtype=np.float64), rtol=1e-5)
    for j in range(24):
        single = np.zeros_like(usd)
        single[:, j] = 1.0
        assert np.flatnonzero(merge_bins(single, first, factor)[0])[0] + first // factor == (first + j) // factor


@given(cells, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60))
def test_fitting_moves_nothing(usd: Float32Array, first: int, new_first: int, n_bins: int) -> None:
    fitted = fit_bins(usd, first, new_first, n_bins)
    assert fitted.shape == (3, n_bins)
    for j in range(n_bins):
        at = new_first + j - first
        expected = usd[:, at] if 0 <= at < 24 else np.zeros(3)
        np.testing.assert_array_equal(fitted[:, j], expected)


@given(cells, cells, st.integers(-40, 40), st.integers(0, 2))
def test_adding_venues_adds_their_mass_column_by_column(
    a: Float32Array, b: Float32Array, shift: int, late: int
) -> None:
    one, other = grid(100, a), grid(100 + shift, b, start=late)
    both = add_grids([one, other])
    assert both.price_edges[0] == pytest.approx(min(one.price_edges[0], other.price_edges[0]))
    for row, time in enumerate(both.time):
        expected = one.long_usd[one.time == time].sum(dtype=np.float64) + other.long_usd[other.time == time].sum(
            dtype=np.float64
        )
        assert both.long_usd[row].sum(dtype=np.float64) == pytest.approx(expected, rel=1e-5)
    tiers = sum(both.tier_usd(Side.SHORT, t).sum(dtype=np.float64) for t in TIER_NAMES)
    assert tiers == pytest.approx(both.short_usd.sum(dtype=np.float64), rel=1e-4)


@given(cells, st.integers(-100, 100), st.integers(1, 4), st.integers(1, 3))
def test_coarsening_then_adding_is_adding_then_coarsening(usd: Float32Array, first: int, price: int, time: int) -> None:
    one, other = grid(first, usd), grid(first + 5, usd[::-1].copy())
    left = add_grids([one, other]).coarsen(price, time)
    right = add_grids([one.coarsen(price, time), other.coarsen(price, time)])
    assert left.first_bin == right.first_bin
    np.testing.assert_allclose(left.long_usd, right.long_usd, rtol=1e-5)
    np.testing.assert_array_equal(left.time, right.time)


def test_a_coarser_column_is_the_last_of_its_run_as_it_was() -> None:
    usd = np.arange(72, dtype=np.float32).reshape(3, 24)
    np.testing.assert_array_equal(grid(0, usd).coarsen(1, 3).long_usd, usd[2:])


def test_edges_are_a_log_lattice() -> None:
    edges = grid(11_000, np.zeros((3, 24), dtype=np.float32)).price_edges
    np.testing.assert_allclose(np.diff(np.log(edges)), 0.001, rtol=1e-6)
    assert edges[0] == pytest.approx(np.exp(11.0))


def test_cropping_keeps_the_bins_that_overlap() -> None:
    usd = np.ones((3, 24), dtype=np.float32)
    cropped = grid(1000, usd).crop(np.exp(1.0055), np.exp(1.0105))
    assert cropped.first_bin == 1005
    assert cropped.n_price == 6
    assert cropped.tier_usd("long", TIER_NAMES[0]).shape == (3, 6)
    assert grid(1000, usd).crop(np.exp(0.99), np.exp(1.03)).long_usd.sum() == usd.sum()


def test_only_chosen_tiers_remain() -> None:
    usd = np.full((3, 24), 100.0, dtype=np.float32)
    chosen = grid(0, usd).with_tiers(TIER_NAMES[:2])
    np.testing.assert_allclose(chosen.long_usd, 30.0, rtol=1e-6)
    assert chosen.tiers == TIER_NAMES[:2]


def test_grids_of_other_lattices_do_not_add() -> None:
    usd = np.ones((3, 24), dtype=np.float32)
    with pytest.raises(ParameterError, match="grids"):
        add_grids([grid(0, usd), grid(0, usd).coarsen(2)])
    with pytest.raises(ParameterError, match="at least one"):
        add_grids([])


def test_a_grid_without_tiers_says_so() -> None:
    usd = np.ones((1, 4), dtype=np.float32)
    bare = LiquidationGrid(np.array([0], dtype="datetime64[ms]"), 0, 0.001, usd, usd)
    with pytest.raises(ParameterError, match="totals only"):
        bare.tier_usd("long", TIER_NAMES[0])
    with pytest.raises(ParameterError, match="grid shapes"):
        LiquidationGrid(np.array([0, 1], dtype="datetime64[ms]"), 0, 0.001, usd, usd)


@pytest.mark.parametrize(
    ("leverage", "name"), [(2, "2-4x"), (4, "2-4x"), (5, "5-9x"), (10, "10-24x"), (25, "25-49x"), (125, "50x+")]
)
def test_display_tiers(leverage: float, name: str) -> None:
    assert TIER_NAMES[tier_index(leverage)] == name


def test_each_level_divides_the_day_and_coarser_levels_keep_longer() -> None:
    for fine, coarse in pairwise(LEVELS):
        assert coarse.interval_ms % fine.interval_ms == 0
        assert coarse.keep_ms > fine.keep_ms
        assert coarse.price_factor % fine.price_factor == 0
