"""Engine of the simulated market: one price, thousands of leveraged agents on several venues (method.md, section 3).

One `Engine` is one coin. All venues see one log mark price `x = fundamental + impact`; a venue's last price differs by
a small stationary basis. Agents open at random times, sides follow momentum, and every position waits for its triggers
(stop, take-profit, top-up, liquidation) in linked lists bucketed by log price, so a step costs what it touches and not
what it holds. Each fill moves the price, so liquidations can set off liquidations; a sweep ends when none is left.

Contracts. An agent trades with market makers, who are several books: a venue's open interest is
``max(L, S) + MAKER_SPLIT * min(L, S) + H`` with `L` and `S` the agents' long and short base quantity and `H` the
stock hedgers hold against each other. Makers and hedgers hold the rest of *each* side and are never liquidated, so
long contracts equal short contracts by construction and an agent can never hold more than the open interest.

Times in the parameters are seconds; every rate, variance and decay is scaled by the step, so steps of different length
have the same law (not the same path). A step must divide a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import njit

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Float32Array, Float64Array
from estimator.exchanges.agents_state import Engine

F = TypeVar("F", bound=Callable[..., Any])

FUNDING_INTERVAL_MS: Final = 8 * HOUR_MS
MAKER_SPLIT: Final = 0.5
DOWN, UP = 0, 1  # lists of triggers reached by a falling and by a rising price
PREVIOUS, NEXT, BIN = 0, 1, 2
FLOOR, MAX_LEVERAGE, RATE, AMOUNT = 0, 1, 2, 3
LEVERAGE, SHARE_BELOW, HAZARD = 0, 1, 2
OPEN, HIGH, LOW, CLOSE, VOLUME, BUY, INTEREST, RATIO, FUNDING, MARK_HIGH, MARK_LOW = range(11)
N_COLUMNS: Final = 11
MINUTE_S, DAY_S = MINUTE_MS / 1000.0, DAY_MS / 1000.0

# Habits, as shares of the agents.
_FOLLOW: Final = 0.6  # open with momentum; the others against it
_STOP: Final = 0.22  # set a stop
_TAKE: Final = 0.3  # set a take-profit
_CROSS: Final = 0.4  # margin across the account: more stands behind the position
_TOP_UP: Final = 0.25  # add margin, twice at most, when this much of the way to liquidation is gone:
_TOP_UP_AT: Final = 0.8

_FAST_S, _SLOW_S = 1800.0, 43_200.0  # memory of the two volatility factors
_FAST_SD, _SLOW_SD = 0.44, 0.38
_SHOCK_S, _NEWS_S = 1200.0, 1.2 * DAY_S  # decay of excitement; mean time between news
_IMPACT_S = 1500.0
_ANCHOR_S = 20 * DAY_S
_TREND_S, _TREND_SD = 2 * DAY_S, 0.006 / DAY_S
_BASIS_S, _BASIS_SD = 600.0, 0.00012
_TURNOVER_PER_S = 0.9 / DAY_S  # volume that moves no position, in open interests


def _kernel(function: F) -> F:
    """Compile, keeping the compiled code on disk and the static type of the function."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy")(function))


def _inlined(function: F) -> F:
    """Compile into the callers: passing an `Engine` costs more than most of these functions do."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function))


@_inlined
def _bucket(e: Engine, x: float) -> int:
    at = math.floor((x - e.parameter[0].anchor) / e.parameter[0].trigger_bin) + e.heads.shape[1] // 2
    return int(min(max(at, 0), e.heads.shape[1] - 1))


@_inlined
def _reached(x: float, trigger: float, way: int) -> bool:
    return x <= trigger if way == DOWN else x >= trigger


@_inlined
def _link(e: Engine, i: int, way: int, trigger: float) -> None:
    e.trigger[way, i] = trigger
    e.links[way, i, BIN] = -1
    if not math.isfinite(trigger):
        return
    at = _bucket(e, trigger)
    head = e.heads[way, at]
    e.links[way, i, PREVIOUS], e.links[way, i, NEXT], e.links[way, i, BIN] = -1, head, at
    e.heads[way, at] = i
    if head >= 0:
        e.links[way, head, PREVIOUS] = i
    e.edges[way] = max(e.edges[way], trigger) if way == DOWN else min(e.edges[way], trigger)


@_inlined
def _unlink(e: Engine, i: int, way: int) -> None:
    at = e.links[way, i, BIN]
    if at < 0:
        return
    before, after = e.links[way, i, PREVIOUS], e.links[way, i, NEXT]
    if before >= 0:
        e.links[way, before, NEXT] = after
    else:
        e.heads[way, at] = after
    if after >= 0:
        e.links[way, after, PREVIOUS] = before


@_inlined
def _bracket(e: Engine, venue: int, notional: float) -> int:
    tier = 0
    while tier + 1 < e.brackets.shape[1] and notional >= e.brackets[venue, tier + 1, FLOOR]:
        tier += 1
    return tier


@_inlined
def _liquidation(e: Engine, i: int) -> float:
    """Log liquidation price, the tier being that of the notional there; -inf for a long that has none."""
    at = e.positions[i]
    price = math.exp(at.entry)
    for _ in range(4):
        tier = _bracket(e, at.venue, at.quantity * price)
        rate = e.brackets[at.venue, tier, RATE] + e.venues[at.venue].fee
        backing = at.margin + e.brackets[at.venue, tier, AMOUNT] - at.side * at.quantity * math.exp(at.entry)
        price = backing / (at.quantity * (rate - at.side))
        if price <= 0.0:
            return -math.inf
    return math.log(price)


@_inlined
def _arm(e: Engine, i: int) -> None:
    """Put the nearest adverse trigger of a position in its list, after its margin changed."""
    at = e.positions[i]
    at.liquidation = _liquidation(e, i)
    nearest = at.liquidation
    at.top_up = math.nan
    if at.refills > 0 and math.isfinite(at.liquidation):
        at.top_up = at.entry + _TOP_UP_AT * (at.liquidation - at.entry)
        nearest = at.top_up
    if not math.isnan(at.stop) and at.side * (at.stop - nearest) > 0.0:
        nearest = at.stop
    _link(e, i, DOWN if at.side > 0 else UP, nearest)


@_inlined
def _trade(e: Engine, venue: int, signed_base: float) -> None:
    """Fill an order at market: part of its impact lasts, part decays."""
    s, p = e.state[0], e.parameter[0]
    push = p.impact * signed_base / p.open_interest
    s.fundamental += p.lasting * push
    s.impact += (1.0 - p.lasting) * push
    s.x = s.fundamental + s.impact
    s.low, s.high = min(s.low, s.x), max(s.high, s.x)
    e.venues[venue].volume += abs(signed_base)
    e.venues[venue].buy += max(signed_base, 0.0)


@_inlined
def _count(e: Engine, i: int, one: int) -> None:
    at = e.positions[i]
    venue = e.venues[at.venue]
    if at.side > 0:
        venue.n_long += one
        venue.long_base += one * at.quantity
    else:
        venue.n_short += one
        venue.short_base += one * at.quantity


@_kernel
def _close(e: Engine, i: int) -> None:
    s, at = e.state[0], e.positions[i]
    _unlink(e, i, DOWN)
    _unlink(e, i, UP)
    _count(e, i, -1)
    s.n_live -= 1
    last = e.live[s.n_live]
    e.live[at.slot], e.live[s.n_live] = last, i
    e.positions[last].slot = at.slot
    _trade(e, at.venue, -at.side * at.quantity)


@_kernel
def _liquidate(e: Engine, i: int, step_ms: int) -> None:
    s, at, out = e.state[0], e.positions[i], e.prints[e.state[0].n_prints]
    before = s.x
    _close(e, i)
    s.shock = min(s.shock + 8.0 * at.quantity / e.parameter[0].open_interest, 1.2)
    out.time_ms = s.time_ms + min(s.step_prints, step_ms - 1)
    out.venue, out.side, out.quantity = at.venue, at.side, at.quantity
    out.price = math.exp(0.5 * (before + s.x) + e.venues[at.venue].basis)
    s.n_prints += 1
    s.step_prints += 1


@_kernel
def _touch(e: Engine, i: int, way: int, step_ms: int) -> None:
    """Act on a reached trigger: take profit, stop, liquidation or a top-up."""
    s, at = e.state[0], e.positions[i]
    if (way == DOWN) != (at.side > 0) or at.side * (s.x - at.stop) <= 0.0:
        _close(e, i)
    elif at.side * (s.x - at.liquidation) <= 0.0:
        _liquidate(e, i, step_ms)
    else:
        _unlink(e, i, way)
        at.refills -= 1
        at.margin *= 1.5
        _arm(e, i)


@_kernel
def _settle_edge(e: Engine, way: int, at: int) -> None:
    """Find the nearest trigger left, from bucket `at` outwards."""
    step = -1 if way == DOWN else 1
    while 0 <= at < e.heads.shape[1] and e.heads[way, at] < 0:
        at += step
    e.edges[way] = -math.inf if way == DOWN else math.inf
    i = e.heads[way, at] if 0 <= at < e.heads.shape[1] else -1
    while i >= 0:
        e.edges[way] = max(e.edges[way], e.trigger[way, i]) if way == DOWN else min(e.edges[way], e.trigger[way, i])
        i = e.links[way, i, NEXT]


@_kernel
def _sweep(e: Engine, way: int, step_ms: int) -> None:
    """Touch every reached trigger of one list, following the price while the fills move it."""
    s = e.state[0]
    step = -1 if way == DOWN else 1
    first = _bucket(e, e.edges[way])
    at = first
    while (_bucket(e, s.x) - at) * step >= 0:
        i = e.heads[way, at]
        while i >= 0:
            after = e.links[way, i, NEXT]
            if _reached(s.x, e.trigger[way, i], way):
                _touch(e, i, way, step_ms)
            i = after
        at += step
        if at < 0 or at >= e.heads.shape[1]:
            break
    _settle_edge(e, way, first)


@_inlined
def _pick_side(e: Engine, rng: np.random.Generator, venue: int) -> int:
    """Three in five follow momentum, the others fade it; dear funding deters longs."""
    s = e.state[0]
    fast = (s.x - s.ema_fast) / (s.sigma * math.sqrt(1200.0))
    slow = (s.x - s.ema_slow) / (e.parameter[0].sigma * math.sqrt(43_200.0))
    momentum = math.tanh(0.5 * fast) + math.tanh(0.5 * slow)
    taste = 1.1 if rng.random() < _FOLLOW else -0.9
    lean = 0.42 + s.sentiment + taste * momentum - 800.0 * e.venues[venue].funding
    return 1 if rng.random() * (1.0 + math.exp(-lean)) < 1.0 else -1


@_inlined
def _pick_exits(e: Engine, rng: np.random.Generator, i: int) -> None:
    at, scale = e.positions[i], e.parameter[0].distance
    room = abs(at.liquidation - at.entry)
    room = min(room, 1.0)
    at.stop = math.nan
    if rng.random() < _STOP:
        at.stop = at.entry - at.side * min(room * (0.25 + 0.5 * rng.random()), scale * rng.lognormal(-3.5, 0.7))
    gain = math.inf
    if rng.random() < _TAKE:
        gain = min(scale * rng.lognormal(-3.4, 0.8), room * (0.5 + 2.0 * rng.random()))
    _link(e, i, UP if at.side > 0 else DOWN, at.entry + at.side * gain)


@_inlined
def _pick_venue(e: Engine, rng: np.random.Generator) -> int:
    venue, left = 0, rng.random() - e.venues[0].share
    while left > 0.0 and venue + 1 < e.venues.shape[0]:
        venue += 1
        left -= e.venues[venue].share
    return venue


@_kernel
def _open(e: Engine, rng: np.random.Generator) -> None:
    s, p = e.state[0], e.parameter[0]
    if s.n_live == e.live.shape[0]:
        return
    i = e.live[s.n_live]
    at = e.positions[i]
    at.slot = s.n_live
    s.n_live += 1
    at.venue = _pick_venue(e, rng)
    at.side = _pick_side(e, rng, at.venue)
    pick = np.searchsorted(e.classes[:, SHARE_BELOW], rng.random())
    label = e.classes[pick, LEVERAGE]
    at.hazard = e.classes[pick, HAZARD]
    size = min(rng.lognormal(-0.72, 1.2), 60.0) * (10.0 / label) ** 0.2
    at.quantity = p.position_base * size * (1.0 if at.side > 0 else 1.5)  # fewer shorts, but larger
    at.entry = s.x
    notional = at.quantity * math.exp(s.x)
    label = min(label, e.brackets[at.venue, _bracket(e, at.venue, notional), MAX_LEVERAGE])
    cross = rng.random() < _CROSS
    at.margin = notional / label * (1.0 + rng.lognormal(0.7, 0.8) if cross else 1.0)
    at.refills = 2 if rng.random() < _TOP_UP else 0
    at.stop = math.nan
    at.liquidation = _liquidation(e, i)
    _pick_exits(e, rng, i)
    _arm(e, i)
    _count(e, i, 1)
    _trade(e, at.venue, at.side * at.quantity)


@_inlined
def _come_and_go(e: Engine, rng: np.random.Generator, dt: float) -> None:
    """Open and close as Poisson processes, the closings by thinning a common highest hazard."""
    s, p = e.state[0], e.parameter[0]
    s.until_open -= p.opens_per_s * s.activity * dt
    while s.until_open < 0.0:
        s.until_open += rng.standard_exponential()
        _open(e, rng)
    s.until_close -= s.n_live * p.highest_hazard * dt
    while s.until_close < 0.0 and s.n_live > 0:
        s.until_close += rng.standard_exponential()
        i = e.live[int(rng.random() * s.n_live)]
        if rng.random() * p.highest_hazard < e.positions[i].hazard:
            _close(e, i)


@_inlined
def _relax(value: float, mean: float, sd: float, memory_s: float, dt: float, z: float) -> float:
    """One exact step of a mean-reverting Gaussian process."""
    keep = math.exp(-dt / memory_s)
    return mean + keep * (value - mean) + sd * math.sqrt(1.0 - keep * keep) * z


@_kernel
def _slow_change(e: Engine, rng: np.random.Generator) -> None:
    """Once a minute: volatility, mood, hedgers, premium."""
    s, p = e.state[0], e.parameter[0]
    s.vol_fast = _relax(s.vol_fast, 0.0, _FAST_SD, _FAST_S, MINUTE_S, rng.standard_normal())
    s.vol_slow = _relax(s.vol_slow, 0.0, _SLOW_SD, _SLOW_S, MINUTE_S, rng.standard_normal())
    s.trend = _relax(s.trend, 0.0, _TREND_SD, _TREND_S, MINUTE_S, rng.standard_normal())
    s.sentiment = _relax(s.sentiment, 0.0, 0.35, 1.5 * DAY_S, MINUTE_S, rng.standard_normal())
    s.shock *= math.exp(-MINUTE_S / _SHOCK_S)
    if rng.random() < MINUTE_S / _NEWS_S:
        s.shock = min(s.shock + 0.85, 1.2)
    day = 0.2 * math.cos(2.0 * math.pi * ((s.time_ms % DAY_MS) / DAY_MS - 15.0 / 24.0))  # busiest at 15:00 UTC
    heat = s.vol_fast + s.vol_slow + day + s.shock
    s.sigma = p.sigma * math.exp(heat - _FAST_SD**2 - _SLOW_SD**2)
    s.activity = math.exp(0.8 * heat - 0.2)
    slow = math.tanh((s.x - s.ema_slow) / (p.sigma * math.sqrt(43_200.0)))
    for v in range(e.venues.shape[0]):
        venue = e.venues[v]
        stock = p.hedge_share * venue.share * p.open_interest
        venue.hedge = max(_relax(venue.hedge, stock, 0.15 * stock, DAY_S, MINUTE_S, rng.standard_normal()), 0.0)
        venue.busy = _relax(venue.busy, 0.0, 0.3, 600.0, MINUTE_S, rng.standard_normal())
        venue.premium = _relax(venue.premium, 0.0, 0.00004, 14_400.0, MINUTE_S, rng.standard_normal())
        net = (venue.long_base - venue.short_base) / max(venue.long_base + venue.short_base, 1e-12)
        rate = 0.00006 + venue.premium + 0.0004 * net + 0.00008 * slow + 0.0001 * s.sentiment
        venue.funding = min(max(rate, -0.003), 0.003)


@_kernel
def _pay_funding(e: Engine) -> None:
    """Take funding from (or add it to) every margin; liquidation prices follow."""
    s = e.state[0]
    price = math.exp(s.x)
    for k in range(s.n_live):
        i = e.live[k]
        at = e.positions[i]
        at.margin -= at.side * e.venues[at.venue].funding * at.quantity * price
        _unlink(e, i, DOWN if at.side > 0 else UP)
        _arm(e, i)


@_kernel
def open_interest(e: Engine, v: int) -> float:
    """Return the open interest of venue `v`, one side counted, in base coin."""
    venue = e.venues[v]
    long_base, short_base = max(venue.long_base, 0.0), max(venue.short_base, 0.0)
    return float(max(long_base, short_base) + MAKER_SPLIT * min(long_base, short_base) + venue.hedge)


@_kernel
def read_minute(e: Engine, out: Float64Array) -> None:
    """Write the current minute of each venue, finished or not.

    Parameters
    ----------
    out : Float64Array, shape (n_venue, N_COLUMNS)
        Prices [quote], volumes and open interest [base], account ratio, funding rate, extremes of the mark. [quote]
    """
    s = e.state[0]
    total = 0.0
    for v in range(e.venues.shape[0]):
        total += e.venues[v].share * math.exp(e.venues[v].busy)
    for v in range(e.venues.shape[0]):
        venue = e.venues[v]
        part = venue.share * math.exp(venue.busy) / total
        close = s.x + venue.basis
        out[v, OPEN], out[v, CLOSE] = math.exp(venue.open), math.exp(close)
        out[v, HIGH] = math.exp(max(venue.high, close))
        out[v, LOW] = math.exp(min(venue.low, close))
        out[v, VOLUME] = venue.volume + part * s.noise
        out[v, BUY] = venue.buy + part * s.noise_buy
        out[v, INTEREST] = open_interest(e, v)
        out[v, RATIO] = max(venue.n_long, 1) / max(venue.n_short, 1)
        out[v, FUNDING] = venue.funding
        out[v, MARK_HIGH], out[v, MARK_LOW] = math.exp(s.mark_high), math.exp(s.mark_low)


@_kernel
def _start_minute(e: Engine, rng: np.random.Generator) -> None:
    s = e.state[0]
    if s.time_ms % FUNDING_INTERVAL_MS == 0:
        _pay_funding(e)  # at the rate of the minute that just ended; whom it ruins falls in this step's sweep
    _slow_change(e, rng)
    s.noise = s.noise_buy = 0.0
    s.mark_low = s.mark_high = s.x
    for v in range(e.venues.shape[0]):
        venue = e.venues[v]
        venue.volume = venue.buy = 0.0
        venue.open = venue.high = venue.low = s.x + venue.basis


@_kernel
def _snapshot(e: Engine, out: Float32Array) -> None:
    """Add up the live positions per venue, side and lattice bin; `out` has shape (n_venue, 2, BOOK_BINS)."""
    p = e.parameter[0]
    for k in range(e.state[0].n_live):
        at = e.positions[e.live[k]]
        if math.isfinite(at.liquidation):
            b = int(math.floor(at.liquidation / p.book_bin) - p.first_book_bin)
            if 0 <= b < out.shape[2]:
                out[at.venue, 0 if at.side > 0 else 1, b] += at.quantity


@_inlined
def _move(e: Engine, rng: np.random.Generator, dt: float, step: int) -> None:
    """Move the price by noise, trend and the decay of past impact; move one venue's basis in turn."""
    s = e.state[0]
    z = rng.standard_normal()
    s.fundamental += s.sigma * math.sqrt(dt) * z + dt * (s.trend - (s.fundamental - e.parameter[0].anchor) / _ANCHOR_S)
    s.impact *= 1.0 - dt / _IMPACT_S
    s.x = s.fundamental + s.impact
    s.low, s.high = min(s.low, s.x), max(s.high, s.x)
    s.ema_fast += (s.x - s.ema_fast) * dt / 1200.0
    s.ema_slow += (s.x - s.ema_slow) * dt / 43_200.0
    n = e.venues.shape[0]
    venue = e.venues[step % n]
    venue.basis += (
        -venue.basis * n * dt / _BASIS_S + _BASIS_SD * math.sqrt(2.0 * n * dt / _BASIS_S) * rng.standard_normal()
    )
    noise = _TURNOVER_PER_S * dt * e.parameter[0].open_interest * s.activity * (0.4 + 0.75 * abs(z))
    s.noise += noise
    s.noise_buy += noise * (0.5 + 0.3 * z / (1.0 + abs(z)))


@_inlined
def _mark_range(e: Engine) -> None:
    s = e.state[0]
    s.mark_low, s.mark_high = min(s.mark_low, s.low), max(s.mark_high, s.high)
    for v in range(e.venues.shape[0]):
        venue = e.venues[v]
        venue.low = min(venue.low, s.low + venue.basis)
        venue.high = max(venue.high, s.high + venue.basis)


@_inlined
def _sweep_all(e: Engine, step_ms: int) -> None:
    s = e.state[0]
    while s.x <= e.edges[DOWN] or s.x >= e.edges[UP]:
        if s.x <= e.edges[DOWN]:
            _sweep(e, DOWN, step_ms)
        else:
            _sweep(e, UP, step_ms)


@_kernel
def advance(
    e: Engine, rng: np.random.Generator, steps: int, step_ms: int, minutes: Float64Array, books: Float32Array
) -> int:
    """Advance by up to `steps` steps of `step_ms` and write what was seen.

    Parameters
    ----------
    minutes : Float64Array, shape (n_minute, n_venue, N_COLUMNS)
        Receives each closed minute from row ``state["n_rows"]`` on, as `read_minute`; further minutes are not kept.
    books : Float32Array, shape (n_hour, n_venue, 2, BOOK_BINS)
        Receives the true book at each full hour from row ``state["n_books"]`` on. [base]

    Returns
    -------
    int
        Steps done; fewer than asked when the buffer of prints may not hold another step: empty it and go on.
    """
    s = e.state[0]
    dt = step_ms / 1000.0
    for done in range(steps):
        if s.n_prints + s.n_live + 64 > e.prints.shape[0]:
            return done
        if s.time_ms % MINUTE_MS == 0:
            _start_minute(e, rng)
        s.low = s.high = s.x
        s.step_prints = 0
        _move(e, rng, dt, s.time_ms // step_ms)
        _come_and_go(e, rng, dt)
        _sweep_all(e, step_ms)
        _mark_range(e)
        s.time_ms += step_ms
        if s.time_ms % MINUTE_MS == 0:
            _finish_minute(e, minutes, books)
    return steps


@_kernel
def _finish_minute(e: Engine, minutes: Float64Array, books: Float32Array) -> None:
    s = e.state[0]
    if s.n_rows < minutes.shape[0]:
        read_minute(e, minutes[s.n_rows])
        s.n_rows += 1
    if s.time_ms % HOUR_MS == 0 and s.n_books < books.shape[0]:
        _snapshot(e, books[s.n_books])
        s.n_books += 1
