"""The panels beside the chart: what they say is what the API says, and they say what is wrong."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from tests.dashboard.sample import sample_server
from tests.e2e.conftest import PHONE, PICTURES, Site, Visit, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

LEVELS = (0, 1, 2)  # what 24 h, 3 d and 7 d, and the hours of signals, are read from
QUESTIONS = ("clusters", "signals", "cascade", "position")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample market at rest, without the years that these panels do not read."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis"), levels=LEVELS))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url}, "/readyz"))


def _asked(site: Site, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{site.url}/api/v1/{path}", timeout=10) as answer:  # loopback
        body: dict[str, Any] = json.load(answer)
    return body


def _open(page: Page, panel: str) -> Locator:
    box = page.locator(f"#{panel}")
    if box.get_attribute("open") is None:
        box.locator("> summary").click()
    return box


def _shown(page: Page, panel: str) -> Locator:
    """Open a panel and wait for its answer."""
    box = _open(page, panel)
    expect(page.locator(f'#{panel}[data-state="shown"]')).to_be_attached()
    return box


def _lies_at(page: Page, selector: str, price: float) -> None:
    """Wait until the upper edge of something drawn over the chart is at a price, by Plotly's own scale."""
    page.wait_for_function(
        """([selector, price]) => {
          const gd = document.querySelector('#chart .js-plotly-plot');
          const mark = document.querySelector(`.overlay ${selector}`);
          const axis = gd._fullLayout.yaxis;
          const pixel = Math.abs(axis.range[1] - axis.range[0]) / axis._length;
          const top = mark && mark.getBoundingClientRect().top - gd.getBoundingClientRect().top - axis._offset;
          return mark && Math.abs(axis.p2d(top) - price) <= 2 * pixel;
        }""",
        arg=[selector, price],
    )


def test_magnets_are_those_of_the_api_and_lie_where_they_are_drawn(visit: Visit) -> None:
    page = visit.open("symbol=BTC&range=3d")
    told = _asked(visit.site, "clusters?symbol=BTC")
    panel = _shown(page, "magnets")
    rows = panel.locator(".magnet")
    assert rows.count() == len(told["clusters"])
    for row, cluster in zip(rows.all(), told["clusters"], strict=True):
        assert cluster["side"] in str(row.get_attribute("aria-label"))
    expect(panel).to_contain_text("unproven")
    assert page.locator(".overlay .outline.zone").count() == rows.count()
    first = rows.first
    first.focus()
    page.keyboard.press("Enter")
    marked = page.locator(".overlay .zone.marked")
    expect(marked).to_have_count(1)
    expect(panel.locator(".magnet").first).to_have_attribute("aria-pressed", "true")
    expect(first).to_be_focused()  # though the list was drawn anew
    _lies_at(page, ".zone.marked", told["clusters"][0]["high"])
    page.keyboard.press("Enter")
    page.get_by_label("Outline clusters on the chart").uncheck()
    expect(page.locator(".overlay .zone")).to_have_count(0)


_BOXES = """() => {
    const gd = document.querySelector('#chart .js-plotly-plot');
    const { xaxis, yaxis, images } = gd._fullLayout;
    const origin = gd.getBoundingClientRect();
    const time = (px) => xaxis.p2c(px - origin.left - xaxis._offset);
    const price = (px) => yaxis.p2c(px - origin.top - yaxis._offset);
    const column = images[0].sizex / liqheat.answer().figure.data.find((t) => t.type === 'candlestick').x.length;
    const candles = liqheat.answer().figure.data.find((t) => t.type === 'candlestick');
    const [low, high] = [candles.low, candles.high].map((prices) => Array.from(liqheat.values(prices)));
    return [...document.querySelectorAll('.overlay .zone')].map((zone) => {
        const { left, right, top, bottom } = zone.getBoundingClientRect();
        const touched = high.findLastIndex((to, i) => to >= price(bottom - 1) && low[i] <= price(top + 1));
        return {
            late: (liqheat.toMs(images[0].x) + images[0].sizex - time(right)) / column,
            after: touched < 0 ? 0 : (time(left) - liqheat.toMs(candles.x[touched])) / column,
            width: (right - left) / xaxis._length,
        };
    });
}"""


@pytest.mark.parametrize("query", ["symbol=BTC", "symbol=BTC&range=7d"])
def test_a_cluster_is_outlined_no_earlier_than_the_price_last_went_through_it(visit: Visit, query: str) -> None:
    page = visit.open(query)
    _shown(page, "magnets")
    expect(page.locator(".overlay .zone").first).to_be_visible()
    boxes = page.evaluate(_BOXES)
    assert boxes
    for box in boxes:
        assert abs(box["late"]) < 1
        assert box["after"] > -1.5
        assert box["width"] < 0.3
    page.evaluate(
        """() => {
          const gd = document.querySelector('#chart .js-plotly-plot');
          const [from, to] = gd._fullLayout.xaxis.range.map((x) => liqheat.toMs(x));
          const at = (part) => new Date(from + part * (to - from)).toISOString().slice(0, -1);
          Plotly.relayout(gd, { 'xaxis.range': [at(0.1), at(0.9)] });
        }"""
    )
    expect(page.locator(".overlay .outline")).to_have_count(0)
    page.locator(".magnet").first.click()
    expect(page.locator(".overlay .zone.marked")).to_be_visible()


def test_magnets_say_which_filters_of_the_view_do_not_reach_them(visit: Visit) -> None:
    page = visit.open("symbol=BTC&tiers=50x")
    panel = _shown(page, "magnets")
    expect(panel.locator(".unfiltered")).to_have_text("Here: all leverages.")
    expect(page.locator(".overlay .tag.outline").first).to_contain_text("all leverages")
    page.keyboard.press("s")
    expect(panel.locator(".unfiltered")).to_have_text("Here: all leverages, both sides.")
    visit.open("symbol=BTC")
    _shown(page, "magnets")
    expect(panel.locator(".unfiltered")).to_have_count(0)


def test_a_marked_magnet_outside_the_prices_on_screen_is_brought_onto_it(visit: Visit) -> None:
    page = visit.open("symbol=BTC&price=95500,96500")
    _shown(page, "magnets")
    page.locator(".magnet").first.click()
    marked = page.locator(".overlay .zone.marked")
    expect(marked).to_be_visible()
    assert page.evaluate("location.search") == "?symbol=BTC&price=95500,96500"


def test_a_stop_says_why_and_is_refused_beyond_the_own_liquidation(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    panel = _shown(page, "magnets")
    stop = _asked(visit.site, "clusters?symbol=BTC")["stops"]["long"]
    words = panel.locator(".stop-words")
    expect(words).to_contain_text(f"Stop at {stop['price']:,.1f}")
    expect(words).to_contain_text("quarter of the hourly ATR")
    panel.get_by_label("Stop on the chart").check()
    drawn = page.locator(".overlay .level.stop")
    _lies_at(page, ".level.stop", stop["price"])
    panel.get_by_label("Own liquidation price, if any").fill(f"{stop['price'] * 1.001:.1f}")
    expect(words).to_contain_text("No stop is proposed")
    expect(words).to_contain_text("own liquidation price")
    expect(drawn).to_have_count(0)
    panel.get_by_label("short", exact=True).check()
    expect(words).to_contain_text("a short is liquidated above the mark")
    panel.get_by_label("Own liquidation price, if any").fill("")
    expect(words).to_contain_text("cluster of shorts")


def test_every_input_of_a_signal_is_told_with_its_threshold_and_whether_it_holds(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    told = _asked(visit.site, "signals?symbol=BTC")
    panel = _shown(page, "signals")
    expect(panel.locator(".phase")).to_contain_text("Cycle phase")
    for reading in (*told["readings"], *told["phase"]["tests"]):
        for value in [i for c in reading["conditions"] for i in c["inputs"]]:
            line = panel.locator("li:not(:has(li))", has_text=value["text"][1:]).first
            assert line.get_attribute("data-holds") == json.dumps(value["passed"])
    summary = panel.locator(".reading", has_text="Overheated longs").locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    expect(panel.locator(".reading[open] .conditions li").first).to_be_visible()


def test_a_cascade_follows_its_slider_by_keyboard_and_is_drawn_as_two_bands(visit: Visit) -> None:
    page = visit.open("symbol=BTC&range=3d")
    assert not [u for u in visit.requests if "/cascade" in u], "nothing is asked before the panel is opened"
    panel = _shown(page, "cascade")
    slider = panel.get_by_label("If the price moves by")
    for _ in range(2):
        slider.press("ArrowRight")
    expect(panel.locator("output")).to_have_text("\N{MINUS SIGN}2.0 %")
    told = _asked(visit.site, "cascade?symbol=BTC&change=-0.02")["cascades"][0]
    expect(panel.locator(".ends")).to_contain_text(f"{told['lower']['price']:,.1f}")
    expect(panel.locator(".ends")).to_contain_text(f"{told['upper']['price']:,.1f}")
    expect(page.locator(".overlay .zone.harsh")).to_have_count(1)
    _lies_at(page, ".zone.mild", 96_076.8 * 0.98)
    slider.fill("15")
    panel.get_by_label("Harsh market").select_option("10")
    expect(panel.locator(".beyond")).to_contain_text("beyond the known levels")
    expect(panel.locator(".ends tr", has_text="Branching").locator("td").last).to_have_text("–")
    expect(page.locator(".overlay .tag.harsh")).to_contain_text("harsh: beyond the known levels")
    slider.fill("0")
    expect(panel.locator(".said")).to_contain_text("away from 0")
    expect(page.locator(".overlay .cascade")).to_have_count(0)
    slider.fill("-5")
    expect(page.locator(".overlay .tag.harsh")).to_have_count(1)
    panel.locator("> summary").click()
    expect(page.locator(".overlay .cascade")).to_have_count(0)


def test_a_position_is_worked_out_drawn_and_kept_nowhere(visit: Visit) -> None:
    page = visit.open("symbol=ETH&range=7d")
    panel = _shown(page, "position")
    panel.get_by_label("Venue").select_option("bybit")
    panel.get_by_label("Size", exact=True).fill("5000")
    panel.get_by_label("Backed by").fill("20")
    panel.get_by_text("Change it").click()
    panel.get_by_label("Days of funding").fill("7")
    panel.get_by_label("Add margin").fill("50")
    panel.get_by_label("Close %", exact=True).fill("25")
    query = "symbol=ETH&venue=bybit&side=long&notional_usd=5000&leverage=20&days=7&add=50&close=0.25"
    told = _asked(visit.site, f"position?{query}")
    outcome = panel.locator(".outcome").first
    expect(outcome).to_contain_text(f"Liquidation{told['liquidation']['price']:,.2f}")
    expect(outcome).to_contain_text(f"{told['margin_call']['price']:,.2f}")
    expect(outcome).to_contain_text(f"{100 * told['margin_ratio']:.1f} %")
    expect(outcome).to_contain_text("Funding, 7 d")
    expect(panel.locator(".more", has_text="Other venues")).to_contain_text("OKX closes it")
    _lies_at(page, ".level.liquidation", told["liquidation"]["price"])
    panel.get_by_label("cross").check()
    panel.get_by_label("Account balance").fill("400")
    panel.get_by_role("button", name="Add a position").click()
    other = panel.get_by_role("group", name="Position 2")
    for name, value in (("Coin", "BTC"), ("Size, coins", "0.01"), ("Entry", "95000"), ("Mark", "96000")):
        other.get_by_label(name, exact=True).fill(value)
    query = "symbol=ETH&venue=bybit&side=long&mode=cross&notional_usd=5000&margin=400&days=7&add=50&close=0.25"
    both = _asked(visit.site, f"position?{query}&others=BTC:long:95000:0.01:96000:0.01")
    expect(panel.locator(".outcome").first).to_contain_text(f"Liquidation{both['liquidation']['price']:,.2f}")
    assert page.evaluate("location.search") == "?symbol=ETH&range=7d"
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert page.evaluate("Object.values(sessionStorage)") == ["symbol=ETH&range=7d"]  # the view, to come back to


def test_what_a_position_cannot_be_is_named_at_its_field(context: BrowserContext, site: Site) -> None:
    visit = Visit(context.new_page(), site)
    panel = _shown(visit.open("symbol=BTC"), "position")
    panel.get_by_label("Backed by").fill("5000")
    expect(panel.locator(".said")).to_contain_text("Backed by: possible is a number from 1 to 1000")
    expect(panel.get_by_label("Backed by")).to_have_attribute("aria-invalid", "true")
    visit.page.wait_for_timeout(2500)  # the panel looks every second whether there is something to ask
    assert panel.get_by_label("Backed by").get_attribute("aria-invalid") == "true"
    expect(visit.page.locator(".overlay .level")).to_have_count(0)
    panel.get_by_label("Backed by").fill("50")
    expect(panel.locator(".outcome").first).to_contain_text("Liquidation")
    assert [e for e in visit.errors if "422" not in e] == []


def test_what_is_odd_about_a_position_is_said(context: BrowserContext, site: Site) -> None:
    visit = Visit(context.new_page(), site)
    panel = _shown(visit.open("symbol=BTC"), "position")
    panel.get_by_label("Backed by").fill("900")
    expect(panel.locator(".beyond")).to_contain_text("allows at most")
    expect(panel.locator(".out .note")).to_contain_text("Only the first maintenance tier is known")
    panel.get_by_label("Backed by").fill("10")
    panel.get_by_label("short", exact=True).check()
    panel.get_by_label("Entry price").fill("80000")
    expect(panel.locator(".outcome").first).to_contain_text("passed already")
    panel.get_by_label("cross").check()
    panel.get_by_role("button", name="Add a position").click()
    other = panel.get_by_role("group", name="Position 2")
    for name, value in (("Coin", "btc"), ("Size, coins", "0.01"), ("Entry", "95000")):
        other.get_by_label(name, exact=True).fill(value)
    expect(panel.locator(".said")).to_contain_text("Position 2: BTC is the coin of the position above")
    expect(other.get_by_label("Coin", exact=True)).to_have_attribute("aria-invalid", "true")
    other.get_by_label("Coin", exact=True).fill("ETH")
    expect(panel.locator(".outcome").first).to_contain_text("Liquidation")
    other.get_by_label("Coin", exact=True).fill("NOPE")
    expect(panel.locator(".said")).to_contain_text("does not know the mark price of NOPE")
    expect(other.get_by_label("Mark", exact=True)).to_have_attribute("aria-invalid", "true")
    assert [e for e in visit.errors if "422" not in e] == []


def test_the_panels_follow_the_coin_and_the_venues_of_the_page(visit: Visit) -> None:
    page = visit.open("symbol=BTC")
    _shown(page, "magnets")
    page.locator("#symbol").click()
    page.get_by_role("option", name="ETH").click()
    visit.painted("symbol=ETH")
    nearest = min(_asked(visit.site, "clusters?symbol=ETH")["clusters"], key=lambda c: abs(c["distance"]))
    expect(page.locator("#magnets .pairs")).to_contain_text(f"{nearest['price']:,.2f}")
    page.get_by_role("button", name="Venues").click()
    page.locator(".mantine-Popover-dropdown:visible label", has_text="OKX").click()
    visit.painted("symbol=ETH&venues=binance,bybit")
    expect(page.locator('#magnets[data-state="shown"]')).to_be_attached()
    assert any("/clusters?symbol=ETH&venues=binance,bybit" in u for u in visit.requests)


# ---- when things are not as they should be ----


def _answer(status: int, **body: Any) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, json=body)


def test_a_panel_says_that_it_loads_that_it_failed_and_that_it_is_old(context: BrowserContext, site: Site) -> None:
    visit = Visit(context.new_page(), site)
    page, held, down = visit.page, list[Route](), False

    def reply(route: Route) -> None:
        if not held:
            held.append(route)
        elif down:
            _answer(503, reason="the cache does not answer")(route)
        else:
            route.continue_()

    page.route("**/api/v1/clusters**", reply)
    visit.open("symbol=BTC")
    panel = page.locator("#magnets")
    expect(panel).to_have_attribute("data-state", "loading")
    assert panel.locator(".out").get_attribute("aria-busy") == "true"
    box = panel.locator(".out").bounding_box()
    assert box is not None
    assert box["height"] > 50, "a skeleton holds the place"
    held[0].fulfill(status=503, json={"reason": "the worker is starting"})
    expect(panel.locator(".said")).to_contain_text("the worker is starting")
    expect(panel).to_have_attribute("data-state", "failed")
    expect(panel).to_have_attribute("data-state", "shown")
    down = True
    panel.get_by_label("Own liquidation price, if any").fill("90000")
    expect(panel).to_have_attribute("data-state", "stale")
    expect(panel.locator(".said")).to_have_text("Old, as of 14:32:07 UTC: the cache does not answer")
    expect(panel.locator(".magnet").first).to_be_visible()
    assert [e for e in visit.errors if "503" not in e] == []


def test_a_market_without_clusters_or_volatility_is_told_in_words(context: BrowserContext, site: Site) -> None:
    visit = Visit(context.new_page(), site)
    page = visit.page
    bare = {**_asked(site, "clusters?symbol=BTC&least_share=1"), "missing": ["open interest: a venue has none"]}
    page.route("**/api/v1/clusters**", _answer(200, **bare))
    unknown = {**_asked(site, "cascade?symbol=BTC"), "cascades": [], "missing": ["volume: too few hours are known"]}
    page.route("**/api/v1/cascade**", _answer(200, **unknown))
    visit.open("symbol=BTC")
    panel = _shown(page, "magnets")
    expect(panel.locator(".empty")).to_contain_text("No cluster stands out")
    expect(panel).to_contain_text("Not known: open interest")
    expect(panel.locator(".stop-words")).to_contain_text("no cluster of longs stands out")
    expect(_shown(page, "cascade").locator(".empty")).to_contain_text("too few hours are known")
    assert visit.errors == []


def test_an_embed_has_no_panels_and_asks_for_none(visit: Visit) -> None:
    page = visit.open("symbol=BTC", "/embed")
    page.wait_for_timeout(500)
    expect(page.locator(".insight:visible")).to_have_count(0)
    assert not [u for u in visit.requests if any(f"/api/v1/{q}" in u for q in QUESTIONS)]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_on_a_phone_every_panel_fits_and_every_field_has_a_name(browser: Browser, site: Site, theme: str) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit = Visit(context.new_page(), site)
    page = visit.open(f"symbol=BTC&theme={theme}&palette=colorblind")
    for panel in ("magnets", "signals", "cascade", "position"):
        _open(page, panel).scroll_into_view_if_needed()
        _shown(page, panel)
    page.locator("#position").get_by_label("cross").tap()
    page.get_by_role("button", name="Add a position").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for field in page.locator(".insight :is(input, select, button):visible").all():
        assert re.search(r'(textbox|spinbutton|checkbox|radio|combobox|slider|button) "', field.aria_snapshot())
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"panels-phone-{theme}.png", full_page=True)
    assert visit.errors == []
    context.close()
