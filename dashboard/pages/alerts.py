"""``/api/v1/alerts``: the rules in force and what they told lately, for the panel on the page and for browsers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from dashboard.api import ERRORS, send
from dashboard.pages.kept import Brief
from dashboard.view import ViewError, read_parameters
from estimator.cache import Cache
from estimator.cache.alerts import MAX_ALERTS

_JSON: Final = "application/json"
_DEFAULT: Final = 50
_KEPT: Final = ("id", "told_ms", "time_ms", "rule", "kind", "severity", "market", "title", "text", "origin", "quiet")
_LIMIT: Final = {
    "name": "limit", "in": "query", "required": False, "description": "Alerts at most, newest first.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ALERTS, "default": _DEFAULT},
}  # fmt: skip
_EXAMPLE: Final[dict[str, Any]] = {
    "as_of_ms": 1795297560000,
    "rules": [{"name": "print", "kind": "print", "when": "a liquidation is at least $1.00M"}],
    "alerts": [
        {
            "id": "1795297555012-0", "told_ms": 1795297555000, "time_ms": 1795297554120, "rule": "print",
            "kind": "print", "severity": "warning", "market": "binance:BTC/USDT:USDT",
            "title": "BTC: long of $3.20M liquidated on binance",
            "text": "A long of $3.20M was liquidated at 63,950 (binance:BTC/USDT:USDT).", "origin": "live",
            "quiet": False,
            "deliveries": [{"target": "discord", "outcome": "sent", "attempt": 1, "time_ms": 1795297556000}],
        }
    ],
}  # fmt: skip
_OK: Final = {"description": "JSON", "content": {_JSON: {"schema": {"type": "object"}, "example": _EXAMPLE}}}


def read_limit(query: str) -> int:
    """Read how many alerts are asked for.

    Raises
    ------
    ViewError
    """
    spelled = read_parameters(query, ("limit",)).get("limit", str(_DEFAULT))
    limit = int(spelled) if spelled.isascii() and spelled.isdigit() and len(spelled) < 5 else 0
    if not 1 <= limit <= MAX_ALERTS:
        raise ViewError("limit", spelled[:80], f"a whole number from 1 to {MAX_ALERTS}")
    return limit


def alerts_json(cache: Cache, limit: int) -> dict[str, Any]:
    """Tell the rules in force (null where no worker tells alerts) and the latest alerts. Blocks."""
    told = cache.alerts.recent(limit)
    return {
        "as_of_ms": time.time_ns() // 1_000_000,
        "rules": cache.alerts.rules(),
        "alerts": [{n: a.get(n) for n in _KEPT} | {"deliveries": a["deliveries"]} for a in told],
    }


def build_router(cache: Cache) -> APIRouter:
    """Build the route."""
    router, brief = APIRouter(), Brief()

    async def alerts(request: Request) -> Response:
        limit = read_limit(request.url.query)

        async def make() -> bytes:
            told = await asyncio.to_thread(alerts_json, cache, limit)
            return json.dumps(told, separators=(",", ":"), allow_nan=False).encode()

        return send(await brief.get(str(limit), _JSON, make), request)

    router.add_api_route(
        "/api/v1/alerts", alerts, methods=["GET"], tags=["alerts"], response_class=Response,
        summary="Rules of alerts in force, and the latest alerts with what became of them.",
        responses={200: _OK, **ERRORS}, openapi_extra={"parameters": [_LIMIT]},
    )  # fmt: skip
    return router
