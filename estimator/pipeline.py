"""source → position book → columns → cache, for many markets: the past at once, then live."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import (
    MINUTE_MS,
    TIME,
    Candle,
    Float64Array,
    Gap,
    Liquidation,
    Market,
    Origin,
    Side,
)
from estimator.errors import SettingsError
from estimator.exchanges.base import MarketHistory, MarketUpdate, Source
from estimator.exchanges.recorded import RecordedSource
from estimator.exchanges.simulated import SimulatedSource
from estimator.model.book import PositionBook
from estimator.model.grid import LEVELS
from estimator.model.parameters import Parameters, Preset
from estimator.model.series import build_series, coarsen_series, level_mask
from estimator.model.steps import STEP_MS, Steps, build_steps, contracts_of
from estimator.settings import Settings

PUBLISH_S: Final = 1.0  # a market's open candle is shown at most this often
_CHUNK: Final = 400  # columns with tiers held at once during a backfill
_WARM_UP: Final = 200  # rows of series kept before the first column, for indicators
_MAX_GAPS: Final = 200


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
    """

    def __init__(self, market: Market, rank: int, source: Source, cache: Cache, preset: Preset) -> None:
        self.market = market
        self._cache, self._rank, self._preset = cache, rank, preset
        self._origin, self._description = source.origin, source.description
        self._parameters = Parameters.preset(preset)
        self._book = PositionBook(market, self._parameters)
        self._step_ms = STEP_MS
        self._interval_ms = MINUTE_MS
        self._open: list[Candle] = []  # closed sub-candles of the step that is still open
        self._prints: list[Liquidation] = []  # and its liquidations
        self._has_prints = False
        self._base: float | None = None
        self._contracts = 0.0
        self._ratio: float | None = None
        self._funding: float | None = None
        self._today = pl.DataFrame()  # step rows of the coarsest level's interval that is not complete
        self._gaps: tuple[Gap, ...] = ()
        self._first_ms = self._last_ms = 0
        self._next_ms = 0  # start of the candle to come
        self._as_of_ms, self._mark = 0, 0.0
        self._version = int(time.time() * 1000)
        self._published = 0.0

    def backfill(self, history: MarketHistory) -> None:
        """Compute the past and publish every level of it."""
        self._interval_ms = history.interval_ms
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
        if self._last_ms > last_ms or now - self._published >= PUBLISH_S:
            self._published = now
            self._publish_open(still_open)

    def _observe(self, update: MarketUpdate) -> None:
        if update.liquidations:
            self._has_prints = True
            self._prints.extend([p for p in update.liquidations if p not in self._prints])
            self._cache.add_liquidations(self.market.id, update.liquidations)
        if update.time_ms < self._as_of_ms:
            return  # old news
        if update.open_interest is not None:
            before = update.open_interest.time_ms < update.time_ms
            self._base = update.open_interest.value
            self._contracts = contracts_of(self.market, self._base, self._mark if before else update.mark_price)
        if update.long_short_ratio is not None:
            self._ratio = update.long_short_ratio.value
        if update.funding_rate is not None:
            self._funding = update.funding_rate.value
        self._as_of_ms, self._mark = update.time_ms, update.mark_price

    def _take(self, candle: Candle) -> None:
        """Add a closed candle to its step, which it may complete."""
        self._skip_to(candle.time_ms)
        self._next_ms = candle.time_ms + self._interval_ms
        self._open.append(candle)
        if self._next_ms % self._step_ms == 0:
            self._close_step()

    def _close_step(self) -> None:
        """Step the book over the collected candles and publish the column on every level it belongs to."""
        close_ms = (self._open[0].time_ms // self._step_ms + 1) * self._step_ms
        grid, swept = self._book.step(self._open, self._contracts, close_ms=close_ms, long_short_ratio=self._ratio)
        row = self._row(self._open, swept, close_ms)
        self._open.clear()
        self._prints = [p for p in self._prints if p.time_ms >= close_ms]
        self._today = pl.concat([self._today, row])
        for level, spec in enumerate(LEVELS):
            if close_ms % spec.interval_ms == 0:
                self._cache.put_columns(self.market.id, level, grid.coarsen(spec.price_factor))
            interval_ms = max(spec.interval_ms, self._step_ms)
            # All intervals that ended since the last step: their own last step may be missing.
            self._put_series(level, self._today, *(t // interval_ms * interval_ms for t in (self._last_ms, close_ms)))
        self._last_ms = close_ms
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
            grid, swept = book.step(candles, self._contracts, close_ms=close_ms, long_short_ratio=self._ratio)
            self._cache.put_live(self.market.id, grid, self._row(candles, swept, close_ms))
        else:
            self._cache.drop_live(self.market.id)
        self._publish_status()

    def _publish_columns(self, steps: Steps) -> Float64Array:
        """Run the book over the past in chunks, so that memory stays bounded; return predicted liquidations."""
        wanted = [level_mask(steps.close_ms, s.interval_ms, s.keep_ms, self._last_ms) for s in LEVELS]
        emit = np.logical_or.reduce(wanted)
        edges = np.flatnonzero(emit)[_CHUNK::_CHUNK]
        swept = []
        for begin, end in zip([0, *edges], [*edges, len(steps)], strict=True):
            part = steps.part(int(begin), int(end))
            grid, predicted = self._book.run(part, tiers=True, emit=emit[begin:end])
            swept.append(predicted)
            shown = part.close_ms[emit[begin:end]]
            for level, mask in enumerate(wanted):
                rows = np.isin(shown, part.close_ms[mask[begin:end]])
                if rows.any():
                    chosen = grid.pick(rows).coarsen(LEVELS[level].price_factor)
                    self._cache.put_columns(self.market.id, level, chosen)
        return np.concatenate(swept)

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
        last = history.candles.row(-1, named=True)
        self._mark = float(last["close"])
        self._as_of_ms = self._next_ms = int(history.candles["time"].to_physical()[-1]) + history.interval_ms
        self._base = float(history.open_interest["open_interest"][-1])
        known_ms = int(history.open_interest["time"].to_physical()[-1])
        price = history.candles.filter(~_from(known_ms - history.interval_ms + 1))["close"]
        self._contracts = contracts_of(self.market, self._base, float(price[-1]) if len(price) else self._mark)
        self._ratio, self._funding = _last(history.long_short_ratio), _last(history.funding_rate)

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
            "open_interest": self._base,
            "long_short_ratio": self._ratio,
            "funding_rate": self._funding,
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
        self._cache.put_status(
            MarketStatus(
                exchange=self.market.exchange,
                symbol=self.market.symbol,
                base=self.market.base,
                contract=self.market.contract,
                max_leverage=self.market.max_leverage,
                origin=self._origin,
                source=self._description,
                rank=self._rank,
                as_of_ms=self._as_of_ms,
                mark_price=self._mark,
                interval_ms=self._interval_ms,
                first_ms=self._first_ms,
                last_ms=self._last_ms,
                provisional_until_ms=self._first_ms + self._parameters.provisional_ms,
                open_interest_base=self._base,
                long_short_ratio=self._ratio,
                funding_rate=self._funding,
                gaps=self._gaps,
                preset=self._preset,
                progress=1.0,
                version=self._version,
            )
        )
        message = {"version": self._version, "as_of_ms": self._as_of_ms, "mark_price": self._mark}
        self._cache.publish(self.market.id, message)


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


def _last(frame: pl.DataFrame) -> float | None:
    return None if frame.is_empty() else float(frame[frame.columns[1]][-1])


Report = Callable[[float, str], None]


def build_source(settings: Settings) -> Source:
    """Make the source the settings ask for.

    Raises
    ------
    SettingsError
        If a recording is asked for without a path.
    """
    if settings.source == "simulated":
        return SimulatedSource(settings.seed, days=settings.days)
    if settings.recording is None:
        raise SettingsError("source 'recorded' needs a file or folder: --data PATH or LIQHEAT_RECORDING=PATH")
    return RecordedSource(settings.recording, replay=settings.replay)


async def follow(source: Source, cache: Cache, preset: Preset, report: Report) -> None:
    """Publish every market of `source`: the past in parallel, most important first, then live for ever.

    Parameters
    ----------
    source : Source
    cache : Cache
        Emptied of markets first; it is rebuilt from the source.
    preset : str
        Mix of effective leverages.
    report : callable
        Called with the share of the past done (0..1) and what is being done; also stored for the page.

    Raises
    ------
    SourceError
        If the source fails.
    CacheUnavailable
        If Redis is gone; what is missing is rebuilt by starting again.
    """
    cache.clear_markets()
    markets = await asyncio.to_thread(source.markets)
    shares = [0.0] * len(markets)
    places = asyncio.Semaphore(max(1, min(os.cpu_count() or 1, 4)))

    async def load(rank: int, market: Market) -> MarketFollower:
        def progress(done: float, text: str) -> None:
            shares[rank] = done
            total = sum(shares) / len(shares)
            cache.put_progress(total, text)
            report(total, text)

        async with places:
            return await asyncio.to_thread(_load, source, cache, preset, rank, market, progress)

    followers = await asyncio.gather(*(load(rank, market) for rank, market in enumerate(markets)))
    cache.put_progress(1.0, "following live" if source.origin is not Origin.RECORDED else "recording loaded")
    report(1.0, f"{len(markets)} markets ready")
    by_id = {f.market.id: f for f in followers}
    async for update in source.watch():
        by_id[update.market.id].apply(update)
    await asyncio.Event().wait()  # a recording that has ended stays on show


def _load(source: Source, cache: Cache, preset: Preset, rank: int, market: Market, progress: Report) -> MarketFollower:
    """Fetch and compute the past of one market; fetching counts for nine tenths of its progress."""
    history = source.history(market, lambda done, text: progress(0.9 * done, text))
    progress(0.9, f"estimating {market.id}")
    follower = MarketFollower(market, rank, source, cache, preset)
    follower.backfill(history)
    progress(1.0, f"{market.id} ready")
    return follower
