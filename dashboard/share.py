"""What other sites and browsers may do with ours: headers, the embed policy, link previews."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.preview import HEIGHT, WIDTH
from dashboard.snapshots import ID, Facts
from dashboard.view import ViewError, ViewState
from estimator.units import utc_text

EMBED: Final = "/embed"
PICTURE: Final = (WIDTH, HEIGHT)
SNAPSHOT_PAGE: Final = re.compile(rf"/s/({ID})(/embed)?")
NOT_OURS: Final = "only pages of this site may ask for this; the name it is asked by belongs into LIQHEAT_PUBLIC_URL"
_COMMON: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)


def may_be_framed(path: str) -> bool:
    """Whether other sites may frame the page of a path."""
    snapshot = SNAPSHOT_PAGE.fullmatch(path)
    return path == EMBED or (snapshot is not None and snapshot[2] is not None)


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
        CSP sources of the page's inline scripts, known once the last callback is registered.
    frame_ancestors : str
        Sites that may frame `EMBED` and its like of a snapshot; no other page may be framed by another site.
    """

    def __init__(self, app: ASGIApp, script_hashes: Sequence[str], frame_ancestors: str) -> None:
        self._app = app
        self._own = content_security_policy(script_hashes, "'self'").encode()
        # The site itself frames what it offers for embedding.
        ancestors = frame_ancestors if frame_ancestors in ("*", "'none'") else f"'self' {frame_ancestors}"
        self._embed = content_security_policy(script_hashes, ancestors).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket, with the headers of its path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        snapshot, framed = SNAPSHOT_PAGE.fullmatch(scope["path"]), may_be_framed(scope["path"])
        extra = [*_COMMON, (b"content-security-policy", self._embed if framed else self._own)]
        page = framed or snapshot is not None or scope["path"] == "/"
        if not framed:
            extra.append((b"x-frame-options", b"SAMEORIGIN"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *extra]
                if page and not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-cache"))
                message = {**message, "headers": headers}
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


class Card(NamedTuple):
    """What an address is when it is shared: on a chat, in a search, in an article.

    Parameters
    ----------
    title, words : str
        Plain text.
    page, frame, picture : str
        Paths with their queries: the page itself, the chart alone, the picture of 1200 x 630.
    frozen : str, optional
        The view of a snapshot.
    """

    title: str
    words: str
    page: str
    frame: str
    picture: str
    frozen: str | None = None


def view_card(query: str) -> Card:
    """Card of a view; the default one where the query is malformed."""
    try:
        view = ViewState.parse(query)
    except ViewError:
        view, query = ViewState("BTC"), ""
    shown = f"?{view.query()}" if query else ""
    title = f"{view.symbol} liquidation heatmap, {view.range}" if query else "liqheat: liquidation heatmap"
    return Card(title, _WORDS, f"/{shown}", f"{EMBED}{shown}", f"/preview.png{shown}")


def snapshot_card(name: str, facts: Facts) -> Card:
    """Card of a snapshot."""
    title = f"{facts.symbol} liquidation heatmap, {facts.range}, {utc_text(facts.as_of_ms)} UTC"
    path = snapshot_path(name)
    return Card(title, f"Snapshot. {_WORDS}", path, f"{path}/embed", f"{path}/preview.png", facts.view)


def snapshot_path(name: str) -> str:
    """Address of a snapshot on its site."""
    return f"/s/{name}"


_WORDS: Final = "Where leveraged positions are estimated to be liquidated, by price and time."


def preview_tags(card: Card, site: str) -> str:
    """Open Graph and Twitter tags of a card and the link to its oEmbed answer, escaped.

    Parameters
    ----------
    card : Card
    site : str
        Address of the site as others see it, without a trailing slash.
    """
    graph: dict[str, Any] = {
        "og:type": "website", "og:title": card.title, "og:description": card.words, "og:url": site + card.page,
        "og:image": site + card.picture, "og:image:width": PICTURE[0], "og:image:height": PICTURE[1],
    }  # fmt: skip
    named = {
        "twitter:card": "summary_large_image", "twitter:title": card.title, "twitter:image": site + card.picture,
        "description": card.words, "liqheat-site": site,
    }  # fmt: skip
    if card.frozen is not None:
        named |= {"liqheat-frozen": card.frozen, "robots": "noindex"}  # who has the address has the snapshot
    oembed, title = f"{site}/oembed?{urlencode({'url': site + card.page, 'format': 'json'})}", escape(card.title)
    return "\n".join(
        [
            *(f'<meta property="{name}" content="{escape(str(value))}">' for name, value in graph.items()),
            *(f'<meta name="{name}" content="{escape(value)}">' for name, value in named.items()),
            f'<link rel="alternate" type="application/json+oembed" href="{escape(oembed)}" title="{title}">',
        ]
    )


def own_hosts(host: str, public_url: str | None) -> frozenset[str]:
    """Hosts, with ports, whose pages are this site's own.

    The host a request came to is one only if nobody else can own it. Whoever owns a name can make it point here (DNS
    rebinding), and a browser takes their page for ours; bare addresses and names without a dot belong to nobody.

    Parameters
    ----------
    host : str
        Of the request.
    public_url : str, optional
        Address of the site as others see it.
    """
    named = {urlsplit(public_url).netloc.lower()} if public_url else set()
    return frozenset(named | ({host.lower()} if _is_nobodys(host) else set()))


def _is_nobodys(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or "."
    except ValueError:
        return False
    return "." not in name or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def site_address(public_url: str | None, scheme: str, host: str) -> str:
    """Address others use: the setting, or what the request came to."""
    if public_url:
        return public_url.rstrip("/")
    return f"{scheme}://{quote(host, safe=':[].-')}"
