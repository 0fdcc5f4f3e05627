"""Candles that close without saying so: once, in order, and never with trades missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import MINUTE_MS, Candle, LeverageBracket, Market
from estimator.exchanges.edge import Health
from estimator.exchanges.moving import MovingCandles, Tick

BITCOIN = Market("gate", "BTC/USDT:USDT", "linear", (LeverageBracket(0.0, 100.0, 0.005),))
ETHER = Market("gate", "ETH/USDT:USDT", "linear", BITCOIN.brackets)


def candle(minute: int, volume: float) -> Candle:
    return Candle(minute * MINUTE_MS, 100.0, 101.0, 99.0, 100.5, volume)


def closed(ticks: list[Tick]) -> list[tuple[int, float]]:
    return [(c.time_ms // MINUTE_MS, c.volume) for _, c, is_closed in ticks if is_closed]


def test_a_younger_candle_closes_the_one_before_with_its_last_values() -> None:
    order = MovingCandles(Health())
    ticks = [tick for c in (candle(1, 1), candle(1, 5), candle(2, 1)) for tick in order.take(BITCOIN, c)]
    assert closed(ticks) == [(1, 5.0)]
    assert ticks[-1] == (BITCOIN, candle(2, 1), False)


def test_one_market_does_not_close_another() -> None:
    order = MovingCandles(Health())
    order.take(BITCOIN, candle(1, 1))
    assert closed(order.take(ETHER, candle(2, 1))) == []


def test_a_candle_the_venue_calls_closed_is_not_closed_again() -> None:
    order = MovingCandles(Health())
    ticks = order.take(BITCOIN, candle(1, 5), closed=True)
    ticks += order.take(BITCOIN, candle(1, 5), closed=True) + order.take(BITCOIN, candle(2, 1))
    assert closed(ticks) == [(1, 5.0)]


def test_a_quiet_market_closes_once_the_others_have_gone_on_for_a_minute() -> None:
    order = MovingCandles(Health())
    order.take(ETHER, candle(1, 5))
    assert closed(order.take(BITCOIN, candle(2, 1))) == []
    ticks = order.take(BITCOIN, candle(3, 1))
    assert [(m.base, c.volume) for m, c, is_closed in ticks if is_closed] == [("BTC", 1.0), ("ETH", 5.0)]


def test_markets_of_another_socket_have_their_own_time() -> None:
    order = MovingCandles(Health())
    inverse = Market("gate", "BTC/USD:BTC", "inverse", BITCOIN.brackets)
    order.take(inverse, candle(1, 5))
    assert closed(order.take(BITCOIN, candle(9, 1))) == []
    assert closed(order.take(inverse, candle(2, 1))) == [(1, 5.0)]


def test_after_a_lost_connection_a_candle_that_may_miss_trades_is_not_called_closed() -> None:
    order = MovingCandles(Health())
    order.take(BITCOIN, candle(1, 5))
    order.forget()
    assert closed(order.take(BITCOIN, candle(2, 1))) == []


def test_what_was_told_before_a_lost_connection_may_be_told_again_after_it() -> None:
    order = MovingCandles(Health())
    order.take(BITCOIN, candle(1, 5))
    order.forget()
    again = order.take(BITCOIN, candle(1, 3)) + order.take(BITCOIN, candle(1, 5)) + order.take(BITCOIN, candle(2, 1))
    assert closed(again) == []
    assert closed(order.take(BITCOIN, candle(3, 1))) == [(2, 1.0)]


def test_a_venue_may_say_of_a_candle_that_it_has_closed_after_a_lost_connection() -> None:
    order = MovingCandles(Health())
    order.take(BITCOIN, candle(1, 5))
    order.forget()
    assert closed(order.take(BITCOIN, candle(1, 8), closed=True)) == [(1, 8.0)]


@pytest.mark.parametrize("late", [candle(1, 3), candle(0, 9)])
def test_a_late_message_is_counted_and_changes_nothing(late: Candle) -> None:
    health = Health()
    order = MovingCandles(health)
    order.take(BITCOIN, candle(1, 5))
    assert order.take(BITCOIN, late) == []
    assert health.rejected == {("candles", "late or repeated message"): 1}
    assert closed(order.take(BITCOIN, candle(2, 1))) == [(1, 5.0)]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=40), st.booleans())
def test_whatever_comes_every_minute_closes_at_most_once_and_in_order(
    messages: list[tuple[int, int, bool]],
    says_closed: bool,  # noqa: FBT001 - drawn
) -> None:
    order = MovingCandles(Health(), says_closed=says_closed)
    ticks = [
        tick
        for minute, volume, is_closed in messages
        for tick in order.take(BITCOIN, candle(minute, volume), closed=is_closed)
    ]
    minutes = [minute for minute, _ in closed(ticks)]
    assert minutes == sorted(set(minutes))


def test_where_the_venue_says_what_has_closed_nothing_else_is_taken_for_it() -> None:
    order = MovingCandles(Health(), says_closed=True)
    order.take(ETHER, candle(1, 5))
    ticks = [tick for c in (candle(1, 5), candle(2, 1), candle(9, 1)) for tick in order.take(BITCOIN, c)]
    assert closed(ticks) == []
    assert closed(order.take(BITCOIN, candle(9, 4), closed=True)) == [(9, 4.0)]


def test_what_comes_after_a_close_or_again_is_counted_and_told_to_nobody() -> None:
    health = Health()
    order = MovingCandles(health, says_closed=True)
    steps = [
        (candle(1, 5), False, True),
        (candle(1, 4), False, False),  # older
        (candle(1, 6), False, True),
        (candle(1, 6), True, True),
        (candle(1, 6), True, False),  # twice
        (candle(1, 7), False, False),  # after its close
        (candle(2, 1), False, True),
        (candle(1, 9), True, False),
    ]
    assert [bool(order.take(BITCOIN, c, closed=done)) for c, done, _ in steps] == [news for *_, news in steps]
    assert order.take(ETHER, candle(1, 5), closed=True)
    assert health.rejected == {("candles", "late or repeated message"): 4}
