"""Density becomes colour: what stands out is seen, and the scale says what it means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboard.frame import ChartFrame
from dashboard.lens import DIFFUSE_RANGE, FULL, GAMMA, contrast, full_scale, shade, shade_grid
from dashboard.view import Lens, ViewState
from estimator.domain import Float32Array
from estimator.model.grid import LiquidationGrid

BIN = 0.001


def _everywhere(usd: Float32Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.ones(usd.shape, dtype=bool)


def test_contrast_of_an_even_density_is_nothing() -> None:
    usd = np.full((3, 200), 5e6, dtype=np.float32)
    assert contrast(usd, _everywhere(usd), BIN).max() < 1e-3 * 5e6


def test_the_cut_at_the_price_makes_no_edge() -> None:
    usd = np.zeros((1, 200), dtype=np.float32)
    usd[:, :100] = 5e6
    assert contrast(usd, np.arange(200)[None] < 100, BIN).max() < 1e-3 * 5e6


def test_a_cluster_stands_out_at_its_own_price() -> None:
    usd = np.full((1, 200), 1e6, dtype=np.float32)
    usd[0, 60:63] += 4e6
    seen = contrast(usd, _everywhere(usd), BIN)[0]
    assert set(np.flatnonzero(seen > 0.5 * seen.max())) == {60, 61, 62}


@given(st.floats(1e-3, 1e6))
@settings(max_examples=25)
def test_contrast_keeps_the_unit(factor: float) -> None:
    usd = np.random.default_rng(2).gamma(0.3, 1e5, (2, 120)).astype(np.float32)
    one, many = contrast(usd, _everywhere(usd), BIN), contrast(usd * np.float32(factor), _everywhere(usd), BIN)
    np.testing.assert_allclose(many, one * factor, rtol=1e-3, atol=1e-3 * factor * float(one.max()))


def test_longs_are_negative_and_shorts_positive(frame: ChartFrame) -> None:
    shading = shade(frame)
    close = frame.series["close"].to_numpy()
    price = np.sqrt(shading.price_edges[1:] * shading.price_edges[:-1])
    assert (shading.codes < 0).any()
    assert (shading.codes > 0).any()
    assert not (shading.codes[price[None] > close[:, None] * 1.002] < 0).any()
    assert not (shading.codes[price[None] < close[:, None] * 0.998] > 0).any()


def test_full_colour_means_what_the_scale_says(frame: ChartFrame) -> None:
    frame = replace(frame, view=replace(frame.view, lens=Lens.DENSITY))
    shading = shade(frame)
    per_tenth = shading.density_usd * shading.per_tenth_percent
    full_longs = shading.codes == -FULL
    assert per_tenth[full_longs].min() == pytest.approx(shading.long_full, rel=0.02)
    longs = shading.codes < -20
    meant = shading.long_full * (-shading.codes[longs] / FULL) ** (1 / GAMMA)
    np.testing.assert_allclose(np.minimum(per_tenth[longs], shading.long_full), meant, rtol=0.5 / 20 / GAMMA)


def test_the_scale_tells_what_the_handles_do_to_full_colour(frame: ChartFrame) -> None:
    frame = replace(frame, view=replace(frame.view, lens=Lens.DENSITY, min=0.4, max=0.8))
    shading = shade(frame)
    per_tenth = shading.density_usd * shading.per_tenth_percent
    assert per_tenth[shading.codes == -FULL].min() == pytest.approx(shading.long_full, rel=0.02)
    drawn = per_tenth[shading.codes < 0]
    assert drawn.min() == pytest.approx(shading.least_share * shading.long_full, rel=0.05)


def test_only_density_is_told_as_such(frame: ChartFrame) -> None:
    units = {lens: shade(replace(frame, view=replace(frame.view, lens=lens))).unit for lens in Lens}
    assert units.pop(Lens.DENSITY) == "per 0.1 %"
    assert set(units.values()) == {"per 0.1 % above surroundings"}


def test_far_mass_does_not_drown_the_near_side() -> None:
    usd = np.random.default_rng(1).gamma(1.0, 1e5, (50, 100)).astype(np.float32)
    usd[:1, -1] = 1e12  # one cell out of five thousand
    assert full_scale(usd) < 1e6


def test_handles_hide_the_weak_and_saturate_the_strong(frame: ChartFrame) -> None:
    plain = shade(frame)
    cut = shade(replace(frame, view=replace(frame.view, min=0.5)))
    assert not cut.codes[np.abs(plain.codes) < 0.49 * FULL].any()
    bright = shade(replace(frame, view=replace(frame.view, max=0.5)))
    assert (np.abs(bright.codes[np.abs(plain.codes) > 0.51 * FULL]) == FULL).all()


def test_the_scale_ignores_a_book_that_is_still_filling() -> None:
    usd = np.full((4, 50), 1e6, dtype=np.float32)
    usd[0] *= 100
    time = np.arange(4).astype("datetime64[ms]")
    grid = LiquidationGrid(time, 0, BIN, usd, np.zeros_like(usd))
    settled = np.array([False, True, True, True])
    view = ViewState("BTC", lens=Lens.DENSITY)
    shading = shade_grid(grid, np.full(4, np.exp(0.05)), (1.0, float(np.exp(0.05))), view, settled)
    assert shading.long_full == pytest.approx(1e6)
    assert shading.short_full == 0


def test_the_end_of_the_diffuse_background_is_not_drawn_as_a_level() -> None:
    away = np.abs(np.arange(1200) - 1000) * BIN
    usd = np.where((away < DIFFUSE_RANGE) & (np.arange(1200) < 1000), 1e6, 2e5).astype(np.float32)[None]
    usd[:, 1000:] = 0
    grid = LiquidationGrid(np.array([0], dtype="datetime64[ms]"), 0, BIN, usd, np.zeros_like(usd))
    shading = shade_grid(
        grid, np.array([float(np.exp(0.9995))]), (float(np.exp(0.1)), float(np.exp(1.0))), ViewState("BTC")
    )
    assert shading.long_full < 1e3
