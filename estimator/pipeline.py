"""position book → columns → cache, for one market: the past at once, then live."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from estimator.bands import Bands
from estimator.cache import Cache, MarketStatus
from estimator.domain import (
    MINUTE_MS,
    BoolArray,
    Candle,
    Float64Array,
    Gap,
    Int64Array,
    Liquidation,
    Market,
    Observation,
    Origin,
    Side,
)
from estimator.exchanges.base import MarketHistory, MarketUpdate, Source
from estimator.history import Published
from estimator.model.book import PositionBook
from estimator.model.calibration import Calibration
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import Parameters, Preset
from estimator.model.schedule import Schedule, continues
from estimator.model.series import build_series
from estimator.model.steps import STEP_MS, Steps, build_steps, contracts_of
from estimator.observed import Heard, Known, candles_of, liquidations_of, observations_of, since
from estimator.publishing import Publisher

PUBLISH_S: Final = 1.0  # a market's open candle is shown at most this often
TELL_S: Final = 0.25  # and its price, where somebody looks
STALE_MS: Final = 3 * STEP_MS  # open interest that is older is not known any more
MOST_GAPS: Final = 200  # of a market, the latest
_CLOSES: Final = 64  # candles whose close may still be the price of an observation


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

    Attributes
    ----------
    pace : float
        The open candle is shown at most once in `PUBLISH_S` times this.
    watched : bool
        Whether somebody looks: the price is told every `TELL_S` then.
    progress : float
        Share of the past that is there.
    bands : Bands, optional
        Books beside this one, while they are asked for.
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
        self.pace, self.watched, self.progress = 1.0, False, 1.0
        self.bands: Bands | None = None
        self._cache, self._origin = cache, source.origin
        self._announced = announced(market, rank, source, preset)
        self._parameters = Parameters.preset(preset)
        self._book = PositionBook(market, self._parameters)
        self._publisher = Publisher(self._book, cache, published)
        self._published, self._schedule = published, Schedule(self._parameters)
        self._calibration: Calibration | None = None
        self._step_ms = STEP_MS
        self._interval_ms = MINUTE_MS
        self._open: list[Candle] = []  # closed sub-candles of the step that is still open
        self._moving: Candle | None = None  # and the one that has not closed
        self._prints: list[Liquidation] = []  # and its liquidations
        self._has_prints = False
        self._heard = Heard("liquidations")
        self._interest, self._ratio, self._funding = Known(), Known(), Known()
        self._closes: deque[tuple[int, float]] = deque(maxlen=_CLOSES)  # ends and closes of the latest candles
        self._priced: tuple[Observation, float] | None = None  # open interest of the last step and its price
        self._gaps: tuple[Gap, ...] = ()
        self._first_ms = self._last_ms = 0
        self._next_ms = 0  # start of the candle to come
        self._as_of_ms, self._mark = 0, 0.0
        self._version = int(time.time() * 1000)
        self._shown_s = self._told_s = 0.0  # when the open candle was last shown, and the price told
        self._news = False  # something has come since

    def backfill(self, history: MarketHistory) -> None:
        """Compute the past and publish every level of it."""
        self._interval_ms, self.progress = history.interval_ms, history.progress
        self._announced = replace(self._announced, funding_interval_ms=history.funding_interval_ms)
        if self._published is not None:
            self._go_by(*self._published.calibrations.schedule(self.market.id, self._parameters))
        if history.progress < 1.0:
            self._publisher.keep_nothing()
        steps, gaps = self.steps_of(history)
        self._gaps = tuple(sorted({*gaps, *history.gaps}, key=lambda g: g.start_ms))[-MOST_GAPS:]
        self._step_ms = self._publisher.step_ms = max(STEP_MS, history.interval_ms)
        self._first_ms, self._last_ms = int(steps.close_ms[0]), int(steps.close_ms[-1])
        self._has_prints = not history.liquidations.is_empty()
        for connection in history.connections:
            self._heard.note(connection)
        swept = self._publisher.past(steps)
        rows = build_series(
            steps,
            swept,
            self._step_ms,
            history.candles,
            history.open_interest,
            history.long_short_ratio,
            history.funding_rate,
            history.liquidations,
            self._unheard(steps.close_ms),
        )
        self._publisher.past_series(rows, self._last_ms)
        self._remember(history)
        self._book.rest()
        self._publish_status()
        if self._origin is not Origin.LIVE:  # told anew by every run: what an earlier one said is not this market's
            self._cache.forget_liquidations(self.market.id)
        self._cache.add_liquidations(self.market.id, liquidations_of(history.liquidations))

    def steps_of(self, history: MarketHistory) -> tuple[Steps, tuple[Gap, ...]]:
        """Return a past as its book takes it, and what is missing in it."""
        return build_steps(
            self.market,
            history.candles,
            history.open_interest,
            ratio_lean=self._parameters.ratio_lean,
            long_short_ratio=history.long_short_ratio if self._parameters.ratio_lean else None,
        )

    def touch(self) -> None:
        """Say that there is something new to read."""
        self._publish_status()

    def begin_bands(self) -> Bands:
        """Keep what closes from now on for the books beside this one, whose past is to be computed."""
        self.bands = Bands(self.market, self._schedule, self._cache)
        return self.bands

    @property
    def change_ms(self) -> int:
        """When other assumptions can come into force: at the end of a step that nobody has seen anything of. [ms]"""
        return self._last_ms + 2 * self._step_ms

    def can_go_by(self, calibration: Calibration) -> bool:
        """Whether the book can go on with it, and its past is there."""
        return self.progress >= 1.0 and continues(calibration.parameters, self._parameters)

    def change(self, from_ms: int, calibration: Calibration) -> bool:
        """Go by a calibration in the steps that close later than a time; False if it is known, or cannot follow."""
        known = self._schedule.changes
        if (known and known[-1][0] >= from_ms) or not self.can_go_by(calibration):
            return False
        self._go_by(self._schedule.then(from_ms, calibration.parameters), calibration)
        return True

    def _go_by(self, schedule: Schedule, calibration: Calibration | None) -> None:
        self._schedule = self._publisher.schedule = schedule
        if self.bands is not None:
            self.bands.change(schedule)
        self._calibration = calibration

    def apply(self, update: MarketUpdate) -> None:
        """Take in what is new; a step that closes becomes a column for good. What comes late or twice changes none."""
        candle, last_ms = update.candle, self._last_ms
        if self._open and candle.time_ms // self._step_ms > self._open[0].time_ms // self._step_ms:
            self._close_step()  # the rest of its candles never came: it closes with what was known by then
        self._observe(update)
        self._news = True
        if candle.time_ms >= self._next_ms:
            self._moving = None if update.candle_closed else candle
            if update.candle_closed:
                self._take(candle)
        if self._last_ms > last_ms:
            self._show_open()
        else:
            self.show()

    def show(self) -> None:
        """Show what has come, where that is due."""
        now = time.monotonic()
        if self._news and now - self._shown_s >= PUBLISH_S * self.pace:
            self._show_open()
        elif self._news and self.watched and now - self._told_s >= TELL_S:
            self._told_s = now
            self._tell()

    def _unheard(self, close_ms: Int64Array) -> BoolArray | None:
        """Mark the steps in which prints may have been missed; None where their source has all there are."""
        if not self._heard.told:
            return None
        return np.array([not self._heard.covers(t - self._step_ms, t) for t in close_ms.tolist()])

    def _observe(self, update: MarketUpdate) -> None:
        if update.connection is not None:
            self._heard.note(update.connection)
        if update.open_interest is not None:
            self._note_stale(update.open_interest.time_ms)
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
        if self.bands is not None:
            contracts, ratio = self._held(close_ms)
            self.bands.step(self._open, contracts, close_ms=close_ms, ratio=ratio)
        self._priced = self._price(close_ms)
        for known in (self._interest, self._ratio, self._funding):
            known.forget(close_ms)
        self._open.clear()
        self._prints = [p for p in self._prints if p.time_ms >= close_ms]
        self._publisher.step(grid, row, self._last_ms, close_ms)
        self._book.rest()
        self._last_ms = close_ms
        self._skip_to(close_ms)

    def _skip_to(self, time_ms: int) -> None:
        """Wait no longer for candles that start before `time_ms`; those that never came are a gap."""
        if time_ms > self._next_ms:
            gap, kept = Gap(self._next_ms, time_ms, "candles"), self._gaps
            if kept and kept[-1].what == gap.what and kept[-1].end_ms == gap.start_ms:
                gap, kept = Gap(kept[-1].start_ms, time_ms, gap.what), kept[:-1]
            self._gaps = (*kept, gap)[-MOST_GAPS:]
            self._next_ms = time_ms

    def _note_stale(self, time_ms: int) -> None:
        """Mark the stretch that open interest was not known for, now that it is again."""
        gap = self._stale(time_ms)
        if gap is not None:
            self._gaps = (*self._gaps, gap)[-MOST_GAPS:]

    def _stale(self, time_ms: int) -> Gap | None:
        """Return the stretch before a time that the last open interest is too old for, if there is one."""
        last = self._interest.at(time_ms)
        if last is None or time_ms - last.time_ms <= STALE_MS:
            return None
        return Gap(last.time_ms + STEP_MS, time_ms, "open_interest")

    def _known_gaps(self) -> tuple[Gap, ...]:
        stale = self._stale(self._as_of_ms)
        gaps = {*self._gaps, *self._heard.gaps(self._as_of_ms), *([] if stale is None else [stale])}
        return tuple(sorted(gaps, key=lambda g: g.start_ms))[-MOST_GAPS:]

    def _show_open(self) -> None:
        """Show the step that is still open as a provisional column."""
        self._shown_s = self._told_s = time.monotonic()
        candles = self._open if self._moving is None else [*self._open, self._moving]
        if candles:
            close_ms = (candles[0].time_ms // self._step_ms + 1) * self._step_ms
            grid, swept = self._step(self._book.copy(), candles, close_ms)
            self._publisher.open_step(grid, self._row(candles, swept, close_ms), close_ms)
        else:
            self._publisher.no_open_step()
        self._publish_status()

    def _step(
        self, book: PositionBook, candles: Sequence[Candle], close_ms: int
    ) -> tuple[LiquidationGrid, Float64Array]:
        """Advance a book with what was known at the close."""
        book.adopt(self._schedule.at(close_ms))
        contracts, ratio = self._held(close_ms)
        return book.step(candles, contracts, close_ms=close_ms, long_short_ratio=ratio)

    def _held(self, close_ms: int) -> tuple[float, float | None]:
        """Return contracts and account ratio as known at a close."""
        priced = self._price(close_ms)
        contracts = 0.0 if priced is None else contracts_of(self.market, priced[0].value, priced[1])
        return contracts, self._ratio.value_at(close_ms)

    def _price(self, close_ms: int) -> tuple[Observation, float] | None:
        """Return the open interest known at a close, and the price when it was observed."""
        seen = self._interest.at(close_ms)
        if seen is None or (self._priced is not None and self._priced[0] == seen):
            return self._priced
        before = [close for end_ms, close in self._closes if end_ms <= seen.time_ms]
        return seen, before[-1] if before else self._mark

    def _remember(self, history: MarketHistory) -> None:
        """Keep what the live part continues from."""
        self._open = candles_of(history.candles.filter(since(self._last_ms)))
        self._prints = liquidations_of(history.liquidations.filter(since(self._last_ms)))
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
            for seen in observations_of(frame, self._last_ms):
                known.add(seen)
        held = self._interest.at(self._last_ms)
        if held is not None:
            at = bisect.bisect_right(closes, held.time_ms, key=lambda c: c[0])
            first = bisect.bisect_right(closes, self._first_ms - self._step_ms, key=lambda c: c[0])
            self._priced = held, float(closes[at - 1 if at else first][1])

    def _row(self, candles: Sequence[Candle], swept: Float64Array, close_ms: int) -> dict[str, float | None]:
        """One row of the series for a step of these candles."""
        realised = {side: self._realised(side, close_ms) for side in Side}
        return {
            "open": candles[0].open,
            "high": max(c.high for c in candles),
            "low": min(c.low for c in candles),
            "close": candles[-1].close,
            "open_interest": self._interest.value_at(close_ms),
            "long_short_ratio": self._ratio.value_at(close_ms),
            "funding_rate": self._funding.value_at(close_ms),
            "volume": sum(c.volume for c in candles),
            "long_liquidated_usd": realised[Side.LONG],
            "short_liquidated_usd": realised[Side.SHORT],
            "predicted_long_usd": float(swept[0, 0]),
            "predicted_short_usd": float(swept[0, 1]),
        }

    def _realised(self, side: Side, close_ms: int) -> float | None:
        """Liquidations of a step; None where nothing was heard and something may have been missed. [USD]"""
        start_ms = close_ms - self._step_ms
        inside = [p.notional_usd for p in self._prints if start_ms <= p.time_ms < close_ms and p.side is side]
        if inside:
            return sum(inside)
        heard = self._heard.covers(start_ms, min(close_ms, self._as_of_ms)) if self._heard.told else self._has_prints
        return 0.0 if heard else None

    def _publish_status(self) -> None:
        self._version += 1
        self._news = False
        self.renew()
        self._tell()

    def _tell(self) -> None:
        """Tell the pages the price; the version names what the cache holds."""
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
            gaps=self._known_gaps(),
            progress=self.progress,
            version=self._version,
            has_prints=self._has_prints,
            parameters_version=self._book.parameters.version,
            calibration=self._calibration,
            calibrated_ms=self._schedule.changes[-1][0] if self._schedule.changes else None,
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
