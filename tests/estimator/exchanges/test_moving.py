"""Candles that close without saying so: once, in order, and never with trades missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import MINUTE_MS, Candle, LeverageBracket, Market
from estimator.exchanges.edge import Health
from estimator.exchanges.moving import RollingCandles, Tick

BITCOIN = Market("gate", "BTC/USDT:USDT", "linear", (LeverageBracket(0.0, 100.0, 0.005),))
ETHER = Market("gate", "ETH/USDT:USDT", "linear", BITCOIN.brackets)


def candle(minute: int, volume: float) -> Candle:
    return Candle(minute * MINUTE_MS, 100.0, 101.0, 99.0, 100.5, volume)


def closed(ticks: list[Tick]) -> list[tuple[int, float]]:
    return [(c.time_ms // MINUTE_MS, c.volume) for _, c, is_closed in ticks if is_closed]


def test_a_younger_candle_closes_the_one_before_with_its_last_values() -> None:
    rolling = RollingCandles(Health())
    ticks = [tick for c in (candle(1, 1), candle(1, 5), candle(2, 1)) for tick in rolling.take(BITCOIN, c)]
    assert closed(ticks) == [(1, 5.0)]
    assert ticks[-1] == (BITCOIN, candle(2, 1), False)


def test_one_market_does_not_close_another() -> None:
    rolling = RollingCandles(Health())
    rolling.take(BITCOIN, candle(1, 1))
    assert closed(rolling.take(ETHER, candle(2, 1))) == []


def test_a_candle_the_venue_calls_closed_is_not_closed_again() -> None:
    rolling = RollingCandles(Health())
    ticks = rolling.take(BITCOIN, candle(1, 5), closed=True)
    ticks += rolling.take(BITCOIN, candle(1, 5), closed=True) + rolling.take(BITCOIN, candle(2, 1))
    assert closed(ticks) == [(1, 5.0)]


def test_a_quiet_market_closes_once_the_others_have_gone_on_for_a_minute() -> None:
    rolling = RollingCandles(Health())
    rolling.take(ETHER, candle(1, 5))
    assert closed(rolling.take(BITCOIN, candle(2, 1))) == []
    ticks = rolling.take(BITCOIN, candle(3, 1))
    assert [(m.base, c.volume) for m, c, is_closed in ticks if is_closed] == [("BTC", 1.0), ("ETH", 5.0)]


def test_markets_of_another_socket_have_their_own_time() -> None:
    rolling = RollingCandles(Health())
    inverse = Market("gate", "BTC/USD:BTC", "inverse", BITCOIN.brackets)
    rolling.take(inverse, candle(1, 5))
    assert closed(rolling.take(BITCOIN, candle(9, 1))) == []
    assert closed(rolling.take(inverse, candle(2, 1))) == [(1, 5.0)]


def test_after_a_lost_connection_a_candle_that_may_miss_trades_is_not_called_closed() -> None:
    rolling = RollingCandles(Health())
    rolling.take(BITCOIN, candle(1, 5))
    rolling.forget()
    assert closed(rolling.take(BITCOIN, candle(2, 1))) == []


def test_a_candle_seen_again_after_a_lost_connection_is_whole() -> None:
    rolling = RollingCandles(Health())
    rolling.take(BITCOIN, candle(1, 5))
    rolling.forget()
    rolling.take(BITCOIN, candle(1, 8))
    assert closed(rolling.take(BITCOIN, candle(2, 1))) == [(1, 8.0)]


@pytest.mark.parametrize("late", [candle(1, 3), candle(0, 9)])
def test_a_late_message_is_counted_and_changes_nothing(late: Candle) -> None:
    health = Health()
    rolling = RollingCandles(health)
    rolling.take(BITCOIN, candle(1, 5))
    assert rolling.take(BITCOIN, late) == []
    assert health.rejected == {("candles", "late or repeated message"): 1}
    assert closed(rolling.take(BITCOIN, candle(2, 1))) == [(1, 5.0)]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=40))
def test_whatever_comes_every_minute_closes_at_most_once_and_in_order(messages: list[tuple[int, int, bool]]) -> None:
    rolling = RollingCandles(Health())
    ticks = [
        tick
        for minute, volume, is_closed in messages
        for tick in rolling.take(BITCOIN, candle(minute, volume), closed=is_closed)
    ]
    minutes = [minute for minute, _ in closed(ticks)]
    assert minutes == sorted(set(minutes))
