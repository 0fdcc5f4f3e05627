"""What is held against a model: cells, sides, first crossings, and nothing the model could be blamed for wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.domain import HOUR_MS, Side
from estimator.evaluation.baselines import Uniform
from estimator.evaluation.books import preset
from estimator.evaluation.density import Column, DensityModel
from estimator.evaluation.events import Path, Prints, event_truth
from estimator.evaluation.positions import CAP_USD, Snapshot, position_truth
from estimator.evaluation.totals import Totals, total_truth
from estimator.evaluation.units import Case, Truth, score
from estimator.model.grid import BIN_WIDTH
from tests.estimator.evaluation.pasts import N_STEP, START_MS, make_past, poisoned

PAST = make_past()
PRICE = 30_000.0


def path(low: list[float], high: list[float], first: int = 100) -> Path:
    """Hours whose first closes at `PRICE`, at the close of step `first`."""
    start_ms = START_MS + (first + np.arange(len(low), dtype=np.int64)) * HOUR_MS
    return Path(start_ms, np.array(low) * PRICE, np.array(high) * PRICE, np.full(len(low), PRICE))


def prints(*found: tuple[float, int, float], first: int = 100) -> Prints:
    """Prints of (hours after the close of step `first`, sign, price relative to `PRICE`), 1000 USD each."""
    rows = sorted(found)
    time_ms = START_MS + np.array([(first + 1 + hour) * HOUR_MS for hour, _, _ in rows]).astype(np.int64)
    return Prints(
        time_ms,
        np.array([sign for _, sign, _ in rows]),
        np.array([relative * PRICE for _, _, relative in rows]),
        np.full(len(rows), 1000.0),
    )


FLAT = path([1.0, 0.97, 0.94], [1.0, 1.02, 1.0])


def truth_of(found: Prints, horizon_h: int = 1, where: Path = FLAT) -> Truth:
    return event_truth("events", "test", PAST, found, where, horizon_h)


def test_only_crossed_cells_count_on_the_side_that_was_liquidated() -> None:
    (long_unit,) = truth_of(prints((0.5, 1, 0.98), (0.6, 1, 0.96), (0.7, 1, 1.01), (0.8, -1, 0.99))).units
    assert long_unit.side is Side.LONG
    assert long_unit.step == 100
    assert len(long_unit.cell) == 1
    assert np.exp(long_unit.edges[long_unit.cell[0]]) >= 0.98 * PRICE > np.exp(long_unit.edges[long_unit.cell[0] + 1])


def test_cells_begin_beside_the_bin_of_the_price_and_end_with_the_last_one_crossed() -> None:
    units = {u.side: u for u in truth_of(prints((0.5, 1, 0.98), (0.6, -1, 1.01))).units}
    for side, extreme in ((Side.LONG, 0.97), (Side.SHORT, 1.02)):
        edges = units[side].edges
        assert np.allclose(np.diff(edges), -side.sign * BIN_WIDTH)
        assert abs(edges[0] - np.log(PRICE)) < BIN_WIDTH
        assert abs(edges[-1] - np.log(extreme * PRICE)) < BIN_WIDTH


def test_a_print_without_a_side_counts_where_it_lies() -> None:
    units = {u.side: u for u in truth_of(prints((0.5, 0, 0.98), (0.6, 0, 1.01))).units}
    assert [len(units[side].cell) for side in Side] == [1, 1]


def test_a_print_in_a_cell_crossed_an_hour_before_is_left_out() -> None:
    later = prints((0.1, 1, 0.985), (1.5, 1, 0.98), (1.6, 1, 0.95))
    (unit,) = truth_of(later, horizon_h=2).units
    assert sorted(np.exp(unit.edges[unit.cell]) / PRICE) == pytest.approx([0.95, 0.985], abs=0.0015)


def test_a_horizon_that_outlasts_the_prints_does_not_count() -> None:
    assert truth_of(prints((0.5, 1, 0.98)), horizon_h=2).units == ()


def test_prints_moved_in_time_or_price_move_no_column() -> None:
    model = preset("balanced")
    cases = [
        Case("a", PAST, (truth_of(prints((0.5, 1, 0.98))),)),
        Case("b", PAST, (truth_of(prints((0.9, 1, 0.975))),)),
    ]
    predicted = [score(model, case)[0].units["predicted"].to_list() for case in cases]
    assert predicted[0] == predicted[1]


@pytest.mark.parametrize("model", [preset("balanced"), Uniform()], ids=lambda m: m.name)
def test_scores_before_poisoned_data_stay_as_they_were(model: DensityModel) -> None:
    truth = truth_of(prints((0.5, 1, 0.98), (0.6, -1, 1.01)))
    kept, spoilt = (score(model, Case("c", p, (truth,)))[0] for p in (PAST, poisoned(PAST, 100)))
    assert kept.items.equals(spoilt.items)
    assert kept.units.equals(spoilt.units)


def snapshot(step: int, liquidation: list[float], *, is_long: list[bool], usd: float = 1e5) -> Snapshot:
    n = len(liquidation)
    return Snapshot(
        int(PAST.steps.close_ms[step]) + 60_000,
        np.arange(n),
        np.array(is_long),
        np.full(n, PRICE),
        np.array(liquidation) * PRICE,
        np.full(n, usd),
    )


def test_positions_count_within_thirty_percent_in_cells_of_one() -> None:
    found = snapshot(50, [0.955, 0.6, 1.205, float("nan"), 1.1], is_long=[True, True, False, True, True])
    units = {u.side: u for u in position_truth("test", PAST, [found]).units}
    assert units[Side.LONG].cell.tolist() == [4]
    assert units[Side.SHORT].cell.tolist() == [20]
    assert units[Side.LONG].step == 50
    assert np.exp(units[Side.SHORT].edges[[0, -1]]) == pytest.approx([PRICE, 1.3 * PRICE])


def test_a_whale_counts_no_more_than_the_cap() -> None:
    truth = position_truth("test", PAST, [snapshot(50, [0.9], is_long=[True], usd=1e9)])
    assert truth.units[0].weight.tolist() == [CAP_USD]


def test_snapshots_closer_than_three_hours_are_left_out() -> None:
    found = [snapshot(step, [0.9], is_long=[True]) for step in (50, 51, 52, 53, 60)]
    assert [u.step for u in position_truth("test", PAST, found).units] == [50, 53, 60]


def test_totals_are_predicted_by_what_the_candle_crosses() -> None:
    hours = np.arange(100, 110)
    price = PAST.close[hours]
    totals = Totals(PAST.steps.close_ms[hours], price * 0.98, price * 1.01, np.ones(10), np.ones(10))
    truth = total_truth("totals", "test", PAST, totals)
    scored = score(Uniform(), Case("c", PAST, (truth,)))[0].units
    width = scored["predicted"].to_numpy().reshape(10, 2)  # longs and shorts of an hour
    assert width[:, 0] == pytest.approx(np.full(10, -np.log(0.98) / BIN_WIDTH), abs=1.01)
    assert width[:, 1] == pytest.approx(np.full(10, np.log(1.01) / BIN_WIDTH), abs=1.01)
    assert truth.controls[0] == pytest.approx([-np.log(0.98), np.log(1.01), PAST.steps.contracts[100] * price[0]])


def test_tuning_and_reporting_share_no_unit_and_report_is_later() -> None:
    found = [snapshot(step, [0.9], is_long=[True]) for step in range(10, N_STEP, 5)]
    truth = position_truth("test", PAST, found)
    tune, report = ([u.step for u in truth.part(p).units] for p in ("tune", "report"))
    assert sorted(tune + report) == [u.step for u in truth.units]
    assert max(tune) < min(report)
    assert len(tune) / len(truth.units) == pytest.approx(2 / 3, abs=0.05)


def test_mass_between_edges_is_cut_evenly_and_kept() -> None:
    column = Column(np.array([1.0, 2.0, 3.0, 4.0]), 100, BIN_WIDTH)
    edges = np.array([99.0, 100.5, 102.0, 110.0]) * BIN_WIDTH
    assert column.between(edges) == pytest.approx([0.5, 2.5, 7.0])
    assert column.between(edges[::-1]) == pytest.approx([7.0, 2.5, 0.5])
