"""The edge where a venue's numbers come in: reading fields, and leaving out what cannot be.

Two kinds of wrong are kept apart. A payload that is not what the venue documents (a field gone, text for a number)
raises `BadPayload`: the venue or this program has changed. A number that cannot be true (a price of 0, a time in the
future) is left out and counted: venues send them.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from weakref import WeakSet

import numpy as np
import polars as pl

from estimator.domain import MINUTE_MS, TIME, BoolArray, Candle, Float64Array, Gap, Liquidation, Observation
from estimator.errors import BadPayload

_LOG: Final = logging.getLogger(__name__)

AHEAD_MS: Final = MINUTE_MS  # a clock may be this far ahead of ours
LARGEST_JUMP: Final = 50.0  # open interest does not change by this factor between two rows
_SETTLED: Final = 3  # rows that agree with each other are a new level, not a slip
_KEPT_GAPS: Final = 1000
_LAST_MS: Final = 253_402_300_799_999.0  # the end of year 9999
_Read = TypeVar("_Read")


class Line:
    """One subscription of a stream, for as long as somebody reads it."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True)
class Health:
    """What went wrong at a venue so far; counters only grow.

    Attributes
    ----------
    rejected : Counter of (what, reason)
        Values left out.
    errors : Counter of str
        Failed requests and lost streams by kind of error.
    reconnects : Counter of str
        By stream.
    gaps : deque of Gap
        Stretches in which a stream was not connected, latest last.
    last_message_ms : dict
        When one was read, by stream. [ms]
    told_ms : dict
        And until when its venue had told all by then, where messages say so. [ms]
    unheard : set of Line
        Subscriptions on which nothing came since they were made, or lost.
    """

    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    reconnects: Counter[str] = field(default_factory=Counter)
    gaps: deque[Gap] = field(default_factory=lambda: deque(maxlen=_KEPT_GAPS))
    last_message_ms: dict[str, int] = field(default_factory=dict)
    told_ms: dict[str, int] = field(default_factory=dict)
    unheard: WeakSet[Line] = field(default_factory=WeakSet)

    def note_time(self, stream: str, message: Any, path: Sequence[str | int], now_ms: int) -> None:
        """Note the time that a message gives itself; it may be long on its way, or old, or have none."""
        try:
            time_ms = int(get(message, path, stream))
        except (BadPayload, TypeError, ValueError, OverflowError):
            return
        self.told_ms[stream] = max(self.told_ms.get(stream, 0), min(time_ms, now_ms))

    def reject(self, what: str, reason: str, count: int = 1, example: object = None) -> None:
        """Count values left out; the first of its kind is logged."""
        if count <= 0:
            return
        if (what, reason) not in self.rejected:
            _LOG.warning("left out %d of %s: %s (e.g. %s)", count, what, reason, example)
        self.rejected[what, reason] += count


def get(payload: Any, path: Sequence[str | int], endpoint: str) -> Any:
    """Follow keys and indices into a payload.

    Raises
    ------
    BadPayload
        Naming the first step that is not there.
    """
    at = payload
    for depth, step in enumerate(path):
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            shown = ".".join(str(s) for s in path[: depth + 1])
            raise BadPayload(endpoint, shown, f"absent (got {_short(at)})") from None
    return at


def rows(payload: Any, path: Sequence[str | int], endpoint: str) -> list[Any]:
    """Follow a path to a list.

    Raises
    ------
    BadPayload
        If there is something else.
    """
    found = get(payload, path, endpoint)
    if not isinstance(found, list):
        raise BadPayload(endpoint, ".".join(str(s) for s in path) or "body", f"not a list (got {_short(found)})")
    return found


def keyed(payload: Any, path: Sequence[str | int], key: str, endpoint: str) -> dict[str, Any]:
    """Follow a path to a list of rows and name each by the text of a field.

    Raises
    ------
    BadPayload
        If there is no list, or a row without the field.
    """
    return {text(row, key, endpoint): row for row in rows(payload, path, endpoint)}


def number(row: Any, key: str | int, endpoint: str) -> float:
    """Read a number, given as such or as text.

    Raises
    ------
    BadPayload
        If it is absent or no finite number.
    """
    value = get(row, [key], endpoint)
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if isinstance(value, bool) or not math.isfinite(result):
        raise BadPayload(endpoint, str(key), f"not a number (got {_short(value)})")
    return result


def number_or_none(row: Any, key: str | int, endpoint: str) -> float | None:
    """As `number`; None where the field is absent, null or empty text."""
    value = row.get(key) if isinstance(row, Mapping) else None
    return None if value is None or value == "" else number(row, key, endpoint)


def text(row: Any, key: str | int, endpoint: str) -> str:
    """Read a text.

    Raises
    ------
    BadPayload
        If it is absent, empty or no text.
    """
    value = get(row, [key], endpoint)
    if not isinstance(value, str) or not value:
        raise BadPayload(endpoint, str(key), f"not a text (got {_short(value)})")
    return value


def frame(schema: Mapping[str, pl.DataType], records: Iterable[Sequence[float | None]]) -> pl.DataFrame:
    """Build a frame from rows of numbers in the order of the schema; `time` in ms."""
    plain = {name: pl.Float64() if name == "time" else dtype for name, dtype in schema.items()}
    table = pl.DataFrame(list(records), schema=plain, orient="row")
    # A whole number of ms up to 2^53 passes through a float unharmed. A time beyond all dates stays one that cannot be.
    stamp = pl.col("time").clip(0.0, _LAST_MS)
    return table.with_columns(stamp.cast(pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").cast(TIME))


def between(table: pl.DataFrame, since_ms: int, until_ms: int) -> pl.DataFrame:
    """Rows with ``since_ms <= time < until_ms``, sorted, one per time (the last given)."""
    stamp = pl.col("time").dt.epoch("ms")
    inside = table.filter((stamp >= since_ms) & (stamp < until_ms))
    return inside.unique("time", keep="last", maintain_order=True).sort("time")


def plausible_candles(candles: pl.DataFrame, now_ms: int, health: Health, what: str = "candles") -> pl.DataFrame:
    """Leave out candles that cannot be, counting each under the first reason that applies."""
    prices = ("open", "high", "low", "close")
    reasons = {
        "price not above 0": pl.any_horizontal(pl.col(p) <= 0 for p in prices),
        "low above another price": pl.col("low") > pl.min_horizontal("open", "close", "high"),
        "high below another price": pl.col("high") < pl.max_horizontal("open", "close"),
        "negative volume": pl.col("volume") < 0,
        "not on the minute": pl.col("time").dt.epoch("ms") % MINUTE_MS != 0,
        "in the future": pl.col("time").dt.epoch("ms") > now_ms + AHEAD_MS,
    }
    if "taker_buy_volume" in candles.columns:
        # Venues round both; more than that is a mistake.
        reasons["taker-buy volume above volume"] = pl.col("taker_buy_volume") > pl.col("volume") * (1 + 1e-9)
    return _leave_out(candles, reasons, health, what)


def plausible_observations(
    table: pl.DataFrame, value: str, now_ms: int, health: Health, *, positive: bool = True, jumps: bool = False
) -> pl.DataFrame:
    """Leave out observations that cannot be.

    Parameters
    ----------
    table : pl.DataFrame
        Columns time and `value`.
    value : str
    now_ms : int
        [ms]
    health : Health
    positive : bool
        Whether 0 and less cannot be.
    jumps : bool
        Whether a change by `LARGEST_JUMP` between two rows cannot be; see `steady`.
    """
    reasons = {"in the future": pl.col("time").dt.epoch("ms") > now_ms + AHEAD_MS}
    if positive:
        reasons["not above 0"] = pl.col(value) <= 0
    kept = _leave_out(table, reasons, health, value)
    if not jumps:
        return kept
    kept = kept.sort("time")
    steady_rows = steady(kept[value].to_numpy())
    health.reject(value, "sudden jump", int((~steady_rows).sum()), kept.filter(~pl.Series(steady_rows)).head(1).rows())
    return kept.filter(pl.Series(steady_rows, dtype=pl.Boolean))


def plausible_candle(candle: Candle, now_ms: int, health: Health, what: str = "candles") -> bool:
    """Whether a single candle can be; counted where not."""
    reason = _candle_problem(candle, now_ms)
    if reason is not None:
        health.reject(what, reason, example=candle)
    return reason is None


def plausible_liquidation(print_: Liquidation, now_ms: int, health: Health) -> bool:
    """Whether a print can be; counted where not."""
    if not (print_.price > 0 and print_.quantity_base > 0 and print_.notional_usd > 0):
        reason = "price or quantity not above 0"
    elif print_.time_ms > now_ms + AHEAD_MS:
        reason = "in the future"
    else:
        return True
    health.reject("liquidations", reason, example=print_)
    return False


def plausible_observation(
    seen: Observation, now_ms: int, health: Health, what: str, *, last: float | None = None
) -> bool:
    """Whether a single observation above 0 can be, given the `last` one accepted; counted where not."""
    if not seen.value > 0:
        reason = "not above 0"
    elif seen.time_ms > now_ms + AHEAD_MS:
        reason = "in the future"
    elif last is not None and _ratio(seen.value, last) >= LARGEST_JUMP:
        reason = "sudden jump"
    else:
        return True
    health.reject(what, reason, example=seen)
    return False


def readable(parse: Callable[[Any], _Read], message: Any, health: Health) -> _Read | None:
    """Parse a message of a stream; one that is not what is documented is counted, for the next may well be."""
    try:
        return parse(message)
    except BadPayload as error:
        if not health.errors["BadPayload"]:
            _LOG.warning("%s", error)
        health.errors["BadPayload"] += 1
        return None


class Recent:
    """The last keys seen, to tell a message that comes twice."""

    def __init__(self, kept: int = 5_000) -> None:
        self._kept = kept
        self._keys: dict[object, None] = {}

    def repeats(self, key: object) -> bool:
        """Whether a key was seen before; from now on it was."""
        if key in self._keys:
            return True
        self._keys[key] = None
        if len(self._keys) > self._kept:
            del self._keys[next(iter(self._keys))]
        return False


def steady(values: Float64Array) -> BoolArray:
    """Mark the values that do not jump by `LARGEST_JUMP` from the last steady one.

    A level that holds for `_SETTLED` rows is believed from its last row on: contracts do get re-denominated.
    """
    kept = np.zeros(len(values), dtype=np.bool_)
    if not len(values):
        return kept
    level, away = float(np.median(values[: 2 * _SETTLED - 1])), 0
    previous = level
    for i, value in enumerate(values.tolist()):
        near = _ratio(value, level) < LARGEST_JUMP
        away = 0 if near else (away + 1 if _ratio(value, previous) < 2 else 1)
        previous = value
        if near or away >= _SETTLED:
            kept[i], level, away = True, value, 0
    return kept


def _ratio(a: float, b: float) -> float:
    """How many times apart two positive numbers are."""
    return max(a, b) / max(min(a, b), 1e-300)


def _candle_problem(candle: Candle, now_ms: int) -> str | None:
    prices = (candle.open, candle.high, candle.low, candle.close)
    if min(prices) <= 0:
        return "price not above 0"
    if candle.low > min(prices) or candle.high < max(prices):
        return "low above another price" if candle.low > min(prices) else "high below another price"
    if candle.volume < 0 or candle.time_ms % MINUTE_MS:
        return "negative volume" if candle.volume < 0 else "not on the minute"
    return "in the future" if candle.time_ms > now_ms + AHEAD_MS else None


def _leave_out(table: pl.DataFrame, reasons: Mapping[str, pl.Expr], health: Health, what: str) -> pl.DataFrame:
    reason = pl.coalesce(*(pl.when(wrong).then(pl.lit(name)) for name, wrong in reasons.items()))
    judged = table.with_columns(reason.alias("_reason"))
    wrong = judged.filter(pl.col("_reason").is_not_null())
    for name, count in wrong.group_by("_reason").len().iter_rows():
        health.reject(what, name, count, wrong.filter(pl.col("_reason") == name).row(0))
    return judged.filter(pl.col("_reason").is_null()).drop("_reason")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
