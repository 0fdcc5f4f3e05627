"""Other books beside the one shown: they span a band that holds it, and know no future either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from estimator.domain import Candle
from estimator.errors import ParameterError
from estimator.model.book import PositionBook
from estimator.model.ensemble import Ensemble, band
from estimator.model.members import MEMBER_NAMES
from estimator.model.parameters import Parameters
from estimator.model.schedule import Schedule, continues
from estimator.model.steps import Steps, build_steps
from tests.estimator.model.markets import candles, interest, market, walks

DEFAULT = Parameters()
OTHER = replace(DEFAULT, churn=0.4, shares=Parameters.preset("high-leverage").shares)


def steps_of(n: int = 400) -> Steps:
    frame = candles(n, 3)
    return build_steps(market(), frame, interest(frame, 3))[0]


@settings(max_examples=10, deadline=None)
@given(walks())
def test_the_band_holds_the_book_that_is_shown(steps: Steps) -> None:
    shown, _ = PositionBook(market(), OTHER).run(steps)
    low, high = band(shown, Ensemble(market(), Schedule(OTHER)).run(steps))
    for side in ("long_usd", "short_usd"):
        assert (getattr(low, side) <= getattr(shown, side)).all()
        assert (getattr(shown, side) <= getattr(high, side)).all()


def test_the_default_book_is_a_member() -> None:
    steps = steps_of()
    shown, _ = PositionBook(market(), DEFAULT).run(steps)
    members = Ensemble(market(), Schedule(DEFAULT)).run(steps)
    assert np.array_equal(members.tier_usd("long", "balanced"), shown.long_usd)
    assert np.array_equal(members.tier_usd("short", "balanced"), shown.short_usd)


def test_other_assumptions_say_something_else() -> None:
    members = Ensemble(market(), Schedule(DEFAULT)).run(steps_of())
    last = {name: members.tier_usd("long", name)[-1] for name in MEMBER_NAMES}
    for name in set(MEMBER_NAMES) - {"balanced"}:
        assert not np.allclose(last[name], last["balanced"], rtol=0.02), name


def test_a_member_knows_nothing_of_later_steps() -> None:
    steps = steps_of()
    poisoned = replace(steps, contracts=np.where(np.arange(len(steps)) > 200, 9e5, steps.contracts))
    emit = np.arange(len(steps)) <= 200
    one, two = (Ensemble(market(), Schedule(DEFAULT)).run(s, emit=emit) for s in (steps, poisoned))
    for name in MEMBER_NAMES:
        assert np.array_equal(one.tier_usd("short", name), two.tier_usd("short", name))


def test_members_stepped_one_by_one_are_those_of_a_batch() -> None:
    steps = steps_of(60)
    batch = Ensemble(market(), Schedule(DEFAULT)).run(steps)
    stream = Ensemble(market(), Schedule(DEFAULT))
    for i, row in enumerate(steps.candle):
        low, high, close, volume = row[:4].tolist()
        candle = Candle(0, close, high, low, close, volume)
        column = stream.step([candle], float(steps.contracts[i]), close_ms=int(steps.close_ms[i]))
    for name in MEMBER_NAMES:
        mine, theirs = column.tier_usd("long", name)[0], batch.tier_usd("long", name)[-1]
        assert mine.sum() == pytest.approx(theirs.sum(), rel=1e-6)


def test_a_book_goes_by_what_is_in_force_when_a_step_closes() -> None:
    schedule = Schedule(DEFAULT).then(1_000, OTHER)
    assert schedule.at(1_000) == DEFAULT
    assert schedule.at(1_001) == OTHER
    with pytest.raises(ParameterError, match="times that rise"):
        schedule.then(1_000, DEFAULT)


def test_a_book_that_adopts_keeps_what_it_holds_and_opens_otherwise() -> None:
    steps = steps_of(200)
    changed, plain = (PositionBook(market(), DEFAULT) for _ in range(2))
    for book in (changed, plain):
        book.run(steps.part(0, 100))
    before = changed.at_risk().copy()
    changed.adopt(OTHER)
    assert np.array_equal(changed.at_risk(), before)
    assert changed.parameters.version != plain.parameters.version
    one, two = (book.run(steps.part(100, 200))[0] for book in (changed, plain))
    assert not np.array_equal(one.long_usd[-1], two.long_usd[-1])
    assert changed.total == pytest.approx(plain.total), "open interest is kept whatever is assumed"


def test_a_book_with_other_buckets_cannot_go_on() -> None:
    fewer = replace(
        DEFAULT, leverages=(10.0, 5.0), shares=(0.5, 0.5), sigmas=(0.1, 0.1), tau_hours=(48.0, 48.0)
    )  # fmt: skip
    assert not continues(fewer, DEFAULT)
    assert continues(OTHER, DEFAULT)
    with pytest.raises(ParameterError, match="leverages"):
        PositionBook(market(), DEFAULT).adopt(fewer)
