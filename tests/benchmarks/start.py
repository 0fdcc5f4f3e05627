"""`liqheat run`: from the command to a full cache, and the memory it takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from tests.benchmarks.report import Result, rss_mb
from tests.benchmarks.server import free_port

LIMIT_S: Final = 120.0
CHART: Final = "/api/v1/chart?symbol=BTC&range=24h"


def children(pid: int) -> dict[str, int]:
    """Process ids of what `liqheat run` started, by command."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[-2].decode(): int(child) for child in listed}


def complete(base: str) -> bool:
    """Whether the history of every market is there."""
    answer = httpx.get(base + "/readyz", timeout=30)
    return answer.status_code == 200 and answer.json()["complete"] >= 9


def _drawn(base: str) -> bool:
    return httpx.get(base + CHART, timeout=30).status_code == 200


def _ready(base: str) -> bool:
    return httpx.get(base + "/readyz", timeout=30).status_code == 200


def measure() -> Iterator[Result]:
    """Yield the figures of a start with an empty data folder and compiled kernels."""
    subprocess.run([sys.executable, "-m", "dashboard.cli", "warm"], check=True, capture_output=True)
    with running("--source", "simulated") as (base, run, began):
        yield from _watch(base, run, began)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running("--source", "auto", "--exchange-base", address) as (base, run, began):
            stage = "start: auto, no venue answers within 4 s, to the first market's chart"
            yield _until(stage, _drawn, 10, base, run, began)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """Run `liqheat run` on an empty folder: its address, its process, and when it was started. [s]"""
    with TemporaryDirectory() as folder:
        port, began = free_port(), time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, "-m", "dashboard.cli", "run", "--port", str(port), *arguments],
            env={**os.environ, "LIQHEAT_DATA": folder, "LIQHEAT_DAYS": "30", **environment},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}", run, began
        finally:
            run.terminate()
            run.wait(15)


def _watch(base: str, run: subprocess.Popen[bytes], began: float) -> Iterator[Result]:
    stages = (
        ("start: `liqheat run`, 30 simulated days, to /readyz", _ready, None),
        ("start: to the first market's chart", _drawn, 10),
        ("start: to all nine markets", complete, 15),
    )
    for name, reached, target in stages:
        yield _until(name, reached, target, base, run, began)
    started = children(run.pid)
    yield Result("memory: worker after the start, nine markets", rss_mb(started["worker"]), "MB", target=400)
    yield Result("memory: web after a chart", rss_mb(started["web"]), "MB", target=300)


def _until(
    name: str,
    reached: Callable[[str], bool],
    target: float | None,
    base: str,
    run: subprocess.Popen[bytes],
    began: float,
) -> Result:
    """Wait for a stage and say how long after the start it came."""
    while not holds(reached, base):
        if run.poll() is not None or time.perf_counter() - began > LIMIT_S:
            raise TimeoutError(name)
        time.sleep(0.02)
    return Result(name, time.perf_counter() - began, "s", target=target)


def holds(reached: Callable[[str], bool], base: str) -> bool:
    """Whether a server has reached a stage; not while it does not answer."""
    try:
        return reached(base)
    except httpx.TransportError:
        return False
