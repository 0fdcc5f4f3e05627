"""One coin of the simulated market: what it is, on which venues it trades, and the run of its engine."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Float64Array, Market
from estimator.exchanges import agents
from estimator.exchanges.agents_state import BOOK_BINS, Records, build_engine
from estimator.model.margin import brackets_from_max_leverage

BURN_IN_MS: Final = 7 * DAY_MS  # fills the book before the first candle; about twice the longest mean holding time
BURN_IN_STEP_MS: Final = 10_000


class Coin(NamedTuple):
    """What one engine needs to know; `impact` as in `build_engine`."""

    base: str
    price: float
    annual_volatility: float  # exogenous; agents add about a tenth
    open_interest_base: float
    impact: float
    bracket_usd: float  # unit of the notional floors


class Venue(NamedTuple):
    """A venue and its part in all trading."""

    exchange: str
    share: float
    taker_fee_rate: float
    leverages: tuple[float, ...]  # maximum per tier


COINS: Final = (
    Coin("BTC", 60_000.0, 0.48, 130_000.0, 0.32, 300_000.0),
    Coin("ETH", 2_500.0, 0.58, 1_700_000.0, 0.31, 150_000.0),
    Coin("SOL", 150.0, 0.72, 9_000_000.0, 0.29, 50_000.0),
)
VENUES: Final = (
    Venue("binance", 0.5, 0.0005, (125.0, 100.0, 50.0, 20.0, 10.0, 5.0)),
    Venue("bybit", 0.3, 0.00055, (100.0, 75.0, 50.0, 25.0, 10.0, 5.0)),
    Venue("okx", 0.2, 0.0005, (100.0, 50.0, 25.0, 20.0, 10.0, 5.0)),
)
_FLOORS: Final = (0.0, 1.0, 4.0, 20.0, 80.0, 300.0)  # of the tiers, in units of the coin's bracket_usd


def _build_markets(coin: Coin) -> tuple[Market, ...]:
    return tuple(
        Market(
            exchange=venue.exchange,
            symbol=f"{coin.base}/USDT:USDT",
            contract="linear",
            brackets=brackets_from_max_leverage(
                [(floor * coin.bracket_usd, top) for floor, top in zip(_FLOORS, venue.leverages, strict=True)]
            ),
            taker_fee_rate=venue.taker_fee_rate,
        )
        for venue in VENUES
    )


@dataclass(frozen=True, slots=True)
class Stretch:
    """What an engine showed while advancing: closed minutes (n, n_venue, N_COLUMNS) from `start_ms` on, and prints."""

    start_ms: int
    minutes: Float64Array
    prints: Records


class Run:
    """One coin: its engine, its past, and the lock that orders access to both."""

    def __init__(self, coin: Coin, seed: np.random.SeedSequence, start_ms: int, end_ms: int, step_ms: int) -> None:
        self.coin, self.start_ms, self.end_ms, self.step_ms = coin, start_ms, end_ms, step_ms
        self.markets = _build_markets(coin)
        self.lock = threading.Lock()
        self.share_done = 0.0
        self.books = np.zeros((0, len(VENUES), 2, BOOK_BINS), dtype=np.float32)
        self._no_books = self.books
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self.engine = build_engine(
            price=coin.price,
            annual_volatility=coin.annual_volatility,
            open_interest_base=coin.open_interest_base,
            impact=coin.impact,
            shares=[venue.share for venue in VENUES],
            markets=self.markets,
            time_ms=start_ms - BURN_IN_MS,
        )

    @property
    def time_ms(self) -> int:
        """Market time the engine has reached."""
        return int(self.engine.state["time_ms"][0])

    def simulate(self, *, keep_books: bool) -> Stretch:
        """Fill the book, then simulate the whole past a day at a time."""
        with self.lock:
            self._advance_to(self.start_ms, BURN_IN_STEP_MS, keep_minutes=False)
            if keep_books:
                n_hour = self.end_ms // HOUR_MS - self.start_ms // HOUR_MS
                self.books = np.zeros((n_hour, *self._no_books.shape[1:]), dtype=np.float32)
            parts = []
            while self.time_ms < self.end_ms:
                parts.append(self._advance_to(min(self.time_ms + DAY_MS, self.end_ms), self.step_ms))
                self.share_done = (self.time_ms - self.start_ms) / (self.end_ms - self.start_ms)
            return Stretch(
                self.start_ms, np.concatenate([p.minutes for p in parts]), np.concatenate([p.prints for p in parts])
            )

    def catch_up(self, target_ms: int) -> Stretch:
        """Advance by whole steps to `target_ms` at the latest."""
        with self.lock:
            return self._advance_to(target_ms - target_ms % self.step_ms, self.step_ms)

    def _advance_to(self, target_ms: int, step_ms: int, *, keep_minutes: bool = True) -> Stretch:
        start_ms = self.time_ms - self.time_ms % MINUTE_MS
        n_minute = max(target_ms - start_ms, 0) // MINUTE_MS if keep_minutes else 0
        minutes = np.zeros((n_minute, len(VENUES), agents.N_COLUMNS))
        books = self.books if self.time_ms < self.end_ms else self._no_books
        state, prints = self.engine.state, []
        state["n_rows"] = 0
        while (steps := (target_ms - self.time_ms) // step_ms) > 0:
            agents.advance(self.engine, self._rng, steps, step_ms, minutes, books)
            prints.append(self.engine.prints[: int(state["n_prints"][0])].copy())
            state["n_prints"] = 0
        return Stretch(start_ms, minutes, np.concatenate(prints) if prints else self.engine.prints[:0].copy())

    def read_minute(self) -> Float64Array:
        """Read the current, unfinished minute, shape (n_venue, N_COLUMNS)."""
        out = np.zeros((len(VENUES), agents.N_COLUMNS))
        agents.read_minute(self.engine, out)
        return out
