"""What a trader does with the pages beside the heatmap, done in a real browser against a real server."""

from __future__ import annotations

import csv
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from estimator.cache import Cache
from estimator.domain import Liquidation, Side
from estimator.redis_server import BundledServer
from tests.dashboard.sample import AS_OF_MS, fill_cache, sample_status
from tests.e2e.conftest import DESKTOP, PHONE, PICTURES, Site, Visit, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

HOSTILE = "<img src=x onerror=document.title='owned'>"


def _go(visit: Visit, address: str) -> Page:
    visit.page.goto(visit.site.url + address)
    visit.page.wait_for_selector('#box[data-state="shown"]')
    return visit.page


def _column(page: Page, key: str) -> list[str]:
    found: list[str] = page.locator(f"#rows .c-{key}").evaluate_all("cells => cells.map(c => c.firstChild.textContent)")
    return found


def _markets(page: Page) -> list[str]:
    found: list[str] = page.locator("#rows tr").evaluate_all("rows => rows.map(r => r.dataset.market)")
    return found


def _api(site: Site, address: str) -> Any:
    with urllib.request.urlopen(site.url + address, timeout=10) as answer:
        return json.load(answer)


# --- markets ----------------------------------------------------------------------------------------------------------


def test_a_head_sorts_its_column_and_says_so(visit: Visit) -> None:
    page = _go(visit, "/markets")
    head = page.locator('th[data-key="price"]')
    expect(page.locator('th[aria-sort="descending"]')).to_have_attribute("data-key", "oi")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.locator('th[aria-sort="descending"], th[aria-sort="ascending"]')).to_have_count(1)
    assert _markets(page)[0].endswith("BTC/USDT:USDT")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert _markets(page)[0].endswith("ETH/USDT:USDT")
    assert "sort=price&order=asc" in page.url
    shown = _markets(page)
    page.reload()
    page.wait_for_selector('#box[data-state="shown"]')
    assert _markets(page) == shown


def test_the_filter_and_the_venues_choose_rows_and_go_into_the_address(visit: Visit) -> None:
    page = _go(visit, "/markets")
    expect(page.locator("#rows tr")).to_have_count(6)
    page.get_by_label("Find").fill("eth")
    expect(page.locator("#rows tr")).to_have_count(3)
    page.locator("#venues .chip", has_text="OKX").click()
    expect(page.locator("#rows tr")).to_have_count(2)
    assert "find=eth" in page.url
    assert "venues=binance,bybit" in page.url
    expect(page.locator("#count")).to_have_text("2 of 6 markets")
    page.get_by_label("Rows").select_option("coin")
    page.get_by_label("Find").fill("okx")
    expect(page.locator("#count")).to_have_text("2 of 2 coins")
    page.get_by_label("Find").fill("nothing like it")
    expect(page.get_by_role("heading", name="No market fits")).to_be_visible()


def test_the_table_downloads_as_it_is_shown(visit: Visit) -> None:
    page = _go(visit, "/markets?sort=liquidated&order=asc&venues=okx,binance")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with download.value.path().open() as file:
        rows = list(csv.DictReader(file))
    assert [r["market"] for r in rows] == _markets(page)


def test_numbers_have_exact_values_and_what_is_estimated_says_so(visit: Visit) -> None:
    page = _go(visit, "/markets")
    rows = {m["id"]: m for m in _api(visit.site, "/api/v1/markets")["markets"]}
    row = page.locator('tr[data-market="binance:BTC/USDT:USDT"]')
    told = rows["binance:BTC/USDT:USDT"]
    exact = f"${round(told['liquidated_24h']['long_usd']):,}"
    expect(row.locator(".c-long")).to_have_attribute("title", exact)
    expect(row.locator(".c-below")).to_have_attribute("title", re.compile("Estimated"))
    expect(row.get_by_role("link")).to_have_attribute("href", "/?symbol=BTC&venues=binance")
    expect(row.locator(".c-largest")).to_contain_text(re.compile(r"1[45] Jan \d\d:\d\d"))
    expect(page.locator("#banner")).to_contain_text("SIMULATED")
    expect(page.locator('tr[data-market="okx:BTC/USDT:USDT"] .c-age')).to_contain_text("gap 11:30–12:00")


# --- tape -------------------------------------------------------------------------------------------------------------


def test_a_new_print_comes_to_the_top_of_the_tape_and_into_the_totals(visit: Visit) -> None:
    page = _go(visit, "/tape")
    before = page.locator("#rows tr").first.get_attribute("data-at")
    assert visit.site.redis_url is not None
    cache = Cache(visit.site.redis_url)
    cache.add_liquidations("okx:ETH/USDT:USDT", [Liquidation(AS_OF_MS - 900, Side.LONG, 3210.5, 400.0, 1_284_200.0)])
    first = page.locator("#rows tr").first
    expect(first.locator(".c-usd")).to_have_text("$1.28M")
    assert first.get_attribute("data-at") != before
    expect(first.locator(".c-usd")).to_have_attribute("title", "$1,284,200")
    expect(first.locator(".c-side")).to_contain_text("Long")
    expect(page.locator("#sums .card").first).to_contain_text("largest $1.28M long ETH, OKX 15 Jan 14:")
    # Paused, nothing moves; what came is counted and shown on going on.
    page.get_by_role("button", name="Pause").click()
    cache.add_liquidations("okx:ETH/USDT:USDT", [Liquidation(AS_OF_MS - 800, Side.SHORT, 3211.0, 1.0, 3211.0)])
    expect(page.locator("#link-words")).to_have_text("paused, 1 new")
    expect(first.locator(".c-usd")).to_have_text("$1.28M")
    page.get_by_role("button", name="Resume").click()
    expect(first.locator(".c-usd")).to_have_text("$3.21k")
    cache.close()


def test_the_tape_is_filtered_by_coin_venue_side_and_size(visit: Visit) -> None:
    page = _go(visit, "/tape")
    page.get_by_label("Coin").select_option("BTC")
    page.locator("#venues .chip", has_text="Bybit").click()
    page.get_by_label("Side").select_option("short")
    page.get_by_label("At least").fill("100000")
    page.get_by_label("At least").press("Enter")
    expect(page.locator("#rows tr").first.locator(".c-usd")).to_have_text(re.compile(r"\$\d+k|M"))
    expect(page.locator('#box[data-state="shown"]')).to_be_visible()
    assert "symbol=BTC&venues=binance,okx&side=short&min_usd=100000" in page.url
    assert set(_column(page, "venue")) <= {"Binance", "OKX"}
    assert set(_column(page, "side")) == {"Short ▲"}
    query = "symbol=BTC&venues=binance,okx&side=short&min_usd=100000&limit=100"
    wanted = [str(r[0]) for r in _api(visit.site, f"/api/v1/liquidations?{query}")["rows"]]
    assert page.locator("#rows tr").evaluate_all("rows => rows.map(r => r.dataset.at)") == wanted
    page.get_by_label("At least").fill("999000000")
    page.get_by_label("At least").press("Enter")
    expect(page.get_by_role("heading", name="Nothing on the tape")).to_be_visible()


def _sizes(page: Page) -> list[float]:
    found: list[float] = page.locator("#rows tr").evaluate_all("rows => rows.map(r => r.print.notional_usd)")
    return found


def test_the_tape_sorts_by_size_and_what_comes_takes_its_place(visit: Visit) -> None:
    page = _go(visit, "/tape")
    head = page.get_by_role("columnheader", name="Size")
    expect(page.get_by_role("columnheader", name="Time")).to_have_attribute("aria-sort", "descending")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.locator("#scope")).to_have_text("of the last 24 h")
    query = "symbol=all&range=24h&sort=usd&limit=200"
    wanted = [r[6] for r in _api(visit.site, f"/api/v1/liquidations?{query}")["rows"]]
    expect(page.locator("#rows tr").first.locator(".c-usd")).to_have_attribute("title", f"${round(wanted[0]):,}")
    assert _sizes(page) == wanted[:100]
    # One between the second and the third, and one that is too small for the rows shown.
    assert visit.site.redis_url is not None
    cache = Cache(visit.site.redis_url)
    between = (wanted[1] + wanted[2]) / 2
    new = [Liquidation(AS_OF_MS - 700 + n, Side.SHORT, 3210.5, 1.0, usd) for n, usd in enumerate((1.0, between))]
    cache.add_liquidations("okx:ETH/USDT:USDT", new)
    cache.close()
    expect(page.locator("#rows tr").nth(2).locator(".c-usd")).to_have_attribute("title", f"${round(between):,}")
    assert _sizes(page) == [*wanted[:2], between, *wanted[2:100]]
    page.get_by_role("button", name="More").click()
    expect(page.locator("#rows tr")).to_have_count(201)
    assert _sizes(page) == [*wanted[:2], between, *wanted[2:200]]
    # The address and the download have the order too.
    page.reload()
    page.wait_for_selector('#box[data-state="shown"]')
    expect(head).to_have_attribute("aria-sort", "descending")
    assert _sizes(page) == [*wanted[:2], between, *wanted[2:99]]
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with download.value.path().open() as file:
        saved = [float(r["notional_usd"]) for r in csv.DictReader(file)]
    assert saved[:100] == pytest.approx(_sizes(page))
    head.get_by_role("button").click()
    expect(page.locator("#rows tr").first.locator(".c-usd")).to_have_attribute("title", "$1")


def test_older_prints_follow_without_a_gap_or_a_double(visit: Visit) -> None:
    page = _go(visit, "/tape?symbol=BTC")
    for count in (200, 300):
        page.get_by_role("button", name="Older").click()
        expect(page.locator("#rows tr")).to_have_count(count)
    wanted = _api(visit.site, "/api/v1/liquidations?symbol=BTC&range=1y&limit=300")["rows"]
    assert page.locator("#rows tr").evaluate_all("rows => rows.map(r => Number(r.dataset.at))") == [
        r[0] for r in wanted
    ]


def test_older_prints_of_a_choice_given_up_meanwhile_stay_away(visit: Visit) -> None:
    page, held = _go(visit, "/tape?symbol=BTC"), list[Route]()
    page.route("**/api/v1/liquidations?*cursor=*", lambda route: held.append(route))  # noqa: PLW0108 - takes no built-in
    with page.expect_request("**/api/v1/liquidations?*cursor=*"):
        page.get_by_role("button", name="Older").click()
    page.locator("#side").select_option("long")
    expect(page.locator("#rows tr:not(.long-row)")).to_have_count(0)
    expect(page.locator("#rows tr")).to_have_count(100)
    with page.expect_response("**/api/v1/liquidations?*cursor=*"):
        held[0].continue_()
    expect(page.get_by_role("button", name="Older")).to_be_enabled()
    expect(page.locator("#rows tr:not(.long-row)")).to_have_count(0)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_the_pages_are_walked_by_keyboard_and_keep_the_look(visit: Visit) -> None:
    page = visit.open("symbol=BTC&theme=light&palette=colorblind")
    for name, path in (("Markets", "/markets"), ("Tape", "/tape"), ("Method", "/method")):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).focus()
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(rf"{path}\?theme=light&palette=colorblind"))
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("button", name="Switch to dark").press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.url.endswith("/method?palette=colorblind")
    page.get_by_role("link", name="Heatmap", exact=True).press("Enter")
    visit.painted()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_way_back_to_the_heatmap_has_the_view_it_had(visit: Visit) -> None:
    view = "symbol=ETH&venues=okx&range=7d&lens=density"
    page = visit.open(view)
    page.get_by_role("link", name="Markets").click()
    page.wait_for_selector('#box[data-state="shown"]')
    assert page.url.endswith("/markets")
    page.get_by_role("link", name="Heatmap", exact=True).click()
    visit.painted(view)
    page.go_back()
    page.locator('tr[data-market="binance:BTC/USDT:USDT"]').get_by_role("link").click()
    visit.painted("symbol=BTC&venues=binance")
    page.go_back()
    # The page may be as it was left; its way back is to the view seen since.
    back = page.get_by_role("link", name="Heatmap", exact=True)
    expect(back).to_have_attribute("href", "/?symbol=BTC&venues=binance")


@pytest.mark.parametrize("path", ["/markets", "/tape", "/method"])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_page_fits_desktop_and_phone(browser: Browser, site: Site, path: str, theme: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        context = browser.new_context(viewport=size, reduced_motion="reduce")
        made = Visit(context.new_page(), site)
        made.page.goto(f"{site.url}{path}?theme={theme}")
        made.page.wait_for_selector("#box[data-state=shown], article")
        made.page.screenshot(path=str(PICTURES / f"{path.strip('/')}-{name}-{theme}.png"))
        assert made.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, name)
        for table in made.page.locator("table").all():
            assert table.locator("caption").count() == 1
            assert table.locator("thead th:not([scope=col])").count() == 0
        assert made.errors == []
        assert made.other_hosts == set()
        context.close()


def test_an_address_that_cannot_be_shown_offers_the_page_without_it(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    for path in ("/markets?venues=mexc", "/tape?symbol=NOPE", "/markets?sort=luck", "/tape?side=up"):
        page.goto(site.url + path)
        name, value = path.partition("?")[2].split("=")
        expect(page.get_by_text(f"{name}={value} is not possible")).to_be_visible()
        page.get_by_role("link", name="Show the page without it").click()
        page.wait_for_selector('#box[data-state="shown"]')
        assert page.url == site.url + path.partition("?")[0]


@pytest.fixture(scope="module")
def odd_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worker that is still starting, then a market whose name is markup."""
    with ExitStack() as stack:
        redis = stack.enter_context(BundledServer(tmp_path_factory.mktemp("odd")))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": redis.url}))


def test_a_page_waits_for_the_worker_and_shows_names_as_text(context: BrowserContext, odd_site: Site) -> None:
    assert odd_site.redis_url is not None
    cache = Cache(odd_site.redis_url)
    cache.put_progress(0.4, "reading BTC")
    pages = {path: context.new_page() for path in ("/markets", "/tape")}
    for path, page in pages.items():
        page.goto(odd_site.url + path)
        expect(page.get_by_role("heading", name="Reading history: 40 %")).to_be_visible()
    fill_cache(cache, levels=(0,), coins=("BTC",))
    odd = replace(sample_status("okx", "BTC", 9), symbol=f"{HOSTILE}/USDT:USDT", base=HOSTILE, has_prints=False)
    cache.put_status(odd)
    cache.add_liquidations(odd.id, [Liquidation(AS_OF_MS - 5, Side.LONG, 1.0, 1.0, 1.0)])
    for page in pages.values():
        page.bring_to_front()
        page.wait_for_selector('#box[data-state="shown"]', timeout=15_000)
        expect(page.locator("#rows b", has_text=HOSTILE).first).to_be_visible()
        assert page.locator("#rows img").count() == 0
        assert page.title() != "owned"
    # Nothing told of is not nothing liquidated.
    row = pages["/markets"].locator("#rows tr", has_text=HOSTILE)
    expect(row.locator(".c-long")).to_have_text("–")
    expect(row.locator(".c-long")).to_have_attribute("title", re.compile("not measured"))
    cache.close()


def test_old_rows_are_called_old_when_the_server_is_gone(browser: Browser, tmp_path: Any) -> None:
    with BundledServer(tmp_path) as redis:
        cache = Cache(redis.url)
        fill_cache(cache, levels=(0,), coins=("BTC",))
        cache.close()
        context = browser.new_context(viewport=DESKTOP)
        with serving(["web"], {"REDIS_URL": redis.url}, "/readyz") as running:
            page = context.new_page()
            page.goto(running.url + "/markets")
            page.wait_for_selector('#box[data-state="shown"]')
        end = time.monotonic() + 15
        while page.locator('#box[data-state="stale"]').count() == 0:
            assert time.monotonic() < end
            page.wait_for_timeout(200)
        assert page.locator("#rows tr").count() == 3
        context.close()
