"""Five hundred who look at a moving market at once: what they cost one web process, and how long they wait.

Each holds a stream of events and fetches its chart as the page does: a moment after it is told of something new, at
most every two seconds, with the ETag it has. `liqheat run` serves them from its simulated market.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvloop

from tests.benchmarks.report import Result, cpu_s, rss_mb
from tests.benchmarks.start import children, complete, holds, running

VIEWERS: Final = int(os.environ.get("VIEWERS", "500"))
SECONDS: Final = float(os.environ.get("VIEWERS_SECONDS", "60"))
ARRIVE_S: Final = 10.0
SETTLE_S: Final = 0.3
FOLLOW_S: Final = 2.0
# What is looked at, and by which share: most look at the same.
VIEWS: Final = (
    ("BTC", "24h", 0.45), ("BTC", "7d", 0.15), ("BTC", "12h", 0.05),
    ("ETH", "24h", 0.15), ("ETH", "7d", 0.05), ("SOL", "24h", 0.15),
)  # fmt: skip
LIMITS: Final = {"LIQHEAT_LIMIT_STREAMS": "0", "LIQHEAT_LIMIT_READS": "0", "LIQHEAT_LIMIT_COMPUTED": "0"}


@dataclass
class Seen:
    """What the viewers have been told and shown."""

    events: int = 0
    waited_s: list[float] = field(default_factory=list)
    codes: dict[int, int] = field(default_factory=dict)
    received: int = 0

    def forget(self) -> None:
        """Begin to count."""
        self.waited_s.clear()
        self.codes.clear()
        self.events = self.received = 0


def measure() -> Iterator[Result]:
    """Yield the figures of many viewers."""
    with running("--source", "simulated", **LIMITS) as (base, run, _):
        while not holds(complete, base):
            time.sleep(0.5)
        web = children(run.pid)["web"]
        time.sleep(5.0)
        before = _drawn(base)
        share, seen = uvloop.run(_crowd(base, web))
        drawn = (_drawn(base) - before) / (SECONDS + ARRIVE_S)
        rss = rss_mb(web)
    waited = np.array(seen.waited_s) * 1e3
    a_second = seen.events / SECONDS, len(waited) / SECONDS, seen.received / SECONDS / 1e6, drawn
    note = "{:.0f} events, {:.0f} charts, {:.1f} MB a second; {:.1f} drawn".format(*a_second)
    yield Result(f"viewers: {VIEWERS} on one web process, share of one core", 100 * share, "%", note, 50)
    codes = ", ".join(f"{count} times {code}" for code, count in sorted(seen.codes.items()))
    note = f"median {np.median(waited):.1f} ms; {codes}"
    yield Result("viewers: a chart asked for, p99", float(np.percentile(waited, 99)), "ms", note)
    yield Result("viewers: web, memory", rss, "MB", target=300)


def _drawn(base: str) -> float:
    """Charts drawn since the start."""
    lines = httpx.get(base + "/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith('liqheat_answers_total{from="drawn"}')), 0)


async def _crowd(base: str, web: int) -> tuple[float, Seen]:
    """Let everybody look; return the web's share of a core, and what they saw meanwhile."""
    seen, over = Seen(), asyncio.Event()
    shares = np.cumsum([share for *_, share in VIEWS])
    watching = [
        asyncio.create_task(_view(base, *VIEWS[int(np.searchsorted(shares, (n + 0.5) / VIEWERS))][:2], seen, over))
        for n in range(VIEWERS)
    ]
    await asyncio.sleep(ARRIVE_S)
    began, used = time.perf_counter(), cpu_s(web)
    seen.forget()
    await asyncio.sleep(SECONDS)
    share = (cpu_s(web) - used) / (time.perf_counter() - began)
    over.set()
    for task in watching:
        task.cancel()
    done = await asyncio.gather(*watching, return_exceptions=True)
    failed = [d for d in done if isinstance(d, Exception)]
    if failed:
        raise failed[0]
    return share, seen


async def _view(base: str, coin: str, span: str, seen: Seen, over: asyncio.Event) -> None:
    """Be one page."""
    host, port = str(urlsplit(base).hostname), int(urlsplit(base).port or 80)
    told, telling = await asyncio.open_connection(host, port)
    telling.write(f"GET /api/v1/stream?symbol={coin}&events=price HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    stirred = asyncio.Event()
    stirred.set()
    showing = asyncio.create_task(_show(host, port, f"/api/v1/chart?symbol={coin}&range={span}", stirred, seen))
    try:
        while line := await told.readline():
            if line.startswith(b'data: {"markets"'):
                seen.events += 1
                json.loads(line[6:])
                stirred.set()
        if not over.is_set():
            raise ConnectionError("a stream ended")
    finally:
        showing.cancel()
        telling.close()


async def _show(host: str, port: int, path: str, stirred: asyncio.Event, seen: Seen) -> None:
    etag = b""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    while True:
        await stirred.wait()
        await asyncio.sleep(SETTLE_S)
        stirred.clear()
        began = time.perf_counter()
        known = b"If-None-Match: %b\r\n" % etag if etag else b""
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n"
        writer.write(head.encode() + known + b"\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        status, headers = int(answer[9:12]), dict(h.split(b": ", 1) for h in answer.split(b"\r\n")[1:-2])
        if status == 200:
            seen.received += len(await reader.readexactly(int(headers[b"content-length"])))
        etag = headers.get(b"etag", b"")
        seen.codes[status] = seen.codes.get(status, 0) + 1
        seen.waited_s.append(time.perf_counter() - began)
        await asyncio.sleep(FOLLOW_S - SETTLE_S)
