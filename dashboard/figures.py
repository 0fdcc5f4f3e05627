"""The chart as a Plotly figure: heatmap, candles, realised liquidations, and the rows under them.

Figures are plain mappings in Plotly's JSON: small on the wire (typed arrays, no template) and quick to build.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dashboard.colours import INK, Ink, scale, side_colours
from dashboard.frame import ChartFrame
from dashboard.lens import FULL, Shading
from dashboard.marks import gap_marks, provisional_mark
from dashboard.view import Panel
from estimator.domain import Origin, Side
from estimator.units import utc_text

Figure = dict[str, Any]
Trace = dict[str, Any]

MAX_BUBBLES: Final = 150
PANEL_SHARE: Final = 0.087  # of the height, each
PANEL_SPACE: Final = 0.03  # above each, for its title
_DTYPES: Final = {"int8": "i1", "uint8": "u1", "float32": "f4", "float64": "f8"}


def typed(values: NDArray[Any]) -> dict[str, str]:
    """Encode an array as Plotly's typed array; missing values stay NaN, which Plotly leaves out."""
    spec = {
        "dtype": _DTYPES[values.dtype.name],
        "bdata": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode(),
    }
    return spec if values.ndim == 1 else {**spec, "shape": ", ".join(map(str, values.shape))}


def build_chart(frame: ChartFrame, shading: Shading) -> Figure:
    """Build the main figure.

    A column is drawn over the interval that ends at its time, so that it lines up with the candle that swept it.
    Rows share the x axis; the heatmap's y axis is ``y``, the panels' are ``y2``, ``y3``, … in the order of the view.
    """
    panels = frame.view.panels
    traces = [_heatmap(frame, shading), _candles(frame), *_bubbles(frame)]
    for row, panel in enumerate(panels, start=2):
        drawn = () if _is_empty(panel, frame) else _PANELS[panel][1](frame)
        traces += [{**t, "yaxis": f"y{row}", "showlegend": False, "meta": panel.value} for t in drawn]
    return {"data": traces, "layout": _layout(frame, panels)}


def _heatmap(frame: ChartFrame, shading: Shading) -> Trace:
    return {
        "type": "heatmap",
        "name": "liquidation levels (estimated)",
        "x0": utc_text(int(frame.time_ms[0]) - frame.interval_ms / 2, seconds=True),
        "dx": frame.interval_ms,
        "y": typed(shading.price_edges.astype(np.float32)),
        "z": typed(shading.codes.T),
        "zmin": -FULL,
        "zmax": FULL,
        "colorscale": scale(frame.view.palette, frame.view.theme),
        "hoverinfo": "none",  # the page reads the density itself
        "showscale": False,  # the page has its own legend
    }


def _column_times(frame: ChartFrame) -> list[str]:
    """Middle of every column."""
    return [utc_text(t - frame.interval_ms / 2, seconds=True) for t in frame.time_ms.tolist()]


def _candles(frame: ChartFrame) -> Trace:
    ink = INK[frame.view.theme]
    # Plotly draws a candle without prices as a broken path.
    known = frame.series.with_columns(x=pl.Series(_column_times(frame))).drop_nulls(["open", "high", "low", "close"])
    prices = {n: typed(known[n].to_numpy().astype(np.float32)) for n in ("open", "high", "low", "close")}
    return {
        "type": "candlestick", "name": f"{frame.statuses[0].exchange} {frame.statuses[0].symbol}",
        "x": known["x"].to_list(), **prices, "whiskerwidth": 0, "showlegend": False, "hoverinfo": "none",
        "increasing": {"line": {"color": ink.candle_up, "width": 1}, "fillcolor": ink.candle_up},
        "decreasing": {"line": {"color": ink.candle_down, "width": 1}, "fillcolor": ink.background},
    }  # fmt: skip


def _bubbles(frame: ChartFrame) -> list[Trace]:
    """Rings for the largest prints inside the price window; area grows with USD."""
    low, high = frame.window
    shown = (
        frame.prints.filter(pl.col("price").is_between(low, high)).top_k(MAX_BUBBLES, by="notional_usd").sort("time")
    )
    if shown.is_empty():
        return []
    biggest = float(shown["notional_usd"].max())  # type: ignore[arg-type]
    colours = side_colours(frame.view.palette, frame.view.theme)
    parts = zip(Side, colours, strict=True)
    return [
        _rings(part, side, colour, biggest)
        for side, colour in parts
        if side in frame.view.sides and (part := shown.filter(pl.col("side") == side)).height
    ]


def _rings(prints: pl.DataFrame, side: Side, colour: str, biggest: float) -> Trace:
    usd = prints["notional_usd"].to_numpy()
    return {
        "type": "scatter", "mode": "markers", "meta": "prints", "name": f"{side} liquidated",
        "showlegend": False,
        "x": [utc_text(t, seconds=True) for t in prints["time"].dt.epoch("ms").to_list()],
        "y": typed(prints["price"].to_numpy().astype(np.float32)),
        "customdata": [round(v) for v in usd.tolist()],
        "text": prints["exchange"].to_list() if "exchange" in prints.columns else None,
        "marker": {
            "symbol": "circle-open", "color": colour, "line": {"width": 1.2},
            "size": [round(v, 1) for v in (3 + 14 * np.sqrt(usd / biggest)).tolist()],
        },
        "hovertemplate": f"<b>{side} liquidated</b> $%{{customdata:,}}<br>%{{text}} at %{{y:,}}<extra></extra>",
    }  # fmt: skip


def _line(frame: ChartFrame, column: str, name: str, hover: str, *, shape: str = "linear") -> Trace:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x0": _middle(frame), "dx": frame.interval_ms,
        "y": typed(frame.series[column].to_numpy().astype(np.float32)),
        "line": {"color": INK[frame.view.theme].accent, "width": 1.3, "shape": shape},
        "hovertemplate": hover + "<extra></extra>",
    }  # fmt: skip


def _middle(frame: ChartFrame) -> str:
    return utc_text(int(frame.time_ms[0]) - frame.interval_ms / 2, seconds=True)


def _liq_panel(frame: ChartFrame) -> list[Trace]:
    colours = side_colours(frame.view.palette, frame.view.theme)
    return [
        {
            "type": "bar", "name": f"{side.capitalize()}s liquidated", "x0": _middle(frame),
            "dx": frame.interval_ms,
            "y": typed((sign * frame.series[f"{side}_liquidated_usd"].to_numpy()).astype(np.float32)),
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": f"{side}s liquidated %{{y:$,.0f}}<extra></extra>",
        }
        for side, sign, colour in zip(Side, (1, -1), colours, strict=True)
        if side in frame.view.sides
    ]  # fmt: skip


def _funding_panel(frame: ChartFrame) -> list[Trace]:
    return [_line(frame, "funding_rate", "Funding, per interval", "funding %{y:.4%}", shape="hv")]


def _rsi_panel(frame: ChartFrame) -> list[Trace]:
    return [_line(frame, "rsi", "RSI 14", "RSI %{y:.1f}")]


def _lsr_panel(frame: ChartFrame) -> list[Trace]:
    return [_line(frame, "long_short_ratio", "Long/short accounts", "%{y:.2f} long accounts per short")]


def _oi_panel(frame: ChartFrame) -> list[Trace]:
    unit = frame.view.symbol
    return [_line(frame, "open_interest", f"Open interest, {unit}", f"%{{y:,.0f}} {unit}")]


# What a row is called, what draws it, and the series without which it is empty.
_PANELS: Final[dict[Panel, tuple[str, Callable[[ChartFrame], list[Trace]], str]]] = {
    Panel.LIQ: ("Liquidated, USD: {sides} ({prints})", _liq_panel, "long_liquidated_usd"),
    Panel.FUNDING: ("Funding {funding}, % per interval, OI-weighted", _funding_panel, "funding_rate"),
    Panel.RSI: ("RSI 14", _rsi_panel, "rsi"),
    Panel.LSR: ("Long/short ratio, accounts", _lsr_panel, "long_short_ratio"),
    Panel.OI: ("Open interest, {symbol}", _oi_panel, "open_interest"),
}


def _heat_domain(panels: Sequence[Panel]) -> tuple[float, float]:
    return len(panels) * (PANEL_SHARE + PANEL_SPACE), 1.0


def _panel_domain(row: int, panels: Sequence[Panel]) -> tuple[float, float]:
    bottom = (len(panels) - 1 - row) * (PANEL_SHARE + PANEL_SPACE)
    return bottom, bottom + PANEL_SHARE


def _layout(frame: ChartFrame, panels: Sequence[Panel]) -> dict[str, Any]:
    view = frame.view
    ink = INK[view.theme]
    layout: dict[str, Any] = {
        "paper_bgcolor": ink.background, "plot_bgcolor": ink.background,
        "font": {"family": "Inter, system-ui, sans-serif", "size": 11, "color": ink.muted},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 24}, "showlegend": False, "dragmode": "pan", "hovermode": "closest",
        "uirevision": view.query(), "barmode": "relative", "bargap": 0.15, "autosize": True,
        "hoverlabel": {"bgcolor": ink.background, "bordercolor": ink.line, "font": {"color": ink.text}},
        "xaxis": _x_axis(frame, ink, len(panels)),
        "yaxis": {
            **_axis(ink), "domain": list(_heat_domain(panels)), "range": list(frame.window), "tickformat": ",.5~r",
            "showspikes": True, "spikemode": "across", "spikethickness": 1, "spikedash": "dot",
            "spikecolor": ink.muted, "spikesnap": "cursor",
        },
        "shapes": [_mark_line(frame, ink), *gap_marks(frame, ink)[0], *provisional_mark(frame, ink)[0]],
        "annotations": [_mark_label(frame, ink), *gap_marks(frame, ink)[1], *provisional_mark(frame, ink)[1]],
    }  # fmt: skip
    for row, panel in enumerate(panels):
        layout[f"yaxis{row + 2}"] = _panel_axis(panel, frame, ink, _panel_domain(row, panels))
        layout["annotations"].append(_panel_title(panel, frame, ink, _panel_domain(row, panels)))
        if panel is Panel.RSI:
            layout["shapes"] += [_level_line(f"y{row + 2}", level, ink) for level in (30, 70)]
    return layout


def _axis(ink: Ink) -> dict[str, Any]:
    return {
        "gridcolor": ink.line, "zeroline": False, "linecolor": ink.line, "side": "right", "automargin": True,
        "tickfont": {"size": 10, "color": ink.muted}, "ticks": "", "fixedrange": False,
    }  # fmt: skip


def _x_axis(frame: ChartFrame, ink: Ink, n_panels: int) -> dict[str, Any]:
    first, last = int(frame.time_ms[0]) - frame.interval_ms, int(frame.time_ms[-1])
    return {
        "type": "date", "range": [utc_text(first), utc_text(last + 0.01 * (last - first))], "gridcolor": ink.line,
        "anchor": f"y{n_panels + 1}" if n_panels else "y", "rangeslider": {"visible": False}, "zeroline": False,
        "showspikes": True, "spikemode": "across", "spikethickness": 1, "spikedash": "dot", "spikecolor": ink.muted,
        "spikesnap": "cursor", "tickfont": {"size": 10, "color": ink.muted}, "hoverformat": "%Y-%m-%d %H:%M",
    }  # fmt: skip


def _panel_axis(panel: Panel, frame: ChartFrame, ink: Ink, domain: tuple[float, float]) -> dict[str, Any]:
    axis = {**_axis(ink), "domain": list(domain), "nticks": 3, "fixedrange": True}
    if _is_empty(panel, frame):
        return {**axis, "range": [0, 1], "showticklabels": False, "showgrid": False}  # its title says so
    if panel is Panel.RSI:
        return {**axis, "range": [0, 100], "tickvals": [30, 70]}
    if panel is Panel.LIQ:
        axis |= {"zeroline": True, "zerolinecolor": ink.muted, "zerolinewidth": 0.6}
    if panel is Panel.FUNDING:
        return {**axis, "tickformat": ".3~%"}
    return {**axis, "exponentformat": "B"}  # a format of numbers would write G for billions


def _panel_title(panel: Panel, frame: ChartFrame, ink: Ink, domain: tuple[float, float]) -> dict[str, Any]:
    return {
        "text": _panel_text(panel, frame),
        "x": 0.004, "xref": "paper", "xanchor": "left",
        "y": domain[1], "yref": "paper", "yanchor": "bottom", "showarrow": False,
        "font": {"size": 10, "color": ink.muted}, "borderpad": 0,
    }  # fmt: skip


def _panel_text(panel: Panel, frame: ChartFrame) -> str:
    name = _PANELS[panel][0]
    if _is_empty(panel, frame):
        what = "no liquidation prints" if panel is Panel.LIQ else "none"
        return f"{name.split(',')[0].split(':')[0].removesuffix(' {funding}')}: {what} in this source"
    # Nobody says of a recording whether its rates were settled or only in force.
    funding = "as recorded" if frame.statuses[0].origin is Origin.RECORDED else "as settled"
    sides = "longs up, shorts down" if len(frame.view.sides) > 1 else f"{frame.view.sides[0]}s alone"
    return name.format(symbol=frame.view.symbol, prints=frame.prints_basis, funding=funding, sides=sides)


def _is_empty(panel: Panel, frame: ChartFrame) -> bool:
    column = _PANELS[panel][2]
    return frame.series[column].null_count() == frame.series.height


def _level_line(axis: str, level: float, ink: Ink) -> dict[str, Any]:
    line = {"color": ink.muted, "width": 0.6, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": level, "y1": level, "line": line}


def _mark_line(frame: ChartFrame, ink: Ink) -> dict[str, Any]:
    mark = frame.mark_price
    line = {"color": ink.accent, "width": 1, "dash": "dot"}
    return {
        "name": "mark",
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": mark,
        "y1": mark,
        "line": line,
    }


def _mark_label(frame: ChartFrame, ink: Ink) -> dict[str, Any]:
    return {
        "name": "mark", "text": f"{frame.mark_price:,.{_decimals(frame.mark_price)}f}", "x": 1, "xref": "paper",
        "xanchor": "right",
        "y": frame.mark_price, "yref": "y", "yanchor": "bottom", "showarrow": False,
        "font": {"size": 11, "color": ink.background}, "bgcolor": ink.accent, "borderpad": 2,
    }  # fmt: skip


def _decimals(price: float) -> int:
    return max(0, 4 - int(np.floor(np.log10(price))))
