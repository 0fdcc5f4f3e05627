"""The position book's step, compiled: sweep, close, open, route, emit (method.md, section 2).

One function runs any number of steps, so a stream of single steps and a batch execute the same instructions and agree
bit for bit. `estimator.model.oracle` says the same thing in plain NumPy.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit

from estimator.domain import Float64Array

# State scalars: lattice index of bin 0, of the last close, steps taken.
FIRST_BIN: Final = 0
CLOSE_BIN: Final = 1
N_STEPS: Final = 2

_TINY = 1e-60  # a lazy scale below this is folded into its cells before it underflows
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_inline: Any = njit(**_OPTIONS)


@_inline
def bin_of(price: float, bin_width: float) -> int:
    """Lattice index of a price."""
    return int(math.floor(math.log(price) / bin_width))


@_inline
def triangle_below(x: float, low: float, mode: float, high: float) -> float:
    """Share of a triangular distribution below x."""
    if x <= low:
        return 0.0
    if x >= high:
        return 1.0
    if x < mode:
        return (x - low) * (x - low) / ((high - low) * (mode - low))
    return 1.0 - (high - x) * (high - x) / ((high - low) * (high - mode))


@_inline
def closing(mass: Float64Array, tau: Float64Array, sink: float, sink_tau: float, target: float) -> float:
    """Solve ``sum(mass * exp(-theta / tau)) + sink * exp(-theta / sink_tau) = target`` for theta >= 0.

    The left side is convex and falls, so Newton from 0 rises to the root without overshooting.
    """
    theta = 0.0
    for _ in range(60):
        value = sink * math.exp(-theta / sink_tau)
        slope = value / sink_tau
        for k in range(len(mass)):
            part = mass[k] * math.exp(-theta / tau[k])
            value += part
            slope += part / tau[k]
        if slope <= 0.0:
            break
        change = (value - target) / slope
        theta += change
        if change <= 1e-14 * theta:
            break
    return theta


@_inline
def needs_recentre(close_bin: int, first_bin: int, n_bins: int) -> bool:
    """Whether the close has left the middle quarter of the window."""
    return abs(close_bin - n_bins // 2 - first_bin) > n_bins // 8


@_inline
def window_range(first: Any, candle: Any, bin_width: float, n_bins: int, first_bin: int, fresh: bool) -> tuple[int, int]:
    """Lowest and highest first bin of the windows `run_steps` will use."""
    at = bin_of(candle[first[1] - 1, 2], bin_width) - n_bins // 2 if fresh else first_bin
    low = high = at
    for t in range(len(first) - 1):
        close_bin = bin_of(candle[first[t + 1] - 1, 2], bin_width)
        if needs_recentre(close_bin, at, n_bins):
            at = close_bin - n_bins // 2
            low, high = min(low, at), max(high, at)
    return low, high


@_inline
def recentre(cells: Any, scale: Any, mass: Any, sink: Any, ints: Any, shift: int) -> None:
    """Move the window of kept bins; what leaves it goes to the sink."""
    n_bins = cells.shape[2]
    for s in range(2):
        for k in range(cells.shape[1]):
            row = cells[s, k]
            lost = 0.0
            if shift > 0:
                for j in range(min(shift, n_bins)):
                    lost += row[j]
                for j in range(n_bins):
                    row[j] = row[j + shift] if j + shift < n_bins else 0.0
            else:
                for j in range(max(0, n_bins + shift), n_bins):
                    lost += row[j]
                for j in range(n_bins - 1, -1, -1):
                    row[j] = row[j + shift] if j + shift >= 0 else 0.0
            lost *= scale[s, k]
            mass[s, k] = max(mass[s, k] - lost, 0.0)
            sink[s] += lost
    ints[FIRST_BIN] += shift


@_inline
def sweep(cells: Any, scale: Any, mass: Any, s: int, begin: int, end: int, price: Any) -> float:
    """Empty bins ``begin .. end - 1`` of one side and return the USD taken out."""
    usd = 0.0
    for k in range(cells.shape[1]):
        row = cells[s, k]
        gone = 0.0
        for j in range(begin, end):
            gone += row[j]
            usd += row[j] * scale[s, k] * price[j]
            row[j] = 0.0
        mass[s, k] = max(mass[s, k] - gone * scale[s, k], 0.0)
    return usd


@_inline
def deposit(
    cells: Any, scale: Any, mass: Any, sink: Any, s: int, amount: float, shares: Any, profile: Any, profile_at: int,
    begin: int, end: int, kernel: Any, cumulative: Any, start: Any, length: Any, offset: Any,
) -> None:
    """Open `amount` contracts at risk; what would lie outside ``begin .. end - 1`` goes to the sink."""
    n_bucket = cells.shape[1]
    for k in range(n_bucket):
        part = amount * shares[k]
        if part <= 0.0:
            continue
        row = cells[s, k]
        size = length[s, k]
        source = kernel[start[s, k] : start[s, k] + size]
        sums = start[s, k] + s * n_bucket + k  # `cumulative` holds one element more per kernel
        kept = 0.0
        for i in range(len(profile)):
            if profile[i] <= 0.0:
                continue
            at = profile_at + i + offset[s, k]
            low = max(begin - at, 0)
            high = min(end - at, size)
            if high <= low:
                continue
            kept += profile[i] * (cumulative[sums + high] - cumulative[sums + low])
            weight = part * profile[i] / scale[s, k]
            target = row[at + low : at + high]
            piece = source[low:high]
            for j in range(high - low):
                target[j] += weight * piece[j]
        mass[s, k] += part * kept
        sink[s] += part * (1.0 - kept)


@_inline
def emit(
    cells: Any, scale: Any, sink: Any, s: int, begin: int, end: int, close: int, price: Any, layer_of: Any,
    diffuse: Any, diffuse_share: float, near: int, total: Any, out: Any, row: int, at: int,
) -> None:
    """Write one side of a column, contracts x price, with the diffuse background out of the sink.

    `out` has one layer for the total, or several: ``layer_of[k]`` for bucket ``k`` and its last element for the
    background.
    """
    n_bucket = cells.shape[1]
    total[begin:end] = 0.0
    for k in range(n_bucket):
        source = cells[s, k, begin:end]
        target = total[begin:end]
        factor = scale[s, k]
        for j in range(len(source)):
            target[j] += source[j] * factor
        if out.shape[0] > 1:
            layer = out[layer_of[k], row, at + begin : at + end]
            for j in range(len(source)):
                layer[j] += np.float32(source[j] * factor * price[begin + j])
    held = 0.0
    for j in range(max(begin, close - near), min(end, close + near + 1)):
        held += total[j]
    amount = min(diffuse_share * held, sink[s])
    reach = len(diffuse) - 1
    if out.shape[0] > 1:
        total[begin:end] = 0.0
    for j in range(max(begin, close - reach), min(end, close + reach + 1)):
        total[j] += amount * diffuse[abs(j - close)]
    layer = out[layer_of[n_bucket], row, at + begin : at + end]
    for j in range(end - begin):
        layer[j] += np.float32(total[begin + j] * price[begin + j])


@_inline
def entry_profile(candle: Any, first: int, last: int, bin_width: float, low_bin: int, profile: Any) -> None:
    """Volume-weighted entry profile of the sub-candles, shape (n,), from lattice bin `low_bin`; sums to 1."""
    volume = 0.0
    for i in range(first, last):
        volume += candle[i, 3]
    for j in range(len(profile)):
        profile[j] = 0.0
    for i in range(first, last):
        weight = candle[i, 3] / volume if volume > 0.0 else 1.0 / (last - first)
        low, high, mode = math.log(candle[i, 0]), math.log(candle[i, 1]), math.log(candle[i, 2])
        begin = int(math.floor(low / bin_width))
        end = int(math.floor(high / bin_width)) + 1
        if high - low < 1e-12:
            profile[begin - low_bin] += weight
            continue
        below = 0.0
        for j in range(begin, end):
            share = 1.0 if j == end - 1 else triangle_below((j + 1) * bin_width, low, mode, high)
            profile[j - low_bin] += weight * (share - below)
            below = share


@_inline
def run_steps(
    cells: Any, scale: Any, mass: Any, sink: Any, ints: Any,
    kernel: Any, cumulative: Any, start: Any, length: Any, offset: Any, shares: Any, tau: Any, sink_tau: float,
    churn: float, sink_share: float, diffuse: Any, diffuse_share: float, near: int, bin_width: float, inverse: bool,
    first: Any, candle: Any, contracts: Any, last_contracts: Any, at_risk: Any,
    emit_row: Any, layer_of: Any, out_first_bin: int, out_long: Any, out_short: Any, swept: Any,
) -> None:
    """Advance the book over every step; see `PositionBook` for the shapes."""
    n_bins = cells.shape[2]
    price = np.ones(n_bins)
    priced_at = ints[FIRST_BIN] - 1
    total = np.zeros(n_bins)
    for t in range(len(contracts)):
        begin, end = first[t], first[t + 1]
        low = mark_low = np.inf
        high = mark_high = volume = 0.0
        for i in range(begin, end):
            low, high = min(low, candle[i, 0]), max(high, candle[i, 1])
            mark_low, mark_high = min(mark_low, candle[i, 4]), max(mark_high, candle[i, 5])
            volume += candle[i, 3]
        close_bin = bin_of(candle[end - 1, 2], bin_width)
        fresh = ints[N_STEPS] == 0
        if fresh:
            ints[FIRST_BIN] = close_bin - n_bins // 2
        else:
            # Levels the mark reached are gone; the close may lie beyond the mark's extremes, never inside them.
            reached_low = min(bin_of(mark_low, bin_width), close_bin) - ints[FIRST_BIN]
            reached_high = max(bin_of(mark_high, bin_width), close_bin) - ints[FIRST_BIN]
            old = ints[CLOSE_BIN] - ints[FIRST_BIN]
            if priced_at != ints[FIRST_BIN]:
                _set_prices(price, ints[FIRST_BIN], bin_width, inverse)
                priced_at = ints[FIRST_BIN]
            swept[t, 0] = sweep(cells, scale, mass, 0, min(max(reached_low, 0), n_bins), max(min(old, n_bins), 0), price)
            swept[t, 1] = sweep(cells, scale, mass, 1, max(min(old + 1, n_bins), 0), max(min(reached_high + 1, n_bins), 0), price)
            if needs_recentre(close_bin, ints[FIRST_BIN], n_bins):
                recentre(cells, scale, mass, sink, ints, close_bin - n_bins // 2 - ints[FIRST_BIN])
        if priced_at != ints[FIRST_BIN]:
            _set_prices(price, ints[FIRST_BIN], bin_width, inverse)
            priced_at = ints[FIRST_BIN]
        close = close_bin - ints[FIRST_BIN]
        ints[CLOSE_BIN] = close_bin

        interest = contracts[t]
        change = interest if fresh else interest - last_contracts[0]
        gross = max(change, 0.0) + churn * max(volume - abs(change), 0.0) / 2.0
        gross = min(gross, interest)
        last_contracts[0] = interest
        ints[N_STEPS] += 1

        low_bin = bin_of(low, bin_width)
        profile = np.empty(bin_of(high, bin_width) - low_bin + 1)
        entry_profile(candle, begin, end, bin_width, low_bin, profile)
        for s in range(2):
            held = sink[s]
            for k in range(len(tau)):
                held += mass[s, k]
            if held > interest - gross:
                _close_side(cells, scale, mass, sink, s, tau, sink_tau, interest - gross, held)
            held = sink[s]
            for k in range(len(tau)):
                held += mass[s, k]
            opened = max(interest - held, 0.0)
            risky = opened * (1.0 - sink_share)
            risky = min(risky * at_risk[t, s], opened)
            sink[s] += opened - risky
            side_begin, side_end = (0, min(max(close, 0), n_bins)) if s == 0 else (min(max(close + 1, 0), n_bins), n_bins)
            deposit(
                cells, scale, mass, sink, s, risky, shares, profile, low_bin - ints[FIRST_BIN],
                side_begin, side_end, kernel, cumulative, start, length, offset,
            )
            if emit_row[t] >= 0:
                emit(
                    cells, scale, sink, s, side_begin, side_end, close, price, layer_of, diffuse, diffuse_share, near,
                    total, out_long if s == 0 else out_short, emit_row[t], ints[FIRST_BIN] - out_first_bin,
                )


@_inline
def _set_prices(price: Any, first_bin: int, bin_width: float, inverse: bool) -> None:
    if not inverse:  # an inverse contract is a fixed number of USD
        for j in range(len(price)):
            price[j] = math.exp((first_bin + j + 0.5) * bin_width)


@_inline
def _close_side(
    cells: Any, scale: Any, mass: Any, sink: Any, s: int, tau: Any, sink_tau: float, target: float, held: float
) -> None:
    """Scale a side down to `target` contracts with the buckets' hazards."""
    if target <= 1e-12 * held:
        cells[s] = 0.0
        scale[s] = 1.0
        mass[s] = 0.0
        sink[s] = max(target, 0.0)
        return
    theta = closing(mass[s], tau, sink[s], sink_tau, target)
    sink[s] *= math.exp(-theta / sink_tau)
    for k in range(len(tau)):
        keep = math.exp(-theta / tau[k])
        mass[s, k] *= keep
        scale[s, k] *= keep
        if scale[s, k] < _TINY:
            for j in range(cells.shape[2]):
                cells[s, k, j] *= scale[s, k]
            scale[s, k] = 1.0
