"""The server does what its description says, whatever is asked of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error, unsupported_method
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dashboard.app import create_app
from dashboard.described import EXAMPLES, JSON
from estimator.cache import Cache
from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.dashboard.sample import SHARES, sample_server
from tests.dashboard.test_band import put_bands
from tests.dashboard.test_measured import put_positions
from tests.dashboard.test_track import META, horizon
from tests.render_openapi import ASKED, SITE, SNAPSHOT, answered, freeze

# Of what a schema allows, some is refused all the same (min above max), or is not there yet (503, which is described):
# the test looks at those itself. A GET with a body is refused before anybody looks at its method.
NOT_HELD = (positive_data_acceptance, not_a_server_error, unsupported_method)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("described")
    with (
        sample_server(folder / "redis", levels=(0, 2, 3), coins=("BTC",)) as url,
        serve(url, Settings(data=folder, snapshots_mb=8)) as client,
    ):
        cache = Cache(url)
        put_bands(cache, tuple(SHARES))
        put_positions(cache)
        cache.track.put(META, {("all", "all"): {"horizons": {"1": horizon()}}})
        cache.close()
        yield client


@pytest.fixture(scope="module")
def name(site: httpx.Client) -> str:
    return str(freeze(site).json()["id"])


API = schemathesis.openapi.from_dict(create_app(Settings(), Cache("unix:///nowhere")).openapi())


@API.exclude(path_regex=r"stream$").parametrize()
@settings(
    max_examples=10, derandomize=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_answers_are_as_described(case: schemathesis.Case[Any], site: httpx.Client, name: str) -> None:
    if "name" in (case.path_parameters or {}) and len(str(case.path_parameters["name"])) % 2:
        case.path_parameters["name"] = name  # every other time one that there is
    answer = case.call(base_url=str(site.base_url), timeout=20)
    case.validate_response(answer, excluded_checks=list(NOT_HELD))
    assert answer.status_code < 500 or answer.status_code == 503


# ---- what the description itself says ----

OPERATIONS = [
    (path, method, told) for path, methods in API.raw_schema["paths"].items() for method, told in methods.items()
]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=[f"{m} {p}" for p, m, _ in OPERATIONS])
def test_every_route_says_what_it_is_takes_and_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"].endswith(".")
    assert [p["name"] for p in operation.get("parameters", ()) if not p.get("description")] == []
    answers = operation["responses"]
    forms = {(code, media): form for code, a in answers.items() for media, form in a.get("content", {}).items()}
    assert [at for at, form in forms.items() if "example" not in form and "examples" not in form] == []
    assert [code for code, a in answers.items() if not a["description"]] == []
    assert [code for code, a in answers.items() if code not in ("304", "422") and not a.get("content")] == []
    if path not in ("/healthz", "/readyz"):
        assert set(answers["429"]["headers"]) == {"Retry-After", "RateLimit-Policy", "RateLimit"}
    if method == "post":
        (body,) = operation["requestBody"]["content"].values()
        assert "$ref" in body["schema"]


@pytest.mark.parametrize("path", sorted(EXAMPLES))
def test_examples_are_what_the_server_answers(site: httpx.Client, name: str, path: str) -> None:
    """Run python -m tests.render_openapi where an answer has changed."""
    for media_type, example in EXAMPLES[path].items():
        now = answered(site, path, media_type, ASKED[path][media_type], name)
        if media_type == JSON:
            assert _form(now) == _form(example)
        else:
            assert now.splitlines()[0] == example.splitlines()[0]


def _form(value: Any, depth: int = 0) -> Any:
    """Names of fields, two deep."""
    if isinstance(value, dict) and depth < 2:
        return {name: _form(inner, depth + 1) for name, inner in value.items()}
    return None


def test_no_example_names_a_machine_but_this_one() -> None:
    hosts = set(re.findall(r"https?://[^/\"\\ ]+", json.dumps(EXAMPLES)))
    assert hosts <= {SITE}


def test_a_method_an_address_has_not_is_refused_with_those_it_has(site: httpx.Client, name: str) -> None:
    for path, methods in API.raw_schema["paths"].items():
        answer = site.request("DELETE", path.replace(SNAPSHOT, name))
        assert answer.status_code == 405
        allowed = {m.strip().lower() for m in answer.headers["allow"].split(",")}
        assert allowed - {"head"} == set(methods)
        assert answer.headers["content-type"].startswith("application/json" if path.startswith("/api/") else "")
