"""The simulated market: deterministic, conserving, plausible, and honest about its hidden book."""

import asyncio
import math
import time
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from estimator.domain import (
    CANDLES,
    CANDLES_OPTIONAL,
    DAY_MS,
    FUNDING_RATE,
    HOUR_MS,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    Market,
    Origin,
    Side,
)
from estimator.errors import ParameterError
from estimator.exchanges import agents
from estimator.exchanges.agents_state import BOOK_BINS, Engine
from estimator.exchanges.base import MarketHistory, MarketUpdate, Source
from estimator.exchanges.simulated import SimulatedSource
from estimator.exchanges.simulated_run import COINS, Run
from estimator.model.grid import BIN_WIDTH
from estimator.model.margin import liquidation_price, maintenance_amounts

END_MS = 1_750_000_020_000 // MINUTE_MS * MINUTE_MS
NO_BOOKS = np.zeros((0, 3, 2, BOOK_BINS), dtype=np.float32)
NO_MINUTES = np.zeros((0, 3, agents.N_COLUMNS))


def ignore(_share: float, _what: str) -> None:
    pass


def past(source: SimulatedSource, market: Market) -> MarketHistory:
    return source.history(market, ignore)


def milliseconds(frame: pl.DataFrame) -> np.ndarray:
    return frame["time"].dt.epoch("ms").to_numpy()


@pytest.fixture(scope="module")
def source() -> SimulatedSource:
    return SimulatedSource(11, end_ms=END_MS, days=3, keep_books=True)


@pytest.fixture
def run() -> Run:
    """A coin whose book has been filled for a week."""
    run = Run(COINS[0], np.random.SeedSequence(5), END_MS, END_MS + MINUTE_MS, 1000)
    run.simulate(keep_books=False)
    return run


def advance(engine: Engine, steps: int, step_ms: int = 1000) -> None:
    agents.advance(engine, np.random.Generator(np.random.PCG64(3)), steps, step_ms, NO_MINUTES, NO_BOOKS)


def settle(engine: Engine) -> None:
    """Let nobody open or close of their own accord and let nothing move but by the agents' hands."""
    engine.parameter["opens_per_s"] = engine.parameter["highest_hazard"] = 0.0
    engine.state["sigma"] = engine.state["trend"] = 0.0


def test_the_source_says_that_it_is_simulated_and_from_which_seed() -> None:
    source: Source = SimulatedSource(42)
    assert source.origin is Origin.SIMULATED
    assert "simulated" in source.description
    assert "42" in source.description


def test_three_coins_trade_on_three_venues_bitcoin_first(source: SimulatedSource) -> None:
    markets = source.markets()
    assert [m.base for m in markets] == ["BTC"] * 3 + ["ETH"] * 3 + ["SOL"] * 3
    assert [m.exchange for m in markets] == ["binance", "bybit", "okx"] * 3
    assert len({m.id for m in markets}) == 9


def test_maintenance_margin_is_continuous_across_tiers(source: SimulatedSource) -> None:
    for market in source.markets():
        assert [b.maintenance_amount for b in market.brackets] == pytest.approx(maintenance_amounts(market.brackets))
        assert market.taker_fee_rate > 0


def test_every_frame_has_its_schema_and_rises_in_time(source: SimulatedSource) -> None:
    for market in source.markets():
        history = past(source, market)
        for frame, schema in (
            (history.candles, CANDLES | CANDLES_OPTIONAL),
            (history.open_interest, OPEN_INTEREST),
            (history.long_short_ratio, LONG_SHORT_RATIO),
            (history.funding_rate, FUNDING_RATE),
            (history.liquidations, LIQUIDATIONS),
        ):
            assert dict(frame.schema) == schema
            assert frame["time"].is_sorted()
            assert frame.height > 0
            assert frame.null_count().sum_horizontal().item() == 0


def test_candles_cover_every_minute_and_hold_together(source: SimulatedSource) -> None:
    candles = past(source, source.markets()[0]).candles
    assert milliseconds(candles).tolist() == list(range(END_MS - 3 * DAY_MS, END_MS, MINUTE_MS))
    body_low, body_high = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    sound = (pl.col("low") <= body_low) & (pl.col("high") >= body_high) & (pl.col("low") > 0)
    assert candles.select(sound.all()).item()
    taken = (pl.col("taker_buy_volume") >= 0) & (pl.col("taker_buy_volume") <= pl.col("volume"))
    assert candles.select(taken.all()).item()


def test_open_interest_and_ratio_come_every_five_minutes_and_funding_every_eight_hours(
    source: SimulatedSource,
) -> None:
    history = past(source, source.markets()[4])
    for frame in (history.open_interest, history.long_short_ratio):
        assert set(np.diff(milliseconds(frame))) == {5 * MINUTE_MS}
    settled = milliseconds(history.funding_rate)
    assert all(t % (8 * HOUR_MS) == 0 for t in settled)
    assert len(settled) == 3 * 3


def test_the_same_arguments_give_the_same_bits_and_another_seed_does_not(source: SimulatedSource) -> None:
    again = SimulatedSource(11, end_ms=END_MS, days=3)
    other = SimulatedSource(12, end_ms=END_MS, days=3)
    for market in (source.markets()[1], source.markets()[8]):
        one, two = past(source, market), past(again, market)
        for name in ("candles", "open_interest", "long_short_ratio", "funding_rate", "liquidations"):
            assert getattr(one, name).equals(getattr(two, name)), name
        assert not one.candles.equals(past(other, market).candles)


def test_venues_share_the_mark_price_and_differ_by_a_small_basis(source: SimulatedSource) -> None:
    one, two = (past(source, m).candles for m in source.markets()[:2])
    assert one["mark_high"].equals(two["mark_high"])
    basis = (one["close"] / two["close"]).log().to_numpy()
    assert 0 < np.abs(basis).max() < 0.002
    assert not one["volume"].equals(two["volume"])


def test_prints_lie_inside_their_candle_and_its_volume(source: SimulatedSource) -> None:
    for market in source.markets():
        history = past(source, market)
        joined = history.liquidations.with_columns(pl.col("time").dt.truncate("1m").alias("minute")).join(
            history.candles, left_on="minute", right_on="time"
        )
        assert joined.height == history.liquidations.height
        slack = 1 + 1e-12
        inside = (pl.col("price") * slack >= pl.col("low")) & (pl.col("price") <= pl.col("high") * slack)
        assert joined.select(inside.all()).item()
        assert joined.select((pl.col("notional_usd") == pl.col("price") * pl.col("quantity_base")).all()).item()
        spent = joined.group_by("minute").agg(pl.col("quantity_base").sum(), pl.col("volume").first())
        assert spent.select((pl.col("quantity_base") <= pl.col("volume") * slack).all()).item()


def test_every_level_of_the_true_book_is_on_the_losing_side_of_the_mark(source: SimulatedSource) -> None:
    for market in source.markets():
        book = source.true_book(market)
        mark = math.exp(source._runs[market.base].engine.state["x"][0])
        assert book.liquidation_price.shape == book.quantity_base.shape == book.side.shape
        assert (book.side == 1).any()
        assert (book.side == -1).any()
        assert (book.side * (mark - book.liquidation_price) > 0).all()


def test_agents_hold_no_more_of_either_side_than_the_open_interest(source: SimulatedSource) -> None:
    for market in source.markets():
        history, book = past(source, market), source.true_book(market)
        assert (history.open_interest["open_interest"] > 0).all()
        minute = source._runs[market.base].read_minute()
        interest = minute[["binance", "bybit", "okx"].index(market.exchange), agents.INTEREST]
        for side in (1, -1):
            held = book.quantity_base[book.side == side].sum()
            assert 0.1 * interest < held <= interest


def test_the_hourly_book_ends_as_the_book_of_now() -> None:
    on_the_hour = SimulatedSource(11, end_ms=END_MS // HOUR_MS * HOUR_MS, days=0.25, keep_books=True)
    market = on_the_hour.markets()[3]
    book, hours = on_the_hour.true_book(market), on_the_hour.true_book_history(market)
    assert hours.time[-1] == np.datetime64(END_MS // HOUR_MS * HOUR_MS, "ms")
    assert len(hours.time) == 6
    longs = book.side == 1
    bins = np.floor(np.log(book.liquidation_price[longs]) / BIN_WIDTH).astype(int) - hours.first_bin
    inside = (bins >= 0) & (bins < BOOK_BINS)
    expected = np.bincount(bins[inside], book.quantity_base[longs][inside], BOOK_BINS)
    np.testing.assert_allclose(hours.long_base[-1], expected, rtol=1e-4, atol=1e-3)


def test_one_venue_publishes_a_part_of_its_true_book(source: SimulatedSource) -> None:
    published = source.published_markets()
    assert {(m.exchange, m.base) for m in published} == {("binance", base) for base in ("BTC", "ETH", "SOL")}
    for market in published:
        book, seen = source.true_book(market), source.observed(market)
        assert seen is not None
        bins = np.floor(np.log(book.liquidation_price) / BIN_WIDTH).astype(int)
        hidden = np.bincount(bins - bins.min(), book.quantity_base * book.liquidation_price)
        told = np.add(seen.long_usd, seen.short_usd)
        assert (told <= hidden[np.array(seen.bins) - bins.min()] * (1 + 1e-9)).all()
        assert 0.3 < told.sum() / hidden.sum() < 0.7
        assert seen.priced < seen.positions == seen.addresses


def test_the_past_of_the_true_book_must_be_asked_for() -> None:
    source = SimulatedSource(1, end_ms=END_MS, days=0.01)
    with pytest.raises(ParameterError, match="keep_books"):
        source.true_book_history(source.markets()[0])


def test_agents_are_liquidated_where_the_margin_formula_says(run: Run) -> None:
    engine = run.engine
    at = engine.live[: engine.state["n_live"][0]]
    for position in engine.positions[at][::50]:
        market = run.markets[position["venue"]]
        expected = liquidation_price(
            side=Side.LONG if position["side"] > 0 else Side.SHORT,
            entry_price=math.exp(position["entry"]),
            quantity=position["quantity"],
            margin=position["margin"],
            taker_fee_rate=market.maintenance_fee_rate,
            brackets=market.brackets,
        )
        if expected is None:
            assert position["liquidation"] == -math.inf
        else:
            assert math.exp(position["liquidation"]) == pytest.approx(expected, rel=1e-9)


def test_a_venues_quantities_and_accounts_are_those_of_its_live_positions(run: Run) -> None:
    engine = run.engine
    live = engine.positions[engine.live[: engine.state["n_live"][0]]]
    for v, venue in enumerate(engine.venues):
        for side, base, count in ((1, "long_base", "n_long"), (-1, "short_base", "n_short")):
            mine = live[(live["venue"] == v) & (live["side"] == side)]
            assert len(mine) == venue[count] > 0
            assert mine["quantity"].sum() == pytest.approx(venue[base], rel=1e-9)


@pytest.mark.parametrize(("side", "shock"), [(Side.LONG, -0.06), (Side.SHORT, 0.06)])
def test_a_shock_prints_exactly_the_positions_it_liquidates(run: Run, side: Side, shock: float) -> None:
    engine = run.engine
    settle(engine)
    advance(engine, 1)
    engine.state["n_prints"] = 0
    live = engine.live[: engine.state["n_live"][0]].copy()
    mine = live[(engine.positions[live]["side"] == side.sign) & np.isnan(engine.positions[live]["stop"])]
    interest = sum(agents.open_interest(engine, v) for v in range(3))
    engine.state["fundamental"] += shock
    advance(engine, 1)
    left = engine.live[: engine.state["n_live"][0]]
    gone = np.setdiff1d(mine, left)  # without a stop, only liquidation takes the losing side out
    prints = engine.prints[: engine.state["n_prints"][0]]
    assert (prints["side"] == side.sign).all()
    assert len(prints) == len(gone) > 100
    assert prints["quantity"].sum() == pytest.approx(engine.positions[gone]["quantity"].sum(), rel=1e-12)
    assert sum(agents.open_interest(engine, v) for v in range(3)) < interest
    x = engine.state["x"][0]
    levels = engine.positions[left]["liquidation"]
    assert (engine.positions[left]["side"] * (x - levels) > 0).all()


def test_liquidated_longs_push_the_price_beyond_the_shock() -> None:
    engine = Run(COINS[0], np.random.SeedSequence(5), END_MS, END_MS + MINUTE_MS, 1000).engine
    engine.state["sentiment"] = 50.0  # everybody buys
    advance(engine, 3600)
    settle(engine)
    advance(engine, 1)
    before = engine.state["x"][0]
    engine.state["fundamental"] -= 0.03
    advance(engine, 1)
    prints = engine.prints[: engine.state["n_prints"][0]]
    assert (prints["side"] == 1).all()
    assert prints["quantity"].sum() > 0
    assert engine.state["x"][0] - before < -0.0301


def test_steps_of_another_length_have_the_same_law() -> None:
    def volatility_and_size(step_ms: int) -> tuple[float, float]:
        run = Run(COINS[0], np.random.SeedSequence(9), END_MS, END_MS + 4 * DAY_MS, step_ms)
        minutes = run.simulate(keep_books=False).minutes[:, 0]
        return float(np.diff(np.log(minutes[:, agents.CLOSE])).std()), float(minutes[:, agents.INTEREST].mean())

    fine, coarse = volatility_and_size(1000), volatility_and_size(5000)
    assert coarse[0] == pytest.approx(fine[0], rel=0.5)
    assert coarse[1] == pytest.approx(fine[1], rel=0.3)


@pytest.mark.parametrize("seed", [7, 2026])
def test_the_market_looks_like_a_market(seed: int) -> None:
    source = SimulatedSource(seed, end_ms=END_MS, days=10)
    for market, price in zip(source.markets()[::3], (60_000, 2_500, 150), strict=True):
        history = past(source, market)
        close = history.candles["close"].to_numpy()
        step = np.diff(np.log(close))
        size = np.abs(step) - np.abs(step).mean()
        assert price / 2 < close[0] < price * 2
        assert 0.3 < step.std() * math.sqrt(365 * 1440) < 1.5
        assert 3 < ((step - step.mean()) ** 4).mean() / step.var() ** 2 - 3 < 150
        assert all((size[lag:] * size[:-lag]).mean() / size.var() > 0.05 for lag in (1, 5, 20, 60))
        assert 1.05 < close.max() / close.min() < 2.5
        ratio = history.long_short_ratio["long_short_ratio"]
        assert 0.9 < ratio.mean() < 3.0  # type: ignore[operator]
        assert ratio.std() > 0.05  # type: ignore[operator]
        assert history.funding_rate["funding_rate"].abs().median() < 0.0003  # type: ignore[operator]
        interest = history.open_interest["open_interest"]
        assert -0.3 < interest.pct_change().min() < -0.01  # type: ignore[operator]
        daily = history.liquidations["quantity_base"].sum() / 10 / interest.mean()  # type: ignore[operator]
        assert 0.002 < daily < 0.12
        assert set(history.liquidations["side"]) == {"long", "short"}


def collect(source: SimulatedSource, closed: int) -> list[MarketUpdate]:
    async def listen() -> list[MarketUpdate]:
        updates: list[MarketUpdate] = []
        async for update in source.watch():
            updates.append(update)
            if sum(u.candle_closed for u in updates) >= closed:
                break
        return updates

    return asyncio.run(listen())


def test_live_goes_on_as_a_longer_history_would_bit_for_bit() -> None:
    n_minute = 20
    shorter = SimulatedSource(4, end_ms=END_MS, days=0.1, speed=600)
    longer = SimulatedSource(4, end_ms=END_MS + n_minute * MINUTE_MS, days=0.1 + n_minute / 1440)
    for market in shorter.markets():
        past(shorter, market)
    updates = [u for u in collect(shorter, 9 * n_minute) if u.candle_closed]
    for market in shorter.markets():
        mine = [u for u in updates if u.market == market]
        rows = past(longer, market).candles.rows()
        got = [u.candle for u in mine]
        assert [c.time_ms for c in got] == [END_MS + k * MINUTE_MS for k in range(len(got))]
        assert len(got) >= n_minute - 1
        for candle, (_, *values) in zip(got, rows[-n_minute:], strict=False):
            assert [*astuple(candle)][1:] == values


def test_live_prints_arrive_once_and_are_those_of_a_longer_history() -> None:
    n_minute = 240
    source = SimulatedSource(4, end_ms=END_MS, days=0.1, speed=24_000)
    updates = collect(source, 9 * n_minute)
    last_ms = {u.market: u.time_ms for u in updates if u.candle_closed}
    longer = SimulatedSource(4, end_ms=END_MS + n_minute * MINUTE_MS, days=0.1 + n_minute / 1440)
    total = 0
    for market in source.markets():
        until = min(last_ms[market], END_MS + n_minute * MINUTE_MS)
        got = [p for u in updates if u.market == market for p in u.liquidations if p.time_ms < until]
        known = past(longer, market).liquidations
        at = milliseconds(known)
        expected = known.filter(pl.Series((at >= END_MS) & (at < until)))
        assert [(p.price, p.quantity_base, p.side.value) for p in got] == expected.select(
            "price", "quantity_base", "side"
        ).rows()
        total += len(got)
    assert total > 0


def test_a_late_loop_skips_no_minute_and_closes_each_candle_once() -> None:
    source = SimulatedSource(4, end_ms=END_MS, days=0.05, speed=60_000)
    updates = collect(source, 9 * 300)
    for market in source.markets():
        mine = [u for u in updates if u.market == market]
        closed = [u.candle for u in mine if u.candle_closed]
        assert all(b.time_ms - a.time_ms == MINUTE_MS and b.open == a.close for a, b in pairwise(closed))
        assert all(a.time_ms <= b.time_ms for a, b in pairwise(mine))
        ratios = [u for u in mine if u.long_short_ratio is not None]
        assert ratios
        assert all(u.candle_closed and u.time_ms % (5 * MINUTE_MS) == 0 for u in ratios)


def test_live_by_default_keeps_to_the_wall_clock() -> None:
    source = SimulatedSource(4, days=0.01)

    async def first() -> MarketUpdate:
        return await anext(source.watch())

    update = asyncio.run(first())
    candle_ms = update.candle.time_ms
    assert candle_ms % MINUTE_MS == 0
    assert 0 <= time.time() * 1000 - update.time_ms < 2 * MINUTE_MS
    assert candle_ms <= update.time_ms <= candle_ms + MINUTE_MS


def test_a_cancelled_listener_leaves_the_history_to_others() -> None:
    source = SimulatedSource(4, end_ms=END_MS, days=3)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(source.watch()), 0.01)

    asyncio.run(give_up())
    assert past(source, source.markets()[8]).candles.height == 3 * 1440


def test_history_reports_its_progress() -> None:
    source, shares = SimulatedSource(4, end_ms=END_MS, days=1), []
    source.history(source.markets()[0], lambda share, _what: shares.append(share))
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("days", 0.0), ("days", math.inf), ("speed", 0.0), ("step_ms", 7000)]
)
def test_impossible_arguments_are_named(name: str, value: float) -> None:
    arguments = {"seed": 1, "end_ms": END_MS} | {name: value}
    with pytest.raises(ParameterError, match=name):
        SimulatedSource(**arguments)  # type: ignore[arg-type]


def test_an_unknown_market_is_refused(source: SimulatedSource) -> None:
    market = source.markets()[0]
    stranger = Market("kraken", market.symbol, "linear", market.brackets)
    with pytest.raises(ParameterError, match="kraken"):
        past(source, stranger)
