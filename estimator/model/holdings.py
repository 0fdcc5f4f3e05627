"""Positions as a venue publishes them, of those of its accounts that were asked: measured, and summed by price."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log
from typing import Final, NamedTuple

import numpy as np

from estimator.domain import Side
from estimator.model.grid import BIN_WIDTH, LiquidationGrid

_NO_TIME: Final = np.array([0], dtype="datetime64[ms]")


class Holding(NamedTuple):
    """An open position of an account.

    Parameters
    ----------
    market_id : str
    side : Side
    quantity_base : float
    value_usd : float
        At the mark price when the account was asked. [USD]
    liquidation_price : float, optional
        As its venue works it out, with all that backs the position; None where no price liquidates it.
    """

    market_id: str
    side: Side
    quantity_base: float
    value_usd: float
    liquidation_price: float | None


class Account(NamedTuple):
    """All positions of an account in the markets that are followed, and when its venue said so. [ms]"""

    time_ms: int
    holdings: tuple[Holding, ...] = ()


class Coverage(NamedTuple):
    """How much of open interest was observed, fractions.

    Every contract is held by a long and by a short, so each side is a share of open interest, and `both` of twice it.
    """

    long: float
    short: float

    @property
    def both(self) -> float:
        """Share of all positions, long and short."""
        return (self.long + self.short) / 2


@dataclass(frozen=True, slots=True)
class Observed:
    """What was measured of one market; no account can be told from it unless there are few.

    Parameters
    ----------
    addresses : int
        Accounts that have answered, with a position here or without.
    positions : int
        Positions found here, one an account.
    priced : int
        Those of them that some price liquidates: they make the levels.
    long_base, short_base : float
        Quantity of all positions found. [base coin]
    bins : tuple of int
        Bins of the lattice (`BIN_WIDTH`) that hold levels, rising.
    long_usd, short_usd : tuple of float
        What is liquidated in each of `bins`, at the liquidation price. [USD]
    oldest_ms, median_ms, newest_ms : int
        When the accounts of the positions answered. [ms]
    """

    addresses: int
    positions: int
    priced: int
    long_base: float
    short_base: float
    bins: tuple[int, ...]
    long_usd: tuple[float, ...]
    short_usd: tuple[float, ...]
    oldest_ms: int
    median_ms: int
    newest_ms: int

    def coverage(self, open_interest_base: float | None) -> Coverage | None:
        """Return the share of open interest that was observed; None where that is not known. [base coin]"""
        if not open_interest_base:
            return None
        return Coverage(self.long_base / open_interest_base, self.short_base / open_interest_base)

    def grid(self) -> LiquidationGrid:
        """Return the levels as one column on the lattice, without tiers; its time says nothing."""
        first, n_bin = (self.bins[0], self.bins[-1] - self.bins[0] + 1) if self.bins else (0, 1)
        sides = np.zeros((2, 1, n_bin), dtype=np.float32)
        at = np.array(self.bins, dtype=np.int64) - first
        sides[0, 0, at], sides[1, 0, at] = self.long_usd, self.short_usd
        return LiquidationGrid(_NO_TIME, first, BIN_WIDTH, sides[0], sides[1])


def observe(accounts: Iterable[Account], market_id: str) -> Observed | None:
    """Sum up what accounts hold in one market; None where none of them holds anything there."""
    asked = list(accounts)
    found = [(one.time_ms, held) for one in asked for held in one.holdings if held.market_id == market_id]
    if not found:
        return None
    levels: dict[int, dict[Side, float]] = defaultdict(lambda: dict.fromkeys(Side, 0.0))
    base = dict.fromkeys(Side, 0.0)
    for _, held in found:
        base[held.side] += held.quantity_base
        if held.liquidation_price is not None:
            at = floor(log(held.liquidation_price) / BIN_WIDTH)
            levels[at][held.side] += held.quantity_base * held.liquidation_price
    times, bins = [time_ms for time_ms, _ in found], tuple(sorted(levels))
    return Observed(
        addresses=len(asked),
        positions=len(found),
        priced=sum(held.liquidation_price is not None for _, held in found),
        long_base=base[Side.LONG],
        short_base=base[Side.SHORT],
        bins=bins,
        long_usd=tuple(levels[at][Side.LONG] for at in bins),
        short_usd=tuple(levels[at][Side.SHORT] for at in bins),
        oldest_ms=min(times),
        median_ms=int(statistics.median(times)),
        newest_ms=max(times),
    )
