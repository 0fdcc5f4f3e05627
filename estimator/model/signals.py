"""Combined readings of a market: overheated longs, short squeeze, crowded both sides, washout, phase (method.md).

Everything is told from hourly bars, each from itself and the bars before it. What stands in a reading says which inputs
it came from, each with its value, its threshold and whether it passed; an input that is not known is said to be
missing, and a reading that hangs on it is neither on nor off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import polars as pl

from estimator.errors import ParameterError
from estimator.model.features import FEATURES, build_features
from estimator.model.rules import Phase, Rule, SignalRules, Test, crowded, heat, phases, reset, washout


@dataclass(frozen=True, slots=True)
class Input:
    """One number a reading looks at.

    Parameters
    ----------
    name : str
        Of the feature, a key of `FEATURES`.
    value : float or None
        None where it is not known.
    unit : str
    relation : str
        ``">="``, ``"<="``, ``">"`` or ``"<"``.
    threshold : float
    passed : bool or None
        None where the value is not known.
    missing : str
        Why it is not; empty where it is.
    """

    name: str
    value: float | None
    unit: str
    relation: str
    threshold: float
    passed: bool | None
    missing: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Inputs of which all, or any one, must pass."""

    inputs: tuple[Input, ...]
    any_of: bool
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A combined reading.

    Parameters
    ----------
    name : str
    active : bool or None
        None where it hangs on inputs that are not known.
    needed : int
        How many of the conditions must hold.
    conditions : tuple of Condition
        Of a washout that is not over, those of the bar that set it off.
    since_ms : int or None
        Close of the bar that set it off; washouts only.
    ends : tuple of Condition
        All that must hold for a washout to be over, now.
    """

    name: str
    active: bool | None
    needed: int
    conditions: tuple[Condition, ...]
    since_ms: int | None = None
    ends: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseReading:
    """Phase of the cycle.

    Parameters
    ----------
    phase : Phase or None
        None where it cannot be told.
    since_ms : int
        Close of the first bar of it.
    next_phase : Phase or None
        What the latest bar alone says.
    next_bars : int
        How many bars in a row have said so.
    tests : tuple of Reading
        The conditions of each phase at the latest bar, by falling precedence.
    """

    phase: Phase | None
    since_ms: int
    next_phase: Phase | None
    next_bars: int
    tests: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Signals:
    """All readings of one bar, closed at `time_ms`."""

    time_ms: int
    overheated_long: Reading
    short_squeeze: Reading
    crowded: Reading
    washout: Reading
    phase: PhaseReading


def read_signals(
    bars: pl.DataFrame, *, rules: SignalRules | None = None, funding_hours: float = 8.0, at: int = -1
) -> Signals:
    """Tell the readings of one bar.

    Parameters
    ----------
    bars : pl.DataFrame
        As `BARS`; nulls are what is not known.
    rules : SignalRules, optional
    funding_hours : float
        Interval the funding rate is for. [h]
    at : int
        Row of the bar; nothing after it is looked at.

    Raises
    ------
    InputError
        If a column is missing or the bars are not an hour apart.
    ParameterError
        If the interval is not positive or there is no such row.
    """
    rules = rules or SignalRules()
    if not -bars.height <= at < bars.height:
        raise ParameterError("at", at, f"a row of the {bars.height} bars")
    seen = build_features(bars, rules=rules, funding_hours=funding_hours).head(at % bars.height + 1)
    return Signals(
        time_ms=int(seen["time"].to_physical()[-1]),
        overheated_long=_read(heat(rules, longs=True), seen, rules),
        short_squeeze=_read(heat(rules, longs=False), seen, rules),
        crowded=_read(crowded(rules), seen, rules),
        washout=_read_washout(seen, rules),
        phase=_read_phase(seen, rules),
    )


def _read(rule: Rule, seen: pl.DataFrame, rules: SignalRules, row: int = -1) -> Reading:
    """Read a rule at a row of the features."""
    at = row % seen.height
    one = seen.slice(at, 1)
    passed = one.select(p.alias(str(k)) for k, p in enumerate(rule.passed())).row(0)
    conditions = tuple(
        Condition(tuple(_input(test, seen, at, rules) for test in tests), any_of, held)
        for (tests, any_of), held in zip(rule.conditions, passed, strict=True)
    )
    return Reading(str(rule.name), one.select(rule.active()).item(), rule.needed, conditions)


def _input(test: Test, seen: pl.DataFrame, at: int, rules: SignalRules) -> Input:
    value = seen[test.feature][at]
    passed = seen.slice(at, 1).select(test.expression()).item()
    missing = "" if value is not None else _why_missing(FEATURES[test.feature].needs, seen, at, rules)
    return Input(test.feature, value, FEATURES[test.feature].unit, test.relation, test.threshold, passed, missing)


def _why_missing(needs: Iterable[str], seen: pl.DataFrame, at: int, rules: SignalRules) -> str:
    absent = [name for name in needs if seen[name][at] is None]
    if absent:
        return f"{' and '.join(WORDS[name] for name in absent)} not known at this hour"
    return f"too little is known of the hours before it ({rules.least} are needed for an average)"


WORDS: Final[dict[str, str]] = {
    "close": "the price",
    "open_interest": "open interest",
    "funding_rate": "funding",
    "long_short_ratio": "the account ratio",
    "liquidated_usd": "realised liquidations",
    "near_long_usd": "estimated longs nearby",
    "near_short_usd": "estimated shorts nearby",
}


def _read_washout(seen: pl.DataFrame, rules: SignalRules) -> Reading:
    """Find the washout that is not over yet, if there is one."""
    over = seen.select(reset(rules).active().fill_null(value=False)).to_series()
    set_off: int | None = None
    for row, (washed, calm) in enumerate(zip(seen["washed"], over, strict=True)):
        if washed:
            set_off = row
        elif calm:
            set_off = None
    ends = _read(reset(rules), seen, rules).conditions
    now = _read(washout(rules), seen, rules, -1 if set_off is None else set_off)
    since_ms = None if set_off is None else int(seen["time"].to_physical()[set_off])
    return Reading(now.name, now.active, now.needed, now.conditions, since_ms, ends if set_off is not None else ())


def _read_phase(seen: pl.DataFrame, rules: SignalRules) -> PhaseReading:
    tests = phases(rules)
    told = seen.select(rule.active().alias(rule.name) for rule in tests)
    times = seen["time"].to_physical()
    held: Phase | None = None
    candidate: Phase | None = None
    run, since = 0, 0
    for row, values in enumerate(told.iter_rows()):
        raw = _first_phase(tests, values)
        run = run + 1 if raw == candidate else 1
        candidate = raw
        if candidate != held and run >= rules.hold:
            held, since = candidate, row - run + 1
    return PhaseReading(held, int(times[since]), candidate, run, tuple(_read(rule, seen, rules) for rule in tests))


def _first_phase(tests: Iterable[Rule], values: Iterable[bool | None]) -> Phase | None:
    """Take the first phase that holds; None where one before it cannot be told."""
    for rule, value in zip(tests, values, strict=True):
        if value is None:
            return None
        if value:
            return Phase(rule.name)
    return Phase.NONE
