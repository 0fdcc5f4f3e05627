"""A small deterministic market for every venue and coin, with a clock that tests turn.

The path of a coin is a seeded walk in steps of ten seconds from `Feed.start_ms` on; candles, open interest, ratios,
funding and prints follow from it and from the names of venue and coin alone, so that what a venue said over REST and
over a socket can be compared with `Feed` itself.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Candle, Float64Array, Liquidation, Side

STEP_MS: Final = 10_000
STEPS: Final = MINUTE_MS // STEP_MS
OI_EVERY_MS: Final = 5 * MINUTE_MS
HELD_MS: Final = MINUTE_MS  # longer than a question at a close may be on its way where the clock is turned fast
FUNDING_EVERY_MS: Final = 8 * HOUR_MS
PRICES: Final = {"BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0, "XRP": 0.6}
PRINTS_PER_MINUTE: Final = 1.5


def first_price(coin: str) -> float:
    """Price of a coin when the feed begins; made up from its name where it is none of `PRICES`."""
    return PRICES.get(coin) or 2.0 + zlib.crc32(coin.encode()) % 500


@dataclass(frozen=True)
class FeedMarket:
    """One coin on one venue. Quantities in base coin.

    Where `held`, what is observed by asking changes only where it makes no difference when one asks: open interest
    `HELD_MS` after the close of each five minutes, ratio and funding never.
    """

    venue: str
    coin: str
    start_ms: int
    minutes: int
    prints_per_minute: float = PRINTS_PER_MINUTE
    held: bool = False

    def _random(self, what: str, *, shared: bool = False) -> np.random.Generator:
        name = f"{'' if shared else self.venue}/{self.coin}/{what}"
        return np.random.default_rng(zlib.crc32(name.encode()))

    @cached_property
    def path(self) -> Float64Array:
        """Prices, shape (minutes, STEPS + 1): the open and the price after each step; shared by the venues."""
        moves = self._random("path", shared=True).normal(0.0, 4e-4, self.minutes * STEPS)
        log_price = np.concatenate([[0.0], np.cumsum(moves - 0.002 * np.cumsum(moves) / len(moves))])
        price = np.round(first_price(self.coin) * np.exp(log_price), 4)
        starts = np.arange(self.minutes)[:, None] * STEPS
        steps: Float64Array = price[starts + np.arange(STEPS + 1)[None, :]]
        return steps

    @cached_property
    def volumes(self) -> Float64Array:
        """Volume and taker-buy volume by step, shape (2, minutes, STEPS)."""
        random = self._random("volume")
        volume = np.round(random.gamma(2.0, 3e5 / first_price(self.coin), (self.minutes, STEPS)), 3)
        return np.stack([volume, np.round(volume * random.uniform(0.3, 0.7, volume.shape), 3)])

    @cached_property
    def levels(self) -> Float64Array:
        """Open interest and account ratio by minute, shape (2, minutes)."""
        random = self._random("levels")
        open_interest = 2e9 / first_price(self.coin) * np.exp(np.cumsum(random.normal(0, 3e-4, self.minutes)))
        ratio = np.exp(0.3 + np.cumsum(random.normal(0, 1e-3, self.minutes)))
        return np.stack([np.round(open_interest, 3), np.round(ratio, 4)])

    def index(self, time_ms: int) -> int:
        """Minute of a time. IndexError before the start."""
        minute = (time_ms - self.start_ms) // MINUTE_MS
        if not 0 <= minute < self.minutes:
            raise IndexError(time_ms)
        return int(minute)

    def candle(self, time_ms: int) -> Candle:
        """Return the candle that holds a time, as far as that time: all of it from the last step on."""
        minute = self.index(time_ms)
        steps = (time_ms - self.start_ms) % MINUTE_MS // STEP_MS + 1
        path = self.path[minute, : steps + 1]
        volume, taker = self.volumes[:, minute, :steps].sum(axis=1)
        start = self.start_ms + minute * MINUTE_MS
        prices = (float(path[0]), float(path.max()), float(path.min()), float(path[-1]))
        return Candle(start, *prices, round(float(volume), 3), round(float(taker), 3))

    def closed(self, start_ms: int) -> Candle:
        """Return the whole candle that starts at a time."""
        return self.candle(start_ms + MINUTE_MS - 1)

    def price(self, time_ms: int) -> float:
        """Return the last price."""
        return self.candle(time_ms).close

    def mark_candle(self, start_ms: int) -> Candle:
        """Return the candle of the mark price: half the range of the trades, around their middle."""
        c = self.closed(start_ms)
        middle, half = (c.high + c.low) / 2, (c.high - c.low) / 4
        squeezed = [min(max(p, middle - half), middle + half) for p in (c.open, c.close)]
        return Candle(c.time_ms, round(squeezed[0], 6), middle + half, middle - half, round(squeezed[1], 6), 0.0)

    def open_interest(self, time_ms: int) -> float:
        """Return open interest at a time. [base coin]"""
        held_ms = -(-(time_ms - HELD_MS) // OI_EVERY_MS) * OI_EVERY_MS
        return float(self.levels[0, self.index(held_ms if self.held else time_ms)])

    def long_short_ratio(self, time_ms: int) -> float:
        """Return accounts long per account short."""
        return float(self.levels[1, 0 if self.held else self.index(time_ms)])

    def funding_rate(self, time_ms: int) -> float:
        """Return the rate settled at, or forming for, the interval of a time."""
        interval = 0 if self.held else time_ms // FUNDING_EVERY_MS
        return round(1e-4 * math.sin(interval + zlib.crc32(self.venue.encode()) % 7), 8)

    def prints(self, start_ms: int, end_ms: int) -> list[Liquidation]:
        """Return forced liquidations of ``start_ms <= time < end_ms``; the price is the fill."""
        first = self.index(start_ms)
        last = self.index(max(end_ms - 1, start_ms))
        found = [p for minute in range(first, last + 1) for p in self._prints_of(minute)]
        return [p for p in found if start_ms <= p.time_ms < end_ms]

    @cached_property
    def _printed(self) -> dict[int, list[Liquidation]]:
        return {}

    def _prints_of(self, minute: int) -> list[Liquidation]:
        if minute not in self._printed:
            self._printed[minute] = self._print(minute)
        return self._printed[minute]

    def _print(self, minute: int) -> list[Liquidation]:
        random = np.random.default_rng([zlib.crc32(f"{self.venue}/{self.coin}/prints".encode()), minute])
        times = np.sort(random.integers(0, MINUTE_MS, random.poisson(self.prints_per_minute)))
        made = []
        for offset in times.tolist():
            time_ms = self.start_ms + minute * MINUTE_MS + offset
            price = self.price(time_ms)
            quantity = max(round(float(random.lognormal(0, 1)) * 5e3 / price, 3), 0.001)
            side = Side.LONG if random.random() < 0.5 else Side.SHORT
            made.append(Liquidation(time_ms, side, price, quantity, price * quantity))
        return made


@dataclass(frozen=True, slots=True)
class CandleTick:
    """A moving candle; `closed` exactly once, at the end of its minute."""

    market: FeedMarket
    candle: Candle
    closed: bool
    time_ms: int


@dataclass(frozen=True, slots=True)
class Print:
    """A forced liquidation; `ordinal` tells prints of a market apart."""

    market: FeedMarket
    liquidation: Liquidation
    ordinal: int


Event = CandleTick | Print
Listener = Callable[[Event], Awaitable[None]]


class Feed:
    """The market behind a venue server.

    Parameters
    ----------
    start_ms : int
        First minute there is.
    now_ms : int
        Where the clock stands; `advance` turns it and tells the listeners what happens.
    days_ahead : float
        How far the clock may be turned.
    coins : tuple of str
    prints_per_minute : float
        Of each market, on average.
    held : bool
        As in `FeedMarket`.
    """

    def __init__(
        self,
        now_ms: int,
        *,
        days: float = 2.0,
        days_ahead: float = 1.0,
        coins: tuple[str, ...] = ("BTC", "ETH"),
        prints_per_minute: float = PRINTS_PER_MINUTE,
        held: bool = False,
    ) -> None:
        self._kind = (prints_per_minute, held)
        self.now_ms = now_ms
        self.start_ms = (now_ms - int(days * DAY_MS)) // HOUR_MS * HOUR_MS
        self.coins = coins
        self.minutes = (now_ms - self.start_ms) // MINUTE_MS + int(days_ahead * 24 * 60)
        self.listeners: list[Listener] = []
        self.clocks: list[Callable[[int], None]] = []  # set before anybody can ask what is so at the new time
        self._markets: dict[tuple[str, str], FeedMarket] = {}
        self._ordinals: dict[tuple[str, str], int] = {}

    def market(self, venue: str, coin: str) -> FeedMarket:
        """Return a coin on a venue. KeyError for a coin that is not listed."""
        if coin not in self.coins:
            raise KeyError(coin)
        key = (venue, coin)
        if key not in self._markets:
            self._markets[key] = FeedMarket(venue, coin, self.start_ms, self.minutes, *self._kind)
        return self._markets[key]

    def without(self, coins: Collection[str]) -> Feed:
        """Return this feed, as it is now, for those who do not trade some of its coins."""
        part = copy.copy(self)
        part.coins = tuple(c for c in self.coins if c not in coins)
        return part

    def candle_starts(self, since_ms: int, until_ms: int, *, step_ms: int = MINUTE_MS) -> list[int]:
        """Multiples of a step in ``since_ms <= t < until_ms`` that the feed has and that lie not after now."""
        first = -(-max(since_ms, self.start_ms) // step_ms) * step_ms
        return list(range(first, min(until_ms, self.now_ms + 1), step_ms))

    async def advance(self, ms: int) -> None:
        """Turn the clock on, in steps, telling listeners of candles and prints of the markets that were asked for."""
        end = self.now_ms + ms
        while self.now_ms < end:
            before, self.now_ms = self.now_ms, min((self.now_ms // STEP_MS + 1) * STEP_MS, end)
            for set_clock in self.clocks:
                set_clock(self.now_ms)
            for event in self._events(before, self.now_ms):
                for listener in list(self.listeners):
                    await listener(event)

    async def tell_again(self) -> None:
        """Tell listeners of the candles as they stand."""
        for market in self._markets.values():
            candle = market.candle(self.now_ms - 1)
            for listener in list(self.listeners):
                await listener(CandleTick(market, candle, closed=False, time_ms=self.now_ms))

    def _events(self, before_ms: int, now_ms: int) -> list[Event]:
        events: list[Event] = []
        for key, market in self._markets.items():
            for liquidation in market.prints(before_ms, now_ms):
                self._ordinals[key] = self._ordinals.get(key, 0) + 1
                events.append(Print(market, liquidation, self._ordinals[key]))
            whole = now_ms % MINUTE_MS == 0
            candle = market.closed(now_ms - MINUTE_MS) if whole else market.candle(now_ms - 1)
            events.append(CandleTick(market, candle, whole, now_ms))
        return events
