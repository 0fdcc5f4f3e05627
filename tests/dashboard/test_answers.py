"""Many who ask at once, and a store that does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic

import httpx
import redis

from dashboard.answers import MAX_WAITING, PACE_S, STATUS_AGE_S, Answers
from dashboard.view import ViewState
from estimator.cache import Cache
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve
from tests.dashboard.sample import fill_cache


def _path(number: int) -> str:
    return f"/api/v1/chart?symbol=BTC&range=24h&min={number / 1000}"


def test_more_views_than_can_be_drawn_are_put_off_and_the_statuses_are_not_kept_waiting(client: httpx.Client) -> None:
    with ThreadPoolExecutor(3 * MAX_WAITING) as callers:
        asked = [callers.submit(client.get, _path(number)) for number in range(3 * MAX_WAITING)]
        time.sleep(0.2)
        began = time.monotonic()
        assert httpx.get(client.base_url.join("/api/v1/markets")).status_code == 200
        took = time.monotonic() - began
        answers = [one.result() for one in asked]
    codes = Counter(a.status_code for a in answers)
    assert set(codes) == {200, 503}
    assert codes[200] >= MAX_WAITING
    assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
    assert took < 2


def test_nothing_is_drawn_for_clients_that_left(client: httpx.Client) -> None:
    host, port = client.base_url.host, client.base_url.port or 80
    for number in range(MAX_WAITING):
        with socket.create_connection((host, port)) as raw:
            raw.sendall(f"GET {_path(500 + number)} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    time.sleep(0.1)
    with ThreadPoolExecutor(MAX_WAITING // 2) as callers:
        codes = callers.map(lambda n: client.get(_path(n)).status_code, range(600, 600 + MAX_WAITING // 2))
        assert set(codes) == {200}


def test_what_was_not_begun_when_the_last_who_asked_left_is_never_drawn(cache: Cache) -> None:
    async def scene() -> int:
        answers = Answers(cache)
        await answers.statuses()
        asked = [asyncio.create_task(answers.chart(ViewState("BTC", min=n / 1000))) for n in range(30)]
        await asyncio.sleep(0.02)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0)
        assert not answers._flights
        await asyncio.sleep(0.05)
        begun = len(answers._memory)
        await asyncio.to_thread(answers._drawing.shutdown)
        await asyncio.sleep(0.05)
        await cache.aclose()
        return len(answers._memory) - begun

    assert asyncio.run(scene()) <= (os.cpu_count() or 1)


def test_a_view_of_a_market_that_never_rests_is_drawn_once_a_second_and_ends_up_to_date(tmp_path: Path) -> None:
    async def scene(cache: Cache) -> None:
        answers, status = Answers(cache), cache.get_statuses()[0]
        asked, began = [], monotonic()
        while monotonic() - began < 2.5 * PACE_S:
            status = replace(status, version=status.version + 1)
            await asyncio.to_thread(cache.put_status, status)
            asked += [asyncio.create_task(answers.chart(ViewState("BTC"))) for _ in range(5)]
            await asyncio.sleep(0.1)
        await asyncio.gather(*asked)
        assert answers.served["drawn"] <= (monotonic() - began) / PACE_S + 1
        await asyncio.sleep(STATUS_AGE_S)
        await asyncio.sleep(PACE_S)
        await asyncio.to_thread(cache.put_status, replace(status, version=status.version + 1))
        joined = answers.served["flight"]
        last, same = await asyncio.gather(answers.chart(ViewState("BTC")), answers.chart(ViewState("BTC")))
        assert last == same
        assert answers.served["flight"] == joined + 1, "who asks during a drawing waits for that one"
        assert last.etag == await answers.etag("chart", ViewState("BTC"))
        assert len(answers._drawn_at) == 1
        await cache.aclose()

    with BundledServer(tmp_path) as server:
        cache = Cache(server.url)
        fill_cache(cache, levels=(0,), coins=("BTC",))
        asyncio.run(scene(cache))
        cache.close()


def test_a_flood_of_distinct_views_draws_each_of_them_once_in_all_processes(redis_url: str) -> None:
    """Six ask for each view at once, of two servers on one Redis."""

    def drawn(site: httpx.Client) -> float:
        lines = [line for line in site.get("/metrics").text.splitlines() if 'from="drawn"' in line]
        return sum(float(line.split()[1]) for line in lines)

    def ask(turn: tuple[httpx.Client, int]) -> int:
        site, number = turn
        for _ in range(60):
            code = site.get(f"/api/v1/chart?symbol=BTC&range=24h&max={0.5 + number / 1000}").status_code
            if code != 503:
                return code
            time.sleep(0.2)
        return code

    with serve(redis_url) as one, serve(redis_url) as other, ThreadPoolExecutor(24) as callers:
        turns = [(site, number) for number in range(40) for site in (one, other) * 3]
        assert set(callers.map(ask, turns)) == {200}
        assert drawn(one) + drawn(other) == 40


def test_a_view_of_ones_own_window_stays_out_of_redis(client: httpx.Client, redis_url: str) -> None:
    def stored() -> set[bytes]:
        return set(store.keys("liqheat:v1:view:*"))

    with redis.Redis.from_url(redis_url) as store:
        before = stored()
        for path in ("chart?symbol=BTC&price=58000,66000", "heatmap?symbol=BTC&format=csv", "map?price=58000,66000"):
            assert client.get("/api/v1/" + path).status_code == 200
        assert stored() == before
        assert client.get("/api/v1/map?symbol=BTC&venues=okx&side=long").status_code == 200
        assert len(stored() - before) == 1


def test_a_store_that_hangs_is_a_503_within_three_seconds(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        cache = Cache(server.url)
        fill_cache(cache, levels=(0,), coins=("BTC",))
        cache.close()
        with serve(server.url) as client:
            assert client.get("/api/v1/chart?symbol=BTC").status_code == 200
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            try:
                time.sleep(0.3)
                for path in ("/api/v1/chart?symbol=BTC", "/readyz", "/api/v1/markets"):
                    began = time.monotonic()
                    assert client.get(path).status_code == 503
                    assert time.monotonic() - began < 3
                began = time.monotonic()
                assert client.get("/healthz").status_code == 200
                assert time.monotonic() - began < 0.5
            finally:
                os.kill(server.pid, signal.SIGCONT)
