"""What the server does with what no page sends."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time

import httpx
import numpy as np
import pytest
import uvicorn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dashboard.connections import MAX_HEAD, Connection
from dashboard.guard import MAX_BODY
from dashboard.unpacked import PIECE, unpacked
from tests.dashboard.conftest import listen

POST = "/_dash-update-component"


def _open(client: httpx.Client, buffer: int | None = None) -> socket.socket:
    raw = socket.socket()
    raw.settimeout(20)
    if buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.connect((client.base_url.host, client.base_url.port or 80))
    return raw


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 2 * MAX_HEAD,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * (MAX_HEAD // 16),
        b"POST /api/v1/source HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 2 * MAX_HEAD,
    ],
)
def test_a_head_that_does_not_end_is_cut_off(client: httpx.Client, head: bytes) -> None:
    with _open(client) as raw:
        raw.sendall(head)
        assert raw.recv(12) == b"HTTP/1.1 400"


def test_requests_one_after_another_may_be_as_many_as_one_likes(client: httpx.Client) -> None:
    with _open(client) as raw:
        for _ in range(40):
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (MAX_HEAD // 16) + b"\r\n\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "begun", [b"", b"GET /hea", b"POST /api/v1/source HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"]
)
def test_who_connects_and_asks_nothing_is_let_go(
    client: httpx.Client, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "request_s", 0.3)
    with _open(client) as raw:
        raw.sendall(begun)
        assert _rest(raw)[:12] in (b"", b"HTTP/1.1 400")


def test_who_takes_nothing_of_an_answer_is_let_go_and_who_takes_it_slowly_gets_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Connection, "take_s", 2.0)
    answer = unpacked(gzip.compress(bytes(12 << 20), 1), "text/csv", {})
    site = uvicorn.Config(answer, http=Connection, lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
    with listen(site) as client, _open(client, 1 << 16) as idle, _open(client, 1 << 16) as slow:
        for one in (idle, slow):
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        taken = 0
        while part := slow.recv(1 << 16):
            taken += len(part)
            time.sleep(0.02)
        assert taken > 12 << 20
        assert sum(map(len, iter(lambda: _rest(idle), b""))) < 12 << 20


def _rest(raw: socket.socket) -> bytes:
    try:
        return raw.recv(1 << 20)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("size", [0, PIECE, PIECE + 1, 3 * PIECE + 7])
@pytest.mark.parametrize("values", [2, 256])
def test_unpacked_is_what_was_packed(size: int, values: int) -> None:
    body = np.random.default_rng(1).integers(0, values, size, np.uint8).tobytes()
    answer = unpacked(gzip.compress(body, 1), "text/csv", {})
    site = httpx.ASGITransport(answer)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=site, base_url="http://a") as one:
            return await one.get("/")

    told = asyncio.run(ask())
    assert told.content == body
    assert told.headers["content-length"] == str(size)


def test_what_is_packed_by_half_ends_as_an_error_and_not_never() -> None:
    packed = gzip.compress(np.random.default_rng(1).bytes(3 * PIECE), 1)
    site = httpx.ASGITransport(unpacked(packed[: 2 * PIECE] + packed[-4:], "text/csv", {}))

    async def ask() -> None:
        async with asyncio.timeout(10), httpx.AsyncClient(transport=site, base_url="http://a") as one:
            await one.get("/")

    with pytest.raises(EOFError):
        asyncio.run(ask())


def test_a_get_with_a_body_is_refused_unread(client: httpx.Client) -> None:
    for path in ("/", "/_dash-layout", "/api/v1/markets"):
        answer = client.request("GET", path, json={"a": 1})
        assert answer.status_code == 400


@pytest.mark.parametrize("path", [POST, "/_dash-layout"])
@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 9000000000", b"["),
        ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (MAX_BODY + 1, b"[" * (MAX_BODY + 1))),
    ],
)
def test_a_large_body_is_refused_before_it_has_come(client: httpx.Client, path: str, header: str, body: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as raw:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{header}\r\n\r\n"
        raw.sendall(head.encode() + body)
        assert raw.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 405", b"HTTP/1.1 400")


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[" * 60_000, b"\xff", b'{"output":"a.b","inputs":[]}'])
def test_the_server_has_no_callback(client: httpx.Client, body: bytes) -> None:
    assert client.post(POST, content=body, headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize(
    "path", ["dash/nope.js", "dash/../dash.py", "dash/..%2f..%2fetc%2fpasswd", "nope/a.js", "dash/", "dash/%00", "dash"]
)
def test_a_component_file_there_is_not_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get("/_dash-component-suites/" + path).status_code == 404


@pytest.mark.parametrize("path", ["/_dash-ws-callback", "/", "/api/v1/stream"])
def test_nobody_opens_a_socket(client: httpx.Client, path: str) -> None:
    host = f"{client.base_url.host}:{client.base_url.port}"
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"ws://{host}{path}", additional_headers={"Origin": f"http://{host}"}, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403
