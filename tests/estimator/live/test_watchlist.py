"""Which accounts are asked: those that may hold most, each in its turn, and none for ever."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estimator.domain import HOUR_MS, Side
from estimator.errors import SettingsError
from estimator.live.holders import read_addresses
from estimator.live.watchlist import STALE_MS, WATCHED, Watchlist
from estimator.model.holdings import Account, Holding

NOW = 1_780_304_430_000
ONE, TWO = "0x" + "1" * 40, "0x" + "2" * 40


def holds(usd: float, time_ms: int = NOW) -> Account:
    return Account(time_ms, (Holding("m", Side.LONG, 1.0, usd, 1.0),))


def test_who_trades_most_is_asked_first_and_the_rest_not_at_all() -> None:
    accounts = Watchlist(most=2)
    for name, usd in (("small", 1e3), ("large", 1e6), ("middle", 1e5)):
        accounts.trade(name, usd, NOW)
    asked = []
    for second in range(4):
        address = accounts.next(NOW + second)
        assert address is not None
        accounts.answer(address, holds(1e5, NOW + second))
        asked.append(address)
    assert asked == ["large", "middle", "large", "middle"]


def test_who_holds_much_stays_without_trading_and_who_holds_nothing_leaves() -> None:
    accounts = Watchlist(most=1)
    accounts.trade("maker", 1e8, NOW)
    accounts.trade("holder", 1e7, NOW)
    assert accounts.next(NOW) == "maker"
    accounts.answer("maker", Account(NOW))
    assert accounts.next(NOW) == "holder"
    accounts.answer("holder", holds(1e7))
    accounts.trade("other", 9e6, NOW)
    assert accounts.next(NOW + HOUR_MS) == "holder"


def test_what_was_traded_fades() -> None:
    accounts = Watchlist(most=1)
    accounts.trade("yesterday", 1e6, NOW)
    accounts.trade("now", 1e5, NOW + 6 * HOUR_MS)
    assert accounts.next(NOW + 6 * HOUR_MS) == "now"


def test_the_listed_are_asked_whatever_they_do() -> None:
    accounts = Watchlist((ONE, TWO), most=1)
    accounts.trade("trader", 1e9, NOW)
    assert {accounts.next(NOW + i) for i in range(3)} == {ONE, TWO, "trader"}


def test_newcomers_do_not_keep_the_others_from_their_turn() -> None:
    accounts = Watchlist(most=3)
    accounts.trade("old", 1e9, NOW)
    assert accounts.next(NOW) == "old"
    accounts.answer("old", holds(1e9))
    asked: dict[str, int] = {}
    for second in range(1, 900):
        now = NOW + 1000 * second
        accounts.trade(f"new {second}", 1e6, now)
        address = accounts.next(now)
        assert address is not None
        asked.setdefault(address, second)
        accounts.answer(address, holds(1e9, now) if address == "old" else Account(now))
    assert 0 < asked["old"] * 1000 < STALE_MS


def test_a_position_is_gone_once_its_account_answers_without_it_or_not_at_all() -> None:
    accounts = Watchlist()
    accounts.answer("a", holds(1.0))
    accounts.answer("b", holds(2.0))
    accounts.answer("a", Account(NOW + 1))
    assert [len(one.holdings) for one in accounts.answers(NOW + 1)] == [0, 1]
    assert accounts.answers(NOW + STALE_MS + 2) == []


def test_however_many_trade_only_the_largest_are_remembered() -> None:
    accounts = Watchlist((ONE,))
    for number in range(30_000):
        accounts.trade(str(number), float(number), NOW)
    assert len(accounts) <= 4_001
    asked = {accounts.next(NOW + i) for i in range(1 + WATCHED)}
    assert asked == {ONE, *map(str, range(30_000 - WATCHED, 30_000))}


def test_nobody_known_nobody_asked() -> None:
    assert Watchlist().next(NOW) is None


# The setting


def test_addresses_are_told_in_a_line_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "accounts.txt"
    file.write_text(f"# mine\n{ONE}\n\n{TWO.upper().replace('X', 'x')}  # a vault\n{ONE}\n")
    assert read_addresses(f"{ONE}, {TWO},") == read_addresses(str(file)) == (ONE, TWO)
    assert read_addresses(None) == read_addresses("") == ()


@pytest.mark.parametrize("told", ["0x12", f"{ONE},0x{'g' * 40}", "0x" + "1" * 41])
def test_what_is_no_address_is_named(told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape("LIQHEAT_HYPERLIQUID_ADDRESSES: got")):
        read_addresses(told)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="nowhere is neither addresses nor a file"):
        read_addresses("nowhere")
