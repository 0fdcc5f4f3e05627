"""Snapshots and embeds as people make and meet them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from estimator.cache import Cache
from tests import dashboard
from tests.dashboard.sample import sample_server
from tests.e2e.conftest import DESKTOP, PHONE, PICTURES, Site, Visit, another_site, serving

pytestmark = pytest.mark.browser

VIEW = "symbol=BTC&range=12h&lens=density&min=0.1&panels=liq,rsi&theme=light"
FIRST = "0123456789abcdef" * 2
FIRST_FORMAT = Path(dashboard.__file__).parent / "snapshot-format-1.zip"
SNAPSHOT = re.compile(r"/s/([0-9a-f]{32})$")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a data folder of its own, in which a snapshot of the first version lies."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis")))
        data = tmp_path_factory.mktemp("data")
        (data / "snapshots").mkdir()
        shutil.copy(FIRST_FORMAT, data / "snapshots" / f"{FIRST}.zip")
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url, "LIQHEAT_DATA": str(data)}, "/readyz"))


def share(page: Page, item: str) -> None:
    page.get_by_role("button", name="Share").click()
    page.get_by_role("menuitem", name=item).click()


def copied(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def picture(page: Page) -> bytes:
    """The chart as it is on screen, without what the pointer adds."""
    page.mouse.move(2, 2)
    return page.locator("#chart .js-plotly-plot").screenshot()


def test_a_snapshot_of_the_first_version_is_shown_with_nothing_missing(visit: Visit, site: Site) -> None:
    visit.page.goto(f"{site.url}/s/{FIRST}")
    visit.painted()
    expect(visit.page.locator(".legend")).to_contain_text("per 0.1 %")
    for missing in ("undefined", "NaN", "null"):
        expect(visit.page.locator("body")).not_to_contain_text(missing)


def test_a_snapshot_shows_what_was_on_screen_whatever_becomes_of_the_market(
    visit: Visit, context: BrowserContext, site: Site
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open(VIEW)
    share(page, "Snapshot")
    expect(page.locator("#share-done")).to_contain_text("link copied")
    link = copied(page)
    assert SNAPSHOT.search(link)

    snapshot = Visit(context.new_page(), site)
    snapshot.page.goto(link)
    snapshot.painted(VIEW)
    expect(snapshot.page.locator(".banner")).to_contain_text("SNAPSHOT as of 15 Jan 2026, 14:32 UTC")
    expect(snapshot.page.locator(".banner")).to_contain_text("SIMULATED")
    expect(snapshot.page.locator(".legend")).to_contain_text("BTC · 12h")
    for control in ("#range", "#symbol", "#lens", "#theme"):
        expect(snapshot.page.locator(control)).to_be_hidden()
    expect(snapshot.page.locator(".insight:visible")).to_have_count(0)
    first = picture(snapshot.page)
    PICTURES.mkdir(exist_ok=True)
    snapshot.page.screenshot(path=PICTURES / "snapshot.png")

    page.goto("about:blank")  # the view of now would miss what goes away
    assert site.redis_url is not None
    cache = Cache(site.redis_url)
    before = {key: cache._redis.dump(key) for key in cache._redis.scan_iter()}
    cache._redis.flushall()
    try:
        snapshot.page.reload()
        snapshot.painted(VIEW)
        assert picture(snapshot.page) == first
    finally:
        for key, value in before.items():
            cache._redis.restore(key, 0, value)
        cache.close()
    asked = [u for u in snapshot.requests if "/api/" in u]
    assert asked
    assert all("/api/v1/snapshots/" in u for u in asked)
    assert not any(u.startswith("ws") for u in snapshot.requests)
    assert snapshot.errors == []


def test_the_embed_dialog_writes_code_and_shows_what_it_gives(visit: Visit, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open("symbol=BTC&range=12h")
    share(page, "Embed")
    dialog = page.get_by_role("dialog", name="Embed BTC, 12h")
    expect(dialog).to_be_visible()
    inner = dialog.frame_locator("iframe")
    expect(inner.locator('.plot[data-state="shown"][data-shown]')).to_be_visible(timeout=20_000)
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / "embed-dialog.png")
    dialog.get_by_label("Theme").select_option("light")
    dialog.get_by_label("Rows below").select_option("none")
    dialog.get_by_label("Width").select_option("480")
    dialog.get_by_role("button", name="Copy code").click()
    expect(dialog.get_by_role("status")).to_have_text("Copied")
    frame = f'<iframe src="{visit.site.url}/embed?symbol=BTC&amp;range=12h&amp;panels=none&amp;theme=light" width="480"'
    assert copied(page).startswith(frame)
    code = dialog.get_by_label("Code to copy")
    dialog.get_by_label("Height").select_option("fit")
    expect(code).to_have_value(re.compile("liqheat:height"))
    dialog.get_by_label("Data").select_option("frozen")
    expect(code).to_have_value(re.compile(r"/s/[0-9a-f]{32}/embed"))
    expect(inner.locator(".banner")).to_contain_text("SNAPSHOT", timeout=20_000)
    dialog.get_by_label("What").select_option("static")
    expect(code).to_have_value(re.compile(r'^<a href="[^"]+/s/[0-9a-f]{32}"><img src="[^"]+/preview.png"'))
    expect(dialog.get_by_role("img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def write_article(query: str) -> str:
    """Return a page of another site with the code of the documentation in it."""
    source, _, width = query.rpartition("|")
    script = (
        'addEventListener("message", (e) => { if (e.data && e.data.type === "liqheat:height") {'
        'heights.push(e.data.height); document.querySelector("iframe").style.height = e.data.height + "px"; }});'
    )
    return (
        f"<!doctype html><title>article</title><body style='margin:0'><script>const heights = [];{script}</script>"
        f'<iframe src="{source}" width="{width}" height="300" style="border:0"></iframe>'
    )


@pytest.fixture(scope="module")
def article() -> Iterator[str]:
    with another_site(write_article) as address:
        yield address


@pytest.mark.parametrize("width", [320, 900])
def test_a_frame_says_its_height_and_comes_to_rest(browser: Browser, site: Site, article: str, width: int) -> None:
    context = browser.new_context(viewport=DESKTOP if width > 400 else PHONE)
    page = context.new_page()
    page.goto(f"{article}/?{site.url}/embed?symbol=BTC&range=12h&panels=liq|{width}")
    inner = page.frame_locator("iframe")
    expect(inner.locator('.plot[data-state="shown"][data-shown]')).to_be_visible(timeout=20_000)
    page.wait_for_function("heights.length > 0")
    frame = page.frames[1]
    # The policy of the frame forbids what `wait_for_function` does.
    for _ in range(40):
        page.wait_for_timeout(200)
        if frame.evaluate("innerHeight !== 300 && document.documentElement.scrollHeight <= innerHeight"):
            break
    page.wait_for_timeout(800)
    told = page.evaluate("heights")
    assert len(told) <= 3, told
    box = page.locator("iframe").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (width, told[-1])
    assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(inner.locator(".footer")).to_contain_text("as of 14:32:07 UTC")
    expect(inner.locator(".footer a")).to_be_visible()
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"embed-fit-{width}.png")
    context.close()


def test_a_snapshot_fits_a_phone_and_its_downloads_are_its_own(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit = Visit(context.new_page(), site)
    made = context.request.post(
        f"{site.url}/api/v1/snapshots",
        data=json.dumps({"view": "symbol=BTC&range=12h"}),
        headers={"Content-Type": "application/json"},
    )
    name = made.json()["id"]
    page = visit.open(path=f"/s/{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.locator(".banner")).to_contain_text("SNAPSHOT")
    page.get_by_role("button", name="Share").click()
    hrefs = [
        page.locator(f"#{i}").get_attribute("href") for i in ("share-png", "share-csv", "share-arrow", "share-json")
    ]
    assert all(href and name in href for href in hrefs), hrefs
    assert [context.request.get(f"{site.url}{href}").status for href in hrefs] == [200] * 4
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / "snapshot-phone.png")
    assert visit.errors == []
    context.close()
