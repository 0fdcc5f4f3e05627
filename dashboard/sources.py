"""``/api/v1/source``: where the data comes from, how the venues are doing, and the one switch a visitor has."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from dashboard import described
from dashboard.api import ERRORS
from dashboard.share import NOT_OURS, may_be_framed, own_hosts
from estimator.cache import Cache, Choice, StreamHealth, VenueHealth, WorkerHealth
from estimator.errors import CacheUnavailable
from estimator.settings import Settings

AGE_S: Final = 1.0  # how old an answer may be
WAIT_S: Final = 2.0  # for Redis to say it
SILENT_MS: Final = 30_000  # a worker writes every few seconds: after this long it is gone
_MOST_GAPS: Final = 20


class Wish(BaseModel):
    """What a visitor asks for."""

    model_config = ConfigDict(strict=True, extra="forbid")

    source: Literal["live"]


class Conditions:
    """The source and its venues as the workers last told, read once for all who ask. For one event loop.

    Parameters
    ----------
    cache : Cache
    may_switch : bool
        Whether visitors may ask for live data.
    """

    def __init__(self, cache: Cache, *, may_switch: bool) -> None:
        self._cache, self.may_switch = cache, may_switch
        self._read_at = 0.0
        self._now: dict[str, Any] = {}
        self._reading: asyncio.Task[dict[str, Any]] | None = None

    async def now(self) -> dict[str, Any]:
        """Return the state, JSON-ready, at most `AGE_S` old.

        Raises
        ------
        CacheError
            `CacheUnavailable` after `WAIT_S`.
        """
        if time.monotonic() - self._read_at < AGE_S:
            return self._now
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
            self._reading.add_done_callback(lambda read: read.cancelled() or read.exception())  # seen by nobody else
        try:
            async with asyncio.timeout(WAIT_S):
                self._now = await asyncio.shield(self._reading)
        except TimeoutError:
            raise CacheUnavailable(f"Redis has not said the state within {WAIT_S:g} s") from None
        self._read_at = time.monotonic()
        return self._now

    async def ask_for_live(self) -> None:
        """Pass on the wish for live data."""
        await asyncio.to_thread(self._cache.choices.ask_for_live)
        self._read_at = 0.0

    def _read(self) -> dict[str, Any]:
        choice, wanted = self._cache.choices.get(), self._cache.choices.is_live_asked()
        return state(choice, self._cache.get_health(), time.time_ns() // 1_000_000) | {
            "switching": wanted and not (choice is not None and choice.source == "live"),
            "may_switch": self.may_switch,
        }


def state(choice: Choice | None, workers: Sequence[WorkerHealth], now_ms: int) -> dict[str, Any]:
    """Say what was chosen, and how workers and venues are doing, JSON-ready.

    Parameters
    ----------
    choice : Choice, optional
        None where the source is a fixed one.
    workers : sequence of WorkerHealth
    now_ms : int
    """
    recorders = [w.recorder for w in workers if w.recorder is not None]
    return {
        "time_ms": now_ms,
        "choice": None if choice is None else asdict(choice) | {"answering": list(choice.answering)},
        "workers": [
            {"shard": w.shard, "as_of_ms": w.time_ms, "silent": now_ms - w.time_ms > SILENT_MS} for w in workers
        ],
        # Not the error itself: addresses and folders are for whoever runs this.
        "history": {
            "waiting": max((r.waiting for r in recorders), default=0),
            "lag_ms": max((r.lag_ms for r in recorders), default=0),
            "failing": any(r.error is not None or r.overdue for r in recorders),
        },
        "venues": {name: _merged(found) for name, found in _by_venue(workers).items()},
    }  # fmt: skip


def _by_venue(workers: Iterable[WorkerHealth]) -> dict[str, list[VenueHealth]]:
    found: dict[str, list[VenueHealth]] = {}
    for venue in (v for w in workers for v in w.venues):
        found.setdefault(venue.name, []).append(venue)
    return found


def _merged(found: Sequence[VenueHealth]) -> dict[str, Any]:
    """One venue as all workers together find it."""
    streams: dict[str, list[StreamHealth]] = {}
    rejected: Counter[tuple[str, str]] = Counter()
    errors: Counter[str] = Counter()
    for venue in found:
        errors.update(venue.errors)
        rejected.update({(r.what, r.reason): r.count for r in venue.rejected})
        for stream in venue.streams:
            streams.setdefault(stream.name, []).append(stream)
    gaps = sorted((g for v in found for g in v.gaps), key=lambda g: g.end_ms)[-_MOST_GAPS:]
    return {
        "problem": next((v.problem for v in found if v.problem is not None), None),
        "markets": sum(v.markets for v in found),
        "streams": {
            name: {
                "connected": all(s.connected for s in some),
                "last_message_ms": max((s.last_message_ms or 0 for s in some), default=0) or None,
                "reconnects": sum(s.reconnects for s in some),
            }
            for name, some in streams.items()
        },
        "gaps": [asdict(gap) for gap in gaps],
        "errors": dict(errors),
        "rejected": [{"what": what, "reason": reason, "count": count} for (what, reason), count in rejected.items()],
    }


def build_source_router(conditions: Conditions, settings: Settings) -> APIRouter:
    """Routes of the source."""
    router = APIRouter(tags=["source"])
    no_store = {"Cache-Control": "no-store"}
    passed_on = {"source": "live", "switching": True}
    refused: dict[int | str, dict[str, Any]] = {
        202: {
            "description": "Passed on.",
            "content": {"application/json": {"schema": described.shape(passed_on), "example": passed_on}},
        },
        400: described.NOT_READ,
        403: described.error(
            "Not asked by a page of this site, or visitors may not switch.",
            {"error": NOT_OURS, "path": "/api/v1/source"},
        ),
        409: described.error(
            "Nothing to switch: the source is fixed or live, or no venue answers.",
            {"error": "no venue answers", "path": "/api/v1/source"},
        ),
        **{code: ERRORS[code] for code in (422, 429, 503)},
    }

    @router.get(
        "/api/v1/source", summary="The source in force and how its venues are doing.",
        responses={
            200: described.answers("/api/v1/source", "At most a second old."),
            **{code: ERRORS[code] for code in (429, 503)},
        },
    )  # fmt: skip
    async def source() -> JSONResponse:
        return JSONResponse(await conditions.now(), headers=no_store)

    @router.post(
        "/api/v1/source", summary="Switch from the simulated market to live data.", status_code=202, responses=refused
    )
    async def switch(request: Request, wish: Wish) -> JSONResponse:
        if not conditions.may_switch:
            raise HTTPException(403, "visitors of this server may not switch its source")
        if not is_own_page(request, settings.public_url):
            raise HTTPException(403, NOT_OURS)
        choice = (await conditions.now())["choice"]
        if choice is None or choice["source"] != "simulated":
            raise HTTPException(409, "the simulated market is not shown in place of live data")
        if not choice["answering"]:
            raise HTTPException(409, "no venue answers")
        await conditions.ask_for_live()
        return JSONResponse({"source": wish.source, "switching": True}, 202, headers=no_store)

    return router


def is_own_page(request: Request, public_url: str | None) -> bool:
    """Whether a page of this site asks, one that no other site can frame.

    A browser names the origin of every POST and cannot be made to leave it out; what names none is no page.
    """
    headers = request.headers
    try:
        origin, page = urlsplit(headers.get("origin", "")), urlsplit(headers.get("referer", ""))
    except ValueError:
        return False
    if headers.get("sec-fetch-site", "same-origin") != "same-origin" or not origin.netloc:
        return False
    own = own_hosts(headers.get("host", ""), public_url)
    return origin.netloc.lower() in own and not may_be_framed(page.path.rstrip("/"))
