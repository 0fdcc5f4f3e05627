"""From density to colour: the lenses, the scale and its handles.

Colour is relative to a high percentile of what is on screen, per side, with a gamma, so that far mass never drowns
the levels near the price. The picture's legend says what the colours at the handles mean in USD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from dashboard.frame import ChartFrame
from dashboard.view import Lens, ViewState
from estimator.domain import Float32Array, Float64Array
from estimator.model.grid import LiquidationGrid
from estimator.model.parameters import Parameters

BACKGROUND_SIGMA: Final = 0.014  # of log price
PERCENTILE: Final = 99.5
GAMMA: Final = 0.65
DIFFUSE_RANGE: Final = Parameters().background_range  # of log price
EDGE_BINS: Final = 3  # around that range: venues and coarse bins blur it
FULL: Final = 127  # code of full colour

Int8Array = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Shading:
    """Colours of the cells in the price window.

    Parameters
    ----------
    codes : Int8Array, shape (n_time, n_price)
        Intensity -127..127: longs negative, shorts positive, 0 nothing.
    density_usd : Float32Array, shape (n_time, n_price)
        Estimated density of both sides, whatever the lens. [USD per bin]
    price_edges : Float64Array, shape (n_price + 1,)
    long_full, short_full : float
        Where full colour is reached, 0 where nothing is there. [USD per .1 % of price]
    least_share : float
        Part of it below which nothing is drawn.
    lens : Lens
    per_tenth_percent : float
        Factor from USD per bin to USD per .1 % of price.
    """

    codes: Int8Array
    density_usd: Float32Array
    price_edges: Float64Array
    long_full: float
    short_full: float
    least_share: float
    lens: Lens
    per_tenth_percent: float

    @property
    def unit(self) -> str:
        """What full colour is told in: other than density, the lenses show what stands out of it."""
        return "per 0.1 %" if self.lens is Lens.DENSITY else "per 0.1 % above surroundings"


def shade(frame: ChartFrame) -> Shading:
    """Apply the view's lens, scale and handles to the columns of a frame.

    The scale is taken from the columns that are no longer provisional: a book that is still filling holds all it knows
    at one price.
    """
    settled = frame.time_ms >= max(s.provisional_until_ms for s in frame.statuses)
    close = frame.series["close"].fill_null(frame.mark_price).to_numpy()
    shading = shade_grid(frame.grid, close, frame.window, frame.view, settled)
    if frame.band is None:
        return shading
    sure = frame.band.fading[:, on_screen(frame.grid, frame.window)] ** np.float32(GAMMA)  # of density, told in colour
    return replace(shading, codes=np.rint(shading.codes * sure).astype(np.int8))


def on_screen(grid: LiquidationGrid, window: tuple[float, float]) -> slice:
    """Bins of a grid that lie in a price window."""
    low, high = window
    first = int(np.floor(np.log(low) / grid.bin_width + 1e-9)) - grid.first_bin
    stop = max(first + 1, int(np.ceil(np.log(high) / grid.bin_width - 1e-9)) - grid.first_bin)
    return slice(max(first, 0), stop)


def shade_grid(
    grid: LiquidationGrid,
    close: Float64Array,
    window: tuple[float, float],
    view: ViewState,
    settled: NDArray[np.bool_] | None = None,
) -> Shading:
    """Apply a view's lens, scale and handles to a grid.

    Parameters
    ----------
    grid : LiquidationGrid
        Wider than `window` where the contrast lens is to have a background at its edges.
    close : Float64Array, shape (n_time,)
        Price at each column: longs lie below it, shorts above.
    window : tuple of float
        Lowest and highest price shown.
    view : ViewState
    settled : array of bool, shape (n_time,), optional
        Columns the scale is taken from; all where none is.
    """
    seen = on_screen(grid, window)
    close_bin = np.log(close) / grid.bin_width - grid.first_bin
    long_usd = _seen(grid.long_usd, close_bin, view.lens, grid.bin_width, below=True)[:, seen]
    short_usd = _seen(grid.short_usd, close_bin, view.lens, grid.bin_width, below=False)[:, seen]
    scaled = slice(None) if settled is None or not settled.any() else settled
    long_full, short_full = full_scale(long_usd[scaled]), full_scale(short_usd[scaled])
    per_tenth_percent = 0.001 / grid.bin_width
    told = per_tenth_percent * view.max ** (1 / GAMMA)  # where the upper handle puts full colour
    intensity = _scaled(short_usd, short_full, view) - _scaled(long_usd, long_full, view)
    return Shading(
        codes=np.rint(intensity * FULL).astype(np.int8),
        density_usd=(grid.long_usd + grid.short_usd)[:, seen],
        price_edges=grid.price_edges[seen.start : seen.stop + 1],
        long_full=long_full * told,
        short_full=short_full * told,
        least_share=(view.min / view.max) ** (1 / GAMMA),
        lens=view.lens,
        per_tenth_percent=per_tenth_percent,
    )


def contrast(usd: Float32Array, side_mask: NDArray[np.bool_], bin_width: float) -> Float32Array:
    """Density above its own smooth background along price; what stands out.

    The background is a Gaussian average over the bins of the side alone, so that the cut at the price makes no edge.

    Parameters
    ----------
    usd : Float32Array, shape (n_time, n_price)
    side_mask : array of bool, shape (n_time, n_price)
        Bins where the side can have liquidation levels.
    """
    sigma = BACKGROUND_SIGMA / bin_width
    weight = gaussian_filter1d(side_mask.astype(np.float32), sigma, axis=1, mode="nearest", truncate=3)
    smooth = gaussian_filter1d(usd, sigma, axis=1, mode="nearest", truncate=3)
    out: Float32Array = np.maximum(usd - smooth / np.maximum(weight, 1e-3), 0)
    return out


def full_scale(usd: Float32Array) -> float:
    """USD per bin that full colour means: a high percentile of the cells that hold anything."""
    held = usd[usd > 0]
    return float(np.percentile(held, PERCENTILE)) if held.size else 0.0


def _seen(usd: Float32Array, close_bin: Float64Array, lens: Lens, bin_width: float, *, below: bool) -> Float32Array:
    if lens is Lens.DENSITY:
        return usd
    away = np.arange(usd.shape[1]) - close_bin[:, None]
    on_side = (away <= 0 if below else away >= -1) | (usd > 0)
    # The estimator's diffuse background ends at a fixed distance; that edge is an assumption, not a level.
    beyond = (np.abs(away) * bin_width - DIFFUSE_RANGE) / bin_width
    within = beyond < 0
    if within.all():
        return contrast(usd, on_side, bin_width)
    near = contrast(np.where(within, usd, 0), on_side & within, bin_width)
    far = contrast(np.where(within, 0, usd), on_side & ~within, bin_width)
    return np.where(np.abs(beyond) < EDGE_BINS, np.float32(0), np.where(within, near, far))


def _scaled(usd: Float32Array, full: float, view: ViewState) -> Float32Array:
    if full <= 0:
        return np.zeros_like(usd)
    intensity = np.minimum(usd / np.float32(full), 1) ** np.float32(GAMMA)
    out: Float32Array = np.clip((intensity - view.min) / (view.max - view.min), 0, 1).astype(np.float32)
    return out
