"""How the application is put together."""

from __future__ import annotations

import json
import re

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard.app import create_app
from dashboard.view import RANGES
from estimator.cache import Cache
from estimator.settings import Settings
from tests.dashboard.conftest import serve


def test_every_callback_runs_in_the_browser() -> None:
    page = create_app(Settings(), Cache("redis://127.0.0.1:1")).state.page
    assert page.callback_map
    assert not [c for c in page.callback_map.values() if "callback" in c]


_queries = st.lists(
    st.tuples(
        st.sampled_from(
            ["symbol", "venues", "range", "tiers", "side", "lens", "min", "max", "price", "panels", "format"]
        ),
        st.one_of(
            st.sampled_from(
                ["BTC", "okx,binance", *RANGES, "50x", "all", "none", "long", "density", "0.5", "csv", "binary"]
            ),
            st.text(max_size=12),
            st.floats(allow_nan=True).map(str),
            st.tuples(st.floats(1e-3, 1e7), st.floats(1e-3, 1e7)).map(lambda p: f"{min(p)},{max(p)}"),
        ),
    ),
    max_size=4,
)


@given(_queries)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_breaks_the_server(client: httpx.Client, query: list[tuple[str, str]]) -> None:
    answer = client.get("/api/v1/heatmap", params=httpx.QueryParams(tuple(query)))
    # 503: a range the sample does not hold.
    assert answer.status_code in (200, 422, 503), answer.text
    if answer.status_code == 422:
        assert {"parameter", "value", "accepted"} <= set(answer.json())


def test_a_malformed_page_address_still_gets_the_page(client: httpx.Client) -> None:
    answer = client.get("/?symbol=%3Cscript%3E&range=9h")
    assert answer.status_code == 200
    assert "<script>&" not in answer.text


def test_the_layout_holds_no_data(client: httpx.Client) -> None:
    layout = client.get("/_dash-layout")
    assert len(layout.content) < 40_000
    assert "bdata" not in json.dumps(layout.json())


def test_an_embed_works_as_the_very_first_request(redis_url: str) -> None:
    with serve(redis_url) as fresh:
        embed, page = fresh.get("/embed?symbol=BTC"), fresh.get("/")
    scripts = [set(re.findall(r'src="([^"]+)"', answer.text)) for answer in (embed, page)]
    assert scripts[0] == scripts[1]
    assert any(s.startswith("/assets/") for s in scripts[0])
