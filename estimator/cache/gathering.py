"""`Gathering`: columns of a market's past on their way into Redis, where each tile is then written once."""

from __future__ import annotations

from typing import Final

from estimator.cache import tiles
from estimator.cache.shelf import COLUMNS, Shelf
from estimator.cache.tiles import Tile
from estimator.model.grid import LiquidationGrid

KINDS: Final = ("tile", "tiers")


class Gathering:
    """Holds the newest tile of each level until another begins. Calls raise as those of `estimator.cache.Cache` do.

    Parameters
    ----------
    shelf : Shelf
    market_id : str
    """

    def __init__(self, shelf: Shelf, market_id: str) -> None:
        self._shelf, self._market_id = shelf, market_id
        self._held: dict[int, tuple[int, list[Tile]]] = {}

    def put(self, level: int, grid: LiquidationGrid) -> None:
        """Add closed columns, by rising time; see `estimator.cache.Cache.put_columns`."""
        for index, parts in tiles.split_grid(level, grid):
            at, held = self._held.get(level, (index, []))
            if at != index:
                self._write(level)
                held = []
            merged = [tiles.merge_tiles(*pair) for pair in zip(held, parts, strict=True)] if held else parts
            self._held[level] = index, merged

    def flush(self) -> None:
        """Write what is held."""
        for level in list(self._held):
            self._write(level)

    def _write(self, level: int) -> None:
        index, parts = self._held.pop(level)
        self._shelf.append(self._market_id, level, index, dict(zip(KINDS, parts, strict=False)), COLUMNS)
