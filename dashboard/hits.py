"""What was answered a moment ago, answered again before anything is parsed, routed or looked up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.answers import Answers
from estimator.cache import MarketStatus

PATHS: Final = frozenset({"/api/v1/chart", "/api/v1/heatmap", "/api/v1/map", "/preview.png"})
MOST_BYTES: Final = 16 << 20
_MOST: Final = 512  # answers
_CHOOSING: Final = frozenset({b"accept", b"accept-encoding", b"if-none-match"})  # headers that the answers heed
_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})

_Key = tuple[object, ...]


class Hits:
    """Repeats answers to equal requests for as long as the markets stand as they stood. Pure ASGI.

    Answers drawn from the statuses alone hold until the statuses are read again, a quarter of a second at most;
    `Answers` then says whether they still do. So nothing is decided here, and nothing outlives its market.

    Parameters
    ----------
    app : ASGIApp
    answers : Answers
        Tells from which statuses answers are drawn now.
    paths : collection of str
        Addresses whose answers hang on those statuses, the query and `_CHOOSING` alone.
    """

    def __init__(self, app: ASGIApp, answers: Answers, paths: Collection[str] = PATHS) -> None:
        self._app, self._answers, self._paths = app, answers, frozenset(paths)
        self._drawn_from: list[MarketStatus] | None = None
        self._kept: dict[_Key, tuple[Message, Message]] = {}
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, from what is kept where it can be."""
        key = self._key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        statuses = self._answers.current()
        if statuses is not self._drawn_from:
            self._drawn_from, self._kept, self._size = statuses, {}, 0
        kept = self._kept.get(key)
        if kept is None:
            await self._app(scope, receive, send if statuses is None else self._keeping(key, statuses, send))
            return
        self._answers.served["memory"] += 1
        for message in kept:
            await send(message)

    def _key(self, scope: Scope) -> _Key | None:
        """Name what the answer hangs on; None where it is not one of those kept here."""
        if scope["type"] != "http" or scope["path"] not in self._paths or scope["method"] != "GET":
            return None
        chosen = []
        for header in scope["headers"]:
            if header[0] in _BODY:
                return None
            if header[0] in _CHOOSING:
                chosen.append(header)
        return (scope["path"], scope["query_string"], *chosen)

    def _keeping(self, key: _Key, statuses: list[MarketStatus], send: Send) -> Send:
        start: Message | None = None

        async def keep(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message if message["status"] in (200, 304) else None
            elif message.get("more_body", False):
                start = None  # what comes in parts is not kept
            elif start is not None:
                self._keep(key, statuses, (start, message))
            await send(message)

        return keep

    def _keep(self, key: _Key, statuses: list[MarketStatus], answer: tuple[Message, Message]) -> None:
        # Statuses only ever go forward: those before the answer and those now being the same, it was drawn from them.
        if self._answers.current() is not statuses or self._drawn_from is not statuses:
            return
        size = len(answer[1].get("body", b"")) + len(repr(key))  # what it hangs on is as long as a client likes
        if len(self._kept) < _MOST and self._size + size <= MOST_BYTES:
            self._kept[key] = answer
            self._size += size
