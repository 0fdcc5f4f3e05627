"""Answers that are given again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dashboard.answers import STATUS_AGE_S, Answers
from dashboard.hits import _MOST, MOST_BYTES, Hits
from estimator.cache import Cache
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve
from tests.dashboard.sample import fill_cache

CHART = "/api/v1/chart?symbol=BTC&range=24h"
VARYING = {"date", "content-length"}


class Inner:
    """An application that numbers its answers."""

    def __init__(self, status: int = 200) -> None:
        self.asked, self._status = 0, status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await Response(str(self.asked), self._status)(scope, receive, send)


async def _ask(hits: Hits, query: str = "", method: str = "GET", path: str = "/api/v1/chart", **headers: str) -> bytes:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": named}
    await hits(scope, receive, send)
    return bytes(said[-1]["body"])


def test_equal_requests_are_answered_once_while_the_markets_stand(cache: Cache) -> None:
    async def scene() -> None:
        answers, inner = Answers(cache), Inner()
        hits = Hits(inner, answers)
        await answers.statuses()
        first = await _ask(hits, "symbol=BTC", accept="a", x_other="1")
        assert await _ask(hits, "symbol=BTC", accept="a", x_other="2") == first
        assert answers.served["memory"] == 1
        others = [
            await _ask(hits, "symbol=ETH", accept="a"),
            await _ask(hits, "symbol=BTC", accept="b"),
            await _ask(hits, "symbol=BTC", accept="a", accept_encoding="gzip"),
            await _ask(hits, "symbol=BTC", accept="a", if_none_match='"x"'),
            await _ask(hits, "symbol=BTC", accept="a", path="/api/v1/map"),
        ]
        assert len({first, *others}) == 6
        await asyncio.sleep(STATUS_AGE_S)
        assert await _ask(hits, "symbol=BTC", accept="a") not in {first, *others}
        await cache.aclose()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "HEAD"}, 200),
        ({"method": "POST"}, 200),
        ({"path": "/api/v1/markets"}, 200),
        ({"content_length": "3"}, 200),
        ({}, 422),
        ({}, 503),
    ],
)
def test_nothing_else_is_given_again(cache: Cache, request_: dict[str, str], status: int) -> None:
    async def scene() -> None:
        answers, inner = Answers(cache), Inner(status)
        hits = Hits(inner, answers)
        await answers.statuses()
        for _ in range(3):
            await _ask(hits, **request_)
        assert inner.asked == 3
        await cache.aclose()

    asyncio.run(scene())


def test_an_answer_that_comes_in_parts_is_not_given_again(cache: Cache) -> None:
    asked = 0

    async def inner(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part, more in ((b"first", True), (b"last", False)):
            await send({"type": "http.response.body", "body": part, "more_body": more})

    async def scene() -> None:
        answers = Answers(cache)
        hits = Hits(inner, answers)
        await answers.statuses()
        for _ in range(2):
            await _ask(hits)
        assert asked == 2
        await cache.aclose()

    asyncio.run(scene())


def test_made_up_queries_do_not_fill_the_memory(cache: Cache) -> None:
    async def scene() -> None:
        answers = Answers(cache)
        hits = Hits(Inner(), answers)
        for number in range(3 * _MOST):
            await answers.statuses()
            await _ask(hits, f"symbol=BTC&n={number}")
        assert len(hits._kept) <= _MOST
        await answers.statuses()
        for number in range(24):
            await _ask(hits, "symbol=BTC", accept=f"a/{number}".ljust(1 << 20))
        assert sum(len(repr(key)) for key in hits._kept) <= MOST_BYTES
        await cache.aclose()

    asyncio.run(scene())


def test_an_answer_given_again_is_the_answer(client: httpx.Client) -> None:
    def ask(**headers: str) -> tuple[int, dict[str, str], bytes]:
        answer = client.get(CHART, headers=headers)
        return answer.status_code, {n: v for n, v in answer.headers.items() if n not in VARYING}, answer.content

    etag = client.get(CHART).headers["etag"]
    for headers in ({"Accept-Encoding": "gzip"}, {"Accept-Encoding": "identity"}, {"If-None-Match": etag}):
        first = ask(**headers)
        assert first[1]["content-security-policy"]
        assert all(ask(**headers) == first for _ in range(20))
    assert client.request("GET", CHART, content=b"x").status_code == 400
    assert client.head(CHART).content == b""


def test_a_market_that_moved_is_answered_anew(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        cache = Cache(server.url)
        fill_cache(cache, levels=(0,), coins=("BTC",))
        with serve(server.url) as client:
            before = client.get(CHART).headers["etag"]
            assert client.get(CHART).headers["etag"] == before
            status = cache.get_statuses()[0]
            cache.put_status(replace(status, version=status.version + 1, mark_price=status.mark_price * 1.001))
            end = time.monotonic() + 5
            while client.get(CHART).headers["etag"] == before:
                assert time.monotonic() < end
        cache.close()
