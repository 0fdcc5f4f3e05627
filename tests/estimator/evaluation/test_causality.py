"""Scoring cannot see the future: poisoned later data changes no column of any model, and no score made before it."""

from __future__ import annotations

import numpy as np
import pytest

from estimator.domain import Float64Array
from estimator.evaluation.books import preset
from estimator.evaluation.density import DensityModel, MarketPast
from estimator.evaluation.mixtures import LogPool
from estimator.scoring.run import BASELINES, MODELS
from tests.estimator.evaluation.pasts import make_past, poisoned

FROZEN = 180
SHOWN = (*MODELS, LogPool("pool", (preset("balanced"), *BASELINES[6:8]), (0.5, 0.3, 0.2)))
PATH_FREE = ("uniform", "distance", "static")


def column(model: DensityModel, past: MarketPast, step: int) -> tuple[Float64Array, Float64Array]:
    """One column between prices that hold all of it."""
    emit = np.zeros(len(past.steps), dtype=bool)
    emit[step] = True
    grid = model.densities(past, emit).crop(5_000, 150_000)
    return grid.long_usd[0].astype(np.float64), grid.short_usd[0].astype(np.float64)


@pytest.mark.parametrize("model", SHOWN, ids=lambda m: m.name)
def test_what_happens_later_changes_no_column(model: DensityModel) -> None:
    past = make_past()
    for kept, spoilt in zip(column(model, past, FROZEN), column(model, poisoned(past, FROZEN), FROZEN), strict=True):
        assert kept.sum() > 0
        assert np.array_equal(kept, spoilt)


@pytest.mark.parametrize("model", SHOWN, ids=lambda m: m.name)
def test_a_past_that_ends_at_the_column_gives_the_same_column(model: DensityModel) -> None:
    past = make_past()
    cut = column(model, past.until(FROZEN + 1), FROZEN)
    assert all(np.array_equal(a, b) for a, b in zip(column(model, past, FROZEN), cut, strict=True))


@pytest.mark.parametrize("model", [m for m in SHOWN if m.name not in PATH_FREE], ids=lambda m: m.name)
def test_what_happened_before_does_change_the_column(model: DensityModel) -> None:
    past = make_past()
    before = poisoned(past, FROZEN - 50)
    before.steps.candle[FROZEN] = past.steps.candle[FROZEN]
    pairs = zip(column(model, past, FROZEN), column(model, before, FROZEN), strict=True)
    assert any(not np.array_equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("model", SHOWN, ids=lambda m: m.name)
def test_longs_lie_below_the_price_and_shorts_above(model: DensityModel) -> None:
    past = make_past()
    emit = np.ones(len(past.steps), dtype=bool)
    emit[: FROZEN // 2] = False
    grid = model.densities(past, emit)
    assert len(grid.time) == emit.sum()
    middle = (grid.price_edges[1:] + grid.price_edges[:-1]) / 2
    for row, price in enumerate(past.close[emit]):
        assert grid.long_usd[row, middle > price * 1.001].sum() == 0
        assert grid.short_usd[row, middle < price * 0.999].sum() == 0
