"""What was heard, and when nothing was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import Gap, Observation
from estimator.exchanges.base import Connection
from estimator.observed import Heard, Known

PRINTS = "liquidations"


def heard(*changes: tuple[int, bool]) -> Heard:
    made = Heard(PRINTS)
    for time_ms, connected in changes:
        made.note(Connection(time_ms, PRINTS, connected))
    return made


def test_before_the_first_connection_nothing_was_heard_and_nothing_is_called_a_gap() -> None:
    stream = heard((100, True))
    assert not stream.covers(0, 100)
    assert not stream.covers(99, 200)
    assert stream.covers(100, 200)
    assert stream.gaps(500) == ()


def test_a_lost_connection_is_a_gap_until_it_is_back() -> None:
    lost = heard((100, True), (200, False))
    assert lost.gaps(260) == (Gap(200, 260, PRINTS),)
    assert not lost.covers(150, 201)
    back = heard((100, True), (200, False), (300, True))
    assert back.gaps(900) == (Gap(200, 300, PRINTS),)
    assert back.covers(100, 200)
    assert back.covers(300, 900)
    assert not back.covers(299, 301)


def test_a_source_that_tells_of_no_connection_is_not_judged_by_any() -> None:
    assert not Heard(PRINTS).told
    other = Heard(PRINTS)
    other.note(Connection(5, "candles", connected=True))
    assert not other.told


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=12), st.integers(1, 300), st.integers(1, 50))
def test_a_stretch_is_covered_where_every_moment_of_it_was(
    changes: list[tuple[int, bool]], start: int, length: int
) -> None:
    changes.sort()
    stream = heard(*changes)
    state, moments = False, set()
    for at in range(400):
        for time_ms, connected in changes:
            if time_ms == at:
                state = connected
        if state:
            moments.add(at)
    if stream.told:
        assert stream.covers(start, start + length) == (set(range(start, start + length)) <= moments)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(1, 9)), min_size=1), st.integers(0, 60))
def test_an_observation_is_known_from_its_time_on_in_whatever_order_it_came(
    seen: list[tuple[int, float]], now: int
) -> None:
    known = Known()
    for time_ms, value in seen:
        known.add(Observation(time_ms, value))
    told = [time_ms for time_ms, _ in seen if time_ms <= now]
    found = known.at(now)
    assert (found.time_ms if found else None) == max(told, default=None)
    if found:
        assert found.value == next(value for time_ms, value in seen if time_ms == found.time_ms)
