"""`Bands`: columns of the books beside that of a market, for as long as somebody asks how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from estimator.cache import Cache
from estimator.domain import HOUR_MS, Candle, Market
from estimator.model.ensemble import Ensemble
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.schedule import Schedule
from estimator.model.series import level_mask
from estimator.model.steps import Steps

_CHUNK: Final = 96  # columns of every member held at once


class _Step(NamedTuple):
    candles: tuple[Candle, ...]
    contracts: float
    close_ms: int
    ratio: float | None


class Bands:
    """The ensemble of one market and its columns in the cache. Nothing of it goes to history: it can be made anew.

    A column an hour is enough: how far assumptions lead apart changes slower than the levels do.
    Steps that close while the past is computed wait, so that none is missing afterwards.

    Parameters
    ----------
    market : Market
    schedule : Schedule
        Of the book that is shown.
    cache : Cache
    """

    def __init__(self, market: Market, schedule: Schedule, cache: Cache) -> None:
        self._market_id, self._cache = market.id, cache
        self._ensemble = Ensemble(market, schedule)
        self._waiting: list[_Step] | None = []  # None once the past is there
        self.begun = False

    def change(self, schedule: Schedule) -> None:
        """Go by a schedule that continues the present one."""
        self._ensemble.schedule = schedule

    def past(self, steps: Steps) -> int:
        """Run the members over the past, publish their columns on every level, and return its last close. [ms]"""
        close_ms, last_ms = steps.close_ms, int(steps.close_ms[-1])
        wanted = [level_mask(close_ms, max(s.interval_ms, HOUR_MS), s.keep_ms, last_ms) for s in LEVELS]
        emit = np.logical_or.reduce(wanted)
        changes = [int(np.searchsorted(close_ms, ms, side="right")) for ms, _ in self._ensemble.schedule.changes]
        edges = sorted({0, *changes, *np.flatnonzero(emit)[_CHUNK::_CHUNK].tolist(), len(steps)})
        for begin, end in pairwise(edges):
            part = steps.part(begin, end)
            grid = self._ensemble.run(part, emit=emit[begin:end])
            shown = part.close_ms[emit[begin:end]]
            for level, mask in enumerate(wanted):
                self._put(level, grid.pick(np.isin(shown, part.close_ms[mask[begin:end]])))
        return last_ms

    def catch_up(self, last_ms: int) -> None:
        """Take the steps that closed after the past."""
        waiting, self._waiting = self._waiting or [], None
        for step in waiting:
            if step.close_ms > last_ms:
                self._take(step)

    def step(self, candles: Sequence[Candle], contracts: float, *, close_ms: int, ratio: float | None) -> None:
        """Take a step that has closed."""
        step = _Step(tuple(candles), contracts, close_ms, ratio)
        if self._waiting is None:
            self._take(step)
        else:
            self._waiting.append(step)

    def _take(self, step: _Step) -> None:
        grid = self._ensemble.step(step.candles, step.contracts, close_ms=step.close_ms, ratio=step.ratio)
        for level, spec in enumerate(LEVELS):
            if step.close_ms % max(spec.interval_ms, HOUR_MS) == 0:
                self._put(level, grid)

    def _put(self, level: int, grid: LiquidationGrid) -> None:
        if len(grid.time):
            self._cache.put_bands(self._market_id, level, grid.coarsen(LEVELS[level].price_factor))
