"""Scripts and styles on their way to the browser: compressed once, and kept for good where their address allows it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import plotly
import zstandard
from dash.fingerprint import build_fingerprint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOR_GOOD: Final = b"public, max-age=31536000, immutable"
FILES: Final = ("/_dash-component-suites/", "/assets/")
CODINGS: Final = ("br", "zstd", "gzip")  # the smallest first; Brotli only where a file was compressed ahead

Kept = dict[tuple[bytes, str], bytes]

_log = logging.getLogger(__name__)

BUNDLE: Final = "built/plotly.min.js"  # in the folder of static files, where `make bundle` puts it
_PACKAGED: Final = "package_data/plotly.min.js"
_VERSION: Final = re.compile(rb"plotly\.js v([\w.-]+)")


class Script(NamedTuple):
    """A script: its file, and its address, which names its version."""

    file: Path
    address: str


def plotly_script(static: Path) -> Script:
    """Return what the page draws with: the bundle where one was built, else all of Plotly as it is installed.

    As a script of the page it loads beside the others instead of after them, when a chart first asks for it.

    Parameters
    ----------
    static : Path
        Folder of the page's own files.
    """
    packaged, built = Path(*plotly.__path__, _PACKAGED), static / BUNDLE
    if built.is_file():
        if _plotly_version(built) == _plotly_version(packaged):
            return Script(built, f"/assets/{BUNDLE}?v={digest_of(built)}")
        _log.warning("%s is of another plotly.js than the one installed and not used: run `make bundle` again", built)
    return Script(packaged, f"/_dash-component-suites/plotly/{_PACKAGED}?v={version('plotly')}")


def _plotly_version(script: Path) -> bytes | None:
    with script.open("rb") as file:
        found = _VERSION.search(file.read(200))
    return found[1] if found else None


class CompressedFiles:
    """Sends scripts and styles compressed, each once by coding; those whose address names their version, for good.

    Dash would compress the same megabytes again for every visitor, or not at all. Pure ASGI; anything that is not a
    whole script or style of `FILES`, or whose reader takes none of `CODINGS`, passes untouched.

    Parameters
    ----------
    app : ASGIApp
    kept : dict
        Compressed copies by digest and coding; see `compress_ahead`.
    versioned : collection of str
        See `versioned_addresses`.
    """

    def __init__(self, app: ASGIApp, kept: Kept, versioned: Collection[str]) -> None:
        self._app = app
        self._kept = kept
        self._versioned = versioned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, from a compressed copy where it is a file."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(FILES):
            await self._app(scope, receive, send)
            return
        caching = FOR_GOOD if _address(scope) in self._versioned else b"no-cache"
        taken = _taken(scope)
        start: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                message = _cached(message, caching)
            if message["type"] == "http.response.start" and taken and _compressible(message):
                start = message
            elif start is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._finish(send, start, b"".join(parts), taken)

        await self._app(scope, receive, collect)

    async def _finish(self, send: Send, start: Message, body: bytes, taken: Collection[str]) -> None:
        digest = _digest(body)
        coding = next((c for c in CODINGS if c in taken and (c in _PACKERS or (digest, c) in self._kept)), None)
        headers = [h for h in start["headers"] if h[0].lower() != b"content-length"]
        if coding is not None:
            packed = self._kept.get((digest, coding))
            body = await asyncio.to_thread(_pack, self._kept, body, coding) if packed is None else packed
            headers.append((b"content-encoding", coding.encode()))
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


def compress_ahead(kept: Kept, files: Iterable[Path]) -> None:
    """Compress files before the first visitor asks for them, and take up what was compressed beside them. Blocks."""
    for file in files:
        if not file.is_file():
            continue
        body, ready = file.read_bytes(), file.with_name(file.name + ".br")
        if ready.is_file():
            kept[_digest(body), "br"] = ready.read_bytes()
        for coding in _PACKERS:
            _pack(kept, body, coding)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _pack(kept: Kept, body: bytes, coding: str) -> bytes:
    packed = kept[_digest(body), coding] = _PACKERS[coding](body)
    return packed


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=12).compress(body)  # of one thread each


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


_PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {"zstd": _zstd, "gzip": _gzip}
_ALSO: Final = {"x-gzip": "gzip"}


def digest_of(file: Path) -> str:
    """Name a file by what is in it, for its address."""
    return _digest(file.read_bytes()).hex()[:16]


def versioned_addresses(files: Mapping[str, Iterable[str]], assets: Path) -> frozenset[str]:
    """Addresses that change with what they give, as Dash spells them; an address merely like one is not among them.

    Parameters
    ----------
    files : mapping of str to iterable of str
        Dash's registered files by package. Parts of a package are asked for by the fingerprint of its main script.
    assets : Path
        Folder of the page's own files.
    """
    found = {f"/assets/{p.relative_to(assets).as_posix()}?m={p.stat().st_mtime}" for p in assets.rglob("*.*")}
    for package, names in files.items():
        existing = [n for n in names if (_folder(package) / n).is_file()]
        marks = {(_version(package, n), int((_folder(package) / n).stat().st_mtime)) for n in existing}
        found |= {
            f"/_dash-component-suites/{package}/{build_fingerprint(name, *mark)}"  # type: ignore[no-untyped-call]
            for name in existing
            for mark in marks
        }
    return frozenset(found)


def _folder(package: str) -> Path:
    return Path(str(import_module(package).__file__)).parent


def _version(package: str, name: str) -> str:
    part = name.partition("/")[0]
    inner = part in ("dcc", "html", "dash_table")
    return str(import_module(f"{package}.{part}" if inner else package).__version__)


def _address(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _cached(start: Message, caching: bytes) -> Message:
    headers = [h for h in start["headers"] if h[0].lower() not in (b"cache-control", b"vary")]
    rule = caching if start["status"] in (200, 206, 304) else b"no-store"
    return {**start, "headers": [*headers, (b"cache-control", rule), (b"vary", b"Accept-Encoding")]}


def _taken(scope: Scope) -> frozenset[str]:
    headers = dict(scope["headers"])
    return frozenset() if b"range" in headers else taken_codings(headers.get(b"accept-encoding", b"").decode("latin-1"))


def taken_codings(accept_encoding: str) -> frozenset[str]:
    """Those of `CODINGS` an Accept-Encoding header takes: named or by ``*``, and not with ``q=0``."""
    named: dict[str, bool] = {}
    for part in accept_encoding.lower().split(","):
        coding, *options = (p.strip() for p in part.split(";"))
        named[_ALSO.get(coding, coding)] = not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", o) for o in options)
    return frozenset(c for c in CODINGS if named.get(c, named.get("*", False)))


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip."""
    return "gzip" in taken_codings(accept_encoding)


def _compressible(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    kind = headers.get(b"content-type", b"")
    return start["status"] == 200 and b"content-encoding" not in headers and (b"javascript" in kind or b"css" in kind)
