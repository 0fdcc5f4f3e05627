"""What other sites and browsers may do with ours: headers, the embed policy, link previews."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.view import ViewError, ViewState

EMBED: Final = "/embed"
FOR_GOOD: Final = b"public, max-age=31536000, immutable"
_VERSION_IN_PATH: Final = re.compile(r"\.v[0-9_]+m[0-9]+\.")
FILES: Final = ("/_dash-component-suites/", "/assets/")
_COMMON: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)


def content_security_policy(script_hashes: Iterable[str], frame_ancestors: str) -> str:
    """Everything from this server alone; no inline script but those hashed, no CDN."""
    return "; ".join(
        (
            "default-src 'self'",
            " ".join(("script-src 'self'", *script_hashes)),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "worker-src 'self'",
            "font-src 'self' data:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            f"frame-ancestors {frame_ancestors}",
        )
    )


class SecurityHeaders:
    """Adds the headers to every HTTP response; pure ASGI, so streams and sockets pass untouched.

    Parameters
    ----------
    app : ASGIApp
    script_hashes : sequence of str
        CSP sources of the page's inline scripts. Filled after the last callback is registered; read at each response.
    frame_ancestors : str
        Sites that may frame `EMBED`; no other page may be framed by another site.
    """

    def __init__(self, app: ASGIApp, script_hashes: Sequence[str], frame_ancestors: str) -> None:
        self._app = app
        self._own = content_security_policy(script_hashes, "'self'").encode()
        self._embed = content_security_policy(script_hashes, frame_ancestors).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket, with the headers of its path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        framed = scope["path"].rstrip("/") == EMBED
        extra = [*_COMMON, (b"content-security-policy", self._embed if framed else self._own)]
        if not framed:
            extra.append((b"x-frame-options", b"SAMEORIGIN"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


class HeadAsGet:
    """Answers HEAD like GET, without the body: what fetches link previews asks so first. Pure ASGI.

    Parameters
    ----------
    app : ASGIApp
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HEAD passes untouched."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_bare(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_bare)


class CompressedFiles:
    """Sends scripts and styles gzipped, each compressed once; those whose address names their version, for good.

    Dash would compress the same megabytes again for every visitor, or not at all. Pure ASGI; anything that is not a
    whole script or style of `FILES`, or whose reader takes no gzip, passes untouched.

    Parameters
    ----------
    app : ASGIApp
    kept : dict
        Compressed copies by digest; see `compress_ahead`.
    """

    def __init__(self, app: ASGIApp, kept: dict[bytes, bytes]) -> None:
        self._app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, from a compressed copy where it is a file."""
        if not _wants_gzip(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _compressible(message):
                start = message
            elif start is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._finish(send, start, b"".join(parts), versioned=_is_versioned(scope))

        await self._app(scope, receive, collect)

    async def _finish(self, send: Send, start: Message, body: bytes, *, versioned: bool) -> None:
        packed = self._kept.get(_digest(body))
        if packed is None:
            packed = await asyncio.to_thread(_pack, self._kept, body)
        replaced = (b"content-length", *((b"cache-control",) if versioned else ()))
        headers = [h for h in start["headers"] if h[0].lower() not in replaced]
        added = (
            *(((b"cache-control", FOR_GOOD),) if versioned else ()),
            (b"content-encoding", b"gzip"),
            (b"vary", b"Accept-Encoding"),
            (b"content-length", str(len(packed)).encode()),
        )
        await send({**start, "headers": [*headers, *added]})
        await send({"type": "http.response.body", "body": packed})


def compress_ahead(kept: dict[bytes, bytes], files: Iterable[Path]) -> None:
    """Compress files before the first visitor asks for them. Blocks."""
    for file in files:
        if file.is_file():
            _pack(kept, file.read_bytes())


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _pack(kept: dict[bytes, bytes], body: bytes) -> bytes:
    packed = kept[_digest(body)] = gzip.compress(body, 6, mtime=0)
    return packed


def _is_versioned(scope: Scope) -> bool:
    """Whether the address changes with the file: Dash names versions in the path, assets and ours in the query."""
    query = scope["query_string"]
    return query.startswith((b"m=", b"v=")) or _VERSION_IN_PATH.search(scope["path"]) is not None


def _wants_gzip(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(FILES):
        return False
    headers = dict(scope["headers"])
    return b"gzip" in headers.get(b"accept-encoding", b"") and b"range" not in headers


def _compressible(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    kind = headers.get(b"content-type", b"")
    return start["status"] == 200 and b"content-encoding" not in headers and (b"javascript" in kind or b"css" in kind)


def preview_tags(query: str, site: str) -> str:
    """Open Graph and Twitter tags of a view, escaped; the default picture where the query is malformed.

    Parameters
    ----------
    query : str
        Query string of the page.
    site : str
        Address of the site as others see it, without a trailing slash.
    """
    try:
        view = ViewState.parse(query)
    except ViewError:
        view = ViewState("BTC")
        query = ""
    shown = f"?{view.query()}" if query else ""
    title = f"{view.symbol} liquidation heatmap, {view.range}" if query else "liqheat: liquidation heatmap"
    words = "Where leveraged positions are estimated to be liquidated, by price and time."
    tags: dict[str, Any] = {
        "og:type": "website",
        "og:title": title,
        "og:description": words,
        "og:url": f"{site}/{shown}",
        "og:image": f"{site}/preview.png{shown}",
        "og:image:width": 1200,
        "og:image:height": 630,
    }
    named = {
        "twitter:card": "summary_large_image",
        "twitter:title": title,
        "twitter:image": f"{site}/preview.png{shown}",
    }
    return "\n".join(
        [
            *(f'<meta property="{name}" content="{escape(str(value))}">' for name, value in tags.items()),
            *(
                f'<meta name="{name}" content="{escape(value)}">'
                for name, value in {**named, "description": words}.items()
            ),
        ]
    )


def site_address(public_url: str | None, scheme: str, host: str) -> str:
    """Address others use: the setting, or what the request came to."""
    if public_url:
        return public_url.rstrip("/")
    return f"{scheme}://{quote(host, safe=':[].-')}"
