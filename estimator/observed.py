"""Values out of frames, and observations in the order in which they became known."""

from __future__ import annotations

import bisect
from dataclasses import fields

import polars as pl

from estimator.domain import Candle, Gap, Liquidation, Observation, Side
from estimator.exchanges.base import Connection


class Known:
    """Observations of one quantity in the order in which they became known.

    What became known after the close of a step is for the next one, though it may have arrived before.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: list[Observation] = []

    def add(self, seen: Observation) -> None:
        """Take an observation in; of two for one time the first counts, as in history."""
        at = bisect.bisect_left(self._seen, seen.time_ms, key=lambda s: s.time_ms)
        if at == len(self._seen) or self._seen[at].time_ms != seen.time_ms:
            self._seen.insert(at, seen)

    def at(self, time_ms: int) -> Observation | None:
        """Return the last one known at a time."""
        return next((s for s in reversed(self._seen) if s.time_ms <= time_ms), None)

    def value_at(self, time_ms: int) -> float | None:
        """Return the last value known at a time."""
        seen = self.at(time_ms)
        return None if seen is None else seen.value

    def forget(self, time_ms: int) -> None:
        """Drop what was superseded by a time."""
        held = self.at(time_ms)
        if held is not None:
            self._seen = [s for s in self._seen if s.time_ms >= held.time_ms]

    @property
    def latest(self) -> float | None:
        """The newest value."""
        return self._seen[-1].value if self._seen else None


class Heard:
    """When a stream was heard, from what was said of its connection.

    Parameters
    ----------
    what : str
        What the stream carries.
    """

    __slots__ = ("_ends", "_since_ms", "_starts", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self._starts: list[int] = []  # of stretches that were not heard
        self._ends: list[int] = []
        self._since_ms: int | None = None  # not heard since; None while it is heard

    @property
    def told(self) -> bool:
        """Whether anything is known: a source that has no connections is heard all the time."""
        return bool(self._starts) or self._since_ms is not None

    def note(self, connection: Connection) -> None:
        """Take in what was said, in order of time. Before the first connection nothing was heard."""
        if connection.what != self.what:
            return
        if not self.told:
            self._since_ms = 0
        if not connection.connected and self._since_ms is None:
            self._since_ms = connection.time_ms
        elif connection.connected and self._since_ms is not None:
            self._starts.append(self._since_ms)
            self._ends.append(connection.time_ms)
            self._since_ms = None

    def covers(self, start_ms: int, end_ms: int) -> bool:
        """Whether it was heard all the time between two times."""
        if self._since_ms is not None and self._since_ms < end_ms:
            return False
        at = bisect.bisect_right(self._ends, start_ms)  # the first stretch that ends later
        return at == len(self._ends) or self._starts[at] >= end_ms

    def gaps(self, until_ms: int) -> tuple[Gap, ...]:
        """Stretches in which it was not heard, after it was for the first time; the open one until a time."""
        starts, ends = list(self._starts), list(self._ends)
        if self._since_ms is not None:
            starts.append(self._since_ms)
            ends.append(until_ms)
        return tuple(Gap(s, e, self.what) for s, e in zip(starts, ends, strict=True) if 0 < s < e)


def candles_of(frame: pl.DataFrame) -> list[Candle]:
    """Turn rows of a candle frame into `Candle` values."""
    columns = frame.select(
        pl.col("time").dt.epoch("ms").alias("time_ms"),
        pl.col(f.name for f in fields(Candle)[1:] if f.name in frame.columns),
    )
    return [Candle(**row) for row in columns.iter_rows(named=True)]


def liquidations_of(frame: pl.DataFrame) -> list[Liquidation]:
    """Turn rows of a liquidation frame into `Liquidation` values."""
    columns = frame.select(pl.col("time").dt.epoch("ms"), "side", "price", "quantity_base", "notional_usd")
    return [Liquidation(t, Side(side), *rest) for t, side, *rest in columns.iter_rows()]


def observations_of(frame: pl.DataFrame, since_ms: int) -> list[Observation]:
    """Observations later than a time, and the last one before; the frame is sorted by time."""
    times = frame["time"].to_physical().to_list()
    at = max(bisect.bisect_right(times, since_ms) - 1, 0)
    return [Observation(t, float(v)) for t, v in zip(times[at:], frame[frame.columns[1]][at:], strict=True)]


def since(time_ms: int) -> pl.Expr:
    """Rows whose time is not earlier."""
    return pl.col("time").dt.epoch("ms") >= time_ms
