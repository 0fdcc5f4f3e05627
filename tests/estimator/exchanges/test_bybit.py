"""Bybit: both-sided open interest, inverse quantities in USD, and the side of a liquidation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from estimator.domain import HOUR_MS, LeverageBracket, Liquidation, Market, Side
from estimator.errors import BadPayload, Banned, RateLimited, UnknownMarket
from estimator.exchanges import bybit_payloads as payloads
from estimator.exchanges.bybit import Bybit
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import Exchange, FundingRate
from tests.venues.contract import HOUR, IMPATIENT, PulseContract, times
from tests.venues.server import VenueServer
from tests.venues.wire_bybit import WIRE

GOLDEN = Path(__file__).parents[2] / "venues" / "golden" / "bybit"
MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
FIXTURES = MARKET_DATA / "wire-fixtures-nautilus" / "bybit"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.exists(), reason="no recorded payloads; set LIQHEAT_MARKET_DATA to the folder of the market data"
)
BRACKETS = (LeverageBracket(0.0, 100.0, 0.005),)
BTCUSDT = Market("bybit", "BTC/USDT:USDT", "linear", BRACKETS)
BTCUSD = Market("bybit", "BTC/USD:BTC", "inverse", BRACKETS)


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def _zero_price(payload: Any) -> Any:
    payload["result"]["list"][5][3] = "0"
    return payload


def _no_prices(payload: Any) -> Any:
    payload["result"]["list"] = [row[:1] for row in payload["result"]["list"]]
    return payload


class TestBybit(PulseContract):
    wire = WIRE
    candle_path = "/v5/market/kline"
    absurd = staticmethod(_zero_price)
    drifted = staticmethod(_no_prices)

    def make(self, base: str, clock: Callable[[], int]) -> Bybit:
        return Bybit(exchange_base=base, patience=IMPATIENT, throttle=False, clock=clock)

    def test_too_many_requests_are_told_in_two_ways_and_neither_is_a_region_block(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            market, faults = markets[self.linear], server.faults["bybit"]
            faults.add(path=self.candle_path, status=200, body='{"retCode":10006,"retMsg":"Too many visits!"}')
            assert (await venue.fetch_candles(market, *HOUR)).height == 60
            assert venue.health.errors == {"RateLimited": 1}
            faults.add(path=self.candle_path, status=403, body="403, access too frequent")
            with pytest.raises(Banned) as caught:
                await venue.fetch_candles(market, *HOUR)
            assert caught.value.retry_after_s == 600
            # Nothing is asked of a venue that has shut us out.
            asked = len(server.calls)
            with pytest.raises(RateLimited):
                await venue.fetch_candles(market, *HOUR)
            assert len(server.calls) == asked

        self.run(story)

    def test_inverse_open_interest_without_a_price_is_left_out_and_counted(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            def without_first(payload: Any) -> Any:
                payload["result"]["list"].pop()
                return payload

            server.faults["bybit"].add(path="/v5/market/kline", edit=without_first)
            got = await venue.fetch_open_interest(markets[self.inverse], *HOUR)
            assert got.height == 11
            assert venue.health.rejected == {("open_interest", "no price to turn USD into coins at"): 1}

        self.run(story)


@pytest.mark.parametrize(
    ("symbol", "contract", "native"),
    [
        ("BTC/USDT:USDT", "linear", "BTCUSDT"),
        ("SOL/USDC:USDC", "linear", "SOLPERP"),
        ("ETH/USD:ETH", "inverse", "ETHUSD"),
        ("1000PEPE/USDT:USDT", "linear", "1000PEPEUSDT"),
    ],
)
def test_a_market_has_the_name_bybit_gives_it(symbol: str, contract: Any, native: str) -> None:
    assert payloads.native_id(Market("bybit", symbol, contract, BRACKETS)) == native


def test_volume_is_base_coin_which_inverse_candles_have_as_turnover() -> None:
    linear = payloads.parse_candles(golden("kline_linear"), "linear")
    inverse = payloads.parse_candles(golden("kline_inverse"), "inverse")
    assert linear["volume"].to_list() == [24.5, 11.25]
    assert inverse["volume"].to_list() == [7.5]


def test_the_candle_that_still_runs_at_the_venues_time_is_left_out() -> None:
    assert 1_780_272_120_000 not in times(payloads.parse_candles(golden("kline_linear"), "linear"))


def test_open_interest_is_one_side_given_or_halved() -> None:
    got = payloads.parse_open_interest(golden("open_interest_linear"))
    assert got["open_interest"].to_list() == [26332.321, 26000.0]
    assert times(got) == [1_789_458_600_000, 1_789_458_300_000]


def test_inverse_open_interest_becomes_base_coin_at_its_own_price_or_is_left_out() -> None:
    got = payloads.parse_open_interest(golden("open_interest_inverse"), {1_669_571_400_000: 16_000.0})
    assert got["open_interest"].to_list() == [461_134_384 / 2 / 16_000]


def test_a_ticker_tells_open_interest_and_funding_now() -> None:
    inverse, linear = (payloads.parse_tickers(golden(f"tickers_{kind}")) for kind in ("inverse", "linear"))
    assert payloads.parse_open_interest_now(inverse, BTCUSD).value == pytest.approx(373_504_107 / 2 / 16_596)
    assert payloads.parse_funding_rate_now(inverse, BTCUSD) == FundingRate(1_672_376_496_682, -0.001034, None)
    assert payloads.parse_funding_rate_now(linear, BTCUSDT).interval_ms == 8 * HOUR_MS
    with pytest.raises(UnknownMarket):
        payloads.parse_open_interest_now(linear, BTCUSD)


def test_the_ratio_counts_accounts_and_a_missing_side_is_no_ratio() -> None:
    got = payloads.parse_long_short_ratio(golden("account_ratio"), 300_000)
    assert got["long_short_ratio"].to_list() == pytest.approx([0.6784 / 0.3216, 0.0])
    assert times(got)[0] == 1_789_460_400_000 + 300_000


def test_risk_limits_carry_deductions_that_keep_margin_continuous() -> None:
    tiers = payloads.parse_brackets(golden("risk_limit_linear"), "BTCUSDT")
    assert [b.notional_floor for b in tiers] == [0, 2_000_000, 10_000_000]
    assert [b.maintenance_amount for b in tiers] == [0, 1_200, 61_200]
    for below, tier in pairwise(tiers):
        at = tier.notional_floor
        assert at * below.maintenance_margin_rate - below.maintenance_amount == pytest.approx(
            at * tier.maintenance_margin_rate - tier.maintenance_amount
        )


def test_risk_limits_in_percent_and_without_deductions_are_understood() -> None:
    tiers = payloads.parse_brackets(golden("risk_limit_inverse"), "BTCUSD")
    assert [b.maintenance_margin_rate for b in tiers] == [0.005, 0.01]
    assert [b.notional_floor for b in tiers] == [0, 150]  # coins
    assert tiers[1].maintenance_amount == pytest.approx(150 * 0.005)


def test_risk_limits_of_a_market_that_is_not_there_are_an_error() -> None:
    with pytest.raises(UnknownMarket):
        payloads.parse_brackets(golden("risk_limit_linear"), "LUNAUSDT")


@pytest.mark.parametrize(("contract", "base"), [("linear", 20_000.0), ("inverse", 20_000 / 0.04499)])
def test_buy_means_a_long_was_liquidated_at_its_bankruptcy_price(contract: Any, base: float) -> None:
    market = BTCUSDT if contract == "linear" else BTCUSD
    (_, long), (_, short) = payloads.parse_prints(golden("ws_all_liquidation"), market)
    assert long == Liquidation(1_739_502_302_929, Side.LONG, 0.04499, base, base * 0.04499)
    assert short.side is Side.SHORT


def test_a_side_nobody_knows_is_not_guessed() -> None:
    message = golden("ws_all_liquidation")
    message["data"][0]["S"] = "None"
    with pytest.raises(BadPayload, match="neither Buy nor Sell"):
        payloads.parse_prints(message, BTCUSDT)


def test_the_book_of_an_inverse_market_is_turned_into_coins() -> None:
    book = payloads.parse_order_book(golden("orderbook_inverse"), "inverse")
    assert book.bids.tolist() == [[16_000.0, 0.5], [15_999.5, 2 / 15_999.5]]
    assert book.asks.tolist() == [[16_000.5, 16_000.5 / 16_000.5]]


def _instrument(symbol: str, base: str, **other: Any) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "contractType": "LinearPerpetual",
        "status": "Trading",
        "baseCoin": base,
        "quoteCoin": "USDT",
        "settleCoin": "USDT",
        "leverageFilter": {"maxLeverage": "50"},
        "fundingInterval": 240,
        **other,
    }


def _listed(*instruments: dict[str, Any]) -> tuple[list[str], Health]:
    health = Health()
    payload = {"result": {"list": list(instruments)}}
    return [
        one.native_id for one in payloads.parse_markets(payload, golden("tickers_linear"), "linear", health)
    ], health


def test_listings_are_the_perpetuals_that_trade_under_names_that_can_be_told() -> None:
    found, health = _listed(
        _instrument("BTCUSDT", "BTC"),
        _instrument("NEWUSDT", "NEW"),  # without a ticker yet
        _instrument("BTC-26JUN26", "BTC", contractType="LinearFutures"),
        _instrument("OLDUSDT", "OLD", status="Closed"),
        _instrument("ODDUSDT", "STRANGE"),
        _instrument("币USDT", "币"),
        _instrument("HALFUSDT", "HALF", leverageFilter={}),
    )
    assert found == ["BTCUSDT", "NEWUSDT"]
    assert health.rejected == {("markets", "a market of another kind"): 3}


def test_instruments_that_all_lack_a_field_are_schema_drift() -> None:
    with pytest.raises(BadPayload) as caught:
        _listed(_instrument("BTCUSDT", "BTC", leverageFilter={}), _instrument("ETHUSDT", "ETH", leverageFilter={}))
    assert (caught.value.endpoint, caught.value.field) == ("instruments-info", "maxLeverage")


@needs_fixtures
def test_recorded_payloads_are_read() -> None:
    def recorded(name: str) -> Any:
        return json.loads((FIXTURES / name).read_text())

    candles = recorded("http_get_klines_linear.json")
    assert payloads.parse_candles(candles, "linear").is_empty()  # its one candle still ran
    candles["time"] += HOUR_MS
    assert payloads.parse_candles(candles, "linear").row(0)[1:] == (27450.0, 27460.0, 27440.0, 27455.0, 123.45)
    funding = payloads.parse_funding_rate(recorded("http_get_funding_history.json"))
    assert funding["funding_rate"].to_list() == [0.0001, 0.00015]
    listings = payloads.parse_markets(
        recorded("http_get_instruments_linear.json"), {"result": {"list": []}}, "linear", Health()
    )
    assert [one.native_id for one in listings] == ["BTCUSDT", "ETHUSDT"]
    assert listings[0].market.max_leverage == 100
    ((_, candle, closed),) = payloads.parse_candle_message(recorded("ws_kline.json"), BTCUSDT)
    assert (candle.high, candle.volume, closed) == (16677.0, 2.081, False)
