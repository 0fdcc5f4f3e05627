"""What one client may ask, and that no other pays for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from dashboard.limits import MINUTE_S, Budgets, Kind, TooMany, client_of
from dashboard.share import own_hosts
from dashboard.sources import is_own_page
from estimator.cache import Cache
from estimator.cache.counters import COUNTERS
from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.dashboard.test_metrics import asked

FREE = dict.fromkeys(Kind, 0)


@pytest.fixture
def counters(redis_url: str) -> str:
    """An address of a Redis in which nothing is counted yet."""
    with redis.Redis.from_url(redis_url) as raw:
        for key in raw.scan_iter(f"{COUNTERS}:*"):
            raw.delete(key)
    return redis_url


@asynccontextmanager
async def budgets(url: str, registry: CollectorRegistry | None = None, **most: int) -> AsyncIterator[Budgets]:
    """What one process counts."""
    cache, limits = Cache(url), FREE | {Kind(name): limit for name, limit in most.items()}
    yield Budgets(cache.counters, limits, 0, registry or CollectorRegistry())
    await cache.aclose()


def within_a_minute(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run once more where the minute, and with it the count, turned meanwhile."""
    began = time.time() // MINUTE_S
    try:
        asyncio.run(run())
    except AssertionError:
        if time.time() // MINUTE_S == began:
            raise
        asyncio.run(run())


async def _drained(some: Budgets) -> None:
    while some._tasks:
        await asyncio.gather(*some._tasks)


# ---- who ----


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("x" * 500, "x" * 64),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(host: str, client: str) -> None:
    assert client_of({"type": "http", "client": (host, 1)}) == client
    assert client_of({"type": "http", "client": None}) == ""


# ---- how much ----


def test_one_client_is_refused_beyond_its_limit_and_another_is_not(counters: str) -> None:
    async def run() -> None:
        async with budgets(counters, reads=10) as some:
            assert [some.take("a", Kind.READS) for _ in range(10)] == list(range(9, -1, -1))
            with pytest.raises(TooMany) as refused:
                some.take("a", Kind.READS)
            assert 1 <= refused.value.retry_s <= MINUTE_S
            assert some.take("b", Kind.READS) == 9
            assert [some.take("a", Kind.WRITES) for _ in range(99)][-1] > 10**9, "no limit"
            await _drained(some)

    within_a_minute(run)


def test_processes_share_a_limit_to_within_a_twentieth_each(counters: str) -> None:
    async def run() -> None:
        let_through = 0
        async with AsyncExitStack() as stack:
            crew = [await stack.enter_async_context(budgets(counters, computed=200)) for _ in range(3)]
            while crew:
                for one in list(crew):
                    try:
                        one.take("shared", Kind.COMPUTED)
                        let_through += 1
                    except TooMany:
                        crew.remove(one)
                    await _drained(one)
        assert 200 <= let_through <= 200 + 3 * 200 // 20

    within_a_minute(run)


def test_without_redis_each_process_goes_by_its_own_count_and_says_so() -> None:
    async def run() -> None:
        registry = CollectorRegistry()
        async with budgets("redis://127.0.0.1:1", registry, reads=40) as alone:
            for _ in range(40):
                alone.take("a", Kind.READS)
                await _drained(alone)
            with pytest.raises(TooMany):
                alone.take("a", Kind.READS)
        assert registry.get_sample_value("liqheat_limits_failures_total") == 1, "then it is left alone for a while"
        assert registry.get_sample_value("liqheat_limits_refused_total", {"limit": "reads"}) == 1

    within_a_minute(run)


def test_counts_are_forgotten_after_their_time(counters: str) -> None:
    async def run() -> None:
        cache = Cache(counters)
        assert await cache.counters.add("snapshots/x/1", 2, 60) == 2
        await cache.aclose()

    asyncio.run(run())
    with redis.Redis.from_url(counters) as raw:
        (key,) = raw.scan_iter(f"{COUNTERS}*snapshots/x/1")
        assert 0 < raw.ttl(key) <= 60


# ---- over HTTP ----


def test_beyond_the_limit_there_is_a_429_that_says_when_to_come_back(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_reads=30)) as site:
        answers = [site.get("/api/v1/markets?detail=offer") for _ in range(70)]  # more than two minutes' worth
        codes = {a.status_code for a in answers}
        refused = next(a for a in answers if a.status_code == 429)
        assert codes == {200, 429}
        assert 1 <= int(refused.headers["retry-after"]) <= MINUTE_S
        assert refused.headers["ratelimit-policy"] == '"reads";q=30;w=60'
        assert refused.headers["ratelimit"] == f'"reads";r=0;t={refused.headers["retry-after"]}'
        assert refused.json()["limit"] == "reads"
        assert "30 a minute" in refused.json()["error"]
        assert "default-src 'self'" in refused.headers["content-security-policy"]
        assert site.get("/healthz").status_code == 200, "probes are answered whoever asks"
        assert site.get("/assets/liqheat.css").status_code == 200
        assert 'liqheat_limits_refused_total{limit="reads"}' in site.get("/metrics").text


def test_what_is_worked_out_tells_how_much_is_left(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_computed=1000)) as site:
        told = [site.get("/api/v1/clusters?symbol=BTC").headers for _ in range(2)]
        assert told[0]["ratelimit-policy"] == '"computed";q=1000;w=60'
        left = [int(h["ratelimit"].split("r=")[1].split(";")[0]) for h in told]
        assert left[1] in (left[0] - 1, 999)
        assert "ratelimit" not in site.get("/api/v1/chart?symbol=BTC").headers


@pytest.mark.parametrize(
    "path", ["liquidations?symbol=all&min_usd=", "liquidations?sort=usd&limit=", "alerts?limit=", "markets?find="]
)
def test_lists_count_as_worked_out_where_they_have_to_be_made(counters: str, tmp_path: Path, path: str) -> None:
    with serve(counters, Settings(data=tmp_path, limit_computed=4)) as site:
        codes = [site.get(f"/api/v1/{path}{n}").status_code for n in range(1, 13)]
        assert codes.count(429) >= 2, codes
        assert codes.count(200) >= 4, codes


def test_new_views_count_as_worked_out_and_the_same_view_does_not(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_computed=4)) as site:
        same = [site.get("/api/v1/heatmap?symbol=BTC&range=12h").status_code for _ in range(12)]
        assert set(same) == {200}
        prices = [f"{90000 + n},{99000 + n}" for n in range(0, 2400, 200)]
        codes = [site.get(f"/api/v1/heatmap?symbol=BTC&range=12h&price={p}").status_code for p in prices]
        assert codes.count(429) >= 2, codes
        refused = site.get("/api/v1/heatmap?symbol=BTC&range=12h&price=91111,98888")
        assert refused.status_code in (200, 429)  # 200 where a minute has just begun
        assert site.get("/api/v1/heatmap?symbol=BTC&range=12h").status_code == 200, "what is kept costs nothing"


def test_the_table_of_a_snapshot_is_unpacked_once_for_all_who_ask(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_computed=4)) as site:
        made = [site.post("/api/v1/snapshots", json={"view": "symbol=BTC&range=12h"}).json() for _ in range(12)]
        same = [site.get(made[0]["levels_url"]).status_code for _ in range(12)]
        assert set(same) == {200}
        codes = [site.get(one["levels_url"]).status_code for one in made]
        assert codes.count(429) >= 2, codes


def test_a_visitor_cannot_fill_the_store_of_snapshots(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_snapshots=2, trusted_proxies="127.0.0.1")) as site:
        answers = [site.post("/api/v1/snapshots", json={"view": "symbol=BTC&range=12h"}) for _ in range(3)]
        assert [a.status_code for a in answers] == [201, 201, 429]
        assert "2 a day" in answers[-1].json()["error"]
        assert int(answers[-1].headers["retry-after"]) <= 86_400
        other = {"X-Forwarded-For": "198.51.100.9"}
        again = site.post("/api/v1/snapshots", json={"view": "symbol=BTC&range=12h"}, headers=other)
        assert again.status_code == 201, "another visitor, as a trusted proxy says"
    assert len(list((tmp_path / "snapshots").glob("*.zip"))) == 3


@pytest.mark.parametrize(("trusted", "codes"), [("127.0.0.1", {200}), ("192.0.2.1", {200, 429})])
def test_only_a_trusted_proxy_names_clients(counters: str, tmp_path: Path, trusted: str, codes: set[int]) -> None:
    settings = Settings(data=tmp_path, limit_reads=20, trusted_proxies=trusted)
    with serve(counters, settings) as site:
        named = [{"X-Forwarded-For": f"203.0.113.77, 198.51.100.{n}"} for n in range(50)]
        assert {site.get("/api/v1/markets?detail=offer", headers=h).status_code for h in named} == codes


def test_one_visitor_takes_only_so_many_streams_and_gives_them_back(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path, limit_streams=2)) as site, ExitStack() as held:
        held.enter_context(site.stream("GET", "/api/v1/liquidations/stream"))
        held.enter_context(site.stream("GET", "/api/v1/stream?symbol=BTC"))
        for path in ("/api/v1/liquidations/stream", "/api/v1/stream?symbol=BTC"):
            refused = site.get(path)
            assert (refused.status_code, refused.json()["limit"]) == (429, "streams")
        held.close()
        for _ in range(100):
            with site.stream("GET", "/api/v1/liquidations/stream") as again:
                if again.status_code == 200:
                    break
        assert again.status_code == 200


@pytest.mark.parametrize("proxies", ["*", "10.0.0.1/8", "proxy.example", "127.0.0.1;::1", ","])
def test_who_is_trusted_is_an_address_or_a_network(proxies: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        Settings(trusted_proxies=proxies)
    assert Settings(trusted_proxies="10.0.0.0/8, 2001:db8::/32,192.0.2.1")


# ---- whose pages may change something ----


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "[::1]:8050", "localhost:8050", "heatbox:8050", "a.localhost"])
def test_an_address_nobody_can_own_is_this_sites(host: str) -> None:
    assert own_hosts(host, None) == {host}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8050", "", "[", "evil.example.", "a.local:80"])
def test_a_name_somebody_may_own_is_not_unless_the_setting_says_so(host: str) -> None:
    """DNS rebinding: their page is at their own name, which they have made to point here."""
    assert own_hosts(host, None) == frozenset()
    assert own_hosts(host, "https://heat.example/") == {"heat.example"}
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    assert not is_own_page(asked(headers), None)


def test_a_rebound_name_makes_no_snapshot(counters: str, tmp_path: Path) -> None:
    with serve(counters, Settings(data=tmp_path)) as site:
        headers = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
        answer = site.post("/api/v1/snapshots", json={"view": "symbol=BTC"}, headers=headers)
        assert answer.status_code == 403
        assert "LIQHEAT_PUBLIC_URL" in answer.json()["error"]
    with serve(counters, Settings(data=tmp_path, public_url="https://heat.example")) as site:
        headers = {"Host": "heat.example", "Origin": "https://heat.example", "Sec-Fetch-Site": "same-origin"}
        assert site.post("/api/v1/snapshots", json={"view": "symbol=BTC"}, headers=headers).status_code == 201
