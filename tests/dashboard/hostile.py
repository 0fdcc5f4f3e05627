"""Queries that nobody sends who means well, put to every page and route of a running server.

``python -m tests.dashboard.hostile --count 10000 --seed 1`` asks a server with the sample of the tests.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

import httpx

from dashboard.navigation import NAVIGATION

NOT_HTTP: Final = "Invalid HTTP request received."  # said by the server of HTTP before the application is asked
LONGEST_S: Final = 20.0  # for one answer, on a machine that does other things too
MARK: Final = "zq7"  # in every script, so that what comes back can be told from what the page says itself

SCRIPTS: Final = (
    f"<script>alert('{MARK}')</script>",
    f"\"><img src=x onerror=alert('{MARK}')>",
    f"'><svg/onload=alert('{MARK}')>",
    f"</title><script>{MARK}()</script>",
    f"javascript:alert('{MARK}')",
    f"</script><script>{MARK}()</script>",
    f"%3Cscript%3E{MARK}()%3C/script%3E",
    f"{{{{{MARK}.constructor('alert(1)')()}}}}",
    f"${{{MARK}}}",
    f"data:text/html,<script>{MARK}()</script>",
    f"\r\nX-Injected: {MARK}\r\n\r\n<script>{MARK}()</script>",
)
# As they would stand in a document where a browser runs them.
RUNNABLE: Final = (
    f"<script>alert('{MARK}", "<img src=x", "<svg/onload", f"<script>{MARK}", f"\"javascript:alert('{MARK}",
)  # fmt: skip
NUMBERS: Final = (
    "0", "-0", "-1", "1e309", "-1e309", "1e-320", "NaN", "Infinity", "-inf", "9" * 400, "0x7fffffff", "1e", "١٢٣", "²",
    "1_000", " 1", "1,1", ",", "1,", "0,0", "1e-300,1e300", "2147483648", "9223372036854775808", "4294967296.5", "1;2",
)  # fmt: skip
TEXTS: Final = (
    "", " ", "\x00", "BTC\x00", "\ufeffBTC", "\uff22\uff34\uff23", "\u202eCTB", "🦀" * 60, "a" * 5000, "é", "e\u0301",
    "\ud7ff\ue000",
    "null", "undefined", "None", "true", "[]", "{}", "[object Object]", "BTC' OR '1'='1", "'; DROP TABLE x; --",
    "$(id)", "`id`", "|id", "../../../../etc/passwd", "..\\..\\windows\\win.ini", "%2e%2e%2f%2e%2e%2fetc/passwd",
    "%00", "%", "%zz", "%u0041", "%c0%ae%c0%ae/", "file:///etc/passwd", "http://169.254.169.254/", "//evil.example",
    "all,all,all", "binance," * 400, "BTC,ETH", "50x+", "__proto__", "constructor", "toString", "*", "?", "#", "&&",
    "BTC/USDT:USDT", "btc", "liqheat:v1:statuses", "\n", "\r\n", "\t", "-", "--", "\\", "\\u0000", "\x7f", "\x1b[31m",
)  # fmt: skip
# Values that are taken, so that the others are not always refused for their neighbours' sake.
FINE: Final[dict[str, tuple[str, ...]]] = {
    "symbol": ("BTC", "all"), "venues": ("all", "okx", "binance,okx"), "range": ("12h", "24h", "7d", "30d", "1y"),
    "tiers": ("all", "50x", "2-4x,diffuse"), "side": ("both", "long", "short"), "price": ("90000,99000", "1,20"),
    "lens": ("density", "contrast", "certain"), "min": ("0", "0.5"), "max": ("1", "0.9"), "panels": ("none", "liq"),
    "palette": ("mono",), "theme": ("light",), "format": ("json", "csv", "arrow", "binary", "png"),
    "hours": (".25", "1", "720"), "least_share": ("0", "1"), "liquidation": ("1e-12", "90000", "1e12"),
    "change": ("-0.9,5", "0.01"), "participation": ("0.01",), "stress": ("20",), "depth_usd": ("1", "1e12"),
    "daily_volatility": ("1e-4", "2"), "daily_volume_usd": ("1", "1e15"), "venue": ("okx", "all"),
    "mode": ("isolated", "cross"), "entry": ("1e-12", "1e12"), "mark": ("1e-12", "95000"), "quantity": ("1e-9", "1e15"),
    "notional_usd": ("1e-6", "1e15"), "leverage": ("1", "1000"), "margin": ("1e-9", "1e15"), "add": ("-1e15", "1e15"),
    "close": ("0.999",), "close_price": ("1e-12", "1e12"), "days": ("365",), "funding_8h": ("-0.05", "0.05"),
    "maintenance_rate": ("0", "0.5"), "fee": ("0.02",), "call": ("0.05", "1"),
    "others": ("ETH:short:1e-12:1e15:1e12:0.5",), "find": ("btc", "%"), "sort": ("pain", "coin"), "order": ("asc",),
    "detail": ("offer", "full"), "min_usd": ("999999999999999", "0.1"), "limit": ("1", "5000"), "utm_source": ("x",),
    "url": ("http://127.0.0.1/?symbol=BTC",), "maxwidth": ("320",), "maxheight": ("99999",),
}  # fmt: skip
NAMES: Final = (  # of routes that are not described, and to be told of where they are not known
    "symbol", "venues", "range", "tiers", "side", "price", "lens", "min", "max", "panels", "palette", "theme", "format",
    "hours", "least_share", "liquidation", "change", "participation", "stress", "depth_usd", "daily_volatility",
    "venue", "mode", "entry", "mark", "quantity", "notional_usd", "leverage", "margin", "add", "close", "days",
    "funding_8h", "maintenance_rate", "fee", "call", "others", "find", "sort", "order", "detail", "min_usd", "limit",
    "cursor", "url", "maxwidth", "maxheight", "utm_source", "m", "v",
)  # fmt: skip
PAGES: Final = (*(entry.path for entry in NAVIGATION), "/embed", "/docs")
STRAYS: Final = (
    "/s/{}", "/s/{}/embed", "/s/{}/preview.png", "/api/v1/snapshots/{}", "/api/v1/snapshots/{}/chart",
    "/api/v1/snapshots/{}/levels", "/api/v1/{}", "/api/{}", "/{}", "/assets/{}", "/_dash-component-suites/{}",
    "/_dash-component-suites/dash/{}", "/_dash-{}", "/_favicon.ico{}", "/docs/{}", "/openapi.json{}", "/embed/{}",
    "/markets/{}", "/healthz{}", "/metrics{}",
)  # fmt: skip
HEADERS: Final = (
    "accept", "accept-encoding", "if-none-match", "origin", "referer", "range", "x-forwarded-for", "x-forwarded-proto",
    "cookie", "user-agent", "authorization", "host", "sec-fetch-site", "x-original-url",
)  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """One request: its target as it goes over the wire, its headers, its body."""

    target: bytes
    method: str = "GET"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass
class Outcome:
    """What came of a number of attacks."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def attacks(count: int, seed: int, known: Mapping[str, Sequence[str]]) -> Iterator[Attack]:
    """Yield requests, the same for the same seed; `known` are the names of parameters by route."""
    luck, routes = random.Random(seed), sorted(known) or PAGES  # noqa: S311 - nothing is kept secret by it
    for _ in range(count):
        kind = luck.random()
        if kind < 0.06:
            yield _body(luck)
        elif kind < 0.2:
            yield Attack(_spelled(luck, luck.choice(STRAYS).format(_path(luck))), headers=_headers(luck))
        else:
            path = luck.choice(PAGES if luck.random() < 0.4 else routes)
            method = "HEAD" if luck.random() < 0.05 else "GET"
            names = known.get(path) or NAMES if luck.random() < 0.8 else NAMES
            yield Attack(path.encode() + b"?" + _query(luck, names), method, _headers(luck))


def _value(luck: random.Random) -> str:
    value = luck.choice(luck.choice((SCRIPTS, NUMBERS, TEXTS)))
    if luck.random() < 0.15:
        value += luck.choice(luck.choice((SCRIPTS, NUMBERS, TEXTS)))
    return value


def _fitting(luck: random.Random, name: str) -> str:
    return luck.choice(FINE[name]) if name in FINE and luck.random() < 0.7 else _value(luck)


def _query(luck: random.Random, names: Sequence[str]) -> bytes:
    chosen = luck.sample(names, min(len(names), luck.choice((1, 1, 2, 2, 3, 4, 8))))
    pairs = [name.encode() + b"=" + _spelled(luck, _fitting(luck, name)) for name in chosen]
    if luck.random() < 0.1:
        pairs.append(_spelled(luck, _value(luck)) + luck.choice((b"=", b"", b"==")) + _spelled(luck, _value(luck)))
    if luck.random() < 0.05:
        pairs.append(pairs[0])
    if luck.random() < 0.01:
        pairs *= 300
    return luck.choice((b"&", b"&", b"&", b"&", b";", b"&&")).join(pairs)[:50_000]


def _path(luck: random.Random) -> str:
    return luck.choice((_value(luck), "/".join(_value(luck) for _ in range(3)), "0" * 32, "f" * 31 + "G", "../" * 20))


def _spelled(luck: random.Random, text: str) -> bytes:
    """Percent-encoded as a browser would, twice, or hardly: only what HTTP itself cannot carry."""
    raw = text.encode("utf-8", "surrogatepass")
    way = luck.random()
    if way < 0.7:
        return quote(raw, safe="/").encode()
    if way < 0.8:
        return quote(quote(raw)).encode()
    if way < 0.9:
        return quote(text.encode("utf-16", "surrogatepass")).encode()
    return b"".join(bytes([b]) if 0x21 <= b < 0x7F and b != 0x23 else b"%%%02X" % b for b in raw)


def _headers(luck: random.Random) -> tuple[tuple[bytes, bytes], ...]:
    if luck.random() < 0.7:
        return ()
    value = _value(luck).encode("utf-8", "surrogatepass")[:4000]
    return ((luck.choice(HEADERS).encode(), bytes(b for b in value if b >= 0x20 and b != 0x7F).strip()),)


def _body(luck: random.Random) -> Attack:
    texts = ('{"view": "%s"}', '{"source": "%s"}', "%s", '{"%s": 1}', '[["%s"]]', '{"view": {"a": "%s"}}')
    body = (luck.choice(texts) % _value(luck)).encode("utf-8", "surrogatepass")
    path = luck.choice(("/api/v1/snapshots", "/api/v1/source", "/_dash-update-component", "/api/v1/chart", "/"))
    kinds = (b"application/json", b"text/plain", b"application/x-www-form-urlencoded", b"application/json; charset=x")
    return Attack(path.encode(), luck.choice(("POST", "PUT")), ((b"content-type", luck.choice(kinds)),), body)


def run(client: httpx.Client, count: int, seed: int) -> Outcome:
    """Send attacks, and collect what should not have come back."""
    outcome, described = Outcome(), client.get("/openapi.json").json()["paths"]
    known = {
        path: [p["name"] for p in methods["get"].get("parameters", ())]
        for path, methods in described.items()
        if "get" in methods and "{" not in path and not path.endswith("/stream")
    }
    for attack in attacks(count, seed, known):
        began = time.perf_counter()
        try:
            content = attack.body or None
            request = client.build_request(attack.method, "/", headers=attack.headers, content=content)
            request.extensions = {**request.extensions, "target": attack.target}
            answer = client.send(request)
        except httpx.RemoteProtocolError:
            outcome.statuses[0] += 1  # not even HTTP: the server has closed
            continue
        outcome.seconds.append(time.perf_counter() - began)
        outcome.statuses[answer.status_code] += 1
        outcome.faults += [f"{what}: {attack}" for what in _faults(answer, outcome.seconds[-1])]
    return outcome


def _faults(answer: httpx.Response, seconds: float) -> Iterator[str]:
    kind, text = answer.headers.get("content-type", ""), answer.text if len(answer.content) < 1 << 20 else ""
    # 503 where a range is not in the sample, or a band is not computed: it must say when to ask again.
    if answer.status_code >= 500 and not (answer.status_code == 503 and "retry-after" in answer.headers):
        yield f"{answer.status_code} {text[:200]}"
    if "Traceback" in text or "/site-packages/" in text or "root:x:0" in text:
        yield f"inside told: {text[:200]}"
    if "html" in kind and any(script in text for script in RUNNABLE):
        yield "script reflected"
    guarded = answer.headers.get("x-content-type-options") == "nosniff" and "content-security-policy" in answer.headers
    if not guarded and text != NOT_HTTP:
        yield f"no policy on {answer.status_code}"
    if any("injected" in name.lower() or "\n" in value for name, value in answer.headers.items()):
        yield "header injected"
    if MARK in answer.headers.get("location", ""):
        yield "sent elsewhere"
    if seconds > LONGEST_S:
        yield f"{seconds:.1f} s"


def main() -> int:
    """Ask a server of our own; status 1 if anything came back that should not have."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    os.environ.update({f"LIQHEAT_LIMIT_{n}": "0" for n in ("READS", "COMPUTED", "WRITES", "SNAPSHOTS")})
    from estimator.settings import Settings  # after the limits are off
    from tests.dashboard.conftest import serve
    from tests.dashboard.sample import sample_server

    with (
        TemporaryDirectory() as folder,
        sample_server(Path(folder) / "redis", levels=(0, 2, 3), coins=("BTC",)) as url,
        serve(url, Settings(data=Path(folder), snapshots_mb=16)) as client,
    ):
        outcome = run(client, given.count, given.seed)
        alive = client.get("/readyz").status_code == 200
    taken = sorted(outcome.seconds)
    print(f"{given.count} hostile requests, seed {given.seed}: " + _said(outcome.statuses))
    median, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    print(f"seconds: median {median:.4f}, p99 {p99:.3f}, most {taken[-1]:.2f}")
    for fault in outcome.faults[:40]:
        print(fault[:1000])
    print(f"{len(outcome.faults)} faults, the server is {'well' if alive else 'NOT ready'} afterwards")
    return 0 if alive and not outcome.faults else 1


def _said(statuses: Counter[int]) -> str:
    return ", ".join(f"{code or 'closed'}: {n}" for code, n in sorted(statuses.items()))


if __name__ == "__main__":
    raise SystemExit(main())
