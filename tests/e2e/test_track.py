"""The track record in a real browser: a filter that needs no button, pictures that fit a phone, every theme."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect

from estimator.cache import Cache
from tests.dashboard.sample import sample_server
from tests.dashboard.test_track import META, horizon
from tests.e2e.conftest import PHONE, PICTURES, Site, Visit, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The web server over a cache with a few markets and a made-up record."""
    with ExitStack() as stack:
        server = sample_server(tmp_path_factory.mktemp("redis"), levels=(0,), coins=("BTC",))
        url = stack.enter_context(server)
        cache = Cache(url)
        few = horizon(n={"days": 2, "closes": 9, "units": 9, "prints": 31, "usd": 5e5}, enough=False)
        told = {"horizons": {"1": horizon(), "4": few}}
        cache.track.put(META, {(venue, coin): told for venue in ("all", "okx") for coin in ("all", "BTC")})
        cache.close()
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url}, "/readyz"))


def test_a_choice_shows_at_once_and_goes_into_the_address(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.site.url}/markets?theme=light")
    page.get_by_role("link", name="Track record").click()
    expect(page.get_by_role("heading", name="Against the baselines")).to_be_visible()
    expect(page.get_by_role("button", name="Show")).to_be_hidden()
    page.get_by_label("Ahead").select_option("4h")
    expect(page.locator('#state[data-state="few"]')).to_contain_text("Too few events yet")
    page.get_by_label("Venue").select_option("okx")
    page.wait_for_url("**venue=okx**")
    assert all(part in page.url for part in ("horizon=4h", "symbol=all", "theme=light"))
    expect(page.get_by_label("Ahead")).to_have_value("4h")


def test_a_head_sorts_the_models_keeps_the_focus_and_goes_into_the_address(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.site.url}/track-record?horizon=1h&theme=light")
    rows, gains = page.locator("#numbers tbody th"), page.locator("#gain tbody th")
    head = page.locator("#numbers").get_by_role("columnheader", name="Bits over uniform")
    expect(head).to_have_attribute("aria-sort", "none")
    for order, first in (("descending", "shown levels"), ("ascending", "distance")):
        head.get_by_role("link").press("Enter")
        expect(head).to_have_attribute("aria-sort", order)
        expect(rows.first).to_have_text(first)
        expect(head.get_by_role("link")).to_be_focused()
    assert all(part in page.url for part in ("sort=bits", "order=asc", "theme=light"))
    page.get_by_role("columnheader", name="Bits ahead").get_by_role("link").click()
    expect(gains).to_have_text(["uniform", "distance", "freshness"])
    page.get_by_role("columnheader", name="Bits ahead").get_by_role("link").click()
    expect(gains).to_have_text(["freshness", "distance", "uniform"])
    # The filter keeps the order, and still shows at once.
    page.get_by_label("Venue").select_option("okx")
    page.wait_for_url("**venue=okx**")
    expect(gains).to_have_text(["freshness", "distance", "uniform"])
    expect(page.get_by_role("button", name="Show")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert [line.split(",")[10] for line in download.value.path().read_text().splitlines()] == [
        "model", "distance", "published",
    ]  # fmt: skip


def test_pictures_say_which_side_of_zero_an_interval_lies_on(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.site.url}/track-record")
    rows = page.locator("#gain tbody tr")
    zero = rows.first.locator("line.zero").bounding_box()
    assert zero is not None
    sides = {}
    for row in rows.all():
        whisker = row.locator("svg.whisker line:not(.zero)").bounding_box()
        assert whisker is not None
        sides[row.locator("th").inner_text()] = (whisker["x"] > zero["x"], whisker["x"] + whisker["width"] > zero["x"])
    assert sides == {"uniform": (True, True), "distance": (False, True), "freshness": (False, False)}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_phone_has_no_sideways_scroll(browser: Browser, site: Site, theme: str) -> None:
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto(f"{site.url}/track-record?theme={theme}")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    plot = page.locator("#calibration svg").bounding_box()
    assert plot is not None
    assert plot["x"] + plot["width"] <= PHONE["width"]
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"track-phone-{theme}.png", full_page=True)
    context.close()
