"""How much an estimate hangs on what is assumed: books beside the one that is shown, each with other assumptions.

What nobody can observe, the mix of leverages and how much of the volume opens positions anew, is varied; what follows
from the data is not. The members and the book itself span the band of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from estimator.domain import BoolArray, Candle, Float32Array, Market
from estimator.model.book import PositionBook
from estimator.model.grid import LiquidationGrid
from estimator.model.members import MEMBER_NAMES, MEMBERS
from estimator.model.parameters import Parameters
from estimator.model.schedule import Schedule
from estimator.model.steps import Steps


class Ensemble:
    """The books of `MEMBERS` for one market.

    Parameters
    ----------
    market : Market
    schedule : Schedule
        Of the book that is shown, which the members vary; may be continued.
    """

    def __init__(self, market: Market, schedule: Schedule) -> None:
        self.schedule, self._in_force = schedule, schedule.first
        self._books = {name: PositionBook(market, change(schedule.first)) for name, change in MEMBERS.items()}

    def run(self, steps: Steps, *, emit: BoolArray | None = None) -> LiquidationGrid:
        """Advance every book over `steps`, none of them beyond a change of the schedule.

        Returns
        -------
        LiquidationGrid
            Its tiers are the members by `MEMBER_NAMES`, its totals their mean.
        """
        return self._together(int(steps.close_ms[-1]), lambda book: book.run(steps, emit=emit)[0])

    def step(
        self, candles: Sequence[Candle], contracts: float, *, close_ms: int, ratio: float | None = None
    ) -> LiquidationGrid:
        """Advance every book by one step; as `PositionBook.step`, and a grid as that of `run`."""
        return self._together(
            close_ms, lambda book: book.step(candles, contracts, close_ms=close_ms, long_short_ratio=ratio)[0]
        )

    def _together(self, close_ms: int, advance: Callable[[PositionBook], LiquidationGrid]) -> LiquidationGrid:
        self._adopt(self.schedule.at(close_ms))
        grids = []
        for book in self._books.values():
            grids.append(advance(book))
            book.rest()
        sides = [(g.long_usd, g.short_usd) for g in grids]  # the window follows the price: it is the same for all
        return replace(
            grids[0],
            long_usd=_mean([s[0] for s in sides]),
            short_usd=_mean([s[1] for s in sides]),
            tiers=MEMBER_NAMES,
            tier_source=lambda index: sides[index],
        )

    def _adopt(self, parameters: Parameters) -> None:
        if parameters is not self._in_force:
            for name, book in self._books.items():
                book.adopt(MEMBERS[name](parameters))
        self._in_force = parameters


def _mean(parts: Sequence[Float32Array]) -> Float32Array:
    return np.asarray(sum(parts[1:], parts[0].copy()) / np.float32(len(parts)), dtype=np.float32)


def band(shown: LiquidationGrid, members: LiquidationGrid) -> tuple[LiquidationGrid, LiquidationGrid]:
    """Return the lowest and the highest density of each cell over the members and the book that is shown.

    Parameters
    ----------
    shown : LiquidationGrid
        On any bins and columns.
    members : LiquidationGrid
        On the same, its tiers the members.
    """
    source = members.tier_source
    if source is None:
        return shown, shown
    longs, shorts = zip(*(source(i) for i in range(len(members.tiers))), strict=True)
    ends = []
    for choose in (np.minimum, np.maximum):
        long_usd, short_usd = shown.long_usd, shown.short_usd
        for one in longs:
            long_usd = choose(long_usd, one)
        for one in shorts:
            short_usd = choose(short_usd, one)
        ends.append(replace(shown, long_usd=long_usd, short_usd=short_usd, tier_source=None))
    return ends[0], ends[1]
