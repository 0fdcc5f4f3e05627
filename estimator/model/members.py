"""What the books beside the one that is shown assume instead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from estimator.model.parameters import SHARES, Parameters, Preset

Member = Callable[[Parameters], Parameters]


def _mix(name: Preset) -> Member:
    return lambda p: replace(p, shares=SHARES[name])


def _turnover(factor: float) -> Member:
    return lambda p: replace(p, churn=min(factor * p.churn, 1.0))


# Holding times are relative: all of them times a factor close the same. What a hazard hangs on is how much opens anew.
MEMBERS: Final[dict[str, Member]] = {
    "balanced": _mix("balanced"),
    "positions": _mix("positions"),
    "high-leverage": _mix("high-leverage"),
    "half turnover": _turnover(0.5),
    "twice turnover": _turnover(2.0),
}
MEMBER_NAMES: Final = tuple(MEMBERS)
