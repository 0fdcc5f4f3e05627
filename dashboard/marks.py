"""What is missing or not yet sure, drawn where it is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from dashboard.colours import Ink
from dashboard.frame import ChartFrame
from estimator.domain import HOUR_MS
from estimator.units import utc_text, venue_name

_DAYS_FROM_H: Final = 48.0  # longer stretches are told in days
MAX_MARKS: Final = 24  # on screen; a picture with more is all gaps anyway

Marks = tuple[list[dict[str, Any]], list[dict[str, Any]]]


class MissingRun(NamedTuple):
    """Columns of the picture that some venues lack. Times in ms, end exclusive."""

    start_ms: int
    end_ms: int
    venues: tuple[str, ...]
    everywhere: bool


def missing_runs(frame: ChartFrame) -> list[MissingRun]:
    """Return the stretches that venues of the view have no columns for, in order of time.

    The open interval is left out: a venue that is late there is stale, not missing.
    """
    closed = frame.present[:, : len(frame.time_ms) - int(frame.live)]
    changes = np.flatnonzero((closed[:, 1:] != closed[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), closed.shape[1]]
    names = [s.exchange for s in frame.statuses]
    runs = []
    for first, stop in pairwise(bounds):
        lacking = tuple(n for n, here in zip(names, closed[:, first], strict=True) if not here)
        if lacking:
            start, end = int(frame.time_ms[first]) - frame.interval_ms, int(frame.time_ms[stop - 1])
            runs.append(MissingRun(start, end, lacking, len(lacking) == len(names)))
    return runs


def gap_marks(frame: ChartFrame, ink: Ink) -> Marks:
    """Shapes and labels of `missing_runs`, the longest where there are too many to draw."""
    runs = sorted(missing_runs(frame), key=lambda r: r.start_ms - r.end_ms)[:MAX_MARKS]
    shapes = [_band(run.start_ms, run.end_ms, ink.gap) for run in runs]
    labels = [_label(run.start_ms, f"no data: {_who(run)}", ink) for run in runs]
    return shapes, labels


def provisional_mark(frame: ChartFrame, ink: Ink) -> Marks:
    """Draw a line where the position book stops depending on how it was started, if that is on screen."""
    until = max(s.provisional_until_ms for s in frame.statuses)
    first, last = int(frame.time_ms[0]) - frame.interval_ms, int(frame.time_ms[-1])
    if until <= first:
        return [], []
    at = min(until, last)
    line = {"color": ink.muted, "width": 1, "dash": "dash"}
    shape = {"type": "line", "x0": utc_text(at), "x1": utc_text(at), "yref": "y domain", "y0": 0, "y1": 1, "line": line}
    return [shape], [
        {**_label(at, "◂ provisional: book still filling", ink), "xanchor": "right", "y": 0.01, "yanchor": "bottom"}
    ]


def _who(run: MissingRun) -> str:
    hours = (run.end_ms - run.start_ms) / HOUR_MS
    long = f"{hours:.1f} h" if hours < _DAYS_FROM_H else f"{hours / 24:.0f} d"
    return f"{'all venues' if run.everywhere else ', '.join(map(venue_name, run.venues))} ({long})"


def _band(start_ms: int, end_ms: int, colour: str) -> dict[str, Any]:
    return {
        "type": "rect", "x0": utc_text(start_ms), "x1": utc_text(end_ms), "yref": "paper", "y0": 0, "y1": 1,
        "fillcolor": colour, "line": {"width": 0}, "layer": "above",
    }  # fmt: skip


def _label(at_ms: int, text: str, ink: Ink) -> dict[str, Any]:
    return {
        "text": text, "x": utc_text(at_ms), "xanchor": "left", "yref": "y domain", "y": 0.99, "yanchor": "top",
        "showarrow": False, "font": {"size": 9, "color": ink.muted}, "bgcolor": ink.background, "opacity": 0.8,
    }  # fmt: skip
