"""Clusters are found where levels stand out, alike on both sides and at every price; stops lie behind them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from estimator.domain import Float64Array, Side
from estimator.errors import ParameterError
from estimator.model.clusters import (
    Cluster,
    ClusterRules,
    find_clusters,
    max_pain,
    near_mass,
    nearest_cluster,
    place_stop,
    touch_probability,
)
from estimator.model.grid import BIN_WIDTH, LiquidationGrid

MIDDLE = 11_000  # lattice bin of the mark
HALF = 260  # bins to either side
MARK = math.exp((MIDDLE + 0.5) * BIN_WIDTH)
EVERYTHING = ClusterRules(least_share=0.0)

hills = st.lists(
    st.tuples(st.integers(5, 140), st.floats(0.5, 20.0), st.floats(1.5, 6.0)), min_size=0, max_size=5
)  # bins from the mark, height, width in bins


def side_density(parts: list[tuple[int, float, float]]) -> Float64Array:
    """Density of one side by bins from the mark outward: a wash that grows with distance, and hills."""
    away = np.arange(HALF, dtype=np.float64)
    usd = np.sqrt(away)
    for at, height, width in parts:
        usd += 10 * height * np.exp(-0.5 * ((away - at) / width) ** 2)
    usd[0] = 0.0
    return usd * 1e5


def build(longs: Float64Array, shorts: Float64Array, first_bin: int = MIDDLE - HALF + 1) -> LiquidationGrid:
    """A grid of one column from two sides read outward from its middle bin."""
    none = np.zeros(HALF - 1)
    usd = [np.r_[longs[::-1], none], np.r_[none, shorts]]
    rows = [part.astype(np.float32)[None] for part in usd]
    return LiquidationGrid(np.array([0], dtype="datetime64[ms]"), first_bin, BIN_WIDTH, rows[0], rows[1])


def found(grid: LiquidationGrid, mark: float = MARK, rules: ClusterRules = EVERYTHING) -> tuple[Cluster, ...]:
    total = float(grid.long_usd.sum(dtype=np.float64) + grid.short_usd.sum(dtype=np.float64))
    return find_clusters(grid, mark_price=mark, open_interest_usd=max(total, 1.0), hourly_volatility=0.006, rules=rules)


def test_a_hill_in_a_smooth_wash_is_the_one_cluster() -> None:
    grid = build(side_density([(60, 8.0, 3.0)]), side_density([]))
    (one,) = [c for c in found(grid, rules=ClusterRules()) if c.side is Side.LONG]
    assert one.price == pytest.approx(MARK * math.exp(-0.060), rel=1e-9)
    assert one.low < one.price < one.high < MARK
    width = math.log(one.high / one.low) / BIN_WIDTH
    assert 6 <= width <= 12  # full width at half height of a Gaussian of 3 bins, smoothed
    held = (grid.price_edges[:-1] >= one.low * 0.999999) & (grid.price_edges[1:] <= one.high * 1.000001)
    assert one.mass_usd == pytest.approx(float(grid.long_usd[0, held].sum(dtype=np.float64)), rel=1e-6)
    assert one.touch == pytest.approx(touch_probability(0.060, 0.006, 24.0), rel=1e-6)


def test_a_smooth_wash_has_no_cluster() -> None:
    assert found(build(side_density([]), side_density([])), rules=ClusterRules()) == ()


def test_levels_right_at_the_mark_can_be_a_cluster() -> None:
    near = np.zeros(HALF)
    near[1:4] = 1e7
    (one,) = found(build(near, side_density([])), rules=ClusterRules())
    assert one.side is Side.LONG
    assert one.high <= MARK * math.exp(BIN_WIDTH)  # the bin of the mark at most


@given(hills, hills)
def test_clusters_are_ranked_disjoint_on_their_side_and_hold_no_more_than_there_is(
    longs: list[tuple[int, float, float]], shorts: list[tuple[int, float, float]]
) -> None:
    grid = build(side_density(longs), side_density(shorts))
    clusters = found(grid)
    scores = [c.magnet or 0.0 for c in clusters]
    assert scores == sorted(scores, reverse=True)
    for side in Side:
        mine = sorted((c for c in clusters if c.side is side), key=lambda c: c.low)
        assert all(c.low < c.price < c.high for c in mine)
        assert all(a.high <= b.low * (1 + 1e-12) for a, b in pairwise(mine))
        assert all((c.price - MARK) * side.sign < 0 for c in mine)
        assert sum(c.mass_usd for c in mine) <= float(grid.side_usd(side).sum(dtype=np.float64)) * (1 + 1e-9)
        assert len({c.price for c in mine}) == len(mine)


@given(hills, hills)
def test_mirrored_levels_give_mirrored_clusters(
    longs: list[tuple[int, float, float]], shorts: list[tuple[int, float, float]]
) -> None:
    def told(clusters: tuple[Cluster, ...], sign: int) -> list[tuple[float, ...]]:
        # Distances in bins from the mark: rounding of prices must not hide a difference.
        def bins(price: float) -> float:
            return round(sign * math.log(price / MARK) / BIN_WIDTH, 6)

        rows = ((bins(c.price), *sorted((bins(c.low), bins(c.high))), c.mass_usd, c.share) for c in clusters)
        return sorted(rows)

    one = found(build(side_density(longs), side_density(shorts)))
    other = found(build(side_density(shorts), side_density(longs)))
    assert told(one, 1) == told(other, -1)


@given(hills, st.integers(-9000, 3000), st.floats(0.01, 1e4))
def test_the_scale_of_prices_and_of_money_changes_nothing_else(
    longs: list[tuple[int, float, float]], shift: int, more: float
) -> None:
    usd = side_density(longs), side_density([(80, 5.0, 3.0)])
    here = found(build(*usd))
    factor = math.exp(shift * BIN_WIDTH)
    there = found(build(usd[0] * more, usd[1] * more, MIDDLE - HALF + 1 + shift), MARK * factor)
    assert len(here) == len(there)
    for a, b in zip(sorted(here, key=lambda c: c.price), sorted(there, key=lambda c: c.price), strict=True):
        assert [b.price, b.low, b.high] == pytest.approx([p * factor for p in (a.price, a.low, a.high)], rel=1e-9)
        assert (b.mass_usd, b.share) == pytest.approx((a.mass_usd * more, a.share), rel=1e-5)


def test_levels_the_mark_has_passed_are_not_seen() -> None:
    passed = build(side_density([(20, 9.0, 2.0)]), side_density([]))
    below = MARK * math.exp(-0.05)  # the column is a little older than the price
    assert all(c.price < below for c in found(passed, below) if c.side is Side.LONG)


@given(st.floats(-0.5, 0.5), st.floats(1e-4, 0.1), st.floats(0.1, 500), st.floats(1.0, 5.0))
def test_the_hitting_probability_falls_with_distance_and_grows_with_time(
    distance: float, sigma: float, hours: float, more: float
) -> None:
    here = touch_probability(distance, sigma, hours)
    assert 0 <= here <= 1
    assert touch_probability(distance * more, sigma, hours) <= here
    assert touch_probability(distance, sigma, hours * more) >= here
    assert touch_probability(distance, sigma * more, hours) == pytest.approx(
        touch_probability(distance / more, sigma, hours)
    )


def test_the_hitting_probability_is_that_of_a_random_walk() -> None:
    steps = np.random.default_rng(1).standard_normal((4000, 1600)) * 0.01 / math.sqrt(1600 / 24)
    touched = (steps.cumsum(axis=1).min(axis=1) <= -0.03).mean()
    # A walk in steps overshoots: it touches a little later than a continuous one.
    assert touched == pytest.approx(touch_probability(0.03, 0.01, 24.0), abs=0.03)


def test_a_price_is_touched_surely_where_it_is_and_never_where_nothing_moves() -> None:
    assert touch_probability(0.0, 0.0, 1.0) == 1.0
    assert touch_probability(0.01, 0.0, 1.0) == 0.0


def cluster(side: Side, low: float, high: float) -> Cluster:
    price = math.sqrt(low * high)
    return Cluster(side, price, low, high, 1e6, 0.02, price / 100 - 1, None, None)


NEAR, FAR, ABOVE = cluster(Side.LONG, 96, 97), cluster(Side.LONG, 90, 91), cluster(Side.SHORT, 104, 105)


def test_a_stop_lies_beyond_the_far_edge_of_the_nearest_cluster_against_the_position() -> None:
    long = place_stop((FAR, NEAR, ABOVE), side=Side.LONG, mark_price=100, atr_1h=2.0, liquidation_price=80)
    assert (long.price, long.cluster, long.room, long.refused) == (95.5, NEAR, 0.5, "")
    short = place_stop((FAR, NEAR, ABOVE), side=Side.SHORT, mark_price=100, atr_1h=0.1)
    assert short.price == pytest.approx(105.1)  # .1 % of price at least
    assert short.cluster == ABOVE


def test_a_stop_lies_on_the_losing_side_whatever_mark_is_given() -> None:
    stop = place_stop((FAR, NEAR), side=Side.LONG, mark_price=94.0, atr_1h=2.0)
    assert (stop.price, stop.cluster) == (89.5, FAR)
    assert place_stop((FAR, NEAR), side=Side.LONG, mark_price=80.0, atr_1h=2.0).price is None


@pytest.mark.parametrize(
    ("liquidation", "reason"), [(95.8, "past the position's own"), (95.5, "past"), (95.0, "within 20% of the way")]
)
def test_a_stop_past_or_near_the_own_liquidation_price_is_refused_with_the_reason(
    liquidation: float, reason: str
) -> None:
    stop = place_stop((NEAR,), side=Side.LONG, mark_price=100, atr_1h=2.0, liquidation_price=liquidation)
    assert stop.price is None
    assert reason in stop.refused
    assert f"{liquidation:g}" in stop.refused


def test_prices_of_a_refused_stop_are_grouped_by_thousands() -> None:
    near = replace(NEAR, price=95_900.0, low=95_800.0)
    stop = place_stop((near,), side=Side.LONG, mark_price=100_000, atr_1h=2.0, liquidation_price=95_750.0)
    assert stop.refused == "it would lie at 95,700, past the position's own liquidation price 95,750"


def test_a_stop_without_a_cluster_or_a_range_is_refused_with_the_reason() -> None:
    assert (
        "no cluster of shorts stands out above"
        in place_stop((NEAR,), side=Side.SHORT, mark_price=100, atr_1h=2.0).refused
    )
    assert "true range" in place_stop((NEAR,), side=Side.LONG, mark_price=100, atr_1h=None).refused
    assert "below zero" in place_stop((NEAR,), side=Side.LONG, mark_price=100, atr_1h=500.0).refused


@given(hills, st.sampled_from(Side), st.floats(1.0, 5e4), st.floats(0.3, 3.0))
def test_a_stop_that_is_given_is_beyond_its_cluster_and_well_before_liquidation(
    parts: list[tuple[int, float, float]], side: Side, atr: float, ratio: float
) -> None:
    clusters = found(build(side_density(parts), side_density(parts)))
    assume(nearest_cluster(clusters, side) is not None)
    liquidation = MARK * ratio
    assume((MARK - liquidation) * side.sign > 0)
    stop = place_stop(clusters, side=side, mark_price=MARK, atr_1h=atr, liquidation_price=liquidation)
    assert (stop.price is None) == bool(stop.refused)
    if stop.price is not None and stop.cluster is not None:
        assert side.sign * (stop.cluster.far_edge - stop.price) >= 0.001 * MARK * (1 - 1e-9)
        assert side.sign * (stop.price - liquidation) >= 0.2 * abs(MARK - liquidation) * (1 - 1e-9)


def test_near_mass_counts_longs_below_and_shorts_above_within_reach() -> None:
    grid = build(np.ones(HALF), np.full(HALF, 2.0))
    both = near_mass(grid, np.array([MARK]), 0.0305)
    assert both.tolist() == [[31.0, 62.0]]  # the bin of the mark and 30 beyond it


def _column(usd: Float64Array) -> LiquidationGrid:
    row = usd.astype(np.float32)[None]
    return LiquidationGrid(np.array([0], dtype="datetime64[ms]"), 0, 0.001, row, np.zeros_like(row))


def test_max_pain_is_the_densest_price_where_there_is_one() -> None:
    usd = np.full(200, 1e6)
    usd[50:54] = 9e6
    pain = max_pain(_column(usd), Side.LONG)
    assert pain == pytest.approx(np.exp(0.052), rel=1e-3)
    assert max_pain(_column(np.full(200, 1e6)), Side.LONG) is None
    assert max_pain(_column(usd), Side.SHORT) is None
    assert max_pain(_column(np.arange(200.0) ** 3), Side.LONG) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("smoothing", 0.0), ("window", math.nan), ("least_share", 1.5), ("prominence", -0.1)],
)
def test_rules_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=name):
        replace(ClusterRules(), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("mark_price", 0.0), ("open_interest_usd", -1.0)])
def test_a_price_and_an_interest_must_be_positive(name: str, value: float) -> None:
    numbers = {"mark_price": MARK, "open_interest_usd": 1.0} | {name: value}
    with pytest.raises(ParameterError, match=name):
        find_clusters(
            build(np.zeros(HALF), np.zeros(HALF)),
            mark_price=numbers["mark_price"],
            open_interest_usd=numbers["open_interest_usd"],
        )
