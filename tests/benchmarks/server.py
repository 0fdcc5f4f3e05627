"""Cached views over HTTP against a bare route that returns the same bytes from the same Redis."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import httpx
import numpy as np
import redis
import uvloop

from estimator.cache import Cache
from estimator.exchanges.simulated import SimulatedSource
from estimator.pipeline import MarketFollower
from estimator.redis_server import BundledServer
from tests.benchmarks.report import Result

SECONDS: Final = 4
ROUNDS: Final = 3
BARE_KEY: Final = "bench:bytes"
CONNECTIONS: Final = 16
PATHS: Final = ("/api/v1/heatmap?symbol=BTC&range=24h", "/api/v1/chart?symbol=BTC&range=24h")
HEADERS: Final = {"Accept-Encoding": "gzip", "Accept": "application/json"}
# What one client may ask, far beyond what is sent, and not 0: requests are counted as they are for visitors.
_UNLIMITED: Final = {f"LIQHEAT_LIMIT_{n}": "1000000000" for n in ("READS", "COMPUTED", "WRITES", "STREAMS")}
_FULL_LOAD: Final = re.compile(r"Requests/sec:\s+([\d.]+)")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(arguments: list[str], path: str, **environment: str) -> Iterator[str]:
    """Run a server on a free port until it answers at `path`, and end it afterwards."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.replace("PORT", str(port)) for part in arguments)],
        env={**os.environ, **_UNLIMITED, "LIQHEAT_PORT": str(port), **environment},
    )
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(base + path, timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            raise TimeoutError(f"{base}{path} does not answer")
        yield base
    finally:
        process.terminate()
        process.wait(10)


async def _load(url: str, rate: float | None) -> tuple[float, list[float]]:
    """Requests per second and latencies [s]: as fast as can be, or at a fixed rate, counted from when each was due.

    Bare sockets: a client library would be slower than the server.
    """
    parts = urlsplit(url)
    headers = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    asked = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n".encode()
    taken: list[float] = []
    began = time.perf_counter() + 0.2

    async def work(worker: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        count = 0
        while True:
            now = time.perf_counter()
            due = max(now, began) if rate is None else began + (worker + count * CONNECTIONS) / rate
            if due > began + SECONDS or now > began + 2 * SECONDS:
                break
            await asyncio.sleep(max(0.0, due - now))
            writer.write(asked)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            taken.append(time.perf_counter() - due)
            count += 1
        writer.close()

    await asyncio.gather(*(work(w) for w in range(CONNECTIONS)))
    return len(taken) / (time.perf_counter() - began), taken


def full_load(url: str) -> float:
    """Requests per second as fast as the server answers: with wrk where it is, else with `_load`."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return uvloop.run(_load(url, None))[0]
    headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", *headers, url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _FULL_LOAD.search(said)
    if found is None or "Non-2xx" in said:
        raise RuntimeError(said)
    return float(found[1])


def latency_ms(url: str, rate: float) -> tuple[float, float]:
    """99th percentile at `rate` requests per second [ms], and the rate this client reached."""
    reached, taken = uvloop.run(_load(url, rate))
    return float(np.percentile(taken, 99) * 1e3), reached


def fill(url: str) -> None:
    """Put three venues of a simulated BTC into the cache."""
    source, cache = SimulatedSource(7, days=2), Cache(url)
    cache.clear_markets()
    for rank, market in enumerate(source.markets()[:3]):
        MarketFollower(market, rank, source, cache, "balanced").backfill(source.history(market, lambda *_: None))
    cache.close()


def measure() -> Iterator[Result]:
    """Yield the figures of the server."""
    with TemporaryDirectory() as folder, BundledServer(Path(folder)) as server:
        fill(server.url)
        bare = [
            "uvicorn",
            "tests.benchmarks.bare:app",
            "--port",
            "PORT",
            "--log-level",
            "warning",
            "--no-server-header",
        ]
        raw = redis.Redis.from_url(server.url)
        raw.set(BARE_KEY, b"")
        for path in PATHS:
            name = path.split("?")[0]
            with (
                serving(["dashboard.cli", "web"], "/readyz", REDIS_URL=server.url) as base,
                serving(bare, "/bytes", REDIS_URL=server.url) as bare_base,
            ):
                with httpx.stream("GET", base + path, headers=HEADERS, timeout=60) as response:
                    body = b"".join(response.iter_raw())
                raw.set(BARE_KEY, body)
                # In turns, so that what else the machine does weighs on both.
                rounds = [(full_load(base + path), full_load(bare_base + "/bytes")) for _ in range(ROUNDS)]
                ours, theirs = (max(rates) for rates in zip(*rounds, strict=True))
                # At half of what a bare route does, beside it; and at half of ours, which a bare route may not reach.
                p99, reached = latency_ms(base + path, theirs / 2)
                bare_p99, _ = latency_ms(bare_base + "/bytes", theirs / 2)
                own_p99, own_reached = latency_ms(base + path, ours / 2)
            note = f"{ours:.0f}/s against {theirs:.0f}/s of a bare route"
            yield Result(
                f"server: {name}, of a bare route's requests/s", 100 * ours / theirs, "%", note, 80, at_least=True
            )
            note = f"{reached:.0f}/s of {theirs / 2:.0f}/s sent; bare route {bare_p99:.1f} ms"
            yield Result(f"server: {name}, p99 at half of a bare route's load", p99, "ms", note, 20)
            note = f"{own_reached:.0f}/s of {ours / 2:.0f}/s sent"
            yield Result(f"server: {name}, p99 at half of its own load", own_p99, "ms", note)
            target = 60 if name.endswith("chart") else None
            yield Result(f"server: {name}, 24h, compressed", len(body) / 1e3, "kB", target=target)
        raw.close()
