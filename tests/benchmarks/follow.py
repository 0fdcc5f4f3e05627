"""One worker that follows a hundred coins on three venues: its share of a core, its memory, and how old a price is.

The venues are a process of their own (`tests.benchmarks.pace`); `liqheat run` follows them through the real clients;
pages follow as a browser does. Sizes can be set: FOLLOW_COINS, FOLLOW_SECONDS, FOLLOW_SETTLE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Final

import httpx
import numpy as np

from tests.benchmarks.pace import RECORD, VENUES, coins, names, rate
from tests.benchmarks.report import Result, cpu_s, rss_mb
from tests.benchmarks.server import free_port
from tests.benchmarks.start import children

COINS: Final = int(os.environ.get("FOLLOW_COINS", "100"))
SECONDS: Final = float(os.environ.get("FOLLOW_SECONDS", "90"))
SETTLE_S: Final = float(os.environ.get("FOLLOW_SETTLE", "60"))
LIMIT_S: Final = 1200.0
WATCHED: Final = (0, 5, 30, 80)  # ranks of the coins on somebody's screen

Seen = list[tuple[float, str, float]]  # when a page was told, of which market, which price


def measure() -> Iterator[Result]:
    """Yield the figures of following."""
    with TemporaryDirectory() as folder, _venues(Path(folder) / "sent") as (base, sent):
        began = time.perf_counter()
        with _following(Path(folder), base) as (page, run):
            _wait(page, COINS * len(VENUES), run)
            yield Result(
                f"follow: {COINS} coins × 3 venues, two days, until all are there", time.perf_counter() - began, "s"
            )
            time.sleep(SETTLE_S)
            yield from _watch(page, children(run.pid), sent)


def _watch(page: str, processes: dict[str, int], sent: Path) -> Iterator[Result]:
    worker, web = processes["worker"], processes["web"]
    seen: Seen = []
    over = Event()
    watched = [coins(COINS)[rank] for rank in WATCHED if rank < COINS]
    with ExitStack() as stack:
        stack.callback(over.set)
        for coin in watched:
            Thread(target=_look, args=(page, coin, seen, over), daemon=True).start()
        time.sleep(5.0)
        begins, used, web_used = time.time(), cpu_s(worker), cpu_s(web)
        rss = []
        while time.time() < begins + SECONDS:
            rss.append(rss_mb(worker))
            time.sleep(1.0)
        ends = time.time()
        used, web_used = cpu_s(worker) - used, cpu_s(web) - web_used
        time.sleep(3.0)
    share = used / (ends - begins)
    note = f"{rate(COINS):.0f} candle messages/s; web {100 * web_used / (ends - begins):.0f} %"
    yield Result("follow: worker, share of one core", 100 * share, "%", note, 50)
    yield Result("follow: worker, memory, the greatest of them", max(rss), "MB", f"PSS {pss_mb(worker):.0f} MB", 400)
    yield Result("follow: web, memory", rss_mb(web), "MB", target=300)
    redis = next(pid for pid in processes.values() if pid not in (worker, web))
    yield Result("follow: Redis, memory", rss_mb(redis), "MB")
    delays = late_s(sent, seen, begins, ends)
    note = f"{len(delays)} messages; median {np.median(delays):.2f} s, greatest {max(delays):.2f} s"
    yield Result("follow: venue's message to the page, p95", float(np.percentile(delays, 95)), "s", note, 1)


def late_s(sent: Path, seen: Seen, begins: float, ends: float) -> list[float]:
    """Seconds from each message of a venue to the first sign on a page of it or of one after it, market by market."""
    ids = names(COINS)
    waiting: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
    for number, close, at in RECORD.iter_unpack(sent.read_bytes()[: sent.stat().st_size // RECORD.size * RECORD.size]):
        if begins <= at <= ends:
            waiting[ids[number]].append((close, at))
    delays: list[float] = []
    for told_at, market_id, price in sorted(seen):
        queue = waiting[market_id]
        if any(close == price and at <= told_at for close, at in queue):
            while True:
                close, at = queue.popleft()
                delays.append(told_at - at)
                if close == price:
                    break
    return delays


def _look(page: str, coin: str, seen: Seen, over: Event) -> None:
    """Be a page that shows a coin: read what it is told, and fetch its chart as often as a page does."""
    fetched = 0.0
    with (
        suppress(httpx.TransportError),  # the server has ended
        httpx.Client(base_url=page, timeout=30, headers={"Accept-Encoding": "gzip"}) as client,
        client.stream("GET", f"/api/v1/stream?symbol={coin}&events=price") as told,
    ):
        for line in told.iter_lines():
            now = time.time()
            if over.is_set():
                return
            if line.startswith("data: "):
                seen += [(now, m["market"], m["mark_price"]) for m in json.loads(line[6:]).get("markets", ())]
            if now - fetched >= 2.0:
                fetched = now
                client.get(f"/api/v1/chart?symbol={coin}&range=24h")


@contextmanager
def _venues(sent: Path) -> Iterator[tuple[str, Path]]:
    command = [sys.executable, "-m", "tests.benchmarks.pace", str(COINS), str(sent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), sent
        finally:
            server.terminate()


@contextmanager
def _following(folder: Path, base: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "dashboard.cli", "run", "--port", str(port), "--source", "live"]
    chosen = ["--exchange-base", base, "--venues", ",".join(VENUES), "--markets", ",".join(coins(COINS))]
    environment = {**os.environ, "LIQHEAT_DATA": str(folder / "data"), "LIQHEAT_DAYS": "2"}
    with (folder / "log").open("wb") as log:
        run = subprocess.Popen([*command, *chosen], env=environment, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}", run
        except BaseException:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            run.terminate()
            run.wait(30)


def _wait(page: str, count: int, run: subprocess.Popen[bytes]) -> None:
    began, ready = time.perf_counter(), 0
    while ready < count:
        if run.poll() is not None or time.perf_counter() - began > LIMIT_S:
            raise TimeoutError(f"{ready} of {count} markets")
        time.sleep(1.0)
        try:
            ready = httpx.get(page + "/readyz", timeout=30).json().get("complete", 0)
        except httpx.TransportError:
            continue


def pss_mb(pid: int) -> float:
    """Memory of a process, what it shares divided among those that do. [MB]"""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
