"""The position book's step, compiled: sweep, close, open, route, emit (method.md, section 2).

One function runs any number of steps, so a stream of single steps and a batch execute the same instructions and agree
bit for bit. `estimator.model.oracle` says the same thing in plain NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

from estimator.domain import Float32Array, Float64Array, Int64Array
from estimator.model.spread import Kernels

# Elements of `State.ints`: lattice index of bin 0, of the last close, steps taken, time of the last close [ms].
FIRST_BIN: Final = 0
CLOSE_BIN: Final = 1
N_STEPS: Final = 2
CLOSE_MS: Final = 3

# Elements of `State.moves`: squared log returns and the hours they took, both fading, and the last close.
SQUARES: Final = 0
HOURS: Final = 1
LAST_CLOSE: Final = 2

# Columns of `Inputs.candle`.
LOW: Final = 0
HIGH: Final = 1
CLOSE: Final = 2
VOLUME: Final = 3
MARK_LOW: Final = 4
MARK_HIGH: Final = 5

_TINY: Final = 1e-60  # a lazy scale below this is folded into its cells before it underflows
F = TypeVar("F", bound=Callable[..., object])


def _kernel(function: F) -> F:
    """Compile, keeping the compiled code on disk and the static type of the function."""
    return cast("F", njit(cache=True, nogil=True, error_model="numpy")(function))


class State(NamedTuple):
    """What a book holds; see `PositionBook`."""

    cells: Float64Array  # (2, n_bucket, n_bins), contracts / scale
    scale: Float64Array  # (2, n_bucket)
    mass: Float64Array  # (2, n_bucket), contracts
    sink: Float64Array  # (2,), contracts
    ints: Int64Array  # (4,)
    last_contracts: Float64Array  # (1,)
    moves: Float64Array  # (3,)


class Volatility(NamedTuple):
    """How the leverage people use follows how much the price moves."""

    scaling: float  # how far the mix moves with it: 0 not at all, 1 in proportion
    usual: float  # variance of log price at which the shares hold as they are [1 / h]
    memory: float  # [h]
    prior: float  # what a new book knows of it: so many hours of the usual


class Rules(NamedTuple):
    """Parameters in the form the compiled step takes."""

    shares: Float64Array  # (n_bucket,)
    reach: Float64Array  # (n_bucket + 1,), edges between buckets in ln(1 / leverage)
    volatility: Volatility
    tau: Float64Array  # (n_bucket,)
    sink_tau: float
    churn: float
    sink_share: float
    diffuse: Float64Array  # (reach + 1,), share of the background by bins from the price
    diffuse_share: float
    near: int
    bin_width: float
    inverse: bool


class Inputs(NamedTuple):
    """Steps in the form the compiled step takes; see `estimator.model.steps.Steps`."""

    first: Int64Array  # (n_step + 1,)
    candle: Float64Array  # (n_sub, 6)
    contracts: Float64Array  # (n_step,)
    at_risk: Float64Array  # (n_step, 2)
    close_ms: Int64Array  # (n_step,)


class Output(NamedTuple):
    """Where columns go: one layer holds the total, several hold the tiers ``layer_of[bucket]``."""

    row: Int64Array  # (n_step,), row of the column or -1
    layer_of: Int64Array  # (n_bucket + 1,), the last for the background
    first_bin: int
    long_usd: Float32Array  # (n_layer, n_row, n_price)
    short_usd: Float32Array
    swept: Float64Array  # (n_step, 2), predicted liquidations [USD]


@_kernel
def bin_of(price: float, bin_width: float) -> int:
    """Lattice index of a price."""
    return math.floor(math.log(price) / bin_width)


@_kernel
def clip(index: int, n_bins: int) -> int:
    """Index limited to ``0 .. n_bins``."""
    return min(max(index, 0), n_bins)


@_kernel
def needs_recentre(close_bin: int, first_bin: int, n_bins: int) -> bool:
    """Whether the close has left the middle quarter of the window."""
    return bool(abs(close_bin - n_bins // 2 - first_bin) > n_bins // 8)


@_kernel
def window_range(inputs: Inputs, bin_width: float, n_bins: int, first_bin: int, n_steps: int) -> tuple[int, int]:
    """Lowest and highest first bin of the windows `run_steps` will use."""
    at = bin_of(inputs.candle[inputs.first[1] - 1, CLOSE], bin_width) - n_bins // 2 if n_steps == 0 else first_bin
    low = high = at
    for t in range(len(inputs.contracts)):
        close_bin = bin_of(inputs.candle[inputs.first[t + 1] - 1, CLOSE], bin_width)
        if needs_recentre(close_bin, at, n_bins):
            at = close_bin - n_bins // 2
            low, high = min(low, at), max(high, at)
    return low, high


@_kernel
def shift_row(row: Float64Array, shift: int) -> float:
    """Move the content of a row by `shift` bins towards its start and return what falls off."""
    n_bins = len(row)
    lost = 0.0
    if shift > 0:
        for j in range(clip(shift, n_bins)):
            lost += row[j]
        for j in range(n_bins):
            row[j] = row[j + shift] if j + shift < n_bins else 0.0
    else:
        for j in range(clip(n_bins + shift, n_bins), n_bins):
            lost += row[j]
        for j in range(n_bins - 1, -1, -1):
            row[j] = row[j + shift] if j + shift >= 0 else 0.0
    return lost


@_kernel
def recentre(state: State, shift: int) -> None:
    """Move the window of kept bins; what leaves it goes to the sink."""
    for s in range(2):
        for k in range(state.cells.shape[1]):
            lost = shift_row(state.cells[s, k], shift) * state.scale[s, k]
            state.mass[s, k] = max(state.mass[s, k] - lost, 0.0)
            state.sink[s] += lost
    state.ints[FIRST_BIN] += shift


@_kernel
def sweep(state: State, s: int, begin: int, end: int, price: Float64Array) -> float:
    """Empty bins ``begin .. end - 1`` of one side and return the USD taken out."""
    usd = 0.0
    for k in range(state.cells.shape[1]):
        row = state.cells[s, k]
        scale = state.scale[s, k]
        gone = 0.0
        for j in range(begin, end):
            gone += row[j]
            usd += row[j] * scale * price[j]
            row[j] = 0.0
        state.mass[s, k] = max(state.mass[s, k] - gone * scale, 0.0)
    return usd


@_kernel
def held(state: State, s: int) -> float:
    """Contracts of one side, at risk or in the sink."""
    total = state.sink[s]
    for k in range(state.mass.shape[1]):
        total += state.mass[s, k]
    return float(total)


@_kernel
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


@_kernel
def close_side(state: State, s: int, rules: Rules, target: float) -> None:
    """Scale a side down to `target` contracts with the buckets' hazards."""
    if target <= 1e-12 * held(state, s):
        state.cells[s] = 0.0
        state.scale[s] = 1.0
        state.mass[s] = 0.0
        state.sink[s] = max(target, 0.0)
        return
    theta = closing(state.mass[s], rules.tau, state.sink[s], rules.sink_tau, target)
    state.sink[s] *= math.exp(-theta / rules.sink_tau)
    for k in range(len(rules.tau)):
        keep = math.exp(-theta / rules.tau[k])
        state.mass[s, k] *= keep
        state.scale[s, k] *= keep
        if state.scale[s, k] < _TINY:
            for j in range(state.cells.shape[2]):
                state.cells[s, k, j] *= state.scale[s, k]
            state.scale[s, k] = 1.0


@_kernel
def triangle_below(x: float, low: float, mode: float, high: float) -> float:
    """Share of a triangular distribution below x."""
    if x <= low:
        return 0.0
    if x >= high:
        return 1.0
    if x < mode:
        return (x - low) * (x - low) / ((high - low) * (mode - low))
    return 1.0 - (high - x) * (high - x) / ((high - low) * (high - mode))


@_kernel
def entry_profile(candle: Float64Array, low_bin: int, n_bin: int, bin_width: float) -> Float64Array:
    """Volume-weighted entry profile of sub-candles, shape (n_bin,), from lattice bin `low_bin`; sums to 1."""
    profile = np.zeros(n_bin)
    volume = 0.0
    for i in range(len(candle)):
        volume += candle[i, VOLUME]
    for i in range(len(candle)):
        weight = candle[i, VOLUME] / volume if volume > 0.0 else 1.0 / len(candle)
        low, high = math.log(candle[i, LOW]), math.log(candle[i, HIGH])
        mode = math.log(candle[i, CLOSE])
        begin = math.floor(low / bin_width)
        end = math.floor(high / bin_width)
        below = 0.0
        for j in range(begin, end + 1):
            share = 1.0 if j == end else triangle_below((j + 1) * bin_width, low, mode, high)
            profile[j - low_bin] += weight * (share - below)
            below = share
    return profile


@_kernel
def deposit(
    state: State, s: int, kernels: Kernels, amounts: Float64Array, profile: Float64Array, at: int, begin: int, end: int
) -> None:
    """Open ``amounts[k]`` contracts at entries from bin `at`; levels outside ``begin .. end - 1`` go to the sink."""
    n_bucket = len(amounts)
    for k in range(n_bucket):
        row = state.cells[s, k]
        source = kernels.mass[kernels.start[s, k] : kernels.start[s, k] + kernels.length[s, k]]
        sums = kernels.start[s, k] + s * n_bucket + k  # `cumulative` holds one element more per kernel
        kept = 0.0
        for i in range(len(profile)):
            level = at + i + kernels.offset[s, k]
            low = max(begin - level, 0)
            high = min(end - level, len(source))
            if high <= low:
                continue
            kept += profile[i] * (kernels.cumulative[sums + high] - kernels.cumulative[sums + low])
            weight = amounts[k] * profile[i] / state.scale[s, k]
            target = row[level + low : level + high]
            piece = source[low:high]
            for j in range(high - low):
                target[j] += weight * piece[j]
        state.mass[s, k] += amounts[k] * kept
        state.sink[s] += amounts[k] * (1.0 - kept)


@_kernel
def emit(
    state: State, s: int, rules: Rules, close: int, begin: int, end: int, price: Float64Array, out: Output, t: int
) -> None:
    """Write one side of a column, contracts x price, with the diffuse background out of the sink."""
    layers = out.long_usd if s == 0 else out.short_usd
    row, at = out.row[t], state.ints[FIRST_BIN] - out.first_bin
    n_bucket = state.cells.shape[1]
    # Loops run over slices from 0, which the compiler can prove to be in range and vectorises.
    total = np.zeros(end - begin)
    usd = price[begin:end]
    for k in range(n_bucket):
        source = state.cells[s, k, begin:end]
        scale = state.scale[s, k]
        for j in range(len(source)):
            total[j] += source[j] * scale
        if len(layers) > 1:
            layer = layers[out.layer_of[k], row, at + begin : at + end]
            for j in range(len(source)):
                layer[j] += np.float32(source[j] * scale * usd[j])
    close -= begin
    amount = min(
        rules.diffuse_share * total[max(close - rules.near, 0) : max(close + rules.near + 1, 0)].sum(), state.sink[s]
    )
    if len(layers) > 1:
        total[:] = 0.0
    reach = len(rules.diffuse) - 1
    for j in range(max(close - reach, 0), min(close + reach + 1, len(total))):
        total[j] += amount * rules.diffuse[abs(j - close)]
    layer = layers[out.layer_of[n_bucket], row, at + begin : at + end]
    for j in range(len(layer)):
        layer[j] += np.float32(total[j] * usd[j])


@_kernel
def set_prices(price: Float64Array, first_bin: int, rules: Rules) -> None:
    """USD per contract in each bin; an inverse contract is a fixed number of USD."""
    for j in range(len(price)):
        price[j] = 1.0 if rules.inverse else math.exp((first_bin + j + 0.5) * rules.bin_width)


@_kernel
def observe_move(state: State, rules: Rules, close: float, close_ms: int) -> None:
    """Take the return of a step into account; the first step has none."""
    hours = (close_ms - state.ints[CLOSE_MS]) / 3_600_000
    if state.ints[N_STEPS] > 0 and hours > 0.0:
        kept = math.exp(-hours / rules.volatility.memory)
        move = math.log(close / state.moves[LAST_CLOSE])
        state.moves[SQUARES] = state.moves[SQUARES] * kept + move * move
        state.moves[HOURS] = state.moves[HOURS] * kept + hours
    state.moves[LAST_CLOSE] = close
    state.ints[CLOSE_MS] = close_ms


@_kernel
def moved_shares(state: State, rules: Rules) -> Float64Array:
    """Shares of the buckets as the market's volatility moves them: in a calm market leverage is higher.

    The mix is a density over the log distance ``ln(1 / leverage)``, even within a bucket. It moves by the log of the
    volatility over the usual one; what leaves the buckets stays in the outermost.
    """
    v = rules.volatility
    variance = (v.usual * v.prior + state.moves[SQUARES]) / (v.prior + state.moves[HOURS])
    shift = 0.5 * v.scaling * math.log(variance / v.usual)
    n_bucket = len(rules.shares)
    shares = np.zeros(n_bucket)
    for k in range(n_bucket):
        low, width = rules.reach[k] + shift, rules.reach[k + 1] - rules.reach[k]
        below = 0.0
        for j in range(n_bucket):
            above = 1.0 if j == n_bucket - 1 else min(max((rules.reach[j + 1] - low) / width, 0.0), 1.0)
            shares[j] += rules.shares[k] * (above - below)
            below = above
    return shares


@_kernel
def open_side(
    state: State, s: int, shares: Float64Array, rules: Rules, kernels: Kernels, target: float, lean: float,
    profile: Float64Array, at: int, begin: int, end: int,
) -> None:  # fmt: skip
    """Open what a side lacks to `target` contracts."""
    opened = max(target - held(state, s), 0.0)
    risky = min(opened * (1.0 - rules.sink_share) * lean, opened)
    state.sink[s] += opened - risky
    deposit(state, s, kernels, risky * shares, profile, at, begin, end)


@_kernel
def sweep_both(
    state: State, rules: Rules, candle: Float64Array, close_bin: int, price: Float64Array, swept: Float64Array
) -> None:
    """Remove the levels the mark price reached; the close may lie beyond the mark's extremes, never inside them."""
    n_bins, first_bin = state.cells.shape[2], state.ints[FIRST_BIN]
    low = min(bin_of(candle[:, MARK_LOW].min(), rules.bin_width), close_bin) - first_bin
    high = max(bin_of(candle[:, MARK_HIGH].max(), rules.bin_width), close_bin) - first_bin
    before = state.ints[CLOSE_BIN] - first_bin
    swept[0] = sweep(state, 0, clip(low, n_bins), clip(before, n_bins), price)
    swept[1] = sweep(state, 1, clip(before + 1, n_bins), clip(high + 1, n_bins), price)


@_kernel
def gross_openings(change: float, volume: float, interest: float, churn: float) -> float:
    """Contracts opened in a step: the rise of open interest and a share of the volume beyond its change."""
    return min(max(change, 0.0) + churn * max(volume - abs(change), 0.0) / 2.0, interest)


@_kernel
def run_steps(state: State, rules: Rules, kernels: Kernels, inputs: Inputs, out: Output) -> None:
    """Advance the book over every step and write the columns asked for."""
    n_bins = state.cells.shape[2]
    price = np.empty(n_bins)
    set_prices(price, state.ints[FIRST_BIN], rules)
    for t in range(len(inputs.contracts)):
        candle = inputs.candle[inputs.first[t] : inputs.first[t + 1]]
        close_bin = bin_of(candle[-1, CLOSE], rules.bin_width)
        interest = inputs.contracts[t]
        change = interest - state.last_contracts[0]
        if state.ints[N_STEPS] == 0:
            state.ints[FIRST_BIN] = close_bin - n_bins // 2
            set_prices(price, state.ints[FIRST_BIN], rules)
            change = interest
        else:
            sweep_both(state, rules, candle, close_bin, price, out.swept[t])
        if needs_recentre(close_bin, state.ints[FIRST_BIN], n_bins):
            recentre(state, close_bin - n_bins // 2 - state.ints[FIRST_BIN])
            set_prices(price, state.ints[FIRST_BIN], rules)
        observe_move(state, rules, candle[-1, CLOSE], inputs.close_ms[t])
        shares = moved_shares(state, rules)
        state.last_contracts[0] = interest
        state.ints[CLOSE_BIN] = close_bin
        state.ints[N_STEPS] += 1

        low_bin = bin_of(candle[:, LOW].min(), rules.bin_width)
        n_bin = bin_of(candle[:, HIGH].max(), rules.bin_width) - low_bin + 1
        profile = entry_profile(candle, low_bin, n_bin, rules.bin_width)
        gross = gross_openings(change, candle[:, VOLUME].sum(), interest, rules.churn)
        close = close_bin - state.ints[FIRST_BIN]
        at = low_bin - state.ints[FIRST_BIN]
        for s in range(2):
            # Longs live strictly below the close's bin, shorts strictly above it.
            begin, end = (0, close) if s == 0 else (close + 1, n_bins)
            if held(state, s) > interest - gross:
                close_side(state, s, rules, interest - gross)
            open_side(state, s, shares, rules, kernels, interest, inputs.at_risk[t, s], profile, at, begin, end)
            if out.row[t] >= 0:
                emit(state, s, rules, close, begin, end, price, out, t)
