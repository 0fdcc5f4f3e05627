"""One walk through everything the page promises, a test for each feature, on one page that is never reloaded by hand.

What other files try in depth (every control, every fault, sharing, other pages) is here looked at once, as a trader
would; pictures of each stop are left beside the others for whoever wants to look.
"""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from estimator.cache import Cache
from tests.dashboard.sample import sample_server, sample_status
from tests.dashboard.test_band import put_bands
from tests.dashboard.test_measured import MARKET, put_positions
from tests.dashboard.test_track import META, horizon
from tests.e2e.conftest import DESKTOP, PHONE, PICTURES, Site, Visit, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

HOME: Final = "symbol=BTC"
VENUES: Final = ("binance", "bybit", "okx")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample market with a made-up record, and with other books beside the one shown."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis"), levels=(0, 1, 2)))
        cache = Cache(url)
        cache.track.put(META, {("all", "all"): {"horizons": {"1": horizon(), "4": horizon()}}})
        put_bands(cache, VENUES)
        cache.close()
        data = str(tmp_path_factory.mktemp("data"))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url, "LIQHEAT_DATA": data}, "/readyz"))


@pytest.fixture(scope="module")
def walk(browser: Browser, site: Site) -> Iterator[Visit]:
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce", timezone_id="Europe/Berlin")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit = Visit(context.new_page(), site)
    visit.open(HOME)
    yield visit
    assert visit.errors == []
    assert visit.other_hosts == set()
    context.close()


@pytest.fixture
def page(walk: Visit, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page as the stop before has left it; a picture of it as this stop leaves it."""
    yield walk.page
    PICTURES.mkdir(exist_ok=True)
    walk.page.screenshot(path=PICTURES / f"walk-{request.node.name.removeprefix('test_')}.png")


def figure(page: Page) -> dict[str, Any]:
    """What the chart on screen was made from."""
    told: dict[str, Any] = page.evaluate(
        """() => { const { figure, map, readings } = liqheat.answer();
          const heat = figure.data.find((t) => t.type === 'heatmap');
          return { codes: [...liqheat.values(heat.z)], edges: [...liqheat.values(heat.y)], mark: readings.mark_price,
                   columns: liqheat.values(heat.z).length / (liqheat.values(heat.y).length - 1),
                   rings: figure.data.filter((t) => t.meta === 'prints').map((t) => t.name),
                   rows: figure.data.map((t) => t.meta), map: map.data.map((t) => t.name),
                   readings: readings.map }; }"""
    )
    return told


def pick(walk: Visit, control: str, words: str, query: str) -> None:
    walk.page.locator(f"#{control} label", has_text=re.compile(f"^{re.escape(words)}$")).click()
    walk.painted(query)


def home(walk: Visit) -> Page:
    """Back to the plain view, as the browser's own address bar would."""
    walk.page.evaluate("dash_clientside.set_props('url', { search: '?symbol=BTC' })")
    walk.painted(HOME)
    return walk.page


def opened(page: Page, panel: str) -> Locator:
    box = page.locator(f"#{panel}")
    box.evaluate("box => { box.open = true }")
    box.scroll_into_view_if_needed()
    expect(page.locator(f'#{panel}[data-state="shown"]')).to_be_attached()
    return box


def colours(page: Page, low: float, high: float) -> tuple[float, float, float]:
    """Mean colour of the picture of the levels between two shares of its height, red, green and blue."""
    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    clip = {"x": box["x"], "y": box["y"] + box["height"] * low, "width": box["width"] * 0.7,
            "height": box["height"] * (high - low)}  # fmt: skip
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")  # type: ignore[arg-type]
    red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    return red, green, blue


def test_01_levels_are_red_above_the_price_and_green_below(page: Page) -> None:
    told = figure(page)
    columns, mark = int(told["columns"]), told["mark"]
    last = [told["codes"][row * columns + columns - 1] for row in range(len(told["edges"]) - 1)]
    above = [c for c, low in zip(last, told["edges"], strict=False) if low > mark * 1.002]
    below = [c for c, high in zip(last, told["edges"][1:], strict=False) if high < mark * 0.998]
    assert max(above) > 0 >= -min(above)
    assert min(below) < 0 <= -max(below)
    red, green, _ = colours(page, 0.0, 0.25)
    assert red > green
    red, green, _ = colours(page, 0.75, 1.0)
    assert green > red


def test_02_what_was_liquidated_is_ringed_on_the_same_chart(page: Page) -> None:
    assert set(figure(page)["rings"]) == {"long liquidated", "short liquidated"}
    assert page.locator("#chart .scatterlayer .point").count() > 10
    ring = page.locator("#chart .scatterlayer .point").first.bounding_box()
    assert ring is not None
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    expect(page.locator(".cross .card")).to_contain_text(re.compile(r"(Long|Short) liquidated\$[\d,]+"))


def test_03_the_map_stands_by_leverage_with_curves_and_max_pain(page: Page) -> None:
    told = figure(page)
    assert {"2-4x", "5-9x", "10-24x", "25-49x", "50x+", "longs up to here", "shorts up to here"} <= set(told["map"])
    expect(page.locator(".swatches")).to_contain_text("25–49x")
    assert (told["readings"]["long_pain"] or 0) < told["mark"] < (told["readings"]["short_pain"] or 1e9)
    pains = [told["readings"][side] for side in ("long_pain", "short_pain") if told["readings"][side]]
    text = page.locator(".map-legend").inner_text()
    assert all(f"{price:,.0f}" in text for price in pains)


def test_04_venues_add_up_or_stand_alone_over_eight_ranges(walk: Visit, page: Page) -> None:
    assert page.locator("#range label").all_inner_texts() == ["12h", "24h", "3d", "7d", "30d", "90d", "180d", "1y"]
    whole = figure(page)["readings"]["short_usd"]
    page.keyboard.press("v")
    drop = page.locator(".mantine-Popover-dropdown:visible")
    for name in ("Bybit", "OKX"):
        drop.locator("label", has_text=name).click()
    walk.painted("symbol=BTC&venues=binance")
    page.keyboard.press("Escape")
    expect(drop).to_have_count(0)
    alone = figure(page)["readings"]["short_usd"]
    assert alone == pytest.approx(0.5 * whole, rel=0.15)  # of the sample, in the window that the candles make
    pick(walk, "range", "7d", "symbol=BTC&venues=binance&range=7d")
    home(walk)


def test_05_leverage_side_intensity_and_price_choose_what_is_seen(walk: Visit, page: Page) -> None:
    pick(walk, "side", "Shorts", "symbol=BTC&side=short")
    assert min(figure(page)["codes"]) == 0
    thumb = page.get_by_role("slider", name="Weakest intensity shown")
    thumb.focus()
    for _ in range(3):
        thumb.press("ArrowRight")
    walk.painted("symbol=BTC&side=short&min=0.03")
    page.get_by_role("button", name="Leverage").click()
    page.locator(".mantine-Popover-dropdown:visible label", has_text=re.compile(r"^50x\+$")).click()
    walk.painted("symbol=BTC&tiers=2-4x,5-9x,10-24x,25-49x,diffuse&side=short&min=0.03")
    assert "50x+" not in figure(page)["map"]
    page.keyboard.press("Escape")
    home(walk)


def test_06_five_rows_share_the_time_with_the_chart_and_switch_off(walk: Visit, page: Page) -> None:
    assert {"liq", "funding", "rsi", "lsr", "oi"} <= set(figure(page)["rows"])
    page.locator("#content").focus()
    page.keyboard.press("f")
    walk.painted("symbol=BTC&panels=liq,rsi,lsr,oi")
    assert "funding" not in figure(page)["rows"]
    page.keyboard.press("f")
    walk.painted(HOME)
    axes = page.evaluate(
        """() => { const l = document.querySelector('#chart .js-plotly-plot')._fullLayout;
          return Object.keys(l).filter((k) => /^yaxis/.test(k)).map((k) => l[k].anchor); }"""
    )
    assert set(axes) == {"x"}


# Density of every closed column, and how much of it is no more what it was.
CLOSED: Final = """() => { const { density: d, live } = liqheat.answer().readings;
  const codes = liqheat.values({ dtype: 'u1', ...d }), [rows, columns] = d.shape, out = [];
  for (let row = 0; row < rows; row++) for (let i = 0; i < columns - (live ? 1 : 0); i++) {
    const code = codes[row * columns + i]; out.push(code ? d.log_min + code * d.log_step : null); }
  return out; }"""
REPAINTED: Final = f"""() => {{ const now = ({CLOSED})();
  const same = (a, b) => a === b || (a !== null && b !== null && Math.abs(a - b) < 0.05);
  return [now.length === window.before.length, now.filter((x, i) => !same(x, window.before[i])).length]; }}"""


def test_07_and_14_the_open_candle_moves_and_closed_columns_stay(walk: Visit, page: Page) -> None:
    assert walk.site.redis_url is not None
    walk.open("symbol=BTC&price=92000,100000")
    page.evaluate(f"() => {{ window.before = ({CLOSED})(); }}")
    etag = page.locator(".plot").get_attribute("data-etag")
    cache = Cache(walk.site.redis_url)
    status = sample_status("binance", "BTC", 0)
    moved = replace(status, version=2, mark_price=status.mark_price * 1.001, as_of_ms=status.as_of_ms + 1000)
    cache.put_status(moved)
    for _ in range(20):  # until it is heard: the watch of a page stands a moment after its chart
        cache.publish(moved.id, {"version": 2, "as_of_ms": moved.as_of_ms, "mark_price": moved.mark_price})
        page.wait_for_timeout(400)
        if page.locator(".plot").get_attribute("data-etag") != etag:
            break
    expect(page.locator("#mark-price")).to_contain_text(f"{moved.mark_price:,.1f}")
    assert page.evaluate(REPAINTED) == [True, 0]
    cache.put_status(replace(status, version=3))
    cache.close()
    home(walk)


def test_08_the_day_is_summed_by_venue_and_the_tape_tells_each(walk: Visit, page: Page) -> None:
    box = page.locator("#liquidated")
    for name in ("Binance", "Bybit", "OKX", "All", "Largest"):
        expect(box).to_contain_text(name)
    expect(page.locator("#totals")).to_contain_text(re.compile(r"longs \$.* shorts \$"))
    page.goto(f"{walk.site.url}/tape?symbol=BTC")
    page.wait_for_selector('#box[data-state="shown"]')
    assert page.locator("#rows tr").count() > 50
    page.goto(f"{walk.site.url}/?{HOME}")
    walk.painted(HOME)


def test_09_magnets_are_ranked_and_a_stop_lies_behind_them(page: Page) -> None:
    panel = opened(page, "magnets")
    assert panel.locator(".magnet").count() >= 1
    expect(panel).to_contain_text("unproven")
    expect(panel.locator(".stop-words")).to_contain_text(re.compile(r"Stop at [\d,.]+"))


def test_10_readings_and_the_phase_say_their_inputs(page: Page) -> None:
    panel = opened(page, "signals")
    names = panel.locator(".reading > summary").all_inner_texts()
    for words in ("Overheated longs", "Short squeeze", "Crowded on both sides", "Washout"):
        assert any(words in name for name in names)
    panel.locator(".reading summary", has_text="Overheated longs").click()
    expect(panel.locator(".reading[open] .conditions li").first).to_contain_text(re.compile(r"at least|at most"))


def test_11_a_cascade_runs_as_a_band_on_the_chart(page: Page) -> None:
    panel = opened(page, "cascade")
    panel.get_by_label("If the price moves by").fill("-3")
    expect(panel.locator("output")).to_have_text("−3.0 %")
    expect(page.locator(".overlay .zone.cascade")).to_have_count(2)
    expect(panel.locator(".ends")).to_contain_text("Liquidates")


def test_12_a_position_is_worked_out_and_drawn(page: Page) -> None:
    panel = opened(page, "position")
    panel.get_by_label("Size", exact=True).fill("25000")
    panel.get_by_label("Backed by").fill("25")
    panel.get_by_text("Change it").click()
    panel.get_by_label("Days of funding").fill("10")
    for words in ("Liquidation", "Margin call, 80 %", "Margin ratio", "Funding, 10 d", "closes it"):
        expect(panel.locator(".outcome").first).to_contain_text(words)
    expect(page.locator(".overlay .level.liquidation, .overlay .tag.liquidation").first).to_be_attached()
    for name in ("cascade", "position"):
        page.locator(f"#{name}").evaluate("box => { box.open = false }")


def test_13_and_15_the_method_and_the_record_are_told(walk: Visit, page: Page) -> None:
    page.goto(f"{walk.site.url}/method")
    expect(page.locator("article")).to_contain_text("maintenance tier")
    page.goto(f"{walk.site.url}/track-record")
    expect(page.get_by_role("heading", name="Against the baselines")).to_be_visible()
    expect(page.locator("#gain")).to_contain_text("95 %")


def test_16_how_certain_a_level_is_can_be_seen_and_read(walk: Visit, page: Page) -> None:
    walk.open(HOME)
    pick(walk, "lens", "Certain", "symbol=BTC&lens=certain")
    box = page.locator("#chart .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.9)
    expect(page.locator(".cross .card")).to_contain_text(re.compile(r"by other assumptions\$.* to \$"))
    home(walk)


def test_17_a_link_is_the_view_and_a_snapshot_its_data(walk: Visit, page: Page) -> None:
    page.get_by_role("button", name="Share").click()
    page.get_by_role("menuitem", name="Snapshot").click()
    expect(page.locator("#share-done")).to_contain_text("link copied")
    link = str(page.evaluate("navigator.clipboard.readText()"))
    page.goto(link)
    walk.painted(HOME)
    expect(page.locator(".banner")).to_contain_text("SNAPSHOT as of")


def test_18_a_link_shows_its_chart_where_it_is_posted(walk: Visit, page: Page) -> None:
    page.goto(f"{walk.site.url}/?symbol=ETH&range=3d")
    picture = page.locator('meta[property="og:image"]').get_attribute("content")
    assert picture is not None
    assert "symbol=ETH" in picture
    with urllib.request.urlopen(picture, timeout=20) as answer:  # loopback
        assert Image.open(io.BytesIO(answer.read())).size == (1200, 630)
    assert page.locator('link[type="application/json+oembed"]').count() == 1
    walk.painted()


def test_19_an_embed_is_written_with_its_preview(page: Page) -> None:
    page.get_by_role("button", name="Share").click()
    page.get_by_role("menuitem", name="Embed").click()
    dialog = page.get_by_role("dialog", name="Embed ETH, 3d")
    expect(dialog.get_by_label("Code to copy")).to_have_value(re.compile(r"^<iframe src="))
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_20_the_view_downloads_in_every_form(walk: Visit, page: Page) -> None:
    page.get_by_role("button", name="Share").click()
    kinds = {"share-png": "image/png", "share-csv": "text/csv", "share-json": "application/json",
             "share-arrow": "application/vnd.apache.arrow.stream"}  # fmt: skip
    for name, kind in kinds.items():
        address = page.locator(f"#{name}").get_attribute("href")
        answer = page.request.get(f"{walk.site.url}{address}")
        assert answer.headers["content-type"].startswith(kind)
    page.keyboard.press("Escape")


def test_22_age_gaps_and_origin_of_every_venue_are_in_sight(walk: Visit, page: Page) -> None:
    walk.open(HOME)
    for name in ("Binance", "Bybit", "OKX"):
        expect(page.locator("#status .venue", has_text=name)).to_be_visible()
    expect(page.locator(".venue", has_text="OKX")).to_contain_text("gap 11:30–12:00")
    expect(page.locator(".status .badge")).to_have_text("SIMULATED")
    page.locator(".venue", has_text="OKX").focus()
    expect(page.locator(".venue .detail:visible")).to_contain_text("Missing in this range")


def test_23_keys_do_what_the_sheet_says_and_not_in_fields(walk: Visit, page: Page) -> None:
    page.locator("#content").focus()
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keyboard")
    expect(sheet).to_contain_text("Cascade what-if")
    page.keyboard.press("3")  # not while the sheet is open
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    for key, query in (("3", "symbol=BTC&range=3d"), ("n", "symbol=BTC&range=3d&lens=density"), ("t", None)):
        page.keyboard.press(key)
        walk.painted(query or "symbol=BTC&range=3d&lens=density&theme=light")
    page.keyboard.press("p")
    field = opened(page, "position").get_by_label("Size", exact=True)
    field.press("5")
    field.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert "range=3d" in page.url
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard").click()
    sheet.get_by_label("Single keys").uncheck()
    page.keyboard.press("Escape")
    page.locator("#content").focus()
    page.keyboard.press("t")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name="Keyboard").click()
    sheet.get_by_label("Single keys").check()
    page.keyboard.press("Escape")
    assert page.evaluate("localStorage.length") == 0


def test_23_the_chart_is_read_and_zoomed_by_keyboard(walk: Visit, page: Page) -> None:
    walk.open(HOME)
    spoken, card = page.locator(".spoken"), page.locator(".cross .card")
    page.keyboard.press("x")
    expect(spoken).to_contain_text(re.compile(r"Price [\d,.]+"))
    first = card.inner_text()
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(card).not_to_have_text(first)
    expect(spoken).to_contain_text(re.compile(r"Longs at risk .*UTC"))
    window = "document.querySelector('#chart .js-plotly-plot')._fullLayout.yaxis.range.slice()"
    whole = page.evaluate(window)
    page.keyboard.press("+")
    page.wait_for_function(f"(() => {{ const [a, b] = {window}; return b - a < {0.85 * (whole[1] - whole[0])}; }})()")
    page.keyboard.press("0")
    page.wait_for_function(f"(() => {{ const [a, b] = {window}; return b - a > {0.99 * (whole[1] - whole[0])}; }})()")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_23_a_phone_zooms_by_buttons_and_reads_by_a_tap(browser: Browser, site: Site, theme: str) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    visit = Visit(context.new_page(), site)
    page = visit.open(f"{HOME}&theme={theme}")
    window = "document.querySelector('#chart .js-plotly-plot')._fullLayout.yaxis.range.slice()"
    whole = page.evaluate(window)
    page.get_by_role("button", name="Fewer prices").tap()
    page.wait_for_function(f"(() => {{ const [a, b] = {window}; return b - a < {0.85 * (whole[1] - whole[0])}; }})()")
    page.get_by_role("button", name="The whole view").tap()
    page.wait_for_function(f"(() => {{ const [a, b] = {window}; return b - a > {0.99 * (whole[1] - whole[0])}; }})()")
    cut_off = "(nav) => nav.scrollWidth - nav.clientWidth"
    assert page.get_by_role("navigation", name="Pages").evaluate(cut_off) <= 0, "a page is out of reach without a swipe"
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"walk-phone-{theme}.png")
    assert visit.errors == []
    context.close()


def test_24_what_a_venue_publishes_of_positions_outlines_the_estimate(walk: Visit, page: Page) -> None:
    assert walk.site.redis_url is not None
    cache = Cache(walk.site.redis_url)
    put_positions(cache)
    outline = "() => document.querySelectorAll('#map .scatterlayer path.js-line').length"
    walk.open("symbol=BTC&range=12h&venues=bybit")
    note = page.locator("#measured-note")
    expect(note).to_contain_text(
        "SIMULATED: 3 positions of 4 accounts asked on Bybit, 0.3 % of its open interest, 1 s to 4 min old."
    )
    button = page.get_by_role("button", name="outline")
    expect(button).to_have_attribute("aria-pressed", "true")
    lines = page.evaluate(outline)
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.wait_for_function(f"before => ({outline})() === before - 2", arg=lines)
    button.press("Enter")
    page.wait_for_function(f"before => ({outline})() === before", arg=lines)
    walk.open("symbol=BTC&range=12h&venues=okx")
    expect(note).to_have_count(0)
    cache.positions.put({MARKET: None})
    cache.close()
