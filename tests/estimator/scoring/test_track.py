"""A score is of what was shown, when it was shown, against what came afterwards; and it is given once."""

from __future__ import annotations

import importlib
from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator import bankruptcy_price, liquidation_price
from estimator.domain import (
    BANKRUPTCY_PRINTS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    TIME,
    BoolArray,
    ContractType,
    Float64Array,
    Int64Array,
    LeverageBracket,
    Market,
    Origin,
    Side,
)
from estimator.evaluation import metrics
from estimator.evaluation.events import CAP_USD, Prints
from estimator.exchanges.base import Connection
from estimator.history import with_market
from estimator.model.grid import BIN_WIDTH, LiquidationGrid
from estimator.observed import Heard
from estimator.scoring.evidence import Evidence, triggers
from estimator.scoring.record import ALL, ENOUGH_DAYS, add_up, summarise_sums
from estimator.scoring.track import BASELINES, LATE_MS, PUBLISHED, hours_of, judge
from estimator.settings import VENUES
from tests.estimator.scoring.seen import DAYS, END_MS, T0, closes, evidence, prints

CLOSE_MS = T0 + 4 * DAY_MS + 7 * HOUR_MS
DUE = {(CLOSE_MS, 1), (CLOSE_MS, 4)}
KEYS = ("time", "horizon_h", "side", "model")


def every_due(first_ms: int = T0 + DAY_MS) -> set[tuple[int, int]]:
    return {(t, h) for t in range(first_ms, END_MS, HOUR_MS) for h in (1, 4) if t + h * HOUR_MS <= END_MS}


def kept(part: Prints, mask: BoolArray) -> Prints:
    return Prints(part.time_ms[mask], part.sign[mask], part.price[mask], part.usd[mask])


# --- only what was published before, only what came afterwards --------------------------------------------------------


def test_nothing_that_comes_after_the_horizon_changes_a_score() -> None:
    seen, after_ms = evidence(), CLOSE_MS + 4 * HOUR_MS
    late = pl.col("time").dt.epoch("ms") >= after_ms
    prices = ("open", "high", "low", "close", "volume")
    interest = pl.when(late).then(9e9).otherwise(pl.col("open_interest")).alias("open_interest")
    poisoned = replace(
        seen,
        candles=seen.candles.with_columns(pl.when(late).then(pl.col(n) * 3).otherwise(pl.col(n)) for n in prices),
        open_interest=seen.open_interest.with_columns(interest),
        prints=replace(seen.prints, price=np.where(seen.prints.time_ms > after_ms, 1.0, seen.prints.price)),
    )
    told, again = judge(seen, DUE), judge(poisoned, DUE)
    assert told[0].height >= 2 * (1 + len(BASELINES))
    for one, other in zip(told, again, strict=True):
        assert one.equals(other)


def test_the_levels_that_are_scored_are_those_shown_at_the_close() -> None:
    seen = evidence()
    assert seen.grid is not None
    usd = seen.grid.long_usd.copy(), seen.grid.short_usd.copy()
    for side in usd:
        side[closes(seen.grid) != CLOSE_MS] = side[::-1][closes(seen.grid) != CLOSE_MS]
    other = LiquidationGrid(seen.grid.time, seen.grid.first_bin, BIN_WIDTH, *usd)
    assert judge(seen, DUE)[0].equals(judge(replace(seen, grid=other), DUE)[0])
    for side in usd:
        side[closes(seen.grid) == CLOSE_MS] = 1.0
    flat = judge(replace(seen, grid=LiquidationGrid(seen.grid.time, seen.grid.first_bin, BIN_WIDTH, *usd)), DUE)[0]
    assert (
        np.abs(flat.filter(pl.col("model") == PUBLISHED)["bits"].to_numpy()).max() < 1e-6
    )  # the same everywhere says nothing
    theirs = pl.col("model") != PUBLISHED
    assert judge(seen, DUE)[0].filter(theirs).equals(flat.filter(theirs))


def test_prints_before_a_column_was_shown_are_not_held_to_its_credit() -> None:
    seen = evidence()
    shown_ms = CLOSE_MS + 4 * MINUTE_MS
    late = replace(seen, published_ms=np.where(closes(seen.grid) == CLOSE_MS, shown_ms, seen.published_ms))
    without = replace(
        late, prints=kept(seen.prints, (seen.prints.time_ms <= CLOSE_MS) | (seen.prints.time_ms > shown_ms))
    )
    assert judge(late, DUE)[0].equals(judge(without, DUE)[0])
    assert judge(late, DUE)[0]["n_print"].sum() <= judge(seen, DUE)[0]["n_print"].sum()


def test_a_column_shown_too_late_promised_nothing() -> None:
    seen = evidence()
    late = replace(seen, published_ms=closes(seen.grid) + LATE_MS + 1)
    assert [frame.height for frame in judge(late, every_due())] == [0, 0]


def test_hours_in_which_prints_may_have_been_missed_are_not_scored_but_clusters_are() -> None:
    heard = Heard("liquidations")
    heard.note(Connection(T0, "liquidations", connected=True))
    heard.note(Connection(CLOSE_MS + 2 * HOUR_MS, "liquidations", connected=False))
    heard.note(Connection(CLOSE_MS + 2 * HOUR_MS + 1, "liquidations", connected=True))
    record, _ = judge(evidence(heard=heard), DUE)
    assert set(record["horizon_h"]) == {1}
    all_heard, partly = judge(evidence(), every_due())[1], judge(evidence(heard=heard), every_due())[1]
    assert all_heard.height > 0
    assert all_heard.equals(partly)


def test_an_hour_without_its_candles_is_not_scored() -> None:
    seen = evidence()
    missing = pl.col("time").dt.epoch("ms") == CLOSE_MS + 90 * MINUTE_MS
    assert set(judge(replace(seen, candles=seen.candles.filter(~missing)), DUE)[0]["horizon_h"]) == {1}
    assert len(hours_of(seen.candles).close) == DAYS * 24


# --- the price that triggered -----------------------------------------------------------------------------------------


@given(
    st.sampled_from(["linear", "inverse"]),
    st.sampled_from(["okx", "bybit"]),
    st.sampled_from(list(Side)),
    st.floats(3, 80),
)
def test_a_bankruptcy_price_is_brought_back_to_the_price_of_the_liquidation(
    contract: ContractType, exchange: str, side: Side, leverage: float
) -> None:
    symbol = "BTC/USDT:USDT" if contract == "linear" else "BTC/USD:BTC"
    place = Market(exchange, symbol, contract, (LeverageBracket(0.0, 100.0, 0.004),), taker_fee_rate=0.0005)
    quantity = 1.0 if contract == "linear" else 60_000.0
    margin = (60_000.0 if contract == "linear" else 1.0) / leverage
    bankrupt = bankruptcy_price(side=side, entry_price=60_000.0, quantity=quantity, margin=margin, contract=contract)
    level = liquidation_price(
        side=side,
        entry_price=60_000.0,
        quantity=quantity,
        margin=margin,
        contract=contract,
        maintenance_margin_rate=0.004,
        taker_fee_rate=place.maintenance_fee_rate,
    )
    row = {"time": 1, "side": side.value, "price": bankrupt, "quantity_base": 1.0, "notional_usd": 9.0}
    printed = pl.DataFrame([row]).with_columns(pl.col("time").cast(TIME))
    assert triggers(printed, place, Origin.LIVE).price[0] == pytest.approx(level, rel=1e-9)
    assert triggers(printed, place, Origin.SIMULATED).price[0] == bankrupt  # which prints what it filled
    elsewhere = replace(place, exchange="binance")
    assert triggers(printed, elsewhere, Origin.LIVE).price[0] == bankrupt


def test_the_venues_that_print_bankruptcy_prices_are_those_that_declare_it() -> None:
    declared = {
        name
        for name in VENUES
        if getattr(importlib.import_module(f"estimator.exchanges.{name}"), name.capitalize())(
            throttle=False
        ).capabilities.liquidation_price_kind
        == "bankruptcy"
    }
    assert declared == BANKRUPTCY_PRINTS


# --- putting it together ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored() -> tuple[pl.DataFrame, pl.DataFrame]:
    record, touches = judge(evidence(), every_due())
    return with_market("binance:BTC/USDT:USDT", record), with_market("binance:BTC/USDT:USDT", touches)


def log_bin(price: float) -> int:
    return int(np.floor(np.log(price) / BIN_WIDTH))


def crossed(seen: Evidence, close_ms: int, horizon_h: int, side: Side) -> dict[int, int]:
    """Bins that the price crosses on a side, and the hour in which it first does."""
    columns = (pl.col("time").dt.epoch("ms"), "low", "high", "close")
    candle = {t: rest for t, *rest in seen.candles.select(columns).iter_rows()}
    at = log_bin(candle[close_ms - 30 * MINUTE_MS][2])
    found: dict[int, int] = {}
    for half in range(2 * horizon_h):
        low, high, _ = candle[close_ms + half * 30 * MINUTE_MS]
        reached = range(log_bin(low), at) if side is Side.LONG else range(at + 1, log_bin(high) + 1)
        for cell in reached:
            found.setdefault(cell, half // 2)
    return found


def direct_bits(seen: Evidence, horizon_h: int) -> tuple[Float64Array, Float64Array, Int64Array]:
    """Bits, weight and day of every print, one after the other, as docs/accuracy.md says it in words."""
    assert seen.grid is not None
    found = []
    for (close_ms, h), side in product(sorted(every_due()), Side):
        cells = crossed(seen, close_ms, h, side) if h == horizon_h else {}
        if len(cells) < 2:
            continue
        usd = seen.grid.side_usd(side)[list(closes(seen.grid)).index(close_ms)]
        mass = {cell: float(usd[cell - seen.grid.first_bin]) for cell in cells}
        part = seen.prints.between(close_ms + 2_000, close_ms + h * HOUR_MS)
        for time_ms, sign, price, notional in zip(part.time_ms, part.sign, part.price, part.usd, strict=True):
            cell = log_bin(price)
            if sign == side.sign and cells.get(cell, -1) >= (time_ms - 1 - close_ms) // HOUR_MS:
                total = sum(mass.values())
                share = mass[cell] / total if total else 1 / len(cells)
                bits = np.log2(0.95 * share * len(cells) + 0.05)
                found.append((bits, min(notional, CAP_USD), close_ms // DAY_MS))
    bits, weight, day = (np.array(part) for part in zip(*found, strict=True))
    return bits, weight, day


@pytest.mark.parametrize("horizon_h", [1, 4])
def test_the_record_is_the_mean_over_every_print_with_days_as_blocks(
    scored: tuple[pl.DataFrame, pl.DataFrame], horizon_h: int
) -> None:
    bits, weight, day = direct_bits(evidence(), horizon_h)
    one = summarise_sums([add_up(*scored)])[ALL, ALL]["horizons"][str(horizon_h)]
    assert one["n"]["prints"] == len(bits)
    assert one["n"]["usd"] == pytest.approx(weight.sum())
    assert one["n"]["days"] == len(np.unique(day)) < ENOUGH_DAYS
    assert not one["enough"]
    assert one["models"][PUBLISHED]["bits"] == pytest.approx(metrics.mean_interval(bits, weight, day), abs=2e-5)
    assert one["gain"]["uniform"] == one["models"][PUBLISHED]["bits"]
    for baseline in BASELINES:
        difference = one["models"][PUBLISHED]["bits"][0] - one["models"][baseline.name]["bits"][0]
        assert one["gain"][baseline.name][0] == pytest.approx(difference, abs=2e-5)


def test_groups_by_density_hold_all_that_was_observed(scored: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    record, _ = scored
    for name in ("uniform", "predicted", "observed"):
        sums = record[f"{name}_usd_by_density"].list.sum()
        assert np.allclose(sums, record["observed_usd"])


def test_a_record_of_two_markets_is_told_for_each_and_for_both(scored: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    other = [f.with_columns(exchange=pl.lit("okx"), symbol=pl.lit("ETH/USDT:USDT")) for f in scored]
    both = summarise_sums([add_up(*(pl.concat(pair) for pair in zip(scored, other, strict=True)))])
    assert set(both) == {(v, c) for v in ("binance", "okx", ALL) for c in ("BTC", "ETH", ALL)} - {
        ("binance", "ETH"), ("okx", "BTC"),
    }  # fmt: skip
    alone = summarise_sums([add_up(*scored)])[ALL, ALL]
    assert both["binance", "BTC"] == both["okx", "ETH"] == alone
    assert both[ALL, ALL]["horizons"]["1"]["n"]["prints"] == 2 * alone["horizons"]["1"]["n"]["prints"]
    assert both[ALL, ALL]["horizons"]["1"]["models"][PUBLISHED]["bits"] == pytest.approx(
        alone["horizons"]["1"]["models"][PUBLISHED]["bits"], abs=2e-5
    )


def test_days_summed_apart_make_the_same_record(scored: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    record, touches = scored
    days = record["time"].dt.date().unique().to_list()
    assert len(days) > 1
    of_days = [add_up(record.filter(pl.col("time").dt.date() == day), touches.clear()) for day in days]
    assert summarise_sums([add_up(record.clear(), touches), *of_days]) == summarise_sums([add_up(record, touches)])


def test_a_record_of_nothing_is_a_record(scored: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    one = summarise_sums([add_up(*(frame.clear() for frame in scored))])[ALL, ALL]["horizons"]["4"]
    assert one["n"]["prints"] == one["clusters"]["n"] == 0
    assert one["clusters"]["touched"] == [None, None, None]
    assert one["models"] == one["gain"] == {}


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_a_cluster_counts_as_touched_when_a_low_or_high_reaches_it_and_so_does_its_mirror(
    scored: tuple[pl.DataFrame, pl.DataFrame],
) -> None:
    _, touches = scored
    assert touches["touched"].n_unique() == touches["mirror_touched"].n_unique() == 2
    hours = hours_of(evidence().candles)
    for row in touches.iter_rows(named=True):
        close_ms = int(row["time"].timestamp() * 1000)
        inside = hours.horizon(close_ms, row["horizon_h"])
        assert inside is not None
        close = hours.close[inside.start - 1]
        reached = hours.low[inside].min(), hours.high[inside].max()
        prices = row["price"], close**2 / row["price"]
        assert (row["side"] == "long") == (row["price"] < close)
        below, above = sorted(prices)
        hit = {below: reached[0] <= below, above: reached[1] >= above}
        assert (row["touched"], row["mirror_touched"]) == (hit[prices[0]], hit[prices[1]])


def test_prints_are_not_needed_to_tell_whether_clusters_attract(scored: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    _, touches = judge(evidence(prints=kept(prints(), prints().usd < 0)), every_due())
    assert with_market("binance:BTC/USDT:USDT", touches).equals(scored[1])
