"""Addresses of the pages, and of the API behind their tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from dashboard import described
from dashboard.answers import Answers, Busy
from dashboard.api import ERRORS, VIEW_PARAMETERS, negotiate, send
from dashboard.export import FORMS, Form
from dashboard.navigation import Look
from dashboard.pages import markets, method, paging, sorting, tape, tape_page, track, track_page
from dashboard.pages.feed import Feed
from dashboard.pages.kept import Brief, packed
from dashboard.pages.overview import Overview
from dashboard.pages.shell import Address, Part, document, problem
from dashboard.view import ViewError, check_range, read_parameters
from estimator.cache import Cache
from estimator.cache.viewers import Flights

MAX_STREAMS: Final = 256  # per process
_CSV: Final = "text/csv"
_JSON: Final = "application/json"


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_FORMAT: Final = _parameter(
    "format", {"type": "string", "enum": ["json", "csv"]}, "Form of the answer; without it the Accept header decides."
)
_LEAST: Final = _parameter("min_usd", {"type": "number", "minimum": 0, "default": 0}, "Least notional, USD.")
_NOT_ON_OFFER: Final = ("as_of_ms", "origin", "banner", "venues")
_MARKETS: Final = [
    _parameter("find", {"type": "string", "maxLength": markets.MAX_WORDS}, "Part of a symbol's or of a venue's name."),
    _parameter("venues", {"type": "string"}, "`all` or venues such as `binance,bybit`."),
    *sorting.described(markets.COLUMNS, markets.USUAL.key),
    _parameter("by", {"type": "string", "enum": [*markets.ROWS], "default": "venue"}, "`coin`: venues put together."),
    _parameter(
        "detail", {"type": "string", "enum": ["full", "offer"], "default": "full"},
        "`offer`: only what is on offer, by rank, without readings and unfiltered; quick.",
    ),
    *paging.described(markets.MAX_ROWS, markets.MAX_ROWS),
    _FORMAT,
]  # fmt: skip
_TAPE_ORDER: Final = sorting.described(tape.HEADS, tape.NEWEST.key)
_PRINTS: Final = [
    *(p for p in VIEW_PARAMETERS if p["name"] != "symbol"),
    _parameter("symbol", {"type": "string"}, "Base coin, or `all`; by default the first market's coin."),
    _LEAST,
    *_TAPE_ORDER,
    *paging.described(tape.MAX_ROWS, tape.LIMIT),
    _FORMAT,
]
_TRACK: Final = [
    _parameter("symbol", {"type": "string", "default": "all"}, "Base coin, or `all`."),
    _parameter("venue", {"type": "string", "default": "all"}, "One venue, or `all`."),
    _parameter("horizon", {"type": "string", "enum": [track.ALL, *track.HORIZONS], "default": track.ALL}, "Ahead."),
    *sorting.described(track.COLUMNS),
    next({**p, "description": "Taken with a view's, but a record is of all that is kept."} for p in VIEW_PARAMETERS
         if p["name"] == "range"),
    _FORMAT,
]  # fmt: skip
_STREAM: Final = [
    _parameter("symbol", {"type": "string", "default": "all"}, "Base coin, or `all`."),
    _parameter("venues", {"type": "string"}, "`all` or venues such as `binance,bybit`."),
    _parameter("side", {"type": "string", "enum": ["both", "long", "short"], "default": "both"}, "Whose."),
    _LEAST,
    *_TAPE_ORDER,
]


def build_router(cache: Cache, answers: Answers, address: Address) -> APIRouter:
    """Routes of the pages and of their API.

    Parameters
    ----------
    cache : Cache
    answers : Answers
        Gives the markets on offer.
    address : callable
        Address of a file of the site by its name.
    """
    router, feed = APIRouter(), Feed(cache, answers.statuses)
    _add_markets(router, answers, feed, Overview(cache))
    _add_liquidations(router, cache, answers, feed)
    _add_track(router, cache, answers)
    _add_pages(router, cache, answers, address)
    return router


def _add_markets(router: APIRouter, answers: Answers, feed: Feed, overview: Overview) -> None:
    brief = Brief()

    async def listed(request: Request) -> Response:
        query = markets.MarketsQuery.parse(request.url.query, "format", "detail", *paging.PAGING)
        limit = paging.read_limit(request.query_params, markets.MAX_ROWS, markets.MAX_ROWS)
        cursor = request.query_params.get("cursor")
        statuses = await answers.statuses()
        query.check(statuses)
        form, detail = choose_form(request), request.query_params.get("detail", "full")
        if detail not in ("full", "offer"):
            raise ViewError("detail", detail[:80], "full or offer")
        if detail == "offer":
            offer = paging.cut(markets.offer_json(statuses), limit, cursor)
            return send(await asyncio.to_thread(packed, markets.to_json(offer), _JSON, offer["next"]), request)

        async def make() -> paging.Page:
            recent = await feed.recent()
            facts = await overview.facts(recent.statuses)
            answer = await asyncio.to_thread(markets.markets_json, query, recent, facts)
            page = paging.cut(answer, limit, cursor)
            body = markets.to_csv(page["markets"]) if form == _CSV else markets.to_json(page)
            return paging.Page(body, page["next"])

        key = repr((form, query.find, query.venues, query.order, query.by, limit, cursor))
        return send(await brief.get(key, form, make), request)

    router.add_api_route(
        "/api/v1/markets", listed, methods=["GET"], tags=["markets"], response_class=Response,
        summary="Markets on offer: liquidations, clusters, funding, open interest, provenance.",
        responses={
            200: described.answers("/api/v1/markets", "JSON or CSV.", varies=_NOT_ON_OFFER),
            **ERRORS,
        },
        openapi_extra={"parameters": _MARKETS},
    )  # fmt: skip


def _add_liquidations(router: APIRouter, cache: Cache, answers: Answers, feed: Feed) -> None:
    brief, streams = Brief(), _Streams(feed)

    async def liquidations(request: Request) -> Response:
        statuses = await answers.statuses()
        query, form = tape.TapeQuery.of_view(request.url.query, statuses[0].base), choose_form(request)

        def read() -> paging.Page:
            rows, after = tape.read_page(cache, statuses, query)
            body = tape.page_csv(statuses, rows) if form == _CSV else tape.page_json(statuses, query, rows, after)
            return paging.Page(body, None if after is None else str(after))

        key = repr((form, query))
        return send(await brief.get(key, form, lambda: asyncio.to_thread(read)), request)

    async def stream(request: Request) -> Response:
        asked = tape_page.TapePage.parse(request.url.query)
        asked.wanted.markets((await feed.recent()).statuses)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(streams.open(asked), media_type="text/event-stream", headers=headers)

    router.add_api_route(
        "/api/v1/liquidations", liquidations, methods=["GET"], tags=["views"], response_class=Response,
        summary="Realised liquidations in the range, newest first or in another order, page by page.",
        responses={200: described.answers("/api/v1/liquidations", "JSON or CSV."), **ERRORS},
        openapi_extra={"parameters": _PRINTS},
    )  # fmt: skip
    router.add_api_route(
        "/api/v1/liquidations/stream", stream, methods=["GET"], tags=["views"], response_class=Response,
        summary="Realised liquidations as they come, with totals of 1 h and 24 h.",
        responses={
            200: described.answers("/api/v1/liquidations/stream", "Server-sent events."),
            **{code: ERRORS[code] for code in (422, 429, 503)},
        },
        openapi_extra={"parameters": _STREAM},
    )  # fmt: skip


def _add_track(router: APIRouter, cache: Cache, answers: Answers) -> None:
    brief = Brief()

    async def track_record(request: Request) -> Response:
        query = track.TrackQuery.parse(request.url.query, "format", "range", horizons=(track.ALL, *track.HORIZONS))
        check_range(request.query_params.get("range"))
        form = choose_form(request)
        query.check(await answers.statuses())

        def read() -> bytes:
            record = track.read_record(cache, query)
            return track.to_csv(record) if form == _CSV else track.to_json(record)

        key = repr((form, query))
        return send(await brief.get(key, form, lambda: asyncio.to_thread(read)), request)

    router.add_api_route(
        "/api/v1/track-record", track_record, methods=["GET"], tags=["markets"], response_class=Response,
        summary="How the levels that were shown did against what was liquidated afterwards, and against baselines.",
        responses={200: described.answers("/api/v1/track-record", "JSON or CSV."), **ERRORS},
        openapi_extra={"parameters": _TRACK},
    )  # fmt: skip


class _Streams:
    """Streams under way, at most `MAX_STREAMS`."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._open = feed, 0
        self._encoding = Flights[bytes]()

    def open(self, asked: tape_page.TapePage) -> AsyncIterator[bytes]:
        """Return a new stream.

        Raises
        ------
        Busy
        """
        if self._open >= MAX_STREAMS:
            raise Busy("too many pages follow the tape")
        return self._counted(asked)

    async def _counted(self, asked: tape_page.TapePage) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            async for event in tape.stream(self._feed, asked.wanted, asked.order, self._encoding):
                yield event
        finally:
            self._open -= 1


def choose_form(request: Request) -> str:
    """Return the media type asked for, JSON or CSV.

    Raises
    ------
    ViewError
        `NotAcceptable`, if the Accept header takes neither.
    """
    asked = request.query_params.get("format")
    if asked is not None:
        if asked not in ("json", "csv"):
            raise ViewError("format", asked[:80], "one of json, csv")
        return _CSV if asked == "csv" else _JSON
    return FORMS[negotiate(request.headers.get("accept", "*/*"), (Form.JSON, Form.CSV))].media_type


def _add_pages(router: APIRouter, cache: Cache, answers: Answers, address: Address) -> None:
    async def markets_page(query: str) -> tuple[Part, Look]:
        asked = markets.MarketsQuery.parse(query)
        return markets.page(asked), asked.look

    async def tape_made(query: str) -> tuple[Part, Look]:
        asked = tape_page.TapePage.parse(query)
        return tape_page.page(asked), asked.look

    async def method_page(query: str) -> tuple[Part, Look]:
        look = Look.parse(read_parameters(query, ("theme", "palette")))
        return await method.page(answers.statuses, cache), look

    async def track_made(query: str) -> tuple[Part, Look]:
        asked = track.TrackQuery.parse(query)
        return await track_page.page(answers.statuses, cache, asked), asked.look

    def add(path: str, make: Callable[[str], Awaitable[tuple[Part, Look]]]) -> None:
        async def reply(request: Request) -> Response:
            try:
                part, look = await make(request.url.query)
            except ViewError as error:
                wrong = problem(path, error, request.query_params)
                text = document(wrong, look_of(request), address)
                return HTMLResponse(text, 422, headers={"Cache-Control": "no-store"})
            body = document(part, look, address).encode()
            return send(await asyncio.to_thread(packed, body, "text/html; charset=utf-8"), request)

        router.add_api_route(path, reply, methods=["GET"], include_in_schema=False)

    add(markets.PATH, markets_page)
    add(tape_page.PATH, tape_made)
    add(track.PATH, track_made)
    add(method.PATH, method_page)


def look_of(request: Request) -> Look:
    """Return the look an address asks for; what it cannot be matters no more where nothing can be shown."""
    try:
        return Look.parse(request.query_params)
    except ViewError:
        return Look()
