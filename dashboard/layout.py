"""The component tree of the page and the ids its parts are known by. No data: the browser fetches that.

An embed is made of the same parts, `strip`, `chart_main` and `footer`; see `dashboard.pages.embed`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import dash_mantine_components as dmc
from dash import dcc, html
from dash.development.base_component import Component

from dashboard.aside import build_alerts, build_deck, build_magnets
from dashboard.navigation import NAVIGATION
from dashboard.view import ALL_PANELS, ALL_TIERS, RANGES, TIER_SLUGS, Lens, Palette, Panel, SideFilter, Theme, ViewState


class Id(StrEnum):
    """Component ids, shared with the callbacks, the scripts and the browser tests."""

    PROVIDER = "provider"
    URL = "url"
    SCHEMA = "schema"
    VIEW = "view"
    NUDGE = "nudge"
    READINGS = "readings"
    LIVE = "live"
    SYMBOL = "symbol"
    VENUES = "venues"
    VENUES_LABEL = "venues-label"
    RANGE = "range"
    LENS = "lens"
    SIDE = "side"
    TIERS = "tiers"
    TIERS_LABEL = "tiers-label"
    INTENSITY = "intensity"
    PRICE_LOW = "price-low"
    PRICE_HIGH = "price-high"
    PRICE_ZOOM = "price-zoom"
    PRICE_AUTO = "price-auto"
    PRICE_LABEL = "price-label"
    PANELS = "panels"
    PALETTE = "palette"
    THEME = "theme"
    SHARE_LINK = "share-link"
    SHARE_SNAPSHOT = "share-snapshot"
    SHARE_EMBED = "share-embed"
    SHARE_PNG = "share-png"
    SHARE_CSV = "share-csv"
    SHARE_ARROW = "share-arrow"
    SHARE_JSON = "share-json"
    SHARE_DONE = "share-done"
    PRICE = "mark-price"
    TOTALS = "totals"
    BANNER = "banner"
    OFFER = "offer"
    OFFER_TEXT = "offer-text"
    GO_LIVE = "go-live"
    STATUS = "status"
    LEGEND = "legend"
    CHART = "chart"
    MAP = "map"
    MAP_LEGEND = "map-legend"
    NOTICE = "notice"
    LIQUIDATED = "liquidated"
    FOOTER = "footer"


PANEL_NAMES: Final = {
    Panel.LIQ: "Liquidations",
    Panel.FUNDING: "Funding",
    Panel.RSI: "RSI",
    Panel.LSR: "Long/short ratio",
    Panel.OI: "Open interest",
}
PALETTE_NAMES: Final = {
    Palette.REDGREEN: "Red / green",
    Palette.COLORBLIND: "Colour-blind safe",
    Palette.MONO: "One colour",
}
KEYS_HELP: Final = "Keyboard, key ?"
KEYS_ATTRIBUTES: Final[Any] = {"data-keys-help": "", "aria-label": KEYS_HELP}  # static/keys.js listens
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
                    _top(view),
                    _header(view),
                    _tools(view),
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
        "tiers": {slug: _tier_words(slug) for slug in ALL_TIERS},
        "panels": list(ALL_PANELS),
    }


def _stores() -> list[Component]:
    return [
        dcc.Store(id=Id.SCHEMA, data=schema()),
        *(dcc.Store(id=i) for i in (Id.VIEW, Id.NUDGE, Id.READINGS, Id.LIVE)),
    ]


def _top(view: ViewState) -> Component:
    """Return what stands over every page, as `dashboard.pages.shell` writes it for the others."""
    return html.Header(
        className="bar top",
        children=[
            _page_link(
                "/", [html.Span(className="logo"), html.Span("liqheat", className="brand-name")],
                className="brand", title="liqheat: liquidation heatmap",
            ),
            html.Nav(
                className="nav",
                **_aria(label="Pages"),
                children=[
                    _page_link(e.path, e.name, title=e.hint, **(_aria(current="page") if e.path == "/" else {}))
                    for e in NAVIGATION
                ],
            ),
            html.Div(className="spacer"),
            html.Button("?", type="button", className="tool tool-button keys-help", title=KEYS_HELP, **KEYS_ATTRIBUTES),
            _segments(
                Id.THEME,
                view.theme,
                {Theme.DARK: _icon("moon", "Dark"), Theme.LIGHT: _icon("sun", "Light")},
                "Dark or light",
            ),
        ],
    )  # fmt: skip


def _page_link(path: str, content: Any, **more: Any) -> Component:
    """Return a link to a page; its script adds the look to the address."""
    attributes: dict[str, Any] = {"data-path": path, **more}
    return html.A(content, href=path, **attributes)


def _header(view: ViewState) -> Component:
    return html.Section(
        className="bar header",
        **_aria(label="Coin and range"),
        children=[
            dmc.Select(
                id=Id.SYMBOL,
                className="symbol",
                value=view.symbol,
                data=[view.symbol],
                allowDeselect=False,
                searchable=True,
                nothingFoundMessage="No such coin here",
                size="xs",
                **_aria(label="Coin"),
            ),
            html.Div(id=Id.PRICE, className="mark-price number"),
            html.Div(
                className="scroll-row",
                children=[_segments(Id.RANGE, view.range, {r: r for r in RANGES}, "Range, keys 1 to 8")],
            ),
            html.Div(id=Id.TOTALS, className="totals"),
            html.Div(className="spacer"),
            _share_menu(),
        ],
    )


def _tools(view: ViewState) -> Component:
    return html.Section(
        className="bar tools",
        **_aria(label="View"),
        children=[
            _popover("Venues", Id.VENUES_LABEL, dmc.ChipGroup(id=Id.VENUES, multiple=True, value=[], children=[])),
            _segments(Id.LENS, view.lens, {lens: lens.capitalize() for lens in Lens}, _LENS_HELP),
            _segments(
                Id.SIDE,
                view.side,
                {SideFilter.BOTH: "Both", SideFilter.LONG: "Longs", SideFilter.SHORT: "Shorts"},
                "Whose liquidations",
            ),
            _popover(
                "Leverage",
                Id.TIERS_LABEL,
                dmc.ChipGroup(id=Id.TIERS, multiple=True, value=list(view.tiers), children=_tier_chips()),
                note=_LEVERAGE_HELP,
            ),
            html.Div(
                className="tool intensity",
                title="Part of the colour scale that is shown, % of full colour",
                children=[
                    html.Span("Intensity", className="tool-name"),
                    dmc.RangeSlider(
                        id=Id.INTENSITY,
                        min=0,
                        max=100,
                        step=1,
                        minRange=1,
                        value=[0, 100],
                        size=4,
                        thumbSize=14,
                        label=None,
                        thumbFromLabel="Weakest intensity shown, percent",
                        thumbToLabel="Strongest intensity shown, percent",
                        updatemode="mouseup",
                        w=110,
                    ),
                    html.Span("0\N{EN DASH}100 %", id="intensity-label", className="number dim"),
                ],
            ),
            _popover("Price", Id.PRICE_LABEL, _price_fields()),
            _popover(
                "Rows",
                "panels-label",
                dmc.ChipGroup(
                    id=Id.PANELS,
                    multiple=True,
                    value=list(view.panels),
                    children=[_chip(p.value, PANEL_NAMES[p]) for p in Panel],
                ),
            ),
            _popover(
                "Colours",
                "palette-label",
                dmc.RadioGroup(
                    id=Id.PALETTE,
                    value=view.palette.value,
                    size="xs",
                    children=dmc.Stack(
                        [dmc.Radio(label=name, value=p.value, size="xs") for p, name in PALETTE_NAMES.items()], gap=8
                    ),
                ),
            ),
        ],
    )


_LENS_HELP: Final = (
    "Contrast: what stands out from its surroundings along price, so that clusters show. Density: all of it. "
    "Certain: contrast that fades where other assumptions say something else. "
    "The reading under the pointer is always the density."
)


_LEVERAGE_HELP: Final = (
    "Effective leverage: notional over the margin really behind a position. Estimated. "
    "Diffuse: a thin layer for positions whose entry nobody can know."
)


_GO_LIVE_HELP: Final = (
    "For everybody who looks at this server: the simulated market is dropped and the venues are followed from then on."
)


def strip() -> Component:
    """Return what stands above every chart: the origin of the data, and how old it is."""
    return html.Section(
        className="strip",
        **_aria(label="Data and its age"),
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
            html.Div(id=Id.STATUS, className="bar status", **_aria(live="off")),
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
                        **_aria(label="Liquidation map now"),
                        children=[
                            html.Div("Liquidation map now", className="box-title"),
                            dcc.Graph(id=Id.MAP, config=MAP_CONFIG, responsive=False),
                            html.Div(id=Id.MAP_LEGEND, className="map-legend"),
                        ],
                    ),
                    html.Section(id=Id.LIQUIDATED, className="liquidated-box", **_aria(label="Liquidated in 24 h")),
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
        **_aria(label="Liquidation heatmap"),
        children=[
            html.H1("Liquidation heatmap", className="off-screen"),
            html.Div(id=Id.LEGEND, className="legend"),
            html.Div(
                className="plot",
                tabIndex=0,
                role="application",
                **_aria(label=_CHART_HELP, roledescription="chart"),
                children=[
                    dcc.Graph(id=Id.CHART, config=GRAPH_CONFIG, responsive=False, clear_on_unhover=True),
                    html.Div(className="overlay", **_aria(hidden="true")),
                    html.Div(className="cross", **_aria(hidden="true")),
                    html.Div(className="spoken off-screen", role="status"),
                    _zoom_buttons(),
                    html.Div(className="skeleton", **_aria(hidden="true")),
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


def _aria(**said: str) -> dict[str, Any]:
    return {f"aria-{name}": value for name, value in said.items()}


def _segments(component_id: Id, value: str, choices: dict[Any, Any], help_text: str) -> Component:
    return html.Div(
        className="segments",
        title=help_text,
        children=dmc.SegmentedControl(
            id=component_id,
            value=str(value),
            data=[{"value": str(v), "label": label} for v, label in choices.items()],
            size="xs",
            transitionDuration=120,
            withItemsBorders=False,
        ),
    )


def _popover(name: str, label_id: str, content: Component, note: str | None = None) -> Component:
    body = [html.Div(content, className="chips"), *([html.P(note, className="note")] if note else [])]
    made: Component = dmc.Popover(
        position="bottom-start",
        shadow="md",
        withinPortal=True,
        keepMounted=True,  # callbacks fill it before it is opened
        trapFocus=True,
        transitionProps={"duration": 80},
        children=[
            dmc.PopoverTarget(
                [
                    html.Span(name, className="tool-name"),
                    html.Span(id=label_id, className="tool-value"),
                    html.Span(className="caret"),
                ],
                boxWrapperProps=_button("tool tool-button"),
            ),
            dmc.PopoverDropdown(html.Div(body, className="pop")),
        ],
    )
    return made


def _button(classes: str) -> dict[str, Any]:
    """Make what opens something a button itself: around one, it would be told to be expanded and be no control."""
    return {"component": "button", "type": "button", "className": classes}


def _price_fields() -> Component:
    def field(component_id: Id, name: str) -> Component:
        made: Component = dmc.NumberInput(
            id=component_id,
            label=name,
            size="xs",
            min=0,
            placeholder="automatic",
            hideControls=True,
            debounce=True,
            thousandSeparator=" ",
            w=110,
        )
        return made

    return html.Div(
        className="price-fields",
        children=[
            dmc.Group([field(Id.PRICE_LOW, "From"), field(Id.PRICE_HIGH, "To")], gap=8),
            dmc.Group(
                [
                    dmc.Button("As zoomed", id=Id.PRICE_ZOOM, size="compact-xs", variant="default"),
                    dmc.Button("Automatic", id=Id.PRICE_AUTO, size="compact-xs", variant="default"),
                ],
                gap=8,
                mt=8,
            ),
        ],
    )


def _tier_words(slug: str) -> str:
    return TIER_SLUGS[slug].replace("-", "\N{EN DASH}")


def _tier_chips() -> list[Component]:
    return [_chip(slug, _tier_words(slug)) for slug in ALL_TIERS]


def _chip(value: str, name: str) -> Component:
    made: Component = dmc.Chip(name, value=value, size="xs", radius="sm")
    return made


def _icon(name: str, words: str) -> Component:
    return html.Span(className=f"icon icon-{name}", role="img", title=words, **_aria(label=words))


def _share_menu() -> Component:
    def item(component_id: Id, words: str, note: str) -> Component:
        made: Component = dmc.MenuItem(
            id=component_id,
            n_clicks=0,
            children=[html.Div(words), html.Div(note, className="note")],
            closeMenuOnClick=True,
        )
        return made

    def link(component_id: Id, words: str, note: str) -> Component:
        made: Component = dmc.MenuItem(
            [html.Div(words), html.Div(note, className="note")],
            id=component_id,
            href="/",
            target="_blank",
            refresh=True,
        )
        return made

    return html.Div(
        className="share",
        children=[
            dmc.Menu(
                position="bottom-end",
                shadow="md",
                transitionProps={"duration": 80},
                children=[
                    dmc.MenuTarget(
                        [_icon("share", "Share"), "Share"], boxWrapperProps=_button("tool tool-button accent")
                    ),
                    dmc.MenuDropdown(
                        [
                            item(Id.SHARE_LINK, "Copy link", "this very view"),
                            item(Id.SHARE_SNAPSHOT, "Snapshot", "view and data frozen for good"),
                            item(Id.SHARE_EMBED, "Embed …", "the chart alone, for other sites"),
                            dmc.MenuDivider(),
                            link(Id.SHARE_PNG, "Picture", "PNG, 1200 by 630"),
                            link(Id.SHARE_CSV, "Table", "CSV of the cells"),
                            link(Id.SHARE_ARROW, "Arrow", "the same table, for programs"),
                            link(Id.SHARE_JSON, "Data", "JSON, as the API gives it"),
                        ]
                    ),
                ],
            ),
            html.Span(id=Id.SHARE_DONE, className="share-done", role="status"),
        ],
    )
