"""Signals in plain words: what holds, what does not, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from estimator.model.rules import Phase, SignalRules
from estimator.model.signals import Condition, Input, PhaseReading, Reading


class _Words(NamedTuple):
    """How a feature is told: what is said before its value, how the value is written, what follows."""

    before: str
    write: Callable[[float], str]
    after: str


def _number(value: float, form: str) -> str:
    """Write a number as the page does: with a minus as wide as the plus, and nothing signed about zero."""
    told = format(value, form).replace("-", "−")
    return "0" if told.lstrip("+−") == "0" else told


def _percent(value: float) -> str:
    return f"{_number(100 * value, '.3g')} %"


def _change(value: float) -> str:
    return f"{_number(100 * value, '+.3g')} %"


def _signed(value: float) -> str:
    return _number(value, "+.2g")


def _plain(value: float) -> str:
    return _number(value, ".3g")


def _percentile(value: float) -> str:
    rank = round(100 * value)
    suffix = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{suffix} percentile"


# {near} and {days} are filled in from the rules.
_FEATURES: Final[dict[str, _Words]] = {
    "funding_8h": _Words("funding is", _percent, " per 8 h"),
    "funding_z": _Words("funding is", _signed, " standard deviations from its {days}-day mean"),
    "funding_abs_z": _Words("funding is", _plain, " standard deviations from its {days}-day mean"),
    "near_long": _Words("estimated longs within {near} below are", _percent, " of open interest"),
    "near_short": _Words("estimated shorts within {near} above are", _percent, " of open interest"),
    "long_lean": _Words("they are", _plain, " times the shorts above"),
    "short_lean": _Words("they are", _plain, " times the longs below"),
    "rsi": _Words("RSI of hourly closes is", _plain, ""),
    "ratio_rank": _Words("the account ratio is at the", _percentile, " of {days} days"),
    "interest_day": _Words("open interest changed by", _change, " in 24 h"),
    "interest_hour": _Words("open interest changed by", _change, " in that hour"),
    "interest_z": _Words("open interest is", _signed, " standard deviations from its {days}-day mean"),
    "volatility_z": _Words("realised volatility is", _signed, " standard deviations from its {days}-day mean"),
    "near_long_rank": _Words("estimated longs within {near} below are at the", _percentile, " of {days} days"),
    "near_short_rank": _Words("estimated shorts within {near} above are at the", _percentile, " of {days} days"),
    "near_rank": _Words("the estimated mass within {near} is at the", _percentile, " of {days} days"),
    "near_day": _Words("its share of open interest within {near} changed by", _change, " in 24 h"),
    "liquidated_rank": _Words("liquidations of that hour are at the", _percentile, " of {days} days"),
    "washout_day": _Words("washouts in the last 24 h:", _plain, ""),
}
_RELATIONS: Final = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_TITLES: Final = {
    "overheated_long": ("Longs look overheated", "Longs do not look overheated", "Whether longs are overheated"),
    "short_squeeze": (
        "Shorts look ready to be squeezed",
        "Shorts do not look ready to be squeezed",
        "Whether shorts are ready to be squeezed",
    ),
    "crowded": ("Both sides are crowded", "The sides are not both crowded", "Whether both sides are crowded"),
    "washout": ("A washout is not over yet", "There is no washout", "Whether there was a washout"),
    Phase.DELEVERAGING: ("Deleveraging", "Not deleveraging", "Deleveraging"),
    Phase.EUPHORIA: ("Euphoria", "Not euphoria", "Euphoria"),
    Phase.EXPANSION: ("Expansion", "Not expansion", "Expansion"),
    Phase.ACCUMULATION: ("Accumulation", "Not accumulation", "Accumulation"),
}
_PHASES: Final = {
    Phase.DELEVERAGING: "deleveraging: positions are being closed or liquidated",
    Phase.EUPHORIA: "euphoria: much is held, funding is dear and levels crowd the price",
    Phase.EXPANSION: "expansion: positions are being built up",
    Phase.ACCUMULATION: "accumulation: little is held, and little moves",
    Phase.NONE: "none of the four",
}


def describe(value: Input, rules: SignalRules) -> str:
    """Tell an input: its value, and the threshold it is held against.

    >>> describe(Input("rsi", 74.25, "0 to 100", ">=", 70.0, True, ""), SignalRules())
    'RSI of hourly closes is 74.2 (at least 70)'
    """
    words = _FEATURES[value.name]
    bound = f"({_RELATIONS[value.relation]} {words.write(value.threshold)})"
    days = f"{rules.window / 24:g}"
    before, after = (part.format(near=_percent(rules.near), days=days) for part in (words.before, words.after))
    if value.value is None:
        return f"{before} … {bound}: {value.missing}"
    return f"{before} {words.write(value.value)}{after} {bound}"


def explain(reading: Reading, rules: SignalRules) -> str:
    """Tell a reading in sentences."""
    return " ".join(
        part for part in (_verdict(reading), _details(reading.conditions, rules), _end(reading, rules)) if part
    )


def explain_phase(reading: PhaseReading, rules: SignalRules) -> str:
    """Tell the phase in sentences: which, why, and what may come next."""
    unknown = next((test for test in reading.tests if test.active is None), None)
    if reading.phase is None:
        parts = ["The phase cannot be told.", *([] if unknown is None else [_details(unknown.conditions, rules)])]
    else:
        parts = [f"The phase is {_PHASES[reading.phase]}."]
        parts += [_details(test.conditions, rules) for test in reading.tests if test.name == reading.phase]
    if reading.next_phase != reading.phase:
        turn = "cannot be told" if reading.next_phase is None else f"would be {_PHASES[reading.next_phase]}"
        parts.append(f"By the latest hour alone it {turn}; it changes after {rules.hold} hours in a row.")
    return " ".join(parts)


def _verdict(reading: Reading) -> str:
    on, off, whether = _TITLES[reading.name]
    held = sum(c.passed is True for c in reading.conditions)
    unknown = sum(c.passed is None for c in reading.conditions)
    total = len(reading.conditions)
    count = f"{held} of {total} signs {'is' if held == 1 else 'are'} there, {reading.needed} must be"
    if reading.active is None:
        return f"{whether} cannot be told: {count}, and {unknown} {'is' if unknown == 1 else 'are'} not known."
    return f"{on if reading.active else off}: {count}."


def _details(conditions: Sequence[Condition], rules: SignalRules) -> str:
    groups = (("There", True), ("Not there", False), ("Not known", None))
    told = []
    for title, passed in groups:
        parts = [_condition(c, rules) for c in conditions if c.passed is passed]
        if parts:
            told.append(f"{title}: {'; '.join(parts)}.")
    return " ".join(told)


def _condition(condition: Condition, rules: SignalRules) -> str:
    return (" or " if condition.any_of else " and ").join(describe(value, rules) for value in condition.inputs)


def _end(reading: Reading, rules: SignalRules) -> str:
    if not reading.ends:
        return ""
    return "It is over once all of this holds: " + "; ".join(_condition(c, rules) for c in reading.ends) + "."
