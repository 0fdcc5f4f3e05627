"""What browsers and other sites may do with the pages."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.share import (
    content_security_policy,
    preview_tags,
    site_address,
    view_card,
)


def test_only_the_embed_may_be_framed_by_others(client: httpx.Client) -> None:
    page, embed = client.get("/"), client.get("/embed?symbol=BTC")
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors *" in embed.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert "x-frame-options" not in embed.headers


@pytest.mark.parametrize("path", ["/", "/api/v1/markets", "/nope", "/api/v1/chart?range=x", "/preview.png", "/docs"])
def test_every_answer_carries_the_policy(client: httpx.Client, path: str) -> None:
    headers = (client.get(path)).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"]


def test_every_inline_script_of_the_page_is_hashed_and_nothing_comes_from_elsewhere(
    client: httpx.Client,
) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    scripts = re.findall(r"<script(?P<attributes>[^>]*)>(?P<body>.*?)</script>", answer.text, flags=re.DOTALL)
    inline = [body for attributes, body in scripts if body.strip() and "application/json" not in attributes]
    assert inline
    for body in inline:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert all(
        source.startswith("/")
        for source in re.findall(r'<(?:script|link)(?! rel="alternate")[^>]*(?:src|href)="([^"]+)"', answer.text)
    )


def test_a_site_can_limit_who_frames_the_embed() -> None:
    assert content_security_policy((), "https://a.example").endswith("frame-ancestors https://a.example")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@given(st.text(max_size=120))
def test_no_query_can_write_a_tag_of_its_own(query: str) -> None:
    parser = _Tags()
    parser.feed(preview_tags(view_card("symbol=BTC&venues=" + query), "https://liqheat.example"))
    assert [tag for tag, _ in parser.seen if tag != "meta"] == ["link"]
    known = {"property", "name", "content", "rel", "type", "href", "title"}
    assert all(set(attributes) <= known for _, attributes in parser.seen)


def test_the_preview_is_of_that_very_chart() -> None:
    tags = preview_tags(view_card("symbol=ETH&range=7d"), "https://liqheat.example")
    assert 'content="https://liqheat.example/preview.png?symbol=ETH&amp;range=7d"' in tags
    assert "ETH liquidation heatmap, 7d" in tags
    assert "preview.png?" not in preview_tags(view_card("symbol=ETH&range=nope"), "https://liqheat.example")


def test_the_address_of_the_site_is_the_setting_or_the_request() -> None:
    assert site_address("https://x.example/", "http", "a") == "https://x.example"
    assert site_address(None, "http", "127.0.0.1:8050") == "http://127.0.0.1:8050"
    assert "<" not in site_address(None, "http", 'a"><b')


def test_pages_are_asked_for_anew_and_only_the_embed_itself_is_framed(client: httpx.Client) -> None:
    assert [client.get(p).headers["cache-control"] for p in ("/", "/embed")] == ["no-cache", "no-cache"]
    assert "frame-ancestors 'self'" in client.get("/embed/").headers["content-security-policy"]
