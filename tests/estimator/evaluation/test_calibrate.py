"""A fit finds the mix that made the liquidations, says little where little is known, and sees no future."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from estimator.domain import DAY_MS, HOUR_MS, TIME, Float64Array, Side
from estimator.errors import InputError
from estimator.evaluation.calibrate import calibrate, exposures, fit_mix, path_of, prints_of
from estimator.evaluation.density import MarketPast
from estimator.evaluation.events import Path, Prints, bins_of
from estimator.exchanges.simulated import SimulatedSource
from estimator.model.book import PositionBook
from estimator.model.calibration import Calibration
from estimator.model.grid import BIN_WIDTH
from estimator.model.parameters import Parameters
from estimator.model.step import HIGH, LOW
from estimator.model.steps import build_steps
from tests.estimator.model.markets import market

DEFAULT = Parameters()
DAYS = 14


def ignore(_done: float, _what: str) -> None:
    """Progress nobody looks at."""


def mixed(factors: tuple[float, ...]) -> Parameters:
    shares = np.array(DEFAULT.shares) * np.array(factors)
    return replace(DEFAULT, shares=tuple((shares / shares.sum()).tolist()))


# Much of the middle and little of the highest leverages, and the other way round.
MIXES = {
    "middle": mixed((0.2, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 2.5, 2.0, 1.0, 0.5, 0.5)),
    "ends": mixed((4.0, 4.0, 3.0, 3.0, 1.0, 0.5, 0.4, 0.4, 0.5, 1.0, 1.2, 1.2)),
}


@cache
def simulated() -> tuple[MarketPast, Path]:
    source = SimulatedSource(7, end_ms=20_400 * DAY_MS, days=DAYS)
    history = source.history(source.markets()[0], ignore)
    steps, _ = build_steps(history.market, history.candles, history.open_interest)
    return MarketPast(history.market, steps), path_of(history.candles)


@cache
def printed(name: str, usd: float = 2e5, seed: int = 1) -> Prints:
    """Prints as a book of a known mix makes them: what it held in the bins that the next step reached."""
    past, _ = simulated()
    book, steps, rng = PositionBook(past.market, MIXES[name]), past.steps, np.random.default_rng(seed)
    rows: list[tuple[int, int, float]] = []
    for begin in range(0, len(steps) - 1, 288):
        part = steps.part(begin, min(begin + 289, len(steps)))
        grid, _ = book.copy().run(part)
        book.run(part.part(0, len(part) - 1))
        for i in range(len(part) - 1):
            candle = part.candle[part.first[i + 1] : part.first[i + 2]]
            low, high = (int(bins_of(np.asarray(v))) for v in (candle[:, LOW].min(), candle[:, HIGH].max()))
            for sign, held in ((1, grid.long_usd[i]), (-1, grid.short_usd[i])):
                reached = slice(low - grid.first_bin, high + 1 - grid.first_bin)
                count = rng.poisson(held[reached] / usd)
                for bin_, n in zip(np.arange(low, high + 1), count, strict=True):
                    rows += [(int(part.close_ms[i]) + 150_000, sign, float(np.exp((bin_ + 0.5) * BIN_WIDTH)))] * int(n)
    times, signs, prices = (np.array(values) for values in zip(*rows, strict=True))
    return Prints(times, signs, prices, np.full(len(rows), usd))


@cache
def fitted(name: str) -> Calibration:
    past, path = simulated()
    return calibrate(past, printed(name), path, DEFAULT, ignore)


def apart(one: Parameters, other: Parameters) -> float:
    """Total variation between two mixes."""
    return float(np.abs(np.array(one.shares) - np.array(other.shares)).sum() / 2)


@pytest.mark.parametrize("name", MIXES)
def test_a_fit_comes_most_of_the_way_from_the_default_to_the_mix_that_made_the_prints(name: str) -> None:
    assert apart(fitted(name).parameters, MIXES[name]) < 0.6 * apart(DEFAULT, MIXES[name])


@pytest.mark.parametrize("name", MIXES)
def test_a_fit_scores_higher_where_it_was_not_fitted_and_leaves_the_turnover_that_was_right(name: str) -> None:
    found = fitted(name)
    assert found.gain > 0
    assert found.gain_low is not None
    assert found.gain_high is not None
    assert found.gain_low <= found.gain <= found.gain_high
    assert found.parameters.churn == DEFAULT.churn
    assert found.parameters.tau_hours == DEFAULT.tau_hours


def test_the_prints_of_the_simulated_market_itself_are_told_better_after_a_fit() -> None:
    source = SimulatedSource(7, end_ms=20_400 * DAY_MS, days=DAYS)
    history = source.history(source.markets()[0], ignore)
    past, path = simulated()
    found = calibrate(past, prints_of(history.liquidations, history.market), path, DEFAULT, ignore)
    assert found.gain > 0
    assert found.first_ms < found.cut_ms < found.last_ms == past.steps.close_ms[-1]


def test_a_fit_knows_nothing_of_the_part_that_is_held_out() -> None:
    past, path = simulated()
    found = fitted("middle")
    end = int(np.searchsorted(past.steps.close_ms, found.cut_ms, side="right"))
    candle = past.steps.candle.copy()
    candle[past.steps.first[end] :] *= np.array([0.97, 1.03, 1.0, 9.0, 0.97, 1.03])
    prints = printed("middle")
    late = prints.time_ms > found.cut_ms
    other = replace(prints, sign=np.where(late, -prints.sign, prints.sign), usd=np.where(late, 7.0, prints.usd))
    poisoned = MarketPast(past.market, replace(past.steps, candle=candle))
    again = calibrate(poisoned, other, path, DEFAULT, ignore)
    assert again.parameters == found.parameters
    assert again.after != found.after


def random_cells(n_print: int, seed: int = 0) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Cells whose prints come from the first of three buckets alone."""
    rng = np.random.default_rng(seed)
    mass = rng.gamma(0.5, 1.0, (400, 3)) * np.array([1.0, 1.0, 1e-6])
    share = mass[:, 0] / mass[:, 0].sum()
    return mass, np.zeros(400), rng.multinomial(n_print, share).astype(float)


def test_the_fewer_the_prints_the_nearer_a_fit_stays_to_the_default() -> None:
    away = [float(np.abs(np.log(fit_mix(*random_cells(n)))).max()) for n in (0, 3, 30, 300, 3000)]
    assert away[0] == 0
    assert away[1] < 0.15
    assert away == sorted(away)


def test_a_bucket_that_no_price_reaches_keeps_its_default() -> None:
    factor = fit_mix(*random_cells(3000))
    assert factor[0] > 1.5
    assert factor[1] < 0.2
    assert factor[2] == pytest.approx(1.0, abs=1e-3)


def test_too_few_data_are_refused_with_the_reason() -> None:
    past, path = simulated()
    prints = printed("middle")
    none = prints.between(0, 0)
    with pytest.raises(InputError, match="there are none: without prints"):
        calibrate(past, none, path, DEFAULT, ignore)
    with pytest.raises(InputError, match=r"days of prints .* 6 are needed"):
        calibrate(past.until(4 * 288), prints, path, DEFAULT, ignore)
    few = Prints(prints.time_ms[::200], prints.sign[::200], prints.price[::200], prints.usd[::200])
    with pytest.raises(InputError, match=r"prints to fit to .* 200 are needed"):
        calibrate(past, few, path, DEFAULT, ignore)


def test_hours_that_nobody_heard_are_not_held_to_be_quiet() -> None:
    past, _ = simulated()
    first, last = int(past.steps.close_ms[0]), int(past.steps.close_ms[-1])
    heard = past.steps.close_ms < last - 2 * DAY_MS
    cells = exposures(past, printed("middle"), first, last, heard)
    assert cells
    assert max(past.steps.close_ms[u.step] for u in cells) < last - 2 * DAY_MS
    assert any(not len(u.cell) for u in cells), "crossed cells where nothing was liquidated count too"


def test_a_bankruptcy_price_is_taken_back_to_the_trigger() -> None:
    frame = pl.DataFrame(
        {"time": [0, HOUR_MS], "side": [Side.LONG.value, Side.SHORT.value], "price": [100.0, 100.0],
         "quantity_base": [1.0, 1.0], "notional_usd": [100.0, 100.0]}
    ).with_columns(pl.col("time").cast(TIME))  # fmt: skip
    assert prints_of(frame, market(exchange="bybit", maintenance=0.01)).price == pytest.approx([100 / 0.99, 100 / 1.01])
    assert prints_of(frame, market(exchange="binance", maintenance=0.01)).price.tolist() == [100.0, 100.0]


def test_a_calibration_is_read_back_as_it_was_written() -> None:
    found = fitted("middle")
    assert Calibration.from_json(found.to_json()) == found
