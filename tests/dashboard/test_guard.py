"""What the server does with what no page sends."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from dashboard.guard import MAX_BODY, MAX_WATCHES

POST = "/_dash-update-component"


@contextmanager
def _socket(client: httpx.Client, origin: str | None = None) -> Iterator[ClientConnection]:
    host = f"{client.base_url.host}:{client.base_url.port}"
    headers = {"Origin": f"http://{host}" if origin is None else origin}
    with connect(f"ws://{host}/_dash-ws-callback", additional_headers=headers, proxy=None) as opened:
        yield opened


def _request(client: httpx.Client, page: str = "p", symbol: str = "BTC") -> dict[str, Any]:
    ours = [d for d in client.get("/_dash-dependencies").json() if d["inputs"][0]["id"] == "watch"]
    value = {"page": page, "turn": 1, "symbol": symbol}
    inputs = [{"id": "watch", "property": "data", "value": value}]
    return {"output": ours[0]["output"], "outputs": [], "inputs": inputs, "changedPropIds": ["watch.data"]}


def _message(payload: dict[str, Any], number: int = 0) -> str:
    return json.dumps(
        {"type": "callback_request", "rendererId": "r", "requestId": f"r-{number}", "payload": payload},
    )


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
        assert raw.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 405")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"output":"nope","inputs":[{"id":"a","property":"b"}]}',
        b"[" * 60_000,
        b"\xff",
    ],
)
def test_junk_for_a_callback_is_a_bad_request(client: httpx.Client, body: bytes) -> None:
    assert client.post(POST, content=body, headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize(
    "watch",
    [
        {"page": "p" * 65, "turn": 1, "symbol": "BTC"},
        {"page": "p", "turn": 1, "symbol": "BTC/USDT"},
        {"page": "p", "turn": 1, "symbol": "X" * 21},
        {"page": "p", "turn": "1", "symbol": "BTC"},
        {"page": "p"},
        7,
    ],
)
def test_a_malformed_watch_is_a_bad_request(client: httpx.Client, watch: object) -> None:
    body = _request(client)
    body["inputs"][0]["value"] = watch
    assert client.post(POST, json=body).status_code == 400


def test_the_page_may_ask_without_a_socket(client: httpx.Client) -> None:
    assert client.post(POST, json=_request(client)).is_success


@pytest.mark.parametrize(
    "path", ["dash/nope.js", "dash/../dash.py", "dash/..%2f..%2fetc%2fpasswd", "nope/a.js", "dash/", "dash/%00", "dash"]
)
def test_a_component_file_there_is_not_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get("/_dash-component-suites/" + path).status_code == 404


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "nonsense", "http://elsewhere.example"])
def test_a_socket_of_another_or_a_malformed_origin_is_forbidden(client: httpx.Client, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused, _socket(client, origin):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "said",
    [
        "x\nERROR forged line",
        "[]",
        "7",
        b"\x00\xff",
        '{"type":"nope"}',
        '{"type":"callback_request","payload":{"output":"nope"}}',
        "[" * 5000,
    ],
)
def test_an_unreadable_message_ends_the_socket_with_one_line(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], said: str | bytes
) -> None:
    with caplog.at_level(logging.WARNING), _socket(client) as opened:
        opened.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            opened.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003
    ours = [r.getMessage() for r in caplog.records if r.name == "dashboard.guard"]
    assert len(ours) == 1
    assert "\n" not in ours[0]
    assert len(ours[0]) < 300
    assert "Traceback" not in "".join(capfd.readouterr())


def _answers(opened: ClientConnection, seconds: float) -> dict[str, int]:
    """Answers (set_props and responses) by kind until nothing comes for a while."""
    seen: dict[str, int] = {}
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            message = json.loads(opened.recv(timeout=left))
        except TimeoutError:
            break
        for part in message if isinstance(message, list) else [message]:
            seen[part["type"]] = seen.get(part["type"], 0) + 1
    return seen


def test_one_more_watch_than_a_socket_may_have_ends_the_oldest(client: httpx.Client) -> None:
    more = 30
    with _socket(client) as opened:
        for number in range(MAX_WATCHES + more):
            opened.send(_message(_request(client, page=f"p{number}", symbol="NONE"), number))
        # Those ended are answered; the others wait for news of their coin.
        assert _answers(opened, 1.5) == {"callback_response": more}
        opened.send('{"type":"heartbeat"}')
        assert _answers(opened, 0.5) == {"heartbeat_ack": 1}
