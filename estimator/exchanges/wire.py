"""The wire to a venue: one ccxt client, with limits, retries, errors of our own and raw messages.

ccxt knows the addresses, the signing and the subscriptions of venues; its unified answers drop fields that matter
here (taker-buy volume, whether a candle has closed), so endpoints are called by their implicit names and messages are
taken before ccxt parses them.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from estimator.domain import Gap
from estimator.errors import (
    BadPayload,
    RateLimited,
    RegionBlocked,
    SourceError,
    UnknownMarket,
    VenueDown,
)
from estimator.exchanges.clients import client_class, errors
from estimator.exchanges.edge import Health, Line
from estimator.exchanges.taps import Tap
from estimator.exchanges.translate import Answer, translated
from estimator.exchanges.venue import RateLimit

_LOG: Final = logging.getLogger(__name__)

_DATE_STEP_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is tried.

    Parameters
    ----------
    attempts : int
    first_s, longest_s : float
        Scale and top of the exponential back-off, with full jitter. [s]
    obeyed_s : float
        A venue's "wait so long" up to this is waited for; a longer one is raised. [s]
    silence_s : float
        No stream that says nothing is waited for longer than this, whatever its venue allows. [s]
    """

    attempts: int = 5
    first_s: float = 0.5
    longest_s: float = 30.0
    obeyed_s: float = 60.0
    silence_s: float = math.inf


_answer: ContextVar[Answer | None] = ContextVar("_answer", default=None)


class Wire:
    """A ccxt client of one venue.

    Parameters
    ----------
    exchange_id : str
        ccxt's name, e.g. ``"binanceusdm"``.
    health : Health
        Where failures are counted; shared by the wires of a venue.
    exchange_base : str, optional
        Address under which every host of the venue is found as a folder, e.g. ``"http://127.0.0.1:9000"``.
    concurrent : int
        Requests in flight at once.
    limits : dict, optional
        Rate limit by the beginning of endpoint names, for limits that ccxt does not know; the longest match counts.
    options : dict, optional
        ccxt options of the venue.
    patience : Patience
    timeout_s : float
        Of one request. [s]
    throttle : bool
        Whether requests are spaced by the venue's documented weights and `limits`; off only against a server of one's
        own.
    clock : callable, optional
        Time in ms, where it is not that of this machine put right by the venue's: a test's.
    """

    def __init__(
        self,
        exchange_id: str,
        health: Health,
        *,
        exchange_base: str | None = None,
        concurrent: int = 4,
        limits: Mapping[str, RateLimit] | None = None,
        options: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
        timeout_s: float = 10.0,
        throttle: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.health = health
        self.clock = clock
        self.patience = patience or Patience()
        self.client: Any = client_class(exchange_id)(
            {
                "enableRateLimit": throttle,
                "timeout": int(timeout_s * 1000),
                # Proxies and certificates are for the world, not for a server on this machine.
                "aiohttp_trust_env": exchange_base is None,
                "verify": exchange_base is None,
                "timeout_on_exit": 250 if exchange_base is None else 0,
                "enableLastHttpResponse": False,
                "enableLastResponseHeaders": False,
                "options": {"fetchCurrencies": False, **(options or {})},
            }
        )
        self.client.has["fetchCurrencies"] = False
        if exchange_base is None:
            self.client.ssl_context = _trusting(self.client.cafile)
        else:
            self.client.urls["api"] = _rebased(self.client.urls["api"], exchange_base.rstrip("/"))
        self._gate = asyncio.Semaphore(concurrent)
        # Half the rate, because a bucket that starts full lets twice its size through in its first period.
        self._limiters = {
            prefix: AsyncLimiter(max(limit.requests / 2, 1), limit.per_seconds)
            for prefix, limit in sorted((limits or {}).items(), key=lambda item: -len(item[0]))
            if throttle
        }
        self._ahead_ms = 0  # of the venue's clock against ours
        self._shut_until = 0.0  # monotonic seconds; a venue that says wait is not asked by anyone
        self._taps: list[Tap] = []
        self.client.ws_dial_delay = lambda _url: 0  # streams wait on their own before they try again
        self._pass_on = self.client.handle_message
        self.client.handle_message = self._on_message
        self._open_socket = self.client.client
        self.client.client = self._socket
        self._note_answer = self.client.on_rest_response
        self.client.on_rest_response = self._on_answer

    async def call(self, endpoint: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call an implicit ccxt method such as ``"fapiPublicGetKlines"`` and return its parsed JSON.

        Raises
        ------
        SourceError
            After retrying what is worth another try.
        """
        method = getattr(self.client, endpoint)
        return await self.attempt(endpoint, lambda: method(dict(params or {})))

    async def attempt(self, endpoint: str, request: Callable[[], Awaitable[Any]]) -> Any:
        """Run a request of the ccxt client with limits, retries and translated errors."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((RateLimited, VenueDown, BadPayload)),
            stop=stop_after_attempt(self.patience.attempts),
            wait=self._wait,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(self._once, endpoint, request)

    def now_ms(self) -> int:
        """Time at the venue, by the Date of its answers where that differs from the clock of this machine."""
        return self.clock() if self.clock is not None else _now_ms() + self._ahead_ms

    async def _once(self, endpoint: str, request: Callable[[], Awaitable[Any]]) -> Any:
        async with self._gate:
            await self._until_open(endpoint)
            limiter = next((one for prefix, one in self._limiters.items() if endpoint.startswith(prefix)), None)
            if limiter is not None:
                await limiter.acquire()
            _answer.set(None)
            try:
                payload = await request()
            except errors.BaseError as error:
                raise self._noted(translated(error, endpoint, _answer.get())) from error
            if not isinstance(payload, (dict, list)):
                raise self._noted(BadPayload(endpoint, "body", "not JSON, or cut short"))
            return payload

    async def _until_open(self, endpoint: str) -> None:
        wait = self._shut_until - time.monotonic()
        if wait > self.patience.obeyed_s:
            raise RateLimited(f"{endpoint}: the venue asked for a pause", wait)
        if wait > 0:
            await asyncio.sleep(wait)

    def _noted(self, error: SourceError) -> SourceError:
        self.health.errors[type(error).__name__] += 1
        if isinstance(error, RateLimited) and error.retry_after_s is not None:
            self._shut_until = max(self._shut_until, time.monotonic() + error.retry_after_s)
        return error

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after_s if isinstance(error, RateLimited) else None
        if asked is not None and asked > self.patience.obeyed_s:
            raise error  # type: ignore[misc]  # nobody waits that long inside a request
        jitter = wait_random_exponential(multiplier=self.patience.first_s, max=self.patience.longest_s)(state)
        return max(asked or 0.0, 0.0) + jitter

    def _on_answer(self, code: int, reason: str, url: str, method: str, headers: Any, *rest: Any) -> Any:
        answer = Answer(code, {str(k).lower(): str(v) for k, v in headers.items()})
        _answer.set(answer)
        with contextlib.suppress(KeyError, ValueError):
            theirs = int(email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
            ahead = theirs - _now_ms()
            # A Date has whole seconds; less than that is no news.
            self._ahead_ms = ahead if abs(ahead) > _DATE_STEP_MS else 0
        return self._note_answer(code, reason, url, method, headers, *rest)

    async def stream(
        self,
        name: str,
        subscribe: Callable[[], Awaitable[Any]],
        accepts: Callable[[Any], bool],
        *,
        silence_s: float = 60.0,
        lost: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield raw messages for ever, reconnecting as needed.

        Parameters
        ----------
        name : str
            What `health` calls the stream, e.g. ``"candles"``.
        subscribe : callable
            A ccxt ``watch_`` call; it is never answered, because accepted messages do not reach ccxt.
        accepts : callable
            Whether a parsed message is of this stream.
        silence_s : float
            Without any message for so long the connection is taken for dead. [s]
        lost : callable, optional
            Called when a connection was lost, before the next is made.

        Raises
        ------
        RegionBlocked, UnknownMarket
            Where trying again is of no use.
        """
        failures, seen_ms, silence_s = 0, self.now_ms(), min(silence_s, self.patience.silence_s)
        line = Line(name)
        self.health.unheard.add(line)
        while True:
            tap = Tap(accepts)
            self._taps.append(tap)
            subscription = asyncio.ensure_future(self._subscribed(name, subscribe))
            try:
                async for message in tap.messages(subscription, silence_s):
                    if failures:
                        self.health.gaps.append(Gap(seen_ms, self.now_ms(), name))
                    failures, seen_ms = 0, self.now_ms()
                    self.health.last_message_ms[name] = seen_ms
                    self.health.unheard.discard(line)
                    yield message
            except (RegionBlocked, UnknownMarket):
                raise
            except SourceError as error:
                failures += 1
                self._noted(error)
                self.health.reconnects[name] += 1
                self.health.unheard.add(line)
                if lost is not None:
                    lost()
                _LOG.info("%s %s: %s; connecting again", self.client.id, name, error)
            finally:
                self._taps.remove(tap)
                subscription.cancel()
                with contextlib.suppress(asyncio.CancelledError, SourceError):
                    await subscription
                tap.hang_up(self.client, self._taps)
            await asyncio.sleep(self._pause(failures))

    async def _subscribed(self, name: str, subscribe: Callable[[], Awaitable[Any]]) -> None:
        while True:
            try:
                await subscribe()
            except errors.BaseError as error:
                raise translated(error, name, None) from error
            await asyncio.sleep(0)

    def _pause(self, failures: int) -> float:
        wait = wait_random_exponential(multiplier=self.patience.first_s, max=self.patience.longest_s)
        state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = max(failures, 1)
        return wait(state)

    def _socket(self, url: str) -> Any:
        """Return ccxt's socket; whatever one message does to ccxt, the next is heard."""
        socket = self._open_socket(url)
        if "handle_text_or_binary_message" not in vars(socket):
            read = socket.handle_text_or_binary_message

            def guarded(data: Any) -> None:
                try:
                    read(data)
                except Exception as error:  # noqa: BLE001 - ccxt would stop to listen, silently
                    _LOG.warning("%s: a message that cannot be read: %s", self.client.id, error)
                    self.health.errors["BadPayload"] += 1

            socket.handle_text_or_binary_message = guarded
        return socket

    def _on_message(self, socket: Any, message: Any) -> Any:
        if self.client.clients.get(socket.url) is not socket:
            return None  # hung up: what it still has to say would be taken for the next one's
        taken = False
        for tap in self._taps:
            taken = tap.offer(socket, message) or taken
        return None if taken else self._pass_on(socket, message)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.close()


@cache
def _trusting(cafile: str) -> ssl.SSLContext:
    """Return one context for all clients, which would each make their own of a megabyte."""
    return ssl.create_default_context(cafile=cafile)


def _rebased(urls: Any, base: str) -> Any:
    """Move every address under one base, its host becoming a folder."""
    if isinstance(urls, dict):
        return {key: _rebased(value, base) for key, value in urls.items()}
    if not isinstance(urls, str) or "://" not in urls:
        return urls
    parts = urlsplit(urls)
    scheme = "ws" if parts.scheme.startswith("ws") else "http"
    host = parts.netloc.rsplit(":", 1)[0]
    return f"{scheme}://{base.split('://', 1)[1]}/{host}{parts.path}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
