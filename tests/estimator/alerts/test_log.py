"""What was told is remembered where a restart and other workers find it, and is not told again too soon."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.cache import Cache
from estimator.cache.alerts import MAX_ALERTS, MAX_DELIVERIES

MINUTE_MS = 60_000
NOW_MS = 1_768_487_400_000
ALERT: dict[str, Any] = {"rule": "near", "severity": "info", "market": "BTC", "title": "t", "text": "x"}
waits = st.lists(st.integers(0, 90 * MINUTE_MS), max_size=30)
names = iter(range(10**9))  # each example its own keys


def delivery(alert_id: str, target: str = "json", outcome: str = "sent", attempt: int = 1) -> dict[str, Any]:
    return {"time_ms": 1, "alerts": [alert_id], "target": target, "attempt": attempt, "outcome": outcome, "why": ""}


def test_no_two_alerts_about_the_same_are_told_within_the_cool_down(cache: Cache) -> None:
    @given(waits, st.integers(1, 60), st.booleans())
    @settings(max_examples=60)
    def holds(apart: list[int], cool_min: int, lasting: bool) -> None:  # noqa: FBT001 - hypothesis passes it
        key, now_ms, told = f"key {next(names)}", NOW_MS, []
        for step in apart:
            now_ms += step
            if cache.alerts.claim(key, now_ms, cool_min * MINUTE_MS, lasting=lasting):
                told.append(now_ms)
        assert all(b - a >= cool_min * MINUTE_MS for a, b in pairwise(told))
        assert bool(told) is bool(apart)

    holds()


def test_what_lasts_is_told_once_until_it_has_been_gone_for_the_cool_down(cache: Cache) -> None:
    def claim(minute: int) -> bool:
        return cache.alerts.claim("overheated", NOW_MS + minute * MINUTE_MS, 10 * MINUTE_MS, lasting=True)

    assert [claim(m) for m in (0, 5, 10, 15, 20, 29)] == [True, False, False, False, False, False]
    assert claim(38) is False
    assert claim(48) is True


def test_an_event_is_told_once_however_much_time_passes(cache: Cache) -> None:
    def claim(minute: int, event: str) -> bool:
        return cache.alerts.claim("prints", NOW_MS + minute * MINUTE_MS, 10 * MINUTE_MS, event=event)

    assert claim(0, "a")
    assert not claim(1, "b")  # within the cool-down
    assert claim(11, "c")
    assert not claim(30, "a")
    assert not claim(50, "b")  # it was seen, and is not news any more


def test_two_workers_tell_it_once(cache: Cache, url: str) -> None:
    other = Cache(url)
    claims = [c.alerts.claim("key", NOW_MS, MINUTE_MS) for c in (cache, other, cache, other)]
    other.close()
    assert claims == [True, False, False, False]


def test_what_was_told_outlives_the_start_of_a_worker(cache: Cache) -> None:
    assert cache.alerts.claim("key", NOW_MS, MINUTE_MS)
    cache.alerts.add(ALERT)
    cache.put_progress(1.0, "all ready")
    cache.clear_markets()
    assert cache.get_progress() is None
    assert not cache.alerts.claim("key", NOW_MS, MINUTE_MS)
    assert len(cache.alerts.recent(10)) == 1


def test_alerts_are_listed_newest_first_with_the_last_outcome_at_every_target(cache: Cache) -> None:
    first, second = cache.alerts.add(ALERT), cache.alerts.add({**ALERT, "market": "ETH"})
    cache.alerts.note(delivery(first))
    cache.alerts.note(delivery(second, "json", "failed"))
    cache.alerts.note(delivery(second, "json", "sent", 2))
    cache.alerts.note(delivery(second, "discord", "timed out"))
    newest, oldest = cache.alerts.recent(10)
    assert (newest["id"], newest["market"], oldest["id"]) == (second, "ETH", first)
    told = {d["target"]: (d["outcome"], d["attempt"]) for d in newest["deliveries"]}
    assert told == {"json": ("sent", 2), "discord": ("timed out", 1)}
    assert cache.alerts.recent(1) == [newest]
    assert cache.alerts.recent(1, before=second) == [oldest]
    assert cache.alerts.counts() == {
        ("alert", "near", "info"): 2, ("delivery", "json", "sent"): 2, ("delivery", "json", "failed"): 1,
        ("delivery", "discord", "timed out"): 1,
    }  # fmt: skip


def test_the_lists_are_bounded_and_forgotten_in_the_end(cache: Cache, url: str) -> None:
    for _ in range(MAX_ALERTS + 20):
        alert_id = cache.alerts.add(ALERT)
    for _ in range(MAX_DELIVERIES + 20):
        cache.alerts.note(delivery(alert_id))
    assert len(cache.alerts.recent(10 * MAX_ALERTS)) == MAX_ALERTS
    with redis.Redis.from_url(url) as raw:
        assert raw.xlen("liqheat:v1:alerts:deliveries") == MAX_DELIVERIES
        assert all(raw.ttl(key) > 0 for key in raw.scan_iter("liqheat:v1:alerts*"))


def test_rules_are_known_while_a_worker_says_so(cache: Cache, url: str) -> None:
    assert cache.alerts.rules() is None
    cache.alerts.put_rules([{"name": "near"}])
    assert cache.alerts.rules() == [{"name": "near"}]
    with redis.Redis.from_url(url) as raw:
        assert 0 < raw.ttl("liqheat:v1:alerts:rules") <= 120
        assert json.loads(raw.get("liqheat:v1:alerts:rules") or "") == [{"name": "near"}]
