"""A real server on a free loopback port, a real browser, and a record of how long things took."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, FloatRect, Page, ViewportSize, expect, sync_playwright

from tests.dashboard.sample import sample_server

CHROMIUM: Final = os.environ.get("LIQHEAT_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP: Final[ViewportSize] = {"width": 1440, "height": 900}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
PICTURES: Final = Path(__file__).parent / "screenshots"
START_S: Final = 60.0
PATIENCE_MS: Final = 15_000  # how fast the page is, is measured elsewhere

expect.set_options(timeout=PATIENCE_MS)
_times: dict[str, Any] = {}


@dataclass
class Site:
    """A running server."""

    port: int
    redis_url: str | None = None

    @property
    def url(self) -> str:
        """Address by number; ``localhost`` is another origin."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Visit:
    """A page with what it said and asked for."""

    page: Page
    site: Site
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.blockedURI))"
        )

    def open(self, query: str = "", path: str = "/") -> Page:
        """Go to an address and wait until its chart is painted."""
        self.page.goto(f"{self.site.url}{path}{'?' + query if query else ''}")
        self.painted()
        return self.page

    def painted(self, query: str | None = None) -> None:
        """Wait until the chart (of a query) is on screen."""
        wanted = "" if query is None else f'="{query}"'
        self.page.wait_for_selector(f'.plot[data-state="shown"][data-shown{wanted}]', timeout=20_000)

    @property
    def other_hosts(self) -> set[str]:
        """Hosts asked that are not the site."""
        parts = [urlsplit(u) for u in self.requests]
        return {p.netloc for p in parts if p.scheme in ("http", "https", "ws", "wss")} - {
            urlsplit(self.site.url).netloc
        }


def rest(page: Page) -> None:
    """Wait until no panel has asked for longer than one waits for the end of typing: they are dim meanwhile."""
    page.evaluate("window.busy = performance.now()")
    page.wait_for_function(
        """() => {
          if (document.querySelector(".insight [aria-busy=true]")) window.busy = performance.now();
          return performance.now() - window.busy > 600;
        }"""
    )


def soon(page: Page, true: Callable[[], bool]) -> bool:
    """Whether something holds before long; the browser's events are heard meanwhile."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not true() and time.monotonic() < end:
        page.wait_for_timeout(100)
    return bool(true())


def main_box(page: Page) -> FloatRect:
    """Where the chart is, without the rows below it."""
    box = page.locator("#chart .nsewdrag[data-subplot='xy']").bounding_box()
    assert box is not None
    return box


@contextmanager
def another_site(write: Callable[[str], str]) -> Iterator[str]:
    """Serve pages of somebody else, each written from its query: another name and another port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(write(self.path.partition("?")[2]).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(arguments: list[str], environment: dict[str, str], ready: str = "/healthz") -> Iterator[Site]:
    """Run a command of `liqheat` until the block ends; yield once it answers."""
    site = Site(free_port(), environment.get("REDIS_URL"))
    settings = {"LIQHEAT_HOST": "127.0.0.1", "LIQHEAT_PORT": str(site.port), **environment}
    process = subprocess.Popen([sys.executable, "-m", "dashboard.cli", *arguments], env={**os.environ, **settings})
    try:
        _await_answer(site.url + ready, process)
        yield site
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # loopback
                if answer.status == 200:
                    return
        except (URLError, OSError):
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} did not answer within {START_S:g} s")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The web server over a real cache that holds the made-up sample market, at rest."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis")))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url}, "/readyz"))


@pytest.fixture(scope="module")
def moving_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything as `liqheat run` starts it: bundled server, worker on the simulated market, web."""
    data = tmp_path_factory.mktemp("data")
    environment = {"LIQHEAT_DATA": str(data), "LIQHEAT_SOURCE": "simulated", "LIQHEAT_DAYS": "4", "REDIS_URL": ""}
    with serving(["run"], environment, "/readyz") as running:
        yield running


@pytest.fixture(scope="module")  # ends with the file: a running loop or worker would disturb other tests
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        reason = f"there is no Chromium at {CHROMIUM}; set LIQHEAT_CHROMIUM to its path"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport=DESKTOP, timezone_id="Europe/Berlin", reduced_motion="reduce")
    yield made
    made.close()


@pytest.fixture
def visit(context: BrowserContext, site: Site) -> Iterator[Visit]:
    """A visit to the site at rest; at its end nothing may have gone wrong unseen."""
    made = Visit(context.new_page(), site)
    yield made
    assert made.errors == []
    assert made.other_hosts == set()


@pytest.fixture(scope="session")
def note() -> Callable[[str, Any], None]:
    """Record a measurement for the summary: recorded, never asserted."""
    return _times.__setitem__


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _times:
        return
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "times.json").write_text(json.dumps(_times, indent=1))
    terminalreporter.section("measured in the browser (recorded, not asserted)")
    for name, value in _times.items():
        terminalreporter.write_line(f"{name}: {value}")
