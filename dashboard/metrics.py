"""``/metrics`` in the text format of Prometheus: venues, markets, recorder, worker and this web process."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.answers import Answers
from dashboard.files import FILES
from dashboard.guard import STREAM
from estimator.cache import Cache, MarketStatus, WorkerHealth
from estimator.errors import CacheError
from estimator.model.grid import LEVELS

_BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
# Beginnings of headers that proxies add.
_FORWARDED: Final = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-")


class Traffic:
    """Counts requests, their time, and the streams that are open in this process. Pure ASGI, the outermost.

    Parameters
    ----------
    app : ASGIApp
    registry : CollectorRegistry
    paths : collection of str
        Addresses that have a name of their own; the rest is counted as ``files`` and ``other``, so that nobody can
        make up names.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, paths: Collection[str]) -> None:
        self._app, self._paths = app, frozenset(paths)
        names = ("method", "route", "status")
        self._requests = Counter("liqheat_http_requests", "Requests answered.", names, registry=registry)
        self._seconds = Histogram(
            "liqheat_http_seconds", "Time to the end of the answer.", ("route",), buckets=_BUCKETS, registry=registry
        )
        self._viewers = Gauge("liqheat_viewers", "Open streams of events: whoever follows.", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].endswith(STREAM):  # its end says nothing about how long anybody waited
            with self._viewers.track_inprogress():
                await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, began, route = 0, time.perf_counter(), self._name(scope["path"])

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # Without an answer the client had left, or a mistake of ours was on its way to be a 500.
            self._requests.labels(method, route, str(status or 499)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - began)

    def _name(self, path: str) -> str:
        if path in self._paths:
            return path
        return "files" if path.startswith(FILES) else "other"


class State(Collector):
    """What workers and caches say, read at every scrape.

    Parameters
    ----------
    cache : Cache
    answers : Answers
    """

    def __init__(self, cache: Cache, answers: Answers) -> None:
        self._cache, self._answers = cache, answers

    def collect(self) -> Iterator[Metric]:
        """Read everything; without Redis only what this process knows."""
        answers = CounterMetricFamily("liqheat_answers", "Views asked for, by where they came from.", labels=["from"])
        for origin, count in list(self._answers.served.items()):  # the event loop counts on
            answers.add_metric([origin], count)
        yield answers
        up = GaugeMetricFamily("liqheat_redis_up", "Whether Redis answers.")
        try:
            statuses, workers = self._cache.get_statuses(), self._cache.get_health()
            alerts = self._cache.alerts.counts()
        except CacheError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from of_markets(statuses, time.time())
        yield from of_workers(workers, time.time())
        yield from of_recorders(workers)
        yield from of_venues(workers, time.time())
        yield from of_alerts(alerts)


def of_markets(statuses: Collection[MarketStatus], now_s: float) -> Iterator[Metric]:
    """Age and progress of every market."""
    age = GaugeMetricFamily(
        "liqheat_market_age_seconds", "Age of the latest data of a market.", labels=["market", "origin"]
    )
    last = GaugeMetricFamily(
        "liqheat_market_last_column_timestamp_seconds", "Close of the last published column.", labels=["market"]
    )
    columns = GaugeMetricFamily(
        "liqheat_market_columns", "Columns of the finest level from the first to the last one.", labels=["market"]
    )
    progress = GaugeMetricFamily("liqheat_market_progress_ratio", "Share of the past that is there.", labels=["market"])
    gaps = GaugeMetricFamily("liqheat_market_gaps", "Known stretches without data.", labels=["market", "what"])
    for status in statuses:
        progress.add_metric([status.id], status.progress)
        if not status.loaded:
            continue
        age.add_metric([status.id, status.origin.value], now_s - status.as_of_ms / 1000)
        last.add_metric([status.id], status.last_ms / 1000)
        columns.add_metric([status.id], (status.last_ms - status.first_ms) // LEVELS[0].interval_ms + 1)
        for what in sorted({gap.what for gap in status.gaps}):
            gaps.add_metric([status.id, what], sum(gap.what == what for gap in status.gaps))
    yield from (age, last, columns, progress, gaps)


def of_workers(workers: Collection[WorkerHealth], now_s: float) -> Iterator[Metric]:
    """Memory, loop delay and last sign of life of every worker."""
    said = GaugeMetricFamily("liqheat_worker_silence_seconds", "Time since a worker said how it is.", labels=["shard"])
    rss = GaugeMetricFamily("liqheat_worker_resident_bytes", "Resident memory.", labels=["shard"])
    delay = GaugeMetricFamily(
        "liqheat_worker_loop_delay_seconds", "Longest delay of the event loop lately.", labels=["shard"]
    )
    markets = GaugeMetricFamily("liqheat_worker_markets", "Markets shown.", labels=["shard"])
    dropped = GaugeMetricFamily(
        "liqheat_cache_dropped_entries",
        "Entries Redis has dropped since its start for want of memory.",
        labels=["shard"],
    )
    for worker in workers:
        shard = [str(worker.shard)]
        said.add_metric(shard, now_s - worker.time_ms / 1000)
        rss.add_metric(shard, worker.rss_bytes)
        delay.add_metric(shard, worker.loop_delay_ms / 1000)
        markets.add_metric(shard, worker.markets)
        dropped.add_metric(shard, worker.dropped)
    yield from (said, rss, delay, markets, dropped)


def of_recorders(workers: Collection[WorkerHealth]) -> Iterator[Metric]:
    """Yield the way into history: what waits, how old it is, what became of it."""
    waiting = GaugeMetricFamily("liqheat_recorder_waiting_entries", "Journal entries not in history.", labels=["shard"])
    lag = GaugeMetricFamily("liqheat_recorder_lag_seconds", "Age of the oldest of them.", labels=["shard"])
    failing = GaugeMetricFamily("liqheat_recorder_failing", "Whether the last commit failed.", labels=["shard"])
    rows = CounterMetricFamily("liqheat_recorder_rows", "Rows by what became of them.", labels=["shard", "fate"])
    columns = GaugeMetricFamily(
        "liqheat_recorder_waiting_columns", "Published columns not in history.", labels=["shard"]
    )
    for worker in workers:
        shard, recorder = str(worker.shard), worker.recorder
        if recorder is None:
            continue
        waiting.add_metric([shard], recorder.waiting)
        lag.add_metric([shard], recorder.lag_ms / 1000)
        failing.add_metric([shard], recorder.error is not None)
        columns.add_metric([shard], recorder.columns_waiting)
        for fate, count in (("stored", recorder.stored), ("known", recorder.known), ("rejected", recorder.rejected)):
            rows.add_metric([shard, fate], count)
    yield from (waiting, lag, failing, rows, columns)


def of_venues(workers: Collection[WorkerHealth], now_s: float) -> Iterator[Metric]:
    """Streams, errors and what was left out, by venue."""
    base = ["shard", "venue"]
    up = GaugeMetricFamily("liqheat_venue_up", "Whether a venue is followed at all.", labels=base)
    connected = GaugeMetricFamily("liqheat_stream_connected", "Whether a stream is heard.", labels=[*base, "stream"])
    age = GaugeMetricFamily("liqheat_stream_age_seconds", "Time since its last message.", labels=[*base, "stream"])
    again = CounterMetricFamily("liqheat_stream_reconnects", "Times it was lost.", labels=[*base, "stream"])
    gaps = GaugeMetricFamily("liqheat_stream_gaps", "Latest stretches it was not heard.", labels=[*base, "stream"])
    errors = CounterMetricFamily("liqheat_venue_errors", "Failed requests and lost streams.", labels=[*base, "kind"])
    out = CounterMetricFamily("liqheat_venue_rejected", "Values left out.", labels=[*base, "what", "reason"])
    for shard, venue in ((str(w.shard), v) for w in workers for v in w.venues):
        up.add_metric([shard, venue.name], venue.problem is None)
        for kind, count in venue.errors.items():
            errors.add_metric([shard, venue.name, kind], count)
        for one in venue.rejected:
            out.add_metric([shard, venue.name, one.what, one.reason], one.count)
        for stream in venue.streams:
            name = [shard, venue.name, stream.name]
            connected.add_metric(name, stream.connected)
            again.add_metric(name, stream.reconnects)
            gaps.add_metric(name, sum(gap.what == stream.name for gap in venue.gaps))
            if stream.last_message_ms is not None:
                age.add_metric(name, now_s - stream.last_message_ms / 1000)
    yield from (up, connected, age, again, gaps, errors, out)


def of_alerts(counts: Mapping[tuple[str, str, str], int]) -> Iterator[Metric]:
    """Yield alerts by rule, and attempts to deliver them by target and what became of them."""
    told = CounterMetricFamily("liqheat_alerts", "Alerts told.", labels=["rule", "severity"])
    tried = CounterMetricFamily("liqheat_alert_deliveries", "Attempts to deliver alerts.", labels=["target", "outcome"])
    for (what, who, how), count in sorted(counts.items()):
        (told if what == "alert" else tried).add_metric([who, how], count)
    yield from (told, tried)


def may_read(request: Request, token: str | None) -> bool:
    """Whether a client may see the metrics: with the token where there is one, else from this machine alone.

    A proxy on this machine makes every client look local: what was forwarded, or asked for another host, is not.
    """
    if token:
        given = request.headers.get("authorization", "").encode()
        return hmac.compare_digest(given, f"Bearer {token}".encode())
    if any(name.startswith(_FORWARDED) for name in request.headers):
        return False
    return _is_loopback(request.client.host if request.client else "") and _is_loopback(_host(request))


def _host(request: Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build_metrics_router(registry: CollectorRegistry, token: str | None) -> APIRouter:
    """``/metrics``; a 404 to whoever may not read it, as if there were none."""
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if not may_read(request, token):
            raise HTTPException(404)
        text = await asyncio.to_thread(generate_latest, registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

    return router
