"""``/api/v1/alerts``: the rules in force and what they told lately, for the panel on the page and for browsers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from dashboard.api import ERRORS, send
from dashboard.pages import paging
from dashboard.pages.kept import Brief
from dashboard.view import ViewError, read_parameters
from estimator.cache import Cache
from estimator.cache.alerts import MAX_ALERTS

_JSON: Final = "application/json"
_DEFAULT: Final = 50
_KEPT: Final = ("id", "told_ms", "time_ms", "rule", "kind", "severity", "market", "title", "text", "origin", "quiet")
_ID: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,9}")
_EXAMPLE: Final[dict[str, Any]] = {
    "as_of_ms": 1795297560000,
    "rules": [{"name": "print", "kind": "print", "when": "a liquidation is at least $1.00M"}],
    "alerts": [
        {
            "id": "1795297555012-0", "told_ms": 1795297555000, "time_ms": 1795297554120, "rule": "print",
            "kind": "print", "severity": "warning", "market": "binance:BTC/USDT:USDT",
            "title": "BTC: long of $3.20M liquidated on Binance",
            "text": "A long of $3.20M was liquidated at 63,950 (binance:BTC/USDT:USDT).", "origin": "live",
            "quiet": False,
            "deliveries": [{"target": "discord", "outcome": "sent", "attempt": 1, "time_ms": 1795297556000}],
        }
    ],
    "next": "1795297555012-0",
}  # fmt: skip
_OK: Final = {"description": "JSON", "content": {_JSON: {"schema": {"type": "object"}, "example": _EXAMPLE}}}


def read_page(query: str) -> tuple[int, str | None]:
    """Read how many alerts are asked for, and before which one.

    Raises
    ------
    ViewError
    """
    given = read_parameters(query, paging.PAGING)
    cursor = given.get("cursor")
    if cursor is not None and not _ID.fullmatch(cursor):
        raise ViewError("cursor", cursor[:80], "what an earlier answer gave as `next`")
    return paging.read_limit(given, _DEFAULT, MAX_ALERTS), cursor


def alerts_json(cache: Cache, limit: int, before: str | None = None) -> dict[str, Any]:
    """Tell the rules in force (null where no worker tells alerts) and a page of alerts, newest first. Blocks."""
    told = cache.alerts.recent(limit + 1, before)
    page = told[:limit]
    return {
        "as_of_ms": time.time_ns() // 1_000_000,
        "rules": cache.alerts.rules(),
        "alerts": [{n: a.get(n) for n in _KEPT} | {"deliveries": a["deliveries"]} for a in page],
        "next": page[-1]["id"] if len(told) > limit else None,
    }


def build_router(cache: Cache) -> APIRouter:
    """Build the route."""
    router, brief = APIRouter(), Brief()

    async def alerts(request: Request) -> Response:
        asked = read_page(request.url.query)

        async def make() -> paging.Page:
            told = await asyncio.to_thread(alerts_json, cache, *asked)
            return paging.Page(json.dumps(told, separators=(",", ":"), allow_nan=False).encode(), told["next"])

        return send(await brief.get(repr(asked), _JSON, make), request)

    router.add_api_route(
        "/api/v1/alerts", alerts, methods=["GET"], tags=["alerts"], response_class=Response,
        summary="Rules of alerts in force, and what they told, newest first, page by page, with what became of it.",
        responses={200: _OK, **ERRORS}, openapi_extra={"parameters": paging.described(MAX_ALERTS, _DEFAULT)},
    )  # fmt: skip
    return router
