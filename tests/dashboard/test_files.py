"""Scripts and styles as browsers get them."""

from __future__ import annotations

import asyncio
import gzip
import re
from pathlib import Path

import httpx
import pytest
import zstandard
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message

from dashboard.files import FOR_GOOD, CompressedFiles, Kept, compress_ahead, plotly_script, takes_gzip


def test_scripts_travel_compressed_and_arrive_whole(client: httpx.Client) -> None:
    address = re.findall(r'src="([^"]*dash_core_components\.[^"]+)"', client.get("/").text)[0]
    plain = client.get(address, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for accepted, coding in (("gzip, deflate, br, zstd", "zstd"), ("gzip", "gzip")):
        packed = client.get(address, headers={"Accept-Encoding": accepted})
        assert packed.headers["content-encoding"] == coding
        assert packed.content == plain.content
        assert int(packed.headers["content-length"]) < len(plain.content) / 3
        assert packed.headers["cache-control"] == FOR_GOOD.decode()


def test_what_names_its_version_is_kept_for_good_and_nothing_else(client: httpx.Client) -> None:
    addresses = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(/[^"]+)"', client.get("/").text)
    files = [a for a in addresses if re.search(r"\.(js|css)(\?|$)", a)]
    assert any("plotly.min.js?v=" in a for a in files)
    for address in files:
        assert client.get(address).headers["cache-control"] == FOR_GOOD.decode(), address
    plain = client.get("/_dash-component-suites/dash/dcc/async-graph.js")
    assert plain.headers.get("cache-control") != FOR_GOOD.decode()


def test_what_was_compressed_ahead_is_sent_as_it_is_smallest_first(tmp_path: Path) -> None:
    body, kept = b"let a = 1;" * 50, Kept()
    (tmp_path / "a.js").write_bytes(body)
    (tmp_path / "a.js.br").write_bytes(b"brotli")
    compress_ahead(kept, [tmp_path / "a.js", tmp_path / "nope.js"])
    files = CompressedFiles(StaticFiles(directory=tmp_path), kept, frozenset())
    site = Starlette(routes=[Mount("/assets", files)])
    for accepted, coding, sent in (
        ("gzip, br, zstd", "br", b"brotli"),
        ("gzip, zstd", "zstd", zstandard.compress(body, 12)),
        ("gzip, br;q=0", "gzip", gzip.compress(body, 6, mtime=0)),
        ("", None, body),
    ):
        assert _ask(site, "/assets/a.js", accepted) == (coding, sent)


def _ask(site: ASGIApp, path: str, accepted: str) -> tuple[str | None, bytes]:
    """Coding of an answer, and its bytes as they were sent."""
    said: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Message) -> None:
        said.append(message)

    headers = [(b"accept-encoding", accepted.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b"", "headers": headers}

    async def ask() -> None:
        await site(scope, receive, send)

    asyncio.run(ask())
    named = dict(said[0]["headers"])
    body = b"".join(m.get("body", b"") for m in said[1:])
    assert int(named[b"content-length"]) == len(body)
    coding = named.get(b"content-encoding")
    return coding and coding.decode(), body


def test_the_bundle_is_drawn_with_where_it_is_of_the_plotly_installed(tmp_path: Path) -> None:
    packaged = plotly_script(tmp_path)
    assert packaged.file.parent.name == "package_data"
    built = tmp_path / "built" / "plotly.min.js"
    built.parent.mkdir()
    built.write_bytes(packaged.file.read_bytes()[:200] + b"// less of it")
    assert plotly_script(tmp_path).file == built
    first = plotly_script(tmp_path).address
    built.write_bytes(built.read_bytes() + b"// changed")
    assert plotly_script(tmp_path).address != first
    built.write_bytes(b"/* plotly.js v0.0.1 */")
    assert plotly_script(tmp_path) == packaged


def test_what_is_not_a_script_passes_untouched(client: httpx.Client) -> None:
    style = client.get("/assets/liqheat.css")
    again = client.get("/assets/liqheat.css", headers={"If-None-Match": style.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/assets/nope.js").status_code == 404
    part = client.get("/assets/liqheat.css", headers={"Range": "bytes=0-9"})
    assert (part.status_code, len(part.content)) == (206, 10)


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("br, gzip;q=0", False),
        ("gzip; Q=0.000", False),
        ("", False),
    ],
)
def test_what_takes_gzip(client: httpx.Client, header: str, *, takes: bool) -> None:
    assert takes_gzip(header) is takes
    for path in ("/api/v1/chart?symbol=BTC", "/assets/liqheat.css"):
        answer = client.get(path, headers={"Accept-Encoding": header})
        assert ("content-encoding" in answer.headers) is takes
        assert "accept-encoding" in answer.headers["vary"].lower()


def test_any_copy_will_do_for_who_says_so(client: httpx.Client) -> None:
    assert client.get("/api/v1/chart?symbol=BTC", headers={"If-None-Match": "*"}).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/assets/liqheat.css?m=1",
        "/assets/liqheat.css?v=9",
        "/_dash-component-suites/plotly/package_data/plotly.min.js?v=0",
        "/_dash-component-suites/dash/dcc/dash_core_components.v9_9_9m1.js",
    ],
)
def test_a_made_up_version_is_not_kept_for_good(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
