"""The long proofs in short: see `python -m tests.soak` for whole ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.soak.account import Check, Seen, lacking
from tests.soak.kills import kill_again_and_again
from tests.soak.troubles import trouble


def wrong(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.told for check in checks if check.wrong}


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_ends_where_one_ends_that_never_was(tmp_path: Path) -> None:
    kinds = ("starting", "committing", "both")
    outcome = asyncio.run(
        kill_again_and_again(
            tmp_path, 3, 1, venues=("binance", "bybit"), coins=("BTC",), prints_per_minute=10.0, days=0.5, kinds=kinds
        )
    )
    assert outcome.kinds.total() == 3
    assert outcome.prints > 100
    assert not wrong(outcome.checks)


@pytest.mark.timeout(300)
def test_venues_at_fault_lose_double_and_make_up_nothing(tmp_path: Path) -> None:
    outcome = asyncio.run(trouble(tmp_path, 6.0, 1, coins=("BTC",), prints_per_minute=8.0, rest_s=0.15, days=0.5))
    assert outcome.faults.total() > 30
    assert outcome.prints > 100
    assert not wrong(outcome.checks)


def test_what_is_lacking_is_counted_not_only_named() -> None:
    one, other = Seen(1, "long", 100.0, 2.0), Seen(1, "long", 100.0, 3.0)
    assert lacking([one, one, other], [one, other]) == [one]
    assert lacking([one], [one._replace(quantity_base=2.0 + 1e-9)]) == []
    assert lacking([one], [one._replace(side="short")]) == [one]
