"""``/api/v1``, ``/preview.png`` and the probes: routes, their parameters, errors and documentation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from dashboard import described
from dashboard.answers import STATUS_WAIT_S, Answer, Answers
from dashboard.export import FORMS, Form
from dashboard.files import takes_gzip
from dashboard.frame import ChartFrame, NotReady, select_statuses
from dashboard.limits import TooMany
from dashboard.maps import read_band_beyond, read_map, summary
from dashboard.measured import venues_json
from dashboard.unpacked import unpacked
from dashboard.view import ALL_TIERS, RANGES, Lens, Palette, Panel, SideFilter, Theme, ViewError, ViewState
from estimator.cache import Cache, MarketStatus
from estimator.cache.attention import Attention
from estimator.domain import Basis, Float64Array, Origin, Side
from estimator.errors import CacheUnavailable, CorruptEntry, LiqheatError, ParameterError
from estimator.model.members import MEMBER_NAMES

_log = logging.getLogger(__name__)


class NotAcceptable(ViewError):
    """The Accept header names no form there is."""


# The first row that fits decides.
STATUS: Final[tuple[tuple[type[LiqheatError], int], ...]] = (
    (NotAcceptable, 406),
    (ParameterError, 422),
    (NotReady, 503),
    (CacheUnavailable, 503),
    (CorruptEntry, 500),
    (LiqheatError, 500),
)
RETRY_S: Final = 1
_PLAIN: Final = {503: "the data store does not answer", 500: "stored data could not be read"}

_ENUM: Final[dict[str, tuple[list[str], str, str]]] = {
    "range": (list(RANGES), "24h", "Span of time shown."),
    "side": (list(SideFilter), SideFilter.BOTH, "Whose liquidations are shown."),
    "lens": (list(Lens), Lens.CONTRAST, "How density becomes colour (pictures only)."),
    "palette": (list(Palette), Palette.REDGREEN, "Colours of the sides (pictures only)."),
    "theme": (list(Theme), Theme.DARK, "Background (pictures only)."),
}
_LIST: Final[dict[str, str]] = {
    "venues": "`all` or venues such as `binance,bybit`; they are added up.",
    "tiers": "`all` or effective-leverage tiers: " + ", ".join(f"`{t}`" for t in ALL_TIERS) + ".",
    "panels": "`all`, `none` or rows under the chart: " + ", ".join(f"`{p}`" for p in Panel) + " (pictures only).",
    "price": "`low,high` in quote currency; by default the window fits the candles.",
}
_COIN: Final = r"^[A-Za-z0-9]{1,20}$"
_ANY_TIER, _ANY_PANEL = "|".join(ALL_TIERS), "|".join(Panel)
_PATTERNS: Final = {
    "venues": r"^(all|[a-z0-9_]{1,24}(,[a-z0-9_]{1,24}){0,15})$",
    "tiers": f"^(all|({_ANY_TIER})(,({_ANY_TIER}))*)$",
    "panels": f"^(all|none|({_ANY_PANEL})(,({_ANY_PANEL}))*)$",
    "price": r"^[0-9]{1,12}(\.[0-9]{1,12})?,[0-9]{1,12}(\.[0-9]{1,12})?$",
}


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    shown = {"example": _EXAMPLES[name]} if name in _EXAMPLES else {}
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description, **shown}


_EXAMPLES: Final = {
    "symbol": "BTC",
    "venues": "binance,bybit",
    "range": "7d",
    "tiers": "25-49x,50x",
    "price": "58000,66000",
    "panels": "liq,oi",
}
VIEW_PARAMETERS: Final = [
    _parameter("symbol", {"type": "string", "pattern": _COIN}, "Base coin, such as `BTC`; else the first market's."),
    *(_parameter(n, {"type": "string", "enum": e, "default": d}, text) for n, (e, d, text) in _ENUM.items()),
    *(_parameter(n, {"type": "string", "pattern": _PATTERNS[n]}, text) for n, text in _LIST.items()),
    _parameter("min", {"type": "number", "minimum": 0, "maximum": 1, "default": 0}, "Weakest intensity shown."),
    _parameter("max", {"type": "number", "minimum": 0, "maximum": 1, "default": 1}, "Strongest intensity shown."),
]
_FORM_PARAMETER: Final = _parameter(
    "format", {"type": "string", "enum": list(Form)}, "Form of the answer; without it the Accept header decides."
)
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    304: described.NOT_CHANGED, 406: described.NOT_ACCEPTABLE, 422: described.NOT_SHOWN, 429: described.TOO_MANY,
    503: described.NOT_YET,
}  # fmt: skip


def error_response(error: LiqheatError) -> JSONResponse:
    """Turn an error into its status and a body that says what to do."""
    if isinstance(error, TooMany):
        return error.response()
    status = next(code for kind, code in STATUS if isinstance(error, kind))
    # Addresses of servers and keys of stores are for whoever runs this, not for whoever looks at it.
    internal = not isinstance(error, ParameterError | NotReady)
    if internal:
        _log.error("%s: %s", type(error).__name__, error)
    body: dict[str, Any] = {"error": _PLAIN[status] if internal else str(error)}
    if isinstance(error, ParameterError):
        body |= {"parameter": error.name, "value": str(error.value), "accepted": error.expected}
    if isinstance(error, NotReady):
        body |= {"reason": error.reason, "progress": error.progress}
    if isinstance(error, CacheUnavailable):
        body |= {"reason": _PLAIN[503], "progress": None}
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else {}
    return JSONResponse(body, status, headers={**headers, "Cache-Control": "no-store"})


def negotiate(accept: str, offered: Collection[Form] = tuple(FORMS)) -> Form:
    """Choose the form an Accept header likes best among those there are; JSON where it does not care.

    Raises
    ------
    ViewError
        `NotAcceptable`, if it accepts none of them.
    """
    likes: list[tuple[float, int, str]] = []
    for order, part in enumerate(accept.split(",")):
        media, *options = (p.strip().lower() for p in part.split(";"))
        quality = next((o[2:] for o in options if o.startswith("q=")), "1")
        likes.append((-_quality(quality), order, media))
    by_media = {export.media_type: form for form, export in FORMS.items() if form in offered}
    for quality_, _, media in sorted(likes):
        if quality_ < 0 and media in ("", "*/*", "application/*"):
            return Form.JSON
        if quality_ < 0 and media in by_media:
            return by_media[media]
        if quality_ < 0 and _ANY_OF_TYPE.get(media) in offered:
            return _ANY_OF_TYPE[media]
    raise NotAcceptable("Accept", accept[:80], ", ".join(by_media))


_ANY_OF_TYPE: Final = {"text/*": Form.CSV, "image/*": Form.PNG}


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def send(answer: Answer, request: Request, caching: str = "no-cache") -> Response:
    """Send an answer, or 304 where the client has it already."""
    headers = {"ETag": answer.etag, "Cache-Control": caching, "Vary": "Accept, Accept-Encoding"}
    if answer.after is not None:
        headers["Link"] = f'<{_with_cursor(request.url.path, request.url.query, answer.after)}>; rel="next"'
    if _has(request, answer.etag):
        return Response(status_code=304, headers=headers)
    if answer.gzipped and takes_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
    elif answer.gzipped:
        return unpacked(answer.body, answer.media_type, headers)
    return Response(answer.body, media_type=answer.media_type, headers=headers)


def _with_cursor(path: str, query: str, cursor: str) -> str:
    given = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "cursor"]
    return f"{path}?{urlencode([*given, ('cursor', cursor)])}"


def _has(request: Request, etag: str) -> bool:
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in given.split(","))


def market_json(status: MarketStatus) -> dict[str, Any]:
    """Return a market as ``/api/v1/markets`` lists it."""
    simulated = status.origin is Origin.SIMULATED
    return {
        "id": status.id, "exchange": status.exchange, "symbol": status.symbol, "base": status.base,
        "contract": status.contract,
        "max_leverage": status.max_leverage, "mark_price": status.mark_price if status.loaded else None,
        "open_interest_base": status.open_interest_base,
        "long_short_ratio": status.long_short_ratio, "funding_rate": status.funding_rate, "progress": status.progress,
        "first_ms": status.first_ms, "last_ms": status.last_ms, "provisional_until_ms": status.provisional_until_ms,
        "version": status.version, "preset": status.preset, "parameters_version": status.parameters_version,
        "calibration": _calibration_json(status),
        "provenance": {
            "origin": status.origin.value, "source": status.source,
            "as_of_ms": status.as_of_ms if status.loaded else None,
            "basis": {"levels": "estimated", "prices": "simulated" if simulated else Basis.MEASURED.value},
            "gaps": [{"start_ms": g.start_ms, "end_ms": g.end_ms, "what": g.what} for g in status.gaps],
        },
    }  # fmt: skip


def _calibration_json(status: MarketStatus) -> dict[str, Any] | None:
    """Tell what a market goes by that was fitted to it, from when on and from which data."""
    found = status.calibration
    if found is None:
        return None
    p = found.parameters
    return {
        "in_force_after_ms": status.calibrated_ms, "parameters_version": p.version,
        "data": {"first_ms": found.first_ms, "last_ms": found.last_ms, "held_out_after_ms": found.cut_ms},
        "prints": {"fitted": found.fitted, "held_out": found.held},
        "bits": {
            "before": found.before, "after": found.after, "gain_low": found.gain_low, "gain_high": found.gain_high,
        },
        "churn": p.churn, "leverages": list(p.leverages), "shares": list(p.shares), "tau_hours": list(p.tau_hours),
    }  # fmt: skip


def _map_json(frame: ChartFrame) -> dict[str, Any]:
    now = read_map(frame)
    return {
        "as_of_ms": frame.as_of_ms, "mark_price": frame.mark_price, "unit": "USD per bar, estimated",
        "origin": frame.statuses[0].origin.value, "price_edges": [float(f"{p:.8g}") for p in now.price_edges],
        "tiers": {
            name: {"long_usd": [round(v) for v in usd[0].tolist()], "short_usd": [round(v) for v in usd[1].tolist()]}
            for name, usd in zip(frame.view.tier_names, now.tier_usd, strict=True)
        },
        **summary(now),
    }  # fmt: skip


def _band_json(frame: ChartFrame) -> dict[str, Any]:
    now = read_map(frame)
    ends = read_band_beyond(frame, now)
    if frame.band is None or ends is None:
        raise NotReady(f"the band of {frame.view.symbol} is being computed: ask again in a few seconds")
    shown = {Side.LONG: now.long_beyond_usd, Side.SHORT: now.short_beyond_usd}

    def whole(values: Float64Array) -> list[int]:
        return [round(v) for v in values.tolist()]

    return {
        "symbol": frame.view.symbol, "as_of_ms": frame.as_of_ms, "mark_price": frame.mark_price,
        "origin": frame.statuses[0].origin.value, "basis": {"levels": "estimated"},
        "venues": [s.exchange for s in frame.statuses], "books": ["shown", *MEMBER_NAMES],
        "unit": "USD liquidated once the price has crossed the bar, coming from the mark",
        "price_edges": [float(f"{p:.8g}") for p in now.price_edges],
        **{
            f"{side}_beyond_usd": {"low": whole(low), "shown": whole(shown[side]), "high": whole(high)}
            for side, (low, high) in ends.items()
        },
        "certainty": round(float(frame.band.certainty[frame.band.known].mean()), 3) if frame.band.known.any() else None,
    }  # fmt: skip


def _positions_json(frame: ChartFrame) -> dict[str, Any]:
    now = read_map(frame)
    sides = np.zeros((2, len(now.price_edges) - 1)) if now.measured_usd is None else now.measured_usd
    long_usd, short_usd = ([round(v) for v in usd.tolist()] for usd in sides)
    return {
        "symbol": frame.view.symbol, "as_of_ms": frame.as_of_ms, "mark_price": frame.mark_price,
        "origin": frame.statuses[0].origin.value, "basis": {"levels": frame.observed_basis},
        "venues": [] if frame.measured is None else venues_json(frame.measured),
        "unit": "USD per bar, at the liquidation price",
        "price_edges": [float(f"{p:.8g}") for p in now.price_edges], "long_usd": long_usd, "short_usd": short_usd,
    }  # fmt: skip


async def read_view(request: Request, answers: Answers, *also: str) -> ViewState:
    """View of a request; a query that names no coin means the first market's."""
    statuses = await answers.statuses()
    return ViewState.parse(request.url.query, default_symbol=statuses[0].base, also=also)


def build_router(cache: Cache, answers: Answers) -> APIRouter:
    """Routes of views, and the probes."""
    router = APIRouter()
    _add_view_routes(router, answers, cache.attention, cache.band_attention)
    _add_band(router, answers, cache.band_attention)
    _add_positions(router, answers)
    _add_probes(router, cache, answers)
    return router


def _add_view_routes(router: APIRouter, answers: Answers, attention: Attention, unsure: Attention) -> None:
    def add(
        path: str, summary_: str, reply: Callable[[Request], Awaitable[Response]], ok: Mapping[str, Any], *extra: Any
    ) -> None:
        router.add_api_route(
            path, reply, methods=["GET"], summary=summary_, tags=["views"], response_class=Response,
            responses={200: dict(ok), **ERRORS}, openapi_extra={"parameters": [*VIEW_PARAMETERS, *extra]},
        )  # fmt: skip

    async def chart(request: Request) -> Response:
        view = await read_view(request, answers)
        answer = await answers.chart(view)
        await attention.note(view.symbol)
        if view.lens is Lens.CERTAIN:
            await unsure.note(view.symbol)
        return send(answer, request)

    async def heatmap(request: Request) -> Response:
        view = await read_view(request, answers, "format")
        wanted = request.query_params.get("format")
        if wanted is not None and wanted not in list(Form):
            raise ViewError("format", wanted[:80], "one of " + ", ".join(Form))
        form = Form(wanted) if wanted else negotiate(request.headers.get("accept", "*/*"))
        return send(await answers.export(view, form), request)

    async def liquidation_map(request: Request) -> Response:
        return send(await answers.other("map", await read_view(request, answers), _map_json), request)

    async def preview(request: Request) -> Response:
        return send(await answers.picture(await read_view(request, answers)), request)

    ok, raw = described.answers, [FORMS[form].media_type for form in (Form.BINARY, Form.ARROW, Form.PNG)]
    heatmap_ok = ok("/api/v1/heatmap", "Levels in the form asked for.", *raw)
    chart_ok = ok("/api/v1/chart", "Plotly figures and what stands around them.")
    map_ok = ok("/api/v1/map", "Levels of the latest column, in bars.")
    add("/api/v1/chart", "Figures and readings of a view, as the page draws them.", chart, chart_ok)
    add("/api/v1/heatmap", "Estimated liquidation levels, price x time.", heatmap, heatmap_ok, _FORM_PARAMETER)
    add("/api/v1/map", "Estimated levels now, by price and leverage tier.", liquidation_map, map_ok)
    add("/preview.png", "Picture of a view.", preview, ok("/preview.png", "PNG, 1200 x 630", "image/png"))


def _add_band(router: APIRouter, answers: Answers, unsure: Attention) -> None:
    async def band(request: Request) -> Response:
        view = replace(await read_view(request, answers), lens=Lens.CERTAIN, tiers=ALL_TIERS)
        select_statuses(await answers.statuses(), view)
        await unsure.note(view.symbol)
        return send(await answers.other("band", view, _band_json), request)

    router.add_api_route(
        "/api/v1/band", band, methods=["GET"], tags=["views"], response_class=Response,
        summary="How far other assumptions would lead: the least and the most that lies ahead.",
        responses={200: described.answers("/api/v1/band", "The least, the shown and the most."), **ERRORS},
        openapi_extra={"parameters": VIEW_PARAMETERS},
    )  # fmt: skip


def _add_positions(router: APIRouter, answers: Answers) -> None:
    async def positions(request: Request) -> Response:
        view = replace(await read_view(request, answers), tiers=ALL_TIERS)
        return send(await answers.other("positions", view, _positions_json), request)

    router.add_api_route(
        "/api/v1/positions", positions, methods=["GET"], tags=["views"], response_class=Response,
        summary="Observed positions where a venue publishes them, by liquidation price, with what they cover.",
        responses={200: described.answers("/api/v1/positions", "Venues that publish them, and bars."), **ERRORS},
        openapi_extra={"parameters": VIEW_PARAMETERS},
    )  # fmt: skip


def _add_probes(router: APIRouter, cache: Cache, answers: Answers) -> None:
    healthy: dict[int | str, dict[str, Any]] = {200: described.answers("/healthz", "It is.")}
    ready: dict[int | str, dict[str, Any]] = {200: described.answers("/readyz", "It is."), 503: ERRORS[503]}

    @router.get("/healthz", tags=["probes"], summary="The web process is up.", responses=healthy)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    @router.get(
        "/readyz", tags=["probes"], summary="The cache answers and a market's history is complete.", responses=ready
    )
    async def readyz() -> JSONResponse:
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                answers_now = await cache.ping()
        except TimeoutError:
            answers_now = False
        if not answers_now:
            raise NotReady(_PLAIN[503])
        statuses = await answers.statuses()
        best = max(s.progress for s in statuses)
        if best < 1:
            raise NotReady("no market's history is complete yet", best)
        done = sum(s.progress >= 1 for s in statuses)
        return JSONResponse(
            {"status": "ready", "markets": len(statuses), "complete": done}, headers={"Cache-Control": "no-store"}
        )


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ours by `STATUS`."""

    @app.exception_handler(LiqheatError)
    async def handle(_request: Request, error: LiqheatError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def handle_body(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _misread(error)


def _misread(error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with a body, without repeating it: NaN and half a character are not JSON."""
    wrong = [{name: e[name] for name in ("type", "loc", "msg")} for e in error.errors()]
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong)
    return JSONResponse({"error": said, "detail": wrong}, 422, headers={"Cache-Control": "no-store"})
