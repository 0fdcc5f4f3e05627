"""Observed positions: nothing measured is lost in the sums, and nothing is in them that was not measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.domain import Side
from estimator.model.holdings import Account, Holding, observe

BTC, ETH = "hyperliquid:BTC/USDC:USDC", "hyperliquid:ETH/USDC:USDC"
AMOUNTS = st.floats(1e-6, 1e9)
PRICES = st.floats(1e-8, 1e8)


@st.composite
def accounts(draw: st.DrawFn) -> list[Account]:
    """Accounts that hold at most one position a market."""
    made = []
    for _ in range(draw(st.integers(1, 8))):
        markets = draw(st.sets(st.sampled_from([BTC, ETH])))
        held = [
            Holding(m, draw(st.sampled_from(Side)), draw(AMOUNTS), draw(AMOUNTS), draw(st.none() | PRICES))
            for m in sorted(markets)
        ]
        made.append(Account(draw(st.integers(0, 10**12)), tuple(held)))
    return made


@given(accounts())
def test_the_levels_are_the_positions_that_some_price_liquidates(asked: list[Account]) -> None:
    held = [h for one in asked for h in one.holdings if h.market_id == BTC]
    seen = observe(asked, BTC)
    if seen is None:
        assert not held
        return
    assert (seen.addresses, seen.positions) == (len(asked), len(held))
    assert seen.priced == sum(h.liquidation_price is not None for h in held)
    for side, usd, base in ((Side.LONG, seen.long_usd, seen.long_base), (Side.SHORT, seen.short_usd, seen.short_base)):
        mine = [h for h in held if h.side is side]
        priced = [h.quantity_base * h.liquidation_price for h in mine if h.liquidation_price is not None]
        assert sum(usd) == pytest.approx(sum(priced), rel=1e-9, abs=1e-12)
        assert base == pytest.approx(sum(h.quantity_base for h in mine), rel=1e-9)
    assert list(seen.bins) == sorted(set(seen.bins))
    times = [one.time_ms for one in asked if any(h.market_id == BTC for h in one.holdings)]
    assert min(times) == seen.oldest_ms <= seen.median_ms <= seen.newest_ms == max(times)


@given(st.lists(PRICES.filter(lambda p: 1.0 < p < 3.0), min_size=1, max_size=6))
def test_a_position_lies_in_the_bin_of_its_liquidation_price(prices: list[float]) -> None:
    asked = [Account(0, (Holding(BTC, Side.LONG, 1.0, 1.0, price),)) for price in prices]
    seen = observe(asked, BTC)
    assert seen is not None
    grid = seen.grid()
    assert float(grid.long_usd.sum(dtype=np.float64)) == pytest.approx(sum(prices), rel=1e-6)
    assert not grid.short_usd.any()
    for price in prices:
        inside = (grid.price_edges[:-1] * (1 - 1e-12) <= price) & (price <= grid.price_edges[1:] * (1 + 1e-12))
        assert grid.long_usd[0, inside].any()


def test_all_longs_and_all_shorts_are_all_of_open_interest() -> None:
    long = Account(0, (Holding(BTC, Side.LONG, 4.0, 1.0, None),))
    short = Account(0, (Holding(BTC, Side.SHORT, 1.0, 1.0, None),))
    seen = observe([long, short], BTC)
    assert seen is not None
    assert seen.coverage(4.0) == (1.0, 0.25)
    both = seen.coverage(4.0)
    assert both is not None
    assert both.both == 0.625
    assert seen.coverage(None) is seen.coverage(0.0) is None
    assert (seen.bins, seen.priced) == ((), 0)
    assert not seen.grid().long_usd.any()


def test_accounts_that_hold_nothing_here_are_no_observation() -> None:
    assert observe([Account(0), Account(0, (Holding(ETH, Side.LONG, 1.0, 1.0, 5.0),))], BTC) is None
