"""What moves on the page: the browser's own callbacks, and the one push from the server.

The address is the view. ``route`` keeps it and the controls in step, ``load`` fetches the chart of the view, and the
server pushes every change of a market down one WebSocket, so that price and age move at once and the chart follows.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any, Final, Protocol

from dash import ClientsideFunction, Dash, Input, Output, State, ctx

from dashboard.guard import WATCHES
from dashboard.layout import Id
from estimator.cache import Cache
from estimator.cache.attention import Attention

PUSH_INTERVAL_S: Final = 0.5
# Said at least this often, so that a page can tell a quiet market from a dead connection.
KEEP_ALIVE_S: Final = 5.0

# The controls that make the view, in the order of the arguments of ``route`` in static/view.js.
CONTROLS: Final = (
    (Id.SYMBOL, "value"),
    (Id.VENUES, "value"),
    (Id.RANGE, "value"),
    (Id.TIERS, "value"),
    (Id.SIDE, "value"),
    (Id.LENS, "value"),
    (Id.INTENSITY, "value"),
    (Id.PRICE_LOW, "value"),
    (Id.PRICE_HIGH, "value"),
    (Id.PANELS, "value"),
    (Id.PALETTE, "value"),
    (Id.THEME, "value"),
)


class Updates(Protocol):
    """The part of the cache this module uses."""

    def updates(self) -> Any:
        """Return an async iterator of the messages the worker publishes."""


class Pulse:
    """The latest message of every market, read once per process however many pages watch.

    Parameters
    ----------
    cache : Updates
    """

    def __init__(self, cache: Updates) -> None:
        self._cache = cache
        # By the coins of the worker's messages, and by those that somebody waits for: never by what was merely asked.
        self._latest: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._messages: Counter[str] = Counter()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._interruptions = 0
        self._reader: asyncio.Task[None] | None = None

    async def next(self, symbol: str, seen: int, timeout_s: float) -> tuple[int, list[dict[str, Any]]]:
        """Wait until there is something about a coin that the caller has not seen.

        Parameters
        ----------
        symbol : str
            Base coin.
        seen : int
            What the last call returned first, 0 before.
        timeout_s : float
            Longest wait. [s]

        Returns
        -------
        tuple of int and list of dict
            What to give as `seen` next time, and the latest message of each market; none after the timeout.
        """
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="pulse")
        if self._count(symbol) == seen and not await self._wait(symbol, timeout_s):
            return seen, []
        return self._count(symbol), list(self._latest[symbol].values()) if symbol in self._latest else []

    def knows(self, symbol: str) -> bool:
        """Whether anything has been said of a coin: what a page asks for need not exist."""
        return symbol in self._latest

    def _count(self, symbol: str) -> int:
        # A message about no one market (the subscription was interrupted) concerns every page.
        return self._messages[symbol] + self._interruptions

    async def _wait(self, symbol: str, timeout_s: float) -> bool:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(symbol, set()).add(told)
        try:
            await asyncio.wait_for(told, timeout_s)
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting.get(symbol, set())
            waiting.discard(told)
            if not waiting:
                self._waiting.pop(symbol, None)
        return True

    async def _read(self) -> None:
        async for message in self._cache.updates():
            market_id = str(message.get("market", ""))
            symbol = market_id.partition(":")[2].partition("/")[0]
            if symbol:
                self._latest[symbol][market_id] = message
                self._messages[symbol] += 1
            else:
                self._interruptions += 1
            for name in [symbol] if symbol else list(self._waiting):
                for told in self._waiting.pop(name, ()):
                    if not told.done():
                        told.set_result(None)


def register(app: Dash, cache: Cache) -> None:
    """Attach every callback of the page to the app."""
    _register_browser(app)
    _register_push(app, Pulse(cache), cache.attention)


def _register_browser(app: Any) -> None:
    controls = [(i.value, prop) for i, prop in CONTROLS]
    app.clientside_callback(
        ClientsideFunction("liqheat", "route"),
        Output(Id.URL, "search"),
        *(Output(i, prop) for i, prop in controls),
        Output(Id.VIEW, "data"),
        Output(Id.PROVIDER, "forceColorScheme"),
        Input(Id.URL, "search"),
        *(Input(i, prop) for i, prop in controls),
        State(Id.SCHEMA, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "load"),
        Output(Id.CHART, "figure"),
        Output(Id.READINGS, "data"),
        Output(Id.NOTICE, "children"),
        Input(Id.VIEW, "data"),
        Input(Id.NUDGE, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "describe"),
        Output(Id.BANNER, "children"),
        Output(Id.STATUS, "children"),
        Output(Id.TOTALS, "children"),
        Output(Id.LEGEND, "children"),
        Output(Id.MAP_LEGEND, "children"),
        Output(Id.LIQUIDATED, "children"),
        Output(Id.FOOTER, "children"),
        Input(Id.READINGS, "data"),
        State(Id.VIEW, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "offer"),
        Output(Id.SYMBOL, "data"),
        Output(Id.VENUES, "children"),
        Input(Id.READINGS, "data"),
        Input(Id.VIEW, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "label"),
        *(
            Output(i, "children")
            for i in (
                Id.VENUES_LABEL,
                Id.TIERS_LABEL,
                "intensity-label",
                Id.PRICE_LABEL,
                "panels-label",
                "palette-label",
            )
        ),
        Output(Id.SHARE_PNG, "href"),
        Output(Id.SHARE_CSV, "href"),
        Output(Id.SHARE_ARROW, "href"),
        Output(Id.SHARE_JSON, "href"),
        Output(Id.WATCH, "data"),
        Input(Id.VIEW, "data"),
        State(Id.SCHEMA, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "pulse"),
        Output(Id.PRICE, "children"),
        Input(Id.LIVE, "data"),
        Input(Id.READINGS, "data"),
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "share"),
        Output(Id.SHARE_DONE, "children"),
        Input(Id.SHARE_LINK, "n_clicks"),
        Input(Id.SHARE_SNAPSHOT, "n_clicks"),
        Input(Id.SHARE_EMBED, "n_clicks"),
        State(Id.VIEW, "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("liqheat", "window"),
        Output(Id.NUDGE, "data"),
        Input(Id.PRICE_ZOOM, "n_clicks"),
        Input(Id.PRICE_AUTO, "n_clicks"),
        prevent_initial_call=True,
    )


def _register_push(app: Dash, pulse: Pulse, attention: Attention) -> None:
    @app.callback(Input(Id.WATCH, "data"), persistent=True, websocket=True)
    async def follow(watch: dict[str, Any] | None) -> None:
        """Push the changes of the page's coin until the page watches another or goes away."""
        # Without a WebSocket (a browser that has no SharedWorker) the page asks by itself every few seconds.
        socket = ctx.websocket
        if socket is None or not watch:
            return
        page, turn, symbol = watch["page"], watch["turn"], watch["symbol"]
        watches, seen = WATCHES.get(), 0
        watches.begin(page)
        try:
            while not socket.is_shutdown:
                seen, markets = await pulse.next(symbol, seen, KEEP_ALIVE_S)
                socket.set_prop_sync(Id.LIVE.value, "data", {"turn": turn, "markets": markets})
                if pulse.knows(symbol):
                    await attention.note(symbol)
                await asyncio.sleep(PUSH_INTERVAL_S)
        except asyncio.CancelledError:
            if watches.has(page):
                raise  # the socket is gone; otherwise a newer watch took its place, and the page waits for an answer
        finally:
            watches.end(page)
