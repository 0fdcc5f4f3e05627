"""Which markets are chosen."""

from __future__ import annotations

import pytest

from estimator.domain import ContractType, LeverageBracket, Market
from estimator.errors import SettingsError
from estimator.exchanges.venue import MarketListing
from estimator.live.choice import Wanted


def listed(
    venue: str, coin: str, interest: float | None, contract: ContractType = "linear", quote: str = "USDT"
) -> MarketListing:
    settled = quote if contract == "linear" else coin
    market = Market(venue, f"{coin}/{quote}:{settled}", contract, (LeverageBracket(0.0, 100.0, 0.004),))
    return MarketListing(market, coin + quote, 1.0, "rule", interest, 5.0 if interest is None else interest)


ONE = [listed("binance", "BTC", None), listed("binance", "DOGE", None), listed("binance", "ETH", None)]
TWO = [listed("bybit", "BTC", 50.0), listed("bybit", "ETH", 30.0), listed("bybit", "SOL", 20.0)]
THREE = [listed("okx", "SOL", 25.0), listed("okx", "ETH", 1.0), listed("okx", "BTC", 9.0, "inverse", "USD")]


def test_the_top_is_the_largest_by_open_interest_of_all_venues_together() -> None:
    wanted = Wanted("top 2")
    wanted.settle([*ONE, *TWO, *THREE])
    # BTC 59, SOL 45, ETH 31: no venue alone would say so.
    assert [m.id for m in wanted.choose(ONE)] == ["binance:BTC/USDT:USDT"]
    assert [m.id for m in wanted.choose(TWO)] == ["bybit:BTC/USDT:USDT", "bybit:SOL/USDT:USDT"]
    assert [m.id for m in wanted.choose(THREE)] == ["okx:SOL/USDT:USDT"]
    assert [wanted.rank(m) for m in wanted.choose(TWO)] == [0, 1]


def test_where_no_venue_tells_open_interest_volume_counts() -> None:
    wanted = Wanted("top 1")
    wanted.settle([listed("binance", "BTC", None), *ONE])
    assert [m.base for m in wanted.choose(ONE)] == ["BTC"]


def test_a_venue_that_answers_later_joins_with_the_coins_that_were_found() -> None:
    wanted = Wanted("top 1")
    wanted.settle(TWO)
    wanted.settle([listed("okx", "PEPE", 1e9)])
    assert wanted.choose([listed("okx", "PEPE", 1e9), listed("okx", "BTC", 1.0)])[0].base == "BTC"


def test_a_coin_means_its_largest_linear_market_and_a_symbol_itself() -> None:
    many = [
        listed("okx", "BTC", 5.0),
        listed("okx", "BTC", 7.0, quote="USDC"),
        listed("okx", "BTC", 99.0, "inverse", "USD"),
    ]
    assert [m.symbol for m in Wanted("BTC").choose(many)] == ["BTC/USDC:USDC"]
    assert [m.symbol for m in Wanted("BTC/USD:BTC").choose(many)] == ["BTC/USD:BTC"]


def test_what_no_venue_lists_is_told() -> None:
    wanted = Wanted("btc,NOPE,ETH/USDT:USDT")
    assert wanted.choose(ONE)
    assert wanted.unfound == ["NOPE"]


@pytest.mark.parametrize("text", ["", " , ", "top many", "top 0", "top -3"])
def test_what_is_neither_names_nor_a_number_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="LIQHEAT_MARKETS"):
        Wanted(text)
