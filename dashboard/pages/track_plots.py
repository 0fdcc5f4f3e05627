"""Pictures of the track record: dots with whiskers, and what was observed against what was predicted. SVG and CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

Interval = Sequence[float | None]  # value, low, high; null where there is none

_SIDE: Final = 360
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 10, 12, 40
_REACH: Final = (-5.0, 4.0)  # log2 of a density over that of uniform
_TICKS: Final = (-4, -2, 0, 2, 4)


class Whisker(NamedTuple):
    """One row of a picture: a label with its hint, an interval and how it reads."""

    label: str
    hint: str
    interval: Interval
    text: str
    zero: bool = True  # whether it is held against zero


def plain_heads(unit: str) -> tuple[str, str]:
    """Return the heads of a picture that has one order only."""
    what = '<th scope="col"><span class="off-screen">what</span></th>'
    return what, f'<th scope="col" class="number">{escape(unit)}</th>'


def whiskers(caption: str, rows: Sequence[Whisker], heads: tuple[str, str]) -> str:
    """Draw intervals on one axis, row by row; places are in per cent, so that it fits any width.

    Parameters
    ----------
    caption : str
    rows : sequence of Whisker
    heads : tuple of str
        Markup over the labels and over the texts.
    """
    low, high = _range(rows)

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    body = "".join(
        f'<tr><th scope="row" title="{escape(row.hint)}">{escape(row.label)}</th>'
        f'<td class="plot">{_whisker(row, at(0.0) if low <= 0 <= high else None, at)}</td>'
        f'<td class="number">{row.text}</td></tr>'
        for row in rows
    )
    return (
        f'<table class="whiskers"><caption>{escape(caption)}</caption><thead><tr>{heads[0]}'
        f'<th scope="col"><span class="off-screen">picture</span></th>{heads[1]}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _range(rows: Sequence[Whisker]) -> tuple[float, float]:
    ends = [v for row in rows for v in row.interval if v is not None] + [0.0]
    room = 0.06 * (max(ends) - min(ends)) or 0.1
    return min(ends) - room, max(ends) + room


def _whisker(row: Whisker, zero: str | None, at: Callable[[float], str]) -> str:
    value, low, high = row.interval
    axis = "" if zero is None else f'<line x1="{zero}" x2="{zero}" y1="0" y2="26" class="zero"/>'
    parts = [] if value is None else [f'<circle cx="{at(value)}" cy="13" r="4.5"/>']
    if low is not None and high is not None:
        parts.append(f'<line x1="{at(low)}" x2="{at(high)}" y1="13" y2="13"/>')
    return f'<svg class="whisker {reading(row)}" aria-hidden="true">{axis}{"".join(parts)}</svg>'


def reading(row: Whisker) -> str:
    """Say which side of zero an interval lies on: ``ahead``, ``behind`` or ``even``."""
    _, low, high = row.interval
    if not row.zero or low is None or high is None:
        return "even"
    return "ahead" if low > 0 else "behind" if high < 0 else "even"


def calibration(groups: Sequence[Sequence[float | None]]) -> str:
    """Draw observed against predicted density of groups of cells, both against uniform, on doubling axes.

    Parameters
    ----------
    groups : sequence of (predicted, observed, share)
        The size of a dot is the share of cells; what was never observed lies on the edge.
    """
    words = (
        "Observed density of liquidations against the density that was shown, both over uniform; on the line is right"
    )
    dots = "".join(
        f'<circle cx="{_x(p):.1f}" cy="{_y(o):.1f}" r="{2.5 + 12 * math.sqrt(s):.1f}" class="{"dot" if o else "none"}">'
        f"<title>shown {p:.2f}, observed {o:.2f} of uniform, {100 * s:.1f} % of the cells</title></circle>"
        for p, o, s in groups
        if p is not None and o is not None and s is not None
    )
    return (
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" class="fit" role="img" aria-label="{words}">{"".join(_axes())}'
        f'<line x1="{_x(2 ** _REACH[0]):.1f}" y1="{_y(2 ** _REACH[0]):.1f}" x2="{_x(2 ** _REACH[1]):.1f}" '
        f'y2="{_y(2 ** _REACH[1]):.1f}" class="mark"/>{dots}</svg>'
    )


def _axes() -> Iterable[str]:
    for tick in _TICKS:
        x, y, name = _x(2.0**tick), _y(2.0**tick), f"{2**tick:g}" if tick >= 0 else f"1/{2**-tick}"
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_SIDE - _BOTTOM}" class="rule"/>'
        yield f'<line x1="{_LEFT}" x2="{_SIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>'
        yield f'<text x="{x:.1f}" y="{_SIDE - _BOTTOM + 15}" text-anchor="middle" class="dim">{name}</text>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="dim">{name}</text>'
    middle = (_LEFT + _SIDE - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{_SIDE - 8}" text-anchor="middle">shown, against uniform</text>'
    yield (
        f'<text x="12" y="{(_TOP + _SIDE - _BOTTOM) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_TOP + _SIDE - _BOTTOM) / 2:.0f})">observed, against uniform</text>'
    )


def _place(value: float) -> float:
    low, high = _REACH
    return (min(max(math.log2(max(value, 2.0**low)), low), high) - low) / (high - low)


def _x(value: float) -> float:
    return _LEFT + _place(value) * (_SIDE - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _SIDE - _BOTTOM - _place(value) * (_SIDE - _TOP - _BOTTOM)
