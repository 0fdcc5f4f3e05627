"""What was published is kept once and comes back as it was, at every level that shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from estimator.cache.tiles import TILE_COLUMNS, join_tiles, split_grid
from estimator.domain import DAY_MS, Float32Array
from estimator.history import History, Published
from estimator.model.book import PositionBook
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.parameters import Parameters
from tests.estimator.history.test_store import T0, make_grid
from tests.estimator.model.markets import market

HOURS = 4
STEPS = HOURS * 12


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


@pytest.fixture
def book() -> PositionBook:
    return PositionBook(market())


def levels_of(grid: LiquidationGrid) -> dict[int, LiquidationGrid]:
    """What each level shows of a run of steps, as the pipeline publishes it."""
    ms = grid.time.astype("datetime64[ms]").astype(np.int64)
    masks = {level: ms % spec.interval_ms == 0 for level, spec in enumerate(LEVELS)}
    return {level: grid.pick(mask).coarsen(LEVELS[level].price_factor) for level, mask in masks.items() if mask.any()}


def rounded(level: int, grid: LiquidationGrid) -> LiquidationGrid:
    """As the cache tells it to the page."""
    parts = [tiles for _, tiles in split_grid(level, grid)]
    shown = join_tiles(level, [p[0] for p in parts], [p[1] for p in parts])
    assert shown is not None
    return shown


def cells(grid: LiquidationGrid) -> list[dict[int, Float32Array]]:
    """Densities that are not zero, by lattice bin; of both sides and of every tier."""
    sides = [grid.long_usd, grid.short_usd, *(grid.tier_usd("long", name) for name in grid.tiers)]
    return [{grid.first_bin + int(i): s[:, i] for i in np.flatnonzero(s.any(axis=0))} for s in sides]


def test_every_level_gets_back_what_it_showed_and_no_column_is_stored_twice(
    history: History, book: PositionBook
) -> None:
    shown = levels_of(make_grid(STEPS))
    assert set(shown) == {0, 1, 2, 3, 4}
    published = Published(history)
    for level, grid in shown.items():
        published.add(level, grid, book)
    published.flush()
    kept = dict(Published(history).columns(book, T0 + DAY_MS))
    assert kept.keys() == shown.keys()
    for level, grid in shown.items():
        expected = rounded(level, grid)
        np.testing.assert_array_equal(kept[level].time, expected.time.astype("datetime64[ms]"))
        np.testing.assert_equal(cells(kept[level]), cells(expected))
    assert pl.read_delta(f"{history.root}/columns").height == STEPS + HOURS // 2


def test_a_long_past_comes_back_a_tile_at_a_time(history: History, book: PositionBook) -> None:
    grid = make_grid(2 * TILE_COLUMNS)
    published = Published(history)
    published.add(0, grid, book)
    published.flush()
    parts = [part for level, part in Published(history).columns(book, T0 + DAY_MS) if level == 0]
    expected = list(split_grid(0, rounded(0, grid)))
    assert len(parts) == len(expected) > 1
    for part, (index, _) in zip(parts, expected, strict=True):
        assert [i for i, _ in split_grid(0, part)] == [index]
    shown = [tiles for part in parts for _, tiles in split_grid(0, part)]
    together = join_tiles(0, [t[0] for t in shown], [t[1] for t in shown])
    assert together is not None
    np.testing.assert_equal(cells(together), cells(rounded(0, grid)))


def test_what_was_let_go_is_written_by_the_next_start(history: History, book: PositionBook) -> None:
    grid = make_grid(30)
    small = Published(history, most_bytes=20_000)
    for i in range(30):
        small.add(0, grid.pick(slice(i, i + 1)), book)
    small.flush()
    stored = history.read("columns", book.market.id, T0, T0 + DAY_MS).height
    assert 0 < stored < 30
    restarted = Published(history)
    assert dict(restarted.columns(book, T0 + DAY_MS))
    restarted.add(0, grid, book)  # computed anew, from the beginning
    assert restarted.status.waiting == 1
    restarted.flush()
    kept = dict(Published(history).columns(book, T0 + DAY_MS))
    np.testing.assert_equal(cells(kept[0]), cells(rounded(0, grid)))


def test_columns_of_other_parameters_stay_and_are_not_shown_as_ours(history: History, book: PositionBook) -> None:
    other = PositionBook(market(), Parameters.preset("positions"))
    first = Published(history)
    first.add(0, make_grid(6, seed=1), other)
    first.flush()
    second = Published(history)
    assert list(second.columns(book, T0 + DAY_MS)) == []
    second.add(0, make_grid(8, seed=2), book)
    second.flush()
    versions = history.read("columns", book.market.id, T0, T0 + DAY_MS)["parameters_version"].to_list()
    assert versions == [other.parameters.version] * 6 + [book.parameters.version] * 2
    assert dict(second.columns(book, T0 + DAY_MS)).keys() == {0}
