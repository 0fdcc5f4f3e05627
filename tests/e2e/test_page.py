"""What a trader does with the page, done in a real browser against a real server."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from PIL import Image, ImageChops
from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, expect

from estimator.cache import Cache
from estimator.redis_server import BundledServer
from tests.dashboard.sample import fill_cache, sample_status
from tests.e2e.conftest import DESKTOP, PHONE, PICTURES, Site, Visit, another_site, main_box, rest, serving, soon
from tests.waiting import within

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


def _search(page: Page) -> str:
    return str(page.evaluate("location.search.slice(1)"))


def _pick(page: Page, control: str, words: str) -> None:
    page.locator(f"#{control} label", has_text=re.compile(f"^{re.escape(words)}$")).click()


def _in_popover(page: Page, button: str, words: str) -> None:
    page.get_by_role("button", name=button).click()
    page.locator(".mantine-Popover-dropdown:visible label", has_text=re.compile(f"^{re.escape(words)}$")).click()


def _choose_coin(page: Page) -> None:
    page.locator("#symbol").click()
    page.get_by_role("option", name="ETH").click()


def _raise_floor(page: Page) -> None:
    thumb = page.get_by_role("slider", name="Weakest intensity shown")
    thumb.focus()
    for _ in range(10):
        thumb.press("ArrowRight")


def _set_price(page: Page) -> None:
    page.get_by_role("button", name="Price").click()
    page.locator("#price-low").fill("94000")
    page.locator("#price-high").fill("99000")
    page.locator("#price-high").press("Enter")


CONTROLS: dict[str, tuple[Callable[[Page], None], str]] = {
    "coin": (_choose_coin, "symbol=ETH"),
    "venues": (lambda p: _in_popover(p, "Venues", "OKX"), "symbol=BTC&venues=binance,bybit"),
    "range": (lambda p: _pick(p, "range", "7d"), "symbol=BTC&range=7d"),
    "range by key": (lambda p: p.keyboard.press("5"), "symbol=BTC&range=30d"),
    "lens": (lambda p: _pick(p, "lens", "Density"), "symbol=BTC&lens=density"),
    "side": (lambda p: _pick(p, "side", "Longs"), "symbol=BTC&side=long"),
    "leverage": (lambda p: _in_popover(p, "Leverage", "50x+"), "symbol=BTC&tiers=2-4x,5-9x,10-24x,25-49x,diffuse"),
    "intensity": (_raise_floor, "symbol=BTC&min=0.1"),
    "price": (_set_price, "symbol=BTC&price=94000,99000"),
    "rows": (lambda p: _in_popover(p, "Rows", "RSI"), "symbol=BTC&panels=liq,funding,lsr,oi"),
    "colours": (lambda p: _in_popover(p, "Colours", "Colour-blind safe"), "symbol=BTC&palette=colorblind"),
    "theme": (lambda p: p.locator("#theme label").nth(1).click(), "symbol=BTC&theme=light"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_changes_the_address_and_the_picture(visit: Visit, control: str) -> None:
    act, query = CONTROLS[control]
    page = visit.open()
    before = _picture(page)
    act(page)
    visit.painted(query)
    assert _search(page) == query
    assert _differ(before, _picture(page))


@pytest.mark.parametrize(
    "query",
    [
        "symbol=BTC",
        (
            "symbol=ETH&venues=binance,okx&range=7d&tiers=5-9x,10-24x&side=short&lens=density&min=0.2&max=0.9"
            "&panels=liq,oi&palette=colorblind&theme=light"
        ),
        "symbol=BTC&range=3d&price=90000,102000&panels=none&palette=mono",
    ],
)
def test_a_copied_address_gives_the_same_picture_and_controls(
    visit: Visit, context: BrowserContext, query: str
) -> None:
    first = visit.open(query)
    other = Visit(context.new_page(), visit.site)
    second = other.open(_search(first))
    assert _controls(second) == _controls(first)
    assert within(20, lambda: not _differ(_picture(first), _picture(second)))
    assert _search(second) == query
    assert other.errors == []


def test_a_coin_is_found_by_typing_it(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    coin = page.locator("#symbol")
    coins = page.locator("[role=option]:visible")
    coin.click()
    for typed, found in (("et", "ETH"), ("bt", "BTC")):
        page.keyboard.type(typed, delay=80)
        expect(coin).to_have_value(typed)
        expect(coins).to_have_text([found])
        page.keyboard.press("Enter")
        expect(coin).to_have_value(found)
        visit.painted(f"symbol={found}")
    coin.blur()
    page.keyboard.press("c")
    page.keyboard.type("nope")
    expect(page.get_by_text("No such coin here")).to_be_visible()
    coin.blur()
    expect(coin).to_have_value("BTC")


def test_a_price_range_upside_down_is_told_and_not_taken(visit: Visit) -> None:
    page = visit.open("symbol=BTC&price=94000,99000")
    page.get_by_role("button", name="Price").click()
    page.locator("#price-low").fill("100000")
    page.locator("#price-low").press("Enter")
    wrong = page.get_by_text("not above From")
    expect(wrong).to_be_visible()
    assert _search(page) == "symbol=BTC&price=94000,99000"
    page.locator("#price-high").fill("102000")
    page.locator("#price-high").press("Enter")
    visit.painted("symbol=BTC&price=100000,102000")
    expect(wrong).to_be_hidden()


@pytest.mark.parametrize("width", [800, 1024, 1100, 1200, 1280, 1440])
def test_every_control_is_on_screen(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    page = visit.open("symbol=BTC&price=94000,99000")
    colours = page.get_by_role("button", name="Colours")
    expect(colours).to_be_in_viewport(ratio=1)
    page.evaluate("dash_clientside.set_props('share-done', { children: 'Snapshot made, its link copied' })")
    done = page.get_by_text("Snapshot made")
    expect(done).to_be_in_viewport(ratio=1)
    assert _bottom(done) <= min(_top(tool) for tool in page.locator(".tools > *").all())


def _top(found: Locator) -> float:
    box = found.bounding_box()
    assert box is not None
    return box["y"]


def _bottom(found: Locator) -> float:
    box = found.bounding_box()
    assert box is not None
    return box["y"] + box["height"]


def test_back_and_forward_walk_through_the_views(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    _pick(page, "range", "7d")
    visit.painted("symbol=BTC&range=7d")
    _pick(page, "side", "Shorts")
    visit.painted("symbol=BTC&range=7d&side=short")
    page.go_back()
    visit.painted("symbol=BTC&range=7d")
    assert _controls(page)["side"] == "both"
    page.go_back()
    visit.painted("symbol=BTC")
    assert _controls(page)["range"] == "24h"
    page.go_forward()
    visit.painted("symbol=BTC&range=7d")
    assert _controls(page)["range"] == "7d"


def test_looking_at_a_page_does_not_touch_its_address(visit: Visit) -> None:
    page = visit.open("range=7d&symbol=BTC&utm_source=somewhere")
    page.get_by_role("button", name="Venues").click()
    expect(page.locator(".mantine-Popover-dropdown:visible label")).to_have_count(3)
    assert _search(page) == "range=7d&symbol=BTC&utm_source=somewhere"


def test_a_made_up_market_cannot_be_taken_for_a_real_one(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".banner")).to_contain_text("SIMULATED")
    expect(page.locator(".status .badge")).to_have_text("SIMULATED")
    expect(page.locator(".status")).to_contain_text("ESTIMATED")
    expect(page.locator("#as-of")).to_contain_text("14:32:07 UTC")
    assert "local time" in str(page.locator("#as-of").get_attribute("title"))


def test_a_gap_of_a_venue_is_told(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".venue", has_text="OKX")).to_contain_text("gap 11:30\N{EN DASH}12:00")


_DRAWN_OVER = """() => {
    const gd = document.querySelector('#chart .js-plotly-plot');
    const heat = liqheat.answer().figure.data.find((t) => t.type === 'heatmap');
    const end = liqheat.toMs(heat.x0) + (gd._fullLayout.images[0].sizex / heat.dx - 0.5) * heat.dx;
    const drawn = (wanted) => gd.calcdata.filter(([first]) => wanted(first.trace))
        .flatMap((points) => points.map((point) => point.x)).filter(Number.isFinite);
    return [(t) => t.meta === 'candles', (t) => /liquidated$/.test(t.name) && t.fill === 'toself'].map((wanted) => {
        const [first, last] = [Math.min(...drawn(wanted)), Math.max(...drawn(wanted))];
        return [(first - end) / heat.dx + gd._fullLayout.images[0].sizex / heat.dx, (end - last) / heat.dx];
    });
}"""


def test_candles_and_bars_stand_over_their_columns_wherever_the_reader_lives(visit: Visit) -> None:
    """The browser is in Berlin: what took times for local ones would stand an hour beside the levels."""
    page = visit.open()
    assert page.evaluate("new Date().getTimezoneOffset()") != 0
    candles, bars = page.evaluate(_DRAWN_OVER)
    assert all(0 <= before_an_end < 1 for before_an_end in candles)
    assert all(before_an_end >= 0 for before_an_end in bars)


def test_the_pointer_reads_price_density_and_distance(visit: Visit) -> None:
    page = visit.open()
    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.75)
    card = page.locator(".cross .card")
    expect(card).to_contain_text("From mark")
    expect(card).to_contain_text(re.compile(r"Longs at risk≈ \$[\d.]+[kM]? / 0\.1 %"))
    expect(card).to_contain_text("UTC")


def test_the_map_reads_money_in_short_form_by_leverage_and_summed(visit: Visit) -> None:
    page = visit.open()
    page.wait_for_function("document.querySelector('#map .js-plotly-plot .bglayer')")
    box = page.locator("#map .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + box["height"] * 0.2)
    words = page.locator("#map .hoverlayer .legendtext")
    expect(words.filter(has_text="shorts to here")).to_have_text(re.compile(r"≈ \$\d+(\.\d+)?[kMB]?$"))
    expect(words.filter(has_text="10-24x")).to_have_text(re.compile(r"≈ \$\d+(\.\d+)?[kMB]?$"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("y2", r"Longs liquidated\$.*Shorts liquidated\$"),
        ("y3", r"Funding[+−]0\.\d{4} %"),
        ("y4", r"RSI 14\d+\.\d"),
        ("y5", r"Long accounts per short\d\.\d\d"),
        ("y6", r"Open interest[\d,]+ BTC"),
    ],
)
def test_the_pointer_reads_every_row_with_its_unit(visit: Visit, row: str, words: str) -> None:
    page = visit.open()
    box = page.locator(f"#chart .nsewdrag[data-subplot='x{row}']").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(".cross .card")).to_contain_text(re.compile(words))


def test_a_range_under_the_pointer_is_fetched_before_the_click_and_once(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    label = page.locator("#range label", has_text=re.compile("^7d$"))

    def asked() -> int:
        return sum("/api/v1/chart" in u and "range=7d" in u for u in visit.requests)

    label.hover()
    page.wait_for_timeout(200)
    assert soon(page, lambda: asked() == 1)
    label.click()
    visit.painted("symbol=BTC&range=7d")
    assert asked() == 1


@pytest.mark.parametrize(
    ("query", "named", "accepted"),
    [
        ("range=2h", "range=2h", "12h, 24h"),
        ("symbol=NOPE", "symbol=NOPE", "BTC"),
        ("symbol=BTC&lens=xray", "lens=xray", "contrast"),
        (f"symbol={quote('<b>x</b>')}", "symbol=<b>x</b>", "base coin"),
    ],
)
def test_a_wrong_value_is_named_and_the_way_out_offered(
    context: BrowserContext, site: Site, query: str, named: str, accepted: str
) -> None:
    visit = Visit(context.new_page(), site)
    visit.page.goto(f"{site.url}/?{query}")
    notice = visit.page.get_by_role("alert")
    expect(notice).to_contain_text(named)
    expect(notice).to_contain_text(accepted)
    assert _search(visit.page) == query.replace(" ", "%20")
    notice.get_by_role("link").click()
    visit.painted()
    # Chromium itself reports the 422 as an error; there must be no other.
    assert [e for e in visit.errors if "422" not in e] == []


def test_the_copied_link_is_of_this_very_view(visit: Visit, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open("symbol=ETH&range=7d")
    page.get_by_role("button", name="Share").click()
    page.get_by_role("menuitem", name="Copy link").click()
    expect(page.locator("#share-done")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"{visit.site.url}/?symbol=ETH&range=7d"


def test_the_page_is_usable_on_a_phone(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit = Visit(context.new_page(), site)
    page = visit.open()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    assert box["height"] >= 280
    _pick(page, "range", "7d")
    visit.painted("symbol=BTC&range=7d")
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.8)
    card = page.locator(".cross .card")
    expect(card).to_contain_text("at risk")
    page.touchscreen.tap(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.8)
    expect(card).to_contain_text("at risk")
    reading, buttons = card.bounding_box(), page.locator(".zoom").bounding_box()
    assert reading is not None
    assert buttons is not None
    assert reading["x"] >= buttons["x"] + buttons["width"], "what is read does not lie under the buttons"
    page.locator("[data-zoom=in]").tap()
    expect(card).to_be_hidden()
    assert visit.errors == []
    context.close()


# ---- embedding ----


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A page of somebody else that frames whatever its query says."""
    frame = '<!doctype html><title>other site</title><iframe width="800" height="560" src="{}"></iframe>'
    with another_site(frame.format) as address:
        yield address


def test_the_chart_alone_can_be_framed_by_another_site(context: BrowserContext, site: Site, elsewhere: str) -> None:
    page = context.new_page()
    visit = Visit(page, site)
    page.goto(f"{elsewhere}/?{site.url}/embed?symbol=ETH")
    inner = page.frame_locator("iframe")
    expect(inner.locator('.plot[data-state="shown"][data-shown="symbol=ETH"]')).to_be_visible(timeout=20_000)
    expect(inner.locator(".header")).to_be_hidden()
    expect(inner.locator(".footer")).to_contain_text("liqheat")
    expect(inner.locator(".footer")).to_contain_text("as of")
    expect(inner.locator(".banner")).to_contain_text("SIMULATED")
    frame = page.frames[1]
    assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert [e for e in visit.errors if "favicon" not in e and "404" not in e] == []
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / "embed.png")


def test_a_small_frame_drops_rows_and_keeps_the_chart(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 450})
    visit = Visit(context.new_page(), site)
    page = visit.open("symbol=BTC", "/embed")
    page.wait_for_timeout(400)
    assert soon(page, lambda: page.evaluate("document.documentElement.scrollHeight <= innerHeight"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = main_box(page)
    footer = page.locator(".footer").bounding_box()
    assert footer is not None
    assert box["height"] >= 130
    assert footer["y"] + footer["height"] <= 450
    rows = page.locator("#chart .nsewdrag").count() - 1
    page.set_viewport_size({"width": 320, "height": 260})
    assert soon(page, lambda: page.locator("#chart .nsewdrag").count() - 1 < rows)
    assert soon(page, lambda: page.evaluate("document.documentElement.scrollHeight <= innerHeight"))
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / "embed-320.png")
    assert visit.errors == []
    context.close()


def test_the_page_itself_refuses_to_be_framed_by_another_site(
    context: BrowserContext, site: Site, elsewhere: str
) -> None:
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text))
    page.goto(f"{elsewhere}/?{site.url}/?symbol=ETH")
    assert soon(page, lambda: any("frame-ancestors" in text for text in said))
    assert page.frame_locator("iframe").locator(".plot").count() == 0


# ---- live ----


def test_a_push_moves_the_price_and_then_the_chart(visit: Visit, site: Site, note: Callable[[str, Any], None]) -> None:
    assert site.redis_url is not None
    page = visit.open("symbol=ETH&range=12h")
    page.wait_for_timeout(1500)  # the watch stands
    before = page.locator(".plot").get_attribute("data-etag")
    cache = Cache(site.redis_url)
    status = sample_status("binance", "ETH", 3)
    moved = replace(status, version=2, mark_price=status.mark_price * 1.004, as_of_ms=status.as_of_ms + 1000)
    cache.put_status(moved)
    start = time.perf_counter()
    cache.publish(moved.id, {"version": 2, "as_of_ms": moved.as_of_ms, "mark_price": moved.mark_price})
    expect(page.locator("#mark-price")).to_contain_text(f"{moved.mark_price:,.2f}"[:6])
    note("published to price on screen, ms", round(1000 * (time.perf_counter() - start)))
    page.wait_for_function("e => document.querySelector('.plot').dataset.etag !== e", arg=before)
    note("published to chart on screen, ms", round(1000 * (time.perf_counter() - start)))
    cache.put_status(status)
    cache.close()


def test_the_price_stays_that_of_the_last_push_of_the_lead_venue(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    page.evaluate(
        """() => {
          const { priceTag } = liqheat;
          window.titles = [];
          liqheat.priceTag = (...told) => {
            const tag = priceTag(...told);
            window.titles.push(document.title.split(' ')[0]);
            return tag;
          };
        }"""
    )
    for venue, price in ((0, 123456), (1, 1), (None, None)):
        page.evaluate(
            """([venue, mark_price]) => {
              const { market, as_of_ms } = liqheat.answer().readings.venues[venue || 0];
              window.seen = window.titles.length;
              liqheat.told(venue === null ? [] : [{ market, mark_price, as_of_ms: as_of_ms + 60000 }]);
            }""",
            [venue, price],
        )
        page.wait_for_function("window.titles.length > window.seen")
    assert set(page.evaluate("window.titles")) == {"123,456.0"}
    expect(page.locator("#mark-price")).to_contain_text("123,456.0")
    expect(page.locator("#as-of")).to_contain_text("14:33:07 UTC")


def test_the_open_column_of_a_moving_market_arrives_without_a_reload(
    context: BrowserContext, moving_site: Site, note: Callable[[str, Any], None]
) -> None:
    visit = Visit(context.new_page(), moving_site)
    page = visit.open()
    expect(page.locator("#measured-note")).to_contain_text("SIMULATED:", timeout=20_000)  # told every few seconds
    seen: set[str | None] = set()
    end = time.monotonic() + 40
    while time.monotonic() < end and len(seen) < 3:
        seen.add(page.locator(".plot").get_attribute("data-etag"))
        page.wait_for_timeout(200)
    assert len(seen) >= 3, "the chart did not follow the market"
    note("charts seen of a moving market", len(seen))
    assert visit.errors == []
    assert visit.other_hosts == set()


def test_a_zoom_outlives_the_updates_and_a_double_click_ends_it(context: BrowserContext, moving_site: Site) -> None:
    visit = Visit(context.new_page(), moving_site)
    page = visit.open()
    whole = _prices(page)
    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -600)
    assert soon(page, lambda: _prices(page)[1] - _prices(page)[0] < 0.95 * (whole[1] - whole[0]))
    page.wait_for_timeout(500)
    zoomed, etag = _prices(page), page.locator(".plot").get_attribute("data-etag")
    page.wait_for_function("e => document.querySelector('.plot').dataset.etag !== e", arg=etag, timeout=15_000)
    page.wait_for_timeout(300)
    assert _prices(page) == pytest.approx(zoomed)
    assert _prices(page, "map") == pytest.approx(zoomed)
    page.mouse.dblclick(*middle)
    assert soon(page, lambda: _prices(page)[1] - _prices(page)[0] > 1.02 * (zoomed[1] - zoomed[0]))
    assert visit.errors == []


STREAM = "/api/v1/stream?symbol=BTC&events=price"
DEAF = "delete window.SharedWorker; window.EventSource = class extends EventTarget { close() {} }"


def _follows(page: Page) -> None:
    """Wait for another chart than the one shown."""
    etag = page.locator(".plot").get_attribute("data-etag")
    page.wait_for_function("e => document.querySelector('.plot').dataset.etag !== e", arg=etag, timeout=30_000)


@pytest.mark.parametrize(("script", "streams"), [("delete window.SharedWorker", [STREAM]), (DEAF, [])])
def test_a_page_without_a_worker_follows_by_itself_and_one_that_hears_nothing_asks(
    context: BrowserContext, moving_site: Site, script: str, streams: list[str]
) -> None:
    visit = Visit(context.new_page(), moving_site)
    visit.page.add_init_script(script)
    _follows(visit.open("symbol=BTC"))
    assert [u.removeprefix(moving_site.url) for u in visit.requests if "/stream" in u] == streams
    assert visit.errors == []


def test_all_pages_of_a_browser_share_one_stream(context: BrowserContext, moving_site: Site) -> None:
    visits = [Visit(context.new_page(), moving_site) for _ in range(3)]
    for visit in visits:
        visit.open("symbol=BTC")
    for visit in visits:
        visit.page.bring_to_front()
        _follows(visit.page)
        assert visit.errors == []
    assert "liqheat_viewers 1.0" in httpx.get(moving_site.url + "/metrics").text.splitlines()


def test_a_page_of_what_is_not_on_offer_any_more_does_not_keep_the_stream_from_others(
    context: BrowserContext, site: Site
) -> None:
    def streams() -> str:
        told = httpx.get(site.url + "/metrics").text.splitlines()
        return next(line for line in told if line.startswith("liqheat_viewers ")).split()[1]

    visit = Visit(context.new_page(), site)
    visit.open("symbol=BTC")
    assert within(10, lambda: streams() == "1.0")
    gone = {"error": "symbol", "parameter": "symbol", "value": "BTC", "accepted": "no such coin"}
    visit.page.route("**/api/v1/chart?*", lambda route: route.fulfill(status=422, json=gone))
    visit.page.keyboard.press("1")
    expect(visit.page.get_by_role("alert")).to_contain_text("symbol=BTC")
    assert within(10, lambda: streams() == "0.0")
    # Chromium itself reports the 422 as an error; there must be no other.
    assert [e for e in visit.errors if "422" not in e] == []


# ---- when things are not as they should be ----


def test_the_page_waits_for_a_worker_and_keeps_its_chart_when_the_cache_goes(
    context: BrowserContext, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(ExitStack())
        redis = store.enter_context(BundledServer(tmp_path_factory.mktemp("empty")))
        running = stack.enter_context(serving(["web"], {"REDIS_URL": redis.url}))
        visit = Visit(context.new_page(), running)
        page = visit.page
        page.goto(running.url)
        expect(page.get_by_role("alert")).to_contain_text("worker has not started")
        cache = Cache(redis.url)
        cache.put_progress(0.4, "ETH on Binance")
        expect(page.get_by_role("alert")).to_contain_text("40 %")
        fill_cache(cache, levels=[0], coins=["ETH"])
        visit.painted("symbol=ETH")
        cache.close()
        # The address named no coin; the first market's is shown, and the controls know it.
        assert _search(page) == ""
        expect(page.locator("#symbol")).to_have_value("ETH")
        _pick(page, "range", "12h")
        visit.painted("symbol=ETH&range=12h")
        store.close()
        # Nobody asks: the stream that tells what moves has fallen silent, and the page looks why.
        expect(page.get_by_role("alert")).to_contain_text("as of 14:32:07 UTC", timeout=25_000)
        expect(page.locator("#chart .main-svg").first).to_be_visible()


def test_an_old_chart_of_another_view_says_so(context: BrowserContext, site: Site) -> None:
    visit = Visit(context.new_page(), site)
    page = visit.open("symbol=BTC")
    page.route("**/api/v1/chart?*", lambda route: route.abort())
    page.keyboard.press("3")
    expect(page.get_by_role("alert")).to_contain_text(
        "not of the view chosen, but of the one before, as of 14:32:07 UTC"
    )
    page.keyboard.press("2")
    expect(page.get_by_role("alert")).to_contain_text("The chart is as of 14:32:07 UTC")


# ---- pictures and times ----


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(("name", "size"), [("1440x900", DESKTOP), ("390x844", PHONE)])
def test_pictures_for_the_eye(browser: Browser, moving_site: Site, theme: str, name: str, size: ViewportSize) -> None:
    phone = size is PHONE
    context = browser.new_context(
        viewport=size, has_touch=phone, is_mobile=phone, device_scale_factor=2 if phone else 1
    )
    visit = Visit(context.new_page(), moving_site)
    page = visit.open(f"symbol=BTC&theme={theme}")
    page.wait_for_timeout(400)
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"page-{name}-{theme}.png")
    assert visit.errors == []
    context.close()


def test_times_of_changes_and_the_size_of_the_day_are_recorded(
    context: BrowserContext, site: Site, note: Callable[[str, Any], None]
) -> None:
    visit = Visit(context.new_page(), site)
    sizes: list[int] = []
    page = visit.page
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    wanted: set[str] = set()
    client.on(
        "Network.responseReceived",
        lambda e: wanted.add(e["requestId"]) if "/api/v1/chart" in e["response"]["url"] else None,
    )
    client.on(
        "Network.loadingFinished",
        lambda e: sizes.append(int(e["encodedDataLength"])) if e["requestId"] in wanted else None,
    )
    start = time.perf_counter()
    visit.open("symbol=BTC")
    note("first visit to painted, ms", round(1000 * (time.perf_counter() - start)))
    note("24 h view, bytes on the wire", sizes[0])
    changes: tuple[tuple[str, Callable[[], None], str], ...] = (
        ("range 24h to 7d", lambda: _pick(page, "range", "7d"), "symbol=BTC&range=7d"),
        ("range 7d to 24h", lambda: _pick(page, "range", "24h"), "symbol=BTC"),
        ("coin BTC to ETH", lambda: _choose_coin(page), "symbol=ETH"),
    )
    for what, change, query in changes:
        page.evaluate("document.addEventListener('click', () => { window.clicked = performance.now() }, true)")
        change()
        visit.painted(query)
        note(
            f"{what}: click to painted, ms",
            round(page.evaluate("Number(document.querySelector('.plot').dataset.painted) - window.clicked")),
        )
    assert sizes, "the size of the view was not seen"


def _prices(page: Page, graph: str = "chart") -> list[float]:
    found: list[float] = page.evaluate(
        "id => [...document.querySelector(`#${id} .js-plotly-plot`)._fullLayout.yaxis.range]", graph
    )
    return found


def _picture(page: Page) -> Image.Image:
    page.mouse.move(2, 2)
    rest(page)  # clusters are outlined on the chart
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _differ(a: Image.Image, b: Image.Image) -> bool:
    """Whether more than a few pixels differ (anti-aliased corners are not always drawn alike)."""
    if a.size != b.size:
        return True
    changed = ImageChops.difference(a, b).convert("L").point(lambda level: 255 if level > 8 else 0)
    return changed.histogram()[255] > 20


def _controls(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """() => ({
          symbol: document.getElementById('symbol').value,
          range: document.querySelector('#range input:checked').value,
          lens: document.querySelector('#lens input:checked').value,
          side: document.querySelector('#side input:checked').value,
          theme: document.querySelector('#theme input:checked').value,
          labels: [...document.querySelectorAll('.tool-value, #intensity-label')].map(e => e.textContent),
        })"""
    )
    return found
