"""The chart under the hand: what is read under the pointer, and how far and how long it is zoomed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Site, Visit, main_box, soon

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


def _ranges(page: Page) -> list[float]:
    """Of time and prices, from and to."""
    found: list[float] = page.evaluate(
        """() => {
          const { xaxis, yaxis } = document.querySelector('#chart .js-plotly-plot')._fullLayout;
          return [...xaxis.range.map((x) => liqheat.toMs(x)), ...yaxis.range];
        }"""
    )
    return found


# Of what is loaded, the part of the time on screen.
_SPANS = """() => {
    const span = (layout) => liqheat.toMs(layout.xaxis.range[1]) - liqheat.toMs(layout.xaxis.range[0]);
    return span(document.querySelector('#chart .js-plotly-plot')._fullLayout) / span(liqheat.answer().figure.layout);
}"""


def test_the_reading_of_a_still_mouse_follows_the_chart(visit: Visit) -> None:
    page = visit.open()
    box = main_box(page)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card = page.locator(".cross .card")
    expect(card).to_contain_text(re.compile("15 Jan|14 Jan"))
    page.keyboard.press("4")
    visit.painted("symbol=BTC&range=7d")
    expect(card).to_contain_text(re.compile("11 Jan|12 Jan"))
    row = page.locator("#chart .nsewdrag[data-subplot='xy4']").bounding_box()
    assert row is not None
    page.mouse.move(row["x"] + row["width"] / 2, row["y"] + row["height"] / 2)
    expect(card).to_contain_text("RSI")
    page.keyboard.press("r")
    visit.painted("symbol=BTC&range=7d&panels=liq,funding,lsr,oi")
    expect(page.locator(".cross .card:visible", has_text="RSI")).to_have_count(0)


def test_a_side_that_is_not_shown_is_not_told_as_none(visit: Visit) -> None:
    page = visit.open("symbol=BTC&side=long")
    box = main_box(page)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    expect(page.locator(".cross .card")).to_contain_text("Shortsnot shown")


_SMALL_ONE_OVER_THE_LARGEST = """() => {
    const gd = document.querySelector('#chart .js-plotly-plot');
    const { xaxis, yaxis } = gd._fullLayout;
    const { top, left } = gd.getBoundingClientRect();
    const usd = (trace) => liqheat.values(trace.customdata);
    const rings = liqheat.answer().figure.data.filter((t) => t.meta === 'prints' && usd(t).length > 1);
    const [trace] = rings.sort((a, b) => Math.max(...usd(b)) - Math.max(...usd(a)));
    const [x, y] = [trace.x, liqheat.values(trace.y)];
    const largest = Array.from(usd(trace)).indexOf(Math.max(...usd(trace)));
    const other = largest ? 0 : 1;
    [x[other], y[other]] = [x[largest], y[largest]];
    return {
        usd: liqheat.format.exact(usd(trace)[largest]),
        x: left + xaxis._offset + xaxis.c2p(liqheat.toMs(x[largest])),
        y: top + yaxis._offset + yaxis.d2p(y[largest]),
    };
}"""


def test_of_prints_on_one_another_the_largest_is_read(visit: Visit) -> None:
    page = visit.open()
    found = page.evaluate(_SMALL_ONE_OVER_THE_LARGEST)
    page.mouse.move(found["x"], found["y"])
    expect(page.locator(".cross .card")).to_contain_text(f"liquidated{found['usd']}")


def test_a_zoom_outlives_changes_of_what_is_shown_but_not_of_the_range(visit: Visit) -> None:
    page = visit.open()
    whole = _ranges(page)
    box = main_box(page)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -600)
    assert soon(page, lambda: page.evaluate(_SPANS) < 0.97)
    zoomed = _ranges(page)
    for key, query in (
        ("n", "lens=density"),
        ("t", "lens=density&theme=light"),
        ("f", "lens=density&panels=liq,rsi,lsr,oi&theme=light"),
    ):
        page.keyboard.press(key)
        visit.painted(f"symbol=BTC&{query}")
        assert _ranges(page) == zoomed
    page.keyboard.press("1")
    page.wait_for_selector('.plot[data-shown*="range=12h"]')
    assert soon(page, lambda: page.evaluate(_SPANS) > 0.99)
    assert _ranges(page) != whole


def test_nothing_is_shown_beyond_what_is_loaded(visit: Visit) -> None:
    page = visit.open()
    whole = _ranges(page)
    for _ in range(3):
        page.keyboard.press("-")
    page.keyboard.press("+")
    assert soon(page, lambda: _ranges(page)[3] - _ranges(page)[2] < 0.9 * (whole[3] - whole[2]))
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert soon(page, lambda: _ranges(page) == pytest.approx(whole))
    box = main_box(page)
    page.mouse.move(box["x"] + 500, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 60, steps=4)
    assert soon(page, lambda: _ranges(page)[1] > whole[1])
    page.mouse.up()
    assert soon(page, lambda: _ranges(page) == pytest.approx(whole))


_PLACE_WITH_AN_EMPTY_TIER = """() => {
    const gd = document.querySelector('#map .js-plotly-plot');
    const bars = gd.data.filter((t) => t.type === 'bar');
    const x = (t) => Array.from(liqheat.values(t.x));
    const { yaxis } = gd._fullLayout;
    const at = x(bars[0]).findIndex((_, i) => bars.some((t) => !(x(t)[i] >= 0.005)) && bars.some((t) => x(t)[i] > 1e4));
    return gd.getBoundingClientRect().top + yaxis._offset + yaxis.d2p(liqheat.values(bars[0].y)[at]);
}"""


def test_the_map_says_nothing_of_tiers_that_have_nothing(visit: Visit) -> None:
    page = visit.open()
    page.wait_for_function("document.querySelector('#map .js-plotly-plot .bglayer')")
    box = page.locator("#map .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, page.evaluate(_PLACE_WITH_AN_EMPTY_TIER))
    words = page.locator("#map .hoverlayer .legendtext")
    expect(words.first).to_contain_text("≈ $")
    expect(words.filter(has_text="$0.00")).to_have_count(0)


def test_in_a_small_frame_the_reading_lies_beside_the_pointer(browser: Browser, site: Site) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 450})
    visit = Visit(context.new_page(), site)
    page = visit.open("symbol=BTC", "/embed")
    box = main_box(page)
    for part in (0.2, 0.8):
        y = box["y"] + part * box["height"]
        page.mouse.move(box["x"] + 200, y)
        card = page.locator(".cross .card")
        expect(card).to_contain_text("at risk")
        reading = card.bounding_box()
        assert reading is not None
        assert reading["height"] < 0.5 * box["height"]
        assert not reading["y"] <= y <= reading["y"] + reading["height"]
    assert visit.errors == []
    context.close()
