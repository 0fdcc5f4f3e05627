"""Reading a view from the cache: venues on one time axis, added up, with what is missing kept visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from dashboard.band import Band, read_band
from dashboard.measured import Measured, read_measured
from dashboard.prints import day_totals, largest, largest_of_day, read_prints, reporting_venues
from dashboard.view import ALL_TIERS, Lens, Range, SideFilter, ViewError, ViewState
from estimator import latest
from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, TIME, Basis, Float32Array, Int64Array, Origin
from estimator.errors import LiqheatError
from estimator.latest import Live, read_live
from estimator.model.clusters import PAIN_REACH
from estimator.model.combine import STOCKS, WEIGHTED, combine_venues, complete
from estimator.model.grid import LEVELS, LiquidationGrid, add_grids
from estimator.model.series import SERIES, SUMMED

MAX_ROWS: Final = 400
LENS_MARGIN: Final = 0.06  # log price read beyond the window, so that its edges have a background too
WARM_UP: Final = 150  # candles before the range, after which Wilder's average has forgotten its start
STALE_MS: Final = 120_000  # a venue this far behind the freshest one is called stale
MIN_HALF_WINDOW: Final = 0.04
WINDOW_GROWTH: Final = 0.4
MAX_HALF_WINDOW: Final = 0.6


class NotReady(LiqheatError):
    """The worker has not filled the cache as far as the view needs."""

    def __init__(self, reason: str, progress: float | None = None) -> None:
        self.reason, self.progress = reason, progress
        super().__init__(reason)


@dataclass(frozen=True, slots=True, eq=False)
class ChartFrame:
    """Everything a picture of one view shows.

    Parameters
    ----------
    view : ViewState
    statuses : tuple of MarketStatus
        The venues added up, by falling open interest in USD; the first one's candles are drawn.
    time_ms : Int64Array, shape (n_time,)
        Close time of every column, evenly spaced, without holes.
    live : bool
        Whether the last column is the open interval, which still changes.
    grid : LiquidationGrid
        Sum of the venues on `time_ms`, the view's tiers and sides only, wider than `window` by `LENS_MARGIN`.
    present : array of bool, shape (n_venue, n_time)
        Whether a venue has the column; where it has not, it adds nothing and the picture says so.
    now : LiquidationGrid
        The latest column of every venue, added up, on the finest lattice, with the tiers of the view; as wide as
        `window` and as max pain is looked for.
    window : tuple of float
        Lowest and highest price shown.
    series : polars.DataFrame, n_time rows
        One row per column (`SERIES` and ``rsi``), null where there is nothing.
    prints : polars.DataFrame
        Realised liquidations in the range (`LIQUIDATIONS`, ``exchange`` and ``time_ms``), the largest `MAX_SHOWN`
        of them.
    day : polars.DataFrame
        Realised liquidations of the last 24 h, a row per venue that reports any: ``exchange, long_usd, short_usd``.
    largest_print : dict, optional
        The largest print of the last 24 h.
    loading : tuple of str
        Venues of the view whose past is still being loaded: they add nothing yet.
    band : Band, optional
        How far other assumptions lead; only where the view asks for it and it has been computed.
    measured : Measured, optional
        Levels that venues of the view publish by account, as wide as `now`; only where any does.
    price_before : float, optional
        Price of the first venue a day ago. [quote currency]
    """

    view: ViewState
    statuses: tuple[MarketStatus, ...]
    time_ms: Int64Array
    live: bool
    grid: LiquidationGrid
    present: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    now: LiquidationGrid
    window: tuple[float, float]
    series: pl.DataFrame
    prints: pl.DataFrame
    day: pl.DataFrame
    largest_print: dict[str, object] | None
    loading: tuple[str, ...] = ()
    band: Band | None = None
    measured: Measured | None = None
    price_before: float | None = None

    @property
    def interval_ms(self) -> int:
        """Time between columns."""
        return self.view.span.interval_ms

    @property
    def as_of_ms(self) -> int:
        """Time of the freshest venue."""
        return max(s.as_of_ms for s in self.statuses)

    @property
    def mark_price(self) -> float:
        """Mark price of the venue whose candles are drawn."""
        return self.statuses[0].mark_price

    @property
    def prints_basis(self) -> str:
        """How realised liquidations are known: ``none`` at all, ``simulated`` or ``measured``."""
        return "none" if self.day.is_empty() else self.observed_basis

    @property
    def observed_basis(self) -> str:
        """What is observed is: ``simulated`` or ``measured``."""
        return "simulated" if self.statuses[0].origin is Origin.SIMULATED else Basis.MEASURED.value

    def is_stale(self, status: MarketStatus) -> bool:
        """Whether a venue lags behind the freshest one."""
        return self.as_of_ms - status.as_of_ms > STALE_MS


def read_statuses(cache: Cache) -> list[MarketStatus]:
    """Return every market on offer.

    Raises
    ------
    NotReady
        While none is loaded, with the worker's progress.
    """
    statuses = cache.get_statuses()
    if not any(s.loaded for s in statuses):
        progress = cache.get_progress()
        if progress is None:
            raise NotReady("the worker has not started to fill the cache")
        raise NotReady(f"the worker is starting: {progress.text}", progress.done)
    return statuses


def select_statuses(statuses: Sequence[MarketStatus], view: ViewState) -> tuple[MarketStatus, ...]:
    """Return the markets of a view, by falling open interest in USD.

    Raises
    ------
    ViewError
        If the coin or a venue of it is not on offer.
    NotReady
        If none of them is loaded yet.
    """
    of_symbol = [s for s in statuses if s.base == view.symbol]
    if not of_symbol:
        raise ViewError("symbol", view.symbol, "one of " + ", ".join(dict.fromkeys(s.base for s in statuses)))
    offered = {s.exchange for s in of_symbol}
    if not set(view.venues) <= offered:
        raise ViewError("venues", ",".join(view.venues), "'all' or some of " + ",".join(sorted(offered)))
    chosen = [s for s in _wanted(statuses, view) if s.loaded]
    if not chosen:
        raise NotReady(f"{view.symbol} is being loaded", 0.0)
    return latest.by_open_interest(chosen)


def _wanted(statuses: Sequence[MarketStatus], view: ViewState) -> list[MarketStatus]:
    """Markets a view asks for, loaded or not."""
    return [s for s in statuses if s.base == view.symbol and (not view.venues or s.exchange in view.venues)]


def read_frame(cache: Cache, view: ViewState, statuses: Sequence[MarketStatus] | None = None) -> ChartFrame:
    """Read a view. Blocks: call it in a thread.

    Parameters
    ----------
    statuses : sequence of MarketStatus, optional
        What `read_statuses` returned; read again when absent.

    Raises
    ------
    ViewError
        If the symbol or a venue is not on offer.
    NotReady
        If no venue of the view has columns of its range yet.
    CacheError
        If the cache fails.
    """
    offered = read_statuses(cache) if statuses is None else statuses
    chosen = select_statuses(offered, view)
    closed_ms = max(s.last_ms for s in chosen) // view.span.interval_ms * view.span.interval_ms
    lives = [read_live(cache, s, closed_ms) for s in chosen]
    time_ms = _axis(view.span, closed_ms, live=any(lives))
    rows = [_venue_rows(cache, s, view.span, time_ms, live) for s, live in zip(chosen, lives, strict=True)]
    series = combine_venues(rows, [s.open_interest_base for s in chosen]).tail(len(time_ms))
    window = view.price or default_window(series, chosen[0].mark_price)
    grids = [_venue_grid(cache, s, view, time_ms, window, live) for s, live in zip(chosen, lives, strict=True)]
    found = [g for g in grids if g is not None]
    if not found:
        raise NotReady(f"no columns of {view.symbol} for {view.range} yet", min(s.progress for s in chosen))
    start_ms, as_of_ms = int(time_ms[0]) - view.span.interval_ms, max(s.as_of_ms for s in chosen)
    prints = read_prints(cache, chosen, min(start_ms, as_of_ms - DAY_MS), int(time_ms[-1]))
    grid = _on_axis(_one_side(add_grids(found), view.side), time_ms)
    present = np.array([np.isin(time_ms, () if g is None else _times(g)) for g in grids])
    wide = _with_pain(window, chosen[0].mark_price)
    unsure = view.lens is Lens.CERTAIN and view.tiers == ALL_TIERS  # members are not told apart by leverage
    return ChartFrame(
        view=view,
        statuses=chosen,
        loading=tuple(s.exchange for s in _wanted(offered, view) if not s.loaded),
        time_ms=time_ms,
        live=any(lives),
        grid=grid,
        present=present,
        band=read_band(cache, chosen, view, grid, window, present) if unsure else None,
        now=_one_side(read_now(cache, chosen, view, wide, lives), view.side),
        measured=read_measured(cache, chosen, view, wide),
        window=window,
        series=series,
        prints=largest(prints.filter(pl.col("time_ms") >= start_ms)),
        day=day_totals(prints, as_of_ms, reporting_venues(rows, prints, chosen)),
        largest_print=largest_of_day(prints, as_of_ms),
        price_before=latest.read_day_before(cache, chosen[0])[0],
    )


def _with_pain(window: tuple[float, float], mark_price: float) -> tuple[float, float]:
    """Widen a window to all prices where max pain is looked for."""
    low, high = mark_price * np.exp((-PAIN_REACH, PAIN_REACH))
    return min(window[0], float(low)), max(window[1], float(high))


def default_window(series: pl.DataFrame, mark_price: float) -> tuple[float, float]:
    """Choose the price window: the candles with room around them, wider where the price moves more.

    To either side of the mark ``.4 * sqrt(s)`` of log price, `s` being the standard deviation of the return over the
    whole range (6 % for a day that moves 2.5 %, 36 % for a year that moves 80 %), at least 4 %; and no less than the
    candles with a sixth of their span as a margin.
    """
    low, high = (v if isinstance(v, float) else mark_price for v in (series["low"].min(), series["high"].max()))
    log_close = np.log(series["close"].drop_nulls().to_numpy())
    moved = float(np.std(np.diff(log_close)) * np.sqrt(len(log_close))) if len(log_close) > 2 else 0.0
    half = min(max(MIN_HALF_WINDOW, WINDOW_GROWTH * moved**0.5), MAX_HALF_WINDOW)
    margin = np.log(high / low) / 6
    return (
        float(min(mark_price * np.exp(-half), low * np.exp(-margin))),
        float(max(mark_price * np.exp(half), high * np.exp(margin))),
    )


def _axis(span: Range, closed_ms: int, *, live: bool) -> Int64Array:
    """Close times of the range's closed columns, and of the open interval when there is a live column."""
    n_time = span.columns + int(live)
    return closed_ms + (np.arange(n_time, dtype=np.int64) - (span.columns - 1)) * span.interval_ms


def _times(grid: LiquidationGrid) -> Int64Array:
    return grid.time.astype("datetime64[ms]").astype(np.int64)


def _venue_grid(
    cache: Cache,
    status: MarketStatus,
    view: ViewState,
    time_ms: Int64Array,
    window: tuple[float, float],
    live: Live | None,
) -> LiquidationGrid | None:
    span, tiers = view.span, view.tiers != ALL_TIERS
    low, high = window[0] * np.exp(-LENS_MARGIN), window[1] * np.exp(LENS_MARGIN)
    closed_ms = int(time_ms[span.columns - 1])
    stored = cache.get_columns(status.id, span.level, closed_ms - span.duration_ms, closed_ms, tiers=tiers)
    parts = [stored] if stored is not None else []
    if live is not None:
        # The open column sits on the finest lattice and may end before its interval does.
        open_column = live[0].coarsen(LEVELS[span.level].price_factor)
        parts.append(replace(open_column, time=np.array([time_ms[-1]], dtype="datetime64[ms]")))
    if not parts:
        return None
    factor = max(1, -(-int(np.log(high / low) / parts[0].bin_width) // MAX_ROWS))
    chosen = [p.with_tiers(view.tier_names) if tiers else replace(p, tier_source=None) for p in parts]
    return add_grids([replace(p.crop(low, high).coarsen(factor), tier_source=None) for p in chosen])


def read_now(
    cache: Cache,
    statuses: Sequence[MarketStatus],
    view: ViewState,
    window: tuple[float, float],
    lives: Sequence[Live | None],
) -> LiquidationGrid:
    """Return the latest column of every venue, added up, with the tiers of a view.

    Parameters
    ----------
    window : tuple of float
        Lowest and highest price.
    lives : sequence
        What `read_live` gave for each venue.

    Raises
    ------
    NotReady
        If no venue has one.
    """
    grid = latest.read_now(cache, statuses, window, lives)
    if grid is None:
        raise NotReady(f"no levels of {view.symbol} yet", min(s.progress for s in statuses))
    return grid.with_tiers(view.tier_names)


def _one_side(grid: LiquidationGrid, side: SideFilter) -> LiquidationGrid:
    if side is SideFilter.BOTH:
        return grid
    source, zero = grid.tier_source, np.zeros_like(grid.long_usd)

    def pair(long_usd: Float32Array, short_usd: Float32Array) -> tuple[Float32Array, Float32Array]:
        return (long_usd, zero) if side is SideFilter.LONG else (zero, short_usd)

    long_usd, short_usd = pair(grid.long_usd, grid.short_usd)
    tiers = None if source is None else lambda index: pair(*source(index))
    return replace(grid, long_usd=long_usd, short_usd=short_usd, tier_source=tiers)


def _on_axis(grid: LiquidationGrid, time_ms: Int64Array) -> LiquidationGrid:
    """Put the columns on the axis; columns nobody has are empty."""
    rows = np.searchsorted(time_ms, _times(grid))

    def spread(usd: Float32Array) -> Float32Array:
        out = np.zeros((len(time_ms), usd.shape[1]), dtype=np.float32)
        out[rows] = usd
        return out

    axis = time_ms.astype("datetime64[ms]")
    return replace(grid, time=axis, long_usd=spread(grid.long_usd), short_usd=spread(grid.short_usd))


def _venue_rows(
    cache: Cache,
    status: MarketStatus,
    span: Range,
    time_ms: Int64Array,
    live: Live | None,
) -> pl.DataFrame:
    """Series of one venue on the axis and `WARM_UP` rows before it."""
    step = span.interval_ms
    starts = np.arange(int(time_ms[0]) - (WARM_UP + 1) * step, int(time_ms[-1]), step, dtype=np.int64)
    axis = pl.DataFrame({"time": pl.Series(starts).cast(TIME)})
    stored = cache.get_series(status.id, span.level, int(starts[0]), int(time_ms[-1]))
    frames = [] if stored is None else [complete(stored)]
    if live is not None:
        open_ms = int(time_ms[-1]) - step
        parts = [live[1]] if span.level == 0 else [cache.get_series(status.id, 0, open_ms, int(time_ms[-1])), live[1]]
        frames.append(_one_candle([complete(p) for p in parts if p is not None], open_ms))
    if not frames:
        return axis.with_columns(pl.lit(None, pl.Float64).alias(n) for n in SERIES)
    rows = pl.concat(frames).unique("time", keep="first", maintain_order=True)
    return axis.join(rows, on="time", how="left", maintain_order="left")


def _one_candle(frames: Sequence[pl.DataFrame], open_ms: int) -> pl.DataFrame:
    """Merge the finer candles of an interval that is still open."""
    rows = pl.concat(frames).filter(pl.col("time").dt.epoch("ms") >= open_ms).unique("time", keep="last").sort("time")
    if rows.is_empty():
        return rows
    flows = [pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).alias(n) for n in SUMMED]
    stocks = [pl.col(n).drop_nulls().last() for n in (*STOCKS, *WEIGHTED)]
    prices = [
        pl.col("open").drop_nulls().first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").drop_nulls().last(),
    ]
    time = pl.lit(open_ms).cast(pl.Int64).cast(TIME).alias("time")
    return rows.select(*prices, *stocks, *flows).select(time, *SERIES)
