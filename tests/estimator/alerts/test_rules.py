"""What is seen is told in words, no more of it than the rule asks for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.alerts.config import ClusterRule, PrintRule, SignalRule, StaleRule
from estimator.alerts.rules import (
    CoinSeen,
    MarketSeen,
    PrintSeen,
    VenueSeen,
    distance_to,
    find_cluster_alerts,
    find_print_alerts,
    find_signal_alerts,
    find_stale_alerts,
    wants,
)
from estimator.domain import HOUR_MS, Liquidation, Origin, Side
from estimator.model.clusters import Cluster
from estimator.model.signals import Condition, Input, PhaseReading, Reading, Signals

BTC = MarketSeen("binance", "BTC/USDT:USDT", "BTC")
NOW_MS = 1_768_487_400_000


def cluster(side: Side, low: float, high: float, *, share: float = 0.02, usd: float = 4e7) -> Cluster:
    price = (low + high) / 2
    return Cluster(side, price, low, high, usd, share, price / 100_000 - 1, 0.34, 0.01)


def coin(*clusters: Cluster, mark: float = 100_000.0, origin: Origin = Origin.LIVE) -> CoinSeen:
    return CoinSeen("BTC", ("binance", "okx"), origin, NOW_MS, mark, clusters)


def condition(name: str, value: float, threshold: float, *, passed: bool) -> Condition:
    return Condition((Input(name, value, "", ">=", threshold, passed, ""),), any_of=False, passed=passed)


def reading(name: str, *, active: bool, since_ms: int | None = None, all_hold: bool = False) -> Reading:
    signs = (condition("rsi", 74.2, 70, passed=True), condition("interest_day", 0.02, 0.05, passed=all_hold))
    return Reading(name, active, 1, signs, since_ms)


def signals(**changed: Reading) -> Signals:
    quiet = {n: reading(n, active=False) for n in ("overheated_long", "short_squeeze", "crowded", "washout")}
    return Signals(NOW_MS, **(quiet | changed), phase=PhaseReading(None, 0, None, 0, ()))


# clusters


def test_a_price_near_a_cluster_of_longs_is_told_with_all_it_comes_from() -> None:
    (alert,) = find_cluster_alerts(ClusterRule(kind="cluster"), coin(cluster(Side.LONG, 98_900, 99_300)))
    assert alert.title == "BTC: price 0.7 % from a cluster of longs"
    assert alert.text == (
        "Estimated longs worth $40.0M (2 % of open interest) would be liquidated from 99,300 to 98,900. "
        "The price is 100,000 (binance, okx). "
        "If the price moved at random it would be there within 24 h with a chance of 34 %."
    )
    assert (alert.severity, alert.market, alert.kind, alert.event) == ("warning", "BTC", "cluster", "")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"distance_percent": 0.69}, 0),
        ({"distance_percent": 0.71}, 1),
        ({"min_share_percent": 2.1}, 0),
        ({"min_usd": 4.1e7}, 0),
        ({"min_usd": 4e7, "min_share_percent": 2.0}, 1),
        ({"min_severity": "critical"}, 0),
    ],
)
def test_a_rule_tells_only_what_is_near_and_large_enough(changed: dict[str, object], told: int) -> None:
    rule = ClusterRule.model_validate({"kind": "cluster", **changed})
    assert len(find_cluster_alerts(rule, coin(cluster(Side.LONG, 98_900, 99_300)))) == told


def test_either_side_is_told_once_by_its_nearest_cluster() -> None:
    seen = coin(
        cluster(Side.LONG, 98_000, 98_500), cluster(Side.LONG, 99_000, 99_500),
        cluster(Side.SHORT, 100_200, 100_400), cluster(Side.SHORT, 100_900, 101_000),
    )  # fmt: skip
    below, above = find_cluster_alerts(ClusterRule(kind="cluster", distance_percent=3), seen)
    assert "0.5 % from a cluster of longs" in below.title
    assert "0.2 % from a cluster of shorts" in above.title
    assert below.key != above.key


@given(st.floats(50_000, 200_000), st.sampled_from(Side))
def test_distance_is_mirrored_between_the_sides_and_none_within_or_beyond(mark: float, side: Side) -> None:
    low, high = (99_000.0, 99_500.0) if side is Side.LONG else (100_500.0, 101_000.0)
    distance = distance_to(cluster(side, low, high), mark)
    assert distance >= 0
    reached = mark <= high if side is Side.LONG else mark >= low
    assert (distance == 0) is reached


@pytest.mark.parametrize(("origin", "mark"), [(Origin.SIMULATED, "[SIMULATED] "), (Origin.RECORDED, "[RECORDED] ")])
def test_what_is_not_live_says_so_and_is_another_matter(origin: Origin, mark: str) -> None:
    near = cluster(Side.SHORT, 100_100, 100_300)
    (live,), (other,) = (
        find_cluster_alerts(ClusterRule(kind="cluster"), coin(near, origin=o)) for o in (Origin.LIVE, origin)
    )
    assert other.title == mark + live.title
    assert other.text.startswith(live.text)
    assert origin.value in other.text.removeprefix(live.text)
    assert other.key != live.key


# signals


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [("overheated", "overheated_long", "longs look overheated"), ("squeeze", "short_squeeze", "squeezed")],
)
def test_an_active_reading_is_told_with_its_inputs_in_words(kind: str, name: str, words: str) -> None:
    rule = SignalRule.model_validate({"kind": kind})
    assert find_signal_alerts(rule, coin()) == []  # before the first hour is read
    assert find_signal_alerts(rule, replace(coin(), signals=signals())) == []
    (alert,) = find_signal_alerts(rule, replace(coin(), signals=signals(**{name: reading(name, active=True)})))
    assert words in alert.title
    assert "RSI of hourly closes is 74.2 (at least 70)" in alert.text
    assert "Not there: open interest changed by +2 % in 24 h (at least +5 %)" in alert.text
    assert alert.severity == "warning"
    sure = signals(**{name: reading(name, active=True, all_hold=True)})
    assert find_signal_alerts(rule, replace(coin(), signals=sure))[0].severity == "critical"


def test_a_washout_is_told_for_the_hour_that_set_it_off_while_that_is_news() -> None:
    def told(since_ms: int) -> list[str]:
        washed = reading("washout", active=True, since_ms=since_ms, all_hold=True)
        seen = replace(coin(), signals=signals(washout=washed))
        return [a.event for a in find_signal_alerts(SignalRule(kind="washout"), seen)]

    assert told(NOW_MS - 3 * HOUR_MS) == [str(NOW_MS - 3 * HOUR_MS)]
    assert told(NOW_MS - 4 * HOUR_MS) == []


# prints


def print_of(usd: float, *, market: MarketSeen = BTC, time_ms: int = NOW_MS) -> PrintSeen:
    return PrintSeen(market, Origin.LIVE, Liquidation(time_ms, Side.LONG, 100_000.0, usd / 1e5, usd))


def test_large_prints_are_told_with_the_side_that_was_liquidated() -> None:
    rule = PrintRule(kind="print", min_usd=1e6)
    first, second, third = find_print_alerts(rule, [print_of(1e6), print_of(9e5), print_of(1.2e7), print_of(3e6)])
    assert first.title == "BTC: long of $12.0M liquidated on Binance"
    assert first.text == "A long of $12.0M was liquidated at 100,000 (binance:BTC/USDT:USDT)."
    assert [a.severity for a in (first, second, third)] == ["critical", "warning", "info"]
    assert len({a.event for a in (first, second, third)}) == 3


@given(
    st.lists(st.floats(1e4, 1e8), max_size=20), st.floats(1e4, 1e7), st.sampled_from(["info", "warning", "critical"])
)
def test_no_print_below_the_least_is_told_and_none_above_is_left_out(
    usd: list[float], least: float, severity: str
) -> None:
    rule = PrintRule.model_validate({"kind": "print", "min_usd": least, "min_severity": severity})
    alerts = find_print_alerts(rule, [print_of(u) for u in usd])
    times = {"info": 1, "warning": 3, "critical": 10}[severity]
    assert len(alerts) == sum(u >= times * least for u in usd)


@pytest.mark.parametrize(
    ("markets", "venues", "told"),
    [
        (["*"], [], True), (["BTC"], [], True), (["BT*"], ["binance"], True), (["BTC/USDT:*"], [], True),
        (["binance:*"], [], True), (["ETH", "B?C"], [], True), (["btc"], [], False), (["ETH"], [], False),
        (["BTC"], ["okx"], False), (["okx:*"], [], False),
    ],
)  # fmt: skip
def test_globs_and_venues_choose_markets(markets: list[str], venues: list[str], *, told: bool) -> None:
    rule = PrintRule.model_validate({"kind": "print", "markets": markets, "venues": venues})
    assert wants(rule, BTC) is told
    assert bool(find_print_alerts(rule, [print_of(1e9)])) is told


# venues


def test_a_silent_venue_is_told_and_why_where_that_is_known() -> None:
    rule = StaleRule(kind="stale", seconds=180)
    venues = [
        VenueSeen("binance", NOW_MS - 179_000, NOW_MS),
        VenueSeen("okx", NOW_MS - 180_000, NOW_MS),
        VenueSeen("bybit", NOW_MS - 900_000, NOW_MS, "it does not serve this region"),
    ]
    okx, bybit = find_stale_alerts(rule, venues)
    assert (okx.market, okx.title, okx.severity) == ("okx", "OKX: silent for 3 min", "warning")
    assert (bybit.market, bybit.severity) == ("bybit", "critical")
    assert bybit.text.endswith("It is not followed: it does not serve this region.")


def test_numbers_in_messages_are_for_people() -> None:
    alerts = find_cluster_alerts(ClusterRule(kind="cluster"), coin(cluster(Side.SHORT, 100_333.123456, 100_400.7)))
    assert not re.search(r"\d\.\d{3,}", alerts[0].title + alerts[0].text)
