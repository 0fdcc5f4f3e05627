"""Messages of a stream, taken on their way through ccxt before it reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from estimator.errors import VenueDown
from estimator.exchanges.clients import errors


class Tap:
    """The messages of one stream on their way from ccxt's receive loop to their reader."""

    def __init__(self, accepts: Callable[[Any], bool]) -> None:
        self.accepts = accepts
        self._waiting: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self.sockets: set[Any] = set()
        self._subscription: asyncio.Future[None] | None = None

    def offer(self, socket: Any, message: Any) -> bool:
        """Take a message if it is of this stream, and of the connection it has: the next may be another stream's."""
        if not self.accepts(message) or (self._subscription is not None and self._subscription.done()):
            return False
        self.sockets.add(socket)
        self._waiting.append(message)
        self._arrived.set()
        return True

    async def messages(self, subscription: asyncio.Future[None], silence_s: float) -> AsyncGenerator[Any, None]:
        """Yield messages until the subscription fails or nothing comes for `silence_s`; then raise."""
        self._subscription = subscription
        subscription.add_done_callback(lambda _: self._arrived.set())
        while True:
            if not self._waiting:
                await self._wait(subscription, silence_s)
            while self._waiting:
                yield self._waiting.popleft()
            self._arrived.clear()

    async def _wait(self, subscription: asyncio.Future[None], silence_s: float) -> None:
        if not subscription.done():
            try:
                async with asyncio.timeout(silence_s):
                    await self._arrived.wait()
            except TimeoutError:
                raise VenueDown(f"no message for {silence_s:g} s") from None
        if subscription.done() and not self._waiting:
            if subscription.cancelled():  # ccxt shares its futures: another stream has given one up
                raise VenueDown("the subscription was given up with another's")
            subscription.result()
            raise VenueDown("the subscription ended")

    def hang_up(self, client: Any, others: Iterable[Tap]) -> None:
        """Have ccxt forget the sockets of this stream, so that the next subscription opens new ones.

        Where nothing ever came, any socket may be its own but those on which other streams are heard.
        """
        heard = {socket for other in others for socket in other.sockets}
        for socket in self.sockets or {*client.clients.values()} - heard:
            if client.clients.get(socket.url) is socket:
                socket.on_error(errors.NetworkError("hung up"))
