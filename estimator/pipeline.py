"""position book → columns → cache, for one market: the past at once, then live."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import (
    DAY_MS,
    MINUTE_MS,
    TIME,
    Candle,
    Float64Array,
    Gap,
    Liquidation,
    Market,
    Observation,
    Origin,
    Side,
)
from estimator.errors import ParameterError
from estimator.exchanges.base import MarketHistory, MarketUpdate, Source
from estimator.history import Published
from estimator.model.book import PositionBook
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.parameters import Parameters, Preset
from estimator.model.series import build_series, coarsen_series, level_mask
from estimator.model.steps import STEP_MS, Steps, build_steps, contracts_of

PUBLISH_S: Final = 1.0  # a market's open candle is shown at most this often
_CHUNK: Final = 400  # columns with tiers held at once during a backfill
_WARM_UP: Final = 200  # rows of series kept before the first column, for indicators
_MAX_GAPS: Final = 200
_CLOSES: Final = 64  # candles whose close may still be the price of an observation


class _Known:
    """Observations of one quantity in the order in which they became known.

    What became known after the close of a step is for the next one, though it may have arrived before.
    """

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

    def forget(self, time_ms: int) -> None:
        """Drop what was superseded by a time."""
        held = self.at(time_ms)
        if held is not None:
            self._seen = [s for s in self._seen if s.time_ms >= held.time_ms]

    @property
    def latest(self) -> float | None:
        """The newest value."""
        return self._seen[-1].value if self._seen else None


class MarketFollower:
    """Keeps one market's book and publishes its columns.

    Parameters
    ----------
    market : Market
    rank : int
        Order on the page.
    source : Source
        Only its origin and description are used.
    cache : Cache
    preset : str
        Mix of effective leverages.
    published : Published, optional
        Where columns and book states are kept once the past is complete; what it holds is shown as it was.
    """

    def __init__(
        self,
        market: Market,
        rank: int,
        source: Source,
        cache: Cache,
        preset: Preset,
        published: Published | None = None,
    ) -> None:
        self.market = market
        self.pace = 1.0  # the open candle is shown at most once in `PUBLISH_S` times this
        self._cache, self._origin = cache, source.origin
        self._announced = announced(market, rank, source, preset)
        self._parameters = Parameters.preset(preset)
        self._book = PositionBook(market, self._parameters)
        self._step_ms = STEP_MS
        self._interval_ms = MINUTE_MS
        self._open: list[Candle] = []  # closed sub-candles of the step that is still open
        self._prints: list[Liquidation] = []  # and its liquidations
        self._has_prints = False
        self._interest, self._ratio, self._funding = _Known(), _Known(), _Known()
        self._closes: deque[tuple[int, float]] = deque(maxlen=_CLOSES)  # ends and closes of the latest candles
        self._priced: tuple[Observation, float] | None = None  # open interest of the last step and its price
        self.progress = 1.0  # share of the past that is there
        self._kept = published
        self._today = pl.DataFrame()  # step rows of the coarsest level's interval that is not complete
        self._gaps: tuple[Gap, ...] = ()
        self._first_ms = self._last_ms = 0
        self._next_ms = 0  # start of the candle to come
        self._as_of_ms, self._mark = 0, 0.0
        self._version = int(time.time() * 1000)
        self._published = 0.0

    def backfill(self, history: MarketHistory) -> None:
        """Compute the past and publish every level of it."""
        self._interval_ms, self.progress = history.interval_ms, history.progress
        self._announced = replace(self._announced, funding_interval_ms=history.funding_interval_ms)
        if history.progress < 1.0:
            self._kept = None  # what is to change is not kept
        steps, gaps = build_steps(
            self.market,
            history.candles,
            history.open_interest,
            ratio_lean=self._parameters.ratio_lean,
            long_short_ratio=history.long_short_ratio if self._parameters.ratio_lean else None,
        )
        self._gaps = tuple(sorted({*gaps, *history.gaps}, key=lambda g: g.start_ms))[-_MAX_GAPS:]
        self._step_ms = max(STEP_MS, history.interval_ms)
        self._first_ms, self._last_ms = int(steps.close_ms[0]), int(steps.close_ms[-1])
        self._has_prints = not history.liquidations.is_empty()
        swept = self._publish_columns(steps)
        rows = build_series(
            steps,
            swept,
            self._step_ms,
            history.candles,
            history.open_interest,
            history.long_short_ratio,
            history.funding_rate,
            history.liquidations,
        )
        self._publish_series(rows)
        self._remember(history, rows)
        self._publish_status()
        if self._origin is not Origin.LIVE:  # told anew by every run: what an earlier one said is not this market's
            self._cache.forget_liquidations(self.market.id)
        self._cache.add_liquidations(self.market.id, liquidations_of(history.liquidations))

    def apply(self, update: MarketUpdate) -> None:
        """Take in what is new; a step that closes becomes a column for good. What comes late or twice changes none."""
        candle, last_ms = update.candle, self._last_ms
        if self._open and candle.time_ms // self._step_ms > self._open[0].time_ms // self._step_ms:
            self._close_step()  # the rest of its candles never came: it closes with what was known by then
        self._observe(update)
        still_open = None
        if candle.time_ms >= self._next_ms:
            if update.candle_closed:
                self._take(candle)
            else:
                still_open = candle
        now = time.monotonic()
        if self._last_ms > last_ms or now - self._published >= PUBLISH_S * self.pace:
            self._published = now
            self._publish_open(still_open)

    def _observe(self, update: MarketUpdate) -> None:
        if update.liquidations:
            self._has_prints = True
            self._prints.extend([p for p in update.liquidations if p not in self._prints])
            self._cache.add_liquidations(self.market.id, update.liquidations)
        for known, seen in (
            (self._interest, update.open_interest),
            (self._ratio, update.long_short_ratio),
            (self._funding, update.funding_rate),
        ):
            if seen is not None:
                known.add(seen)
        if update.time_ms >= self._as_of_ms:  # else old news
            self._as_of_ms, self._mark = update.time_ms, update.mark_price

    def _take(self, candle: Candle) -> None:
        """Add a closed candle to its step, which it may complete."""
        self._skip_to(candle.time_ms)
        self._next_ms = candle.time_ms + self._interval_ms
        self._open.append(candle)
        self._closes.append((self._next_ms, candle.close))
        if self._next_ms % self._step_ms == 0:
            self._close_step()

    def _close_step(self) -> None:
        """Step the book over the collected candles and publish the column on every level it belongs to."""
        close_ms = (self._open[0].time_ms // self._step_ms + 1) * self._step_ms
        grid, swept = self._step(self._book, self._open, close_ms)
        row = self._row(self._open, swept, close_ms)
        self._priced = self._price(close_ms)
        for known in (self._interest, self._ratio, self._funding):
            known.forget(close_ms)
        self._open.clear()
        self._prints = [p for p in self._prints if p.time_ms >= close_ms]
        self._today = pl.concat([self._today, row])
        for level, spec in enumerate(LEVELS):
            if close_ms % spec.interval_ms == 0:
                self._put_columns(level, grid.coarsen(spec.price_factor))
            interval_ms = max(spec.interval_ms, self._step_ms)
            # All intervals that ended since the last step: their own last step may be missing.
            self._put_series(level, self._today, *(t // interval_ms * interval_ms for t in (self._last_ms, close_ms)))
        self._last_ms = close_ms
        self._keep_book(close_ms)
        self._skip_to(close_ms)
        self._today = self._today.filter(_from(close_ms // LEVELS[-1].interval_ms * LEVELS[-1].interval_ms))

    def _skip_to(self, time_ms: int) -> None:
        """Wait no longer for candles that start before `time_ms`; those that never came are a gap."""
        if time_ms > self._next_ms:
            gap, kept = Gap(self._next_ms, time_ms, "candles"), self._gaps
            if kept and kept[-1].what == gap.what and kept[-1].end_ms == gap.start_ms:
                gap, kept = Gap(kept[-1].start_ms, time_ms, gap.what), kept[:-1]
            self._gaps = (*kept, gap)[-_MAX_GAPS:]
            self._next_ms = time_ms

    def _publish_open(self, candle: Candle | None) -> None:
        """Show the step that is still open as a provisional column."""
        candles = [*self._open, candle] if candle is not None else self._open
        if candles:
            close_ms = (candles[0].time_ms // self._step_ms + 1) * self._step_ms
            book = self._book.copy()
            grid, swept = self._step(book, candles, close_ms)
            self._cache.put_live(self.market.id, grid, self._row(candles, swept, close_ms))
        else:
            self._cache.drop_live(self.market.id)
        self._publish_status()

    def _step(
        self, book: PositionBook, candles: Sequence[Candle], close_ms: int
    ) -> tuple[LiquidationGrid, Float64Array]:
        """Advance a book with what was known at the close."""
        priced, ratio = self._price(close_ms), self._ratio.at(close_ms)
        contracts = 0.0 if priced is None else contracts_of(self.market, priced[0].value, priced[1])
        return book.step(candles, contracts, close_ms=close_ms, long_short_ratio=None if ratio is None else ratio.value)

    def _price(self, close_ms: int) -> tuple[Observation, float] | None:
        """Return the open interest known at a close, and the price when it was observed."""
        seen = self._interest.at(close_ms)
        if seen is None or (self._priced is not None and self._priced[0] == seen):
            return self._priced
        before = [close for end_ms, close in self._closes if end_ms <= seen.time_ms]
        return seen, before[-1] if before else self._mark

    def _publish_columns(self, steps: Steps) -> Float64Array:
        """Run the book over the past in chunks, so that memory stays bounded; return predicted liquidations."""
        saved_ms, state = self._show_kept()
        wanted = [level_mask(steps.close_ms, s.interval_ms, s.keep_ms, self._last_ms) for s in LEVELS]
        emit = np.logical_or.reduce(wanted)
        resumed, midnight = (
            int(np.searchsorted(steps.close_ms, ms, side="right"))
            for ms in (saved_ms, self._last_ms // DAY_MS * DAY_MS)
        )
        edges = sorted({0, resumed, midnight, *np.flatnonzero(emit)[_CHUNK::_CHUNK].tolist(), len(steps)})
        swept = [np.empty((0, 2))]
        for begin, end in pairwise(edges):
            if begin == resumed and state is not None:
                self._book.restore(state)
            part = steps.part(begin, end)
            grid, predicted = self._book.run(part, tiers=True, emit=emit[begin:end])
            swept.append(predicted)
            shown = part.close_ms[emit[begin:end]]
            for level, mask in enumerate(wanted):
                rows = np.isin(shown, part.close_ms[mask[begin:end]])
                if rows.any():
                    self._put_columns(level, grid.pick(rows).coarsen(LEVELS[level].price_factor))
            self._keep_book(int(steps.close_ms[end - 1]))
        if resumed == len(steps) and state is not None:
            self._book.restore(state)
        return np.concatenate(swept)

    def _show_kept(self) -> tuple[int, bytes | None]:
        """Publish the columns that history kept; return the newest saved state that fits, and its time."""
        if self._kept is None:
            return 0, None
        for level, grid in self._kept.columns(self._book, self._last_ms).items():
            self._cache.put_columns(self.market.id, level, grid)
        for time_ms, state in self._kept.books(self.market.id, self._last_ms):
            try:
                self._book.copy().restore(state)
            except ParameterError:
                continue  # of other parameters: the past is computed anew
            return time_ms, state
        return 0, None

    def _put_columns(self, level: int, grid: LiquidationGrid) -> None:
        """Publish columns, and keep those that history does not have."""
        self._cache.put_columns(self.market.id, level, grid)
        if self._kept is not None:
            self._kept.add(level, grid, self._book)

    def _keep_book(self, close_ms: int) -> None:
        if self._kept is not None and close_ms % DAY_MS == 0:
            self._kept.add_book(self._book, close_ms)

    def _publish_series(self, rows: pl.DataFrame) -> None:
        for level, spec in enumerate(LEVELS):
            interval_ms = max(spec.interval_ms, self._step_ms)
            keep_ms = self._last_ms - spec.keep_ms - _WARM_UP * interval_ms
            self._put_series(level, rows, *(t // interval_ms * interval_ms for t in (keep_ms, self._last_ms)))

    def _put_series(self, level: int, rows: pl.DataFrame, start_ms: int, end_ms: int) -> None:
        """Publish the whole intervals of a level that `rows` have between two of its boundaries."""
        inside = rows.filter(_from(start_ms), ~_from(end_ms))
        if not inside.is_empty():
            merged = coarsen_series(inside, max(LEVELS[level].interval_ms, self._step_ms))
            self._cache.put_series(self.market.id, level, merged)

    def _remember(self, history: MarketHistory, rows: pl.DataFrame) -> None:
        """Keep what the live part continues from."""
        self._today = rows.filter(_from(self._last_ms // LEVELS[-1].interval_ms * LEVELS[-1].interval_ms))
        self._open = candles_of(history.candles.filter(_from(self._last_ms)))
        self._prints = liquidations_of(history.liquidations.filter(_from(self._last_ms)))
        ends = history.candles["time"].to_physical() + history.interval_ms
        closes = list(zip(ends.to_list(), history.candles["close"].to_list(), strict=True))
        self._closes.extend(closes)
        self._as_of_ms, self._mark = closes[-1]
        self._next_ms = self._as_of_ms
        for known, frame in (
            (self._interest, history.open_interest),
            (self._ratio, history.long_short_ratio),
            (self._funding, history.funding_rate),
        ):
            for seen in _observations(frame, self._last_ms):
                known.add(seen)
        held = self._interest.at(self._last_ms)
        if held is not None:
            at = bisect.bisect_right(closes, held.time_ms, key=lambda c: c[0])
            first = bisect.bisect_right(closes, self._first_ms - self._step_ms, key=lambda c: c[0])
            self._priced = held, float(closes[at - 1 if at else first][1])

    def _row(self, candles: Sequence[Candle], swept: Float64Array, close_ms: int) -> pl.DataFrame:
        """One row of the series for a step of these candles."""
        realised: dict[Side, float | None] = {Side.LONG: None, Side.SHORT: None}
        if self._has_prints:
            inside = [p for p in self._prints if close_ms - self._step_ms <= p.time_ms < close_ms]
            realised = {side: sum(p.notional_usd for p in inside if p.side is side) for side in Side}
        values: dict[str, float | None] = {
            "open": candles[0].open,
            "high": max(c.high for c in candles),
            "low": min(c.low for c in candles),
            "close": candles[-1].close,
            "open_interest": _value(self._interest.at(close_ms)),
            "long_short_ratio": _value(self._ratio.at(close_ms)),
            "funding_rate": _value(self._funding.at(close_ms)),
            "volume": sum(c.volume for c in candles),
            "long_liquidated_usd": realised[Side.LONG],
            "short_liquidated_usd": realised[Side.SHORT],
            "predicted_long_usd": float(swept[0, 0]),
            "predicted_short_usd": float(swept[0, 1]),
        }
        time_ = pl.Series("time", [close_ms - self._step_ms], dtype=pl.Int64).cast(TIME)
        return pl.DataFrame([time_, *(pl.Series(n, [v], dtype=pl.Float64) for n, v in values.items())])

    def _publish_status(self) -> None:
        self._version += 1
        self.renew()
        message = {"version": self._version, "as_of_ms": self._as_of_ms, "mark_price": self._mark}
        self._cache.publish(self.market.id, message)

    def renew(self) -> None:
        """Keep the market's entries in the cache alive, though nothing is new."""
        status = replace(
            self._announced,
            as_of_ms=self._as_of_ms,
            mark_price=self._mark,
            interval_ms=self._interval_ms,
            first_ms=self._first_ms,
            last_ms=self._last_ms,
            provisional_until_ms=self._first_ms + self._parameters.provisional_ms,
            open_interest_base=self._interest.latest,
            long_short_ratio=self._ratio.latest,
            funding_rate=self._funding.latest,
            gaps=self._gaps,
            progress=self.progress,
            version=self._version,
            has_prints=self._has_prints,
        )
        self._cache.put_status(status)


def announced(market: Market, rank: int, source: Source, preset: Preset) -> MarketStatus:
    """Status of a market that is still being loaded: it is on offer, and nothing of it is there yet."""
    return MarketStatus(
        exchange=market.exchange,
        symbol=market.symbol,
        base=market.base,
        contract=market.contract,
        max_leverage=market.max_leverage,
        origin=source.origin,
        source=source.description,
        rank=rank,
        as_of_ms=0,
        mark_price=0.0,
        interval_ms=0,
        first_ms=0,
        last_ms=0,
        provisional_until_ms=0,
        open_interest_base=None,
        long_short_ratio=None,
        funding_rate=None,
        gaps=(),
        preset=preset,
        progress=0.0,
        version=0,
        maintenance_margin_rate=market.brackets[0].maintenance_margin_rate,
        maintenance_fee_rate=market.maintenance_fee_rate,
    )


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


def _from(time_ms: int) -> pl.Expr:
    """Rows whose time is not earlier."""
    return pl.col("time").dt.epoch("ms") >= time_ms


def _observations(frame: pl.DataFrame, since_ms: int) -> list[Observation]:
    """Observations later than a time, and the last one before."""
    times = frame["time"].to_physical().to_list()
    at = max(bisect.bisect_right(times, since_ms) - 1, 0)
    return [Observation(t, float(v)) for t, v in zip(times[at:], frame[frame.columns[1]][at:], strict=True)]


def _value(seen: Observation | None) -> float | None:
    return None if seen is None else seen.value
