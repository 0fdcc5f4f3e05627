"""What is true of every position book."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from estimator.domain import Candle, ContractType, Market
from estimator.errors import InputError, ParameterError
from estimator.model.book import PositionBook, estimate
from estimator.model.grid import TIER_NAMES
from estimator.model.oracle import OracleBook
from estimator.model.parameters import SHARES, Parameters
from estimator.model.step import MARK_HIGH, MARK_LOW, VOLUME, closing
from estimator.model.steps import Steps, build_steps
from tests.estimator.model.markets import candles, interest, market, walks

SMALL = Parameters(n_bins=400, bin_width=0.004)


@given(walks())
@settings(max_examples=60, deadline=None)
def test_each_side_holds_the_open_interest_at_every_step(steps: Steps) -> None:
    book = PositionBook(market(), SMALL)
    for t in range(len(steps)):
        book.run(steps.part(t, t + 1))
        scale = max(steps.contracts[: t + 1].max(), 1.0)
        np.testing.assert_allclose(book.total, steps.contracts[t], atol=1e-9 * scale, rtol=1e-9)
        cells = book.at_risk().sum(axis=1) + book.state.sink
        np.testing.assert_allclose(cells, book.total, atol=1e-9 * scale, rtol=1e-9)


@given(walks())
@settings(max_examples=60, deadline=None)
def test_nothing_is_negative_and_sides_stay_on_their_side_of_the_close(steps: Steps) -> None:
    book = PositionBook(market(), SMALL)
    for t in range(len(steps)):
        book.run(steps.part(t, t + 1))
        held = book.at_risk()
        close = book.close_bin - book.first_bin
        assert (held >= 0).all()
        assert (book.state.sink >= 0).all()
        assert held[0, max(close, 0) :].sum() == 0
        assert held[1, : close + 1].sum() == 0


@given(walks())
@settings(max_examples=60, deadline=None)
def test_levels_the_mark_reached_are_gone_before_new_ones_open(steps: Steps) -> None:
    no_openings = replace(steps, candle=steps.candle.copy(), contracts=steps.contracts.copy())
    no_openings.candle[:, VOLUME] = 0.0
    book = PositionBook(market(), SMALL)
    book.run(no_openings.part(0, 1))
    for t in range(1, len(steps)):
        part = no_openings.part(t, t + 1)
        held = book.at_risk()
        at = np.arange(held.shape[1]) + book.first_bin
        low = np.floor(np.log(part.candle[:, MARK_LOW].min()) / SMALL.bin_width)
        high = np.floor(np.log(part.candle[:, MARK_HIGH].max()) / SMALL.bin_width)
        reached = np.array([held[0, at >= low].sum(), held[1, at <= high].sum()])
        left = book.total - reached
        # Exactly what is left after the sweep stays on when the open interest falls to it or below.
        part.contracts[0] = min(left.min(), part.contracts[0])
        no_openings.contracts[t] = part.contracts[0]
        book.run(part)
        held, at = book.at_risk(), np.arange(held.shape[1]) + book.first_bin
        tiny = 1e-9 * max(steps.contracts.max(), 1.0)
        assert held[0, at >= low].sum() <= tiny
        assert held[1, at <= high].sum() <= tiny


@given(walks(min_steps=6), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_stream_a_batch_and_a_restart_agree_bit_for_bit(steps: Steps, cut: int) -> None:
    batch = PositionBook(market(), SMALL)
    whole, swept = batch.run(steps)
    stream = PositionBook(market(), SMALL)
    first, swept_first = stream.run(steps.part(0, cut))
    restarted = PositionBook(market(), SMALL)
    restarted.restore(stream.save())
    parts = [(first, swept_first)]
    parts += [restarted.run(steps.part(t, t + 1)) for t in range(cut, len(steps))]
    for name in batch.state._fields:
        np.testing.assert_array_equal(getattr(batch.state, name), getattr(restarted.state, name))
    np.testing.assert_array_equal(swept, np.concatenate([s for _, s in parts]))
    row = 0
    for grid, _ in parts:
        at = grid.first_bin - whole.first_bin
        for side in ("long_usd", "short_usd"):
            piece = getattr(whole, side)[row : row + len(grid.time), at : at + grid.n_price]
            np.testing.assert_array_equal(piece, getattr(grid, side))
        row += len(grid.time)


@given(walks())
@settings(max_examples=40, deadline=None)
def test_the_compiled_step_agrees_with_the_oracle(steps: Steps) -> None:
    book = PositionBook(market(), SMALL)
    book.run(steps.part(0, 1))
    oracle = OracleBook(market(), book.parameters, book.first_bin)
    oracle.step(steps, 0)
    for t in range(1, len(steps)):
        grid, _ = book.run(steps.part(t, t + 1))
        column = oracle.step(steps, t)
        if book.first_bin != oracle.first_bin:
            break  # the window moved: the oracle's never does
        scale = max(steps.contracts.max(), 1.0)
        np.testing.assert_allclose(book.at_risk(), oracle.cells.sum(axis=1), rtol=1e-7, atol=1e-9 * scale)
        np.testing.assert_allclose(book.state.sink, oracle.sink, rtol=1e-7, atol=1e-9 * scale)
        usd = scale * steps.candle[:, 1].max()
        np.testing.assert_allclose(grid.long_usd[0], column[0], rtol=1e-5, atol=1e-9 * usd)
        np.testing.assert_allclose(grid.short_usd[0], column[1], rtol=1e-5, atol=1e-9 * usd)


@given(walks(), st.integers(-2000, 2000))
@settings(max_examples=30, deadline=None)
def test_scaling_prices_by_whole_bins_only_shifts_the_book(steps: Steps, bins: int) -> None:
    factor = np.exp(bins * SMALL.bin_width)
    scaled = replace(steps, candle=steps.candle.copy(), contracts=steps.contracts)
    scaled.candle[:, [0, 1, 2, 4, 5]] *= factor
    one, other = PositionBook(market(), SMALL), PositionBook(market(), SMALL)
    one.run(steps)
    other.run(scaled)
    assume(other.first_bin - one.first_bin == bins)  # no close on the very edge of a bin
    scale = max(steps.contracts.max(), 1.0)
    same = np.isclose(one.at_risk(), other.at_risk(), rtol=1e-6, atol=1e-9 * scale)
    assert same.mean() > 0.99


@given(walks())
@settings(max_examples=40, deadline=None)
def test_longs_of_a_linear_market_mirror_shorts_of_an_inverse_one(steps: Steps) -> None:
    mirrored = replace(steps, candle=steps.candle.copy())
    low, high, close = (1 / steps.candle[:, i] for i in (1, 0, 2))
    mirrored.candle[:, :3] = np.stack([low, high, close], axis=1)
    mirrored.candle[:, 4:] = mirrored.candle[:, :2]
    odd = replace(SMALL, n_bins=401)  # as many bins on either side of the close
    linear, inverse = PositionBook(market(), odd), PositionBook(market("inverse"), odd)
    linear.run(steps)
    inverse.run(mirrored)
    # Bin i of one lattice is bin -1 - i of the other.
    shift = -1 - (inverse.first_bin + np.arange(odd.n_bins)) - linear.first_bin
    inside = (shift >= 0) & (shift < odd.n_bins)
    scale = max(steps.contracts.max(), 1.0)
    for s in range(2):
        mine, theirs = linear.at_risk()[s, shift[inside]], inverse.at_risk()[1 - s, inside]
        assert abs(mine.sum() - theirs.sum()) <= 2e-3 * scale
        assert np.isclose(mine, theirs, rtol=1e-6, atol=1e-7 * scale).mean() > 0.95


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=12),
    st.floats(0, 1e6),
    st.floats(1e-6, 1.0),
)
@settings(deadline=None)
def test_closing_meets_its_target(masses: list[float], sink: float, share: float) -> None:
    mass, tau = np.array(masses), np.linspace(10, 200, len(masses))
    total = mass.sum() + sink
    assume(total > 1e-6)
    theta = closing(mass, tau, sink, 240.0, share * total)
    kept = (mass * np.exp(-theta / tau)).sum() + sink * np.exp(-theta / 240.0)
    assert kept == pytest.approx(share * total, rel=1e-9)


def test_a_column_uses_nothing_later_than_its_own_time() -> None:
    frame = candles(400, seed=3)
    held = interest(frame, seed=3)
    whole = estimate(market(), frame, held)
    poisoned_candles = frame.with_columns(frame["close"].set(frame["time"] >= frame["time"][300], 1.0))
    poisoned_candles = poisoned_candles.with_columns(low=0.5, high=float(frame["high"].to_numpy().max()) * 2)
    kept = frame.head(300).vstack(poisoned_candles.tail(100).select(frame.columns))
    later = held.head(301).vstack(held.tail(99).with_columns(open_interest=1e9))
    changed = estimate(market(), kept, later)
    at = whole.first_bin - changed.first_bin
    np.testing.assert_array_equal(whole.long_usd[:300, :], changed.long_usd[:300, at : at + whole.n_price])
    np.testing.assert_array_equal(whole.short_usd[:300, :], changed.short_usd[:300, at : at + whole.n_price])


@pytest.mark.parametrize(
    "parameters",
    [Parameters(), Parameters(sink_share=0.0, background_share=1.0)],
    ids=["defaults", "more background than the sink holds"],
)
def test_the_column_never_shows_more_than_the_open_interest(parameters: Parameters) -> None:
    frame = candles(600, seed=11)
    held = interest(frame, seed=11)
    steps, _ = build_steps(market(), frame, held)
    book = PositionBook(market(), parameters)
    grid, _ = book.run(steps)
    middle = np.sqrt(grid.price_edges[1:] * grid.price_edges[:-1])
    for usd in (grid.long_usd, grid.short_usd):
        assert ((usd / middle).sum(axis=1) <= steps.contracts * (1 + 1e-5)).all()
        assert (usd.sum(axis=1) > 0).all()


def test_the_close_stays_in_the_middle_quarter_of_the_window() -> None:
    book = PositionBook(market())
    n_bins = book.parameters.n_bins
    for t in range(12):
        price = 100.0 * 1.1**t
        book.step([Candle(0, price, price, price, price, 1.0)], 10.0, close_ms=t)
        assert abs(book.close_bin - book.first_bin - n_bins // 2) <= n_bins // 8


def test_tiers_sum_to_the_total() -> None:
    frame = candles(60, seed=5)
    grid = estimate(market(), frame, interest(frame, seed=5))
    for side in ("long", "short"):
        total = sum(grid.tier_usd(side, tier).astype(np.float64) for tier in TIER_NAMES)
        np.testing.assert_allclose(total, grid.side_usd(side), rtol=1e-4, atol=1.0)
    with pytest.raises(ParameterError, match="tier: got '3x'"):
        grid.tier_usd("long", "3x")


def test_minute_candles_are_sub_candles_of_a_step_and_place_entries_more_finely() -> None:
    minutes = candles(500, seed=8, minutes=1)
    held = interest(minutes, seed=8)
    fine, _ = build_steps(market(), minutes, held)
    whole = [fine.candle[a:b] for a, b in zip(fine.first, fine.first[1:], strict=False)]
    merged = np.array(
        [[c[:, 0].min(), c[:, 1].max(), c[-1, 2], c[:, 3].sum(), c[:, 4].min(), c[:, 5].max()] for c in whole]
    )
    coarse = replace(fine, candle=merged, first=np.arange(len(fine) + 1))
    one, other = PositionBook(market()), PositionBook(market())
    one.run(fine)
    other.run(coarse)
    np.testing.assert_allclose(one.total, other.total, rtol=1e-9)
    assert not np.allclose(one.at_risk(), other.at_risk())


def test_every_second_column_can_be_left_out() -> None:
    frame = candles(48, seed=2)
    held = interest(frame, seed=2)
    every, hourly = estimate(market(), frame, held), estimate(market(), frame, held, every_ms=3_600_000)
    np.testing.assert_array_equal(every.long_usd[11::12], hourly.long_usd)
    np.testing.assert_array_equal(every.time[11::12], hourly.time)


def test_a_provisional_step_leaves_the_book_as_it_was() -> None:
    frame = candles(50, seed=1)
    steps, _ = build_steps(market(), frame, interest(frame, seed=1))
    book = PositionBook(market())
    book.run(steps)
    before = book.save()
    close = float(frame["close"][-1])
    candle = Candle(0, close, close * 1.01, close * 0.9, close * 0.95, 10.0)
    grid, swept = book.copy().step([candle], 70_000.0, close_ms=10**12)
    assert swept[0, 0] > 0
    assert grid.long_usd.shape[0] == 1
    assert book.save() == before


def test_a_saved_book_is_refused_by_another_market_or_other_parameters() -> None:
    state = PositionBook(market()).save()
    with pytest.raises(ParameterError, match="saved market"):
        PositionBook(market("inverse")).restore(state)
    with pytest.raises(ParameterError, match="saved parameters"):
        PositionBook(market(), Parameters.preset("positions")).restore(state)


@pytest.mark.parametrize("state", [b"", b"junk", PositionBook(market()).save()[:400]])
def test_bytes_that_are_no_saved_book_are_refused(state: bytes) -> None:
    with pytest.raises(ParameterError, match="saved state"):
        PositionBook(market()).restore(state)


NAN, INF = float("nan"), float("inf")
BAD_STEPS = {
    "a price of zero": Candle(0, 100, 101, 0.0, 100, 1),
    "low above high": Candle(0, 100, 99, 101, 100, 1),
    "no close": Candle(0, 100, 101, 99, NAN, 1),
    "no end of the price": Candle(0, 100, INF, 99, 100, 1),
    "volume without a number": Candle(0, 100, 101, 99, 100, NAN),
    "negative volume": Candle(0, 100, 101, 99, 100, -1),
    "a mark price of zero": Candle(0, 100, 101, 99, 100, 1, None, 101, 0.0),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_candle_that_cannot_be_leaves_the_book_as_it_was(name: str) -> None:
    book, good = PositionBook(market()), Candle(0, 100, 101, 99, 100, 1)
    book.step([good], 10.0, close_ms=300_000)
    before = book.save()
    with pytest.raises(InputError, match=r"candles\.\w+ row 1"):
        book.step([good, BAD_STEPS[name]], 10.0, close_ms=600_000)
    assert book.save() == before


@pytest.mark.parametrize("contract", ["linear", "inverse"])
@pytest.mark.parametrize(
    "parameters",
    [Parameters(n_bins=64), Parameters(bin_width=1e-5), Parameters(bin_width=0.1, background_range=1e-3)],
    ids=["few bins", "narrow bins", "background of one bin"],
)
def test_a_lattice_that_some_buckets_miss_puts_them_in_the_sink(contract: ContractType, parameters: Parameters) -> None:
    book = PositionBook(market(contract), parameters)
    for t, price in enumerate((100.0, 101.0, 1000.0, 1e-9)):
        grid, _ = book.step([Candle(0, price, price * 1.001, price * 0.999, price, 5.0)], 10.0 + t, close_ms=t)
        np.testing.assert_allclose(book.total, 10.0 + t, rtol=1e-9)
        assert np.isfinite(grid.long_usd).all()
        assert np.isfinite(grid.short_usd).all()


@pytest.mark.parametrize("contract", ["linear", "inverse"])
def test_leaps_of_price_and_open_interest_by_any_power_keep_both_sides_whole(contract: ContractType) -> None:
    book = PositionBook(market(contract))
    prices = (100.0, 1000.0, 1e-9, 1e9, 1e-9, 1e-9)
    for t, (price, held) in enumerate(zip(prices, (0.0, 1e9, 1.0, 1e-9, 1e12, 0.0), strict=True)):
        grid, _ = book.step([Candle(0, price, price * 1.01, price * 0.9, price, 1e30)], held, close_ms=t)
        np.testing.assert_allclose(book.total, held, rtol=1e-9)
        np.testing.assert_allclose(book.at_risk().sum(axis=1) + book.state.sink, held, rtol=1e-9)
        assert np.isfinite(grid.long_usd).all()


def test_a_step_needs_candles_and_open_interest() -> None:
    with pytest.raises(InputError, match="at least one sub-candle"):
        PositionBook(market()).step([], 1.0, close_ms=0)
    with pytest.raises(InputError, match="open_interest"):
        PositionBook(market()).step([Candle(0, 1, 1, 1, 1, 1)], float("nan"), close_ms=0)


def test_presets_are_shares() -> None:
    for shares in SHARES.values():
        assert sum(shares) == pytest.approx(1.0)


def test_buckets_above_the_venue_are_cut_and_the_rest_renormalised() -> None:
    cut = Parameters().for_leverage(50)
    assert max(cut.leverages) == 50
    assert sum(cut.shares) == pytest.approx(1.0)
    assert cut.shares[-1] / cut.shares[0] == pytest.approx(Parameters().shares[-1] / Parameters().shares[2])


def test_parameters_outside_their_domain_are_refused() -> None:
    with pytest.raises(ParameterError, match="shares"):
        Parameters(shares=(1.0,) * 12)
    with pytest.raises(ParameterError, match="churn: got 2"):
        Parameters(churn=2.0)
    with pytest.raises(ParameterError, match="preset: got 'wild'"):
        Parameters.preset("wild")  # type: ignore[arg-type]


def test_a_bucket_without_margin_beyond_maintenance_is_refused() -> None:
    tight: Market = market(maintenance=0.009)
    with pytest.raises(ParameterError, match="margin exceeds maintenance"):
        PositionBook(tight)


@given(walks(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_book_that_rested_goes_on_bit_for_bit(steps: Steps, data: st.DataObject) -> None:
    awake, rested = PositionBook(market(), SMALL), PositionBook(market(), SMALL)
    for t in range(len(steps)):
        awake.run(steps.part(t, t + 1))
        rested.run(steps.part(t, t + 1))
        if data.draw(st.booleans()):
            rested.rest()
            beside = rested.copy()  # as for a candle that is still open
            beside.run(steps.part(t, t + 1))
            rested.rest()
        if data.draw(st.booleans()):
            assert rested.save() == awake.save()
    for mine, theirs in zip(rested.state, awake.state, strict=True):
        assert np.array_equal(mine, theirs)


def test_markets_of_equal_maintenance_share_their_kernels() -> None:
    one, two = PositionBook(market(), SMALL), PositionBook(replace(market(), symbol="ETH/USDT:USDT"), SMALL)
    assert one._kernels.mass is two._kernels.mass
