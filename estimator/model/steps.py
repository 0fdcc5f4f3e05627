"""From user frames to the arrays the position book consumes: validation, alignment without look-ahead, gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl

from estimator.domain import (
    CANDLES,
    CANDLES_OPTIONAL,
    FUNDING_RATE,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    TIME,
    Float64Array,
    Gap,
    Int64Array,
    Market,
)
from estimator.errors import InputError, ParameterError

STEP_MS: Final = 5 * MINUTE_MS
_STALE_INTERVALS = 3  # an observation older than this many of its own intervals is a gap


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What the book needs, one entry per step, built of one or more sub-candles each.

    Parameters
    ----------
    close_ms : Int64Array, shape (n_step,)
        Close time of the step.
    first : Int64Array, shape (n_step + 1,)
        Sub-candles of step ``i`` are ``first[i] .. first[i + 1] - 1``.
    candle : Float64Array, shape (n_sub, 6)
        low, high, close, volume [contracts], mark low, mark high of the sub-candles.
    contracts : Float64Array, shape (n_step,)
        Open interest known at the close: base coin for linear, USD for inverse markets.
    at_risk : Float64Array, shape (n_step, 2)
        Factor on the at-risk share of new longs and shorts (1 without a lean).
    """

    close_ms: Int64Array
    first: Int64Array
    candle: Float64Array
    contracts: Float64Array
    at_risk: Float64Array

    def __len__(self) -> int:
        return len(self.close_ms)

    def part(self, begin: int, end: int) -> Steps:
        """Return steps ``begin .. end - 1``."""
        low, high = self.first[begin], self.first[end]
        return Steps(
            close_ms=self.close_ms[begin:end],
            first=self.first[begin : end + 1] - low,
            candle=self.candle[low:high],
            contracts=self.contracts[begin:end],
            at_risk=self.at_risk[begin:end],
        )


def validate(frame: pl.DataFrame, schema: Mapping[str, pl.DataType], name: str) -> pl.DataFrame:
    """Check a frame against a schema and return its columns, times as UTC ms and numbers as Float64.

    Raises
    ------
    InputError
        Naming the frame, the column, the row and the value of the first fault.
    """
    if not isinstance(frame, pl.DataFrame):
        raise InputError(name, "expected a polars DataFrame", value=type(frame).__name__)
    for column in schema:
        if column not in frame.columns:
            raise InputError(name, f"column is missing; have {', '.join(frame.columns) or 'none'}", column=column)
    if frame.is_empty():
        raise InputError(name, "has no rows")
    time = _validate_time(frame["time"], name)
    numbers = [_validate_number(frame[c], name) for c in schema if c != "time"]
    return pl.DataFrame([time, *numbers])


def _validate_time(time: pl.Series, name: str) -> pl.Series:
    dtype = time.dtype
    if not isinstance(dtype, pl.Datetime):
        raise InputError(name, f"expected Datetime with a time zone, got {dtype}", column="time")
    if dtype.time_zone is None:
        raise InputError(
            name, "has no time zone; use .dt.replace_time_zone('UTC')", column="time", row=0, value=time[0]
        )
    if time.null_count():
        row = int(time.is_null().arg_max() or 0)
        raise InputError(name, "is null", column="time", row=row)
    time = time.dt.convert_time_zone("UTC").cast(TIME)
    step = np.diff(time.to_physical().to_numpy())
    if len(step) and step.min() <= 0:
        row = int(np.argmax(step <= 0)) + 1
        problem = "is a duplicate time" if step[row - 1] == 0 else "is earlier than the row before; sort by time"
        raise InputError(name, problem, column="time", row=row, value=time[row])
    return time


def _validate_number(values: pl.Series, name: str) -> pl.Series:
    if not values.dtype.is_numeric():
        raise InputError(name, f"expected numbers, got {values.dtype}", column=values.name, row=0, value=values[0])
    values = values.cast(pl.Float64)
    bad = values.is_null() | ~values.is_finite().fill_null(value=False)
    _refuse(bad, values, name, "is not a finite number")
    if values.name == "funding_rate":
        return values
    if values.name in ("volume", "taker_buy_volume", "open_interest"):
        _refuse(values < 0, values, name, "is negative")
    else:
        _refuse(values <= 0, values, name, "is not a positive number")
    return values


def _refuse(bad: pl.Series, values: pl.Series, name: str, problem: str) -> None:
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise InputError(name, problem, column=values.name, row=row, value=values[row])


def validate_candles(candles: pl.DataFrame) -> pl.DataFrame:
    """Validate candles, optional columns included; mark extremes default to the traded ones."""
    optional = {c: t for c, t in CANDLES_OPTIONAL.items() if isinstance(candles, pl.DataFrame) and c in candles.columns}
    frame = validate(candles, {**CANDLES, **optional}, "candles")
    _refuse(frame["low"] > frame["high"], frame["low"], "candles", "is above high")
    for column in ("open", "close"):
        outside = (frame[column] < frame["low"]) | (frame[column] > frame["high"])
        _refuse(outside, frame[column], "candles", "lies outside low .. high")
    frame = frame.with_columns(
        (pl.col("mark_low") if "mark_low" in optional else pl.col("low")).alias("mark_low"),
        (pl.col("mark_high") if "mark_high" in optional else pl.col("high")).alias("mark_high"),
    )
    _refuse(frame["mark_low"] > frame["mark_high"], frame["mark_low"], "candles", "is above mark_high")
    return frame


def interval_ms(time: pl.Series) -> int:
    """Return the median spacing of a series of times. [ms]"""
    step = np.diff(time.to_physical().to_numpy())
    return int(np.median(step)) if len(step) else MINUTE_MS


def candle_interval_ms(time: pl.Series) -> int:
    """Return the most frequent spacing of candles, the shortest of several: it holds where most are missing. [ms]"""
    step, count = np.unique(np.diff(time.to_physical().to_numpy()), return_counts=True)
    return int(step[count.argmax()]) if len(step) else MINUTE_MS


def find_gaps(
    time: pl.Series, what: str, usual_ms: int, *, end_ms: int | None = None, tolerance: float = 1.0
) -> tuple[Gap, ...]:
    """List the stretches where a series of this usual spacing misses `tolerance` of its intervals or more."""
    stamps = time.to_physical().to_numpy()
    starts, stops = stamps[:-1] + usual_ms, stamps[1:]
    if end_ms is not None:
        starts, stops = np.append(starts, stamps[-1] + usual_ms), np.append(stops, end_ms)
    missing = stops - starts >= tolerance * usual_ms
    return tuple(Gap(int(a), int(b), what) for a, b in zip(starts[missing], stops[missing], strict=True))


def build_steps(
    market: Market,
    candles: pl.DataFrame,
    open_interest: pl.DataFrame,
    long_short_ratio: pl.DataFrame | None = None,
    funding_rate: pl.DataFrame | None = None,
    *,
    step_ms: int = STEP_MS,
    ratio_lean: float = 0.0,
    on_gap: Literal["mark", "error"] = "mark",
) -> tuple[Steps, tuple[Gap, ...]]:
    """Validate and align the inputs of a market.

    Each step uses what was known at its close: the last open interest (and account ratio) whose time is not later.
    Steps before the first known open interest are left out, as is a last step that is not complete. Candles longer
    than `step_ms` make the step longer.

    Returns
    -------
    Steps, tuple of Gap
        The gaps are stretches without candles, or with open interest too old to be called known.

    Raises
    ------
    InputError
        For unusable frames, for series that never overlap, and for gaps when `on_gap` is ``"error"``.
    """
    frame = validate_candles(candles)
    interest = validate(open_interest, OPEN_INTEREST, "open_interest")
    candle_ms = candle_interval_ms(frame["time"])
    if step_ms <= 0 or max(step_ms, candle_ms) % candle_ms:
        raise ParameterError("step_ms", step_ms, f"a multiple of the candle interval, {candle_ms} ms")
    step_ms = max(step_ms, candle_ms)

    start = frame["time"].to_physical().to_numpy()
    # Such a candle would reach beyond the close of its step, which would then know what came later.
    _refuse(
        pl.Series(start % candle_ms != 0), frame["time"], "candles", f"is not a multiple of their {candle_ms} ms in UTC"
    )
    step_index = start // step_ms
    complete = step_index * step_ms + step_ms <= start[-1] + candle_ms
    if not complete.any():
        raise InputError("candles", f"do not complete a step of {step_ms} ms; have {len(start)} of {candle_ms} ms")
    first_known = interest["time"].to_physical()[0]
    keep = complete & (step_index * step_ms + step_ms >= first_known)
    if not keep.any():
        raise InputError(
            "open_interest",
            "is not known before the last complete step of candles ends",
            column="time",
            row=0,
            value=interest["time"][0],
        )
    sub = frame.filter(pl.Series(keep))
    index, first = np.unique(step_index[keep], return_index=True)
    close_ms = (index + 1) * step_ms
    gaps = find_gaps(frame["time"], "candles", candle_ms) + find_gaps(
        interest["time"],
        "open_interest",
        interval_ms(interest["time"]),
        end_ms=int(close_ms[-1]),
        tolerance=_STALE_INTERVALS,
    )
    _check_gaps(gaps, on_gap)

    units = _contracts(market, interest, frame, candle_ms, sub["close"][0])
    ratio = None
    if long_short_ratio is not None:
        ratio = _known_at(close_ms, validate(long_short_ratio, LONG_SHORT_RATIO, "long_short_ratio"))
    if funding_rate is not None:
        validate(funding_rate, FUNDING_RATE, "funding_rate")
    volume = sub["volume"] * sub["close"] if market.contract == "inverse" else sub["volume"]
    arrays = [sub["low"], sub["high"], sub["close"], volume, sub["mark_low"], sub["mark_high"]]
    return (
        Steps(
            close_ms=close_ms,
            first=np.append(first, len(sub)).astype(np.int64),
            candle=np.ascontiguousarray(np.stack([a.to_numpy() for a in arrays], axis=1)),
            contracts=_known_at(close_ms, units),
            at_risk=at_risk(ratio, len(close_ms), ratio_lean),
        ),
        gaps,
    )


def contracts_of(market: Market, base: float, price: float) -> float:
    """Convert base coins to the contracts the book counts: coins for linear, USD at `price` for inverse markets."""
    return base if market.contract == "linear" else base * price


def at_risk(ratio: Float64Array | None, n: int, lean: float) -> Float64Array:
    """Factor on the at-risk share of new longs and shorts, shape (n, 2), from the account ratio."""
    if ratio is None or lean == 0.0:
        return np.ones((n, 2))
    long_share = ratio / (1.0 + ratio)
    return np.stack([(2 * long_share) ** lean, (2 * (1 - long_share)) ** lean], axis=1)


def _contracts(
    market: Market, interest: pl.DataFrame, frame: pl.DataFrame, candle_ms: int, first: float
) -> pl.DataFrame:
    """Open interest in contracts; base of an inverse market is converted at the price when it was observed.

    What was observed before any candle closed is converted at `first`, the close of the first candle used.
    """
    if market.contract == "linear":
        return interest
    close = frame.select((pl.col("time") + pl.duration(milliseconds=candle_ms)).cast(TIME), "close")
    return interest.join_asof(close, on="time").select(
        "time", (pl.col("open_interest") * pl.col("close").fill_null(first)).alias("open_interest")
    )


def _known_at(close_ms: Int64Array, series: pl.DataFrame) -> Float64Array:
    """Last value whose time is not later than each close; before the first, the first."""
    at = np.searchsorted(series["time"].to_physical().to_numpy(), close_ms, side="right") - 1
    return series[series.columns[1]].to_numpy()[np.maximum(at, 0)]


def _check_gaps(gaps: tuple[Gap, ...], on_gap: Literal["mark", "error"]) -> None:
    if on_gap not in ("mark", "error"):
        raise ParameterError("on_gap", on_gap, "'mark' or 'error'")
    if gaps and on_gap == "error":
        gap = gaps[0]
        hours = (gap.end_ms - gap.start_ms) / 3_600_000
        raise InputError(
            gap.what,
            f"misses {hours:.2f} h; pass on_gap='mark' to go on with the gap marked",
            column="time",
            value=int(gap.start_ms),
        )
