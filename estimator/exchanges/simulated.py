"""A simulated market: three coins on three venues, with the true book that real venues hide.

Numbers from here prove that the estimator is internally right, never that it is right about a market (method.md,
section 3). The engine is in `estimator.exchanges.agents`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from estimator.domain import (
    DAY_MS,
    HOUR_MS,
    LIQUIDATIONS,
    MINUTE_MS,
    TIME,
    Candle,
    Float32Array,
    Float64Array,
    Int64Array,
    Liquidation,
    Market,
    Observation,
    Origin,
    Side,
    TimeArray,
)
from estimator.errors import ParameterError
from estimator.exchanges import agents
from estimator.exchanges.agents_state import Records
from estimator.exchanges.base import MarketHistory, MarketUpdate, Progress
from estimator.exchanges.simulated_run import BURN_IN_STEP_MS, COINS, Run, Stretch
from estimator.model.holdings import Account, Holding, Observed, observe

_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS
_CANDLE: Final = (*range(agents.OPEN, agents.BUY + 1), agents.MARK_HIGH, agents.MARK_LOW)  # as in `Candle`
_LONGEST_CATCH_UP_MS: Final = HOUR_MS  # of one round of watch(), so that a long sleep is made good piece by piece
_PUBLISHER: Final = 0  # index of the venue that publishes positions; a real one is Hyperliquid
_PUBLISHED_OF: Final = 2  # one in so many of its agents is asked
_STEPS_IN_LOOP: Final = 300  # more than these go to a thread, away from the event loop


class TrueBook(NamedTuple):
    """The agents' live positions on one market, in no particular order.

    Attributes
    ----------
    liquidation_price : Float64Array, shape (n,)
        Mark price at which each is liquidated. [quote]
    quantity_base : Float64Array, shape (n,)
    side : Int64Array, shape (n,)
        +1 long, -1 short.
    """

    liquidation_price: Float64Array
    quantity_base: Float64Array
    side: Int64Array


class TrueBookHistory(NamedTuple):
    """The true book at each full hour, on the lattice of `estimator.model.grid`.

    Attributes
    ----------
    time : TimeArray, shape (n_hour,)
    first_bin : int
        Lattice index of the first column (`BIN_WIDTH`).
    long_base, short_base : Float32Array, shape (n_hour, BOOK_BINS)
        Base quantity liquidated if the mark price reaches the bin.
    """

    time: TimeArray
    first_bin: int
    long_base: Float32Array
    short_base: Float32Array


class SimulatedSource:
    """Agent-based market, the same for the same arguments; a `Source`.

    Continuing live takes the same steps as the past was made of: what `watch` yields is, bit for bit, what a longer
    history from the same start would hold.

    Parameters
    ----------
    seed : int
        >= 0.
    end_ms : int, optional
        End of the history and start of `watch`, floored to the minute. By default now, and market time is then
        wall-clock time; if given, market time stands still at it until `watch` is first called.
    days : float
        Length of the history.
    speed : float
        Market seconds per second in `watch`.
    step_ms : int
        Step of the engine; divides a minute.
    keep_books : bool
        Keep the true book at every full hour of the history for `true_book_history` (about 23 kB per hour and market).

    Raises
    ------
    ParameterError
        Naming the parameter.
    """

    origin: Origin = Origin.SIMULATED

    def __init__(
        self,
        seed: int,
        *,
        end_ms: int | None = None,
        days: float = 30.0,
        speed: float = 1.0,
        step_ms: int = 1000,
        keep_books: bool = False,
    ) -> None:
        _check(seed, days, speed, step_ms)
        now_ms = _now_ms()
        self._end_ms = (now_ms if end_ms is None else end_ms) // MINUTE_MS * MINUTE_MS
        self._start_ms = self._end_ms - max(round(days * DAY_MS / MINUTE_MS), 1) * MINUTE_MS
        self._wall_anchor_ms = self._end_ms if end_ms is None else None
        self._speed, self._step_ms, self._keep_books = speed, step_ms, keep_books
        seeds = np.random.SeedSequence(seed).spawn(len(COINS))
        self._runs = {
            coin.base: Run(coin, s, self._start_ms, self._end_ms, step_ms) for coin, s in zip(COINS, seeds, strict=True)
        }
        self._pasts: dict[str, Future[Stretch]] = {}
        self._starting = threading.Lock()
        self.description = f"agent-based simulated market, seed {seed}, not real"

    def markets(self) -> Sequence[Market]:
        """Return the nine markets, BTC first."""
        return [market for run in self._runs.values() for market in run.markets]

    def history(self, market: Market, progress: Progress) -> MarketHistory:
        """Return the simulated past of `market` up to the end given; the first call starts every coin, two at a time.

        Raises
        ------
        ParameterError
            If the market is not one of `markets`.
        """
        run, venue = self._find(market)
        past = self._past(run.coin.base)
        while not wait([past], timeout=0.1).done:
            progress(run.share_done, f"simulating {run.coin.base}")
        stretch = past.result()
        progress(1.0, f"simulated {run.coin.base}")
        return _build_history(market, stretch, venue)

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        """Yield updates of every market for ever, from the end of the history on.

        One consumer at a time; a later one goes on where the last stopped. A delayed loop catches up minute by minute.
        """
        for base in self._runs:
            await asyncio.shield(asyncio.wrap_future(self._past(base)))  # others may be waiting for it too
        while True:
            target_ms = self._market_now_ms()
            behind = False
            for run in self._runs.values():
                goal_ms = min(target_ms, run.time_ms + _LONGEST_CATCH_UP_MS)
                behind |= goal_ms < target_ms
                for update in await self._advance(run, goal_ms):
                    yield update
            await asyncio.sleep(0.0 if behind else self._step_ms / 1000.0 / self._speed)

    def true_book(self, market: Market) -> TrueBook:
        """Return the hidden book now: what the estimator is to find."""
        run, venue = self._find(market)
        self._past(run.coin.base).result()
        with run.lock:
            engine = run.engine
            live = engine.positions[engine.live[: int(engine.state["n_live"][0])]]
        live = live[(live["venue"] == venue) & np.isfinite(live["liquidation"])]
        return TrueBook(np.exp(live["liquidation"]), live["quantity"].copy(), live["side"].copy())

    def published_markets(self) -> Sequence[Market]:
        """Return the markets of the one venue that publishes positions."""
        return [run.markets[_PUBLISHER] for run in self._runs.values()]

    def observed(self, market: Market) -> Observed | None:
        """Return what every second agent holds now, one position each, as of a venue that publishes positions.

        Raises
        ------
        ParameterError
            If the market is not one of `markets`.
        """
        run, venue = self._find(market)
        self._past(run.coin.base).result()
        with run.lock:
            engine, now_ms = run.engine, run.time_ms
            chosen = engine.live[: int(engine.state["n_live"][0])]
            held = engine.positions[chosen[chosen % _PUBLISHED_OF == 0]]
            mark = float(np.exp(engine.state["x"][0]))
        held = held[held["venue"] == venue]
        prices = np.exp(held["liquidation"])
        rows = zip(held["side"].tolist(), held["quantity"].tolist(), prices.tolist(), strict=True)
        return observe([Account(now_ms, (_holding(market, *row, mark),)) for row in rows], market.id)

    def true_book_history(self, market: Market) -> TrueBookHistory:
        """Return the hidden book at each full hour of the history.

        Raises
        ------
        ParameterError
            If the source was made without ``keep_books``.
        """
        run, venue = self._find(market)
        if not self._keep_books:
            raise ParameterError("keep_books", False, "True, to have the true book of the past")
        self._past(run.coin.base).result()
        first_ms = (self._start_ms // HOUR_MS + 1) * HOUR_MS
        hours = first_ms + HOUR_MS * np.arange(len(run.books), dtype=np.int64)
        return TrueBookHistory(
            hours.astype("datetime64[ms]"),
            int(run.engine.parameter["first_book_bin"][0]),
            run.books[:, venue, 0],
            run.books[:, venue, 1],
        )

    def _find(self, market: Market) -> tuple[Run, int]:
        run = self._runs.get(market.base)
        if run is None or market not in run.markets:
            raise ParameterError("market", market.id, f"one of {', '.join(m.id for m in self.markets())}")
        return run, run.markets.index(market)

    def _past(self, base: str) -> Future[Stretch]:
        with self._starting:
            if not self._pasts:
                pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="simulate")
                self._pasts = {
                    k: pool.submit(run.simulate, keep_books=self._keep_books) for k, run in self._runs.items()
                }
                pool.shutdown(wait=False)
        return self._pasts[base]

    def _market_now_ms(self) -> int:
        now_ms = _now_ms()
        if self._wall_anchor_ms is None:
            self._wall_anchor_ms = now_ms
        return self._end_ms + int(self._speed * (now_ms - self._wall_anchor_ms))

    async def _advance(self, run: Run, target_ms: int) -> list[MarketUpdate]:
        if (target_ms - run.time_ms) // self._step_ms > _STEPS_IN_LOOP:
            return await asyncio.to_thread(_advance_run, run, target_ms)
        return _advance_run(run, target_ms)


def compile_kernels() -> None:
    """Compile the engine into Numba's on-disk cache, so that the first start need not."""
    run = Run(COINS[0], np.random.SeedSequence(0), 0, MINUTE_MS, BURN_IN_STEP_MS)
    run.simulate(keep_books=False)
    run.read_minute()


def _holding(market: Market, side: int, quantity: float, price: float, mark: float) -> Holding:
    liquidated = 0 < price < np.inf  # at 1x none is
    return Holding(
        market.id, Side.LONG if side > 0 else Side.SHORT, quantity, quantity * mark, price if liquidated else None
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check(seed: int, days: float, speed: float, step_ms: int) -> None:
    if seed < 0:
        raise ParameterError("seed", seed, "an integer >= 0")
    if not 0.0 < days < float("inf"):
        raise ParameterError("days", days, "a positive number of days")
    if not 0.0 < speed < float("inf"):
        raise ParameterError("speed", speed, "a positive number of market seconds per second")
    if step_ms <= 0 or MINUTE_MS % step_ms:
        raise ParameterError("step_ms", step_ms, "milliseconds that divide a minute")


def _times(time_ms: Int64Array) -> pl.Series:
    return pl.Series("time", time_ms).cast(TIME)


def _build_history(market: Market, past: Stretch, venue: int) -> MarketHistory:
    rows = past.minutes[:, venue]
    end_ms = past.start_ms + MINUTE_MS * np.arange(1, len(rows) + 1, dtype=np.int64)
    five = end_ms % _FIVE_MINUTES_MS == 0
    paid = end_ms % agents.FUNDING_INTERVAL_MS == 0
    columns = {
        "open": agents.OPEN, "high": agents.HIGH, "low": agents.LOW, "close": agents.CLOSE, "volume": agents.VOLUME,
        "taker_buy_volume": agents.BUY, "mark_high": agents.MARK_HIGH, "mark_low": agents.MARK_LOW,
    }  # fmt: skip
    candles = {name: rows[:, column] for name, column in columns.items()}
    return MarketHistory(
        market=market,
        interval_ms=MINUTE_MS,
        candles=pl.DataFrame({"time": _times(end_ms - MINUTE_MS), **candles}),
        open_interest=pl.DataFrame({"time": _times(end_ms[five]), "open_interest": rows[five, agents.INTEREST]}),
        long_short_ratio=pl.DataFrame({"time": _times(end_ms[five]), "long_short_ratio": rows[five, agents.RATIO]}),
        funding_rate=pl.DataFrame({"time": _times(end_ms[paid]), "funding_rate": rows[paid, agents.FUNDING]}),
        liquidations=_build_liquidations(past.prints[past.prints["venue"] == venue]),
        funding_interval_ms=agents.FUNDING_INTERVAL_MS,
    )


def _build_liquidations(prints: Records) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "time": _times(prints["time_ms"]),
            "side": np.where(prints["side"] > 0, Side.LONG.value, Side.SHORT.value).tolist(),
            "price": prints["price"],
            "quantity_base": prints["quantity"],
            "notional_usd": prints["price"] * prints["quantity"],
        },
        schema_overrides={"side": LIQUIDATIONS["side"]},
    )
    return frame.sort("time", maintain_order=True)


def _advance_run(run: Run, target_ms: int) -> list[MarketUpdate]:
    """Advance one coin and report every minute closed on the way, then the open one."""
    before_ms = run.time_ms
    stretch = run.catch_up(target_ms)
    updates: list[MarketUpdate] = []
    for k, row in enumerate(stretch.minutes):
        updates += _build_updates(run, row, stretch.start_ms + k * MINUTE_MS, stretch.prints, closed=True)
    open_ms = run.time_ms - run.time_ms % MINUTE_MS
    if before_ms < run.time_ms != open_ms:
        updates += _build_updates(run, run.read_minute(), open_ms, stretch.prints, closed=False)
    return updates


def _build_updates(
    run: Run, row: Float64Array, start_ms: int, prints: Records, *, closed: bool
) -> Iterator[MarketUpdate]:
    now_ms = start_ms + MINUTE_MS if closed else run.time_ms
    here = prints[(prints["time_ms"] >= start_ms) & (prints["time_ms"] < start_ms + MINUTE_MS)]
    for venue, market in enumerate(run.markets):
        values = [float(value) for value in row[venue]]
        yield MarketUpdate(
            market=market,
            time_ms=now_ms,
            mark_price=values[agents.CLOSE],
            candle=Candle(start_ms, *(values[column] for column in _CANDLE)),
            candle_closed=closed,
            open_interest=Observation(now_ms, values[agents.INTEREST]),
            long_short_ratio=(
                Observation(now_ms, values[agents.RATIO]) if closed and now_ms % _FIVE_MINUTES_MS == 0 else None
            ),
            funding_rate=(
                Observation(now_ms, values[agents.FUNDING])
                if closed and now_ms % agents.FUNDING_INTERVAL_MS == 0
                else None
            ),
            liquidations=tuple(_build_print(p) for p in here[here["venue"] == venue]),
        )


def _build_print(record: Records) -> Liquidation:
    price, quantity = float(record["price"]), float(record["quantity"])
    side = Side.LONG if record["side"] > 0 else Side.SHORT
    return Liquidation(int(record["time_ms"]), side, price, quantity, price * quantity)
