"""Liquidation and bankruptcy prices: worked examples of the venues, and what must hold for every position."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from estimator.domain import LeverageBracket, Position
from estimator.errors import ParameterError
from estimator.model.margin import (
    bankruptcy_price,
    brackets_from_max_leverage,
    cross_liquidation_price,
    level_ratio,
    liquidation_price,
    maintenance_amounts,
    margin_ratio,
)

SideName = Literal["long", "short"]
ContractName = Literal["linear", "inverse"]

MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
CASES_FILE = MARKET_DATA / "liquidation_price_cases.json"

# The first tiers of Binance BTCUSDT as its public page shows them, cum included.
TIERS = (
    LeverageBracket(0, 125, 0.004, 0.0),
    LeverageBracket(300_000, 100, 0.005, 300.0),
    LeverageBracket(800_000, 75, 0.0065, 1_500.0),
    LeverageBracket(3_000_000, 50, 0.01, 12_000.0),
    LeverageBracket(12_000_000, 25, 0.02, 132_000.0),
)


# --- the table of method.md, section 1 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leverage", "rate", "fee", "contract", "expected_long", "expected_short"),
    [
        pytest.param(10, 0.005, 0.0, "linear", 54271.4, 65671.6, id="10x, m = .5 %"),
        pytest.param(10, 0.004, 0.0005, "linear", 54244.1, 65704.3, id="OKX 10x, fee in maintenance"),
        pytest.param(10, 1 / 80, 0.0, "linear", 54683.5, 65185.2, id="Hyperliquid BTC 10x, m = 1 / (2 * 40)"),
        pytest.param(10, 0.004, 0.0, "inverse", 54763.6, 66400.0, id="coin-settled 10x"),
    ],
)
def test_positions_opened_at_60000_are_liquidated_where_the_method_says(
    leverage: float, rate: float, fee: float, contract: ContractName, expected_long: float, expected_short: float
) -> None:
    found = [
        liquidation_price(
            side=side,
            entry_price=60_000,
            quantity=1.0 if contract == "linear" else 60_000.0,
            margin=60_000 / leverage if contract == "linear" else 1 / leverage,
            maintenance_margin_rate=rate,
            taker_fee_rate=fee,
            contract=contract,
        )
        for side in ("long", "short")
    ]
    assert found == pytest.approx([expected_long, expected_short], abs=0.05)


@pytest.mark.parametrize(
    ("leverage", "rate", "distance"),
    [(10, 0.005, -0.0955), (25, 0.005, -0.0352), (50, 0.0065, -0.0136), (100, 0.005, -0.00503), (125, 0.004, -0.00402)],
)
def test_long_distances_are_shorter_than_one_over_the_leverage(leverage: float, rate: float, distance: float) -> None:
    price = liquidation_price(
        side="long", entry_price=1.0, quantity=1.0, margin=1 / leverage, maintenance_margin_rate=rate
    )
    assert price is not None
    assert price - 1 == pytest.approx(distance, rel=5e-3)
    assert -distance < 1 / leverage


def test_the_maintenance_amount_moves_a_large_long_away() -> None:
    price = liquidation_price(
        side="long",
        entry_price=60_000,
        quantity=100,
        margin=600_000,
        maintenance_margin_rate=0.01,
        maintenance_amount=11_450,
    )
    assert price == pytest.approx(54429.80, abs=0.005)


def test_a_week_of_funding_eats_into_the_distance() -> None:
    paid = 60_000 * 0.0003 * 3 * 7
    price = liquidation_price(
        side="long", entry_price=60_000, quantity=1, margin=6_000, maintenance_margin_rate=0.005, funding_paid=paid
    )
    assert price == pytest.approx(54651.3, abs=0.05)


# --- worked examples of the venues ---------------------------------------------------------------------------------


def _recorded_cases() -> list[Any]:
    if not CASES_FILE.exists():
        reason = f"no {CASES_FILE.name}; set LIQHEAT_MARKET_DATA to the folder that holds it"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="no recorded cases")]
    cases = json.loads(CASES_FILE.read_text())["cases"]
    return [pytest.param(case, id=case["id"]) for case in cases]


def _isolated(inputs: dict[str, Any]) -> float | None:
    margin = next(inputs[k] for k in ("wallet_balance", "initial_margin", "collateral") if k in inputs)
    return liquidation_price(
        side=inputs["side"],
        entry_price=inputs["entry_price"],
        quantity=inputs["amount"],
        margin=margin,
        maintenance_margin_rate=inputs["mmr"],
        maintenance_amount=inputs.get("maintenance_amount", 0.0),
        taker_fee_rate=inputs.get("taker_fee", 0.0),
    )


def _entry_value_maintenance(inputs: dict[str, Any]) -> float | None:
    """The older rule of Bybit classic and KuCoin: maintenance is a fixed sum, taken on the value at entry."""
    fixed = inputs["mmr"] * inputs["amount"] * inputs["entry_price"]
    return bankruptcy_price(
        side=inputs["side"],
        entry_price=inputs["entry_price"],
        quantity=inputs["amount"],
        margin=inputs["initial_margin"] - fixed,
    )


def _cross(inputs: dict[str, Any]) -> float | None:
    positions = [
        Position(
            symbol=p["pair"],
            side=p["side"],
            entry_price=p["entry_price"],
            quantity=p["amount"],
            mark_price=p["mark_price"],
            maintenance_margin_rate=p["mmr"],
            maintenance_amount=p["maintenance_amount"],
        )
        for p in inputs["positions"]
    ]
    return cross_liquidation_price(
        positions=positions, symbol=inputs["target"], wallet_balance=inputs["wallet_balance"]
    )


def _hyperliquid_cross(inputs: dict[str, Any]) -> float | None:
    """Hyperliquid publishes the account's equity: entering every position at its mark leaves no PnL to take off."""
    positions = []
    for p in inputs["positions"]:
        mark = p["notional"] / p["amount"]
        positions.append(
            Position(
                symbol=p["coin"],
                side=p["side"],
                entry_price=mark,
                quantity=p["amount"],
                mark_price=mark,
                maintenance_margin_rate=p["mmr"],
            )
        )
    return cross_liquidation_price(positions=positions, symbol=inputs["target"], wallet_balance=inputs["account_value"])


def _equity_at_a_price(inputs: dict[str, Any]) -> float | None:
    return liquidation_price(
        side=inputs["side"],
        entry_price=inputs["price"],
        quantity=abs(inputs["size"]),
        margin=inputs["equity"],
        maintenance_margin_rate=inputs["mmf"],
    )


def _margin_that_is_just_maintained(inputs: dict[str, Any]) -> float:
    """Maintenance margin at the mark, read off as the equity at which the mark is itself the liquidation price."""
    quantity, mark = inputs["contracts"] * inputs["multiplier"], inputs["mark_price"]
    ratio = margin_ratio(1.0, side="long", maintenance_margin_rate=inputs["mmr"])
    return float(ratio * quantity * mark)


RULES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "linear_isolated": _isolated,
    "hyperliquid_isolated": _isolated,
    "linear_cross_multi": _cross,
    "hyperliquid_cross_multi": _hyperliquid_cross,
    "equity_size_price": _equity_at_a_price,
    "linear_maintenance_margin": _margin_that_is_just_maintained,
}
ENTRY_VALUE_VENUES = {"bybit", "kucoin"}


@pytest.mark.parametrize("case", _recorded_cases())
def test_worked_example(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], pytest.approx(case["expected"], rel=case["rel_tol"])
    if case["kind"] == "linear_isolated" and case["exchange"] in ENTRY_VALUE_VENUES:
        assert _entry_value_maintenance(inputs) == expected, case["source"]
        assert _isolated(inputs) != expected, "the two rules differ, so the case cannot pass by accident"
    else:
        assert RULES[case["kind"]](inputs) == expected, case["source"]


def test_binance_worked_example_of_a_cross_account() -> None:
    """Binance support FAQ b3c689c1f50a44cabb3a84e663b81d93: two longs share one balance."""
    btc = Position("BTC/USDT:USDT", "long", 32481.98, 109.488, 31967.27, 0.025, 16300.0)
    eth = Position("ETH/USDT:USDT", "long", 1456.84, 3683.979, 1335.18, 0.1, 135365.0)
    price = cross_liquidation_price(positions=[btc, eth], symbol="BTC/USDT:USDT", wallet_balance=1_535_443.01)
    assert price == pytest.approx(26316.89, rel=5e-6)


# --- what holds for every position ---------------------------------------------------------------------------------

sides = st.sampled_from(["long", "short"])
contracts = st.sampled_from(["linear", "inverse"])
prices = st.floats(1e-4, 1e6)
leverages = st.floats(1.5, 60)
rates = st.floats(0.001, 0.008)


def _margin(entry: float, quantity: float, leverage: float, contract: str) -> float:
    return quantity * (entry if contract == "linear" else 1 / entry) / leverage


def _pnl(side: str, entry: float, quantity: float, price: float, contract: str) -> float:
    sign = 1 if side == "long" else -1
    return sign * quantity * (price - entry if contract == "linear" else 1 / entry - 1 / price)


def _notional(quantity: float, price: float, contract: str) -> float:
    return quantity * price if contract == "linear" else quantity / price


def _lp(side: SideName, entry: float, quantity: float, margin: float, contract: ContractName, **more: Any) -> float:
    price = liquidation_price(side=side, entry_price=entry, quantity=quantity, margin=margin, contract=contract, **more)
    assert price is not None
    return price


@given(sides, contracts, prices, st.floats(1e-3, 1e6), leverages, rates)
def test_equity_equals_maintenance_margin_at_the_liquidation_price(
    side: SideName, contract: ContractName, entry: float, quantity: float, leverage: float, rate: float
) -> None:
    margin = _margin(entry, quantity, leverage, contract)
    price = _lp(side, entry, quantity, margin, contract, maintenance_margin_rate=rate)
    equity = margin + _pnl(side, entry, quantity, price, contract)
    assert equity == pytest.approx(rate * _notional(quantity, price, contract), rel=1e-6)


@given(sides, contracts, prices, leverages, rates)
def test_the_liquidation_price_lies_between_bankruptcy_and_entry(
    side: SideName, contract: ContractName, entry: float, leverage: float, rate: float
) -> None:
    margin = _margin(entry, 1.0, leverage, contract)
    price = _lp(side, entry, 1.0, margin, contract, maintenance_margin_rate=rate)
    bankrupt = bankruptcy_price(side=side, entry_price=entry, quantity=1.0, margin=margin, contract=contract)
    assert bankrupt is not None
    assert min(bankrupt, entry) < price < max(bankrupt, entry)


@given(sides, contracts, prices, leverages, st.floats(1.001, 3), rates)
def test_more_leverage_means_a_nearer_liquidation(
    side: SideName, contract: ContractName, entry: float, leverage: float, factor: float, rate: float
) -> None:
    assume(leverage * factor < 100)
    near, far = (
        _lp(side, entry, 1.0, _margin(entry, 1.0, x, contract), contract, maintenance_margin_rate=rate)
        for x in (leverage * factor, leverage)
    )
    assert abs(near - entry) < abs(far - entry)


@given(sides, contracts, leverages, rates, st.floats(0.01, 0.2))
def test_margin_added_moves_liquidation_away_and_funding_paid_brings_it_nearer(
    side: SideName, contract: ContractName, leverage: float, rate: float, share: float
) -> None:
    margin = _margin(60_000, 1.0, leverage, contract)
    still, added, eroded = (
        _lp(side, 60_000, 1.0, margin, contract, maintenance_margin_rate=rate, **more)
        for more in ({}, {"extra_margin": share * margin}, {"funding_paid": share * margin})
    )
    away = -1 if side == "long" else 1
    assert away * (added - still) > 0 > away * (eroded - still)


@given(prices, st.floats(1e-3, 1e6), leverages, rates)
def test_a_linear_long_is_an_inverse_short_seen_in_the_reciprocal_price(
    entry: float, quantity: float, leverage: float, rate: float
) -> None:
    margin = _margin(entry, quantity, leverage, "linear")
    long_ = _lp("long", entry, quantity, margin, "linear", maintenance_margin_rate=rate)
    short = _lp("short", 1 / entry, quantity, margin, "inverse", maintenance_margin_rate=rate)
    assert long_ == pytest.approx(1 / short, rel=1e-9)


@pytest.mark.parametrize(
    ("side", "contract"), [("long", "linear"), ("short", "inverse")], ids=["linear long", "inverse short"]
)
def test_a_position_without_leverage_is_never_liquidated(side: SideName, contract: ContractName) -> None:
    for entry in (0.3, 7.0, 61_234.5):
        price = liquidation_price(
            side=side,
            entry_price=entry,
            quantity=3.0,
            margin=_margin(entry, 3.0, 1.0, contract),
            maintenance_margin_rate=0.004,
            contract=contract,
        )
        assert price is None


def test_rounding_of_the_margin_does_not_invent_a_liquidation_price() -> None:
    # 3 * 0.1 is a little more than 0.3 in floating point, so the equity at a price of zero is a little less than zero.
    price = liquidation_price(side="long", entry_price=0.1, quantity=3.0, margin=0.3, maintenance_margin_rate=0.004)
    assert price is None


def test_a_position_already_below_maintenance_is_liquidated_on_the_near_side_of_its_entry() -> None:
    price = _lp("long", 100.0, 1.0, 0.2, "linear", maintenance_margin_rate=0.005)
    assert price == pytest.approx(99.8 / 0.995)
    assert price > 100.0


# --- tiers ---------------------------------------------------------------------------------------------------------


def _maintenance(notional: float, tiers: tuple[LeverageBracket, ...]) -> float:
    tier = [t for t in tiers if t.notional_floor <= notional][-1]
    return notional * tier.maintenance_margin_rate - tier.maintenance_amount


@given(sides, contracts, st.floats(1e3, 1e8), st.floats(1.5, 40))
def test_with_tiers_equity_equals_the_maintenance_of_the_notional_at_that_price(
    side: SideName, contract: ContractName, notional: float, leverage: float
) -> None:
    entry = 60_000.0
    quantity = notional / entry if contract == "linear" else notional * entry
    margin = _margin(entry, quantity, leverage, contract)
    price = _lp(side, entry, quantity, margin, contract, brackets=TIERS)
    equity = margin + _pnl(side, entry, quantity, price, contract)
    assert equity == pytest.approx(_maintenance(_notional(quantity, price, contract), TIERS), abs=1e-7 * notional)


@given(sides, st.floats(1e3, 1e8), st.floats(1.5, 40))
def test_in_a_cross_account_of_one_position_tiers_work_as_in_an_isolated_one(
    side: SideName, notional: float, leverage: float
) -> None:
    quantity, margin = notional / 60_000, notional / leverage
    alone = Position("BTC/USDT:USDT", side, 60_000, quantity, 60_000, 0.9)
    cross = cross_liquidation_price(positions=[alone], symbol="BTC/USDT:USDT", wallet_balance=margin, brackets=TIERS)
    assert cross == pytest.approx(_lp(side, 60_000, quantity, margin, "linear", brackets=TIERS), rel=1e-12)


def test_a_tier_edge_does_not_make_the_solution_swing() -> None:
    # A long whose liquidation price puts its notional exactly on a floor: both neighbouring tiers solve it.
    quantity, floor = 10.0, 800_000.0
    entry = 85_000.0
    margin = quantity * (entry - floor / quantity) + _maintenance(floor, TIERS)
    assert _lp("long", entry, quantity, margin, "linear", brackets=TIERS) == pytest.approx(80_000, rel=1e-12)


def test_where_maintenance_jumps_liquidation_comes_at_the_jump() -> None:
    whole = (LeverageBracket(0, 100, 0.005), LeverageBracket(1_000, 20, 0.05))  # the rate of a tier counts for all
    price = _lp("short", 90.0, 10.0, 130.0, "linear", brackets=whole)
    assert price == pytest.approx(100.0)  # 30 of equity: enough for 5 of maintenance below 1 000, not for 50 above


def test_maintenance_amounts_are_those_of_the_venue() -> None:
    assert maintenance_amounts(TIERS) == pytest.approx([t.maintenance_amount for t in TIERS])


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 3)), min_size=1, max_size=6))
def test_brackets_from_max_leverage_keep_maintenance_margin_continuous(steps: list[tuple[float, float]]) -> None:
    floor, leverage, tiers = 0.0, 1000.0, [(0.0, 1000.0)]
    for width, ratio in steps:
        floor, leverage = floor + width, leverage / ratio
        tiers.append((floor, leverage))
    brackets = brackets_from_max_leverage(tiers)
    assert [b.maintenance_margin_rate for b in brackets] == pytest.approx([0.5 / top for _, top in tiers])
    for below, above in pairwise(brackets):
        edge = above.notional_floor
        left = edge * below.maintenance_margin_rate - below.maintenance_amount
        right = edge * above.maintenance_margin_rate - above.maintenance_amount
        assert right == pytest.approx(left, rel=1e-9)


# --- cross ---------------------------------------------------------------------------------------------------------


def test_profit_elsewhere_moves_liquidation_away_and_maintenance_elsewhere_brings_it_nearer() -> None:
    btc = Position("BTC/USDT:USDT", "long", 60_000, 1.0, 60_000, 0.005)
    eth_flat = Position("ETH/USDT:USDT", "long", 3_000, 2.0, 3_000, 0.01)
    eth_up = Position("ETH/USDT:USDT", "long", 3_000, 2.0, 3_300, 0.01)
    alone, beside_flat, beside_up = (
        cross_liquidation_price(positions=book, symbol="BTC/USDT:USDT", wallet_balance=6_000.0)
        for book in ([btc], [btc, eth_flat], [btc, eth_up])
    )
    assert alone is not None
    assert beside_flat is not None
    assert beside_up is not None
    assert beside_up < alone < beside_flat


def test_both_sides_of_one_symbol_net_out() -> None:
    long_ = Position("BTC/USDT:USDT", "long", 60_000, 3.0, 61_000, 0.005)
    short = Position("BTC/USDT:USDT", "short", 62_000, 1.0, 61_000, 0.005)
    price = cross_liquidation_price(positions=[long_, short], symbol="BTC/USDT:USDT", wallet_balance=10_000.0)
    assert price is not None
    equity = 10_000 + 3 * (price - 60_000) + (62_000 - price)
    assert equity == pytest.approx(0.005 * 4 * price)


def test_a_well_funded_cross_long_is_never_liquidated() -> None:
    btc = Position("BTC/USDT:USDT", "long", 60_000, 1.0, 60_000, 0.005)
    assert cross_liquidation_price(positions=[btc], symbol="BTC/USDT:USDT", wallet_balance=60_000.0) is None


# --- the vectorised form the book uses -----------------------------------------------------------------------------


@given(sides, contracts, st.lists(st.floats(0.002, 0.95), min_size=1, max_size=8), rates, st.floats(0, 0.001))
def test_level_ratio_is_the_liquidation_price_over_the_entry(
    side: SideName, contract: ContractName, held: list[float], rate: float, fee: float
) -> None:
    ratios = level_ratio(held, side=side, maintenance_margin_rate=rate, fee_rate=fee, contract=contract)
    expected = [
        _lp(
            side,
            7.0,
            3.0,
            _margin(7.0, 3.0, 1 / a, contract),
            contract,
            maintenance_margin_rate=rate,
            taker_fee_rate=fee,
        )
        / 7.0
        for a in held
    ]
    assert ratios == pytest.approx(expected, rel=1e-9)


@given(sides, contracts, st.floats(0.001, 0.95), rates)
def test_margin_ratio_undoes_level_ratio(side: SideName, contract: ContractName, held: float, rate: float) -> None:
    there = level_ratio(held, side=side, maintenance_margin_rate=rate, contract=contract)
    back = margin_ratio(there, side=side, maintenance_margin_rate=rate, contract=contract)
    assert float(back) == pytest.approx(held, rel=1e-9, abs=1e-12)


def test_what_cannot_be_is_nan() -> None:
    assert np.isnan(level_ratio([1.0, 2.0, -0.1], side="long", maintenance_margin_rate=0.005)).all()
    assert np.isnan(level_ratio([1.0], side="short", maintenance_margin_rate=0.005, contract="inverse")).all()
    assert np.isnan(margin_ratio([0.0, -1.0, 1.2], side="long", maintenance_margin_rate=0.005)).all()


# --- refusals ------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "side": "long",
    "entry_price": 60_000.0,
    "quantity": 1.0,
    "margin": 6_000.0,
    "maintenance_margin_rate": 0.005,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side", "buy"),
        ("entry_price", -1.0),
        ("entry_price", math.nan),
        ("quantity", 0.0),
        ("margin", math.inf),
        ("maintenance_margin_rate", None),
        ("maintenance_margin_rate", 1.0),
        ("maintenance_amount", math.nan),
        ("taker_fee_rate", -0.1),
        ("extra_margin", math.nan),
        ("funding_paid", math.inf),
        ("contract", "quanto"),
        ("brackets", TIERS),
    ],
)
def test_a_value_outside_its_domain_is_refused(name: str, value: object) -> None:
    with pytest.raises(ParameterError) as refusal:
        liquidation_price(**{**GOOD, name: value})
    assert refusal.value.name == ("maintenance_margin_rate" if name == "brackets" else name)


def test_a_short_that_lost_more_than_its_notional_is_refused() -> None:
    with pytest.raises(ParameterError, match="enough for some price"):
        liquidation_price(**{**GOOD, "side": "short", "funding_paid": 70_000.0})


@pytest.mark.parametrize(
    "tiers", [(), (TIERS[1],), (TIERS[0], TIERS[2], TIERS[1])], ids=["none", "no first", "shuffled"]
)
def test_a_table_of_tiers_must_rise_from_zero(tiers: tuple[LeverageBracket, ...]) -> None:
    with pytest.raises(ParameterError, match="brackets"):
        liquidation_price(**{**GOOD, "maintenance_margin_rate": None, "brackets": tiers})


def test_cross_refuses_a_symbol_that_is_not_held_and_contracts_that_settle_differently() -> None:
    linear = Position("BTC/USDT:USDT", "long", 60_000, 1.0, 60_000, 0.005)
    inverse = Position("BTC/USD:BTC", "long", 60_000, 1.0, 60_000, 0.005, contract="inverse")
    with pytest.raises(ParameterError, match="symbol"):
        cross_liquidation_price(positions=[linear], symbol="ETH/USDT:USDT", wallet_balance=1.0)
    with pytest.raises(ParameterError, match="positions"):
        cross_liquidation_price(positions=[linear, inverse], symbol="BTC/USDT:USDT", wallet_balance=1.0)
