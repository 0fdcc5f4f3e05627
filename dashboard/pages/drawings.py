"""How a level is made, in pictures drawn from the estimator's own kernels: SVG, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from estimator.domain import ContractType, Float64Array, LeverageBracket, Market, Side
from estimator.model.grid import TIERS, tier_index
from estimator.model.parameters import Parameters, Preset
from estimator.model.spread import build_kernels

REACH: Final = 0.36  # log price to either side of the entry
WIDTH: Final = 720
_LEFT, _RIGHT = 46, 62
_ROW: Final = 24
FALL: Final = 0.03  # of the third picture
_TICKS: Final = (-30, -20, -10, -5, 0, 5, 10, 20, 30)


class Opening(NamedTuple):
    """What one opening at one price becomes.

    Parameters
    ----------
    leverages, shares : tuple of float, length n_bucket
    level : Float64Array, shape (n_bin,)
        Log of the liquidation price over the entry, middle of each bin.
    density : Float64Array, shape (2, n_bucket, n_bin)
        Share of a bucket's longs and shorts in each bin.
    sink_share : float
        Part of the opening that is never at risk in range.
    """

    leverages: tuple[float, ...]
    shares: tuple[float, ...]
    level: Float64Array
    density: Float64Array
    sink_share: float

    @property
    def total(self) -> Float64Array:
        """Share of the whole opening, longs and shorts, by display tier and bin; shape (2, n_tier, n_bin)."""
        out = np.zeros((2, len(TIERS), len(self.level)))
        for at, (leverage, share) in enumerate(zip(self.leverages, self.shares, strict=True)):
            out[:, tier_index(leverage)] += (1 - self.sink_share) * share * self.density[:, at]
        return out


@lru_cache(maxsize=16)
def open_at_one_price(preset: Preset, contract: ContractType, maintenance: float, max_leverage: float) -> Opening:
    """Compute the kernels of a market with this maintenance rate (fee included) and maximum leverage."""
    symbol = "BTC/USDT:USDT" if contract == "linear" else "BTC/USD:BTC"
    market = Market("example", symbol, contract, (LeverageBracket(0.0, max_leverage, maintenance),))
    parameters = Parameters.preset(preset).for_leverage(max_leverage)
    kernels = build_kernels(market, parameters)
    half = math.ceil(REACH / parameters.bin_width)
    density = np.zeros((2, len(parameters.leverages), 2 * half + 1))
    for side, bucket in np.ndindex(density.shape[:2]):
        first, length = int(kernels.start[side, bucket]), int(kernels.length[side, bucket])
        where = half + int(kernels.offset[side, bucket]) + np.arange(length)
        inside = (where >= 0) & (where < density.shape[2])
        density[side, bucket, where[inside]] = kernels.mass[first : first + length][inside]
    level: Float64Array = np.arange(-half, half + 1, dtype=np.float64) * parameters.bin_width
    return Opening(parameters.leverages, parameters.shares, level, density, parameters.sink_share)


def by_bucket(opening: Opening) -> str:
    """Draw every bucket in a row of its own, each to its own height."""
    rows = []
    for at, (leverage, share) in enumerate(zip(opening.leverages, opening.shares, strict=True)):
        base = 8 + _ROW * (at + 1)
        rows.append(f'<text x="{_LEFT - 8}" y="{base - 3}" text-anchor="end">{leverage:g}x</text>')
        rows.append(f'<text x="{WIDTH - _RIGHT + 8}" y="{base - 3}" class="dim">{100 * share:.3g} %</text>')
        rows.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}" class="rule"/>')
        for side, usd in zip(Side, opening.density[:, at], strict=True):
            heights = usd / usd.max() * (_ROW - 4) if usd.max() > 0 else usd
            rows.append(
                f'<path class="fill-{side}" d="{_area(opening.level, heights, np.zeros_like(heights), base)}"/>'
            )
    base = 8 + _ROW * len(opening.leverages)
    words = "Where longs (left) and shorts (right) opened at one price are liquidated, by effective leverage"
    return _svg(base + 34, words, [*_axis(8, base), *rows])


def added_up(opening: Opening) -> str:
    """Draw all buckets of one opening on top of each other, coloured by display tier."""
    return _svg(
        214, "The same opening added up, by leverage tier", [*_axis(8, 180), *_stack(opening.total, opening, 180)]
    )


def swept(opening: Opening) -> str:
    """Draw what is left after the price has fallen by `FALL`."""
    total, fallen = opening.total, math.log(1 - FALL)
    left, gone = total.copy(), total.copy()
    hit = opening.level >= fallen
    left[0, :, hit] = 0.0
    gone[1] = 0.0
    gone[0, :, ~hit] = 0.0
    top = float(total.sum(axis=1).max())
    removed = gone[0].sum(axis=0) / top * 160
    x = _x(fallen)
    parts = [
        *_axis(8, 180),
        *_stack(left, opening, 180, top),
        f'<path class="gone" d="{_area(opening.level, removed, np.zeros_like(removed), 180)}"/>',
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="180" class="mark"/>',
        f'<text x="{x - 6:.1f}" y="20" text-anchor="end">price now, −{100 * FALL:g} %</text>',
    ]
    return _svg(214, f"After a fall of {100 * FALL:g} %: the longs it has passed are liquidated", parts)


def _stack(total: Float64Array, opening: Opening, base: float, top: float | None = None) -> Iterable[str]:
    top = top or float(total.sum(axis=1).max())
    for longs_or_shorts in total:
        below = np.zeros(len(opening.level))
        for tier, usd in enumerate(longs_or_shorts):
            above = below + usd / top * (base - 20)
            yield f'<path class="tier-{tier}" d="{_area(opening.level, above, below, base)}"/>'
            below = above


def _x(level: float) -> float:
    return _LEFT + (level + REACH) / (2 * REACH) * (WIDTH - _LEFT - _RIGHT)


def _area(level: Float64Array, above: Float64Array, below: Float64Array, base: float) -> str:
    """Path around the part where there is anything, two bins to a point."""
    held = np.flatnonzero(above - below > 1e-3)
    if not len(held):
        return ""
    at = np.arange(max(held[0] - 1, 0), min(held[-1] + 2, len(level)))
    # A narrow peak keeps every bin, a broad one needs only some of them.
    at = at[:: max(1, len(at) // 160)]
    upper = [f"{_x(level[i]):.1f},{base - above[i]:.1f}" for i in at]
    lower = [f"{_x(level[i]):.1f},{base - below[i]:.1f}" for i in at[::-1]]
    return "M" + "L".join((*upper, *lower)) + "Z"


def _axis(top: float, base: float) -> list[str]:
    parts = []
    for tick in _TICKS:
        x = _x(math.log(1 + tick / 100))
        name = "entry" if tick == 0 else f"{'+' if tick > 0 else '−'}{abs(tick)} %"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}" class="{"rule" if tick else "entry"}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle" class="dim">{name}</text>')
    return parts


def _svg(height: float, words: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
