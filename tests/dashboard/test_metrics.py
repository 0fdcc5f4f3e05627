"""``/metrics`` and ``/api/v1/source``: what they say, and to whom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from dashboard.metrics import may_read
from dashboard.sources import SILENT_MS, is_own_page, state
from estimator.cache import Cache, Choice, RecorderHealth, Rejected, StreamHealth, VenueHealth, WorkerHealth
from estimator.domain import Gap
from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.dashboard.sample import sample_server

NOW_MS = 1_800_000_000_000
RECORDER = RecorderHealth(7, 2_500, NOW_MS - 4_000, 90, 3, 1, "No space left on device: /srv/secret", overdue=False, columns_waiting=4)  # fmt: skip  # noqa: E501
BYBIT = VenueHealth(
    "bybit", 2, None,
    (StreamHealth("candles", connected=True, last_message_ms=NOW_MS - 1_500, reconnects=2),),
    (Gap(NOW_MS - 60_000, NOW_MS - 30_000, "candles"),),
    {"RateLimited": 4},
    (Rejected("open_interest", "sudden jump", 3),),
)  # fmt: skip
OKX = VenueHealth("okx", 0, "does not serve this region", (), (), {"RegionBlocked": 1}, ())


def worker(shard: int = 0, *venues: VenueHealth, time_ms: int = NOW_MS, shards: int = 2) -> WorkerHealth:
    return WorkerHealth(time_ms, NOW_MS - 90_000, shard, shards, 3, 300 << 20, 12.0, venues, RECORDER)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sample_server(tmp_path_factory.mktemp("metrics"), levels=(0,), coins=("BTC",)) as url:
        cache = Cache(url)
        cache.put_health(worker(0, BYBIT, OKX, shards=1))
        cache.close()
        yield url


@pytest.fixture(scope="module")
def site(url: str) -> Iterator[httpx.Client]:
    with serve(url) as client:
        yield client


@pytest.fixture
def cache(url: str) -> Iterator[Cache]:
    cache = Cache(url)
    yield cache
    with redis.Redis.from_url(url) as raw:
        raw.delete("liqheat:v1:choice", "liqheat:v1:choice:asked")
    cache.close()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(site: httpx.Client, name: str, **labels: str) -> float:
    return samples(site.get("/metrics").text)[name, frozenset(labels.items())]


# metrics


def test_metrics_tell_of_venues_recorder_worker_and_markets(site: httpx.Client) -> None:
    bybit, stream = {"shard": "0", "venue": "bybit"}, {"shard": "0", "venue": "bybit", "stream": "candles"}
    assert value(site, "liqheat_venue_up", **bybit) == 1
    assert value(site, "liqheat_venue_up", shard="0", venue="okx") == 0
    assert value(site, "liqheat_stream_connected", **stream) == 1
    assert value(site, "liqheat_stream_reconnects_total", **stream) == 2
    assert value(site, "liqheat_stream_gaps", **stream) == 1
    assert value(site, "liqheat_venue_errors_total", **bybit, kind="RateLimited") == 4
    assert value(site, "liqheat_venue_rejected_total", **bybit, what="open_interest", reason="sudden jump") == 3
    assert value(site, "liqheat_recorder_waiting_entries", shard="0") == 7
    assert value(site, "liqheat_recorder_lag_seconds", shard="0") == 2.5
    assert value(site, "liqheat_recorder_failing", shard="0") == 1
    assert value(site, "liqheat_recorder_rows_total", shard="0", fate="stored") == 90
    assert value(site, "liqheat_worker_resident_bytes", shard="0") == 300 << 20
    assert value(site, "liqheat_worker_loop_delay_seconds", shard="0") == 0.012
    assert value(site, "liqheat_redis_up") == 1
    market = {"market": "okx:BTC/USDT:USDT"}
    assert value(site, "liqheat_market_age_seconds", **market, origin="simulated") > 0
    assert value(site, "liqheat_market_gaps", **market, what="candles") == 1


def test_requests_are_counted_by_route_and_status_and_no_client_can_make_up_a_name(site: httpx.Client) -> None:
    def counted(method: str, route: str, status: str) -> float:
        key = frozenset({"method": method, "route": route, "status": status}.items())
        return samples(site.get("/metrics").text).get(("liqheat_http_requests_total", key), 0.0)

    chart = counted("GET", "/api/v1/chart", "200")
    bad = counted("GET", "/api/v1/chart", "422")
    other = counted("GET", "other", "404")
    site.get("/api/v1/chart?symbol=BTC")
    site.get("/api/v1/chart?symbol=BTC&range=9h")
    for name in ("a", "b", "%0aliqheat_redis_up 0"):
        site.get(f"/made-up-{name}")
    assert counted("GET", "/api/v1/chart", "200") == chart + 1
    assert counted("GET", "/api/v1/chart", "422") == bad + 1
    assert counted("GET", "other", "404") == other + 3
    site.request("PROPFIND", "/healthz")
    assert counted("other", "/healthz", "405") == 1
    routes = {dict(k[1]).get("route", "") for k in samples(site.get("/metrics").text)}
    assert not [r for r in routes if "made-up" in r]
    assert value(site, "liqheat_http_seconds_count", route="/api/v1/chart") >= 2


def test_a_view_is_drawn_once_and_then_remembered(site: httpx.Client) -> None:
    def served(origin: str) -> float:
        return samples(site.get("/metrics").text).get(("liqheat_answers_total", frozenset({("from", origin)})), 0.0)

    drawn, memory = served("drawn"), served("memory")
    for _ in range(3):
        site.get("/api/v1/chart?symbol=BTC&side=long&venues=okx")
    assert (served("drawn"), served("memory")) == (drawn + 1, memory + 2)


def test_without_redis_the_metrics_say_so() -> None:
    with serve("redis://127.0.0.1:1") as site:
        assert value(site, "liqheat_redis_up") == 0


def asked(headers: dict[str, str], peer: str | None = "127.0.0.1", path: str = "/metrics") -> Request:
    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    client = None if peer is None else (peer, 1234)
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw, "client": client,
    }  # fmt: skip
    return Request(scope)


@pytest.mark.parametrize(
    ("headers", "peer", "token", "seen"),
    [
        ({"host": "127.0.0.1:8050"}, "127.0.0.1", None, True),
        ({"host": "localhost"}, "::1", None, True),
        ({"host": "[::1]:8050"}, "::1", None, True),
        ({"host": "heat.example"}, "127.0.0.1", None, False),  # a proxy here, or a name that was made to point here
        ({"host": "127.0.0.1", "x-forwarded-for": "203.0.113.9"}, "127.0.0.1", None, False),
        ({"host": "127.0.0.1", "x-forwarded-server": "heat.example"}, "127.0.0.1", None, False),
        ({"host": "127.0.0.1", "cf-connecting-ip": "203.0.113.9"}, "127.0.0.1", None, False),
        ({"host": "127.0.0.1"}, "203.0.113.9", None, False),
        ({"host": "127.0.0.1"}, None, None, False),
        ({"host": "[::1"}, "127.0.0.1", None, False),
        ({}, "127.0.0.1", None, False),
        ({"host": "127.0.0.1"}, "127.0.0.1", "key", False),
        ({"host": "127.0.0.1", "authorization": "Bearer keys"}, "127.0.0.1", "key", False),
        ({"host": "127.0.0.1", "authorization": "Basic key"}, "127.0.0.1", "key", False),
        ({"host": "heat.example", "authorization": "Bearer key"}, "203.0.113.9", "key", True),
    ],
)
def test_metrics_are_for_this_machine_or_for_who_has_the_token(
    headers: dict[str, str], peer: str | None, token: str | None, *, seen: bool
) -> None:
    assert may_read(asked(headers, peer), token) is seen


def test_to_others_there_are_no_metrics(site: httpx.Client) -> None:
    hidden, absent = site.get("/metrics", headers={"host": "heat.example"}), site.get("/metricz")
    assert hidden.status_code == 404
    assert hidden.text == absent.text.replace("metricz", "metrics")


# the source


def test_venues_are_told_as_all_workers_find_them_together() -> None:
    other = VenueHealth(
        "bybit", 1, None, (StreamHealth("candles", connected=False, last_message_ms=NOW_MS - 9_000, reconnects=1),),
        (Gap(NOW_MS - 20_000, NOW_MS - 10_000, "liquidations"),), {"RateLimited": 1, "VenueDown": 2},
        (Rejected("open_interest", "sudden jump", 1),),
    )  # fmt: skip
    told = state(None, [worker(0, BYBIT, OKX), worker(1, other, time_ms=NOW_MS - SILENT_MS - 1)], NOW_MS)
    assert [w["silent"] for w in told["workers"]] == [False, True]
    bybit = told["venues"]["bybit"]
    assert bybit["markets"] == 3
    assert bybit["streams"] == {"candles": {"connected": False, "last_message_ms": NOW_MS - 1_500, "reconnects": 3}}
    assert [g["what"] for g in bybit["gaps"]] == ["candles", "liquidations"]
    assert bybit["errors"] == {"RateLimited": 5, "VenueDown": 2}
    assert bybit["rejected"] == [{"what": "open_interest", "reason": "sudden jump", "count": 4}]
    assert told["venues"]["okx"]["problem"] == "does not serve this region"


def test_what_ails_history_is_told_without_addresses_or_folders(site: httpx.Client) -> None:
    answer = site.get("/api/v1/source")
    assert answer.json()["history"] == {"waiting": 7, "lag_ms": 2_500, "failing": True}
    assert "secret" not in answer.text


def wish(site: httpx.Client, origin: str | None = None, **headers: str) -> httpx.Response:
    own = str(site.base_url).rstrip("/")
    given = {"origin": own if origin is None else origin, "sec-fetch-site": "same-origin", **headers}
    return site.post("/api/v1/source", json={"source": "live"}, headers={k: v for k, v in given.items() if v})


def test_a_visitor_asks_for_live_data_once_a_venue_answers(site: httpx.Client, cache: Cache) -> None:
    assert wish(site).status_code == 409  # a fixed source
    cache.choices.put(Choice("simulated", NOW_MS, {"okx": "no network"}))
    assert within_a_second(site, lambda told: told["choice"] is not None)["choice"]["problems"] == {"okx": "no network"}
    assert wish(site).json()["error"] == "no venue answers"
    cache.choices.put(Choice("simulated", NOW_MS, {}, ("okx",)))
    within_a_second(site, lambda told: told["choice"]["answering"] == ["okx"])
    assert not cache.choices.is_live_asked()
    assert wish(site).status_code == 202
    assert cache.choices.is_live_asked()
    assert site.get("/api/v1/source").json()["switching"]
    cache.choices.put(Choice("live", NOW_MS, {}))
    assert not within_a_second(site, lambda told: told["choice"]["source"] == "live")["switching"]
    assert wish(site).status_code == 409


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"referer": "http://127.0.0.1/embed?symbol=BTC"},
        {"referer": f"http://127.0.0.1/s/{'0' * 32}/embed"},
        {"origin": "http://["},
        {"referer": "http://["},
    ],
)
def test_no_other_site_and_no_frame_can_switch(site: httpx.Client, cache: Cache, foreign: dict[str, str]) -> None:
    cache.choices.put(Choice("simulated", NOW_MS, {}, ("okx",)))
    assert wish(site, **foreign).status_code == 403
    assert not cache.choices.is_live_asked()


@pytest.mark.parametrize(
    "body", [b"", b"source=live", b'{"source":"simulated"}', b'{"source":"live","x":1}', b'{"source":NaN}', b"[]"]
)
def test_only_the_one_wish_is_understood(site: httpx.Client, cache: Cache, body: bytes) -> None:
    cache.choices.put(Choice("simulated", NOW_MS, {}, ("okx",)))
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = site.post("/api/v1/source", content=body, headers={"content-type": kind, "origin": str(site.base_url)})
        assert answer.status_code == 422, answer.text
    assert not cache.choices.is_live_asked()


def test_behind_a_proxy_the_public_address_is_the_sites_own() -> None:
    headers = {"host": "127.0.0.1:8050", "origin": "https://heat.example", "sec-fetch-site": "same-origin"}
    assert not is_own_page(asked(headers), None)
    assert is_own_page(asked(headers), "https://heat.example/")


def test_a_server_may_keep_the_switch_to_itself(url: str, cache: Cache, tmp_path: Path) -> None:
    cache.choices.put(Choice("simulated", NOW_MS, {}, ("okx",)))
    with serve(url, Settings(allow_switch=False, data=tmp_path)) as site:
        assert site.get("/api/v1/source").json()["may_switch"] is False
        assert wish(site).status_code == 403
    assert not cache.choices.is_live_asked()


def within_a_second(site: httpx.Client, true: Any) -> dict[str, Any]:
    """The state once it is as expected: it may be a second old."""
    deadline = time.monotonic() + 3
    while not true(told := site.get("/api/v1/source").json()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true(told), told
    found: dict[str, Any] = told
    return found
