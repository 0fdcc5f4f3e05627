"""A venue server on loopback: HTTP and WebSocket, in the wire formats of the venues, fed by `tests.venues.feed`.

Every host of a venue is a folder: ``/fapi.binance.com/fapi/v1/klines``. A venue is one module
``tests.venues.wire_NAME`` with an object ``WIRE`` (see `VenueWire`).

By hand: ``python -m tests.venues.server --port 9000``, with a clock that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email.utils
import importlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from estimator.domain import Liquidation, Side
from tests.venues.faults import Fault, Faults
from tests.venues.feed import STEP_MS, CandleTick, Event, Feed, Print

VENUES = ("binance", "bybit", "okx", "gate", "bitget", "hyperliquid")
Json = Any


class RefusedError(Exception):
    """A venue's own way to say no, e.g. an unknown symbol."""

    def __init__(self, status: int, payload: Json) -> None:
        super().__init__(status, payload)
        self.status, self.payload = status, payload


@dataclass(frozen=True)
class Call:
    """A request: `host` and `path` as the venue's client meant them; `body` is parsed JSON of a POST."""

    host: str
    path: str
    query: dict[str, str]
    body: Json = None

    def integer(self, name: str, default: int) -> int:
        """Return a whole number of the query."""
        return int(self.query.get(name) or default)


@dataclass(eq=False)
class Session:
    """A socket of a client: what it subscribed to, in the venue's own words."""

    host: str
    path: str
    subscriptions: set[str] = field(default_factory=set)
    notes: dict[str, Any] = field(default_factory=dict)
    outgoing: asyncio.Queue[Json | Print] = field(default_factory=asyncio.Queue)  # a print follows its messages
    over: bool = False


class VenueWire(Protocol):
    """The wire format of one venue."""

    venue: str  # as in `FeedMarket.venue`
    hosts: tuple[str, ...]

    def answer(self, call: Call, feed: Feed) -> Json:
        """Answer a REST request; KeyError for an unknown path, RefusedError for the venue's own errors."""
        ...

    def hear(self, session: Session, message: Json, feed: Feed) -> list[Json]:
        """Take a client's message (JSON, or text that is none, e.g. "ping"); return the replies."""
        ...

    def push(self, session: Session, event: Event) -> list[Json]:
        """Return what a market event looks like to this session (nothing where it did not subscribe)."""
        ...


class VenueServer:
    """All venues that have a wire, on one port.

    Attributes
    ----------
    base : str
        What to give as ``exchange_base``.
    faults : dict
        `Faults` by venue.
    calls : list of Call
        Every request so far.
    sessions : list of Session
        The sockets open now.
    delisted : set of (venue, coin)
        What is not traded for now.
    delivered : dict
        Prints that were sent whole to somebody who had subscribed, by venue, coin and ordinal.
    halted : dict
        Prints of a market while it was delisted, which a real venue would not have had.
    """

    def __init__(self, feed: Feed, wires: dict[str, VenueWire] | None = None) -> None:
        self.feed = feed
        self.wires = _wires() if wires is None else wires
        self.faults = {venue: Faults() for venue in self.wires}
        self.calls: list[Call] = []
        self.sessions: list[Session] = []
        self.delisted: set[tuple[str, str]] = set()
        self.delivered: dict[tuple[str, str, int], Liquidation] = {}
        self.halted: dict[tuple[str, str, int], Liquidation] = {}
        self.base = ""
        self._by_host = {host: wire for wire in self.wires.values() for host in wire.hosts}
        self._sockets: dict[Session, WebSocket] = {}
        feed.listeners.append(self._tell)
        path = "/{host}/{path:path}"
        self.app = Starlette(
            routes=[Route(path, self._http, methods=["GET", "POST"]), WebSocketRoute(path, self._websocket)]
        )

    async def _http(self, request: Request) -> Response:
        wire = self._by_host.get(request.path_params["host"])
        if wire is None:
            return Response("no such host", 404)
        body = await request.body()
        path = "/" + request.path_params["path"]
        call = Call(request.path_params["host"], path, dict(request.query_params), json.loads(body) if body else None)
        self.calls.append(call)
        fault = self.faults[wire.venue].next_for(path) or Fault()
        await asyncio.sleep(fault.latency_s)
        if fault.status is not None:
            return Response(fault.body or "{}", fault.status, fault.headers, "application/json")
        answer = self._answer(wire, call, fault)
        # The clock of the feed is the clock of the venue.
        answer.headers["date"] = email.utils.formatdate(self.feed.now_ms / 1000, usegmt=True)
        return answer

    def _answer(self, wire: VenueWire, call: Call, fault: Fault) -> Response:
        status = 200
        try:
            payload = wire.answer(call, self._listed(wire.venue))
        except RefusedError as refused:
            status, payload = refused.status, refused.payload
        except KeyError as unknown:
            return Response(f"no such path or market: {unknown}", 404)
        said = json.dumps(payload if fault.edit is None else fault.edit(payload))
        if fault.drop:
            return StreamingResponse(_cut(said), status, {"content-length": str(len(said))}, "application/json")
        cut = len(said) if fault.cut_at is None else int(len(said) * fault.cut_at)
        return Response(said[:cut], status, fault.headers, "application/json")

    async def _websocket(self, websocket: WebSocket) -> None:
        wire = self._by_host.get(websocket.path_params["host"])
        if wire is None or self.faults[wire.venue].refuse_sockets:
            await websocket.close()
            return
        await websocket.accept()
        session = Session(websocket.path_params["host"], "/" + websocket.path_params["path"])
        self.sessions.append(session)
        self._sockets[session] = websocket
        sender = asyncio.create_task(self._send(websocket, session))
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                for reply in wire.hear(session, _parsed(await websocket.receive_text()), self._listed(wire.venue)):
                    session.outgoing.put_nowait(reply)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await sender
        self.sessions.remove(session)
        del self._sockets[session]

    def _listed(self, venue: str) -> Feed:
        """Return the market as far as a venue trades it."""
        gone = {coin for where, coin in self.delisted if where == venue}
        return self.feed.without(gone) if gone else self.feed

    async def _tell(self, event: Event) -> None:
        where = (event.market.venue, event.market.coin)
        if isinstance(event, Print) and where in self.delisted:
            self.halted[(*where, event.ordinal)] = event.liquidation
        for session in list(self.sessions):
            wire = self._by_host[session.host]
            faults = self.faults[wire.venue]
            if wire.venue != event.market.venue or faults.silent or where in self.delisted:
                continue
            messages = wire.push(session, event)
            sent = faults.rewritten(session, messages)
            for message in sent:
                session.outgoing.put_nowait(message)
            if isinstance(event, Print) and messages and all(any(m is one for one in sent) for m in messages):
                session.outgoing.put_nowait(event)

    async def _send(self, websocket: WebSocket, session: Session) -> None:
        while True:
            said = await session.outgoing.get()
            if session.over:
                continue
            if isinstance(said, Print):
                self.delivered[said.market.venue, said.market.coin, said.ordinal] = said.liquidation
            else:
                await websocket.send_text(said if isinstance(said, str) else json.dumps(said))

    async def drop_sockets(self, venue: str) -> None:
        """Cut every socket of a venue; from this call on nothing more is sent on any of them."""
        over = [session for session in self.sessions if self._by_host[session.host].venue == venue]
        for session in over:
            session.over = True
        for session in over:
            with contextlib.suppress(KeyError, RuntimeError, WebSocketDisconnect):  # the client was faster
                await self._sockets[session].close(1012)

    async def subscribed(self, venue: str, count: int, timeout_s: float = 5.0) -> None:
        """Wait until the sockets of a venue hold `count` subscriptions or more."""
        async with asyncio.timeout(timeout_s):
            while self._subscriptions(venue) < count:  # noqa: ASYNC110 - no event of the server says so
                await asyncio.sleep(0.005)

    def hears(self, venue: str, coin: str, *, prints: bool) -> bool:
        """Whether somebody would now be told of a candle, or a print, of a coin."""
        market, now_ms = self.feed.market(venue, coin), self.feed.now_ms
        candle = CandleTick(market, market.candle(now_ms - 1), closed=False, time_ms=now_ms)
        price = market.price(now_ms - 1)
        event = Print(market, Liquidation(now_ms, Side.LONG, price, 1.0, price), 0) if prints else candle
        wire = self.wires[venue]
        return any(wire.push(session, event) for session in self.sessions if self._by_host[session.host] is wire)

    def _subscriptions(self, venue: str) -> int:
        return sum(len(s.subscriptions) for s in self.sessions if self._by_host[s.host].venue == venue)


@contextlib.asynccontextmanager
async def running(feed: Feed, wires: dict[str, VenueWire] | None = None, port: int = 0) -> AsyncIterator[VenueServer]:
    """Serve on a free port of loopback until the block ends."""
    server = VenueServer(feed, wires)
    listener = socket.create_server(("127.0.0.1", port))
    server.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        server.app,
        log_level="critical",
        lifespan="off",
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
        date_header=False,
    )
    serving = _Quiet(config)
    task = asyncio.create_task(serving.serve([listener]))
    try:
        while not serving.started:  # noqa: ASYNC110 - uvicorn offers a flag only
            await asyncio.sleep(0.005)
        yield server
    finally:
        serving.should_exit = True
        await task
        listener.close()


class _Quiet(uvicorn.Server):
    """A server that leaves the signals of its process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _cut(said: str) -> AsyncIterator[bytes]:
    yield said[: len(said) // 2].encode()
    raise ConnectionResetError("cut on purpose")


def _parsed(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _wires() -> dict[str, VenueWire]:
    found: dict[str, VenueWire] = {}
    for venue in VENUES:
        with contextlib.suppress(ModuleNotFoundError):
            found[venue] = importlib.import_module(f"tests.venues.wire_{venue}").WIRE
    return found


async def _main(port: int, clock: Callable[[], int]) -> None:
    feed = Feed(clock(), days=31)
    async with running(feed, port=port) as server:
        print(f"{', '.join(server.wires)} at {server.base}")
        while True:
            await feed.advance(max(clock() - feed.now_ms, 0))
            await asyncio.sleep(STEP_MS / 10_000)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=9000)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(arguments.parse_args().port, lambda: time.time_ns() // 1_000_000))
