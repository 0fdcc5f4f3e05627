"""Bad input is named; good input is aligned without looking ahead."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from estimator.domain import TIME, LeverageBracket, Market
from estimator.errors import InputError, ParameterError
from estimator.model.book import estimate
from estimator.model.steps import build_steps, find_gaps
from tests.estimator.model.markets import START, candles, interest, market

FRAME = candles(30, seed=1)
HELD = interest(FRAME, seed=1)


def put(frame: pl.DataFrame, column: str, row: int, value: float | None) -> pl.DataFrame:
    """Change one value."""
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(value).otherwise(pl.col(column)).alias(column)
    )


BAD_CANDLES = {
    "missing column": (FRAME.drop("close"), r"candles\.close: column is missing"),
    "negative price": (put(FRAME, "low", 7, -5.0), r"candles\.low row 7: is not a positive number \(value -5\.0\)"),
    "NaN price": (put(FRAME, "high", 3, float("nan")), r"candles\.high row 3: is not a finite number \(value nan\)"),
    "null price": (put(FRAME, "open", 4, None), r"candles\.open row 4: is not a finite number"),
    "low above high": (put(FRAME, "low", 9, 1e6), r"candles\.low row 9: is above high \(value 1000000\.0\)"),
    "close outside": (put(FRAME, "close", 2, 1.0), r"candles\.close row 2: lies outside low \.\. high"),
    "negative volume": (put(FRAME, "volume", 0, -1.0), r"candles\.volume row 0: is negative"),
    "unsorted": (FRAME.reverse(), r"candles\.time row 1: is earlier than the row before; sort by time"),
    "duplicate": (pl.concat([FRAME.head(3), FRAME.slice(2)]), r"candles\.time row 3: is a duplicate time"),
    "no time zone": (
        FRAME.with_columns(pl.col("time").dt.replace_time_zone(None)),
        r"candles\.time row 0: has no time zone",
    ),
    "text": (
        FRAME.with_columns(pl.col("close").cast(pl.String)),
        r"candles\.close row 0: expected numbers, got String",
    ),
    "time as number": (FRAME.with_columns(pl.col("time").dt.epoch("ms")), r"candles\.time: expected Datetime"),
    "empty": (FRAME.clear(), r"candles: has no rows"),
}


@pytest.mark.parametrize("name", BAD_CANDLES)
def test_bad_candles_are_named_by_column_row_and_value(name: str) -> None:
    frame, message = BAD_CANDLES[name]
    with pytest.raises(InputError, match=message):
        estimate(market(), frame, HELD)


def test_bad_open_interest_is_named() -> None:
    with pytest.raises(InputError, match=r"open_interest\.open_interest row 5: is not a finite number \(value nan\)"):
        estimate(market(), FRAME, put(HELD, "open_interest", 5, float("nan")))
    with pytest.raises(InputError, match=r"open_interest\.open_interest row 2: is negative"):
        estimate(market(), FRAME, put(HELD, "open_interest", 2, -1.0))
    late = HELD.with_columns(pl.col("time") + pl.duration(days=30))
    with pytest.raises(InputError, match=r"open_interest\.time row 0: is not known before the last complete step"):
        estimate(market(), FRAME, late)


def test_the_other_frames_are_validated_too() -> None:
    ratio = pl.DataFrame({"time": HELD["time"], "long_short_ratio": [0.0] * len(HELD)})
    with pytest.raises(InputError, match=r"long_short_ratio\.long_short_ratio row 0: is not a positive number"):
        estimate(market(), FRAME, HELD, ratio)
    funding = pl.DataFrame({"time": HELD["time"], "funding_rate": [float("inf")] * len(HELD)})
    with pytest.raises(InputError, match=r"funding_rate\.funding_rate row 0"):
        estimate(market(), FRAME, HELD, None, funding)
    with pytest.raises(InputError, match="expected a polars DataFrame"):
        estimate(market(), {"time": []}, HELD)  # type: ignore[arg-type]


def test_an_unknown_contract_type_is_refused() -> None:
    with pytest.raises(ParameterError, match="contract: got 'quanto', expected 'linear' or 'inverse'"):
        Market("binance", "BTC/USDT:USDT", "quanto", (LeverageBracket(0, 125, 0.004),))  # type: ignore[arg-type]


def test_gaps_are_marked_or_refused_never_filled() -> None:
    holed = pl.concat([FRAME.head(10), FRAME.slice(20)])
    grid = estimate(market(), holed, HELD)
    assert [(g.what, (g.end_ms - g.start_ms) // 300_000) for g in grid.gaps] == [("candles", 10)]
    assert len(grid.time) == 20
    with pytest.raises(InputError, match=r"candles\.time: misses 0\.83 h"):
        estimate(market(), holed, HELD, on_gap="error")
    silent = pl.concat([HELD.head(5), HELD.slice(25)])
    assert {g.what for g in estimate(market(), FRAME, silent).gaps} == {"open_interest"}
    with pytest.raises(ParameterError, match="on_gap"):
        estimate(market(), holed, HELD, on_gap="fill")  # type: ignore[arg-type]


def test_open_interest_that_ends_early_is_a_gap_up_to_the_last_close() -> None:
    end_ms = int(HELD["time"].to_physical()[-1])
    gaps = find_gaps(HELD["time"].head(10), "open_interest", 300_000, end_ms=end_ms, tolerance=3)
    assert len(gaps) == 1


def test_a_step_knows_the_open_interest_of_its_close_and_nothing_later() -> None:
    hourly = pl.DataFrame(
        {"time": [START + dt.timedelta(hours=h) for h in range(3)], "open_interest": [100.0, 200.0, 300.0]}
    ).with_columns(pl.col("time").cast(TIME))
    steps, _ = build_steps(market(), FRAME, hourly)
    close = (steps.close_ms - START.timestamp() * 1000) / 60_000
    np.testing.assert_array_equal(steps.contracts, np.where(close < 60, 100.0, np.where(close < 120, 200.0, 300.0)))


def test_steps_before_the_first_known_open_interest_are_left_out() -> None:
    late = HELD.filter(pl.col("time") >= HELD["time"][10])
    steps, _ = build_steps(market(), FRAME, late)
    assert steps.close_ms[0] == late["time"].to_physical()[0]


def test_an_incomplete_last_step_is_left_out() -> None:
    minutes = candles(23, seed=4, minutes=1)
    steps, _ = build_steps(market(), minutes, interest(minutes, seed=4))
    assert len(steps) == 4
    assert steps.first[-1] == 20


def test_longer_candles_make_longer_steps_and_odd_ones_are_refused() -> None:
    hours = candles(10, seed=4, minutes=60)
    steps, _ = build_steps(market(), hours, interest(hours, seed=4))
    assert (np.diff(steps.close_ms) == 3_600_000).all()
    threes = candles(10, seed=4, minutes=3)
    with pytest.raises(ParameterError, match="multiple of the candle interval"):
        build_steps(market(), threes, interest(threes, seed=4))


def test_candles_that_reach_beyond_their_step_are_refused_for_their_column_would_see_the_future() -> None:
    late = FRAME.with_columns(pl.col("time") + pl.duration(minutes=2))
    with pytest.raises(InputError, match=r"candles\.time row 0: is not a multiple of their 300000 ms in UTC"):
        estimate(market(), late, interest(late, seed=1))
    weeks = candles(10, seed=4, minutes=7 * 24 * 60).with_columns(pl.col("time") + pl.duration(days=4))  # from a Monday
    with pytest.raises(InputError, match=r"candles\.time row 0: is not a multiple"):
        estimate(market(), weeks, interest(weeks, seed=4))


def test_a_market_that_trades_in_few_minutes_still_has_minute_candles() -> None:
    minutes = candles(600, seed=4, minutes=1)
    traded = np.random.default_rng(4).random(600) < 0.3
    traded[[0, 599]] = True
    rare = minutes.filter(pl.Series(traded))
    steps, gaps = build_steps(market(), rare, interest(minutes, seed=4))
    assert set(np.diff(steps.close_ms)) <= {300_000, 600_000, 900_000}
    assert sum(g.end_ms - g.start_ms for g in gaps if g.what == "candles") == (600 - traded.sum()) * 60_000


def test_candles_that_complete_no_step_are_named() -> None:
    minutes = candles(2, seed=4, minutes=1)
    with pytest.raises(InputError, match="candles: do not complete a step of 300000 ms; have 2 of 60000 ms"):
        estimate(market(), minutes, interest(minutes, seed=4))


@pytest.mark.parametrize("span", [{"step_ms": 0}, {"step_ms": -300_000}, {"every_ms": 0}])
def test_spans_that_are_not_positive_are_refused(span: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=next(iter(span))):
        estimate(market(), FRAME, HELD, **span)  # type: ignore[arg-type]


def test_other_time_units_and_zones_are_the_same_instants() -> None:
    elsewhere = FRAME.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")).dt.convert_time_zone("Asia/Tokyo"))
    np.testing.assert_array_equal(
        estimate(market(), elsewhere, HELD).long_usd, estimate(market(), FRAME, HELD).long_usd
    )


def test_an_inverse_market_counts_contracts_at_the_price_when_they_were_observed() -> None:
    hourly = HELD.head(1)
    steps, _ = build_steps(market("inverse"), FRAME, hourly)
    assert len(set(steps.contracts)) == 1, "a price move alone must not look like a change of open interest"


def test_the_account_ratio_moves_the_at_risk_share_only_with_a_lean() -> None:
    ratio = pl.DataFrame({"time": HELD["time"], "long_short_ratio": [3.0] * len(HELD)})
    off, _ = build_steps(market(), FRAME, HELD, ratio)
    on, _ = build_steps(market(), FRAME, HELD, ratio, ratio_lean=1.0)
    assert (off.at_risk == 1).all()
    np.testing.assert_allclose(on.at_risk, [[1.5, 0.5]] * len(on))
