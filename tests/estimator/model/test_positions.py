"""What becomes of a position follows from equity and maintenance margin, by each venue's rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from estimator.domain import ContractType, Position, Side
from estimator.errors import ParameterError
from estimator.model.margin import bankruptcy_price, liquidation_price
from estimator.model.positions import Plan, closing_of, tiers_of, work_out

FLAT = tiers_of([(0, 0.005)])
TIERS = tiers_of([(0, 0.004), (50_000, 0.005), (250_000, 0.01), (1_000_000, 0.025)])
PLAN = Plan("binance", "BTC/USDT:USDT", Side.LONG, "linear", 60_000.0, 60_000.0, 1.0, 6_000.0, FLAT)


@pytest.mark.parametrize(("side", "expected"), [(Side.LONG, 54_271.4), (Side.SHORT, 65_671.6)])
def test_a_plain_position_is_liquidated_where_the_method_says(side: Side, expected: float) -> None:
    told = work_out(replace(PLAN, side=side))
    assert told.liquidation_price == pytest.approx(expected, abs=0.05)
    assert told.leverage == pytest.approx(10.0)
    assert told.margin_ratio == pytest.approx(0.05)
    assert not told.liquidated


def test_a_week_of_dear_funding_brings_it_nearer() -> None:
    told = work_out(replace(PLAN, funding_rate_8h=0.0003, days=7))
    assert told.liquidation_price == pytest.approx(54_651.3, abs=0.05)  # method.md, section 1
    assert told.funding == pytest.approx(378.0)
    received = work_out(replace(PLAN, side=Side.SHORT, funding_rate_8h=0.0003, days=7))
    assert received.funding == pytest.approx(-378.0)


def test_funding_that_eats_the_margin_liquidates() -> None:
    gone = work_out(replace(PLAN, funding_rate_8h=0.0003, days=365))
    assert gone.liquidated
    assert gone.margin_ratio is None
    assert gone.leverage is None


plans = st.builds(
    Plan,
    exchange=st.just("bybit"),
    symbol=st.just("BTC/USDT:USDT"),
    side=st.sampled_from(Side),
    contract=st.just("linear"),
    entry_price=st.floats(5e3, 2e5),
    mark_price=st.floats(5e3, 2e5),
    quantity=st.floats(1e-3, 50.0),
    margin=st.floats(10.0, 1e7),
    brackets=st.sampled_from([FLAT, TIERS]),
    cross=st.booleans(),
    fee_rate=st.sampled_from([0.0, 0.0005]),
)


@given(plans, st.floats(0.1, 1.0))
def test_at_the_line_maintenance_is_the_called_part_of_equity(plan: Plan, call: float) -> None:
    plan = replace(plan, call=call)
    told = work_out(plan)
    assume(told.call_price is not None and 1 < told.call_price < 1e9)
    at = work_out(replace(plan, mark_price=told.call_price or 0.0))
    assert at.equity * call == pytest.approx(at.maintenance_margin, rel=1e-6, abs=1e-6 * plan.margin)


@given(plans)
def test_the_call_comes_before_the_liquidation_and_that_before_bankruptcy(plan: Plan) -> None:
    told = work_out(plan)
    assume(not told.liquidated)
    if told.liquidation_price is not None:
        assert told.call_price is not None
        assert plan.side.sign * (told.call_price - told.liquidation_price) >= -1e-6
        if told.bankruptcy_price is not None:
            assert plan.side.sign * (told.liquidation_price - told.bankruptcy_price) >= -1e-6
        assert plan.side.sign * (plan.mark_price - told.liquidation_price) > 0


@given(plans)
def test_isolated_prices_are_those_of_the_margin_formulas(plan: Plan) -> None:
    # From the entry: from another mark a walk may meet another jump of the tiers.
    plan = replace(plan, cross=False, mark_price=plan.entry_price)
    told = work_out(plan)
    assume(not told.liquidated)
    expected = liquidation_price(
        side=plan.side, entry_price=plan.entry_price, quantity=plan.quantity, margin=plan.margin,
        taker_fee_rate=plan.fee_rate, brackets=plan.brackets,
    )  # fmt: skip
    assert told.liquidation_price == pytest.approx(expected)
    broke = bankruptcy_price(side=plan.side, entry_price=plan.entry_price, quantity=plan.quantity, margin=plan.margin)
    assert told.bankruptcy_price == pytest.approx(broke)


@given(plans, st.floats(1.0, 1e6))
def test_margin_added_moves_the_line_away(plan: Plan, more: float) -> None:
    here, there = work_out(plan), work_out(replace(plan, extra_margin=more))
    assert there.equity == pytest.approx(here.equity + more)
    if here.liquidation_price is not None and there.liquidation_price is not None:
        assert plan.side.sign * (here.liquidation_price - there.liquidation_price) >= -1e-6 * here.liquidation_price


@given(st.floats(0.0, 0.95), st.floats(40_000, 90_000))
def test_closing_a_part_leaves_an_isolated_line_where_it_is(share: float, price: float) -> None:
    told = work_out(replace(PLAN, close_share=share, close_price=price))
    assert told.liquidation_price == pytest.approx(work_out(PLAN).liquidation_price)
    assert told.quantity == pytest.approx(1 - share)
    assert told.realised == pytest.approx(share * (price - 60_000))


def test_closing_a_part_frees_a_cross_account() -> None:
    cross = replace(PLAN, cross=True)
    here, half = work_out(cross), work_out(replace(cross, close_share=0.5))
    assert half.margin == here.margin
    assert here.liquidation_price is not None
    assert half.liquidation_price is not None
    assert half.liquidation_price < here.liquidation_price
    loss = work_out(replace(cross, close_share=0.5, close_price=58_000.0))
    assert loss.margin == pytest.approx(5_000.0)


def test_other_positions_of_a_cross_account_count() -> None:
    other = Position("ETH/USDT:USDT", Side.SHORT, 2_500.0, 10.0, 2_700.0, 0.01)
    alone = work_out(replace(PLAN, cross=True))
    told = work_out(replace(PLAN, cross=True, others=(other,)))
    assert told.equity == pytest.approx(alone.equity - 2_000)
    assert told.maintenance_margin == pytest.approx(alone.maintenance_margin + 270)
    assert told.bankruptcy_price is None
    assert told.liquidation_price is not None
    # At the line the account's equity is its maintenance margin.
    at = work_out(replace(PLAN, cross=True, others=(other,), mark_price=told.liquidation_price))
    assert at.equity == pytest.approx(at.maintenance_margin)


@pytest.mark.parametrize("side", list(Side))
def test_a_coin_margined_position_settles_in_coin(side: Side) -> None:
    inverse: ContractType = "inverse"
    plan = replace(
        PLAN,
        side=side,
        contract=inverse,
        symbol="BTC/USD:BTC",
        quantity=60_000.0,
        margin=0.1,
        brackets=tiers_of([(0, 0.004)]),
    )
    told = work_out(plan)
    assert told.liquidation_price == pytest.approx(54_763.6 if side is Side.LONG else 66_400.0, abs=0.05)
    assert told.leverage == pytest.approx(10.0)
    never = work_out(replace(plan, side=Side.SHORT, margin=1.0))
    assert never.liquidation_price is None


@pytest.mark.parametrize(
    ("exchange", "notional", "kind", "share"),
    [
        ("binance", 2e6, "partial", None),
        ("bybit", 40_000, "whole", 1.0),
        ("bybit", 400_000, "partial", 1 - 250_000 / 400_000),
        ("okx", 200_000, "whole", 1.0),
        ("okx", 400_000, "partial", 1 - 50_000 / 400_000),
        ("bitget", 2_000_000, "partial", 1 - 250_000 / 2_000_000),
        ("hyperliquid", 90_000, "whole", 1.0),
        ("hyperliquid", 110_000, "partial", 0.2),
        ("gate", 1e6, "unknown", None),
        ("kraken", 1e6, "unknown", None),
    ],
)
def test_venues_close_whole_or_in_parts(exchange: str, notional: float, kind: str, share: float | None) -> None:
    closing = closing_of(exchange, TIERS, notional)
    assert closing.kind == kind
    assert closing.first_share == (None if share is None else pytest.approx(share))
    assert closing.text


def test_a_ladder_of_which_one_rung_is_known_is_not_guessed() -> None:
    assert closing_of("okx", FLAT, 1e7).kind == "unknown"


def test_maintenance_is_continuous_across_tiers_made_from_rates() -> None:
    assert [b.maintenance_amount for b in TIERS] == pytest.approx([0.0, 50.0, 1300.0, 16_300.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantity", 0.0), ("mark_price", float("nan")), ("close_share", 1.0), ("call", 0.0), ("days", -1.0)],
)
def test_values_that_mean_nothing_are_refused(name: str, value: float) -> None:
    changed: dict[str, float] = {name: value}
    with pytest.raises(ParameterError, match=name):
        replace(PLAN, **changed)  # type: ignore[arg-type]


def test_impossible_tables_and_accounts_are_refused() -> None:
    with pytest.raises(ParameterError, match="tiers"):
        tiers_of([(10, 0.01)])
    with pytest.raises(ParameterError, match="tiers"):
        tiers_of([(0, 0.01), (5, 0.005)])
    with pytest.raises(ParameterError, match="others"):
        replace(PLAN, others=(Position("ETH/USDT:USDT", Side.LONG, 1.0, 1.0, 1.0, 0.01),))
    with pytest.raises(ParameterError, match="call"):
        work_out(replace(PLAN, brackets=tiers_of([(0, 0.5)]), call=0.4))
