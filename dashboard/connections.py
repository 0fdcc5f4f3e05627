"""How long and how much a connection may send before it has asked, and how long it may not take what it asked for.

The server of HTTP bounds none of it. Without that a single client could fill the memory, by a head that never ends or
by answers it never reads, or hold all connections there may be by asking for nothing.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 << 10  # bytes beside the body: address, headers, trailers
REQUEST_S: Final = 20.0  # in which a request has to be told
TAKE_S: Final = 120.0  # who takes nothing for so long is gone; of slow ones the system tells only now and then


class Connection(HttpToolsProtocol):
    """A connection that is ended where it sends too much or too slowly, or takes nothing."""

    request_s, take_s = REQUEST_S, TAKE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._beside = 0  # bytes of the request under way that are no body
        self._late: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._untaken = math.inf  # bytes, at the last look

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._cancel()
        super().connection_lost(exc)

    # --- what comes

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends."""
        self._beside += len(data)
        super().data_received(data)
        if self._late is None and self._beside:
            self._await_request()
        elif self._late is not None and not self._beside:
            self._late.cancel()
            self._late = None
        if self._beside > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_body(self, body: bytes) -> None:
        """Leave bodies to whoever reads them."""
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        self._beside = 0
        super().on_message_complete()

    def _await_request(self) -> None:
        self._late = self.loop.call_later(self.request_s, self.transport.abort)

    # --- what goes

    def pause_writing(self) -> None:
        """Note that the client takes less than there is for it."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Note that the client takes what there is."""
        super().resume_writing()
        self._untaken = math.inf

    def on_response_complete(self) -> None:
        """Watch what is left of an answer, for nobody else does."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch()

    def _watch(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._untaken = self.transport.get_write_buffer_size()
        self._look = self.loop.call_later(self.take_s, self._compare)

    def _compare(self) -> None:
        """End the connection where nothing was taken since the last look; go on where something was."""
        self._look = None
        waiting = self.transport.get_write_buffer_size()
        if 0 < waiting >= self._untaken:
            self.transport.abort()
        elif waiting:
            self._watch()

    def _cancel(self) -> None:
        for timer in (self._late, self._look):
            if timer is not None:
                timer.cancel()
