"""The liquidation map: what would be liquidated from here, by price and leverage tier, and summed outward."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from dashboard.colours import INK, side_colours, tier_colours
from dashboard.figures import Figure, Trace, typed
from dashboard.frame import ChartFrame
from dashboard.view import SideFilter
from estimator.domain import Float32Array, Float64Array, Side
from estimator.model.clusters import max_pain
from estimator.units import price_text, short_usd

MAX_BARS: Final = 150
_MONEY: Final = {"tickprefix": "$", "exponentformat": "B"}  # a format of numbers would write G for billions
MEASURED_REACH: Final = 2.0  # longest estimated bars that a measured one is drawn long: one account may hold many
MEASURED_LABELS: Final = 4  # those that are longer are written out


class MapNow(NamedTuple):
    """The latest column in the price window, in bars.

    Parameters
    ----------
    price_edges : Float64Array, shape (n_bar + 1,)
    tier_usd : Float32Array, shape (n_tier, 2, n_bar)
        Longs and shorts of every tier of the view. [USD per bar]
    long_beyond_usd, short_beyond_usd : Float64Array, shape (n_bar,)
        What is liquidated once the price has crossed the bar, coming from where the window begins; 0 on the other
        side. [USD]
    long_pain, short_pain : float or None
        `estimator.model.clusters.max_pain`, wherever it lies.
    measured_usd : Float32Array, optional, shape (2, n_bar)
        Observed positions of longs and shorts, where a venue publishes them. [USD per bar]
    long_before_usd, short_before_usd : float
        What lies between the mark and a window that does not hold it. [USD]
    side : SideFilter
        Sides that are shown.
    """

    price_edges: Float64Array
    tier_usd: Float32Array
    long_beyond_usd: Float64Array
    short_beyond_usd: Float64Array
    long_pain: float | None
    short_pain: float | None
    measured_usd: Float32Array | None = None
    long_before_usd: float = 0.0
    short_before_usd: float = 0.0
    side: SideFilter = SideFilter.BOTH


def read_map(frame: ChartFrame) -> MapNow:
    """Put the latest column of a frame into bars, and sum it from the mark outward."""
    shown = frame.now.crop(*frame.window)
    bins_a_bar = -(-shown.n_price // MAX_BARS)
    grid = shown.coarsen(bins_a_bar)
    tiers = np.stack([[grid.tier_usd(side, tier)[-1] for side in Side] for tier in grid.tiers])
    longs, shorts = tiers.sum(axis=0, dtype=np.float64)
    return MapNow(
        price_edges=grid.price_edges,
        tier_usd=tiers,
        long_beyond_usd=longs[::-1].cumsum()[::-1],
        short_beyond_usd=shorts.cumsum(),
        long_pain=max_pain(frame.now, Side.LONG, around=frame.mark_price),
        short_pain=max_pain(frame.now, Side.SHORT, around=frame.mark_price),
        measured_usd=_measured_bars(frame, bins_a_bar),
        long_before_usd=_mass(frame, Side.LONG, float(shown.price_edges[-1]), frame.mark_price),
        short_before_usd=_mass(frame, Side.SHORT, frame.mark_price, float(shown.price_edges[0])),
        side=frame.view.side,
    )


def _mass(frame: ChartFrame, side: Side, low: float, high: float) -> float:
    """Sum a side of the latest column between two prices; 0 where the second is not the higher one."""
    middle = np.sqrt(frame.now.price_edges[1:] * frame.now.price_edges[:-1])
    between = (middle > low) & (middle < high)
    return float(frame.now.side_usd(side)[-1][between].sum(dtype=np.float64))


def _measured_bars(frame: ChartFrame, bins_a_bar: int) -> Float32Array | None:
    if frame.measured is None:
        return None
    grid = frame.measured.grid.crop(*frame.window).coarsen(bins_a_bar)
    return np.stack([grid.long_usd[-1], grid.short_usd[-1]])


def build_map(frame: ChartFrame, now: MapNow) -> Figure:
    """Build the map: bars stacked by tier, measured ones outlined, sums on the upper axis, max pain, the mark."""
    traces = [*_bars(frame, now), *_band(frame, now), *_curves(frame, now), *_measured(frame, now)]
    return {"data": traces, "layout": _layout(frame, now)}


def _bars(frame: ChartFrame, now: MapNow) -> list[Trace]:
    middle = np.sqrt(now.price_edges[1:] * now.price_edges[:-1])
    height = np.diff(now.price_edges).astype(np.float32)
    names = frame.view.tier_names
    colours = tier_colours(frame.view.palette, frame.view.theme)
    return [
        {
            "type": "bar", "orientation": "h", "name": name, "meta": "usd", "x": typed(usd.sum(axis=0)),
            "y": typed(middle.astype(np.float32)), "width": typed(height),
            "marker": {"color": colours[name], "line": {"width": 0}},
            "hovertemplate": f"{name} ≈ %{{customdata}}<extra></extra>",
        }
        for name, usd in zip(names, now.tier_usd, strict=True)
    ]  # fmt: skip


def read_band_beyond(frame: ChartFrame, now: MapNow) -> dict[Side, tuple[Float64Array, Float64Array]] | None:
    """Return by side the least and the most that is liquidated once a bar is crossed; None without other books.

    Each is the sum outward of one book, of which the lowest and the highest are taken: what is added up bar by bar
    would be wider than any of them.
    """
    if frame.band is None:
        return None
    grid = frame.band.now.coarsen(-(-frame.band.now.n_price // MAX_BARS))
    ends: dict[Side, tuple[Float64Array, Float64Array]] = {}
    for side, shown in zip(Side, (now.long_beyond_usd, now.short_beyond_usd), strict=True):
        order = slice(None, None, -1 if side is Side.LONG else 1)
        sums = [grid.tier_usd(side, name)[-1].astype(np.float64)[order].cumsum()[order] for name in grid.tiers]
        if frame.view.side.value not in (side.value, "both"):
            sums = []  # the other side is not shown
        ends[side] = np.minimum.reduce([shown, *sums]), np.maximum.reduce([shown, *sums])
    return ends


def _band(frame: ChartFrame, now: MapNow) -> list[Trace]:
    """Areas between the least and the most, behind the curves."""
    ends = read_band_beyond(frame, now)
    if ends is None or now.long_before_usd or now.short_before_usd:  # the other books are not known before the window
        return []
    colours = side_colours(frame.view.palette, frame.view.theme)
    middle = np.sqrt(now.price_edges[1:] * now.price_edges[:-1])
    mark = frame.mark_price
    traces: list[Trace] = []
    for (side, (low, high)), colour in zip(ends.items(), colours, strict=True):
        on_side = middle < mark if side is Side.LONG else middle > mark
        if not (on_side.any() and high[on_side].any()):
            continue
        price = middle[on_side]
        around = np.concatenate([low[on_side], high[on_side][::-1]]), np.concatenate([price, price[::-1]])
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{side}s, by other assumptions", "meta": "band",
                "xaxis": "x2", "x": typed(around[0].astype(np.float32)), "y": typed(around[1].astype(np.float32)),
                "line": {"width": 0}, "fill": "toself", "fillcolor": colour, "opacity": 0.25, "hoverinfo": "skip",
            }
        )  # fmt: skip
    return traces


def _curves(frame: ChartFrame, now: MapNow) -> list[Trace]:
    colours = side_colours(frame.view.palette, frame.view.theme)
    mark = frame.mark_price
    middle = np.sqrt(now.price_edges[1:] * now.price_edges[:-1])
    parts = (
        ("longs", middle < mark, now.long_beyond_usd + now.long_before_usd),
        ("shorts", middle > mark, now.short_beyond_usd + now.short_before_usd),
    )
    return [
        {
            "type": "scatter", "mode": "lines", "name": f"{name} up to here", "meta": "usd", "xaxis": "x2",
            "x": typed(usd[on_side].astype(np.float32)), "y": typed(middle[on_side].astype(np.float32)),
            "line": {"color": colour, "width": 1.6},
            "hovertemplate": f"{name} to here ≈ %{{customdata}}<extra></extra>",
        }
        for (name, on_side, usd), colour in zip(parts, colours, strict=True)
        if on_side.any() and usd[on_side].any()
    ]  # fmt: skip


def _measured(frame: ChartFrame, now: MapNow) -> list[Trace]:
    """Outline of bars on the axis of the estimate, so that the two compare."""
    if now.measured_usd is None:
        return []
    middle = np.sqrt(now.price_edges[1:] * now.price_edges[:-1])
    ink, name = INK[frame.view.theme], f"{frame.observed_basis} positions"
    line = {
        "type": "scatter", "mode": "lines", "name": name, "meta": "measured", "x": typed(now.measured_usd.sum(axis=0)),
        "y": typed(middle.astype(np.float32)), "line": {"color": ink.text, "width": 1.4, "shape": "vhv"},
        "hovertemplate": f"{name} %{{customdata}}<extra></extra>",
    }  # fmt: skip
    # On bars of any colour it stands out by what is behind it.
    halo = {**line, "line": {"color": ink.background, "width": 3.4, "shape": "vhv"}, "hoverinfo": "skip"}
    del halo["hovertemplate"]
    return [halo, line]


def _axis_top(now: MapNow) -> float | None:
    """Return where the axis of the bars ends, lest a measured one makes the estimate unreadable; None for anywhere."""
    estimated = float(now.tier_usd.sum(axis=(0, 1)).max(initial=0.0))
    if now.measured_usd is None or estimated <= 0:
        return None
    measured = float(now.measured_usd.sum(axis=0).max(initial=0.0))
    return 1.05 * max(estimated, min(measured, MEASURED_REACH * estimated))


def _measured_labels(frame: ChartFrame, now: MapNow) -> list[dict[str, Any]]:
    """Write out the largest of the measured bars that are longer than the axis."""
    top = _axis_top(now)
    if top is None or now.measured_usd is None:
        return []
    usd, middle = now.measured_usd.sum(axis=0), np.sqrt(now.price_edges[1:] * now.price_edges[:-1])
    longest = [at for at in np.argsort(usd)[::-1][:MEASURED_LABELS] if usd[at] > top]
    return [
        {**_label(frame, f"{frame.observed_basis} {short_usd(float(usd[at]))}", float(middle[at])), "name": "measured"}
        for at in longest
    ]


def _layout(frame: ChartFrame, now: MapNow) -> dict[str, Any]:
    ink = INK[frame.view.theme]
    axis = {"zeroline": False, "gridcolor": ink.line, "tickfont": {"size": 9, "color": ink.muted}, "fixedrange": True}
    # Left to itself the upper axis puts its ticks over those of the lower one, at whatever they come to.
    money = {**axis, **_MONEY, "nticks": 5, "rangemode": "tozero", "tickmode": "auto"}
    top = _axis_top(now)
    ends = {} if top is None else {"range": [0, top]}
    labels = [
        _label(frame, f"max pain, {side}s {price_text(price)}", price)
        for side, price in zip(Side, (now.long_pain, now.short_pain), strict=True)
        if price and frame.window[0] < price < frame.window[1]
    ]
    return {
        "paper_bgcolor": ink.background, "plot_bgcolor": ink.background, "barmode": "stack", "bargap": 0,
        "showlegend": True,
        "font": {"family": "Inter, system-ui, sans-serif", "size": 10, "color": ink.muted}, "hovermode": "y unified",
        "margin": {"l": 4, "r": 4, "t": 24, "b": 40}, "uirevision": frame.view.query(), "dragmode": False,
        "hoverlabel": {"bgcolor": ink.background, "bordercolor": ink.line, "font": {"color": ink.text}},
        "legend": {"orientation": "h", "y": -0.06, "yanchor": "top", "x": 0, "font": {"size": 9}, "itemwidth": 30},
        "xaxis": {**money, **ends, "title": {"text": f"≈ USD per bar of {_bar_width(now)}", "font": {"size": 9}}},
        "xaxis2": {**money, "overlaying": "x", "side": "top", "showgrid": False},
        "yaxis": {**axis, "range": list(frame.window), "showticklabels": False, "hoverformat": ",.5~r"},
        "shapes": [_mark_line(frame.mark_price, ink.accent)],
        "annotations": [*labels, *_measured_labels(frame, now)],
    }  # fmt: skip


def _bar_width(now: MapNow) -> str:
    return f"{100 * (now.price_edges[1] / now.price_edges[0] - 1):.2g} %"


def _mark_line(mark: float, colour: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1, "dash": "dot"}
    return {"name": "mark", "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mark, "y1": mark, "line": line}


def _label(frame: ChartFrame, text: str, price: float) -> dict[str, Any]:
    """Words at the right edge, at a price."""
    ink = INK[frame.view.theme]
    return {
        "text": text, "x": 1, "xref": "paper", "xanchor": "right", "y": price,
        "yref": "y",
        "yanchor": "middle", "showarrow": False, "font": {"size": 9, "color": ink.text}, "bgcolor": ink.background,
        "opacity": 0.85,
    }  # fmt: skip


def summary(now: MapNow) -> dict[str, Any]:
    """Sum the map up: what lies in the window on each side, and max pain."""
    usd = dict(zip(Side, (float(now.long_beyond_usd[0]), float(now.short_beyond_usd[-1])), strict=True))
    pain = dict(zip(Side, (now.long_pain, now.short_pain), strict=True))
    shown = [side for side in Side if now.side.value in (side.value, "both")]
    parts = [f"{' and '.join(f'≈ {short_usd(usd[side])} of {side}s' for side in shown)} in the price window"]
    parts += [f"{side}s not shown" for side in Side if side not in shown]
    if pains := [f"{side}s {price_text(price)}" for side, price in pain.items() if price]:
        parts.append(f"max pain {', '.join(pains)}")
    if flat := [f"{side}s" for side in shown if pain[side] is None]:
        parts.append(f"no level of {' or '.join(flat)} stands out as max pain")
    return {
        "long_usd": usd[Side.LONG], "short_usd": usd[Side.SHORT], "long_pain": pain[Side.LONG],
        "short_pain": pain[Side.SHORT], "text": "; ".join(parts),
    }  # fmt: skip
