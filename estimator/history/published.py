"""`Published`: what the worker publishes, kept in history, so that it can be shown again as it was."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

import polars as pl

from estimator.domain import DAY_MS, TIME
from estimator.errors import HistoryError
from estimator.history.columns import columns_frame, columns_grid
from estimator.history.store import History
from estimator.history.tables import TableName, with_market
from estimator.model.book import FORMAT, PositionBook
from estimator.model.grid import LEVELS, LiquidationGrid

_LOG: Final = logging.getLogger(__name__)
_MOST: Final = 20_000  # frames that wait; all of them can be computed again
_BOOK_DAYS: Final = 4


class Published:
    """Published columns and daily book states, written in batches.

    Nothing of it is irreplaceable: what a killed process had not yet written, the next one computes again from the
    observations, bit for bit, and writes then.

    Parameters
    ----------
    history : History
    interval_s : float
        A batch is written this often. [s]
    """

    def __init__(self, history: History, *, interval_s: float = 10.0) -> None:
        self._history, self._interval_s = history, interval_s
        self._waiting: deque[tuple[TableName, pl.DataFrame]] = deque(maxlen=_MOST)

    def add(self, level: int, grid: LiquidationGrid, book: PositionBook) -> None:
        """Take closed columns of a level, to be written soon."""
        version = book.parameters.version
        frame = columns_frame(book.market.id, level, grid, parameters=version, book_format=FORMAT)
        self._waiting.append(("columns", frame))

    def add_book(self, book: PositionBook, close_ms: int) -> None:
        """Take the state of a book at the close of a step, to be written soon."""
        time = pl.Series("time", [close_ms], dtype=pl.Int64).cast(TIME)
        state = pl.Series("state", [book.save()], dtype=pl.Binary)
        self._waiting.append(("books", with_market(book.market.id, pl.DataFrame([time, state]))))

    def columns(self, book: PositionBook, now_ms: int) -> dict[int, LiquidationGrid]:
        """Return, by level, the columns that were published with the parameters and the format of `book`."""
        kept: dict[int, LiquidationGrid] = {}
        for level, spec in enumerate(LEVELS):
            rows = self._history.read("columns", book.market.id, now_ms - spec.keep_ms + 1, now_ms + 1, level=level)
            same = (pl.col("parameters") == book.parameters.version) & (pl.col("book_format") == FORMAT)
            grid = columns_grid(rows.filter(same), tiers=True)
            if grid is not None:
                kept[level] = grid
        return kept

    def books(self, market_id: str, now_ms: int) -> list[tuple[int, bytes]]:
        """Return saved states and their times, the newest first."""
        rows = self._history.read("books", market_id, now_ms - _BOOK_DAYS * DAY_MS, now_ms + 1)
        return list(rows.select(pl.col("time").dt.epoch("ms"), "state").reverse().iter_rows())

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set, then what is left; what cannot be written waits."""
        while not stop.wait(self._interval_s):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits, one commit for each table."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for table in ("columns", "books"):
            frames = [frame for name, frame in batch if name == table]
            try:
                if frames:
                    self._history.append(table, pl.concat(frames))
            except HistoryError as error:
                _LOG.warning("published %s wait: %s", table, error)
                self._waiting.extendleft((table, frame) for frame in reversed(frames))
