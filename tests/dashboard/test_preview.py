"""Pictures without a browser."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
from PIL import Image

from dashboard.colours import RAMPS
from dashboard.frame import ChartFrame
from dashboard.preview import HEIGHT, MAX_COLUMNS, WIDTH, _legend, _look, draw_grid, draw_preview
from dashboard.view import Lens, Palette, SideFilter, Theme, ViewState
from estimator.domain import TIME, Side
from estimator.model.grid import LiquidationGrid


def _pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)


def test_longs_are_green_below_and_shorts_red_above(frame: ChartFrame) -> None:
    pixels = _pixels(draw_preview(frame))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    heat = pixels[92:578, 24:1082]
    green = (heat[..., 1] - heat[..., 0] > 60).sum(axis=1)
    red = (heat[..., 0] - heat[..., 1] > 60).sum(axis=1)
    middle = len(heat) // 2
    assert green[middle:].sum() > 10 * green[:middle].sum()
    assert red[:middle].sum() > 10 * red[middle:].sum()


def test_a_simulated_market_is_badged(frame: ChartFrame) -> None:
    corner = _pixels(draw_preview(frame))[16:58, 960:1176]
    assert (np.abs(corner - np.array([0xF5, 0xB3, 0x01])).sum(axis=-1) < 30).mean() > 0.4


def test_a_grid_of_any_length_is_drawn_with_its_candles() -> None:
    n_time, step = 3 * MAX_COLUMNS + 7, 300_000
    close_ms = step * np.arange(1, n_time + 1, dtype=np.int64)
    price = 100 * np.exp(0.02 * np.sin(np.arange(n_time) / 200))
    candles = pl.DataFrame(
        {
            "time": pl.Series(close_ms - step).cast(TIME), "open": price, "high": price * 1.001,
            "low": price * 0.999, "close": price, "volume": np.ones(n_time),
        }
    )  # fmt: skip
    first = int(np.log(80) / 0.001)
    usd = np.random.default_rng(3).gamma(0.2, 1e5, (n_time, 400)).astype(np.float32)
    below = (first + np.arange(400)) * 0.001 < np.log(price)[:, None]
    zero = np.float32(0)
    grid = LiquidationGrid(
        close_ms.astype("datetime64[ms]"), first, 0.001, np.where(below, usd, zero), np.where(below, zero, usd)
    )
    pixels = _pixels(draw_grid(grid, candles, title="XYZ/USDT:USDT"))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert ((pixels[..., 1] - pixels[..., 0]) > 60).any()


def test_the_picture_names_its_lens_and_what_is_hidden() -> None:
    assert _look(ViewState("BTC")) == " | contrast"
    assert _look(ViewState("BTC", lens=Lens.DENSITY, min=0.4, max=0.8)) == " | density, intensity 40 to 80 %"
    longs = ViewState("BTC", side=SideFilter.LONG)
    assert _legend(longs, Side.SHORT, 0.0, "per 0.1 %") == "shorts not shown"
    assert _legend(longs, Side.LONG, 0.0, "per 0.1 %") == "longs: none in this window"
    assert _legend(longs, Side.LONG, 2e6, "per 0.1 %") == "longs: full colour = $2.00M per 0.1 %"


def test_the_colour_blind_palette_never_opposes_red_and_green() -> None:
    for theme in Theme:
        long_ramp, short_ramp = RAMPS[Palette.COLORBLIND, theme]
        for long_colour, short_colour in zip(long_ramp, short_ramp, strict=True):
            blue_of_long, blue_of_short = int(long_colour[5:7], 16), int(short_colour[5:7], 16)
            assert blue_of_long > blue_of_short + 40
