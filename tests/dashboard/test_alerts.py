"""``/api/v1/alerts`` and the counts of alerts: what was told, to whom, and no address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from estimator.cache import Cache
from estimator.cache.alerts import MAX_ALERTS
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve
from tests.dashboard.test_metrics import value

ALERT: dict[str, Any] = {
    "rule": "big", "kind": "print", "severity": "warning", "market": "okx:BTC/USDT:USDT", "origin": "live",
    "title": "BTC: long liquidated", "text": "A long was liquidated.", "time_ms": 1, "told_ms": 2, "quiet": False,
    "about": "", "event": "e",
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BundledServer(tmp_path_factory.mktemp("told")) as server:
        yield server.url


@pytest.fixture(scope="module")
def site(url: str) -> Iterator[httpx.Client]:
    with serve(url) as client:
        yield client


@pytest.fixture(scope="module")
def ids(url: str, site: httpx.Client) -> list[str]:
    """Two alerts, the second delivered to one of two; told after the first answer of the site."""
    before = site.get("/api/v1/alerts?limit=3").json()
    assert (before["rules"], before["alerts"]) == (None, [])
    cache = Cache(url)
    told = [cache.alerts.add(ALERT), cache.alerts.add({**ALERT, "title": "second", "severity": "critical"})]
    for target, outcome, attempt in (("json", "sent", 1), ("discord", "failed", 1), ("discord", "failed", 2)):
        shown = {
            "time_ms": 5,
            "alerts": told[1:],
            "target": target,
            "attempt": attempt,
            "outcome": outcome,
            "why": "HTTP 500",
        }
        cache.alerts.note(shown)
    cache.alerts.put_rules([{"name": "big", "kind": "print", "when": "a liquidation is at least $1.00M"}])
    cache.close()
    return told


def test_alerts_are_listed_newest_first_with_rules_and_outcomes(site: httpx.Client, ids: list[str]) -> None:
    answer = site.get("/api/v1/alerts?limit=10")
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["rules"] == [{"name": "big", "kind": "print", "when": "a liquidation is at least $1.00M"}]
    newest, oldest = told["alerts"]
    assert [newest["id"], oldest["id"]] == ids[::-1]
    assert {n: oldest[n] for n in ("rule", "severity", "market", "title", "origin", "quiet", "deliveries")} == {
        "rule": "big", "severity": "warning", "market": "okx:BTC/USDT:USDT", "title": "BTC: long liquidated",
        "origin": "live", "quiet": False, "deliveries": [],
    }  # fmt: skip
    assert {d["target"]: (d["outcome"], d["attempt"]) for d in newest["deliveries"]} == {
        "json": ("sent", 1), "discord": ("failed", 2),
    }  # fmt: skip
    assert len(site.get("/api/v1/alerts?limit=1").json()["alerts"]) == 1


def test_pages_of_alerts_joined_are_all_of_them_whatever_is_told_meanwhile(
    site: httpx.Client, url: str, ids: list[str]
) -> None:
    first = site.get("/api/v1/alerts?limit=1")
    assert first.json()["next"] == ids[1]
    cache = Cache(url)
    cache.alerts.add({**ALERT, "severity": "info"})
    cache.close()
    last = site.get(re.fullmatch(r'<(/api/v1/alerts\?\S+)>; rel="next"', first.headers["link"])[1])  # type: ignore[index]
    assert [a["id"] for page in (first, last) for a in page.json()["alerts"]] == ids[::-1]
    assert (last.json()["next"], last.headers.get("link")) == (None, None)


@pytest.mark.parametrize("cursor", ["", "newest", "1-2-3", "-", "+", "(1-0", "1-٣", f"{'9' * 16}-0"])
def test_a_cursor_nobody_gave_is_named(site: httpx.Client, cursor: str) -> None:
    answer = site.get("/api/v1/alerts", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["parameter"]) == (422, "cursor")


@pytest.mark.parametrize("limit", ["0", "-1", "501", "1e3", "ten", "", "٣", "9" * 5000])
def test_a_limit_that_cannot_be_is_named(site: httpx.Client, limit: str) -> None:
    answer = site.get("/api/v1/alerts", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["parameter"] in ("limit", "query")


def test_the_description_says_what_may_be_asked(site: httpx.Client, ids: list[str]) -> None:
    assert ids
    described = site.get("/openapi.json").json()["paths"]["/api/v1/alerts"]["get"]
    limit, cursor = described["parameters"]
    assert cursor["name"] == "cursor"
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": MAX_ALERTS, "default": 50}
    example = described["responses"]["200"]["content"]["application/json"]["example"]
    answer = site.get("/api/v1/alerts").json()
    assert example.keys() == answer.keys()
    assert example["alerts"][0].keys() == answer["alerts"][0].keys()


def test_alerts_and_deliveries_are_counted(site: httpx.Client, ids: list[str]) -> None:
    assert len(ids) == 2
    assert value(site, "liqheat_alerts_total", rule="big", severity="warning") == 1
    assert value(site, "liqheat_alert_deliveries_total", target="discord", outcome="failed") == 2
    assert value(site, "liqheat_alert_deliveries_total", target="json", outcome="sent") == 1
