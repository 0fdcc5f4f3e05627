"""The page in a real browser: what a first visit loads and how long it takes, beside a page that is Plotly alone.

The bare page loads the packaged plotly.js and the same chart and draws its figure: the least that anybody with Plotly
does. Both are loaded in turns with an empty cache, from the same server on the same machine.
"""

from __future__ import annotations

import gzip
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Final

import httpx
import numpy as np
import plotly
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from estimator.cache import Cache
from tests.benchmarks.report import Result
from tests.benchmarks.server import serving
from tests.dashboard.sample import sample_server, sample_status

CHROMIUM: Final = os.environ.get("LIQHEAT_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
VISITS: Final = 5
SHOWN: Final = '.plot[data-state="shown"][data-shown]'
VIEW: Final = "symbol=BTC"
_BARE: Final = """<!doctype html><meta charset=utf-8><title>bare</title><div id=chart></div>
<script src="/plotly.min.js"></script><script>
fetch("/chart").then((r) => r.json()).then(({ figure }) =>
  Plotly.newPlot("chart", figure.data, { ...figure.layout, width: 1100, height: 820 })
).then(() => { document.body.dataset.painted = Math.round(performance.now()); });
</script>"""


class _Bare(BaseHTTPRequestHandler):
    """Serves the bare page and its two files, gzipped ahead."""

    files: dict[str, tuple[str, bytes]]

    def do_GET(self) -> None:
        kind, body = self.files.get(self.path, ("text/plain", gzip.compress(b"")))
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def _bare(chart: bytes) -> Iterator[str]:
    script = Path(*plotly.__path__, "package_data", "plotly.min.js").read_bytes()
    _Bare.files = {
        "/": ("text/html", gzip.compress(_BARE.encode())),
        "/plotly.min.js": ("text/javascript", gzip.compress(script, 6)),
        "/chart": ("application/json", gzip.compress(chart, 6)),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bare)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def measure() -> Iterator[Result]:
    """Yield the figures of the browser; nothing without Chromium."""
    if not Path(CHROMIUM).exists():
        return
    with TemporaryDirectory() as folder, sample_server(Path(folder), coins=("BTC", "ETH")) as url:
        environment = {"REDIS_URL": url, "LIQHEAT_DATA": folder, "LIQHEAT_LIMIT_READS": "0"}
        with serving(["dashboard.cli", "web"], "/readyz", **environment) as base, sync_playwright() as playwright:
            chart = httpx.get(f"{base}/api/v1/chart?{VIEW}", timeout=60).content
            time.sleep(3.0)  # scripts are compressed once, after the start
            running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
            with _bare(chart) as bare:
                yield from _first_visits(running, base, bare)
            yield from _changes(running, base)
            yield from _updates(running, base, url)
            running.close()


def _first_visits(browser: Browser, base: str, bare: str) -> Iterator[Result]:
    pages = {
        "page": (f"{base}/?{VIEW}", SHOWN),
        "embed": (f"{base}/embed?{VIEW}", SHOWN),
        "bare Plotly": (bare, "body[data-painted]"),
    }
    taken: dict[str, list[float]] = {name: [] for name in pages}
    loaded: dict[str, Counter[str]] = {}
    for _ in range(VISITS):
        for name, (address, shown) in pages.items():
            seconds, loaded[name] = _visit(browser, address, shown)
            taken[name].append(seconds)
    reference = float(np.median(taken["bare Plotly"]))
    for name, seconds_ in taken.items():
        median = float(np.median(seconds_))
        weight = loaded[name]
        note = f"{median / reference:.2f} of a bare Plotly page; {min(seconds_):.2f} to {max(seconds_):.2f} s"
        yield Result(f"browser: {name}, empty cache, to painted", median, "s", note, 2.5 if name == "page" else None)
        parts = ", ".join(f"{kind} {size / 1e3:.0f}" for kind, size in weight.most_common())
        yield Result(f"browser: {name}, loaded, compressed", sum(weight.values()) / 1e3, "kB", parts)
    yield Result("browser: 24 h view on the wire", loaded["page"]["chart"] / 1e3, "kB", target=60)


def _visit(browser: Browser, address: str, shown: str) -> tuple[float, Counter[str]]:
    """Seconds until the chart is painted, and bytes that came until a moment later, by kind."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    sizes = _watch_sizes(context, page)
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(shown, timeout=60_000)
    seconds = time.perf_counter() - began
    page.wait_for_timeout(500)
    context.close()
    return seconds, sizes


def _watch_sizes(context: BrowserContext, page: Page) -> Counter[str]:
    sizes: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    client = context.new_cdp_session(page)
    client.send("Network.enable")

    def began(event: dict[str, Any]) -> None:
        kinds[event["requestId"]] = "chart" if "/api/v1/chart" in event["response"]["url"] else event["type"].lower()

    def finished(event: dict[str, Any]) -> None:
        sizes[kinds.get(event["requestId"], "other")] += int(event["encodedDataLength"])

    client.on("Network.responseReceived", began)
    client.on("Network.loadingFinished", finished)
    return sizes


def _changes(browser: Browser, base: str) -> Iterator[Result]:
    """Click to painted, each change several times, the pointer going to its target as a hand does."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
    page.goto(f"{base}/?{VIEW}")
    page.wait_for_selector(SHOWN, timeout=60_000)
    page.evaluate("document.addEventListener('click', () => { window.clicked = performance.now() }, true)")

    def painted(query: str) -> float:
        page.wait_for_selector(f'.plot[data-state="shown"][data-shown="{query}"]', timeout=30_000)
        return float(page.evaluate("Number(document.querySelector('.plot').dataset.painted) - window.clicked"))

    taken: dict[str, list[float]] = {"change of range": [], "change of coin": []}
    for _ in range(VISITS):
        for name, query in (("7d", f"{VIEW}&range=7d"), ("24h", VIEW)):
            page.locator("#range label", has_text=name).first.click()
            taken["change of range"].append(painted(query))
    for _ in range(VISITS):
        for coin in ("ETH", "BTC"):
            page.locator("#symbol").click()
            page.get_by_role("option", name=coin, exact=True).click()
            taken["change of coin"].append(painted(f"symbol={coin}"))
    for what, milliseconds in taken.items():
        note = f"median of {len(milliseconds)}; greatest {max(milliseconds):.0f} ms"
        yield Result(f"browser: {what}, click to painted", float(np.median(milliseconds)), "ms", note, 300)


def _updates(browser: Browser, base: str, url: str) -> Iterator[Result]:
    """From a worker's message to the price, and to another chart, on screen."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
    page.goto(f"{base}/?{VIEW}")
    page.wait_for_selector(SHOWN, timeout=60_000)
    cache, status = Cache(url), sample_status("binance", "BTC", 0)
    taken: dict[str, list[float]] = {"price": [], "chart": []}
    for turn in range(1, VISITS + 1):
        page.wait_for_timeout(3000)  # the chart rests
        before = page.locator(".plot").get_attribute("data-etag")
        price = round(status.mark_price + 10 * turn, 1)
        fresh = replace(status, version=100 + turn, mark_price=price, as_of_ms=status.as_of_ms + 1000 * turn)
        cache.put_status(fresh)
        began = time.perf_counter()
        cache.publish(fresh.id, {"version": fresh.version, "as_of_ms": fresh.as_of_ms, "mark_price": price})
        page.wait_for_function(
            "p => document.querySelector('#mark-price').textContent.startsWith(p)", arg=f"{price:,.1f}", timeout=20_000
        )
        taken["price"].append(time.perf_counter() - began)
        page.wait_for_function("e => document.querySelector('.plot').dataset.etag !== e", arg=before, timeout=20_000)
        taken["chart"].append(time.perf_counter() - began)
    cache.close()
    for what, seconds in taken.items():
        note = f"median of {len(seconds)}; greatest {max(seconds):.2f} s"
        yield Result(f"browser: message to {what} on screen", float(np.median(seconds)), "s", note, 1)
