"""The composition root of the web: FastAPI, the API, Dash, headers, in the order in which they must be put together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dash import Dash
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, compile_path
from starlette.types import Scope

from dashboard import callbacks, layout
from dashboard.answers import Answers
from dashboard.api import add_error_handlers, build_router
from dashboard.colours import style_rules
from dashboard.files import CompressedFiles, Kept, compress_ahead, plotly_script, versioned_addresses
from dashboard.guard import MAX_BODY, Guard
from dashboard.hits import Hits
from dashboard.insight_routes import build_insight_router
from dashboard.limits import Budgets, Kind, Limits
from dashboard.live_routes import build_live_router
from dashboard.metrics import State, Traffic, build_metrics_router
from dashboard.pages import alerts
from dashboard.pages import routes as pages
from dashboard.pages.embed import build_embed_router
from dashboard.pages.shell import Address, Part, document, refusal
from dashboard.share import (
    SNAPSHOT_PAGE,
    HeadAsGet,
    SecurityHeaders,
    preview_tags,
    site_address,
    snapshot_card,
    view_card,
)
from dashboard.share_routes import build_share_router
from dashboard.snapshots import Snapshots
from dashboard.sources import Conditions, build_source_router
from estimator.cache import Cache
from estimator.settings import Settings

_PACKAGED: Final = Path(__file__).resolve().parent / "static"  # where the wheel puts it
STATIC: Final = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "static"
PAGES: Final = frozenset({"/"})
_INDEX: Final = f"""<!DOCTYPE html>
<html lang="en">
<head>{{%metas%}}<title>{{%title%}}</title>{{%favicon%}}{{%css%}}<style>{style_rules()}</style></head>
<body>{{%app_entry%}}{{%config%}}{{%scripts%}}{{%renderer%}}</body>
</html>"""
_OTHER_FILES: Final = r"^((pages|markets|tape|track|embed)\.(js|css)|plotly\.min\.js)$"  # what Dash need not name
_FOR_PROGRAMS: Final = re.compile(r"/api/|/oembed$|/(s/[^/]+/)?preview\.png$")  # errors there are JSON
_DOCS: Final = "Self-hosted liquidation heatmap: estimated levels and realised liquidations."


class Page(Dash):
    """Dash with link-preview tags in the head.

    Parameters
    ----------
    public_url : str, optional
        Address of the site as others see it.
    snapshots : Snapshots
    """

    def __init__(self, *args: Any, public_url: str | None, snapshots: Snapshots, **kwargs: Any) -> None:
        self._public_url, self._snapshots = public_url, snapshots
        super().__init__(*args, **kwargs)

    def interpolate_index(self, **parts: Any) -> str:  # type: ignore[override]  # Dash calls it by keyword
        """Fill the page's frame; called by Dash for every page load."""
        address = urlsplit(self.backend.request_adapter().url)
        site = site_address(self._public_url, address.scheme, address.netloc)
        frozen = SNAPSHOT_PAGE.fullmatch(address.path)
        card = snapshot_card(frozen[1], self._snapshots.facts(frozen[1])) if frozen else view_card(address.query)
        parts["metas"] = f"{parts.get('metas', '')}\n{preview_tags(card, site)}"
        return str(super().interpolate_index(**parts))  # type: ignore[no-untyped-call]


class NotFound(Route):
    """Matches every GET but the pages: Dash would answer any other address with the page and a 200.

    Parameters
    ----------
    path : str
    endpoint : callable
    snapshots : Snapshots
        Those there are have pages.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], snapshots: Snapshots) -> None:
        super().__init__(path, endpoint)
        self._snapshots = snapshots

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Leave pages and sockets to others."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or self._is_page(scope["path"]):
            return Match.NONE, {}
        return super().matches(scope)

    def _is_page(self, path: str) -> bool:
        snapshot = SNAPSHOT_PAGE.fullmatch(path)
        return path in PAGES if snapshot is None else self._snapshots.has(snapshot[1])


def create_app(settings: Settings, cache: Cache) -> FastAPI:
    """Build the web application.

    Parameters
    ----------
    settings : Settings
    cache : Cache
        Closed when the application stops.
    """
    packed: Kept = {}
    drawing = plotly_script(STATIC)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ahead = asyncio.create_task(asyncio.to_thread(compress_ahead, packed, [drawing.file]))
        yield
        await ahead
        await cache.aclose()

    app = FastAPI(
        title="liqheat", description=_DOCS, version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        max_body_size=MAX_BODY,
    )  # fmt: skip
    add_error_handlers(app)
    app.add_exception_handler(HTTPException, _http_error)
    answers, registry = Answers(cache), CollectorRegistry()
    registry.register(State(cache, answers))
    app.include_router(build_router(cache, answers))
    address = app.state.address = _versioned(STATIC)
    app.include_router(pages.build_router(cache, answers, address))
    app.include_router(build_insight_router(cache, answers))
    app.include_router(build_live_router(cache, answers))
    app.include_router(alerts.build_router(cache))
    snapshots = Snapshots(settings.data / "snapshots", settings.snapshots_mb << 20)
    budgets = _budgets(settings, cache, registry)
    app.include_router(build_share_router(answers, snapshots, budgets, settings))
    app.include_router(build_embed_router(snapshots, _site(settings.public_url), drawing.address, address))
    app.include_router(build_source_router(Conditions(cache, may_switch=settings.allow_switch), settings))
    app.include_router(build_metrics_router(registry, settings.metrics_token))
    app.add_api_route("/docs", _docs, methods=["GET"], include_in_schema=False)
    page = Page(
        "liqheat", title="liqheat", server=app, backend="fastapi", assets_folder=str(STATIC), index_string=_INDEX,
        public_url=settings.public_url, snapshots=snapshots, update_title="", serve_locally=True, enable_mcp=False,
        compress=False, external_scripts=[drawing.address], assets_ignore=_OTHER_FILES,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )  # fmt: skip
    page.layout = layout.build()
    callbacks.register(page)
    app.state.page = page
    # Dash collects its scripts at the first request to "/"; the first one here may well be to a snapshot.
    page._setup_server()  # type: ignore[no-untyped-call]  # noqa: SLF001
    app.router.routes.append(NotFound("/{path:path}", _not_found, snapshots))
    versioned = versioned_addresses(page.registered_paths, STATIC) | {drawing.address}
    app.add_middleware(CompressedFiles, kept=packed, versioned=versioned)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Guard, files=page.registered_paths)
    app.add_middleware(Hits, answers=answers)
    app.add_middleware(Limits, budgets=budgets, streams=settings.limit_streams)  # outside of Hits: hits count too
    app.add_middleware(SecurityHeaders, script_hashes=page.csp_hashes(), frame_ancestors=settings.frame_ancestors)
    named = {context.path for context in iter_route_contexts(app.routes) if context.path and "{" not in context.path}
    app.add_middleware(Traffic, registry=registry, paths=PAGES | named)
    return app


def _budgets(settings: Settings, cache: Cache, registry: CollectorRegistry) -> Budgets:
    most = {
        Kind.READS: settings.limit_reads, Kind.COMPUTED: settings.limit_computed, Kind.WRITES: settings.limit_writes,
    }  # fmt: skip
    return Budgets(cache.counters, most, settings.limit_snapshots, registry)


def _site(public_url: str | None) -> Callable[[Request], str]:
    """Return what gives the address of the site as whoever asks should see it."""
    return lambda request: site_address(public_url, request.url.scheme, request.url.netloc)


def _versioned(folder: Path) -> Callable[[str], str]:
    """Return what gives the address of a file of the site: as Dash spells it, with the time of its last change."""
    stamps = {p.name: p.stat().st_mtime for p in folder.iterdir() if p.is_file()}
    return lambda name: f"/assets/{name}?m={stamps[name]}"


async def _not_found(request: Request) -> Response:
    return await _http_error(request, HTTPException(404))


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = {"Cache-Control": "no-store", **(error.headers or {})}
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    if _FOR_PROGRAMS.match(request.url.path):
        return JSONResponse({"error": error.detail, "path": request.url.path}, error.status_code, headers=headers)
    page = document(
        refusal(request.url.path, error.status_code, str(error.detail)), pages.look_of(request), _address(request)
    )
    return HTMLResponse(page, error.status_code, headers=headers)


def _address(request: Request) -> Address:
    found: Address = request.app.state.address
    return found


def _methods(request: Request) -> set[str]:
    """Methods that any route of the address takes: each route knows of its own alone."""
    contexts = [c for c in iter_route_contexts(request.app.routes) if c.methods and "{path:path}" not in (c.path or "")]
    found = {m for c in contexts if compile_path(c.path or "")[0].match(request.url.path) for m in c.methods or ()}
    return found | ({"HEAD"} if "GET" in found else set())


async def _docs(request: Request) -> Response:
    """Routes and their parameters, from the same description machines get at ``/openapi.json``."""
    described = request.app.openapi()
    parts = ['<h1>liqheat API</h1><p>For machines: <a href="/openapi.json">openapi.json</a></p>']
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation))
    body = f'<article class="text">{"".join(parts)}</article>'
    part = Part("/docs", "API", "Every address of the API, with its parameters and answers.", body)
    return HTMLResponse(document(part, pages.look_of(request), _address(request)))


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(p['name'])}</code></td><td>{_marked(p.get('description', ''))}</td>"
        f"<td>{escape(', '.join(p['schema'].get('enum', [p['schema'].get('type', '')])))}</td></tr>"
        for p in operation.get("parameters", ())
    )
    answers = "".join(
        f"<li>{escape(code)}: {_marked(r.get('description', ''))} {escape(', '.join(r.get('content', {})))}</li>"
        for code, r in operation.get("responses", {}).items()
    )
    heads = "<thead><tr><th>Parameter</th><th>What it is</th><th>Values</th></tr></thead>"
    asked = escape(f"{method.upper()} {path}")
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="Parameters of {asked}">'
    table = f"{region}<table>{heads}<tbody>{rows}</tbody></table></div>" if rows else ""
    title = f"<h2><code>{asked}</code></h2>"
    return f"{title}<p>{_marked(operation.get('summary', ''))}</p>{table}<ul>{answers}</ul>"


def _marked(words: str) -> str:
    """Return words of the description as markup: what stands between backticks is code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(words))
