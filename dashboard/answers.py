"""Answers to a view, rendered once for all who ask and kept compressed.

An answer is known by what it shows and by the versions of the markets it was drawn from: an unchanged market costs a
look-up, here or in Redis, and a changed one is drawn by one task of one process.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final, NamedTuple

from dashboard.export import FORMS, Form, pack_levels
from dashboard.figures import build_chart
from dashboard.frame import ChartFrame, NotReady, read_frame, read_statuses, select_statuses
from dashboard.lens import shade
from dashboard.limits import charge_drawing
from dashboard.maps import build_map, read_map
from dashboard.preview import draw_preview
from dashboard.readings import build_readings
from dashboard.revision import REVISION
from dashboard.snapshots import Facts
from dashboard.view import ViewState
from estimator.cache import Cache, MarketStatus
from estimator.cache.viewers import Flights
from estimator.errors import CacheUnavailable

TTL_S: Final = 60.0
STATUS_AGE_S: Final = 0.25  # how old the statuses may be; a push is followed by a request, which must see it
PACE_S: Final = 1.0  # between two drawings of a view; whoever asks sooner waits, and gets what all get then
STATUS_WAIT_S: Final = 2.0  # for Redis to say them; no view is drawn without
MEMORY_BYTES: Final = 32 << 20
SHARED_BYTES: Final = 16 << 20  # put into Redis within `TTL_S`: views must not push the markets out of it
MAX_WAITING: Final = 32  # views that wait for a thread to draw them
_THREADS: Final = os.cpu_count() or 1

Build = Callable[[ChartFrame], bytes]


class Busy(NotReady):
    """More views are asked for than can be drawn soon."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes of an answer, gzipped unless its form is compressed in itself; `after` is where its next page begins."""

    body: bytes
    etag: str
    media_type: str
    gzipped: bool
    after: str | None = None


class Frozen(NamedTuple):
    """All that a snapshot keeps: what it shows, and its parts by name, drawn from one reading of the cache."""

    facts: Facts
    parts: dict[str, bytes]


CHART_PART: Final = "chart.json.gz"
PICTURE_PART: Final = "preview.png"
LEVELS_PART: Final = "levels.arrow"


class Answers:
    """Renders and keeps answers. One per process; every coroutine runs on one event loop.

    Parameters
    ----------
    cache : Cache
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._statuses: tuple[float, list[MarketStatus]] | None = None
        self._reading: asyncio.Future[list[MarketStatus]] | None = None
        self._flights = Flights[bytes]()
        self._drawn_at: OrderedDict[str, float] = OrderedDict()  # when each view was drawn, within `PACE_S`
        # Of their own: whatever else threads are busy with, all answers begin with the statuses.
        self._drawing, self._looking = ThreadPoolExecutor(_THREADS, "draw"), ThreadPoolExecutor(1, "statuses")
        self._shared: deque[tuple[float, int]] = deque()  # when and how much
        self.served: Counter[str] = Counter()  # by where they came from: memory, another's flight, Redis, drawn

    def current(self) -> list[MarketStatus] | None:
        """Return what `statuses` would give without waiting: the same list until they are read again; None if old."""
        if self._statuses is None or monotonic() - self._statuses[0] >= STATUS_AGE_S:
            return None
        return self._statuses[1]

    async def statuses(self) -> list[MarketStatus]:
        """Return the markets on offer, at most `STATUS_AGE_S` old.

        Raises
        ------
        NotReady, CacheError
            `CacheUnavailable` after `STATUS_WAIT_S`, however long the client of Redis goes on trying.
        """
        if (known := self.current()) is not None:
            return known
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._looking, read_statuses, self._cache)
            self._reading.add_done_callback(lambda read: read.cancelled() or read.exception())  # seen by nobody else
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                statuses = await asyncio.shield(self._reading)
        except TimeoutError:
            raise CacheUnavailable(f"Redis has not said the statuses within {STATUS_WAIT_S:g} s") from None
        self._statuses = (monotonic(), statuses)
        return statuses

    async def etag(self, kind: str, view: ViewState) -> str:
        """Name of the answer that `chart` or `export` would give now."""
        chosen = select_statuses(await self.statuses(), view)
        return f'"{_key(kind, view, chosen)}"'

    async def chart(self, view: ViewState) -> Answer:
        """Figures and readings of a view, JSON."""
        return await self._render("chart", view, _chart_json, "application/json", gzipped=True)

    async def export(self, view: ViewState, form: Form) -> Answer:
        """Levels of a view in one of `FORMS`."""
        media_type, gzipped = FORMS[form].media_type, FORMS[form].gzipped
        return await self._render(f"heatmap.{form}", view, FORMS[form].build, media_type, gzipped=gzipped)

    async def picture(self, view: ViewState) -> Answer:
        """Preview picture of a view, PNG."""
        return await self._render("preview", view, draw_preview, "image/png", gzipped=False)

    async def other(self, kind: str, view: ViewState, build: Callable[[ChartFrame], dict[str, Any]]) -> Answer:
        """Any further reading of a view, JSON."""
        return await self._render(kind, view, lambda frame: _dumps(build(frame)), "application/json", gzipped=True)

    async def frozen(self, view: ViewState) -> Frozen:
        """Chart, picture and levels of a view as they are now, not kept here."""
        statuses = await self.statuses()
        select_statuses(statuses, view)
        if len(self._flights) >= MAX_WAITING:
            raise Busy("too many views are asked for at once")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._drawing, _freeze, self._cache, view, statuses)

    async def _render(self, kind: str, view: ViewState, build: Build, media_type: str, *, gzipped: bool) -> Answer:
        name = f"{kind} {view.query()}"
        statuses, key = await self._now(kind, view)
        if key not in self._memory and key not in self._flights and await self._paced(name):
            statuses, key = await self._now(kind, view)
        body = self._memory.get(key)
        if body is not None:
            self._memory.move_to_end(key)
            self.served["memory"] += 1
            return Answer(body, f'"{key}"', media_type, gzipped)
        if key not in self._flights and len(self._flights) >= MAX_WAITING + _THREADS:
            self.served["refused"] += 1
            raise Busy("too many views are asked for at once")

        if key in self._flights:
            self.served["flight"] += 1
        else:
            charge_drawing()

        def draw() -> bytes:
            return _compute(self._cache, view, statuses, build, gzipped=gzipped)

        body = await self._flights.join(key, lambda: self._find(key, name, draw, shared=self._is_shared(kind, view)))
        return Answer(body, f'"{key}"', media_type, gzipped)

    async def _now(self, kind: str, view: ViewState) -> tuple[list[MarketStatus], str]:
        """Statuses, and the key of the answer drawn from them."""
        statuses = await self.statuses()
        return statuses, _key(kind, view, select_statuses(statuses, view))

    async def _paced(self, name: str) -> bool:
        """Wait until a view may be drawn again; whether there was anything to wait for."""
        wait = self._drawn_at.get(name, 0.0) + PACE_S - monotonic()
        if wait <= 0:
            return False
        await asyncio.sleep(wait)
        return True

    def _note_drawing(self, name: str) -> None:
        now = self._drawn_at[name] = monotonic()
        self._drawn_at.move_to_end(name)
        while next(iter(self._drawn_at.values())) < now - PACE_S:
            self._drawn_at.popitem(last=False)

    async def _find(self, key: str, name: str, draw: Callable[[], bytes], *, shared: bool) -> bytes:
        loop, origin = asyncio.get_running_loop(), "redis"

        def draw_and_keep() -> bytes:
            body = draw()
            # Kept even if whoever asked has left meanwhile: a thread cannot be stopped, and they may come back.
            loop.call_soon_threadsafe(self._keep, key, body)
            return body

        async def compute() -> bytes:
            nonlocal origin
            origin = "drawn"
            self._note_drawing(name)
            body = await loop.run_in_executor(self._drawing, draw_and_keep)
            if shared:
                self._shared.append((monotonic(), len(body)))
            return body

        if shared:
            body = await self._cache.get_or_compute(key, TTL_S, compute)
            self._keep(key, body)
        else:
            body = await compute()
        self.served[origin] += 1
        return body

    def _is_shared(self, kind: str, view: ViewState) -> bool:
        """Whether other processes may want the view, and Redis has room for it."""
        while self._shared and self._shared[0][0] < monotonic() - TTL_S:
            self._shared.popleft()
        room = sum(size for _, size in self._shared) < SHARED_BYTES
        return room and view.price is None and not kind.startswith("heatmap.")

    def _keep(self, key: str, body: bytes) -> None:
        if key in self._memory:
            return
        self._memory[key] = body
        self._size += len(body)
        while self._size > MEMORY_BYTES:
            _, dropped = self._memory.popitem(last=False)
            self._size -= len(dropped)


def _key(kind: str, view: ViewState, statuses: Sequence[MarketStatus]) -> str:
    drawn_from = [(s.id, s.version, s.as_of_ms, s.origin.value, s.source) for s in statuses]
    digest = hashlib.blake2b(repr((REVISION, kind, view.query(), drawn_from)).encode(), digest_size=16)
    return f"{kind}-{digest.hexdigest()}"


def _compute(cache: Cache, view: ViewState, statuses: Sequence[MarketStatus], build: Build, *, gzipped: bool) -> bytes:
    body = build(read_frame(cache, view, statuses))
    return gzip.compress(body, compresslevel=6, mtime=0) if gzipped else body


def _freeze(cache: Cache, view: ViewState, statuses: Sequence[MarketStatus]) -> Frozen:
    frame = read_frame(cache, view, statuses)
    lead = frame.statuses[0]
    facts = Facts(
        made_ms=int(time() * 1000), as_of_ms=frame.as_of_ms, view=view.query(), symbol=view.symbol, range=view.range,
        origin=lead.origin.value, source=lead.source,
    )  # fmt: skip
    parts = {
        CHART_PART: gzip.compress(_chart_json(frame), compresslevel=6, mtime=0),
        PICTURE_PART: draw_preview(frame),
        LEVELS_PART: pack_levels(frame),
    }
    return Frozen(facts, parts)


def _chart_json(frame: ChartFrame) -> bytes:
    shading, now = shade(frame), read_map(frame)
    return _dumps(
        {
            "figure": build_chart(frame, shading),
            "map": build_map(frame, now),
            "readings": build_readings(frame, shading, now),
        }
    )


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
