"""How much one client may ask of the server: requests by kind and minute, streams at once, snapshots a day.

Each process counts what its clients ask and tells Redis in parts of a twentieth of a limit, so that a request costs a
look into a dict and all processes together let through at most a twentieth each more than the limit. Where Redis does
not answer, each process goes by its own count.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from enum import StrEnum
from functools import lru_cache
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.files import FILES
from dashboard.guard import STREAM
from estimator.cache.counters import Counters
from estimator.errors import CacheError, LiqheatError

MINUTE_S: Final = 60
DAY_S: Final = 86_400
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
COMPUTED: Final = frozenset(f"/api/v1/{name}" for name in ("clusters", "signals", "cascade", "position"))
_ANY: Final = 1 << 60  # requests: no limit
_PARTS: Final = 20  # of a limit: so often Redis is told of a client within a minute
_MOST_CLIENTS: Final = 50_000  # counted at once by kind; whoever came first is forgotten first
_TELL_S: Final = 1.0
_PAUSE_S: Final = 5.0  # Redis is left alone after it did not answer


class Kind(StrEnum):
    """What is asked for: what is mostly kept, what is worked out, what leaves something behind."""

    READS = "reads"
    COMPUTED = "computed"
    WRITES = "writes"

    __hash__ = str.__hash__  # an enumeration's own is slow, and is asked for several times a request


class TooMany(LiqheatError):
    """A client has asked for more than it may.

    Parameters
    ----------
    what : str
        Name of the limit.
    limit : int
    window_s : int
        In which so many are allowed. [s]
    retry_s : int
        When it may ask again. [s]
    """

    def __init__(self, what: str, limit: int, window_s: int, retry_s: int) -> None:
        super().__init__(f"too many {_WORDS[what]}: {limit} {_PER.get(window_s, 'at once')} from one address")
        self.what, self.retry_s = what, retry_s
        policy = (f'"{what}";q={limit};w={window_s}', f'"{what}";r=0;t={retry_s}')
        self.headers = {"Retry-After": str(retry_s), "RateLimit-Policy": policy[0], "RateLimit": policy[1]}

    def response(self) -> JSONResponse:
        """Say it, in the form of all errors of the API."""
        body = {"error": str(self), "limit": self.what, "retry_s": self.retry_s}
        return JSONResponse(body, 429, headers={**self.headers, "Cache-Control": "no-store"})


_WORDS: Final = {
    Kind.READS: "requests", Kind.COMPUTED: "requests to work something out",
    Kind.WRITES: "requests to change something",
    "snapshots": "snapshots", "streams": "streams",
}  # fmt: skip
_PER: Final = {MINUTE_S: "a minute", DAY_S: "a day"}


class _Tally:
    """One client's requests of a kind in this minute: how many are left, and how many Redis has not been told of."""

    __slots__ = ("left", "telling", "untold")

    def __init__(self, left: int) -> None:
        self.left, self.untold, self.telling = left, 0, False


class _Ledger:
    """The tallies of a kind in this minute."""

    __slots__ = ("kind", "limit", "part", "tallies")

    def __init__(self, kind: Kind, limit: int) -> None:
        self.kind, self.limit = kind, limit or _ANY
        self.part = max(1, limit // _PARTS) if limit else _ANY
        self.tallies: dict[str, _Tally] = {}

    def begin(self, client: str) -> _Tally:
        if len(self.tallies) >= _MOST_CLIENTS:
            del self.tallies[next(iter(self.tallies))]
        tally = self.tallies[client] = _Tally(self.limit)
        return tally


class Budgets:
    """What clients have asked for, held against what they may. One per process, for one event loop.

    Parameters
    ----------
    counters : Counters
    most : mapping of Kind to int
        Requests a minute of one client, all processes together; 0 for any number.
    snapshots : int
        A day, likewise.
    registry : CollectorRegistry
    """

    def __init__(
        self, counters: Counters, most: Mapping[Kind, int], snapshots: int, registry: CollectorRegistry
    ) -> None:
        self._counters, self._snapshots = counters, snapshots
        self._ledgers = {kind: _Ledger(kind, most[kind]) for kind in Kind}
        self._minute = 0
        self._ends = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0
        self.refused = prometheus_client.Counter(
            "liqheat_limits_refused", "Requests refused, by limit.", ("limit",), registry=registry
        )
        self._failures = prometheus_client.Counter(
            "liqheat_limits_failures", "Times Redis took no count: each process then goes by its own.",
            registry=registry,
        )  # fmt: skip

    def take(self, client: str, kind: Kind) -> int:
        """Count a request and return how many are left in this minute.

        Raises
        ------
        TooMany
        """
        if time.time() >= self._ends:
            self._turn()
        ledger = self._ledgers[kind]
        tally = ledger.tallies.get(client) or ledger.begin(client)
        if tally.left <= 0:
            self.refused.labels(kind).inc()
            raise TooMany(kind, ledger.limit, MINUTE_S, self.left_s())
        tally.left -= 1
        tally.untold += 1
        if tally.untold >= ledger.part and not tally.telling:
            self._tell(client, ledger, tally)
        return tally.left

    def left_s(self) -> int:
        """Seconds until the next minute begins, at least 1."""
        return MINUTE_S - int(time.time()) % MINUTE_S

    def _turn(self) -> None:
        self._minute = int(time.time()) // MINUTE_S
        self._ends = (self._minute + 1.0) * MINUTE_S
        for ledger in self._ledgers.values():
            ledger.tallies = {}

    def policy(self, kind: Kind, left: int) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that tell a client what it may; none where there is no limit."""
        limit = self._ledgers[kind].limit
        if limit == _ANY:
            return ()
        told = f'"{kind}";q={limit};w={MINUTE_S}', f'"{kind}";r={left};t={self.left_s()}'
        return (b"ratelimit-policy", told[0].encode()), (b"ratelimit", told[1].encode())

    async def take_snapshot(self, client: str) -> None:
        """Count a snapshot of this UTC day.

        Raises
        ------
        TooMany
        CacheError
            Without Redis there is nothing to freeze either.
        """
        if not self._snapshots:
            return
        now = int(time.time())
        made = await self._counters.add(f"snapshots/{client}/{now // DAY_S}", 1, DAY_S)
        if made > self._snapshots:
            self.refused.labels("snapshots").inc()
            raise TooMany("snapshots", self._snapshots, DAY_S, DAY_S - now % DAY_S)

    def _tell(self, client: str, ledger: _Ledger, tally: _Tally) -> None:
        if time.monotonic() < self._paused_until:
            return
        tally.telling = True
        name = f"{ledger.kind}/{client}/{self._minute}"
        task = asyncio.create_task(self._settle(name, ledger.limit, tally), name="limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, name: str, limit: int, tally: _Tally) -> None:
        part, tally.untold = tally.untold, 0
        try:
            async with asyncio.timeout(_TELL_S):
                known = await self._counters.add(name, part, 2 * MINUTE_S)
            tally.left = limit - known - tally.untold
        except (CacheError, TimeoutError):
            self._failures.inc()
            self._paused_until = time.monotonic() + _PAUSE_S
        finally:
            tally.telling = False


_ASKING: Final[ContextVar[tuple[Budgets, str] | None]] = ContextVar("asking", default=None)


def charge_drawing() -> None:
    """Count the drawing of a view nobody has drawn yet, or what takes as long, among what a client has worked out.

    Raises
    ------
    TooMany
    """
    asking = _ASKING.get()
    if asking is not None:
        asking[0].take(asking[1], Kind.COMPUTED)


class Limits:
    """Refuses what a client asks beyond its budget, before anything is done for it. Pure ASGI.

    Parameters
    ----------
    app : ASGIApp
    budgets : Budgets
    streams : int
        Streams that one client may hold of this process; 0 for any number.
    """

    def __init__(self, app: ASGIApp, budgets: Budgets, streams: int) -> None:
        self._app, self._budgets, self._streams = app, budgets, streams
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 429."""
        kind = _kind(scope)
        if kind is None:
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        try:
            left = self._budgets.take(client, kind)
            _ASKING.set((self._budgets, client))
            if scope["path"].endswith(STREAM):
                await self._serve_stream(client, scope, receive, send)
            elif kind is Kind.READS:  # nearly all, and answered within microseconds
                await self._app(scope, receive, send)
            else:
                await self._app(scope, receive, _with(self._budgets.policy(kind, left), send))
        except TooMany as error:
            await error.response()(scope, receive, send)

    async def _serve_stream(self, client: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams and self._open[client] >= self._streams:
            self._budgets.refused.labels("streams").inc()
            raise TooMany("streams", self._streams, 0, MINUTE_S)
        self._open[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


def client_of(scope: Scope) -> str:
    """Return who is asking: an IPv4 address, or the network of 64 bits an IPv6 address is in.

    The server has put the address there that a trusted proxy has named, and the socket's own where it trusts none.
    """
    client = scope.get("client")
    return "" if client is None else _network(client[0])


@lru_cache(4096)
def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def _kind(scope: Scope) -> Kind | None:
    """Return what a request counts as; None for what may be asked for without end."""
    if scope["type"] != "http":
        return None
    path: str = scope["path"]
    if scope["method"] == "POST":
        return Kind.WRITES
    if path in COMPUTED:
        return Kind.COMPUTED
    return None if path.startswith(FILES) or path in PROBES else Kind.READS


def _with(headers: tuple[tuple[bytes, bytes], ...], send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with_headers
