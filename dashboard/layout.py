"""The component tree of the page and the ids its parts are known by. No data: the browser fetches that.

An embed is made of the same parts, `strip`, `chart_main` and `footer`; see `dashboard.pages.embed`.
"""

from __future__ import annotations

from typing import Any, Final

import dash_mantine_components as dmc
from dash import dcc, html
from dash.development.base_component import Component

from dashboard.aside import build_alerts, build_deck, build_magnets
from dashboard.controls import aria, build_header, build_tools, build_top, tier_words
from dashboard.ids import Id
from dashboard.view import ALL_PANELS, ALL_TIERS, RANGES, Lens, Palette, SideFilter, Theme, ViewState

__all__ = ["GRAPH_CONFIG", "MAP_CONFIG", "Id", "build", "chart_main", "footer", "schema", "strip"]

# The chart draws its own cross-hair and reading, so Plotly's tool bar stays away.
GRAPH_CONFIG: Final[Any] = {
    "displayModeBar": False,
    "scrollZoom": True,
    "doubleClick": False,  # the scripts show the whole view again
    "responsive": False,
    "showTips": False,
}
MAP_CONFIG: Final[Any] = {**GRAPH_CONFIG, "scrollZoom": False}


def build() -> Component:
    """Return the whole page, controls at the default view."""
    view = ViewState("BTC")
    made: Component = dmc.MantineProvider(
        id=Id.PROVIDER,
        forceColorScheme=view.theme.value,
        theme={
            "primaryColor": "blue",
            "fontFamily": "var(--font)",
            "fontFamilyMonospace": "var(--mono)",
            "defaultRadius": "sm",
            "respectReducedMotion": True,
        },
        children=[
            dcc.Location(id=Id.URL, refresh=False),
            *_stores(),
            html.Div(
                className="page",
                children=[
                    html.A("Skip to the chart", href="#content", className="skip"),
                    build_top(view),
                    build_header(view),
                    build_tools(view),
                    strip(),
                    _main(),
                    footer(),
                ],
            ),
        ],
    )
    return made


def schema() -> dict[str, Any]:
    """Tell the scripts what a query string may say, so that `dashboard.view` stays its only definition."""
    default = ViewState.parse("")
    choices = ("range", "side", "lens", "palette", "theme")
    return {
        "default_symbol": default.symbol,
        "defaults": {name: str(getattr(default, name)) for name in choices},
        "choices": {
            "range": list(RANGES),
            "side": list(SideFilter),
            "lens": list(Lens),
            "palette": list(Palette),
            "theme": list(Theme),
        },
        "tiers": {slug: tier_words(slug) for slug in ALL_TIERS},
        "panels": list(ALL_PANELS),
    }


def _stores() -> list[Component]:
    return [
        dcc.Store(id=Id.SCHEMA, data=schema()),
        *(dcc.Store(id=i) for i in (Id.VIEW, Id.NUDGE, Id.READINGS, Id.LIVE)),
    ]


_GO_LIVE_HELP: Final = (
    "For everybody who looks at this server: the simulated market is dropped and the venues are followed from then on."
)


def strip() -> Component:
    """Return what stands above every chart: the origin of the data, and how old it is."""
    return html.Section(
        className="strip",
        **aria(label="Data and its age"),
        children=[
            html.Div(id=Id.BANNER, className="banner", role="status"),
            html.Div(
                id=Id.OFFER,
                className="offer",
                hidden=True,
                role="status",
                children=[
                    html.Span(id=Id.OFFER_TEXT),
                    html.Button("Switch to live data", id=Id.GO_LIVE, type="button", title=_GO_LIVE_HELP, hidden=True),
                ],
            ),
            html.Div(id=Id.STATUS, className="bar status", **aria(live="off")),
        ],
    )


def _main() -> Component:
    return html.Main(
        id="content",
        className="main",
        tabIndex=-1,
        children=[
            _chart_box(),
            html.Aside(
                className="aside",
                children=[
                    html.Section(
                        className="map-box",
                        **aria(label="Liquidation map now"),
                        children=[
                            html.Div("Liquidation map now", className="box-title"),
                            dcc.Graph(id=Id.MAP, config=MAP_CONFIG, responsive=False),
                            html.Div(id=Id.MAP_LEGEND, className="map-legend"),
                        ],
                    ),
                    html.Section(id=Id.LIQUIDATED, className="liquidated-box", **aria(label="Liquidated in 24 h")),
                    build_magnets(),
                    build_alerts(),
                ],
            ),
            build_deck(),
        ],
    )


def chart_main() -> Component:
    """Return the main part of an embed: the chart alone."""
    return html.Main(id="content", className="main", tabIndex=-1, children=[_chart_box()])


def footer() -> Component:
    """Return what stands below every chart."""
    return html.Footer(id=Id.FOOTER, className="footer")


def _chart_box() -> Component:
    return html.Section(
        className="chart-box",
        **aria(label="Liquidation heatmap"),
        children=[
            html.H1("Liquidation heatmap", className="off-screen"),
            html.Div(id=Id.LEGEND, className="legend"),
            html.Div(
                className="plot",
                tabIndex=0,
                role="application",
                **aria(label=_CHART_HELP, roledescription="chart"),
                children=[
                    dcc.Graph(id=Id.CHART, config=GRAPH_CONFIG, responsive=False, clear_on_unhover=True),
                    html.Div(className="overlay", **aria(hidden="true")),
                    html.Div(className="cross", **aria(hidden="true")),
                    html.Div(className="spoken off-screen", role="status"),
                    _zoom_buttons(),
                    html.Div(className="skeleton", **aria(hidden="true")),
                    html.Div(id=Id.NOTICE, className="notice", role="alert"),
                ],
            ),
        ],
    )


_CHART_HELP: Final = "Estimated liquidation levels by price and time; arrow keys move the reading"


def _zoom_buttons() -> Component:
    """Return the zoom for fingers: on a touch screen a swipe scrolls the page."""
    words = {"in": ("+", "Fewer prices"), "out": ("\N{MINUS SIGN}", "More prices"), "all": ("\u21ba", "The whole view")}

    def button(name: str, sign: str, title: str) -> Component:
        said: dict[str, Any] = {"data-zoom": name, "aria-label": title}
        return html.Button(sign, type="button", title=title, **said)

    return html.Div(className="zoom", children=[button(name, *said) for name, said in words.items()])
