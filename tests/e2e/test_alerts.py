"""The panel of alerts, and notifications of the browser: asked for, allowed or not, and each shown once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from estimator.cache import Cache
from tests.dashboard.sample import sample_server
from tests.e2e.conftest import PHONE, Site, Visit, serving
from tests.e2e.test_accessibility import faults
from tests.waiting import within

pytestmark = pytest.mark.browser

# Headless browsers show no notifications: what would be shown is kept, and the permission is as a test sets it.
NOTIFICATIONS = """
window.shown = [];
window.Notification = class {
  constructor(title, options) { window.shown.push([title, options.body, options.tag]); }
  static permission = PERMISSION;
  static async requestPermission() { Notification.permission = ANSWER; return ANSWER; }
};
"""


def alert(title: str, **more: Any) -> dict[str, Any]:
    return {
        "rule": "near", "kind": "cluster", "severity": "warning", "market": "BTC", "title": title, "origin": "live",
        "text": f"Why {title}.", "time_ms": 1_768_487_400_000, "told_ms": 1_768_487_400_000, "quiet": False, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The web server over a small sample."""
    with (
        sample_server(tmp_path_factory.mktemp("redis"), levels=(0, 2, 3), coins=("BTC",)) as url,
        serving(["web"], {"REDIS_URL": url}, "/readyz") as running,
    ):
        yield running


@pytest.fixture
def cache(site: Site) -> Iterator[Cache]:
    assert site.redis_url is not None
    cache = Cache(site.redis_url)
    yield cache
    cache.close()


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def open_panel(visit: Visit, query: str = "") -> None:
    visit.open(query)
    visit.page.locator("#alerts > summary").click()


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the policy of the page lets Playwright's own waiting evaluate no text."""
    assert within(10, lambda: bool(page.evaluate(condition))), condition


def later(page: Page, condition: str) -> None:
    """Let the page's time run until a condition holds; the server may answer as it did a moment ago."""

    def holds() -> bool:
        page.clock.run_for(16_000)
        page.wait_for_timeout(300)
        return bool(page.evaluate(condition))

    assert within(20, holds), condition


def answer_permission(page: Page, permission: str, answer: str) -> None:
    page.add_init_script(NOTIFICATIONS.replace("PERMISSION", f"'{permission}'").replace("ANSWER", f"'{answer}'"))


def test_without_rules_the_panel_says_that_this_server_tells_none(visit: Visit) -> None:
    open_panel(visit)
    expect(visit.page.locator("#alerts .out")).to_contain_text("This server tells no alerts now")
    expect(visit.page.locator("#alerts .brief")).to_have_text("off")


@pytest.mark.parametrize("query", ["theme=dark", "theme=light"])
def test_alerts_are_listed_with_their_severity_reasons_and_what_became_of_them(
    visit: Visit, cache: Cache, query: str
) -> None:
    cache.alerts.put_rules([{"name": "near", "kind": "cluster", "when": "the price is near a cluster"}])
    told = cache.alerts.add(alert(f"first in {query}"))
    cache.alerts.note(
        {"time_ms": 1, "alerts": [told], "target": "discord", "attempt": 4, "outcome": "failed", "why": ""}
    )
    cache.alerts.add(alert(f"<b>second</b> in {query}", severity="critical", quiet=True))
    open_panel(visit, query)
    rows = visit.page.locator("#alerts .alert")
    expect(rows.nth(0)).to_contain_text(f"<b>second</b> in {query}")  # as text
    expect(rows.nth(0)).to_have_attribute("data-severity", "critical")
    rows.nth(0).locator("summary").click()
    expect(rows.nth(0)).to_contain_text("Quiet time, not sent")
    rows.nth(1).locator("summary").click()
    expect(rows.nth(1)).to_contain_text(f"Why first in {query}.")
    expect(rows.nth(1)).to_contain_text("Not delivered to discord")
    expect(visit.page.locator("#alerts .note")).to_have_text("Told when the price is near a cluster.")
    assert faults(visit.page) == []


def test_notifications_are_shown_for_what_is_new_once_and_not_in_quiet_times(visit: Visit, cache: Cache) -> None:
    page = visit.page
    answer_permission(page, "default", "granted")
    cache.alerts.add(alert("of before"))
    page.clock.install()
    open_panel(visit)
    page.get_by_label("Notify me here").check()
    expect(page.locator("#notify-said")).to_have_text("New alerts are shown while this page is open in any tab.")
    until(page, "localStorage['liqheat-notified'] > '1'")
    new = cache.alerts.add(alert("BTC: new"))
    cache.alerts.add(alert("at night", quiet=True))
    later(page, "shown.length > 0")
    later(page, "document.querySelectorAll('.alert').length > 2")
    assert page.evaluate("shown") == [["BTC: new", "Why BTC: new.", new]]
    page.reload()
    visit.painted()
    page.locator("#alerts > summary").click()
    expect(page.get_by_label("Notify me here")).not_to_be_checked()  # the permission is asked for anew by this browser


def test_many_at_once_are_one_notification(visit: Visit, cache: Cache) -> None:
    page = visit.page
    answer_permission(page, "granted", "granted")
    page.clock.install()
    open_panel(visit)
    page.get_by_label("Notify me here").check()
    until(page, "localStorage['liqheat-notified'] > '1'")
    for n in range(5):
        cache.alerts.add(alert(f"alert {n}"))
    later(page, "shown.length > 0")
    ((title, body, _),) = page.evaluate("shown")
    assert title == "5 alerts"
    assert body.splitlines() == [f"alert {n}" for n in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("permission", "answer", "words"),
    [("denied", "denied", "blocked: allow them in the browser's settings"), ("default", "denied", "blocked")],
)
def test_a_denied_permission_is_respected_and_said(visit: Visit, permission: str, answer: str, words: str) -> None:
    page = visit.page
    answer_permission(page, permission, answer)
    open_panel(visit)
    box = page.get_by_label("Notify me here")
    if permission == "default":
        box.click()
    expect(box).to_be_disabled()
    expect(box).not_to_be_checked()
    expect(page.locator("#notify-said")).to_contain_text(words)


def test_an_address_without_notifications_says_so(visit: Visit) -> None:
    visit.page.add_init_script("delete window.Notification")
    open_panel(visit)
    expect(visit.page.get_by_label("Notify me here")).to_be_disabled()
    expect(visit.page.locator("#notify-said")).to_have_text("This browser has no notifications.")


def test_an_embed_asks_for_no_alerts_and_shows_no_panel(visit: Visit) -> None:
    answer_permission(visit.page, "granted", "granted")
    visit.page.add_init_script("localStorage.setItem('liqheat-notify', 'yes')")
    visit.page.clock.install()
    visit.open("symbol=BTC", "/embed")
    visit.page.clock.run_for(40_000)
    assert not [u for u in visit.requests if "/api/v1/alerts" in u]
    expect(visit.page.locator("#alerts")).to_be_hidden()


def test_the_panel_works_on_a_phone_and_by_keyboard(browser: Browser, site: Site, cache: Cache) -> None:
    cache.alerts.add(alert("on a phone"))
    context: BrowserContext = browser.new_context(viewport=PHONE, reduced_motion="reduce")
    visit = Visit(context.new_page(), site)
    visit.open()
    visit.page.locator("#alerts > summary").press("Enter")
    first = visit.page.locator("#alerts .alert summary").first
    first.press("Enter")
    expect(visit.page.locator("#alerts .alert").first).to_contain_text("Why on a phone.")
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.errors == []
    context.close()
