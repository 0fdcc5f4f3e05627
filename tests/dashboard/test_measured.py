"""Observed positions: shown where a venue publishes them, as they were measured, with what they cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
import redis

from dashboard.frame import read_frame
from dashboard.maps import MEASURED_REACH, build_map, read_map
from dashboard.view import SideFilter, ViewState
from estimator.cache import Cache
from estimator.domain import Side
from estimator.model.holdings import Account, Holding, observe
from estimator.units import short_usd
from tests.dashboard.sample import AS_OF_MS, SHARES, sample_status

MARKET = "bybit:BTC/USDT:USDT"
STATUS = sample_status("bybit", "BTC", 1)
MARK = STATUS.mark_price
# Side, quantity, and liquidation price over the mark: two ahead of the price, one nowhere.
HELD = ((Side.LONG, 100.0, 0.98), (Side.SHORT, 40.0, 1.015), (Side.LONG, 10.0, None))
TOTAL = {Side.LONG: 100.0 * 0.98 * MARK, Side.SHORT: 40.0 * 1.015 * MARK}


def accounts(held: tuple[tuple[Side, float, float | None], ...] = HELD) -> list[Account]:
    """One for each position, answered up to four minutes ago, and one that holds nothing."""
    holdings = [Holding(MARKET, s, q, q * MARK, None if at is None else at * MARK) for s, q, at in held]
    ages = np.linspace(1_000, 240_000, len(held)).astype(int).tolist()
    made = [Account(STATUS.as_of_ms - age, (one,)) for age, one in zip(ages, holdings, strict=True)]
    return [*made, Account(STATUS.as_of_ms)]


def put_positions(cache: Cache) -> None:
    cache.positions.put({MARKET: observe(accounts(), MARKET)})


@pytest.fixture
def observed(cache: Cache) -> Iterator[Cache]:
    put_positions(cache)
    yield cache
    cache.positions.put({MARKET: None})


def test_what_is_observed_stands_in_the_bars_of_the_map_at_its_own_price(observed: Cache) -> None:
    frame = read_frame(observed, ViewState("BTC"))
    now = read_map(frame)
    assert now.measured_usd is not None
    for side, usd in zip(Side, now.measured_usd, strict=True):
        assert float(usd.sum()) == pytest.approx(TOTAL[side], rel=1e-6)
        (at,) = np.flatnonzero(usd)
        price = {Side.LONG: 0.98, Side.SHORT: 1.015}[side] * MARK
        assert now.price_edges[at] <= price <= now.price_edges[at + 1]
    halo, line = (t for t in build_map(frame, now)["data"] if t.get("meta") == "measured")
    assert (line["name"], line["line"]["shape"]) == ("simulated positions", "vhv")
    assert halo["x"] == line["x"]


def test_what_the_price_has_crossed_since_is_left_out(cache: Cache) -> None:
    crossed = ((Side.LONG, 5.0, 1.02), (Side.SHORT, 7.0, 0.97), (Side.LONG, 3.0, 0.99))
    cache.positions.put({MARKET: observe(accounts(crossed), MARKET)})
    now = read_map(read_frame(cache, ViewState("BTC")))
    cache.positions.put({MARKET: None})
    assert now.measured_usd is not None
    assert float(now.measured_usd.sum()) == pytest.approx(3.0 * 0.99 * MARK, rel=1e-6)


def test_the_largest_account_does_not_make_the_estimate_unreadable(cache: Cache) -> None:
    whale = ((Side.LONG, 60_000.0, 0.98), (Side.SHORT, 1.0, 1.01))
    cache.positions.put({MARKET: observe(accounts(whale), MARKET)})
    frame = read_frame(cache, ViewState("BTC"))
    cache.positions.put({MARKET: None})
    now = read_map(frame)
    layout = build_map(frame, now)["layout"]
    low, top = layout["xaxis"]["range"]
    assert low == 0
    assert top == pytest.approx(1.05 * MEASURED_REACH * float(now.tier_usd.sum(axis=(0, 1)).max()))
    (label,) = (a for a in layout["annotations"] if a.get("name") == "measured")
    assert label["text"] == f"simulated {short_usd(60_000 * 0.98 * MARK)}"
    assert label["y"] == pytest.approx(0.98 * MARK, rel=2e-3)


def test_one_side_has_its_own_and_leverages_and_other_venues_have_none(observed: Cache) -> None:
    view = ViewState("BTC")
    shorts = read_map(read_frame(observed, replace(view, side=SideFilter.SHORT))).measured_usd
    assert shorts is not None
    assert not shorts[0].any()
    assert float(shorts[1].sum()) == pytest.approx(TOTAL[Side.SHORT], rel=1e-6)
    assert read_frame(observed, replace(view, tiers=("50x",))).measured is None
    others = read_frame(observed, replace(view, venues=("binance", "okx")))
    assert others.measured is None
    assert not [t for t in build_map(others, read_map(others))["data"] if t.get("meta") == "measured"]


def test_a_share_of_open_interest_is_of_the_venue_that_publishes(observed: Cache) -> None:
    measured = read_frame(observed, ViewState("BTC")).measured
    assert measured is not None
    ((venue, seen, coverage),) = measured.venues
    assert (venue, seen.positions, seen.addresses, seen.priced) == ("bybit", 3, 4, 2)
    assert STATUS.open_interest_base is not None
    assert coverage == (110.0 / STATUS.open_interest_base, 40.0 / STATUS.open_interest_base)


def test_the_api_tells_bars_coverage_and_age_and_no_account(observed: Cache, client: httpx.Client) -> None:
    del observed
    answer = client.get("/api/v1/positions?symbol=BTC&range=12h&tiers=50x")
    told = answer.json()
    (venue,) = told["venues"]
    assert (venue["exchange"], venue["accounts"], venue["positions"], venue["priced"]) == ("bybit", 4, 3, 2)
    ages = [AS_OF_MS - venue[f"{name}_ms"] for name in ("newest", "median", "oldest")]
    assert 1_000 <= ages[0] <= ages[1] <= ages[2] <= 241_000
    assert 0 < venue["coverage"]["both"] < 0.01
    assert told["basis"] == {"levels": "simulated"}
    assert len(told["price_edges"]) == len(told["long_usd"]) + 1 == len(told["short_usd"]) + 1
    assert sum(told["long_usd"]) == pytest.approx(TOTAL[Side.LONG], abs=1)
    assert "0x" not in answer.text
    chart = client.get("/api/v1/chart?symbol=BTC&range=12h&price=90000,102000").json()
    assert chart["readings"]["positions"] == {"basis": "simulated", "venues": told["venues"]}


def test_where_no_venue_publishes_the_answer_is_empty_and_says_so(client: httpx.Client) -> None:
    told = client.get("/api/v1/positions?symbol=BTC&range=12h&venues=okx").json()
    assert told["venues"] == []
    assert not any(told["long_usd"] + told["short_usd"])
    readings = client.get("/api/v1/chart?symbol=BTC&range=12h&venues=okx").json()["readings"]
    assert readings["positions"] is None


def test_sums_go_by_themselves_when_nobody_renews_them(observed: Cache, redis_url: str) -> None:
    del observed
    with redis.Redis.from_url(redis_url) as raw:
        assert 0 < raw.ttl(f"liqheat:v1:{MARKET}:positions") <= 120


def test_all_venues_of_the_sample_are_asked_at_once(observed: Cache) -> None:
    ids = [f"{venue}:BTC/USDT:USDT" for venue in SHARES]
    assert list(observed.positions.get(ids)) == [MARKET]
    assert observed.positions.get([]) == {}
