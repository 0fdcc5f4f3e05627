"""``/api/v1/clusters``, ``signals``, ``cascade`` and ``position``: what a view's levels and hours amount to."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any, Final, Generic, TypeVar

import polars as pl
from fastapi import APIRouter, Request, Response

from dashboard import asked, described, insights
from dashboard.answers import Answer, Answers, Busy
from dashboard.api import ERRORS, VIEW_PARAMETERS, send
from dashboard.asked import Asked, Number, Text
from dashboard.frame import select_statuses
from dashboard.insights import Outlook
from dashboard.revision import REVISION
from dashboard.view import ViewError
from estimator.cache import Cache, MarketStatus
from estimator.hours import last_hour, read_hours

Value = TypeVar("Value")

MAX_WAITING: Final = 32  # questions that wait for a thread
_THREADS: Final = 2


class Shared(Generic[Value]):
    """Values by key, each made once in a thread for all who ask, the last few kept; for one event loop.

    Parameters
    ----------
    threads : ThreadPoolExecutor
    kept : int
        How many.
    """

    def __init__(self, threads: ThreadPoolExecutor, kept: int) -> None:
        self._threads, self._kept = threads, kept
        self._tasks: OrderedDict[str, asyncio.Future[Value]] = OrderedDict()

    async def get(self, key: str, make: Callable[[], Value]) -> Value:
        """Return the value of a key.

        Raises
        ------
        Busy
            If too many are being made; and whatever `make` raises.
        """
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            if sum(not t.done() for t in self._tasks.values()) >= MAX_WAITING:
                raise Busy("too much is asked at once")
            task = asyncio.get_running_loop().run_in_executor(self._threads, make)
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # seen by nobody else where all have left
            self._tasks[key] = task
        self._tasks.move_to_end(key)
        for old in [k for k, t in self._tasks.items() if t.done()][: max(len(self._tasks) - self._kept, 0)]:
            del self._tasks[old]
        return await asyncio.shield(task)


class Insights:
    """Answers to questions about views; one per process.

    Parameters
    ----------
    cache : Cache
    answers : Answers
        Gives the markets on offer.
    """

    def __init__(self, cache: Cache, answers: Answers) -> None:
        self._cache, self._offered = cache, answers
        threads = ThreadPoolExecutor(_THREADS, "insight")
        self._hours: Shared[pl.DataFrame] = Shared(threads, 32)
        self._outlooks: Shared[Outlook] = Shared(threads, 8)
        self._answers: Shared[Answer] = Shared(threads, 128)

    async def statuses(self) -> list[MarketStatus]:
        """Return the markets on offer."""
        return await self._offered.statuses()

    async def choose(self, question: Asked) -> tuple[MarketStatus, ...]:
        """Return the markets a question is about."""
        return select_statuses(await self.statuses(), question.view)

    async def hours(self, statuses: Sequence[MarketStatus]) -> pl.DataFrame:
        """Return the hourly bars of markets."""
        return await self._hours.get(_hours_key(statuses), lambda: read_hours(self._cache, statuses))

    async def outlook(self, question: Asked, statuses: Sequence[MarketStatus]) -> Outlook:
        """Return the latest columns of markets with their hours."""
        bars, key = await self.hours(statuses), _now_key(statuses)
        return await self._outlooks.get(key, lambda: insights.read_outlook(self._cache, question.view, statuses, bars))

    async def answer(self, kind: str, key: str, build: Callable[[], dict[str, Any]]) -> Answer:
        """Return the answer of a name, built once."""
        name = f"{kind}-{hashlib.blake2b(f'{REVISION} {key}'.encode(), digest_size=16).hexdigest()}"

        def make() -> Answer:
            body = json.dumps(build(), separators=(",", ":"), allow_nan=False).encode()
            return Answer(gzip.compress(body, 6, mtime=0), f'"{name}"', "application/json", gzipped=True)

        return await self._answers.get(name, make)


def _hours_key(statuses: Sequence[MarketStatus]) -> str:
    told = [(s.id, s.origin, s.source, s.first_ms, s.progress, s.last_ms >= last_hour(statuses)) for s in statuses]
    return repr((last_hour(statuses), told))


def _now_key(statuses: Sequence[MarketStatus]) -> str:
    return repr((_hours_key(statuses), [(s.version, s.as_of_ms) for s in statuses]))


def build_insight_router(cache: Cache, answers: Answers) -> APIRouter:
    """Build the routes."""
    router, known = APIRouter(), Insights(cache, answers)

    def add(
        path: str,
        summary: str,
        reply: Callable[[Request], Awaitable[Response]],
        parameters: Sequence[dict[str, Any]],
    ) -> None:
        router.add_api_route(
            path, reply, methods=["GET"], summary=summary, tags=["insights"], response_class=Response,
            responses={200: described.answers(path, "Provenance, what was found, and what is not known."), **ERRORS},
            openapi_extra={"parameters": list(parameters)},
        )  # fmt: skip

    add(
        "/api/v1/clusters", "Clusters of estimated levels, ranked, and max pain.",
        _clusters(known), _view_and(asked.CLUSTERS),
    )  # fmt: skip
    add(
        "/api/v1/signals", "Combined readings and the phase of the last full hour, with every input.",
        _signals(known), _view_and(()),
    )  # fmt: skip
    add(
        "/api/v1/cascade", "What a change of price would set off, as a band.",
        _cascade(known), _view_and(asked.CASCADE),
    )  # fmt: skip
    add(
        "/api/v1/position", "What becomes of a position, and where a stop would go; nothing is stored.",
        _position(known), [_SYMBOL, *(p.described() for p in asked.POSITION)],
    )  # fmt: skip
    return router


_SYMBOL: Final = next(p for p in VIEW_PARAMETERS if p["name"] == "symbol")


def _view_and(parameters: Sequence[Number | Text]) -> list[dict[str, Any]]:
    return [*VIEW_PARAMETERS, *(p.described() for p in parameters)]


def _clusters(known: Insights) -> Callable[[Request], Awaitable[Response]]:
    async def clusters(request: Request) -> Response:
        question = await _ask(known, request, asked.CLUSTERS)
        statuses = await known.choose(question)
        hours, share = asked.known(asked.HOURS, question.given), asked.known(asked.LEAST_SHARE, question.given)
        own = asked.OWN_LIQUIDATION.read(question.given)
        outlook = await known.outlook(question, statuses)
        answer = await known.answer(
            "clusters", repr((_now_key(statuses), hours, share, own)),
            lambda: insights.clusters_json(outlook, hours=hours, least_share=share, liquidation=own),
        )  # fmt: skip
        return send(answer, request)

    return clusters


def _signals(known: Insights) -> Callable[[Request], Awaitable[Response]]:
    async def signals(request: Request) -> Response:
        statuses = await known.choose(await _ask(known, request, ()))
        bars = await known.hours(statuses)
        answer = await known.answer("signals", _hours_key(statuses), lambda: insights.signals_json(statuses, bars))
        return send(answer, request)

    return signals


def _cascade(known: Insights) -> Callable[[Request], Awaitable[Response]]:
    async def cascade(request: Request) -> Response:
        question = await _ask(known, request, asked.CASCADE)
        what_if = asked.read_what_if(question.given)
        statuses = await known.choose(question)
        outlook = await known.outlook(question, statuses)
        answer = await known.answer(
            "cascade", repr((_now_key(statuses), what_if)), lambda: insights.cascade_json(outlook, what_if)
        )
        return send(answer, request)

    return cascade


def _position(known: Insights) -> Callable[[Request], Awaitable[Response]]:
    async def position(request: Request) -> Response:
        offered = await known.statuses()
        question = asked.read_position(request.url.query, offered[0].base)
        statuses = await known.choose(question)
        plan = asked.read_plan(question.given, _venue(statuses, question), offered)
        outlook = await known.outlook(question, statuses)

        def build() -> dict[str, Any]:
            return insights.position_json(outlook, plan, insights.find_outlook_clusters(outlook))

        # Every field: the text of a plan leaves out its tiers.
        return send(await known.answer("position", repr((_now_key(statuses), astuple(plan))), build), request)

    return position


async def _ask(known: Insights, request: Request, parameters: Sequence[Number | Text]) -> Asked:
    return asked.read_asked(request.url.query, parameters, (await known.statuses())[0].base)


def _venue(statuses: Sequence[MarketStatus], question: Asked) -> MarketStatus:
    wanted = question.given.get(asked.VENUE.name, statuses[0].exchange)
    for status in statuses:
        if status.exchange == wanted:
            return status
    raise ViewError(asked.VENUE.name, wanted[:80], "one of " + ", ".join(s.exchange for s in statuses))
