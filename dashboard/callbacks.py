"""What moves on the page: callbacks, all of them the browser's own.

The address is the view. ``route`` keeps it and the controls in step, ``load`` fetches the chart of the view, and
``pulse`` hears from the server's stream of events what moved, so that price and age move at once and the chart follows.
"""

from __future__ import annotations

from typing import Any, Final

from dash import ClientsideFunction, Input, Output, State

from dashboard.ids import Id

# The controls that make the view, in the order of the arguments of ``route`` in static/view.js.
CONTROLS: Final = (
    (Id.SYMBOL, "value"),
    (Id.VENUES, "value"),
    (Id.RANGE, "value"),
    (Id.TIERS, "value"),
    (Id.SIDE, "value"),
    (Id.LENS, "value"),
    (Id.INTENSITY, "value"),
    (Id.PRICE_LOW, "value"),
    (Id.PRICE_HIGH, "value"),
    (Id.PANELS, "value"),
    (Id.PALETTE, "value"),
    (Id.THEME, "value"),
)


def register(app: Any) -> None:
    """Attach every callback of the page to the app; all of them run in the browser."""
    controls = [(i.value, prop) for i, prop in CONTROLS]
    app.clientside_callback(
        ClientsideFunction("liqheat", "route"),
        Output(Id.URL, "search"),
        *(Output(i, prop) for i, prop in controls),
        Output(Id.VIEW, "data"),
        Output(Id.PROVIDER, "forceColorScheme"),
        Input(Id.URL, "search"),
        *(Input(i, prop) for i, prop in controls),
        State(Id.SCHEMA, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "load"),
        Output(Id.CHART, "figure"),
        Output(Id.READINGS, "data"),
        Output(Id.NOTICE, "children"),
        Input(Id.VIEW, "data"),
        Input(Id.NUDGE, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "describe"),
        Output(Id.BANNER, "children"),
        Output(Id.STATUS, "children"),
        Output(Id.TOTALS, "children"),
        Output(Id.LEGEND, "children"),
        Output(Id.MAP_LEGEND, "children"),
        Output(Id.LIQUIDATED, "children"),
        Output(Id.FOOTER, "children"),
        Input(Id.READINGS, "data"),
        State(Id.VIEW, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "offer"),
        Output(Id.SYMBOL, "data"),
        Output(Id.VENUES, "children"),
        Input(Id.READINGS, "data"),
        Input(Id.VIEW, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "label"),
        *(
            Output(i, "children")
            for i in (
                Id.VENUES_LABEL,
                Id.TIERS_LABEL,
                "intensity-label",
                Id.PRICE_LABEL,
                "panels-label",
                "palette-label",
            )
        ),
        Output(Id.SHARE_PNG, "href"),
        Output(Id.SHARE_CSV, "href"),
        Output(Id.SHARE_ARROW, "href"),
        Output(Id.SHARE_JSON, "href"),
        Input(Id.VIEW, "data"),
        State(Id.SCHEMA, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "pulse"),
        Output(Id.PRICE, "children"),
        Input(Id.LIVE, "data"),
        Input(Id.READINGS, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "share"),
        Output(Id.SHARE_DONE, "children"),
        Input(Id.SHARE_LINK, "n_clicks"),
        Input(Id.SHARE_SNAPSHOT, "n_clicks"),
        Input(Id.SHARE_EMBED, "n_clicks"),
        State(Id.VIEW, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "window"),
        Output(Id.NUDGE, "data"),
        Input(Id.PRICE_ZOOM, "n_clicks"),
        Input(Id.PRICE_AUTO, "n_clicks"),
        prevent_initial_call=True,
    )
