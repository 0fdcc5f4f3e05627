"""The chart alone, for frames on other sites: the heatmap's own components and scripts, without Dash.

Dash, React and the component library weigh more than all the rest. A frame needs none of its controls, so its markup is
written here from the tree of `dashboard.layout`, and ``static/embed.js`` does for it what Dash does for the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any, Final

from dash.development.base_component import Component
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dashboard import layout
from dashboard.api import send
from dashboard.colours import style_rules
from dashboard.pages.kept import packed
from dashboard.pages.shell import Address
from dashboard.share import EMBED, Card, preview_tags, snapshot_card, view_card
from dashboard.snapshots import Snapshots

# In the order in which they need one another; `address.js` runs before anything is painted.
SCRIPTS: Final = (
    "element.js", "format.js", "nav.js", "cross.js", "paths.js", "chart.js", "chart-keys.js", "sources.js", "status.js",
    "view.js", "share.js", "live.js", "embed.js",
)  # fmt: skip
_ATTRIBUTES: Final[dict[str, str]] = {"className": "class", "tabIndex": "tabindex"}
_HTML: Final = "text/html; charset=utf-8"

Site = Callable[[Request], str]  # address of the site as others see it


def document(card: Card, site: str, plotly: str, address: Address) -> str:
    """Return the whole document.

    Parameters
    ----------
    card : Card
        Of what the frame shows.
    site : str
        Address of the site as others see it.
    plotly : str
        Address of Plotly.
    address : callable
        Address of a file of the site.
    """
    told = json.dumps({"schema": layout.schema(), "config": layout.GRAPH_CONFIG}).replace("<", "\\u003c")
    deferred = [plotly, *map(address, SCRIPTS)]
    body = "".join(markup(part) for part in (layout.strip(), layout.chart_main(), layout.footer()))
    return f"""<!DOCTYPE html>
<html lang="en" data-page="embed">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{preview_tags(card, site)}
<title>liqheat</title>
<link rel="icon" href="{escape(address("favicon.ico"))}">
<link rel="stylesheet" href="{escape(address("liqheat.css"))}">
<style>{style_rules()}</style>
<script src="{escape(address("address.js"))}"></script>
{"".join(f'<script defer src="{escape(src)}"></script>' for src in deferred)}
</head>
<body>
<div class="page">{body}</div>
<script type="application/json" id="schema">{told}</script>
</body>
</html>
"""


def markup(part: Any) -> str:
    """Write a component as HTML; a graph is an empty box with its id."""
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return "".join(map(markup, part))
    if not isinstance(part, Component):
        return escape(str(part))
    described = part.to_plotly_json()  # type: ignore[no-untyped-call]
    props: dict[str, Any] = dict(described["props"])
    if described["type"] == "Graph":
        return f'<div id="{escape(props["id"])}" class="dash-graph"><div></div></div>'
    tag, children = described["type"].lower(), props.pop("children", None)
    said = "".join(_attribute(_ATTRIBUTES.get(name) or name, value) for name, value in props.items())
    return f"<{tag}{said}>{markup(children)}</{tag}>"


def _attribute(name: str, value: Any) -> str:
    if value is True or value is False:
        return f" {name}" if value else ""
    return f' {name}="{escape(str(value))}"'


def build_embed_router(snapshots: Snapshots, site: Site, plotly: str, address: Address) -> APIRouter:
    """Routes of embeds: of a view, and of a snapshot.

    Parameters
    ----------
    snapshots : Snapshots
    site : callable
        Gives the address of the site as whoever asks should see it.
    plotly : str
        Address of Plotly.
    address : callable
        Address of a file of the site.
    """
    router = APIRouter()

    def reply(card: Card, request: Request) -> Response:
        return send(packed(document(card, site(request), plotly, address).encode(), _HTML), request)

    @router.get(EMBED, include_in_schema=False)
    async def embed(request: Request) -> Response:
        return reply(view_card(request.url.query), request)

    @router.get("/s/{name}/embed", include_in_schema=False)
    async def embed_snapshot(name: str, request: Request) -> Response:
        if not snapshots.has(name):
            raise HTTPException(404)
        return reply(snapshot_card(name, snapshots.facts(name)), request)

    return router
