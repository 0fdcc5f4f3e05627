"""What may reach the application at all: bodies, messages of sockets and addresses of files, checked before Dash.

Dash reads any body whole, answers what it cannot read with a 500 and prints it. Everything the page sends has one
shape; `CallbackRequest` and `SocketMessage` are that shape, and anything else ends here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from dash.fingerprint import check_fingerprint
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

MAX_BODY: Final = 64 << 10
MAX_WATCHES: Final = 8  # per socket; a browser has one socket for all its pages
SEND_S: Final = 20.0  # a client that takes longer to read a message is let go
CALLBACKS: Final = "/_dash-update-component"
SUITES: Final = "/_dash-component-suites/"
_DRAWN: Final = ("/api/v1/", "/preview.png")  # nobody draws for a client that has left
_UNREADABLE: Final = 1003


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Watch(_Shape):
    """What a page asks to be told: changes of a coin."""

    page: str = Field(max_length=64)
    turn: int = Field(ge=0, le=2**53)
    symbol: str = Field(pattern=r"^[A-Za-z0-9]{1,20}$")


class _Input(_Shape):
    id: str = Field(max_length=64)
    property: str = Field(max_length=64)
    value: Watch | None = None


class CallbackRequest(_Shape):
    """The one callback of the server, as Dash's renderer asks for it."""

    output: str = Field(max_length=200)
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    changedPropIds: list[Annotated[str, Field(max_length=129)]] = Field(default=[], max_length=1)  # noqa: N815


class _CallbackMessage(_Shape):
    type: Literal["callback_request"]
    rendererId: str = Field(max_length=100)  # noqa: N815 - the renderer's names
    requestId: str = Field(max_length=200)  # noqa: N815
    payload: CallbackRequest


class _Heartbeat(_Shape):
    type: Literal["heartbeat"]


SocketMessage: Final[TypeAdapter[_CallbackMessage | _Heartbeat]] = TypeAdapter(
    Annotated[_CallbackMessage | _Heartbeat, Field(discriminator="type")]
)


class Watches:
    """The watches of one socket, at most `MAX_WATCHES`: one more ends the oldest."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, asyncio.Task[object] | None] = OrderedDict()

    def begin(self, page: str) -> None:
        """Make the running task the watch of a page and cancel the one it had."""
        ended = [self._tasks.pop(page, None)]
        self._tasks[page] = asyncio.current_task()
        if len(self._tasks) > MAX_WATCHES:
            ended.append(self._tasks.popitem(last=False)[1])
        for task in ended:
            if task is not None:
                task.cancel()

    def has(self, page: str) -> bool:
        """Whether the running task is still the watch of a page."""
        return page in self._tasks and self._tasks[page] is asyncio.current_task()

    def end(self, page: str) -> None:
        """Forget the running task."""
        if self.has(page):
            del self._tasks[page]

    def __len__(self) -> int:
        return len(self._tasks)


WATCHES: Final[ContextVar[Watches]] = ContextVar("watches")


class Guard:
    """Lets through what the application can answer. Pure ASGI.

    Parameters
    ----------
    app : ASGIApp
    outputs : collection of str
        Names of the callbacks the server answers.
    files : mapping of str to collection of str
        Dash's registered files by package.
    """

    def __init__(self, app: ASGIApp, outputs: Collection[str], files: Mapping[str, Collection[str]]) -> None:
        self._app, self._outputs, self._files = app, outputs, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket, or refuse it."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
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
            await self._serve_callback(scope, receive, send)
        elif path.startswith(_DRAWN) and scope["method"] in ("GET", "HEAD"):
            await _serve_while_connected(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve_callback(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = CallbackRequest.model_validate_json(await _read(receive))
        except ValidationError:
            request = None
        if request is None or request.output not in self._outputs:
            await PlainTextResponse("400: not a callback of this page", 400)(scope, receive, send)
            return
        body = request.model_dump_json().encode()
        kept = [h for h in scope["headers"] if h[0] not in (b"content-type", b"content-length", b"transfer-encoding")]
        headers = [*kept, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._app({**scope, "headers": headers}, _Replay(body, receive), send)

    def _is_file(self, path: str) -> bool:
        package, _, name = path.removeprefix(SUITES).partition("/")
        plain, _ = check_fingerprint(name)  # type: ignore[no-untyped-call]
        return package in self._files and plain in self._files[package]

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_sound_origin(scope):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
            return
        WATCHES.set(Watches())
        await _Socket(self._outputs, receive, send).serve(self._app, scope)


class _Socket:
    """One socket: unreadable messages end it, and a client that does not read is not listened to."""

    def __init__(self, outputs: Collection[str], receive: Receive, send: Send) -> None:
        self._outputs, self._receive, self._send = outputs, receive, send
        self._sent = asyncio.Event()
        self._sent.set()
        self._ended = False
        self._task: asyncio.Task[object] | None = None

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        self._task = asyncio.current_task()
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._ended:
                raise

    async def receive(self) -> Message:
        await self._sent.wait()
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return message
        text = self._read(message)
        if text is not None:
            return {"type": "websocket.receive", "text": text}
        self._ended = True
        await self._send({"type": "websocket.close", "code": _UNREADABLE})
        return {"type": "websocket.disconnect", "code": _UNREADABLE}

    async def send(self, message: Message) -> None:
        if self._ended:
            return
        self._sent.clear()
        try:
            await asyncio.wait_for(self._send(message), SEND_S)
        except TimeoutError:
            self._ended = True
            if self._task is not None:
                self._task.cancel()
        finally:
            self._sent.set()

    def _read(self, message: Message) -> str | None:
        """Spell a message anew, so that Dash sees nothing but what was checked."""
        said = message.get("text")
        if said is None:
            said = message.get("bytes") or b""
        try:
            found = SocketMessage.validate_json(said)
        except ValidationError:
            found = None
        if found is None or (isinstance(found, _CallbackMessage) and found.payload.output not in self._outputs):
            _log.warning("a socket said what no page says and was closed: %.200r", said)
            return None
        return found.model_dump_json()


class _Replay:
    """Hands out a body that was read already, then what follows it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(receive: Receive) -> bytes:
    """Whole body; the application's own limit on bodies (`MAX_BODY`) ends it."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


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


def _is_sound_origin(scope: Scope) -> bool:
    """Whether Dash can read the Origin, to compare it with the host."""
    try:
        return bool(urlsplit(dict(scope["headers"]).get(b"origin", b"").decode("ascii")).netloc)
    except ValueError:
        return False
