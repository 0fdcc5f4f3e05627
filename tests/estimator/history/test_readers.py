"""Whoever reads history with other tools gets what the documents promise: their examples are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from estimator.history import History, columns_grid
from tests.estimator.history.test_store import BTC, ETH, T0, candles, columns, make_grid, prints

ROOT = Path(__file__).parents[3]
SECTION = "## Reading history with other tools"


def examples() -> list[str]:
    text = (ROOT / "docs" / "operations.md").read_text().split(SECTION)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names the examples define, run one after the other beside a history."""
    history = History(tmp_path / "data" / "history")
    for first in (0, 90):  # two commits: more than one file
        history.append("candles", pl.concat([candles(BTC, first, 90), candles(ETH, first, 90, price=7.0)]))
    history.append("liquidations", pl.concat([prints(BTC, [T0, T0, T0 + 1]), prints(ETH, [T0], price=7.0)]))
    history.append("columns", columns(BTC, make_grid(3)))
    history.compact(grace_hours=24)  # replaced files are still there, and must not be read
    history.append("liquidations", prints(BTC, [T0 + 2]))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in examples():
        exec(example, names)  # noqa: S102 - our own documents
    return names


def test_polars_reads_candles(told: dict[str, Any]) -> None:
    hourly = told["hourly"]
    assert hourly["time"].dt.epoch("ms").to_list() == [T0, T0 + 3_600_000, T0 + 7_200_000]
    assert hourly["volume"].to_list() == [3.25 * 60] * 3
    assert hourly["open"][0] == 100.0


def test_duckdb_reads_prints_once(told: dict[str, Any]) -> None:
    assert told["totals"] == [
        ("binance", "BTC/USDT:USDT", "long", 4, 4 * 30_000.0),
        ("binance", "ETH/USDT:USDT", "long", 1, 3.5),
    ]


def test_columns_unpack_without_this_program_to_what_it_shows(told: dict[str, Any]) -> None:
    grid = columns_grid(History("data/history").read("columns", BTC, 0, 2**42, level=0))
    assert grid is not None
    np.testing.assert_array_equal(told["grid"].long_usd, grid.long_usd)
    assert told["grid"].tier_source is not None
    row = told["last"]
    at = slice(row["first_bin"] - grid.first_bin, row["first_bin"] - grid.first_bin + row["n_price"])
    np.testing.assert_array_equal(told["long_usd"], grid.long_usd[-1, at])
    np.testing.assert_array_equal(told["short_usd"], grid.short_usd[-1, at])
    edges = told["price_edges"](row)
    np.testing.assert_allclose(edges, grid.price_edges[at.start : at.stop + 1], rtol=1e-12)
