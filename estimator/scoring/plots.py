"""Plots of a report as SVG: bits of every model with their intervals, and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, Final

Scores = dict[str, Any]  # a report as it comes out of JSON

_ROW: Final = 18
_LABEL: Final = 150
_PANEL: Final = 260
_GAP: Final = 24
_HEAD: Final = 26
_FOOT: Final = 34
_ACROSS: Final = 3  # panels in a row
_BITS: Final = (-1.0, 0.8)  # what lies beyond is drawn as an arrow
_FOLD: Final = (math.log10(0.03), math.log10(30.0))
_COLOURS: Final = ("#0b6e4f", "#c8553d", "#3d5a80", "#8f6a00")
_STYLE: Final = "font-family='system-ui,sans-serif' font-size='11' fill='#222'"


def bits_svg(scores: Scores, ordered: Callable[[Scores], list[str]]) -> str:
    """Draw bits over uniform with 95 % intervals, a panel for each kind of truth."""
    kinds = [kind for kind in scores if "bits" in next(iter(scores[kind]["models"].values()))]
    names = ordered({name: None for kind in kinds for name in scores[kind]["models"]})
    height = _HEAD + len(names) * _ROW + _FOOT
    parts: list[str] = []
    for n, kind in enumerate(kinds):
        left, top = _LABEL + n % _ACROSS * (_PANEL + _GAP), n // _ACROSS * height
        if n % _ACROSS == 0:
            parts += [_text(0, top + _HEAD + i * _ROW + 13, name) for i, name in enumerate(names)]
        parts.append(_group(left, top, _bits_panel(kind, names, scores[kind]["models"])))
    width = _LABEL + min(len(kinds), _ACROSS) * (_PANEL + _GAP)
    return _document(width, -(-len(kinds) // _ACROSS) * height, parts)


def _bits_panel(title: str, names: Sequence[str], models: Scores) -> Iterator[str]:
    low, high = _BITS

    def x(bits: float) -> float:
        return (min(max(bits, low), high) - low) / (high - low) * _PANEL

    bottom = _HEAD + len(names) * _ROW
    yield _text(0, 12, title, "font-weight='600'")
    for tick in (-1.0, -0.5, 0.0, 0.5):
        yield _line(x(tick), _HEAD - 4, x(tick), bottom, "#888" if tick == 0 else "#ddd")
        yield _text(x(tick), bottom + 13, f"{tick:g}", "text-anchor='middle'")
    for i, name in enumerate(names):
        value, below, above = models.get(name, {}).get("bits") or (None, None, None)
        y = _HEAD + i * _ROW + 9
        if value is not None and value > low and below is not None and above is not None:
            yield _line(x(below), y, x(above), y, _COLOURS[2], 2)
        if value is not None:
            yield (
                f"<circle cx='{x(value):.1f}' cy='{y}' r='3.5' fill='{_COLOURS[0]}'/>"
                if value > low
                else _text(2, y + 4, f"◂ {value:.2f}")
            )


def calibration_svg(scores: Scores, names: Sequence[str] = ("balanced", "wide", "distance", "volume 1 d")) -> str:
    """Draw observed over predicted of ten groups of cells on log scales; 1 is the mean, the diagonal calibrated."""
    panels = [
        (kind + key.removeprefix("deciles"), {name: found[key] for name, found in scores[kind]["models"].items()})
        for kind in scores
        for key in ("deciles", "deciles, long", "deciles, short")
        if key in next(iter(scores[kind]["models"].values()))
    ]
    height = _HEAD + _PANEL + _FOOT
    parts = [
        _group(n % _ACROSS * (_PANEL + _GAP), n // _ACROSS * height, _calibration_panel(title, names, curves))
        for n, (title, curves) in enumerate(panels)
    ]
    return _document(min(len(panels), _ACROSS) * (_PANEL + _GAP), -(-len(panels) // _ACROSS) * height, parts)


def _calibration_panel(title: str, names: Sequence[str], curves: dict[str, list[list[float]]]) -> Iterator[str]:
    bottom = _HEAD + _PANEL
    yield _text(0, 12, title, "font-weight='600'")
    for tick in (0.1, 1.0, 10.0):
        yield _line(_along(tick), _HEAD, _along(tick), bottom, "#ddd")
        yield _line(0, bottom - _along(tick), _PANEL, bottom - _along(tick), "#ddd")
        yield _text(_along(tick), bottom + 13, f"{tick:g}", "text-anchor='middle'")
    yield _line(0, bottom, _PANEL, _HEAD, "#888")
    for i, name in enumerate(n for n in names if n in curves):
        points = [f"{_along(a):.1f},{bottom - _along(b):.1f}" for a, b in _relative(curves[name])]
        yield f"<polyline points='{' '.join(points)}' fill='none' stroke='{_COLOURS[i]}' stroke-width='2'/>"
        yield _text(6, _HEAD + 14 + 14 * i, name, f"style='fill:{_COLOURS[i]}'")


def _along(value: float) -> float:
    low, high = _FOLD
    return (min(max(math.log10(value), low), high) - low) / (high - low) * _PANEL


def _relative(groups: list[list[float]]) -> list[tuple[float, float]]:
    """Predicted and observed relative to their means, where both are positive."""
    predicted, observed = (sum(g[j] for g in groups) / max(len(groups), 1) or 1.0 for j in (0, 1))
    return [(a / predicted, b / observed) for a, b in groups if a > 0 and b > 0]


def _group(left: float, top: float, parts: Iterator[str]) -> str:
    return f"<g transform='translate({left:g},{top:g})'>{''.join(parts)}</g>"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width:g}'/>"


def _document(width: float, height: float, parts: list[str]) -> str:
    box = f"viewBox='-8 -4 {width + 8:g} {height + 8:g}' width='{width + 8:g}' height='{height + 8:g}'"
    background = f"<rect x='-8' y='-4' width='{width + 8:g}' height='{height + 8:g}' fill='#fff'/>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {box} {_STYLE}>{background}{''.join(parts)}</svg>\n"
