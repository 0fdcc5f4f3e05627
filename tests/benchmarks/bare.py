"""The least a server can do: a Starlette route that answers with the bytes of one Redis key."""

from __future__ import annotations

import os

import redis.asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.benchmarks.server import BARE_KEY

_client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])


async def answer(_request: Request) -> Response:
    """Send the bytes as they are stored."""
    return Response(await _client.get(BARE_KEY), media_type="application/json", headers={"Content-Encoding": "gzip"})


app = Starlette(routes=[Route("/bytes", answer)])
