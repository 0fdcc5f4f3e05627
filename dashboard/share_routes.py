"""``/api/v1/snapshots``, ``/s/{id}/preview.png`` and ``/oembed``: making snapshots, their parts, and what to embed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from html import escape
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from dashboard import described
from dashboard.answers import CHART_PART, LEVELS_PART, PICTURE_PART, Answer, Answers
from dashboard.api import ERRORS, negotiate, send
from dashboard.export import FORMS, Form, unpack_levels
from dashboard.files import FOR_GOOD
from dashboard.frame import select_statuses
from dashboard.limits import Budgets, client_of
from dashboard.pages.kept import Brief
from dashboard.share import (
    EMBED,
    NOT_OURS,
    PICTURE,
    SNAPSHOT_PAGE,
    Card,
    own_hosts,
    site_address,
    snapshot_card,
    snapshot_path,
    view_card,
)
from dashboard.snapshots import Facts, Snapshots, SnapshotsFull, UnknownSnapshot
from dashboard.view import MAX_QUERY, ViewError, ViewState, read_parameters
from estimator.settings import Settings

FRAME: Final = (800, 640)  # size of a frame where none is asked for
LEAST_FRAME: Final = (320, 300)
_LEVEL_FORMS: Final = (Form.ARROW, Form.CSV)
_KEPT: Final = FOR_GOOD.decode()
_TABLE_S: Final = 600.0  # for so long a table that was unpacked is kept
_TABLES: Final = 8

Name = Annotated[str, Path(description="Id of the snapshot.")]


class SnapshotWish(BaseModel):
    """What to freeze."""

    model_config = ConfigDict(strict=True, extra="forbid")

    # A pattern at all makes half a surrogate pair an error here, where it can still be answered.
    view: str = Field(
        max_length=MAX_QUERY, pattern=r"^[^\x00]*$", description="Query string of the view.",
        examples=["symbol=BTC&range=7d"],
    )  # fmt: skip


def build_share_router(answers: Answers, snapshots: Snapshots, budgets: Budgets, settings: Settings) -> APIRouter:
    """Routes of snapshots and of oEmbed."""
    router = APIRouter(tags=["share"])
    _add_making(router, answers, snapshots, budgets, settings)
    _add_reading(router, snapshots, settings)
    _add_oembed(router, answers, snapshots, settings)
    return router


def _add_making(
    router: APIRouter, answers: Answers, snapshots: Snapshots, budgets: Budgets, settings: Settings
) -> None:
    refused: dict[int | str, dict[str, Any]] = {
        201: described.answers("/api/v1/snapshots", "What was made, and its addresses."),
        400: described.NOT_READ,
        403: described.error(
            "Asked by a page of another site, or the server takes no more snapshots.",
            {"error": NOT_OURS, "path": "/api/v1/snapshots"},
        ),
        **{code: ERRORS[code] for code in (422, 429, 503)},
    }

    @router.post("/api/v1/snapshots", summary="Freeze a view and its data.", status_code=201, responses=refused)
    async def freeze(request: Request, wish: SnapshotWish) -> JSONResponse:
        if _is_foreign(request, settings.public_url):
            raise HTTPException(403, NOT_OURS)
        statuses = await answers.statuses()
        view = ViewState.parse(wish.view, default_symbol=statuses[0].base)
        select_statuses(statuses, view)
        await budgets.take_snapshot(client_of(request.scope))
        facts, parts = await answers.frozen(view)
        try:
            name = await asyncio.to_thread(snapshots.save, facts, parts)
        except SnapshotsFull as error:
            raise HTTPException(403, str(error)) from error
        site = _site(request, settings)
        return JSONResponse(
            _facts_json(name, facts, site), 201,
            headers={"Location": site + snapshot_path(name), "Cache-Control": "no-store"},
        )  # fmt: skip


def _is_foreign(request: Request, public_url: str | None) -> bool:
    """Whether a page of another site asks: a browser tells on it; a program names no origin."""
    origin, headers = request.headers.get("origin"), request.headers
    foreign = origin is not None and _host(origin) not in own_hosts(headers.get("host", ""), public_url)
    return foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return None


def _add_reading(router: APIRouter, snapshots: Snapshots, settings: Settings) -> None:
    gone: dict[int | str, dict[str, Any]] = {
        404: described.NOT_FOUND,
        **{code: ERRORS[code] for code in (304, 422, 429)},
    }

    def add(path: str, summary: str, reply: Callable[..., Awaitable[Response]], *media_types: str) -> None:
        ok = described.answers(path, "Never changes.", *media_types)
        router.add_api_route(
            path, reply, methods=["GET"], summary=summary, response_class=Response,
            responses={200: ok, **gone, **({406: ERRORS[406]} if path.endswith("levels") else {})},
        )  # fmt: skip

    tables = Brief(_TABLE_S, _TABLES)

    async def kept(name: str, request: Request, part: str, form: Form, *, gzipped: bool = False) -> Response:
        body = await _found(snapshots.part, name, part)
        return send(Answer(body, f'"{part}-{name}"', FORMS[form].media_type, gzipped), request, _KEPT)

    async def facts(name: Name, request: Request) -> JSONResponse:
        found = await _found(snapshots.facts, name)
        return JSONResponse(_facts_json(name, found, _site(request, settings)), headers={"Cache-Control": "no-cache"})

    async def chart(name: Name, request: Request) -> Response:
        return await kept(name, request, CHART_PART, Form.JSON, gzipped=True)

    async def picture(name: Name, request: Request) -> Response:
        return await kept(name, request, PICTURE_PART, Form.PNG)

    async def levels(name: Name, request: Request) -> Response:
        form = _level_form(request)

        async def make() -> bytes:
            origin = (await _found(snapshots.facts, name)).origin
            packed = await _found(snapshots.part, name, LEVELS_PART)
            return await asyncio.to_thread(unpack_levels, packed, form, origin)

        return send(await tables.get(f"{form}-{name}", FORMS[form].media_type, make), request, _KEPT)

    add("/api/v1/snapshots/{name}", "What a snapshot shows, and its addresses.", facts)
    add("/api/v1/snapshots/{name}/chart", "Figures and readings of a snapshot.", chart)
    add("/api/v1/snapshots/{name}/levels", "Levels of a snapshot.", levels, FORMS[Form.ARROW].media_type)
    add("/s/{name}/preview.png", "Picture of a snapshot.", picture, "image/png")


def _level_form(request: Request) -> Form:
    asked = read_parameters(request.url.query, ("format",)).get("format")
    if asked is None:
        accept = request.headers.get("accept", "*/*")
        return Form.CSV if accept == "*/*" else negotiate(accept, _LEVEL_FORMS)
    if asked not in _LEVEL_FORMS:
        raise ViewError("format", asked[:80], "one of " + ", ".join(_LEVEL_FORMS))
    return Form(asked)


async def _found(read: Callable[..., Any], *arguments: str) -> Any:
    try:
        return await asyncio.to_thread(read, *arguments)
    except UnknownSnapshot as error:
        raise HTTPException(404, str(error)) from error


def _site(request: Request, settings: Settings) -> str:
    return site_address(settings.public_url, request.url.scheme, request.url.netloc)


def _facts_json(name: str, facts: Facts, site: str) -> dict[str, Any]:
    card, api = snapshot_card(name, facts), f"{site}/api/v1/snapshots/{name}"
    return {
        "id": name, **facts.model_dump(), "basis": {"levels": "estimated"}, "url": site + card.page,
        "embed_url": site + card.frame, "picture_url": site + card.picture, "chart_url": f"{api}/chart",
        "levels_url": f"{api}/levels",
    }  # fmt: skip


def _add_oembed(router: APIRouter, answers: Answers, snapshots: Snapshots, settings: Settings) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        200: described.answers("/oembed", "As oembed.com says."),
        404: described.NOT_EMBEDDED,
        **{code: ERRORS[code] for code in (422, 429, 503)},
    }

    @router.get(
        "/oembed", summary="How to embed an address of this site.", responses=responses,
        openapi_extra={"parameters": _OEMBED_PARAMETERS},
    )  # fmt: skip
    async def oembed(request: Request) -> JSONResponse:
        given = read_parameters(request.url.query, ("url", "format", "maxwidth", "maxheight"))
        if given.get("format", "json") != "json":
            raise ViewError("format", given["format"][:80], "json")
        size = _frame_size(given)
        site = _site(request, settings)
        card = await _card(given.get("url", ""), {urlsplit(site).netloc, request.url.netloc}, answers, snapshots)
        return JSONResponse(_oembed_json(card, site, size), headers={"Cache-Control": "no-cache"})


_OEMBED_PARAMETERS: Final = [
    {"name": "url", "in": "query", "required": True, "schema": {"type": "string"},
     "description": "Address of the heatmap, of an embed or of a snapshot of this site."},
    {"name": "format", "in": "query", "required": False, "schema": {"type": "string", "enum": ["json"]},
     "description": "JSON is the only one."},
    *({"name": n, "in": "query", "required": False, "schema": {"type": "integer", "minimum": least, "maximum": 99_999},
       "description": "Most the frame may have, in pixels."}
      for n, least in zip(("maxwidth", "maxheight"), LEAST_FRAME, strict=True)),
]  # fmt: skip


def _frame_size(given: dict[str, str]) -> tuple[int, int]:
    sizes = []
    for name, usual, least in zip(("maxwidth", "maxheight"), FRAME, LEAST_FRAME, strict=True):
        text = given.get(name, str(usual))
        if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) >= least):
            raise ViewError(name, text[:80], f"a number of pixels, at least {least}")
        sizes.append(min(int(text), usual))
    return sizes[0], sizes[1]


async def _card(address: str, hosts: set[str], answers: Answers, snapshots: Snapshots) -> Card:
    """Card of an address of this site."""
    unknown = HTTPException(404, "not an address of this site that can be embedded")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise unknown from None
    if parts.scheme not in ("http", "https") or parts.netloc not in hosts:
        raise unknown
    snapshot = SNAPSHOT_PAGE.fullmatch(parts.path)
    if snapshot:
        return snapshot_card(snapshot[1], await _found(snapshots.facts, snapshot[1]))
    if parts.path not in ("", "/", EMBED):
        raise unknown
    try:
        statuses = await answers.statuses()
        view = ViewState.parse(parts.query, default_symbol=statuses[0].base)
        select_statuses(statuses, view)
    except ViewError:
        raise unknown from None
    return view_card(view.query())


def _oembed_json(card: Card, site: str, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    return {
        "version": "1.0", "type": "rich", "provider_name": "liqheat", "provider_url": site, "title": card.title,
        "html": _frame_markup(card, site, width, height), "width": width, "height": height, "cache_age": 300,
        "thumbnail_url": site + card.picture, "thumbnail_width": PICTURE[0], "thumbnail_height": PICTURE[1],
    }  # fmt: skip


def _frame_markup(card: Card, site: str, width: int, height: int) -> str:
    """Write the frame around a card, escaped."""
    return (
        f'<iframe src="{escape(site + card.frame)}" width="{width}" height="{height}" style="border:0" '
        f'loading="lazy" title="{escape(card.title)}"></iframe>'
    )
