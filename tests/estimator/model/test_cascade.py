"""A cascade ends where the simulator's step-by-step liquidations end; a band has two ends, a shock two directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import DAY_MS, MINUTE_MS, Float64Array, Side
from estimator.errors import ParameterError
from estimator.exchanges import agents
from estimator.exchanges.agents_state import BOOK_BINS, Engine
from estimator.exchanges.simulated_run import COINS, Coin, Run
from estimator.model.cascade import (
    BookImpact,
    CascadeEnd,
    Impact,
    Ladder,
    LinearImpact,
    SquareRootImpact,
    find_cascade,
    read_ladder,
    run_cascade,
)
from estimator.model.grid import BIN_WIDTH, LiquidationGrid

END_MS = 1_750_000_020_000 // MINUTE_MS * MINUTE_MS
MILD, HARSH = SquareRootImpact(0.03, 1e6), LinearImpact.from_turnover(0.03, 1e6)


def column(first_bin: int, long_usd: Float64Array, short_usd: Float64Array) -> LiquidationGrid:
    rows = [np.asarray(usd, dtype=np.float32)[None] for usd in (long_usd, short_usd)]
    return LiquidationGrid(np.array([0], dtype="datetime64[ms]"), first_bin, BIN_WIDTH, rows[0], rows[1])


class Shocked(NamedTuple):
    """What the engine did with a shock: where it ended, and the book it hit."""

    displacement: float
    liquidated_base: float
    level: Float64Array  # log prices of the levels of the side that was hit
    quantity: Float64Array
    grid: LiquidationGrid
    mark: float
    slope: float


def leave_only_liquidations(engine: Engine) -> None:
    """Take stops, take-profits and top-ups away: what is compared is the loop of liquidations."""
    for i in engine.live[: engine.state["n_live"][0]]:
        for way in (agents.DOWN, agents.UP):
            agents._unlink(engine, i, way)
            engine.links[way, i] = -1
        engine.positions[i]["stop"], engine.positions[i]["refills"] = math.nan, 0
        agents._arm(engine, i)


def shock_engine(coin: Coin, shock: float, seed: int = 5) -> Shocked:
    """Fill a book for a week, move the price at once, and let the engine's own loop sweep until nothing is left."""
    run = Run(coin, np.random.SeedSequence(seed), END_MS, END_MS + DAY_MS // 8, 1000)
    run.simulate(keep_books=False)
    engine, before = run.engine, float(run.engine.state["x"][0])
    leave_only_liquidations(engine)
    live = engine.positions[engine.live[: engine.state["n_live"][0]]].copy()
    mine = live[(live["side"] == (1 if shock < 0 else -1)) & np.isfinite(live["liquidation"])]
    books = np.zeros((3, 2, BOOK_BINS), dtype=np.float32)
    agents._snapshot(engine, books)
    first = int(engine.parameter["first_book_bin"][0])
    price = np.exp((first + np.arange(BOOK_BINS) + 0.5) * BIN_WIDTH)
    longs, shorts = books.sum(axis=0, dtype=np.float64) * price
    engine.state["n_prints"] = 0
    engine.state["fundamental"] += shock
    engine.state["x"] += shock
    agents._sweep_all(engine, 1000)
    printed = engine.prints[: engine.state["n_prints"][0]]
    return Shocked(
        displacement=abs(float(engine.state["x"][0]) - before),
        liquidated_base=float(printed["quantity"].sum()),
        level=mine["liquidation"],
        quantity=mine["quantity"],
        grid=column(first, longs, shorts),
        mark=math.exp(before),
        slope=float(engine.parameter["impact"][0] / engine.parameter["open_interest"][0]),
    )


@pytest.mark.parametrize("coin", COINS, ids=lambda coin: coin.base)
@pytest.mark.parametrize("shock", [-0.08, -0.03, -0.01, 0.01, 0.05])
def test_the_fixed_point_is_where_the_step_by_step_engine_stops(coin: Coin, shock: float) -> None:
    engine = shock_engine(coin, shock)
    side, mark = (Side.LONG if shock < 0 else Side.SHORT), math.log(engine.mark)
    impact = LinearImpact(engine.slope)

    def follow(ladder: Ladder) -> CascadeEnd:
        return run_cascade(ladder, side=side, mark_price=engine.mark, shock=abs(shock), impact=impact)

    away = side.sign * (mark - engine.level)
    order = np.argsort(away)
    exact = follow(Ladder(away[order], engine.quantity[order], end=3.0))
    assert exact.displacement == pytest.approx(engine.displacement, rel=1e-9)
    assert exact.liquidated_base == pytest.approx(engine.liquidated_base, rel=1e-9)
    assert exact.displacement > abs(shock)
    # The same from the density on the lattice, which no longer knows where in a bin a level lies.
    lattice = follow(read_ladder(engine.grid, side, engine.mark))
    assert lattice.displacement == pytest.approx(engine.displacement, rel=0.01)


def by_steps(away: Float64Array, quantity: Float64Array, shock: float, impact: Impact, eta: float) -> float:
    """Liquidate whoever is reached, push the price, look again."""
    held = np.ones(len(away), dtype=bool)
    displacement = shock
    while (reached := held & (away <= displacement)).any():
        held &= ~reached
        displacement = shock + float(impact(np.array([eta * quantity[~held].sum()]))[0])
    return displacement


impacts = st.one_of(
    st.builds(SquareRootImpact, st.floats(0.005, 0.1), st.floats(1.0, 1e3)),
    st.builds(LinearImpact, st.floats(1e-4, 1e-1), st.floats(0.5, 5.0)),
    st.builds(BookImpact, st.just((0.001, 0.01, 0.05)), st.just((1.0, 3.0, 40.0)), st.floats(0.5, 5.0)),
)
rungs = st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 10.0)), max_size=40)


def ladder_of(parts: list[tuple[float, float]]) -> Ladder:
    away, quantity = np.array(sorted(parts), dtype=np.float64).reshape(-1, 2).T.copy()
    return Ladder(away, quantity, end=0.5)


def run_long(ladder: Ladder, shock: float, impact: Impact, participation: float = 1.0) -> CascadeEnd:
    return run_cascade(
        ladder, side=Side.LONG, mark_price=100.0, shock=shock, impact=impact, participation=participation
    )


@given(rungs, impacts, st.floats(1e-3, 0.3), st.floats(0.1, 1.0))
def test_the_fixed_point_is_that_of_removing_pushing_and_looking_again(
    parts: list[tuple[float, float]], impact: Impact, shock: float, eta: float
) -> None:
    ladder = ladder_of(parts)
    ended = run_long(ladder, shock, impact, eta)
    expected = by_steps(ladder.displacement, ladder.quantity, shock, impact, eta)
    assert ended.displacement == pytest.approx(expected, rel=1e-9)
    # It solves the equation.
    pushed = float(impact(np.array([eta * ended.liquidated_base]))[0])
    assert ended.displacement == pytest.approx(shock + pushed, rel=1e-9)
    assert ended.amplification >= 1 - 1e-12


@given(rungs, impacts, st.floats(1e-3, 0.3), st.floats(1.0, 2.0))
def test_a_larger_shock_a_fuller_book_and_a_thinner_market_never_end_nearer(
    parts: list[tuple[float, float]], impact: Impact, shock: float, more: float
) -> None:
    ladder = ladder_of(parts)
    here = run_long(ladder, shock, impact).displacement * (1 - 1e-12)
    assert run_long(ladder, shock * more, impact).displacement >= here
    fuller = Ladder(ladder.displacement, ladder.quantity * more, ladder.end)
    assert run_long(fuller, shock, impact).displacement >= here
    assert run_long(ladder, shock, impact, participation=more).displacement >= here


@given(rungs, st.floats(1e-3, 0.3))
def test_a_rise_does_to_shorts_what_a_fall_does_to_longs(parts: list[tuple[float, float]], shock: float) -> None:
    ladder = ladder_of(parts)
    fall, rise = (
        run_cascade(ladder, side=side, mark_price=100.0, shock=shock, impact=HARSH) for side in (Side.LONG, Side.SHORT)
    )
    assert (fall.displacement, fall.liquidated_base) == (rise.displacement, rise.liquidated_base)
    assert fall.price * rise.price == pytest.approx(100.0**2)
    assert fall.price <= 100.0 <= rise.price


def test_without_levels_nothing_but_the_shock_happens() -> None:
    nothing = run_long(ladder_of([]), 0.02, HARSH)
    assert (nothing.displacement, nothing.liquidated_usd, nothing.amplification) == (0.02, 0.0, 1.0)
    assert nothing.branching == 0.0
    assert nothing.price == pytest.approx(100 * math.exp(-0.02))


def test_branching_above_one_means_that_a_further_push_feeds_itself() -> None:
    # Ten base coins per .001 of log price: linear impact of .0002 per coin pushes twice as far as it took.
    away = np.linspace(0.001, 0.2, 200)
    uniform = Ladder(away, np.full(200, 10.0), end=0.2)
    runaway = run_long(uniform, 0.0095, LinearImpact(0.0002))
    assert runaway.beyond_known  # it takes the whole ladder and ends behind it
    assert runaway.displacement > 0.2
    assert runaway.price == pytest.approx(100 * math.exp(-0.2))  # no price is told beyond the levels that are known
    calm = run_long(uniform, 0.0095, LinearImpact(0.00005))
    assert calm.branching == pytest.approx(0.5, rel=0.01)
    assert calm.amplification == pytest.approx(2.0, rel=0.06)  # 1 / (1 - branching)
    assert not calm.beyond_known


def test_a_ladder_holds_what_its_side_has_beyond_the_mark() -> None:
    longs, shorts = np.zeros(400), np.zeros(400)
    longs[100:150], shorts[250:260] = 3e6, 5e6
    grid = column(4_400, longs, shorts)
    mark = math.exp(4.6 + 0.0005)  # bin 200 of the grid
    below, above = read_ladder(grid, Side.LONG, mark), read_ladder(grid, Side.SHORT, mark)
    assert (below.quantity * mark * np.exp(-below.displacement)).sum() == pytest.approx(1.5e8)
    assert (above.quantity * mark * np.exp(above.displacement)).sum() == pytest.approx(5e7)
    assert 0.05 < below.displacement.min() < 0.052
    assert below.end == pytest.approx(0.2005)
    passed = read_ladder(grid, Side.LONG, math.exp(4.6 - 0.075))  # the price is inside the longs already
    assert (passed.quantity * np.exp(4.525 - passed.displacement)).sum() == pytest.approx(0.75e8)


@pytest.mark.parametrize("change", [-0.03, 0.03])
def test_a_band_is_ordered_and_names_its_models(change: float) -> None:
    usd = np.full(800, 2e7)
    usd[380:420] = 0.0
    grid = column(11_000 - 400, np.r_[usd[:400], np.zeros(400)], np.r_[np.zeros(400), usd[400:]])
    band = find_cascade(grid, mark_price=math.exp(11.0), change=change, mild=MILD, harsh=HARSH)
    assert band.side is (Side.LONG if change < 0 else Side.SHORT)
    assert band.shock == pytest.approx(abs(math.log1p(change)))
    assert band.shock < band.lower.displacement <= band.upper.displacement
    assert {band.lower.impact, band.upper.impact} == {"square root", "linear"}
    assert 0 < band.lower.liquidated_usd <= band.upper.liquidated_usd


def test_the_impact_models_are_what_they_say() -> None:
    sizes = np.array([0.0, 1e4, 4e4])
    root = SquareRootImpact(0.03, 1e6)(sizes)
    assert root.tolist() == pytest.approx([0.0, 0.9 * 0.03 * 0.1, 0.9 * 0.03 * 0.2])
    assert LinearImpact(1e-8, stress=3.0)(sizes).tolist() == pytest.approx([0.0, 3e-4, 1.2e-3])
    book = BookImpact((0.001, 0.01), (1e4, 3e4), stress=2.0)
    assert book(np.array([0.0, 5e3, 1e4, 3e4])).tolist() == pytest.approx([0.0, 0.001, 0.0055, 0.02])
    # A quarter of the volume of five minutes, all on one side, moves the price by their volatility.
    flow = np.array([0.25 * 1e6 / 288])
    assert LinearImpact.from_turnover(0.03, 1e6)(flow)[0] == pytest.approx(0.03 / math.sqrt(288))


@pytest.mark.parametrize("change", [0.0, -1.0, math.nan, math.inf])
def test_a_change_that_is_none_is_refused(change: float) -> None:
    with pytest.raises(ParameterError, match="change"):
        find_cascade(column(0, np.ones(3), np.ones(3)), mark_price=1.0, change=change, mild=MILD, harsh=HARSH)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ParameterError, match="daily_volume"):
        SquareRootImpact(0.03, 0.0)
    with pytest.raises(ParameterError, match="stress"):
        LinearImpact(1.0, math.nan)
    with pytest.raises(ParameterError, match="displacement"):
        BookImpact((0.01, 0.005), (1.0, 2.0))
    with pytest.raises(ParameterError, match="quantity"):
        BookImpact((0.01, 0.02), (1.0,))
    with pytest.raises(ParameterError, match="displacement"):
        Ladder(np.array([0.2, 0.1]), np.ones(2), 1.0)
    with pytest.raises(ParameterError, match="shock"):
        run_long(ladder_of([]), 0.0, HARSH)
