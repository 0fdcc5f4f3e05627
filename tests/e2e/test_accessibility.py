"""axe-core finds no serious fault on any page: either theme, desktop and phone, everything opened that opens.

Colours of words in all palettes are held against their backgrounds in `tests.dashboard.test_colours`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from typing import Any, Final, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from estimator.cache import Cache
from tests.dashboard.sample import sample_server
from tests.dashboard.test_measured import put_positions
from tests.dashboard.test_track import META, horizon
from tests.e2e.conftest import DESKTOP, PHONE, Site, Visit, rest, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

AXE: Final = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
# Frames are pages of their own here, looked at as such.
RUN: Final = "axe.run(document, {resultTypes: ['violations'], iframes: false})"
GRAVE: Final = ("serious", "critical")
REST_S: Final = 5.0
PANELS: Final = ("magnets", "signals", "cascade", "position")
CHARTS: Final = ("/", "/embed", "/s/{snapshot}")
BESIDE: Final = ("/markets", "/tape", "/track-record", "/method", "/docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample market with a made-up track record and observed positions."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis"), levels=(0, 1, 2)))
        cache = Cache(url)
        told = {"horizons": {"1": horizon(), "4": horizon()}}
        cache.track.put(META, {(venue, coin): told for venue in ("all", "okx") for coin in ("all", "BTC")})
        put_positions(cache)
        cache.close()
        data = str(tmp_path_factory.mktemp("data"))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url, "LIQHEAT_DATA": data}, "/readyz"))


@pytest.fixture(params=["desktop", "phone"])
def screen(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Visit]:
    phone = request.param == "phone"
    size = PHONE if phone else DESKTOP
    context = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone, reduced_motion="reduce")
    visit = Visit(context.new_page(), site)
    yield visit
    assert visit.errors == []
    context.close()


def faults(page: Page) -> list[str]:
    """What axe calls serious or critical, one line for each element."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate(RUN)
    return [
        f"{fault['id']} {node['target']}: {node['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


def lasting_faults(page: Page) -> list[str]:
    """Faults that stay when what was opened has come to rest: it is not whole at once."""
    end = time.monotonic() + REST_S
    while (found := faults(page)) and time.monotonic() < end:
        page.wait_for_timeout(200)
    return found


def open_everything(page: Page) -> None:
    """Open every panel, wait for its answer, and open what is folded in it."""
    for name in PANELS:
        panel = page.locator(f"#{name}")
        panel.evaluate("panel => { panel.open = true }")
        panel.scroll_into_view_if_needed()
        expect(page.locator(f'#{name}[data-state="shown"]')).to_be_attached()
    page.locator("#position").get_by_label("cross").check()
    page.get_by_role("button", name="Add a position").click()
    page.evaluate("document.querySelectorAll('.insight details').forEach(d => { d.open = true })")
    rest(page)


def test_the_chart_and_its_panels_have_no_fault(screen: Visit) -> None:
    page = screen.open("symbol=BTC")
    expect(page.get_by_role("button", name="outline")).to_be_attached()
    open_everything(page)
    assert faults(page) == []
    page.locator("#content").focus()
    page.keyboard.press("k")
    page.keyboard.press("t")
    screen.painted("symbol=BTC&palette=colorblind&theme=light")
    rest(page)
    assert faults(page) == []


def test_an_embed_and_a_snapshot_have_no_fault(screen: Visit) -> None:
    theme = "light" if screen.page.viewport_size == PHONE else "dark"
    made = screen.page.request.post(
        f"{screen.site.url}/api/v1/snapshots",
        data=json.dumps({"view": f"symbol=BTC&range=12h&theme={theme}"}),
        headers={"Content-Type": "application/json"},
    )
    name = made.json()["id"]
    for path, query in (("/embed", f"symbol=BTC&theme={theme}"), (f"/s/{name}", "")):
        assert faults(screen.open(query, path)) == [], path


@pytest.mark.parametrize("path", BESIDE)
def test_a_page_beside_the_chart_has_no_fault(screen: Visit, path: str) -> None:
    page = screen.page
    page.goto(screen.site.url + path)
    if page.locator("#box").count():
        page.wait_for_selector('#box[data-state="shown"]')
    assert faults(page) == []
    if path != "/docs":  # it has the colours of the system
        page.keyboard.press("t")
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        assert faults(page) == []


@pytest.mark.parametrize("wanted", ["reduce", "no-preference"])
def test_nothing_moves_by_itself_where_that_is_not_wanted(
    browser: Browser, site: Site, wanted: Literal["reduce", "no-preference"]
) -> None:
    context = browser.new_context(viewport=DESKTOP, reduced_motion=wanted)
    page, held = context.new_page(), list[Route]()
    page.route("**/api/v1/chart**", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks its handlers
    page.goto(f"{site.url}/?symbol=BTC")
    page.wait_for_selector(".plot .skeleton", state="attached")
    moving = "document.getAnimations().filter((a) => a.playState === 'running').length"
    if wanted == "reduce":
        assert page.evaluate(moving) == 0
    else:
        page.wait_for_function(f"{moving} > 0")
    for route in held:
        route.abort()
    context.close()


def _share(item: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.get_by_role("button", name="Share").click()
        if item:
            page.get_by_role("menuitem", name=item).click()

    return act


def _tool(name: str) -> Callable[[Page], None]:
    return lambda page: page.get_by_role("button", name=re.compile(f"^{name}")).click()


OPENED: Final[dict[str, tuple[Callable[[Page], None], str]]] = {
    "help": (lambda page: page.keyboard.press("?"), "dialog.keys-sheet[open]"),
    "embed": (_share("Embed"), "dialog.share-dialog[open] iframe"),
    "share": (_share(""), '[role="menu"]:visible'),
    "venues": (_tool("Venues"), ".mantine-Popover-dropdown:visible"),
    "leverage": (_tool("Leverage"), ".mantine-Popover-dropdown:visible"),
    "price": (_tool("Price"), ".mantine-Popover-dropdown:visible"),
    "colours": (_tool("Colours"), ".mantine-Popover-dropdown:visible"),
    "coin": (lambda page: page.keyboard.press("c"), '[role="option"]:visible >> nth=0'),
}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_what_opens_over_the_page_has_no_fault_and_closes_with_escape(
    context: BrowserContext, site: Site, theme: str
) -> None:
    visit = Visit(context.new_page(), site)
    page = visit.open(f"symbol=BTC&theme={theme}")
    for name, (act, opened) in OPENED.items():
        act(page)
        expect(page.locator(opened)).to_be_visible()
        assert lasting_faults(page) == [], name
        page.keyboard.press("Escape")
        expect(page.locator(opened)).to_have_count(0)


def test_an_address_that_cannot_be_shown_and_a_missing_page_have_no_fault(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    for path in ("/?range=2h", "/markets?sort=luck", "/nothing"):
        page.goto(site.url + path)
        if path.startswith("/?"):
            expect(page.get_by_role("alert")).to_contain_text("range=2h")
        assert faults(page) == [], path
