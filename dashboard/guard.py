"""What may reach the application at all: bodies, sockets and addresses of files, checked before Dash.

Dash reads any body whole, answers what it cannot read with a 500 and prints it. Its callbacks run in the browser here:
whatever asks the server for one, or opens a socket, is no page of ours, and ends here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from dash.fingerprint import check_fingerprint
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY: Final = 64 << 10
CALLBACKS: Final = "/_dash-update-component"
SUITES: Final = "/_dash-component-suites/"
STREAM: Final = "/stream"  # the end of the addresses whose answers have none
_DRAWN: Final = ("/api/v1/", "/preview.png")  # nobody draws for a client that has left


class Guard:
    """Lets through what the application can answer. Pure ASGI.

    Parameters
    ----------
    app : ASGIApp
    files : mapping of str to collection of str
        Dash's registered files by package.
    """

    def __init__(self, app: ASGIApp, files: Mapping[str, Collection[str]]) -> None:
        self._app, self._files = app, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
        elif scope["type"] == "http":
            await self._serve_request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD") and _has_body(scope):
            await PlainTextResponse("400: no body is read here", 400)(scope, receive, send)
        elif path.startswith(SUITES) and not self._is_file(path):
            await PlainTextResponse("404: Not Found", 404)(scope, receive, send)
        elif path == CALLBACKS and scope["method"] == "POST":
            await PlainTextResponse("400: not a callback of this page", 400)(scope, receive, send)
        elif path.startswith(_DRAWN) and scope["method"] in ("GET", "HEAD") and not path.endswith(STREAM):
            await _serve_while_connected(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_file(self, path: str) -> bool:
        package, _, name = path.removeprefix(SUITES).partition("/")
        plain, _ = check_fingerprint(name)  # type: ignore[no-untyped-call]
        return package in self._files and plain in self._files[package]


async def _serve_while_connected(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request without a body, and stop when its client goes away."""
    answered = False

    async def note(message: Message) -> None:
        nonlocal answered
        answered = answered or (message["type"] == "http.response.body" and not message.get("more_body", False))
        await send(message)

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    serving = asyncio.create_task(_serve(app, scope, receive, note))
    leaving = asyncio.create_task(until_gone())
    try:
        await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not answered:
            serving.cancel()
        await asyncio.wait((serving,))
        if not serving.cancelled():
            serving.result()
    finally:
        serving.cancel()
        leaving.cancel()


async def _serve(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
