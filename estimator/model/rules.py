"""Signals as data: thresholds, and which tests of which features make up a reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, NamedTuple

import polars as pl

from estimator.errors import ParameterError


class Phase(StrEnum):
    """Phase of the cycle, by falling precedence."""

    DELEVERAGING = "deleveraging"
    EUPHORIA = "euphoria"
    EXPANSION = "expansion"
    ACCUMULATION = "accumulation"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SignalRules:
    """Thresholds of the readings; every one can be changed.

    Parameters
    ----------
    window, least : int
        Bars that averages, z-scores and percentiles look back, and how many of them must be known.
    near : float
        What "near" means, in log price.
    funding_high, funding_low : float
        Overheated longs and a short squeeze. [fraction per 8 h]
    funding_z : float
        Or so far from its mean, in standard deviations.
    near_share : float
        Least near mass, a share of open interest.
    near_lean : float
        How many times the other side's.
    rsi_period, rsi_high, rsi_low
        Of hourly closes.
    ratio_high, ratio_low : float
        Percentiles of the account ratio, 0 to 1.
    interest_day : float
        Least growth of open interest in 24 h.
    needed : int
        How many of the five must hold.
    crowded : float
        Percentile of both near masses.
    washout_liquidated, washout_interest : float
        Percentile of the hour's liquidations; change of open interest in the hour.
    reset_funding_z, reset_near : float
        A washout is over once funding is nearer to its mean and the near mass below this percentile.
    accumulation_funding_z, expansion_volatility_z, euphoria_interest_z, euphoria_funding_z, euphoria_near : float
        Phases: z-scores, and the percentile of the near mass.
    deleveraging_interest : float
        Change of open interest in 24 h.
    hold : int
        Bars in a row that change the phase.
    """

    window: int = 720
    least: int = 168
    near: float = 0.03
    funding_high: float = 0.0003
    funding_low: float = -0.0001
    funding_z: float = 2.0
    near_share: float = 0.02
    near_lean: float = 1.5
    rsi_period: int = 14
    rsi_high: float = 70.0
    rsi_low: float = 30.0
    ratio_high: float = 0.9
    ratio_low: float = 0.1
    interest_day: float = 0.05
    needed: int = 4
    crowded: float = 0.9
    washout_liquidated: float = 0.99
    washout_interest: float = -0.05
    reset_funding_z: float = 0.5
    reset_near: float = 0.5
    accumulation_funding_z: float = 1.0
    expansion_volatility_z: float = 1.0
    euphoria_interest_z: float = 1.5
    euphoria_funding_z: float = 1.5
    euphoria_near: float = 0.9
    deleveraging_interest: float = -0.07
    hold: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = _DOMAINS.get(field.name, (-1e6, 1e6))
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise ParameterError(field.name, value, f"a number from {low:g} to {high:g}")


_SHARE: Final = (0.0, 1.0)
_DOMAINS: Final[dict[str, tuple[float, float]]] = {
    "window": (2, 100_000), "least": (2, 100_000), "near": (1e-4, 1.0), "rsi_period": (2, 1000), "rsi_high": (0, 100),
    "rsi_low": (0, 100), "needed": (1, 5), "hold": (1, 1000), "ratio_high": _SHARE, "ratio_low": _SHARE,
    "crowded": _SHARE, "washout_liquidated": _SHARE, "reset_near": _SHARE, "euphoria_near": _SHARE,
    "near_share": (0, 10), "near_lean": (0, 1e6), "interest_day": (-1, 10), "washout_interest": (-1, 10),
    "deleveraging_interest": (-1, 10),
}  # fmt: skip


class Test(NamedTuple):
    """A feature held against a threshold."""

    feature: str
    relation: str
    threshold: float

    def expression(self) -> pl.Expr:
        """Whether it passes; null where the feature is."""
        return _RELATIONS[self.relation](pl.col(self.feature), self.threshold)


_RELATIONS: Final[dict[str, Callable[[pl.Expr, float], pl.Expr]]] = {
    ">=": pl.Expr.ge,
    "<=": pl.Expr.le,
    ">": pl.Expr.gt,
    "<": pl.Expr.lt,
}


class Rule(NamedTuple):
    """A reading as data: conditions, each a list of tests of which all or any must pass."""

    name: str
    needed: int
    conditions: tuple[tuple[tuple[Test, ...], bool], ...]

    def passed(self) -> list[pl.Expr]:
        """Whether each condition holds; null where that is not known."""
        return [
            (pl.any_horizontal if any_of else pl.all_horizontal)([t.expression() for t in tests])
            for tests, any_of in self.conditions
        ]

    def active(self) -> pl.Expr:
        """Whether enough of them hold; null where that hangs on what is not known."""
        held = self.passed()
        known = pl.sum_horizontal([h.fill_null(value=False).cast(pl.Int32) for h in held])
        possible = known + pl.sum_horizontal([h.is_null().cast(pl.Int32) for h in held])
        return pl.when(known >= self.needed).then(True).when(possible < self.needed).then(False)


def _all(name: str, *tests: Test) -> Rule:
    return Rule(name, len(tests), tuple(((test,), False) for test in tests))


def heat(rules: SignalRules, *, longs: bool) -> Rule:
    """Build the rule of overheated longs or its mirror, the short squeeze."""
    near, lean = ("near_long", "long_lean") if longs else ("near_short", "short_lean")
    over, high = (">=", rules.funding_high) if longs else ("<=", rules.funding_low)
    sign = 1 if longs else -1
    conditions: tuple[tuple[tuple[Test, ...], bool], ...] = (
        ((Test("funding_8h", over, high), Test("funding_z", over, sign * rules.funding_z)), True),
        ((Test(near, ">=", rules.near_share), Test(lean, ">=", rules.near_lean)), False),
        ((Test("rsi", over, rules.rsi_high if longs else rules.rsi_low),), False),
        ((Test("ratio_rank", over, rules.ratio_high if longs else rules.ratio_low),), False),
        ((Test("interest_day", ">=", rules.interest_day),), False),
    )
    return Rule("overheated_long" if longs else "short_squeeze", rules.needed, conditions)


def washout(rules: SignalRules) -> Rule:
    """Build the rule that sets a washout off."""
    return _all(
        "washout",
        Test("liquidated_rank", ">=", rules.washout_liquidated),
        Test("interest_hour", "<=", rules.washout_interest),
    )


def reset(rules: SignalRules) -> Rule:
    """Build the rule that a washout is over."""
    return _all("reset", Test("funding_abs_z", "<", rules.reset_funding_z), Test("near_rank", "<", rules.reset_near))


def crowded(rules: SignalRules) -> Rule:
    """Build the rule of crowded both sides."""
    return _all("crowded", Test("near_long_rank", ">", rules.crowded), Test("near_short_rank", ">", rules.crowded))


def phases(rules: SignalRules) -> tuple[Rule, ...]:
    """Build the rules of the phases, by falling precedence."""
    washed = (Test("interest_day", "<", rules.deleveraging_interest), Test("washout_day", ">", 0.0))
    return (
        Rule(Phase.DELEVERAGING, 1, ((washed, True),)),
        _all(
            Phase.EUPHORIA,
            Test("interest_z", ">", rules.euphoria_interest_z),
            Test("funding_z", ">", rules.euphoria_funding_z),
            Test("near_rank", ">", rules.euphoria_near),
        ),
        _all(
            Phase.EXPANSION,
            Test("interest_day", ">", 0.0),
            Test("near_day", ">", 0.0),
            Test("volatility_z", "<", rules.expansion_volatility_z),
        ),
        _all(
            Phase.ACCUMULATION,
            Test("interest_z", "<", 0.0),
            Test("volatility_z", "<", 0.0),
            Test("funding_abs_z", "<", rules.accumulation_funding_z),
        ),
    )
