"""Readings follow their definitions, use nothing later than their bar, and guess nothing that is not known."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.domain import HOUR_MS, TIME
from estimator.errors import InputError, ParameterError
from estimator.model.features import BARS, FEATURES, build_features
from estimator.model.rules import Phase, SignalRules
from estimator.model.signals import Input, Reading, Signals, read_signals
from estimator.model.wording import describe, explain, explain_phase

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SHORT = SignalRules(window=120, least=48)


def quiet(n: int = 200, seed: int = 1) -> pl.DataFrame:
    """Hours in which nothing stands out."""
    rng = np.random.default_rng(seed)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    held = 80_000 * np.exp(rng.normal(0, 0.002, n))
    time = pl.datetime_range(START, START + dt.timedelta(hours=n - 1), "1h", eager=True)
    return pl.DataFrame(
        {
            "time": time.cast(TIME),
            "close": close,
            "open_interest": held,
            "funding_rate": rng.normal(0.0001, 0.00002, n),
            "long_short_ratio": rng.normal(1.8, 0.05, n),
            "liquidated_usd": rng.gamma(2, 1e5, n),
            "near_long_usd": held * close * rng.normal(0.012, 0.001, n),
            "near_short_usd": held * close * rng.normal(0.012, 0.001, n),
        }
    )


def end_with(bars: pl.DataFrame, last: int = 1, **values: float | None) -> pl.DataFrame:
    """Set columns of the last rows."""
    row = pl.int_range(pl.len()) >= bars.height - last
    return bars.with_columns(
        pl.when(row).then(pl.lit(v, pl.Float64)).otherwise(pl.col(n)).alias(n) for n, v in values.items()
    )


def read(bars: pl.DataFrame, at: int = -1) -> Signals:
    return read_signals(bars, rules=SHORT, at=at)


def inputs(reading: Reading) -> dict[str, Input]:
    return {i.name: i for c in (*reading.conditions, *reading.ends) for i in c.inputs}


def rising(bars: pl.DataFrame, hours: int = 30, step: float = 0.004, growth: float = 0.01) -> pl.DataFrame:
    """The last hours go one way while open interest grows."""
    n = bars.height
    ramp = np.maximum(np.arange(n) - (n - 1 - hours), 0)
    return bars.with_columns(
        close=pl.Series(bars["close"].to_numpy() * np.exp(step * ramp)),
        open_interest=pl.Series(bars["open_interest"].to_numpy() * np.exp(growth * ramp)),
    )


def heat(bars: pl.DataFrame, *, longs: bool) -> pl.DataFrame:
    sign = 1 if longs else -1
    moved = rising(bars, step=sign * 0.004)
    usd = float(moved["open_interest"][-1] * moved["close"][-1])
    masses = (0.05, 0.01) if longs else (0.01, 0.05)
    return end_with(
        moved,
        funding_rate=0.0009 if longs else -0.0002,
        long_short_ratio=3.0 if longs else 0.9,
        near_long_usd=masses[0] * usd,
        near_short_usd=masses[1] * usd,
    )


def test_in_quiet_hours_nothing_is_on() -> None:
    told = read(quiet())
    for reading in (told.overheated_long, told.short_squeeze, told.crowded, told.washout):
        assert reading.active is False
        assert all(i.passed is not None for i in inputs(reading).values())


@pytest.mark.parametrize("longs", [True, False])
def test_overheating_and_its_mirror_need_four_of_five_signs(*, longs: bool) -> None:
    hot = heat(quiet(), longs=longs)
    told = read(hot)
    reading, mirror = told.overheated_long, told.short_squeeze
    if not longs:
        reading, mirror = mirror, reading
    assert [c.passed for c in reading.conditions] == [True] * 5
    assert (reading.active, mirror.active) == (True, False)
    four = read(end_with(hot, long_short_ratio=1.8))
    reading = four.overheated_long if longs else four.short_squeeze
    assert [c.passed for c in reading.conditions] == [True, True, True, False, True]
    assert reading.active is True
    three = read(end_with(hot, long_short_ratio=1.8, funding_rate=0.0001))
    assert (three.overheated_long if longs else three.short_squeeze).active is False


def test_mass_alone_is_not_lopsided() -> None:
    hot = heat(quiet(), longs=True)
    both = end_with(hot, near_short_usd=float(hot["near_long_usd"][-1]) / 1.4)
    mass = read(both).overheated_long.conditions[1]
    assert [i.passed for i in mass.inputs] == [True, False]
    assert mass.passed is False


def test_dear_funding_counts_by_its_level_or_by_what_is_usual() -> None:
    bars = quiet()
    by_level = read(end_with(bars.with_columns(funding_rate=pl.lit(0.0004)), funding_rate=0.00041))
    assert by_level.overheated_long.conditions[0].inputs[0].passed is True
    unusual = read(end_with(bars, funding_rate=0.0002)).overheated_long.conditions[0]
    assert [i.passed for i in unusual.inputs] == [False, True]
    assert unusual.passed is True


@pytest.mark.parametrize("hours", [1.0, 4.0, 8.0])
def test_funding_is_told_per_eight_hours(hours: float) -> None:
    bars = end_with(quiet(), funding_rate=0.0001)
    told = read_signals(bars, rules=SHORT, funding_hours=hours)
    value = inputs(told.overheated_long)["funding_8h"].value
    assert value == pytest.approx(0.0001 * 8 / hours)


def test_both_sides_are_crowded_where_both_near_masses_are_unusual() -> None:
    bars = quiet()
    usd = float(bars["open_interest"][-1] * bars["close"][-1])
    assert read(end_with(bars, near_long_usd=0.03 * usd, near_short_usd=0.03 * usd)).crowded.active is True
    assert read(end_with(bars, near_long_usd=0.03 * usd)).crowded.active is False


def washed(bars: pl.DataFrame, ago: int) -> pl.DataFrame:
    """A washout `ago` hours before the last bar; before it funding was unusual and levels were near."""
    n = bars.height
    hour = np.arange(n)
    fallen = np.where(hour >= n - 1 - ago, 0.9, 1.0)
    usd = np.where(hour == n - 1 - ago, 5e7, bars["liquidated_usd"].to_numpy())
    return bars.with_columns(
        open_interest=pl.Series(bars["open_interest"].to_numpy() * fallen), liquidated_usd=pl.Series(usd)
    )


def test_a_washout_is_set_off_by_liquidations_with_falling_interest() -> None:
    bars = washed(quiet(), ago=0)
    told = read(bars).washout
    assert told.active is True
    assert told.since_ms == read(bars).time_ms
    assert inputs(told)["interest_hour"].value == pytest.approx(-0.1, abs=0.02)
    only_liquidations = end_with(quiet(), liquidated_usd=5e7)
    assert read(only_liquidations).washout.active is False


def test_a_washout_lasts_until_funding_and_near_mass_are_back_to_usual() -> None:
    bars = washed(quiet(), ago=4)
    n = bars.height
    usd = bars["open_interest"] * bars["close"]
    crowded = end_with(bars, last=4, near_long_usd=0.05 * float(usd[-1]), near_short_usd=0.05 * float(usd[-1]))
    told = read(crowded).washout
    assert told.active is True
    assert told.since_ms == int(bars["time"].to_physical()[n - 5])
    assert told.ends
    assert "over once" in explain(told, SHORT)
    mean = float(bars["funding_rate"].mean())  # type: ignore[arg-type]
    calm = end_with(crowded, funding_rate=mean, near_long_usd=0.005 * float(usd[-1]), near_short_usd=0.0)
    assert read(calm).washout.active is False
    assert read(calm).washout.since_ms is None


def test_a_phase_changes_only_after_three_bars_in_a_row() -> None:
    bars = quiet(220)
    n = bars.height
    fall = np.where(np.arange(n) >= n - 5, 0.9, 1.0)
    falling = bars.with_columns(open_interest=pl.Series(bars["open_interest"].to_numpy() * fall))
    told = [read(falling, at=k).phase for k in range(n - 6, n)]
    before = told[0].phase
    assert before is not Phase.DELEVERAGING
    assert [t.phase for t in told] == [before, before, before, *([Phase.DELEVERAGING] * 3)]
    assert [t.next_bars for t in told[1:]] == [1, 2, 3, 4, 5]
    assert told[3].since_ms == int(falling["time"].to_physical()[n - 5])


def test_deleveraging_goes_before_euphoria() -> None:
    bars = quiet(220)
    n = bars.height
    top = np.exp(0.02 * np.maximum(np.arange(n) - (n - 12), 0))
    usd = float(bars["open_interest"][-1] * bars["close"][-1] * top[-1])
    mad = end_with(
        bars.with_columns(open_interest=pl.Series(bars["open_interest"].to_numpy() * top)),
        last=4,
        funding_rate=0.0004,
        near_long_usd=0.05 * usd,
        near_short_usd=0.05 * usd,
    )
    assert read(mad).phase.phase is Phase.EUPHORIA
    both = end_with(mad, liquidated_usd=9e7)
    both = end_with(both, open_interest=float(mad["open_interest"][-2]) * 0.94)
    told = read(both)
    assert told.washout.active is True
    assert told.phase.next_phase is Phase.DELEVERAGING
    assert told.phase.tests[0].name == Phase.DELEVERAGING


@pytest.mark.parametrize("column", [c for c in BARS if c != "time"])
def test_what_is_not_known_is_named_and_nothing_hangs_on_a_guess(column: str) -> None:
    told = read(heat(quiet(), longs=True).with_columns(pl.lit(None, pl.Float64).alias(column)))
    readings = (told.overheated_long, told.short_squeeze, told.crowded, told.washout, *told.phase.tests)
    missing = [i for r in readings for i in inputs(r).values() if i.value is None]
    assert missing
    assert all(i.passed is None and i.missing for i in missing)
    hanging = {name for name, feature in FEATURES.items() if column in feature.needs and name in _used(readings)}
    # Without a fall of open interest there was no washout, whatever was liquidated, and the other way round.
    assert {i.name for i in missing} == hanging - {"washout_day"}
    for reading in readings:
        held = sum(c.passed is True for c in reading.conditions)
        unknown = sum(c.passed is None for c in reading.conditions)
        expected = True if held >= reading.needed else False if held + unknown < reading.needed else None
        assert reading.active is expected


def _used(readings: tuple[Reading, ...]) -> set[str]:
    return {name for reading in readings for name in inputs(reading)}


def test_a_short_past_gives_no_averages_and_says_so() -> None:
    told = read(quiet(40))
    assert told.phase.phase is None
    assert "too little is known" in inputs(told.crowded)["near_long_rank"].missing
    assert told.crowded.active is None
    assert "cannot be told" in explain(told.crowded, SHORT)
    assert "cannot be told" in explain_phase(told.phase, SHORT)


@st.composite
def hours(draw: st.DrawFn) -> pl.DataFrame:
    """Bars with wild moves and holes."""
    n = draw(st.integers(60, 110))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bars = quiet(n, seed=int(rng.integers(1 << 30)))
    for name in [c for c in BARS if c != "time"]:
        wild = rng.random(n) < 0.1
        factor = np.where(wild, rng.lognormal(0, 1.0, n), 1.0)
        hole = pl.Series(rng.random(n) < draw(st.sampled_from([0.0, 0.05, 0.4])))
        bars = bars.with_columns(pl.when(~hole).then(pl.col(name) * pl.Series(factor)).alias(name))
    return bars


RULES = SignalRules(window=48, least=12)


@settings(max_examples=30, deadline=None)
@given(hours(), st.data())
def test_later_bars_change_no_earlier_reading(bars: pl.DataFrame, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, bars.height - 2))
    then = read_signals(bars.head(at + 1), rules=RULES)
    assert read_signals(bars, rules=RULES, at=at) == then
    poisoned = bars.with_columns(
        pl.when(pl.int_range(pl.len()) <= at).then(pl.col(n)).otherwise(pl.lit(1e12)).alias(n)
        for n in BARS
        if n != "time"
    )
    assert read_signals(poisoned, rules=RULES, at=at) == then


@settings(max_examples=30, deadline=None)
@given(hours())
def test_the_unit_of_price_and_of_the_coin_change_no_verdict(bars: pl.DataFrame) -> None:
    scaled = bars.with_columns(pl.col("close") * 2.0**-7, pl.col("open_interest") * 2.0**9)
    scaled = scaled.with_columns(pl.col("^(near_.*|liquidated)_usd$") * 2.0**2)
    one, other = read_signals(bars, rules=RULES), read_signals(scaled, rules=RULES)
    for name in ("overheated_long", "short_squeeze", "crowded", "washout"):
        assert getattr(one, name).active == getattr(other, name).active
    assert one.phase.phase == other.phase.phase


@settings(max_examples=30, deadline=None)
@given(hours())
def test_every_reading_of_any_hour_can_be_told_in_words(bars: pl.DataFrame) -> None:
    told = read_signals(bars, rules=RULES)
    for reading in (told.overheated_long, told.short_squeeze, told.crowded, told.washout, *told.phase.tests):
        text = explain(reading, RULES)
        assert text.endswith(".")
        assert ("cannot be told" in text) == (reading.active is None)
        for value in inputs(reading).values():
            assert value.missing in text
        assert "None" not in text
        assert "nan" not in text
    assert explain_phase(told.phase, RULES).startswith("The phase ")


def test_words_name_values_thresholds_and_what_is_missing() -> None:
    hot = end_with(heat(quiet(), longs=True), long_short_ratio=None)
    text = explain(read(hot).overheated_long, SHORT)
    assert text.startswith("Longs look overheated: 4 of 5 signs are there, 4 must be.")
    assert "funding is 0.09 % per 8 h (at least 0.03 %)" in text
    assert "estimated longs within 3 % below are 5 % of open interest (at least 2 %)" in text
    assert "Not known: the account ratio is at the … (at least 90th percentile): the account ratio not known" in text
    rank = Input("ratio_rank", 0.93, "", ">=", 0.9, True, "")
    assert describe(rank, SignalRules()) == (
        "the account ratio is at the 93rd percentile of 30 days (at least 90th percentile)"
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Input("interest_day", -0.0312, "", ">", 0.0, False, ""), "changed by −3.12 % in 24 h (above 0 %)"),
        (Input("interest_day", -0.0, "", ">=", 0.05, False, ""), "changed by 0 % in 24 h (at least +5 %)"),
        (
            Input("interest_z", -1.234, "", "<", 0.0, True, ""),
            "is −1.2 standard deviations from its 30-day mean (below 0)",
        ),
        (Input("funding_8h", -0.0002, "", "<=", -0.0001, True, ""), "is −0.02 % per 8 h (at most −0.01 %)"),
    ],
)
def test_words_write_signs_as_the_page_does_and_zero_without_one(value: Input, words: str) -> None:
    assert describe(value, SignalRules()).endswith(words)


def test_bars_that_are_not_an_hour_apart_or_lack_a_column_are_refused() -> None:
    with pytest.raises(InputError, match="an hour apart"):
        read(quiet().filter(pl.int_range(pl.len()) != 7))
    with pytest.raises(InputError, match="close"):
        read(quiet().drop("close"))
    with pytest.raises(ParameterError, match="at"):
        read_signals(quiet(), at=500)
    with pytest.raises(ParameterError, match="funding_hours"):
        read_signals(quiet(), funding_hours=0.0)


@pytest.mark.parametrize(("name", "value"), [("window", 1), ("near", math.nan), ("crowded", 1.5), ("needed", 6)])
def test_rules_that_mean_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=name):
        replace(SignalRules(), **{name: value})


def test_features_of_a_row_are_there_for_every_row() -> None:
    features = build_features(quiet(), rules=SHORT)
    assert set(FEATURES) <= set(features.columns)
    assert features.height == 200
    assert int(features["time"].to_physical()[-1] - features["time"].to_physical()[0]) == 199 * HOUR_MS
