"""Places of the panels beside and below the chart, which the page's scripts fill.

A place is empty here, so that Dash never writes over what a script has drawn into it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from dash import html
from dash.development.base_component import Component


class AsideId(StrEnum):
    """Ids of the panels, shared with the scripts and the browser tests."""

    MAGNETS = "magnets"
    SIGNALS = "signals"
    CASCADE = "cascade"
    POSITION = "position"
    ALERTS = "alerts"


class _Words(NamedTuple):
    title: str
    hint: str


PANELS: Final = {
    AsideId.MAGNETS: _Words("Magnets, stop", "Clusters of estimated levels, ranked; where a stop would go"),
    AsideId.SIGNALS: _Words("Signals and phase", "Combined readings of the last full hour, each with its inputs"),
    AsideId.CASCADE: _Words("Cascade what-if", "What a change of price would set off, as a band"),
    AsideId.POSITION: _Words("Position calculator", "Liquidation price, margin call and funding of a position"),
    AsideId.ALERTS: _Words("Alerts", "What the server's rules told lately, and notifications in this browser"),
}


def build_magnets() -> Component:
    """Return the panel that stands beside the chart, open."""
    return _panel(AsideId.MAGNETS, is_open=True)


def build_alerts() -> Component:
    """Return the panel below it, closed."""
    return _panel(AsideId.ALERTS, is_open=False)


def build_deck() -> Component:
    """Return the panels below the chart; what draws on it begins closed."""
    below = (AsideId.SIGNALS, AsideId.CASCADE, AsideId.POSITION)
    return html.Div(className="deck", children=[_panel(name, is_open=name is AsideId.SIGNALS) for name in below])


def _panel(name: AsideId, *, is_open: bool) -> Component:
    words = PANELS[name]
    live: Any = {"aria-live": "off"}
    return html.Details(
        id=name,
        className="insight",
        open=is_open,
        children=[
            html.Summary(
                className="box-title",
                title=words.hint,
                children=[html.H2(words.title), html.Span(className="brief dim", **live)],
            ),
            html.Div(className="insight-body"),
        ],
    )
