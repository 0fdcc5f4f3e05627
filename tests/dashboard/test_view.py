"""The view and its query string say the same thing."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.view import (
    ALL_PANELS,
    ALL_TIERS,
    MAX_PRICE_RATIO,
    MIN_HANDLES,
    RANGES,
    Lens,
    Palette,
    Panel,
    SideFilter,
    Theme,
    ViewError,
    ViewState,
)
from estimator.domain import DAY_MS, HOUR_MS

_venue = st.from_regex(r"[a-z0-9_]{1,24}", fullmatch=True).filter(lambda v: v != "all")


@st.composite
def _views(draw: st.DrawFn) -> ViewState:
    low = draw(st.floats(0, 1 - MIN_HANDLES))
    high = draw(st.floats(low + MIN_HANDLES, 1))
    floor = draw(st.floats(1e-9, 1e9))
    ratio = draw(st.floats(1.003, MAX_PRICE_RATIO * 0.999))
    return ViewState(
        symbol=draw(st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True)),
        venues=tuple(draw(st.lists(_venue, max_size=4))),
        range=draw(st.sampled_from(list(RANGES))),
        tiers=tuple(draw(st.lists(st.sampled_from(ALL_TIERS), min_size=1))),
        side=draw(st.sampled_from(SideFilter)),
        lens=draw(st.sampled_from(Lens)),
        min=low,
        max=high,
        price=draw(st.sampled_from([None, (floor, floor * ratio)])),
        panels=tuple(draw(st.lists(st.sampled_from(Panel)))),
        palette=draw(st.sampled_from(Palette)),
        theme=draw(st.sampled_from(Theme)),
    )


@given(_views())
def test_a_link_reproduces_the_view_exactly(view: ViewState) -> None:
    assert ViewState.parse(view.query()) == view
    assert ViewState.parse("?" + view.query()) == view


@given(st.text(max_size=200))
def test_any_text_is_a_view_or_a_view_error(text: str) -> None:
    try:
        view = ViewState.parse(text)
    except ViewError:
        return
    assert ViewState.parse(view.query()) == view


@given(
    st.sampled_from(["symbol", "venues", "range", "tiers", "side", "lens", "min", "max", "price", "panels", "palette"]),
    st.text(max_size=30),
)
def test_any_value_is_a_view_or_an_error_that_names_a_parameter(name: str, value: str) -> None:
    failure: ViewError | None = None
    try:
        ViewState.parse(f"{name}={quote(value)}")
    except ViewError as error:
        failure = error
    assert failure is None or (failure.name in (name, "min") and failure.expected)


def test_the_default_view_is_one_parameter_long() -> None:
    assert ViewState("BTC").query() == "symbol=BTC"
    assert ViewState.parse("") == ViewState("BTC")
    assert ViewState.parse("", default_symbol="SOL") == ViewState("SOL")


def test_equal_pictures_have_equal_links() -> None:
    assert ViewState.parse("venues=okx,binance,okx").query() == "symbol=BTC&venues=binance,okx"
    assert ViewState.parse("tiers=" + ",".join(ALL_TIERS)) == ViewState.parse("tiers=all") == ViewState("BTC")
    assert ViewState.parse("panels=oi,liq").panels == (Panel.LIQ, Panel.OI)
    assert ViewState.parse("panels=none").panels == ()
    assert ViewState.parse("panels=all").panels == ALL_PANELS


def test_the_topmost_tier_needs_no_escaping() -> None:
    view = ViewState.parse("tiers=50x")
    assert view.tier_names == ("50x+",)
    assert view.query() == "symbol=BTC&tiers=50x"


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("range=2h", "range", "2h"),
        ("symbol=BTC/USDT", "symbol", "BTC/USDT"),
        ("symbol=", "symbol", ""),
        ("venues=Binance", "venues", "Binance"),
        ("tiers=3x", "tiers", "3x"),
        ("side=longs", "side", "longs"),
        ("lens=raw", "lens", "raw"),
        ("min=nan", "min", "nan"),
        ("max=1_0", "max", "1_0"),
        ("min=0.9&max=0.1", "min", "0.9 (max 0.1)"),
        ("min=0.5&max=0.5009", "min", "0.5 (max 0.5009)"),
        ("price=1", "price", "1"),
        ("price=66000,58000", "price", "66000,58000"),
        ("price=1,1e300", "price", "1,1e+300"),
        ("panels=volume", "panels", "volume"),
        ("palete=mono", "palete", "mono"),
        ("range=24h&range=7d", "range", "24h and 7d"),
    ],
)
def test_a_wrong_value_is_named_together_with_what_is_accepted(query: str, name: str, value: str) -> None:
    with pytest.raises(ViewError) as caught:
        ViewState.parse(query)
    assert (caught.value.name, caught.value.value) == (name, value)
    assert caught.value.expected


def test_link_trackers_do_not_break_a_shared_link() -> None:
    assert ViewState.parse("symbol=ETH&utm_source=x&fbclid=1") == ViewState("ETH")


@pytest.mark.parametrize(
    ("name", "duration"), [("12h", 12 * HOUR_MS), ("24h", DAY_MS), ("30d", 30 * DAY_MS), ("1y", 365 * DAY_MS)]
)
def test_a_range_is_as_long_as_its_name_and_fits_the_screen(name: str, duration: int) -> None:
    assert RANGES[name].duration_ms == duration
    assert all(144 <= r.columns <= 600 for r in RANGES.values())


def test_prices_that_look_the_same_are_the_same_view() -> None:
    assert ViewState("BTC", price=(58000.1, 66000.2)) == ViewState("BTC", price=(58000, 66000))


def test_handles_may_be_as_near_as_the_page_sets_them() -> None:
    assert ViewState("BTC", min=0.5, max=0.501).max == 0.501
    assert ViewState.parse("min=0.999&max=1").min == 0.999
