"""The API as its callers see it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from PIL import Image

from dashboard.api import negotiate
from dashboard.export import Form
from dashboard.view import ViewError
from estimator.cache import Cache
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve


def test_the_chart_comes_compressed_and_is_not_sent_twice(client: httpx.Client) -> None:
    first = client.get("/api/v1/chart?symbol=BTC")
    assert first.status_code == 200
    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) <= 60_000
    assert set(first.json()) == {"figure", "map", "readings"}
    again = client.get("/api/v1/chart?symbol=BTC", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = client.get("/api/v1/chart?symbol=BTC", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == first.json()


def test_one_picture_has_one_answer_however_it_is_spelled(client: httpx.Client) -> None:
    one = client.get("/api/v1/chart?symbol=BTC&venues=okx,binance&range=24h")
    other = client.get("/api/v1/chart?venues=binance,okx&symbol=BTC&side=both")
    assert one.headers["etag"] == other.headers["etag"]


def test_without_a_coin_the_first_market_is_meant(client: httpx.Client) -> None:
    assert (client.get("/api/v1/chart")).json()["readings"]["symbol"] == "BTC"


@pytest.mark.parametrize("path", ["chart", "heatmap", "map", "liquidations"])
@pytest.mark.parametrize(
    ("query", "parameter", "value"),
    [
        ("range=9h", "range", "9h"),
        ("symbol=NOPE", "symbol", "NOPE"),
        ("venues=mexc", "venues", "mexc"),
        ("price=1,1e300", "price", "1,1e+300"),
        ("colour=red", "colour", "red"),
        ("symbol=%00%ff<script>", "symbol", "\x00�<script>"),
    ],
)
def test_a_wrong_value_is_named(client: httpx.Client, path: str, query: str, parameter: str, value: str) -> None:
    answer = client.get(f"/api/v1/{path}?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["parameter"], body["value"]) == (parameter, value)
    assert body["accepted"]


def _heatmap(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.get("/api/v1/heatmap?symbol=BTC", **more)
    body: dict[str, Any] = answer.json()
    return body


def test_heatmap_json_has_the_shape_people_migrate_from(client: httpx.Client) -> None:
    body = _heatmap(client)
    assert {"y_axis", "liquidation_leverage_data", "price_candlesticks", "update_time", "provenance"} <= set(body)
    cells = np.array(body["liquidation_leverage_data"])
    assert cells[:, 0].max() < len(body["x_axis_ms"])
    assert cells[:, 1].max() < len(body["y_axis"])
    assert cells[:, 2].min() >= body["provenance"]["left_out_below_usd"] * 0.99
    assert body["provenance"]["share_of_usd_kept"] > 0.9
    assert len(body["price_candlesticks"][0]) == 6
    assert body["provenance"]["origin"] == "simulated"
    assert body["provenance"]["basis"]["levels"] == "estimated"


def test_every_form_tells_the_same_levels(client: httpx.Client) -> None:
    def get(accept: str) -> bytes:
        answer = client.get("/api/v1/heatmap?symbol=BTC", headers={"Accept": accept})
        assert answer.headers["content-type"].split(";")[0] == accept
        return answer.content

    arrow = pl.read_ipc_stream(io.BytesIO(get("application/vnd.apache.arrow.stream")))
    csv = pl.read_csv(io.BytesIO(get("text/csv")))
    assert csv.height == arrow.height
    assert set(csv["origin"]) == {"simulated"}
    assert csv["long_usd"].sum() == pytest.approx(arrow["long_usd"].sum(), rel=1e-4)

    raw = get("application/octet-stream")
    assert raw[:4] == b"LQHM"
    (length,) = struct.unpack_from("<I", raw, 4)
    header = json.loads(raw[8 : 8 + length])
    codes = np.frombuffer(raw, np.uint8, offset=8 + length).reshape(2, header["n_price"], header["n_time"])
    usd = np.where(codes > 0, np.exp(header["log_min"] + codes.astype(float) * header["log_step"]), 0)
    assert usd[0].sum() == pytest.approx(arrow["long_usd"].sum(), rel=0.01)
    assert usd[1].sum() == pytest.approx(arrow["short_usd"].sum(), rel=0.01)

    body = _heatmap(client)
    kept = np.array(body["liquidation_leverage_data"])[:, 2].sum()
    total = arrow.select(pl.sum("long_usd", "short_usd")).row(0)
    assert kept == pytest.approx(sum(total) * body["provenance"]["share_of_usd_kept"], rel=0.01)


def test_the_preview_is_a_picture_of_the_agreed_size(client: httpx.Client) -> None:
    for answer in (
        client.get("/preview.png?symbol=BTC&theme=light"),
        client.get("/api/v1/heatmap?symbol=BTC&theme=light&format=png"),
    ):
        image = Image.open(io.BytesIO(answer.content))
        assert (image.format, image.size) == ("PNG", (1200, 630))
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 50


def test_accept_is_weighed() -> None:
    assert negotiate("*/*") is Form.JSON
    assert negotiate("text/html, image/png;q=0.5, text/csv;q=0.9") is Form.CSV
    assert negotiate("application/octet-stream") is Form.BINARY
    assert negotiate("image/*") is Form.PNG
    with pytest.raises(ViewError):
        negotiate("text/html")
    with pytest.raises(ViewError):
        negotiate("application/json;q=0")


def test_map_prints_and_markets(client: httpx.Client) -> None:
    levels = (client.get("/api/v1/map?symbol=BTC")).json()
    assert len(levels["tiers"]["50x+"]["long_usd"]) == len(levels["price_edges"]) - 1
    prints = (client.get("/api/v1/liquidations?symbol=BTC&venues=okx")).json()
    assert {row[1] for row in prints["rows"]} == {"okx"}
    times = [row[0] for row in prints["rows"]]
    assert times == sorted(times, reverse=True)
    markets = (client.get("/api/v1/markets")).json()["markets"]
    assert [m["exchange"] for m in markets] == ["binance", "bybit", "okx"]
    assert all(m["provenance"]["origin"] == "simulated" for m in markets)
    assert "measured" not in json.dumps(markets)


@pytest.mark.parametrize(
    "path", ["/", "/embed?symbol=BTC", "/api/v1/chart?symbol=BTC", "/preview.png?symbol=BTC", "/healthz", "/nope"]
)
def test_head_answers_like_get_without_the_body(client: httpx.Client, path: str) -> None:
    whole, bare = client.get(path), client.head(path)
    assert (bare.status_code, bare.content) == (whole.status_code, b"")
    for name in ("content-type", "content-length", "etag"):
        assert bare.headers.get(name) == whole.headers.get(name)


def test_a_form_there_is_not_is_not_acceptable(client: httpx.Client) -> None:
    answer = client.get("/api/v1/heatmap?symbol=BTC", headers={"Accept": "application/pdf"})
    assert answer.status_code == 406
    assert "text/csv" in answer.json()["accepted"]
    assert client.get("/api/v1/heatmap?symbol=BTC", headers={"Accept": "application/pdf, */*;q=0.1"}).is_success


@pytest.mark.parametrize(
    "path",
    ["/nope", "/api/v1/nope", "/api", "/_dash-nope", "/assets/../pyproject.toml", "/assets/%2e%2e/pyproject.toml"],
)
def test_what_is_not_there_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "build-backend" not in answer.text


@pytest.mark.parametrize("path", ["/", "/embed?symbol=BTC", "/docs", "/openapi.json", "/healthz", "/readyz"])
def test_pages_and_probes_answer(client: httpx.Client, path: str) -> None:
    assert (client.get(path)).status_code == 200


def test_every_route_of_ours_is_documented(client: httpx.Client) -> None:
    described = (client.get("/openapi.json")).json()["paths"]
    docs = (client.get("/docs")).text
    expected = {"chart", "heatmap", "map", "liquidations", "liquidations/stream", "markets", "source"}
    expected |= {"clusters", "signals", "cascade", "position", "band", "positions", "track-record", "stream", "alerts"}
    expected |= {"snapshots", *(f"snapshots/{{name}}{part}" for part in ("", "/chart", "/levels"))}
    assert {p.removeprefix("/api/v1/") for p in described if p.startswith("/api/v1/")} == expected
    assert all(path in docs for path in described)
    heatmap = described["/api/v1/heatmap"]["get"]
    assert set(heatmap["responses"]["200"]["content"]) >= {"image/png", "text/csv", "application/octet-stream"}
    assert {"422", "503"} <= set(heatmap["responses"])


def test_a_worker_that_is_starting_is_not_ready_and_says_how_far(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, serve(server.url) as client:
        bare = client.get("/readyz")
        assert (bare.status_code, bare.json()["progress"]) == (503, None)
        cache = Cache(server.url)
        cache.put_progress(0.25, "reading BTC")
        cache.close()
        told = client.get("/api/v1/chart?symbol=BTC")
        assert told.status_code == 503
        assert told.headers["retry-after"] == "1"
        assert told.json()["progress"] == 0.25
        assert "reading BTC" in told.json()["reason"]
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200


def test_a_cache_that_is_gone_is_a_503_not_a_500() -> None:
    with serve("redis://127.0.0.1:1") as client:
        for path in ("/readyz", "/api/v1/chart?symbol=BTC", "/api/v1/markets"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "does not answer" in answer.json()["reason"]
            assert "redis" not in answer.text.lower()
            assert "127.0.0.1" not in answer.text
        assert client.get("/healthz").status_code == 200
