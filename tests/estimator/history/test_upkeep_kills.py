"""Upkeep may be killed at any moment, beside a writer and a reader: no row is lost or doubled, no table torn."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from estimator.history import History
from tests.estimator.history.writing import DAYS_MS, append_until_killed, compact_for_ever

KILLS = 6
FIRST_MS = 1_700_000_000_000
MARKET = "binance:BTC/USDT:USDT"


def test_compaction_killed_anywhere_leaves_every_row_once(tmp_path: Path) -> None:
    root, acknowledged = str(tmp_path / "history"), tmp_path / "acknowledged"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.estimator.history.writing"])
    writer = context.Process(target=append_until_killed, args=(root, str(acknowledged), FIRST_MS))
    writer.start()
    history, chance = History(root), random.Random(3)  # noqa: S311 - moments to kill at, repeatable
    try:
        for _ in range(KILLS):
            stored = written(acknowledged)
            keeper = context.Process(target=compact_for_ever, args=(root,))
            keeper.start()
            until = time.monotonic() + 0.2 + chance.random()
            while time.monotonic() < until:
                seen = history.read("open_interest", MARKET, FIRST_MS, FIRST_MS + 2 * DAYS_MS).height
                assert seen >= stored  # a reader never misses what was there
            assert keeper.is_alive()
            keeper.kill()
            keeper.join()
        assert writer.is_alive()
    finally:
        writer.kill()
        writer.join()
    stored = written(acknowledged)
    rows = pl.read_delta(f"{root}/open_interest")
    assert rows["time"].n_unique() == rows.height
    assert stored <= rows.height <= stored + 1  # the last may be there though nobody was told
    done = history.compact(grace_hours=0)["open_interest"]
    assert done.files_after <= 4
    assert pl.read_delta(f"{root}/open_interest").sort("time").equals(rows.sort("time"))
    files = {p.name for p in Path(root).glob("open_interest/date=*/*")}
    assert files == {Path(uri).name for uri in DeltaTable(f"{root}/open_interest").file_uris()}  # no left-overs
    versions = DeltaTable(f"{root}/open_interest").history()
    assert sum(v["operation"] == "OPTIMIZE" for v in versions) > 1  # compaction did happen between the kills


def written(acknowledged: Path) -> int:
    """How many rows the writer was told are stored."""
    return len(acknowledged.read_bytes().splitlines()) if acknowledged.exists() else 0
