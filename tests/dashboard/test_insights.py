"""Clusters, signals, cascades and positions as their callers see them; no input is answered with a 500."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dashboard import asked
from dashboard.answers import Busy
from dashboard.frame import read_statuses, select_statuses
from dashboard.insight_routes import MAX_WAITING, Shared
from dashboard.insights import cascade_json, clusters_json, read_outlook, signals_json
from dashboard.view import ViewState
from estimator.cache import Cache, MarketStatus
from estimator.domain import HOUR_MS, TIME, Side
from estimator.hours import HOURS, atr_1h, daily_volume_base, hourly_volatility, read_hours
from estimator.model.features import BARS
from estimator.model.margin import liquidation_price
from tests.dashboard.sample import LAST_MS

PATHS = ("clusters", "signals", "cascade", "position")
POSITION = "symbol=BTC&quantity=1&leverage=10"


@pytest.fixture
def statuses(cache: Cache) -> tuple[MarketStatus, ...]:
    return select_statuses(read_statuses(cache), ViewState("BTC"))


def get(client: httpx.Client, path: str, query: str = "symbol=BTC") -> dict[str, Any]:
    answer = client.get(f"/api/v1/{path}?{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["origin"] == "simulated"
    assert body["basis"]["levels"] == "estimated"
    return body


# --- hours ------------------------------------------------------------------------------------------------------------


def test_hours_are_whole_and_end_with_the_last_full_one(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    bars = read_hours(cache, statuses)
    closes = bars["time"].to_physical().to_numpy()
    assert closes[-1] == LAST_MS // HOUR_MS * HOUR_MS
    assert set(np.diff(closes)) == {HOUR_MS}
    assert bars.height == HOURS
    assert dict(bars.select(BARS.keys()).schema) == BARS


def test_an_hour_is_what_its_half_hours_are(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    bars = read_hours(cache, statuses).tail(24)
    halves = cache.get_series(statuses[0].id, 2, LAST_MS - 2 * 24 * HOUR_MS, LAST_MS)
    assert halves is not None
    end = int(bars["time"].to_physical()[-1])
    mine = halves.filter((pl.col("time").dt.epoch("ms") >= end - HOUR_MS) & (pl.col("time").dt.epoch("ms") < end))
    assert mine.height == 2
    last = bars.row(-1, named=True)
    assert last["close"] == mine["close"][-1]
    assert last["high"] == mine["high"].max()
    assert last["low"] == mine["low"].min()


def test_venues_are_added_up_and_funding_is_per_eight_hours(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    one, all_ = read_hours(cache, statuses[:1]), read_hours(cache, statuses)
    assert all_["open_interest"][-1] > 1.5 * one["open_interest"][-1]
    assert all_["near_long_usd"][-1] > 1.5 * one["near_long_usd"][-1]
    hourly = read_hours(cache, [replace(statuses[0], funding_interval_ms=HOUR_MS)])
    assert hourly["funding_rate"][-1] == pytest.approx(8 * one["funding_rate"][-1])
    unsaid = read_hours(cache, [replace(statuses[0], funding_interval_ms=None)])
    assert unsaid["funding_rate"].null_count() == HOURS


def test_older_hours_know_stocks_every_other_hour_and_no_flows(
    cache: Cache, statuses: tuple[MarketStatus, ...]
) -> None:
    old = read_hours(cache, statuses[:1]).head(240)
    assert old["open_interest"].null_count() == 120
    assert old["near_long_usd"].null_count() == 120
    assert old["liquidated_usd"].null_count() == 240
    assert old["volume"].null_count() == 240


def test_measures_of_the_hours_are_null_where_too_few_are_known() -> None:
    time = pl.Series(np.arange(30, dtype=np.int64) * HOUR_MS).cast(TIME)
    close = 100 * np.exp(np.tile([0.0, 0.01], 15))
    bars = pl.DataFrame({"time": time, "close": close, "high": close * 1.01, "low": close, "volume": [2.0] * 30})
    assert hourly_volatility(bars) == pytest.approx(np.diff(np.log(close)).std(ddof=1))
    assert daily_volume_base(bars) == pytest.approx(48.0)
    assert atr_1h(bars) is not None
    few = bars.with_columns(pl.when(pl.int_range(pl.len()) > 20).then(pl.all().exclude("time")))
    assert (hourly_volatility(few), daily_volume_base(few), atr_1h(few)) == (None, None, None)
    assert hourly_volatility(bars.with_columns(close=pl.lit(5.0))) is None


# --- answers ----------------------------------------------------------------------------------------------------------


def test_clusters_are_ranked_with_bounds_mass_and_what_is_unproven(client: httpx.Client) -> None:
    body = get(client, "clusters", "symbol=BTC&least_share=0.001&hours=4")
    found = body["clusters"]
    assert found
    scores = [c["magnet_score"] for c in found]
    assert scores == sorted(scores, reverse=True)
    mark = body["mark_price"]
    for c in found:
        assert c["low"] < c["price"] < c["high"]
        assert (c["price"] < mark) == (c["side"] == "long")
        assert c["mass_usd"] == pytest.approx(c["share_of_open_interest"] * body["open_interest_usd"])
        assert c["share_of_open_interest"] >= 0.001
    assert "unproven" in body["magnet"]
    assert body["horizon_hours"] == 4
    longer = get(client, "clusters", "symbol=BTC&least_share=0.001&hours=48")["clusters"]
    chance = {c["price"]: c["touch_probability"] for c in longer}
    assert all(chance[c["price"]] >= c["touch_probability"] for c in found)


def test_stops_of_both_sides_lie_behind_their_clusters_unless_the_own_liquidation_speaks_against_it(
    client: httpx.Client,
) -> None:
    body = get(client, "clusters", "symbol=BTC&least_share=0.001")
    for side, sign in (("long", 1), ("short", -1)):
        stop = body["stops"][side]
        far = stop["cluster"]["low" if side == "long" else "high"]
        assert stop["cluster"]["side"] == side
        assert stop["price"] == pytest.approx(far - sign * stop["room"])
        near = body["mark_price"] * (1 - sign * 0.001)  # a liquidation that no stop can be put before
        held = get(client, "clusters", f"symbol=BTC&least_share=0.001&liquidation={near}")["stops"]
        other = "short" if side == "long" else "long"
        assert held[side]["price"] is None
        assert "own liquidation price" in held[side]["refused"]
        assert held[other]["price"] is None
        where = "below" if other == "long" else "above"
        assert f"a {other} is liquidated {where} the mark" in held[other]["refused"]


def test_signals_give_every_input_and_words(client: httpx.Client) -> None:
    body = get(client, "signals")
    assert body["as_of_ms"] == LAST_MS // HOUR_MS * HOUR_MS
    assert [r["name"] for r in body["readings"]] == ["overheated_long", "short_squeeze", "crowded", "washout"]
    for reading in (*body["readings"], *body["phase"]["tests"]):
        assert reading["text"].endswith(".")
        for value in (i for c in reading["conditions"] for i in c["inputs"]):
            assert {"name", "value", "unit", "relation", "threshold", "passed", "missing", "text"} <= set(value)
            assert (value["passed"] is None) == (value["value"] is None) == bool(value["missing"])
    assert body["rules"]["funding_high"] == 0.0003


def test_a_cascade_is_a_band_that_a_thinner_market_widens(client: httpx.Client) -> None:
    body = get(client, "cascade", "symbol=BTC&change=-0.05,0.05")
    assert [c["side"] for c in body["cascades"]] == ["long", "short"]
    for c in body["cascades"]:
        lower, upper = c["lower"], c["upper"]
        assert abs(upper["change"]) >= abs(lower["change"]) >= abs(c["change"]) * (1 - 1e-9)
        assert lower["amplification"] >= 1 - 1e-9
        assert upper["liquidated_usd"] >= lower["liquidated_usd"] > 0
    thin = get(client, "cascade", "symbol=BTC&change=-0.05&stress=3")["cascades"][0]
    assert thin["upper"]["change"] < body["cascades"][0]["upper"]["change"]
    assert thin["lower"] == body["cascades"][0]["lower"]
    deep = get(client, "cascade", "symbol=BTC&change=-0.05&depth_usd=1e11")
    assert deep["harsh_impact"].startswith("order book")
    assert deep["cascades"][0]["upper"]["impact"] == "square root"  # the deep book is the milder of the two


def test_a_position_is_worked_out_with_a_stop(client: httpx.Client) -> None:
    body = get(client, "position", POSITION + "&entry=96000&mark=96000&maintenance_rate=0.005&funding_8h=0")
    expected = liquidation_price(
        side="long", entry_price=96_000, quantity=1, margin=9_600, maintenance_margin_rate=0.005
    )
    assert body["liquidation"]["price"] == pytest.approx(expected)
    assert body["margin_ratio"] == pytest.approx(0.05)
    assert body["margin_call"]["price"] > body["liquidation"]["price"] > body["bankruptcy"]["price"]
    assert 0 < body["liquidation"]["touch_probability"] < 1
    assert (body["stop"]["price"] is None) == bool(body["stop"]["refused"])
    eroded = get(client, "position", POSITION + "&funding_8h=0.0003&days=7")
    assert eroded["funding"] == pytest.approx(0.0063 * eroded["mark_price"])
    assert eroded["horizon_days"] == 7


def test_nobody_is_answered_with_the_tiers_another_has_asked_for(client: httpx.Client) -> None:
    asked = [f"{POSITION}&{rule}" for rule in ("maintenance_rate=0.01", "maintenance_rate=0.02", "tiers=0:0.03")]
    told = [get(client, "position", query) for query in asked]
    assert [t["position"]["brackets"][0][1] for t in told] == [0.01, 0.02, 0.03]
    assert len({t["liquidation"]["price"] for t in told}) == len({t["margin_ratio"] for t in told}) == 3


def test_a_cross_account_and_other_positions(client: httpx.Client) -> None:
    cross = "symbol=BTC&venue=okx&mode=cross&margin=20000&notional_usd=100000&funding_8h=0"
    alone = get(client, "position", cross + "&tiers=0:0.004,50000:0.01")
    both = get(client, "position", cross + "&tiers=0:0.004,50000:0.01&others=ETH:long:3000:10:2900:0.005")
    assert both["equity"] == pytest.approx(alone["equity"] - 1000)
    assert both["liquidation"]["price"] > alone["liquidation"]["price"]
    assert alone["position"]["brackets"][1] == [50_000, 0.01, pytest.approx(300)]
    assert alone["closing"]["kind"] == "whole"
    assert set(alone["closings"]) == {"binance", "bybit", "okx"}
    assert alone["closings"][alone["position"]["exchange"]] == alone["closing"]


def test_another_position_without_a_mark_has_the_one_known_here(
    client: httpx.Client, statuses: tuple[MarketStatus, ...]
) -> None:
    cross = {"symbol": "BTC", "mode": "cross", "margin": "20000", "notional_usd": "100000", "venue": "okx"}
    btc = next(s for s in statuses if s.exchange == "okx")
    bybit = next(s for s in statuses if s.exchange == "bybit")
    eth = [replace(s, base="ETH", mark_price=m) for s, m in ((bybit, 3100.0), (btc, 3000.0))]
    plan = asked.read_plan(cross | {"others": "eth:long:2900:1::0.01"}, btc, eth)
    assert plan.others[0].mark_price == 3000.0, "of the venue of the position"
    answer = client.get("/api/v1/position", params=cross | {"others": "NOPE:long:2900:1::0.01"})
    assert (answer.status_code, answer.json()["accepted"]) == (422, "a mark price of NOPE, which is not known here")


def test_more_leverage_than_the_venue_allows_is_worked_out_with_a_warning(
    client: httpx.Client, statuses: tuple[MarketStatus, ...]
) -> None:
    most = next(s.max_leverage for s in statuses if s.exchange == "binance")
    allowed = get(client, "position", f"symbol=BTC&venue=binance&quantity=1&leverage={most:g}")
    assert allowed["warnings"] == []
    asked_for = f"symbol=BTC&venue=binance&quantity=1&leverage={2 * most:g}&maintenance_rate=0.001"
    assert get(client, "position", asked_for)["warnings"] == [
        f"Binance allows at most {most:g}x here, this is {2 * most:g}x"
    ]


def test_a_price_that_is_passed_has_no_chance_of_being_touched(client: httpx.Client) -> None:
    body = get(client, "position", "symbol=BTC&side=short&entry=80000&mark=96000&quantity=1&leverage=20")
    assert body["liquidated"]
    assert body["liquidation"]["price"] < 96000
    assert [body[n]["touch_probability"] for n in ("liquidation", "margin_call", "bankruptcy")] == [None] * 3


@pytest.mark.parametrize("coin", ["BTC", "btc", "Btc"])
def test_another_position_of_the_coin_itself_is_refused_however_it_is_spelled(client: httpx.Client, coin: str) -> None:
    cross = "symbol=BTC&venue=okx&mode=cross&margin=20000&notional_usd=100000"
    answer = client.get(f"/api/v1/position?{cross}&others={coin}:long:95000:1:96000:0.01")
    assert (answer.status_code, answer.json()["parameter"]) == (422, "others")


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_named_and_not_sent_twice(client: httpx.Client, path: str) -> None:
    address = f"/api/v1/{path}?{POSITION if path == 'position' else 'symbol=BTC'}"
    first = client.get(address)
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-encoding"] == "gzip"
    again = client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_rest_of_a_view_changes_nothing(client: httpx.Client) -> None:
    one = client.get("/api/v1/clusters?symbol=BTC&venues=okx,bybit")
    other = client.get("/api/v1/clusters?symbol=BTC&venues=bybit,okx&range=7d&theme=light&lens=density&side=long")
    assert one.headers["etag"] == other.headers["etag"]
    assert set(one.json()["venues"]) == {"bybit", "okx"}


@pytest.mark.parametrize(
    ("path", "query", "parameter", "value", "accepted"),
    [
        ("clusters", "hours=0", "hours", "0", "from 0.25 to 720"),
        ("clusters", "least_share=nan", "least_share", "nan", "from 0 to 1"),
        ("clusters", "hourz=4", "hourz", "4", "no such parameter"),
        ("clusters", "range=9h", "range", "9h", "24h"),
        ("signals", "symbol=NOPE", "symbol", "NOPE", "BTC"),
        ("signals", "venues=mexc", "venues", "mexc", "binance"),
        ("cascade", "change=0", "change", "0", "other than 0"),
        ("cascade", "change=-1", "change", "-1", "from -0.9 to 5"),
        ("cascade", "change=-0.1,", "change", "", "from -0.9 to 5"),
        ("cascade", "stress=1e400", "stress", "1e400", "from 0.1 to 20"),
        ("position", "leverage=10", "quantity", "", "either quantity or notional_usd"),
        ("position", "quantity=1", "leverage", "", "either leverage or margin"),
        ("position", "quantity=1&leverage=0.5", "leverage", "0.5", "from 1 to 1000"),
        ("position", POSITION + "&venue=kraken", "venue", "kraken", "binance"),
        ("position", POSITION + "&side=both", "side", "both", "long, short"),
        ("position", POSITION + "&mode=cross", "margin", "", "balance"),
        ("position", POSITION + "&tiers=1:2:3", "tiers", "1:2:3", "floor:rate"),
        ("position", POSITION + "&tiers=5:0.01", "tiers", "[5.0]", "rise from 0"),
        ("position", POSITION + "&others=ETH:long:1:1:1:0.1", "others", "1", "none beside an isolated"),
        ("position", "quantity=1&mode=cross&margin=9&others=BTC:long:1:1:1:0.1", "others", "BTC:long:1:1:1:0.1", "ETH"),
        ("position", POSITION + "&call=0.01", "call", "0.01", "from 0.05 to 1"),
        ("position", "symbol=%00", "symbol", "\x00", "base coin"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(
    client: httpx.Client, path: str, query: str, parameter: str, value: str, accepted: str
) -> None:
    answer = client.get(f"/api/v1/{path}?{query}")
    assert answer.status_code == 422
    body = answer.json()
    assert (body["parameter"], body["value"]) == (parameter, value)
    assert accepted in body["accepted"]


NAMES = {
    "clusters": asked.CLUSTERS,
    "signals": (),
    "cascade": asked.CASCADE,
    "position": asked.POSITION,
}
numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["0", "1", "0.5", "-0", "1e308", "1e-308", "96000", "1e-9", "0.999", "365"]),
)
words = st.one_of(
    numbers,
    st.text(max_size=20),
    st.sampled_from(["long", "short", "cross", "isolated", "binance", "okx", "BTC", "all", "0:0,1:0.5", "-0.1,0.1"]),
    st.lists(numbers, min_size=1, max_size=6).map(":".join),
    st.lists(numbers, min_size=1, max_size=6).map(",".join),
    st.tuples(numbers, numbers, numbers, numbers).map(lambda n: f"ETH:long:{':'.join(n)}"),
)


@st.composite
def questions(draw: st.DrawFn) -> str:
    """Addresses with likely and hostile values."""
    path = draw(st.sampled_from(PATHS))
    names = [p.name for p in NAMES[path]] + ["symbol", "venues"]
    given_ = draw(st.dictionaries(st.sampled_from(names), words, max_size=6))
    if path == "position" and draw(st.booleans()):
        given_ = {"quantity": "1", "leverage": "10"} | given_
    return f"/api/v1/{path}?" + "&".join(f"{n}={quote(v, safe='')}" for n, v in given_.items())


def within(parameter: asked.Number | asked.Text) -> st.SearchStrategy[str]:
    """Spelled values inside the bounds, the ends among them."""
    if isinstance(parameter, asked.Text):
        return st.sampled_from(parameter.choices or (parameter.example,))
    low, high = parameter.low, parameter.high
    return st.one_of(st.sampled_from([low, high]), st.floats(low, high, allow_subnormal=False)).map(repr)


@st.composite
def sound_questions(draw: st.DrawFn) -> str:
    """Addresses of which every value is inside its bounds; they may still not fit together."""
    path = draw(st.sampled_from(PATHS))
    chosen = draw(st.lists(st.sampled_from(NAMES[path]), unique=True, max_size=8)) if NAMES[path] else []
    given_ = {p.name: draw(within(p)) for p in chosen}
    if path == "position":
        size = {"quantity", "notional_usd"} & set(given_)
        if len(size) != 1:
            given_ = {n: v for n, v in given_.items() if n != "quantity"} | {"notional_usd": "25000"}
        if given_.get("mode") == "cross":
            given_ = {n: v for n, v in given_.items() if n != "leverage"} | {"margin": "9000"}
        else:
            given_ = {n: v for n, v in given_.items() if n not in ("margin", "others")} | {"leverage": "20"}
    return f"/api/v1/{path}?" + "&".join(f"{n}={quote(v, safe='')}" for n, v in given_.items())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(questions(), sound_questions(), sound_questions()))
def test_no_input_is_answered_with_a_500_or_with_what_is_no_number(client: httpx.Client, address: str) -> None:
    answer = client.get(address)
    event(str(answer.status_code))
    assert answer.status_code in (200, 422), (address, answer.text)
    body = answer.json()
    if answer.status_code == 422:
        assert {"parameter", "value", "accepted"} <= set(body)
    else:
        assert_finite(body)


def assert_finite(value: Any) -> None:
    if isinstance(value, dict):
        for part in value.values():
            assert_finite(part)
    elif isinstance(value, list):
        for part in value:
            assert_finite(part)
    elif isinstance(value, float):
        assert math.isfinite(value)


def test_a_cascade_is_known_as_far_as_there_are_levels(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    outlook = read_outlook(cache, ViewState("BTC"), statuses, read_hours(cache, statuses))
    last = outlook.grid.price_edges[np.flatnonzero(outlook.grid.short_usd[-1])[-1] + 1] / outlook.mark_price - 1
    for change, beyond in ((0.01, False), (last * 1.02, True)):
        given_ = {"change": f"{change}", "daily_volume_usd": "1e13", "daily_volatility": "0.02"}
        (found,) = cascade_json(outlook, asked.read_what_if(given_))["cascades"]
        assert [found[end]["beyond_known"] for end in ("lower", "upper")] == [beyond] * 2


# --- what is not known ------------------------------------------------------------------------------------------------


def test_without_hours_nothing_that_hangs_on_them_is_told(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    bars = read_hours(cache, statuses)
    blank = bars.with_columns(pl.lit(None, pl.Float64).alias(n) for n in bars.columns if n != "time")
    outlook = read_outlook(cache, ViewState("BTC"), statuses, blank)
    told = clusters_json(outlook, hours=24.0, least_share=0.001)
    assert all(c["touch_probability"] is None and c["magnet_score"] is None for c in told["clusters"])
    assert any(m.startswith("volatility") for m in told["missing"])
    what_if = cascade_json(outlook, asked.read_what_if({}))
    assert what_if["cascades"] == []
    assert len(what_if["missing"]) == 2
    given_ = cascade_json(outlook, asked.read_what_if({"daily_volatility": "0.03", "daily_volume_usd": "1e10"}))
    assert len(given_["cascades"]) == 6
    signals = signals_json(statuses, blank)
    assert signals["phase"]["phase"] is None
    assert {r["active"] for r in signals["readings"]} == {None}


def test_without_open_interest_there_are_no_clusters(cache: Cache, statuses: tuple[MarketStatus, ...]) -> None:
    bars = read_hours(cache, statuses)
    outlook = read_outlook(cache, ViewState("BTC"), statuses, bars)
    unknown = replace(outlook, statuses=(statuses[0], replace(statuses[1], open_interest_base=None)))
    told = clusters_json(unknown, hours=24.0, least_share=0.001)
    assert told["clusters"] == []
    assert told["open_interest_usd"] is None
    assert any(m.startswith("open interest") for m in told["missing"])


def test_max_pain_lies_on_its_side(client: httpx.Client) -> None:
    body = get(client, "clusters")
    for side in Side:
        price = body["max_pain"][side.value]
        assert price is None or (price - body["mark_price"]) * side.sign < 0


def test_a_question_is_worked_out_once_for_all_who_ask_and_not_for_too_many() -> None:
    made: list[str] = []
    hold = threading.Event()

    def slow(name: str) -> str:
        made.append(name)
        hold.wait(10)
        return name

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            shared: Shared[str] = Shared(threads, kept=2)
            same = [asyncio.create_task(shared.get("a", lambda: slow("a"))) for _ in range(5)]
            others = [asyncio.create_task(shared.get(str(n), partial(slow, str(n)))) for n in range(MAX_WAITING - 1)]
            await asyncio.sleep(0.05)
            with pytest.raises(Busy):
                await shared.get("late", lambda: slow("late"))
            hold.set()
            assert await asyncio.gather(*same) == ["a"] * 5
            await asyncio.gather(*others)
            assert made.count("a") == 1
            assert await shared.get("late", lambda: slow("late")) == "late"

    asyncio.run(run())


def test_an_answer_that_failed_is_made_anew() -> None:
    tries: list[int] = []

    def fail_once() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("lost")
        return 7

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            shared: Shared[int] = Shared(threads, kept=2)
            with pytest.raises(OSError, match="lost"):
                await shared.get("k", fail_once)
            assert await shared.get("k", fail_once) == 7

    asyncio.run(run())
