"""``/api/v1/stream``: what moves, as server-sent events."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from dashboard.answers import Answers
from dashboard.api import ERRORS
from dashboard.events import EVENTS, Wanted, read_id
from dashboard.limits import charge_drawing
from dashboard.live import Follower, Live
from estimator.cache import Cache

_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "symbol", "in": "query", "required": False, "schema": {"type": "string"}, "example": "BTC,ETH",
        "description": "Base coins by commas; by default the first market's.",
    },
    {
        "name": "venues", "in": "query", "required": False, "schema": {"type": "string", "default": "all"},
        "description": "`all` or venues such as `binance,bybit`.",
    },
    {
        "name": "events", "in": "query", "required": False, "schema": {"type": "string", "default": "all"},
        "description": "`all` or some of " + ", ".join(f"`{e}`" for e in EVENTS) + ", by commas.",
    },
    {
        "name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "The last `id` received; what was missed since comes first. Browsers send it by themselves.",
    },
]  # fmt: skip
_EXAMPLE: Final = (
    'id: binance:BTC/USDT:USDT=1795298100000/1795298398211-0\nevent: price\ndata: {"markets":[{"version":1795298400211,'
    '"as_of_ms":1795298400000,"mark_price":63950.5,"market":"binance:BTC/USDT:USDT"}]}\n\n'
)
_OK: Final = {
    "description": "Server-sent events",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
}


class EventStream(Response):
    """Sends a follower what it is told, until it goes away or is too far behind.

    Parameters
    ----------
    follower : Follower
    """

    media_type = "text/event-stream"

    def __init__(self, follower: Follower) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._follower = follower

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        ends = [
            asyncio.create_task(ending)
            for ending in (self._tell(send), _until_gone(receive), self._follower.lost.wait())
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._follower.leave()
            for end in ends:
                end.cancel()

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._follower.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def build_live_router(cache: Cache, answers: Answers) -> APIRouter:
    """Route of what moves."""
    router, live = APIRouter(), Live(cache, answers)

    async def stream(request: Request) -> Response:
        statuses = await answers.statuses()
        wanted = Wanted.parse(request.url.query, statuses[0].base)
        last = request.headers.get("last-event-id", "")
        after = read_id(last) if last else None
        if after:
            charge_drawing()  # what was missed is read for nobody else
        return EventStream(await live.follow(wanted, after))

    router.add_api_route(
        "/api/v1/stream", stream, methods=["GET"], tags=["views"], response_class=Response,
        summary="Prices, columns and liquidation prints of coins as they come.",
        responses={200: _OK, **{code: ERRORS[code] for code in (422, 429, 503)}},
        openapi_extra={"parameters": _PARAMETERS},
    )  # fmt: skip
    return router
