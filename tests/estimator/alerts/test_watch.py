"""What the page shows is what alerts are told of, once; whatever goes wrong, looking goes on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from dashboard.frame import read_statuses, select_statuses
from dashboard.insights import find_outlook_clusters, read_outlook
from dashboard.view import ViewState
from estimator.alerts import watch
from estimator.alerts.config import AlertConfig, Digest
from estimator.alerts.delivery import Post
from estimator.alerts.rules import Alert
from estimator.alerts.targets import make_targets
from estimator.alerts.watch import Watcher, watching
from estimator.cache import Cache, VenueHealth, WorkerHealth
from estimator.domain import Liquidation, Origin, Side
from estimator.errors import CacheUnavailable
from estimator.hours import read_hours
from estimator.model.rules import SignalRules
from estimator.model.signals import read_signals
from estimator.settings import Settings
from estimator.worker import alerting
from tests.dashboard.sample import AS_OF_MS, sample_server
from tests.estimator.alerts.conftest import Sink
from tests.waiting import within

NEAR: dict[str, Any] = {"kind": "cluster", "distance_percent": 15.0, "min_share_percent": 0.0}
BIG: dict[str, Any] = {"kind": "print", "min_usd": 1e9}
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """BTC on three venues."""
    with sample_server(tmp_path_factory.mktemp("watched"), levels=(0, 2, 3), coins=("BTC",)) as url:
        yield url


@pytest.fixture
def cache(url: str) -> Iterator[Cache]:
    cache = Cache(url)
    with redis.Redis.from_url(url) as raw:
        for key in raw.scan_iter("liqheat:v1:alerts*"):
            raw.delete(key)
    yield cache
    cache.close()


def config(*rules: dict[str, Any], **more: Any) -> AlertConfig:
    return AlertConfig.model_validate({"rule": list(rules), **more})


def watcher(cache: Cache, *rules: dict[str, Any], shard: tuple[int, int] = (0, 1), **more: Any) -> Watcher:
    wanted = config(*rules, **more)
    return Watcher(cache, wanted, Post([], cache.alerts, wanted.digest), shard=shard)


def liquidation(usd: float, time_ms: int = AS_OF_MS - 1000) -> Liquidation:
    return Liquidation(time_ms, Side.LONG, 96_000.0, usd / 96_000, usd)


def put_print(cache: Cache, usd: float, time_ms: int = AS_OF_MS - 1000) -> None:
    cache.add_liquidations("okx:BTC/USDT:USDT", [liquidation(usd, time_ms)])


# clusters and signals are those of the page


def test_clusters_are_those_the_page_shows(cache: Cache) -> None:
    view = ViewState("BTC")
    statuses = select_statuses(read_statuses(cache), view)
    shown = find_outlook_clusters(read_outlook(cache, view, statuses, read_hours(cache, statuses)))
    looking = watcher(cache, NEAR)
    alerts = looking.look(AS_OF_MS)
    (group,) = looking._groups.values()
    assert shown
    assert sorted(group.clusters, key=lambda c: c.price) == pytest.approx(sorted(shown, key=lambda c: c.price))
    assert {a.about for a in alerts} == {str(c.side) for c in shown}
    assert all(a.title.startswith("[SIMULATED] BTC: price ") and "(binance, bybit, okx)" in a.text for a in alerts)


def test_signals_are_those_of_the_last_full_hour(cache: Cache) -> None:
    looking = watcher(cache, {"kind": "overheated"}, {"kind": "squeeze", "venues": ["okx"]})
    looking.look(AS_OF_MS)
    statuses = select_statuses(read_statuses(cache), ViewState("BTC"))
    bars = read_hours(cache, statuses)
    by_venues = {len(ids): group.signals for ids, group in looking._groups.items()}
    assert by_venues[3] == read_signals(bars, rules=SignalRules())
    assert by_venues[1] is not None
    assert by_venues[1] != by_venues[3]


def test_what_was_read_is_held_against_the_price_of_now(cache: Cache) -> None:
    looking = watcher(cache, {**NEAR, "distance_percent": 0.01})
    assert looking.look(AS_OF_MS) == []
    (group,) = looking._groups.values()
    below = max((c for c in group.clusters if c.side is Side.LONG), key=lambda c: c.price)
    statuses = [s for s in cache.get_statuses() if s.base == "BTC"]
    try:
        for status in statuses:
            cache.put_status(replace(status, mark_price=below.high))
        (alert,) = looking.look(AS_OF_MS + MINUTE_MS)
    finally:
        for status in statuses:
            cache.put_status(status)
    assert "at a cluster of longs" in alert.title


def test_while_the_start_goes_on_a_coin_waits_for_all_its_venues(cache: Cache) -> None:
    status = next(s for s in cache.get_statuses() if s.exchange == "okx")
    try:
        cache.put_status(replace(status, last_ms=0))
        cache.put_progress(0.7, "estimating okx")
        assert watcher(cache, NEAR).look(AS_OF_MS) == []
        cache.put_progress(1.0, "2 markets ready")  # a venue that does not come is not waited for
        assert watcher(cache, NEAR).look(AS_OF_MS)
    finally:
        cache.put_status(status)
        cache.put_progress(1.0, "ready")


# prints


def test_a_large_print_is_told_once_and_not_by_the_next_worker(cache: Cache) -> None:
    looking = watcher(cache, BIG)
    assert looking.look(AS_OF_MS) == []
    put_print(cache, 1.5e9)
    (alert,) = looking.look(AS_OF_MS)
    assert alert.title == "[SIMULATED] BTC: long of $1.50B liquidated on OKX"
    assert looking.look(AS_OF_MS) == []
    hour_later = AS_OF_MS + 60 * MINUTE_MS  # the cool-down is over, the print is known
    assert watcher(cache, BIG).look(hour_later) == []


def test_a_print_of_long_ago_is_no_news(cache: Cache) -> None:
    looking = watcher(cache, {**BIG, "min_usd": 1.9e9})
    looking.look(AS_OF_MS)
    put_print(cache, 2.0e9, AS_OF_MS - 60 * MINUTE_MS)
    assert looking.look(AS_OF_MS) == []


# once


def keys(alerts: list[Alert]) -> set[str]:
    return {a.key for a in alerts}


def test_what_lasts_is_told_once_by_one_worker_after_the_other(cache: Cache) -> None:
    first = watcher(cache, NEAR).look(AS_OF_MS)
    assert first
    again = watcher(cache, NEAR)
    for minute in range(0, 600, 100):
        assert again.look(AS_OF_MS + minute * MINUTE_MS) == []
    gone_for = 600 + 121  # more than the cool-down of two hours
    assert keys(watcher(cache, NEAR).look(AS_OF_MS + gone_for * MINUTE_MS)) == keys(first)


@pytest.mark.parametrize("shards", [2, 3])
def test_of_several_workers_exactly_one_tells(cache: Cache, shards: int) -> None:
    put_print(cache, 2.5e9 + shards)
    told = [watcher(cache, NEAR, BIG, shard=(n, shards)).look(AS_OF_MS) for n in range(shards)]
    assert sum(bool(t) for t in told) == 1
    assert {a.kind for t in told for a in t} == {"cluster", "print"}


def test_in_a_quiet_time_an_alert_is_listed_and_not_sent(cache: Cache, sink: Sink) -> None:
    # `AS_OF_MS` is 14:32 UTC.
    wanted = config(
        {**NEAR, "name": "quiet"},
        quiet=[{"from": "14:00", "to": "15:00", "unless": "never"}],
        digest={"within_seconds": 0},
    )
    with Post(make_targets([sink.url("ok")]), cache.alerts, Digest(within_seconds=0)) as post:
        looking = Watcher(cache, wanted, post)
        told = looking.look(AS_OF_MS)
        later = looking.look(AS_OF_MS + 24 * 60 * MINUTE_MS - 60 * MINUTE_MS)  # 13:32
        assert told
        assert len(later) == len(told)
        assert within(10, lambda: sum(bool(a["deliveries"]) for a in cache.alerts.recent(50)) == len(later))
    assert [a["quiet"] for a in cache.alerts.recent(50)] == [False] * len(later) + [True] * len(told)


def test_what_is_told_is_counted_and_listed_with_its_rule(cache: Cache) -> None:
    (alert, *_) = watcher(cache, {**NEAR, "name": "near it"}).look(AS_OF_MS)
    newest = cache.alerts.recent(9)[-1]
    assert (newest["rule"], newest["kind"], newest["market"], newest["origin"]) == (
        "near it",
        "cluster",
        "BTC",
        "simulated",
    )
    assert newest["text"] == alert.text
    assert cache.alerts.rules() == [{"name": "near it", "kind": "cluster", "when": config(NEAR).rule[0].when()}]


def test_what_a_worker_told_and_had_not_sent_when_it_ended_is_sent_by_the_next_one(cache: Cache, sink: Sink) -> None:
    told = watcher(cache, NEAR).look(AS_OF_MS)  # it ends here: nothing was handed to any target
    wanted = config(NEAR)
    with Post(make_targets([sink.url("ok")]), cache.alerts, Digest(over=9, within_seconds=0)) as post:
        following = Watcher(cache, wanted, post)
        following.resume(AS_OF_MS + 11 * MINUTE_MS)  # too late to be news
        following.resume(AS_OF_MS + MINUTE_MS)
        assert within(10, lambda: all(a["deliveries"] for a in cache.alerts.recent(9)))
        following.resume(AS_OF_MS + MINUTE_MS)
        Watcher(cache, wanted, post, shard=(1, 2)).resume(AS_OF_MS + MINUTE_MS)
        assert following.look(AS_OF_MS + MINUTE_MS) == []
    assert [m["title"] for m in sink.at("/ok")] == [a.title for a in told]


# venues


def test_a_live_venue_that_falls_silent_is_told_and_a_simulated_one_is_not(cache: Cache) -> None:
    stale = {"kind": "stale", "seconds": 60}
    now_ms = AS_OF_MS + 5 * MINUTE_MS
    assert watcher(cache, stale).look(now_ms) == []
    status = next(s for s in cache.get_statuses() if s.exchange == "bybit")
    problem = VenueHealth("gate", 0, "it does not serve this region", (), (), {}, ())
    health = WorkerHealth(now_ms, now_ms - 10 * MINUTE_MS, 0, 1, 1, 1, 0.0, (problem,), None)
    try:
        cache.put_status(replace(status, origin=Origin.LIVE))
        cache.put_health(health)
        alerts = watcher(cache, stale).look(now_ms)
    finally:
        cache.put_status(status)
        cache.put_health(replace(health, venues=()))
    assert {(a.market, a.severity) for a in alerts} == {("bybit", "critical"), ("gate", "critical")}
    assert any(a.text.endswith("It is not followed: it does not serve this region.") for a in alerts)


def test_origins_that_are_not_asked_for_have_no_alerts(cache: Cache) -> None:
    wanted = config(NEAR, BIG)
    put_print(cache, 3e9)
    live = Watcher(cache, wanted, Post([], cache.alerts, wanted.digest), origins=(Origin.LIVE,))
    assert live.look(AS_OF_MS) == []


def test_where_nothing_is_configured_nothing_is_loaded(url: str) -> None:
    program = """
import sys
from estimator.cache import Cache
from estimator.settings import Settings
from estimator.worker import alerting
with alerting(Settings(source="simulated"), Cache(sys.argv[1])):
    print([m for m in ("apprise", "estimator.alerts.watch", "estimator.alerts.delivery") if m in sys.modules])
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIQHEAT_")}
    done = subprocess.run(
        [sys.executable, "-c", program, url], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("source", "tells"), [("simulated", True), ("auto", False)])
def test_a_market_simulated_for_want_of_venues_has_no_alerts(
    url: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, *, tells: bool
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    file = tmp_path / "alerts.toml"
    file.write_text('[[rule]]\nkind = "cluster"\ndistance_percent = 15\nmin_share_percent = 0\n')
    settings = Settings.model_validate({"source": source, "alerts_file": file, "REDIS_URL": url})
    looks: list[int] = []
    look = Watcher.look
    monkeypatch.setattr(Watcher, "look", lambda self, now_ms: looks.append(len(look(self, now_ms))))
    with alerting(settings, cache):
        assert within(20, lambda: len(looks) >= 3)
    assert bool(sum(looks)) is tells
    assert bool(cache.alerts.recent(9)) is tells


# whatever goes wrong


def test_without_redis_it_waits_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    away = Cache("redis://127.0.0.1:1")
    looking = watcher(away, NEAR)
    with pytest.raises(CacheUnavailable):
        looking.look(AS_OF_MS)
    stop = threading.Event()
    thread = threading.Thread(target=looking.run, args=(stop,), daemon=True)
    with caplog.at_level(logging.WARNING):
        thread.start()
        assert within(10, lambda: "alerts wait" in caplog.text)
        stop.set()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert caplog.text.count("alerts wait") == 1
    away.close()


def test_watching_sends_what_it_sees(cache: Cache, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    wanted = config(NEAR, targets=[sink.url("ok")], digest={"over": 9, "within_seconds": 0})
    with watching(cache, wanted, tuple(Origin)):
        assert within(20, lambda: len(sink.at("/ok")) == len(cache.alerts.recent(50)) > 0)
    assert all(m["title"].startswith("[SIMULATED] BTC: price") for m in sink.at("/ok"))
