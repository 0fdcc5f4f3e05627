"""Nothing anybody asks breaks the server, makes it work without end, or comes back as a script."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.dashboard.hostile import MARK, SCRIPTS, attacks, run

COUNT = 1500  # of which `make hostile` asks ten thousand


@pytest.fixture(scope="module")
def site(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serve(redis_url, Settings(data=tmp_path_factory.mktemp("hostile"), snapshots_mb=4)) as client:
        yield client


def test_hostile_requests_break_nothing_and_get_nothing_back(site: httpx.Client) -> None:
    outcome = run(site, COUNT, seed=0)
    assert outcome.faults == []
    assert sum(outcome.statuses.values()) == COUNT
    assert {200, 404, 405, 422} <= set(outcome.statuses), "some get through, and some are refused in every way"
    assert outcome.statuses[200] > COUNT / 10
    assert site.get("/readyz").status_code == 200


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("page", ["/", "/embed", "/markets", "/tape", "/track-record", "/method", "/s/x", "/nope"])
def test_no_page_repeats_a_script(site: httpx.Client, page: str, script: str) -> None:
    for name in ("symbol", "find", "venues", script):
        answer = site.get(page, params={name: script, "theme": script})
        assert answer.status_code < 500
        at = answer.text.find(MARK)
        while at >= 0:  # wherever it is repeated, it stands as text
            around = answer.text[max(0, at - 40) : at]
            assert "<script>" not in around
            assert "onerror=" not in around or "&lt;img" in around or "%3Cimg" in around
            at = answer.text.find(MARK, at + 1)


def test_the_same_seed_asks_the_same() -> None:
    one, two, other = (list(attacks(50, seed, {})) for seed in (1, 1, 2))
    assert one == two != other


def test_there_is_no_way_up_from_any_folder(site: httpx.Client) -> None:
    folders = (
        b"/assets/",
        b"/_dash-component-suites/",
        b"/_dash-component-suites/dash/",
        b"/s/",
        b"/api/v1/snapshots/",
    )
    for path in folders:
        for up in (b"../", b"..%2f", b"%2e%2e/", b"..%5c", b"..%c0%af", b"%252e%252e%252f"):
            request = site.build_request("GET", "/")
            request.extensions = {**request.extensions, "target": path + up * 8 + b"etc/passwd"}
            answer = site.send(request)
            assert answer.status_code in (400, 404)
            assert "root:" not in answer.text
