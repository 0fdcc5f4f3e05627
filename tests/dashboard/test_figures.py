"""Figures by their traces and axes; Plotly itself judges whether they are figures."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from dashboard.figures import MAX_BUBBLES, build_chart
from dashboard.frame import ChartFrame, read_frame
from dashboard.lens import shade
from dashboard.maps import build_map, read_map, summary
from dashboard.readings import build_readings, density_codes
from dashboard.view import Palette, Panel, SideFilter, Theme, ViewState
from estimator.cache import Cache
from estimator.domain import Origin, Side

_NUMPY = {"i1": np.int8, "u1": np.uint8, "f4": np.float32, "f8": np.float64}


def _decode(spec: dict[str, Any]) -> np.ndarray[Any, Any]:
    values = np.frombuffer(base64.b64decode(spec["bdata"]), dtype=_NUMPY[spec["dtype"]])
    return values.reshape([int(n) for n in spec["shape"].split(",")]) if "shape" in spec else values


def _chart(frame: ChartFrame) -> dict[str, Any]:
    return build_chart(frame, shade(frame))


@pytest.mark.parametrize("palette", Palette)
@pytest.mark.parametrize("theme", Theme)
def test_plotly_accepts_every_palette_and_theme(frame: ChartFrame, palette: Palette, theme: Theme) -> None:
    frame = replace(frame, view=replace(frame.view, palette=palette, theme=theme))
    go.Figure(_chart(frame))
    go.Figure(build_map(frame, read_map(frame)))


def test_one_signed_byte_trace_shows_both_sides(frame: ChartFrame) -> None:
    [heat] = [t for t in _chart(frame)["data"] if t["type"] == "heatmap"]
    cells, edges = _decode(heat["z"]), _decode(heat["y"])
    assert cells.dtype == np.int8
    assert cells.shape == (len(edges) - 1, len(frame.time_ms))
    assert cells.min() < 0 < cells.max()
    assert (heat["zmin"], heat["zmax"]) == (-127, 127)
    assert heat["showscale"] is False
    assert edges[0] <= frame.window[0] < frame.window[1] <= edges[-1] * (1 + 1e-6)


def test_a_column_lines_up_with_the_candle_that_swept_it(frame: ChartFrame) -> None:
    data = _chart(frame)["data"]
    heat = next(t for t in data if t["type"] == "heatmap")
    candles = next(t for t in data if t["type"] == "candlestick")
    assert candles["x"][0] == heat["x0"]
    assert len(candles["x"]) == len(frame.time_ms)


def test_every_row_can_be_switched_off(frame: ChartFrame) -> None:
    everything = _chart(frame)["layout"]
    assert {k for k in everything if k.startswith("yaxis")} == {
        "yaxis",
        "yaxis2",
        "yaxis3",
        "yaxis4",
        "yaxis5",
        "yaxis6",
    }
    bare = _chart(replace(frame, view=replace(frame.view, panels=())))
    assert {k for k in bare["layout"] if k.startswith("yaxis")} == {"yaxis"}
    assert bare["layout"]["yaxis"]["domain"] == [0.0, 1.0]
    only = _chart(replace(frame, view=replace(frame.view, panels=(Panel.RSI,))))
    assert [t["name"] for t in only["data"] if t.get("yaxis") == "y2"] == ["RSI 14"]
    levels = [s["y0"] for s in only["layout"]["shapes"] if s.get("yref") == "y2"]
    assert levels == [30, 70]


def test_rows_do_not_overlap(frame: ChartFrame) -> None:
    layout = _chart(frame)["layout"]
    domains = sorted(layout[k]["domain"] for k in layout if k.startswith("yaxis"))
    assert domains[0][0] == 0
    assert all(a[1] < b[0] for a, b in pairwise(domains))


def test_the_largest_prints_are_rings_by_side_with_their_value(frame: ChartFrame) -> None:
    rings = [t for t in _chart(frame)["data"] if t.get("meta") == "prints"]
    assert 0 < sum(len(t["x"]) for t in rings) <= MAX_BUBBLES
    low, high = frame.window
    on_screen = frame.prints.filter(pl.col("price").is_between(low, high))
    biggest = on_screen.top_k(1, by="notional_usd")
    shown = next(t for t in rings if t["name"].startswith(biggest["side"][0]))
    at = int(np.argmax(shown["customdata"]))
    assert shown["customdata"][at] == round(biggest["notional_usd"][0])
    assert shown["marker"]["size"][at] == max(s for t in rings for s in t["marker"]["size"])


@pytest.mark.parametrize(("side", "other"), [(SideFilter.LONG, Side.SHORT), (SideFilter.SHORT, Side.LONG)])
def test_of_one_side_alone_nothing_of_the_other_is_drawn(frame: ChartFrame, side: SideFilter, other: Side) -> None:
    chart = _chart(replace(frame, view=replace(frame.view, side=side)))
    names = [t["name"].lower() for t in chart["data"] if t.get("meta") in ("prints", Panel.LIQ)]
    assert len(names) == 2
    assert not any(other in name for name in names)
    assert f"Liquidated, USD: {side}s alone (simulated)" in [a["text"] for a in chart["layout"]["annotations"]]


def test_gaps_are_shaded_and_named(frame: ChartFrame) -> None:
    layout = _chart(frame)["layout"]
    assert any("OKX" in a["text"] and "no data" in a["text"] for a in layout["annotations"])
    assert any(s["type"] == "rect" for s in layout["shapes"])


def test_updates_keep_the_zoom_of_a_view(frame: ChartFrame) -> None:
    assert _chart(frame)["layout"]["uirevision"] == frame.view.query()


def test_hover_density_is_within_two_percent(frame: ChartFrame) -> None:
    shading = shade(frame)
    spec = density_codes(shading)
    codes = np.frombuffer(base64.b64decode(spec["bdata"]), dtype=np.uint8).reshape(spec["shape"])
    decoded = np.where(codes > 0, np.exp(spec["log_min"] + codes * spec["log_step"]), 0)
    usd = shading.density_usd.T
    big = usd > usd.max() * 1e-3
    np.testing.assert_allclose(decoded[big], usd[big], rtol=0.02)


def test_readings_say_simulated_and_name_the_gap(frame: ChartFrame) -> None:
    readings = build_readings(frame, shade(frame), read_map(frame))
    assert readings["origin"] == "simulated"
    assert "SIMULATED" in readings["banner"]
    okx = next(v for v in readings["venues"] if v["exchange"] == "okx")
    assert len(okx["gaps"]) == 1
    assert readings["totals"]["long_usd"] == pytest.approx(sum(v["long_usd"] for v in readings["totals"]["venues"]))
    assert readings["totals"]["largest"]["notional_usd"] <= readings["totals"]["long_usd"]
    json.dumps(readings, allow_nan=False)


def test_nothing_reported_is_not_nothing_liquidated(frame: ChartFrame) -> None:
    silent = replace(frame, day=frame.day.clear(), largest_print=None)
    assert build_readings(silent, shade(silent), read_map(silent))["totals"] is None


def test_the_map_keeps_the_mass_of_the_column_in_the_window(frame: ChartFrame) -> None:
    now = read_map(frame)
    shown = frame.now.crop(*frame.window)
    assert now.tier_usd.sum() == pytest.approx(float(shown.long_usd.sum() + shown.short_usd.sum()), rel=2e-3)
    assert now.long_beyond_usd[0] == pytest.approx(float(shown.long_usd.sum()), rel=2e-3)
    assert (np.diff(now.long_beyond_usd) <= 0).all()
    assert (np.diff(now.short_beyond_usd) >= 0).all()


@pytest.mark.parametrize("side", Side)
def test_the_sums_of_a_window_beside_the_mark_begin_at_the_mark(cache: Cache, side: Side) -> None:
    mark = read_frame(cache, ViewState("BTC")).mark_price
    near, far = sorted((mark * (1 - 0.02 * side.sign), mark * (1 - 0.05 * side.sign)))
    frame = read_frame(cache, ViewState("BTC", price=(near, far)))
    now = read_map(frame)
    wide = frame.now.crop(near, mark) if side is Side.LONG else frame.now.crop(mark, far)
    [curve] = [t for t in build_map(frame, now)["data"] if t.get("name") == f"{side}s up to here"]
    assert _decode(curve["x"]).max() == pytest.approx(float(wide.side_usd(side).sum()), rel=0.01)
    told = summary(now)[f"{side}_usd"]
    assert told == pytest.approx(float(frame.now.crop(near, far).side_usd(side).sum()), rel=0.01), "of the window"
    assert told < 0.95 * _decode(curve["x"]).max()


def test_the_words_of_the_map_tell_what_is_hidden_from_what_is_nothing(cache: Cache) -> None:
    now = read_map(read_frame(cache, ViewState("BTC", side=SideFilter.LONG)))
    told = summary(now._replace(long_pain=None))["text"]
    assert "shorts not shown" in told
    assert "of shorts" not in told
    assert "no level of longs stands out as max pain" in told
    both = summary(now._replace(side=SideFilter.BOTH, long_pain=60_000.0))["text"]
    assert both.endswith("max pain longs 60,000; no level of shorts stands out as max pain")


def test_the_map_says_how_wide_a_bar_is(frame: ChartFrame) -> None:
    now = read_map(frame)
    title = build_map(frame, now)["layout"]["xaxis"]["title"]["text"]
    assert title == f"≈ USD per bar of {100 * (now.price_edges[1] / now.price_edges[0] - 1):.2g} %"


def test_a_row_without_data_says_so(frame: ChartFrame) -> None:
    nothing = pl.lit(None, pl.Float64)
    bare = frame.series.with_columns(long_liquidated_usd=nothing, funding_rate=nothing)
    chart = _chart(replace(frame, series=bare, day=frame.day.clear()))
    texts = [a["text"] for a in chart["layout"]["annotations"]]
    assert "Liquidated: no liquidation prints in this source" in texts
    assert "Funding: none in this source" in texts
    assert not any(t.startswith("RSI") and "none" in t for t in texts)
    assert not any("measured" in t for t in texts)
    assert {t.get("meta") for t in chart["data"]} >= {"rsi", "lsr", "oi"}
    assert not any(t.get("meta") in ("liq", "funding") for t in chart["data"])
    assert chart["layout"]["yaxis2"]["showticklabels"] is False


def test_where_nothing_is_reported_nothing_is_called_measured(frame: ChartFrame) -> None:
    recorded = tuple(replace(s, origin=Origin.RECORDED) for s in frame.statuses)
    assert frame.prints_basis == "simulated"
    assert replace(frame, statuses=recorded).prints_basis == "measured"
    assert replace(frame, statuses=recorded, day=frame.day.clear()).prints_basis == "none"


def test_funding_is_called_settled_only_where_that_is_known(frame: ChartFrame) -> None:
    recorded = replace(frame, statuses=tuple(replace(s, origin=Origin.RECORDED) for s in frame.statuses))
    for shown, words in ((frame, "as settled"), (recorded, "as recorded")):
        [title] = [a["text"] for a in _chart(shown)["layout"]["annotations"] if a["text"].startswith("Funding")]
        assert words in title


def test_a_title_stands_above_its_row(frame: ChartFrame) -> None:
    layout = _chart(frame)["layout"]
    tops = {layout[k]["domain"][1] for k in layout if k.startswith("yaxis") and k != "yaxis"}
    titles = [a for a in layout["annotations"] if a["yref"] == "paper"]
    assert {a["y"] for a in titles} == tops
    assert all(a["yanchor"] == "bottom" for a in titles)
