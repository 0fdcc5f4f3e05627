"""What is scored: for one side of one column, cells of price and what was observed in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl

from estimator.domain import DAY_MS, BoolArray, Float64Array, Int64Array, Side
from estimator.errors import ParameterError
from estimator.evaluation import metrics
from estimator.evaluation.density import Column, DensityModel, MarketPast
from estimator.model.grid import BIN_WIDTH, LiquidationGrid

Part = Literal["all", "tune", "report"]
TUNE_SHARE: Final = 2 / 3  # of the time a truth spans: the rest is for the report


class Unit(NamedTuple):
    """One side of one column, and what happened there afterwards.

    Attributes
    ----------
    step : int
        Index of the step whose column is scored.
    side : Side
    edges : Float64Array, shape (n_cell + 1,)
        Log prices between cells, from the price outwards.
    cell : Int64Array, shape (n_item,)
        Cell of each thing observed.
    weight : Float64Array, shape (n_item,)
        What it counts. [USD]
    block : Int64Array, shape (n_item,)
        Items of one block are not independent: a trader, a day.
    """

    step: int
    side: Side
    edges: Float64Array
    cell: Int64Array
    weight: Float64Array
    block: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Units of one kind on one past.

    Parameters
    ----------
    kind : str
        What it belongs to in the report, e.g. ``"events 1 h"``.
    source : str
        Where it was observed, e.g. ``"okx BTC"``.
    units : tuple of Unit
        By rising step.
    controls : Float64Array, shape (n_unit, n_control)
        For totals: what a total is expected to follow anyway.
    block_ms : int
        Units this close are drawn together in the bootstrap. [ms]
    note : dict
        Counts that a reader should know, e.g. how much was left out.
    """

    kind: str
    source: str
    units: tuple[Unit, ...]
    controls: Float64Array = field(default_factory=lambda: np.zeros((0, 0)))
    block_ms: int = DAY_MS
    note: dict[str, float] = field(default_factory=dict)

    def part(self, part: Part) -> Truth:
        """Return the first two thirds of the time spanned (to tune on) or the last (to report)."""
        if part == "all" or not self.units:
            return self
        if part not in ("tune", "report"):
            raise ParameterError("part", part, "'all', 'tune' or 'report'")
        steps = np.array([u.step for u in self.units])
        cut = int(np.ceil(steps.min() + TUNE_SHARE * (steps.max() - steps.min() + 1)))
        return self._keep(steps < cut) if part == "tune" else self._keep(steps >= cut)

    def after(self, step: int) -> Truth:
        """Return the units from a step on."""
        return self._keep(np.array([u.step >= step for u in self.units], dtype=bool))

    def _keep(self, mask: BoolArray) -> Truth:
        units = tuple(u for u, kept in zip(self.units, mask, strict=True) if kept)
        return replace(self, units=units, controls=self.controls[mask] if len(self.controls) else self.controls)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A past and the truths known about it."""

    name: str
    past: MarketPast
    truths: tuple[Truth, ...]

    def part(self, part: Part) -> Case:
        """See `Truth.part`."""
        return replace(self, truths=tuple(t.part(part) for t in self.truths))


class Scored(NamedTuple):
    """How one model did on one truth.

    Attributes
    ----------
    kind, source, model : str
    items : pl.DataFrame
        One row per thing observed: ``unit weight block bits rank`` (rank: middle rank within its cells).
    units : pl.DataFrame
        One row per unit: ``time_ms block long n_cell predicted observed``; where there are several cells ``capture
        spearman wasserstein sharpness``, for totals ``control_0`` and so on.
    cells : pl.DataFrame
        One row per cell: ``relative`` (predicted, 1 = uniform), ``observed`` (1 = uniform), ``weight``.
    """

    kind: str
    source: str
    model: str
    items: pl.DataFrame
    units: pl.DataFrame
    cells: pl.DataFrame


def score(model: DensityModel, case: Case) -> list[Scored]:
    """Run a model over a past, once, and score it on every truth of the case."""
    emit = np.zeros(len(case.past.steps), dtype=bool)
    for truth in case.truths:
        emit[[u.step for u in truth.units]] = True
    grid = model.densities(case.past, emit)
    row_of = np.cumsum(emit) - 1
    close_ms = case.past.steps.close_ms
    return [_score_truth(model.name, truth, grid, row_of, close_ms) for truth in case.truths if truth.units]


def _score_truth(name: str, truth: Truth, grid: LiquidationGrid, row_of: Int64Array, close_ms: Int64Array) -> Scored:
    scored = [
        _score_unit(i, unit, _column(grid, int(row_of[unit.step]), unit.side)) for i, unit in enumerate(truth.units)
    ]
    items, cells = ({k: np.concatenate([s[part][k] for s in scored]) for k in scored[0][part]} for part in (0, 2))
    time_ms = close_ms[[u.step for u in truth.units]]
    units = pl.DataFrame([s[1] for s in scored], orient="row").with_columns(
        pl.Series("time_ms", time_ms),
        pl.Series("block", time_ms // truth.block_ms),
        pl.Series("long", [u.side is Side.LONG for u in truth.units]),
        *(pl.Series(f"control_{j}", truth.controls[:, j]) for j in range(truth.controls.shape[1])),
    )
    return Scored(truth.kind, truth.source, name, pl.DataFrame(items), units, pl.DataFrame(cells))


def _column(grid: LiquidationGrid, row: int, side: Side) -> Column:
    return Column(grid.side_usd(side)[row], grid.first_bin, grid.bin_width)


_Parts = tuple[dict[str, Float64Array | Int64Array], dict[str, float], dict[str, Float64Array]]


def _score_unit(index: int, unit: Unit, column: Column) -> _Parts:
    mass = column.between(unit.edges)
    n = len(mass)
    share = metrics.shares(mass)
    seen = metrics.block_sums(unit.weight, unit.cell, n)
    seen_share, total = metrics.shares(seen), float(seen.sum())
    items: dict[str, Float64Array | Int64Array] = {
        "unit": np.full(len(unit.cell), index, dtype=np.int64),
        "weight": unit.weight,
        "block": unit.block,
        "bits": metrics.bits(share)[unit.cell],
        "rank": metrics.middle_rank(share)[unit.cell],
    }
    whole = {"n_cell": float(n), "predicted": float(mass.sum()), "observed": total}
    if n > 1:  # a total has no shape
        whole |= {
            "capture": metrics.capture(share, seen) if total > 0 else float("nan"),
            "spearman": metrics.spearman(share, seen_share),
            "wasserstein": metrics.wasserstein(unit.edges, share, seen_share) if total > 0 else float("nan"),
            "sharpness": metrics.sharpness(metrics.shares(column.between(_fine(unit.edges)))),
        }
    cells = {"relative": share * n, "observed": seen_share * n, "weight": np.full(n, total / n)}
    return items, whole, cells


def _fine(edges: Float64Array) -> Float64Array:
    """Edges a lattice bin apart between the first and the last."""
    n = max(round(abs(edges[-1] - edges[0]) / BIN_WIDTH), 1)
    return np.linspace(edges[0], edges[-1], n + 1)
