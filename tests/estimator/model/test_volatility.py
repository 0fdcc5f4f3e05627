"""What is true of a mix of leverages that follows how much the price moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.domain import Float64Array
from estimator.errors import ParameterError
from estimator.model.book import PositionBook, rules_of
from estimator.model.parameters import Parameters
from estimator.model.step import HOURS, SQUARES, moved_shares
from estimator.model.steps import Steps
from tests.estimator.model.markets import market

HOUR_MS = 3_600_000
CALM, USUAL, WILD = 0.01, 0.025, 0.08


def shares_at(daily: float, parameters: Parameters) -> Float64Array:
    """Shares after so long in a market of this volatility that nothing else is remembered."""
    book = PositionBook(market(), parameters)
    book.state.moves[SQUARES], book.state.moves[HOURS] = 1e9 * daily**2 / 24, 1e9
    return moved_shares(book.state, rules_of(book.parameters, inverse=False))


def walk(daily: float, n: int = 24 * 60) -> Steps:
    """Hourly steps of a price that moves by one size, up and down in turn, with open interest that stays."""
    moves = np.where(np.arange(n) % 2 == 0, 1, -1) * daily / np.sqrt(24)
    close = 100.0 * np.exp(np.cumsum(moves))
    before = np.concatenate([[100.0], close[:-1]])
    low, high = np.minimum(close, before), np.maximum(close, before)
    return Steps(
        close_ms=(np.arange(n, dtype=np.int64) + 1) * HOUR_MS,
        first=np.arange(n + 1, dtype=np.int64),
        candle=np.stack([low, high, close, np.full(n, 60.0), low, high], axis=1),
        contracts=np.full(n, 1000.0),
        at_risk=np.ones((n, 2)),
    )


def mean_distance(steps: Steps, parameters: Parameters) -> float:
    """Mean log distance from the price to the levels of longs after all steps."""
    book = PositionBook(market(), parameters)
    book.run(steps)
    held = book.at_risk()[0]
    away = book.close_bin - book.first_bin - np.arange(len(held))
    return float((held * away).sum() / held.sum() * parameters.bin_width)


def test_at_the_usual_volatility_the_shares_are_those_of_the_mix() -> None:
    np.testing.assert_allclose(shares_at(USUAL, Parameters()), Parameters().for_leverage(125).shares, atol=1e-12)


@given(st.floats(0.001, 0.5), st.floats(0.0, 2.0))
@settings(max_examples=60, deadline=None)
def test_shares_stay_shares(daily: float, scaling: float) -> None:
    shares = shares_at(daily, Parameters(volatility_scaling=scaling))
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)


@given(st.floats(0.002, 0.3), st.floats(1.05, 4.0))
@settings(max_examples=60, deadline=None)
def test_the_more_the_price_moves_the_lower_the_leverage(daily: float, times: float) -> None:
    """No leverage is exceeded by more of the openings where the price moves more."""
    calm, wild = (np.cumsum(shares_at(v, Parameters())) for v in (daily, daily * times))
    assert (wild <= calm + 1e-12).all()


def test_without_scaling_volatility_changes_nothing() -> None:
    fixed = Parameters(volatility_scaling=0.0)
    np.testing.assert_array_equal(shares_at(CALM, fixed), shares_at(WILD, fixed))


def test_levels_lie_farther_away_where_the_price_moves_more() -> None:
    calm, wild = (mean_distance(walk(v), Parameters()) for v in (CALM, WILD))
    assert wild > 1.5 * calm


def test_open_positions_keep_their_levels_when_the_market_gets_wild() -> None:
    """Only openings follow: without any, levels out of the price's way stay where they are."""
    calm, wild = walk(CALM, 200), walk(WILD, 200)
    later = replace(wild, close_ms=wild.close_ms + calm.close_ms[-1], candle=wild.candle.copy())
    later.candle[:, 3] = 0.0  # no volume: nothing opens beyond what the sweep takes
    book = PositionBook(market(), Parameters(n_bins=3000))
    book.run(calm)
    before, first = book.at_risk(), book.first_bin
    book.run(later.part(0, 1))
    assert book.first_bin == first
    far = slice(0, book.close_bin - first - 400)
    np.testing.assert_allclose(book.at_risk()[0, far], before[0, far], rtol=0.05, atol=1e-9)


def test_leverages_have_to_fall() -> None:
    with pytest.raises(ParameterError, match="fall"):
        replace(Parameters(), leverages=Parameters().leverages[::-1])
