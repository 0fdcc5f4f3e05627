"""Where the data comes from, how fresh it is, and the way back to live data, as a visitor sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import redis
from playwright.sync_api import Page, ViewportSize, expect

from estimator.cache import Cache, Choice, Rejected, StreamHealth, VenueHealth, WorkerHealth
from estimator.domain import Gap, Origin
from tests.dashboard.sample import sample_server
from tests.e2e.conftest import DESKTOP, PHONE, PICTURES, Site, Visit, serving
from tests.waiting import within

pytestmark = pytest.mark.browser
DEAD = {"binance": "no answer within 4 s", "bybit": "does not serve this region (451)"}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The web server over the sample, with this test in the place of the worker."""
    with ExitStack() as stack:
        url = stack.enter_context(sample_server(tmp_path_factory.mktemp("redis"), levels=(0,), coins=("BTC",)))
        yield stack.enter_context(serving(["web"], {"REDIS_URL": url}, "/readyz"))


@pytest.fixture
def cache(site: Site) -> Iterator[Cache]:
    assert site.redis_url is not None
    cache = Cache(site.redis_url)
    before = cache.get_statuses()
    yield cache
    for status in before:
        cache.put_status(replace(status, version=status.version + now_ms()))
    with redis.Redis.from_url(site.redis_url) as raw:
        raw.delete("liqheat:v1:choice", "liqheat:v1:choice:asked", "liqheat:v1:health")
    time.sleep(1.2)  # what the server remembers of it is a second old at most
    cache.close()


def venue(name: str, *, connected: bool = True, problem: str | None = None) -> VenueHealth:
    heard = StreamHealth("candles", connected, now_ms() - (1_000 if connected else 300_000), 0 if connected else 3)
    gaps = () if connected else (Gap(now_ms() - 900_000, now_ms() - 600_000, "liquidations"),)
    rejected = () if connected else (Rejected("open_interest", "sudden jump", 3),)
    errors = {} if connected else {"VenueDown": 2}
    return VenueHealth(name, 0 if problem else 1, problem, () if problem else (heard,), gaps, errors, rejected)


def tell(cache: Cache, *venues: VenueHealth) -> None:
    cache.put_health(WorkerHealth(now_ms(), now_ms() - 60_000, 0, 1, 3, 300 << 20, 5.0, venues, None))


def make_live(cache: Cache, ages_ms: dict[str, int]) -> None:
    """Say of the sample that it is live and so old; it is not, which is why no picture of it is kept."""
    for status in cache.get_statuses():
        as_of_ms = now_ms() - ages_ms[status.exchange]
        cache.put_status(
            replace(status, origin=Origin.LIVE, source="live", as_of_ms=as_of_ms, version=status.version + now_ms())
        )


def look_again(page: Page) -> None:
    """Come back to the page: it asks at once how things are, instead of every ten seconds."""
    time.sleep(1.1)  # what the server remembers is a second old at most
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_venues_that_answer_again_are_offered_and_one_click_asks_for_them(visit: Visit, cache: Cache) -> None:
    cache.choices.put(Choice("simulated", now_ms(), DEAD))
    page = visit.open("symbol=BTC")
    expect(page.locator("#offer")).to_be_hidden()
    cache.choices.put(Choice("simulated", now_ms(), {"bybit": DEAD["bybit"]}, ("binance", "okx")))
    look_again(page)
    expect(page.locator("#offer-text")).to_have_text("Binance, OKX answer again.")
    button = page.get_by_role("button", name="Switch to live data")
    assert "everybody" in str(button.get_attribute("title"))
    assert not cache.choices.is_live_asked()
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#offer-text")).to_contain_text("Switching to live data")
    expect(button).to_be_hidden()
    assert within(10, cache.choices.is_live_asked)
    make_live(cache, dict.fromkeys(("binance", "bybit", "okx"), 1_000))  # what the worker does next
    cache.choices.answer()
    cache.choices.put(Choice("live", now_ms(), {}))
    expect(page.locator(".status .badge")).to_have_text("LIVE")
    expect(page.locator("#offer")).to_be_hidden()
    expect(page.locator(".banner")).not_to_contain_text("SIMULATED")


def test_a_switch_that_fails_says_why(visit: Visit, cache: Cache) -> None:
    cache.choices.put(Choice("simulated", now_ms(), {}, ("okx",)))
    page = visit.open("symbol=BTC")
    page.get_by_role("button", name="Switch to live data").click()
    expect(page.locator("#offer-text")).to_contain_text("Switching")
    assert within(10, cache.choices.is_live_asked)  # the page says so before the server has heard it
    cache.choices.answer()
    cache.choices.put(Choice("simulated", now_ms(), {"okx": "does not serve this region"}))
    expect(page.locator("#offer-text")).to_have_text("Not switched: OKX does not serve this region.")


def test_an_embed_offers_no_switch(visit: Visit, cache: Cache) -> None:
    cache.choices.put(Choice("simulated", now_ms(), {}, ("okx",)))
    page = visit.open("symbol=BTC", path="/embed")
    with page.expect_response("**/api/v1/source"):
        page.reload()
    visit.painted()
    expect(page.locator("#go-live")).to_be_hidden()


def test_the_age_of_each_venue_runs_and_turns_stale(visit: Visit, cache: Cache) -> None:
    make_live(cache, {"binance": 2_000, "bybit": 117_000, "okx": 240_000})
    tell(cache, venue("binance"), venue("bybit"), venue("okx", connected=False))
    page = visit.open("symbol=BTC")
    assert page.locator(".status .venue", has_text="Binance").get_attribute("data-state") == "fresh"
    expect(page.locator(".status .venue[data-state=stale]", has_text="Bybit")).to_contain_text("STALE")
    okx = page.locator(".status .venue", has_text="OKX")
    expect(okx).to_have_attribute("data-state", "lost", timeout=15_000)
    expect(okx).to_contain_text("no connection, 4 min old")
    expect(okx.locator(".gap")).to_have_text("gap 11:30\N{EN DASH}12:00")
    expect(okx).to_contain_text("3 left out")


def test_what_is_known_of_a_venue_opens_by_pointer_and_by_keyboard(visit: Visit, cache: Cache) -> None:
    make_live(cache, dict.fromkeys(("binance", "bybit", "okx"), 3_000))
    tell(cache, venue("binance"), venue("bybit"), venue("okx", connected=False))
    page = visit.open("symbol=BTC")
    okx = page.locator(".status .venue", has_text="OKX")
    expect(okx).to_contain_text("left out", timeout=15_000)
    details = okx.locator(".detail")
    expect(details).to_be_hidden()
    okx.hover()
    expect(details).to_be_visible()
    for words in (
        "11:30\N{EN DASH}12:00 candles",
        "3 × open interest: sudden jump",
        "candles: not connected",
        "prints",
    ):
        expect(details).to_contain_text(words)
    page.mouse.move(700, 600)
    expect(details).to_be_hidden()
    okx.focus()
    expect(details).to_be_visible()
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()


def test_a_venue_that_never_answered_and_a_silent_worker_are_named(visit: Visit, cache: Cache) -> None:
    make_live(cache, dict.fromkeys(("binance", "bybit", "okx"), 3_000))
    tell(cache, venue("binance"), venue("gate", problem="does not serve this region"))
    page = visit.open("symbol=BTC")
    status = page.locator(".status")
    expect(status).to_contain_text("Gate does not serve this region", timeout=15_000)
    health = cache.get_health()[0]
    cache.put_health(replace(health, time_ms=now_ms() - 120_000))
    look_again(page)
    expect(status).to_contain_text("worker SILENT since")


def test_a_simulated_market_that_stands_still_is_told_on_every_page(visit: Visit, cache: Cache) -> None:
    tell(cache, venue("binance"))
    cache.put_health(replace(cache.get_health()[0], time_ms=now_ms() - 120_000))
    page = visit.open("symbol=BTC")
    expect(page.locator(".venue[data-market]").first).to_have_attribute("data-state", "stale", timeout=15_000)
    expect(page.locator(".venue[data-market]").first).to_contain_text("STALE")
    page.goto(f"{visit.site.url}/markets")
    expect(page.locator("#as-of")).to_contain_text("STALE")


def test_a_small_embed_tells_what_is_wrong_in_few_words(visit: Visit, cache: Cache) -> None:
    make_live(cache, {"binance": 2_000, "bybit": 400_000, "okx": 3_000})
    visit.page.set_viewport_size({"width": 360, "height": 320})
    page = visit.open("symbol=BTC", path="/embed")
    expect(page.locator(".troubles")).to_have_text("Bybit stale · OKX gap 11:30\N{EN DASH}12:00", timeout=15_000)


@pytest.mark.parametrize(("name", "size", "theme"), [("desktop", DESKTOP, "dark"), ("phone", PHONE, "light")])
def test_the_offer_fits_the_screen(visit: Visit, cache: Cache, name: str, size: ViewportSize, theme: str) -> None:
    cache.choices.put(Choice("simulated", now_ms(), {"bybit": DEAD["bybit"]}, ("binance", "okx")))
    visit.page.set_viewport_size(size)
    page = visit.open(f"symbol=BTC&theme={theme}")
    expect(page.locator("#go-live")).to_be_visible()
    box = page.locator("#go-live").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"offer-{name}-{theme}.png")
