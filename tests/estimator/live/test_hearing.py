"""Whether prints are heard, market by market, from what a venue's health says."""

from __future__ import annotations

import pytest

from estimator.domain import ContractType, LeverageBracket, Market
from estimator.exchanges.base import Connection
from estimator.exchanges.edge import Health, Line
from estimator.live.hearing import Hearing, with_ends


def market(symbol: str, contract: ContractType = "linear") -> Market:
    return Market("binance", symbol, contract, (LeverageBracket(0.0, 100.0, 0.004),))


BTC, INVERSE = market("BTC/USDT:USDT"), market("BTC/USD:BTC", "inverse")


def told(hearing: Hearing) -> list[tuple[str, int, bool]]:
    return [
        (m.symbol, c.time_ms, c.connected)
        for m, c in hearing.changes()
        if c == Connection(c.time_ms, "liquidations", c.connected)
    ]


def test_a_stream_is_heard_from_its_first_message_to_the_last_before_it_was_lost() -> None:
    health, line = Health(), Line("liquidations")
    hearing = Hearing(health, [BTC], 0)
    health.unheard.add(line)
    assert told(hearing) == []
    health.last_message_ms["liquidations"] = 100
    health.unheard.discard(line)
    assert told(hearing) == [(BTC.symbol, 100, True)]
    health.last_message_ms["liquidations"] = 170
    assert told(hearing) == []
    health.reconnects["liquidations"] += 1
    health.unheard.add(line)
    assert told(hearing) == [(BTC.symbol, 171, False)]
    health.last_message_ms["liquidations"] = 300
    health.unheard.discard(line)
    assert told(hearing) == [(BTC.symbol, 300, True)]


def test_a_connection_lost_and_back_between_two_looks_is_noticed() -> None:
    health = Health()
    hearing = Hearing(health, [BTC], 0)
    health.last_message_ms["liquidations"] = 100
    assert told(hearing) == [(BTC.symbol, 100, True)]
    health.reconnects["liquidations"] += 1
    health.last_message_ms["liquidations"] = 200
    assert told(hearing) == [(BTC.symbol, 101, False), (BTC.symbol, 200, True)]


@pytest.mark.parametrize(("last_ms", "end_ms"), [(200, 171), (101, 131)])
def test_a_stream_is_not_trusted_shortly_after_its_first_message_and_before_its_last(last_ms: int, end_ms: int) -> None:
    health, line = Health(), Line("liquidations")
    hearing = Hearing(health, [BTC], 30)
    health.last_message_ms["liquidations"] = 100
    assert told(hearing) == [(BTC.symbol, 130, True)]
    health.last_message_ms["liquidations"] = last_ms
    assert told(hearing) == []
    health.reconnects["liquidations"] += 1
    health.unheard.add(line)
    assert told(hearing) == [(BTC.symbol, end_ms, False)]


def test_messages_that_are_read_late_do_not_make_a_stream_heard_longer_than_they_say() -> None:
    health, line = Health(), Line("liquidations")
    hearing = Hearing(health, [BTC], 0)
    health.last_message_ms["liquidations"] = 1_000
    assert told(hearing) == [(BTC.symbol, 1_000, True)]
    for message in ({"ts": 4_000}, {"ts": "4500"}, {"ts": 3_000}, {"ts": None}, {}, "pong"):
        health.note_time("liquidations", message, ("ts",), 90_000)
    health.last_message_ms["liquidations"] = 90_000
    assert told(hearing) == []
    health.unheard.add(line)
    assert told(hearing) == [(BTC.symbol, 4_501, False)]


def test_inverse_markets_go_by_their_own_stream_where_they_have_one() -> None:
    health, lines = Health(), [Line("liquidations"), Line("liquidations (coin-m)")]
    hearing = Hearing(health, [BTC, INVERSE], 0)
    for line in lines:
        health.unheard.add(line)
    health.unheard.discard(lines[0])
    health.last_message_ms["liquidations"] = 100
    assert told(hearing) == [(BTC.symbol, 100, True)]
    health.unheard.discard(lines[1])
    health.last_message_ms["liquidations (coin-m)"] = 150
    assert told(hearing) == [(INVERSE.symbol, 150, True)]


def test_a_run_that_was_killed_has_heard_all_until_its_last_print_though_nobody_said_so() -> None:
    def at(time_ms: int, *, connected: bool = True) -> Connection:
        return Connection(time_ms, "liquidations", connected=connected)

    whole = (at(10), at(20, connected=False), at(200_000))
    assert with_ends(whole, [5, 15, 35]) == whole
    assert with_ends([at(10), at(200_000)], [5, 20, 90_000]) == (at(10), at(21, connected=False), at(200_000))
    assert with_ends([at(10), at(50)], [5, 20, 60]) == (at(10), at(11, connected=False), at(50))
