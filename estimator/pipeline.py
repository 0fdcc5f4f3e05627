"""source → position book → columns → cache, for many markets: the past at once, then live."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
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
        self._contracts: float | None = None
        self._ratio: float | None = None
        self._funding: float | None = None
        self._today = pl.DataFrame()  # step rows since the last boundary of the coarsest level
        self._gaps: tuple[Gap, ...] = ()
        self._first_ms = self._last_ms = 0
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
        self._remember(history, rows, float(steps.contracts[-1]))
        self._publish_status()
        if self._origin is not Origin.LIVE:  # told anew by every run: what an earlier one said is not this market's
            self._cache.forget_liquidations(self.market.id)
        self._cache.add_liquidations(self.market.id, liquidations_of(history.liquidations))

    def apply(self, update: MarketUpdate) -> None:
        """Take in what is new; a step that closes becomes a column for good."""
        self._observe(update)
        start = update.candle.time_ms
        if self._open and start // self._step_ms != self._open[0].time_ms // self._step_ms:
            self._close_step()  # the rest of its candles never came
        if start + self._interval_ms <= self._last_ms:
            return  # already part of a closed column, which is never rewritten
        if update.candle_closed:
            self._open.append(update.candle)
            if (start + self._interval_ms) % self._step_ms == 0:
                self._close_step()
        now = time.monotonic()
        if now - self._published >= PUBLISH_S:
            self._published = now
            self._publish_open(None if update.candle_closed else update.candle)

    def _observe(self, update: MarketUpdate) -> None:
        self._as_of_ms, self._mark = update.time_ms, update.mark_price
        if update.open_interest is not None:
            self._base = update.open_interest.value
            self._contracts = contracts_of(self.market, self._base, update.mark_price)
        if update.long_short_ratio is not None:
            self._ratio = update.long_short_ratio.value
        if update.funding_rate is not None:
            self._funding = update.funding_rate.value
        if update.liquidations:
            self._has_prints = True
            self._prints.extend(update.liquidations)
            self._cache.add_liquidations(self.market.id, update.liquidations)

    def _close_step(self) -> None:
        """Step the book over the collected candles and publish the column on every level it belongs to."""
        close_ms = (self._open[0].time_ms // self._step_ms + 1) * self._step_ms
        if self._contracts is None:
            self._open.clear()
            return
        if close_ms - self._step_ms > self._last_ms:
            self._note_gap(Gap(self._last_ms, close_ms - self._step_ms, "candles"))
        grid, swept = self._book.step(self._open, self._contracts, close_ms=close_ms, long_short_ratio=self._ratio)
        closed = [p for p in self._prints if p.time_ms < close_ms]
        row = self._row(self._open, closed, swept, close_ms)
        self._open.clear()
        self._prints = [p for p in self._prints if p.time_ms >= close_ms]
        self._last_ms = close_ms
        self._today = pl.concat([self._today, row]) if len(self._today) else row
        for level, spec in enumerate(LEVELS):
            if close_ms % spec.interval_ms == 0:
                self._cache.put_columns(self.market.id, level, grid.coarsen(spec.price_factor))
                began = pl.lit(close_ms - spec.interval_ms).cast(TIME)
                merged = coarsen_series(self._today.filter(pl.col("time") >= began), spec.interval_ms)
                self._cache.put_series(self.market.id, level, merged)
        if close_ms % LEVELS[-1].interval_ms == 0:
            self._today = self._today.clear()

    def _publish_open(self, candle: Candle | None) -> None:
        """Show the step that is still open as a provisional column."""
        candles = [*self._open, candle] if candle is not None else self._open
        if candles and self._contracts is not None:
            close_ms = (candles[0].time_ms // self._step_ms + 1) * self._step_ms
            grid, swept = self._book.copy().step(
                candles, self._contracts, close_ms=close_ms, long_short_ratio=self._ratio
            )
            self._cache.put_live(self.market.id, grid, self._row(candles, self._prints, swept, close_ms))
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
            keep_ms = self._last_ms - spec.keep_ms - _WARM_UP * spec.interval_ms
            closed = self._last_ms // spec.interval_ms * spec.interval_ms
            inside = pl.col("time").dt.epoch("ms").is_between(keep_ms, closed, closed="left")
            merged = coarsen_series(rows.filter(inside), max(spec.interval_ms, self._step_ms))
            if not merged.is_empty():
                self._cache.put_series(self.market.id, level, merged)

    def _remember(self, history: MarketHistory, rows: pl.DataFrame, contracts: float) -> None:
        """Keep what the live part continues from."""
        day = self._last_ms // LEVELS[-1].interval_ms * LEVELS[-1].interval_ms
        self._today = rows.filter(pl.col("time").dt.epoch("ms") >= day)
        later = history.candles.filter(pl.col("time").dt.epoch("ms") >= self._last_ms)
        self._open = candles_of(later)
        recent = history.liquidations.filter(pl.col("time").dt.epoch("ms") >= self._last_ms)
        self._prints = liquidations_of(recent)
        last = history.candles.row(-1, named=True)
        self._mark = float(last["close"])
        self._as_of_ms = int(history.candles["time"].to_physical()[-1]) + history.interval_ms
        self._contracts = contracts
        self._base = _last(history.open_interest)
        self._ratio, self._funding = _last(history.long_short_ratio), _last(history.funding_rate)

    def _row(
        self, candles: Sequence[Candle], prints: Sequence[Liquidation], swept: Float64Array, close_ms: int
    ) -> pl.DataFrame:
        """One row of the series for a step of these candles."""
        realised: dict[Side, float | None] = {Side.LONG: None, Side.SHORT: None}
        if self._has_prints:
            realised = {side: sum(p.notional_usd for p in prints if p.side is side) for side in Side}
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

    def _note_gap(self, gap: Gap) -> None:
        self._gaps = (*self._gaps, gap)[-_MAX_GAPS:]

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
    columns = frame.select(pl.col("time").dt.epoch("ms"), "open", "high", "low", "close", "volume")
    return [Candle(*row) for row in columns.iter_rows()]


def liquidations_of(frame: pl.DataFrame) -> list[Liquidation]:
    """Turn rows of a liquidation frame into `Liquidation` values."""
    columns = frame.select(pl.col("time").dt.epoch("ms"), "side", "price", "quantity_base", "notional_usd")
    return [Liquidation(t, Side(side), *rest) for t, side, *rest in columns.iter_rows()]


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
