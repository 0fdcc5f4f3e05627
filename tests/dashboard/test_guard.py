"""What the server does with what no page sends."""

from __future__ import annotations

import socket

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dashboard.guard import MAX_BODY

POST = "/_dash-update-component"


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
