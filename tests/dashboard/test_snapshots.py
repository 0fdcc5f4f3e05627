"""What was frozen stays as it was, and only who has its name finds it."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import polars as pl
import pytest

from dashboard.snapshots import FORMAT, MAX_BYTES, DamagedSnapshot, Facts, Snapshots, SnapshotsFull, UnknownSnapshot
from estimator.cache import Cache
from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.dashboard.sample import AS_OF_MS, sample_server

VIEW = "symbol=BTC&range=12h&theme=light"
PARTS = ("", "/chart", "/levels?format=csv", "/levels?format=arrow")
FACTS = Facts(made_ms=2, as_of_ms=1, view=VIEW, symbol="BTC", range="12h", origin="simulated", source="made up")


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "snapshots", 1 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def site(redis_url: str, folder: Path) -> Iterator[httpx.Client]:
    with serve(redis_url, Settings(data=folder)) as client:
        yield client


def freeze(client: httpx.Client, view: str = VIEW) -> str:
    answer = client.post("/api/v1/snapshots", json={"view": view})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def frozen(site: httpx.Client) -> str:
    return freeze(site)


# ---- on disk ----


def test_what_was_saved_is_read_back_by_any_process(snapshots: Snapshots, tmp_path: Path) -> None:
    name = snapshots.save(FACTS, {"a": b"one", "b": b""})
    other = Snapshots(tmp_path / "snapshots", 0)
    assert other.facts(name) == FACTS
    assert [other.part(name, p) for p in ("a", "b")] == [b"one", b""]


def test_names_are_long_random_and_of_one_case(snapshots: Snapshots) -> None:
    names = {snapshots.save(FACTS, {}) for _ in range(8)}
    assert len(names) == 8
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)


def test_a_file_is_whole_and_read_only(snapshots: Snapshots, tmp_path: Path) -> None:
    name = snapshots.save(FACTS, {"a": b"one"})
    (file,) = (tmp_path / "snapshots").iterdir()
    assert file.name == f"{name}.zip"
    assert file.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("name", ["0" * 32, "../../etc/passwd", "", "A" * 32, "0" * 31 + "\n"])
def test_a_name_that_was_never_given_finds_nothing(snapshots: Snapshots, name: str) -> None:
    snapshots.save(FACTS, {})
    assert not snapshots.has(name)
    with pytest.raises(UnknownSnapshot):
        snapshots.part(name, "a")


def test_a_damaged_file_is_told_and_not_shown(snapshots: Snapshots, tmp_path: Path) -> None:
    name = snapshots.save(FACTS, {"a": b"some longer text"})
    file = tmp_path / "snapshots" / f"{name}.zip"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"longer", b"linger"))
    with pytest.raises(DamagedSnapshot, match="CRC"):
        snapshots.part(name, "a")


def test_a_snapshot_of_a_later_version_is_refused_by_name(snapshots: Snapshots) -> None:
    name = snapshots.save(FACTS.model_copy(update={"format": FORMAT + 1}), {})
    with pytest.raises(DamagedSnapshot, match=f"format {FORMAT + 1}"):
        snapshots.facts(name)


def test_the_folder_has_its_limit_and_so_has_a_snapshot(tmp_path: Path) -> None:
    small = Snapshots(tmp_path / "small", 5000)
    small.save(FACTS, {"a": b"x" * 3000})
    with pytest.raises(SnapshotsFull):
        small.save(FACTS, {"a": b"x" * 3000})
    with pytest.raises(SnapshotsFull, match="too large"):
        Snapshots(tmp_path / "large", 1 << 40).save(FACTS, {"a": b"x" * (MAX_BYTES + 1)})
    with pytest.raises(SnapshotsFull):
        Snapshots(tmp_path / "none", 0).save(FACTS, {"a": b"x"})
    assert not (tmp_path / "none").exists()


def test_snapshots_made_at_once_are_all_kept(snapshots: Snapshots) -> None:
    with ThreadPoolExecutor(8) as makers:
        names = list(makers.map(lambda n: snapshots.save(FACTS, {"a": b"%d" % n}), range(200)))
    assert [snapshots.part(name, "a") for name in names] == [b"%d" % n for n in range(200)]


# ---- over HTTP ----


def test_a_snapshot_tells_what_it_shows_and_where(site: httpx.Client, frozen: str) -> None:
    told = site.get(f"/api/v1/snapshots/{frozen}").json()
    assert (told["view"], told["as_of_ms"], told["origin"]) == (VIEW, AS_OF_MS, "simulated")
    assert told["basis"] == {"levels": "estimated"}
    for address in ("url", "embed_url", "picture_url", "chart_url", "levels_url"):
        assert site.get(told[address]).status_code == 200, address


def test_a_snapshot_is_what_the_view_was(site: httpx.Client, frozen: str) -> None:
    assert site.get(f"/api/v1/snapshots/{frozen}/chart").json() == site.get(f"/api/v1/chart?{VIEW}").json()
    assert site.get(f"/s/{frozen}/preview.png").content == site.get(f"/preview.png?{VIEW}").content
    levels = f"/api/v1/heatmap?{VIEW}&format="
    parts = f"/api/v1/snapshots/{frozen}/levels?format="
    assert site.get(f"{parts}csv").text == site.get(f"{levels}csv").text
    frames = [pl.read_ipc_stream(io.BytesIO(site.get(f"{at}arrow").content)) for at in (levels, parts)]
    assert frames[0].equals(frames[1])


def test_a_snapshot_outlives_the_cache_the_server_and_the_market(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Flushed, restarted, and another market in the store, as after a refit: every byte is as before."""
    settings = Settings(data=tmp_path)
    with (
        sample_server(tmp_path_factory.mktemp("before"), levels=(0,), coins=("BTC",)) as url,
        serve(url, settings) as one,
    ):
        name = freeze(one)
        before = [one.get(f"/api/v1/snapshots/{name}{part}").content for part in PARTS[1:]]
        picture = one.get(f"/s/{name}/preview.png").content
        redis = Cache(url)._redis
        redis.flushall()
        redis.close()
        assert one.get(f"/api/v1/chart?{VIEW}").status_code == 503
        assert [one.get(f"/api/v1/snapshots/{name}{part}").content for part in PARTS[1:]] == before
    with (
        sample_server(tmp_path_factory.mktemp("after"), levels=(0,), coins=("ETH",)) as url,
        serve(url, settings) as two,
    ):
        assert two.get(f"/api/v1/chart?{VIEW}").status_code == 422
        assert two.get(f"/s/{name}").status_code == 200
        assert [two.get(f"/api/v1/snapshots/{name}{part}").content for part in PARTS[1:]] == before
        assert two.get(f"/s/{name}/preview.png").content == picture


def test_a_snapshot_of_the_first_format_is_still_shown(redis_url: str, tmp_path: Path) -> None:
    """The file was written by the version that brought snapshots; later ones must read it as it is."""
    stored = Path(__file__).parent / "snapshot-format-1.zip"
    name = "0123456789abcdef" * 2
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / f"{name}.zip").write_bytes(stored.read_bytes())
    with serve(redis_url, Settings(data=tmp_path)) as site:
        facts, chart = (site.get(f"/api/v1/snapshots/{name}{p}").json() for p in ("", "/chart"))
        assert (facts["format"], facts["symbol"]) == (1, "BTC")
        assert chart["readings"]["as_of_ms"] == facts["as_of_ms"]
        assert {t["type"] for t in chart["figure"]["data"]} >= {"heatmap", "candlestick"}
        assert site.get(f"/s/{name}/preview.png").content.startswith(b"\x89PNG")
        rows = site.get(f"/api/v1/snapshots/{name}/levels?format=csv").text.splitlines()
        assert rows[0] == "time,price_low,price_high,long_usd,short_usd,origin"
    with zipfile.ZipFile(stored) as archive:
        assert gzip.decompress(archive.read("chart.json.gz")).startswith(b'{"figure"')


def test_what_never_changes_is_kept_by_browsers(site: httpx.Client, frozen: str) -> None:
    first = site.get(f"/api/v1/snapshots/{frozen}/chart")
    assert "immutable" in first.headers["cache-control"]
    again = site.get(f"/api/v1/snapshots/{frozen}/chart", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/s/", "/s", "/api/v1/snapshots", "/s/%2e%2e", "/s/" + "0" * 32, "/s/nope", "/s/nope/embed"]
)
def test_nothing_lists_snapshots_and_a_guess_finds_none(site: httpx.Client, frozen: str, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code in (404, 405)
    assert frozen not in answer.text


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["0" * 32, "..%2F..%2Fetc", "%00", "F" * 32])
def test_parts_of_a_snapshot_that_is_not_there_are_not_found(site: httpx.Client, name: str, part: str) -> None:
    assert site.get(f"/api/v1/snapshots/{name}{part}").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize(
    "path", ["/s/{}", "/s/{}/embed", "/s/{}/preview.png", "/api/v1/snapshots/{}", "/api/v1/snapshots/{}/chart"]
)
def test_a_snapshot_cannot_be_altered(site: httpx.Client, frozen: str, method: str, path: str) -> None:
    before = site.get(f"/api/v1/snapshots/{frozen}/chart").content
    assert site.request(method, path.format(frozen), json={"view": "symbol=BTC"}).status_code == 405
    assert site.get(f"/api/v1/snapshots/{frozen}/chart").content == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"view": "symbol=NOPE"}, 422),
        ({"view": "range=2d"}, 422),
        ({"view": "x" * 3000}, 422),
        ({"view": 7}, 422),
        ({}, 422),
        ({"view": "", "id": "mine"}, 422),
        ([], 422),
    ],
)
def test_what_cannot_be_shown_cannot_be_frozen(site: httpx.Client, folder: Path, body: object, status: int) -> None:
    before = len(list((folder / "snapshots").glob("*"))) if (folder / "snapshots").exists() else 0
    assert site.post("/api/v1/snapshots", json=body).status_code == status
    assert len(list((folder / "snapshots").glob("*"))) == before if before else True


@pytest.mark.parametrize(
    "body", [b'{"view": NaN}', b'{"view": "symbol=\\ud800"}', b'{"view": "", "\\ud800": 1}', b'{"view": "\\u0000"}']
)
def test_what_is_no_text_is_named_and_not_repeated(site: httpx.Client, body: bytes) -> None:
    answer = site.post("/api/v1/snapshots", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("body")
    assert "input" not in answer.json()["detail"][0]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://other.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_make_snapshots(site: httpx.Client, headers: dict[str, str]) -> None:
    assert site.post("/api/v1/snapshots", json={"view": VIEW}, headers=headers).status_code == 403
    assert (
        site.post("/api/v1/snapshots", content=b'{"view": ""}', headers={"content-type": "text/plain"}).status_code
        == 422
    )


def test_a_full_store_says_so_and_keeps_all_it_has(redis_url: str, tmp_path: Path) -> None:
    with serve(redis_url, Settings(data=tmp_path, snapshots_mb=1)) as site:
        made = []
        while (answer := site.post("/api/v1/snapshots", json={"view": VIEW})).status_code == 201:
            made.append(answer.json()["id"])
        assert (answer.status_code, "full" in answer.json()["error"]) == (403, True)
        assert made
        assert [site.get(f"/api/v1/snapshots/{name}/chart").status_code for name in made] == [200] * len(made)
    assert sum(f.stat().st_size for f in (tmp_path / "snapshots").iterdir()) <= 1 << 20


# ---- shared ----


def test_a_snapshot_says_in_its_head_what_it_is(site: httpx.Client, frozen: str) -> None:
    page = site.get(f"/s/{frozen}")
    assert f'content="http://{page.url.netloc.decode()}/s/{frozen}/preview.png"' in page.text
    assert '<meta name="liqheat-frozen" content="symbol=BTC&amp;range=12h&amp;theme=light">' in page.text
    assert "BTC liquidation heatmap, 12h, 2026-01-15 14:32 UTC" in page.text
    assert '<meta name="robots" content="noindex">' in page.text
    assert "liqheat-frozen" not in site.get("/?symbol=BTC").text


def test_only_the_embed_of_a_snapshot_may_be_framed(
    redis_url: str, site: httpx.Client, folder: Path, frozen: str
) -> None:
    assert "frame-ancestors 'self'" in site.get(f"/s/{frozen}").headers["content-security-policy"]
    assert "frame-ancestors *" in site.get(f"/s/{frozen}/embed").headers["content-security-policy"]
    with serve(redis_url, Settings(data=folder, frame_ancestors="https://forum.example")) as narrow:
        policy = narrow.get(f"/s/{frozen}/embed").headers["content-security-policy"]
    assert "frame-ancestors 'self' https://forum.example" in policy


def test_oembed_describes_pages_embeds_and_snapshots(site: httpx.Client, frozen: str) -> None:
    base = str(site.base_url).rstrip("/")
    for address, frame in (
        (f"{base}/?{VIEW}", f"{base}/embed?{VIEW}"),
        (f"{base}/embed?{VIEW}", f"{base}/embed?{VIEW}"),
        (f"{base}/s/{frozen}", f"{base}/s/{frozen}/embed"),
    ):
        told = site.get("/oembed", params={"url": address, "format": "json", "maxwidth": "500"}).json()
        assert (told["version"], told["type"], told["width"]) == ("1.0", "rich", 500)
        assert f'src="{frame.replace("&", "&amp;")}"' in told["html"]
        assert site.get(told["thumbnail_url"]).headers["content-type"] == "image/png"


def test_the_head_of_a_page_points_to_its_oembed(site: httpx.Client) -> None:
    page = site.get(f"/?{VIEW}").text
    found = re.search(r'type="application/json\+oembed" href="([^"]+)"', page)
    assert found
    assert site.get(found[1].replace("&amp;", "&")).json()["title"] == "BTC liquidation heatmap, 12h"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"url": "https://other.example/?symbol=BTC"}, 404),
        ({"url": "{base}/markets"}, 404),
        ({"url": "{base}/?symbol=NOPE"}, 404),
        ({"url": "{base}/?symbol=BTC&range=<script>"}, 404),
        ({"url": "{base}/s/" + "0" * 32}, 404),
        ({"url": "javascript://x/?symbol=BTC"}, 404),
        ({"url": "http://[/"}, 404),
        ({}, 404),
        ({"url": "{base}/", "format": "xml"}, 422),
        ({"url": "{base}/", "maxwidth": "-1"}, 422),
        ({"url": "{base}/", "maxheight": "²"}, 422),
        ({"url": "{base}/", "callback": "x"}, 422),
    ],
)
def test_oembed_describes_nothing_else(site: httpx.Client, query: dict[str, str], status: int) -> None:
    base = str(site.base_url).rstrip("/")
    answer = site.get("/oembed", params={k: v.replace("{base}", base) for k, v in query.items()})
    assert answer.status_code == status
    assert "<script" not in answer.text
