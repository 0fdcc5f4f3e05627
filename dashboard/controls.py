"""What stands above the chart: the way to the other pages, what of the view can be chosen, what can be shared."""

from __future__ import annotations

from typing import Any, Final

import dash_mantine_components as dmc
from dash import html
from dash.development.base_component import Component

from dashboard.ids import Id
from dashboard.navigation import NAVIGATION
from dashboard.view import ALL_TIERS, RANGES, TIER_SLUGS, Lens, Palette, Panel, SideFilter, Theme, ViewState

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


def aria(**said: str) -> dict[str, Any]:
    """Return ``aria-…`` attributes, as components take them."""
    return {f"aria-{name}": value for name, value in said.items()}


def build_top(view: ViewState) -> Component:
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
                **aria(label="Pages"),
                children=[
                    _page_link(e.path, e.name, title=e.hint, **(aria(current="page") if e.path == "/" else {}))
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


def build_header(view: ViewState) -> Component:
    """Return coin, price, range and what can be shared."""
    return html.Section(
        className="bar header",
        **aria(label="Coin and range"),
        children=[
            dmc.Select(
                id=Id.SYMBOL,
                className="symbol",
                value=view.symbol,
                data=[view.symbol],
                allowDeselect=False,
                searchable=True,
                selectFirstOptionOnChange=True,
                nothingFoundMessage="No such coin here",
                size="xs",
                **aria(label="Coin"),
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


def build_tools(view: ViewState) -> Component:
    """Return what else of the view can be chosen."""
    return html.Section(
        className="bar tools",
        **aria(label="View"),
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
            dmc.Group([field(Id.PRICE_LOW, "From"), field(Id.PRICE_HIGH, "To")], gap=8, align="flex-start"),
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


def tier_words(slug: str) -> str:
    """Write a leverage tier as people read it."""
    return TIER_SLUGS[slug].replace("-", "\N{EN DASH}")


def _tier_chips() -> list[Component]:
    return [_chip(slug, tier_words(slug)) for slug in ALL_TIERS]


def _chip(value: str, name: str) -> Component:
    made: Component = dmc.Chip(name, value=value, size="xs", radius="sm")
    return made


def _icon(name: str, words: str) -> Component:
    return html.Span(className=f"icon icon-{name}", role="img", title=words, **aria(label=words))


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
