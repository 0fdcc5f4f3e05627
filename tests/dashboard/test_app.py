"""How the application is put together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape

import httpx
from dash import html
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard import layout
from dashboard.app import create_app
from dashboard.files import FOR_GOOD
from dashboard.layout import Id
from dashboard.navigation import NAVIGATION
from dashboard.pages.embed import markup
from dashboard.view import RANGES
from estimator.cache import Cache
from estimator.settings import Settings
from tests.dashboard.conftest import serve


def test_the_web_server_carries_no_compiler() -> None:
    script = "import sys, dashboard.app, dashboard.pages.drawings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "dashboard.app" in loaded
    assert not {"numba", "llvmlite", "ccxt", "deltalake"} & set(loaded)


def test_every_callback_runs_in_the_browser() -> None:
    page = create_app(Settings(), Cache("redis://127.0.0.1:1")).state.page
    assert page.callback_map
    assert not [c for c in page.callback_map.values() if "callback" in c]


def test_where_nothing_is_shown_the_way_on_is(client: httpx.Client) -> None:
    page = client.get("/nowhere<b>?theme=light")
    assert page.status_code == 404
    assert "There is no such page" in page.text
    assert "/nowhere&lt;b&gt;" in page.text
    assert 'data-theme="light"' in page.text
    assert all(f'href="{e.path}' in page.text for e in NAVIGATION)
    assert "There is no such snapshot" in client.get("/s/gone").text
    assert client.get("/api/v1/nowhere").json()["path"] == "/api/v1/nowhere"


def test_the_description_of_the_api_is_a_page_of_the_site(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "<code>GET /api/v1/heatmap</code>" in page
    assert "such as <code>BTC</code>" in page
    assert all(f'href="{e.path}' in page for e in NAVIGATION)


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


def test_an_embed_needs_no_dash_and_works_as_the_very_first_request(redis_url: str) -> None:
    with serve(redis_url) as fresh:
        embed = fresh.get("/embed?symbol=BTC&theme=light")
        scripts = re.findall(r'<script[^>]* src="([^"]+)"', embed.text)
        assert all(fresh.get(unescape(s)).headers["cache-control"] == FOR_GOOD.decode() for s in scripts)
    assert [s for s in scripts if "plotly.min.js" in s]
    assert not [s for s in scripts if "_dash-component-suites" in s and "plotly" not in s]
    assert embed.headers["etag"]


def test_an_embed_has_the_parts_of_the_page_and_none_of_its_controls(client: httpx.Client) -> None:
    embed, drawn = client.get("/embed").text, markup(layout.build().children[-1])
    ids = set(re.findall(r' id="([^"]+)"', embed))
    assert {"banner", "status", "legend", "chart", "notice", "footer", "schema"} <= ids
    assert ids - {"schema"} <= set(re.findall(r' id="([^"]+)"', drawn))
    assert not ids & {Id.SYMBOL, Id.RANGE, Id.SHARE_LINK, Id.MAP}
    told = json.loads(re.findall(r'<script type="application/json" id="schema">(.*?)</script>', embed)[0])
    assert told["schema"] == layout.schema()


@given(st.text(max_size=40))
def test_text_of_components_stays_text(text: str) -> None:
    written = re.fullmatch(r'<span title="([^"]*)">([^<]*)</span>', markup(html.Span(text, title=text)), re.DOTALL)
    assert written is not None
    assert [unescape(part) for part in written.groups()] == [text, text]
