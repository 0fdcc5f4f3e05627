"""Whatever shape an answer takes, it is read or refused by name: no other error comes out of a parser."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.domain import ContractType, Market
from estimator.errors import BadPayload, UnknownMarket
from estimator.exchanges import bitget_payloads as bitget
from estimator.exchanges import bybit_payloads as bybit
from estimator.exchanges import gate_payloads as gate
from estimator.exchanges import hyperliquid_payloads as hyperliquid
from estimator.exchanges import okx_payloads as okx
from estimator.exchanges.edge import Health
from estimator.exchanges.venue import MarketListing
from tests.venues.harness import NOW, golden

TICKERS: Final = golden("gate", "tickers")
(GATE, *_) = gate.parse_markets(golden("gate", "contracts"), TICKERS, "usdt", Health())
GATE_LISTED = {"BTC_USDT": GATE}
(BITGET,) = bitget.parse_markets(golden("bitget", "contracts"), golden("bitget", "tickers"), "USDT", Health())
BITGET_LISTED = {"BTCUSDT": BITGET}
BYBIT_MARKETS: Final[tuple[tuple[str, ContractType], ...]] = (("BTC/USDT:USDT", "linear"), ("BTC/USD:BTC", "inverse"))
(HYPERLIQUID, *_) = hyperliquid.parse_markets(golden("hyperliquid", "metaAndAssetCtxs"), Health())

BYBIT = {name: Market("bybit", name, kind, HYPERLIQUID.market.brackets) for name, kind in BYBIT_MARKETS}
OKX = Market("okx", "BTC/USD:BTC", "inverse", HYPERLIQUID.market.brackets)
OKX_NOTHING: Final[dict[str, Any]] = {"data": []}
OKX_LISTED = {"BTC-USD-SWAP": MarketListing(OKX, "BTC-USD-SWAP", 100.0, "public")}

PARSERS: Final[dict[tuple[str, str], Callable[[Any], Any]]] = {
    ("gate", "contracts"): lambda p: gate.parse_markets(p, TICKERS, "usdt", Health()),
    ("gate", "tickers"): lambda p: (
        gate.parse_markets(golden("gate", "contracts"), p, "usdt", Health()),
        gate.parse_open_interest_now(gate.parse_tickers(p), GATE, NOW),
        gate.parse_funding_rate_now(gate.parse_tickers(p), GATE, NOW),
    ),
    ("gate", "candlesticks"): lambda p: (gate.parse_candles(p, GATE), gate.parse_mark_candles(p)),
    ("gate", "contract_stats"): lambda p: (
        gate.parse_open_interest(p, GATE),
        gate.parse_long_short_ratio(p),
    ),
    ("gate", "funding_rate"): gate.parse_funding_rate,
    ("gate", "risk_limit_tiers"): lambda p: gate.parse_brackets(p, "BTC_USDT"),
    ("gate", "order_book"): lambda p: gate.parse_order_book(p, GATE),
    ("bitget", "contracts"): lambda p: bitget.parse_markets(p, golden("bitget", "tickers"), "USDT", Health()),
    ("bitget", "candles"): lambda p: (bitget.parse_candles(p), bitget.parse_mark_candles(p)),
    ("bitget", "open_interest"): lambda p: bitget.parse_open_interest_now(p, "BTCUSDT"),
    ("bitget", "account_long_short"): bitget.parse_long_short_ratio,
    ("bitget", "history_fund_rate"): bitget.parse_funding_rate,
    ("bitget", "current_fund_rate"): lambda p: bitget.parse_funding_rate_now(p, NOW),
    ("bitget", "query_position_lever"): bitget.parse_brackets,
    ("bitget", "merge_depth"): bitget.parse_order_book,
    ("hyperliquid", "metaAndAssetCtxs"): lambda p: (
        hyperliquid.parse_markets(p, Health()),
        hyperliquid.parse_brackets(p, "BTC"),
        hyperliquid.parse_open_interest_now(p, "BTC", NOW),
        hyperliquid.parse_funding_rate_now(p, "BTC", NOW),
    ),
    ("hyperliquid", "candleSnapshot"): hyperliquid.parse_candles,
    ("hyperliquid", "fundingHistory"): hyperliquid.parse_funding_rate,
    ("hyperliquid", "l2Book"): hyperliquid.parse_order_book,
    ("hyperliquid", "clearinghouseState"): lambda p: hyperliquid.parse_account(p, {"BTC": HYPERLIQUID}),
    ("bitget", "tickers"): lambda p: (
        bitget.read_open_interest(bitget.parse_tickers(p), BITGET),
        bitget.read_funding_rate(bitget.parse_tickers(p), BITGET),
    ),
    ("bybit", "tickers_linear"): lambda p: (
        bybit.parse_open_interest_now(bybit.parse_tickers(p), BYBIT["BTC/USDT:USDT"]),
        bybit.parse_funding_rate_now(bybit.parse_tickers(p), BYBIT["BTC/USDT:USDT"]),
    ),
    ("bybit", "tickers_inverse"): lambda p: bybit.parse_open_interest_now(bybit.parse_tickers(p), BYBIT["BTC/USD:BTC"]),
    ("bybit", "kline_linear"): lambda p: (bybit.parse_candles(p, "linear"), bybit.parse_opens(p)),
    ("bybit", "open_interest_linear"): bybit.parse_open_interest,
    ("bybit", "account_ratio"): lambda p: bybit.parse_long_short_ratio(p, 1),
    ("bybit", "risk_limit_linear"): lambda p: bybit.parse_brackets(p, "BTCUSDT"),
    ("bybit", "orderbook_inverse"): lambda p: bybit.parse_order_book(p, "inverse"),
    ("okx", "candles"): okx.parse_candles,
    ("okx", "open_interest_history"): lambda p: okx.parse_open_interest(p, 1),
    ("okx", "account_ratio"): lambda p: okx.parse_long_short_ratio(p, 1),
    ("okx", "funding_rate"): lambda p: okx.parse_funding_rate_now(okx.parse_by_name(p, "funding-rate"), OKX),
    ("okx", "funding_rate_history"): okx.parse_funding_rate,
    ("okx", "instruments"): lambda p: okx.parse_markets(p, OKX_NOTHING, OKX_NOTHING, Health()),
    ("okx", "position_tiers"): lambda p: okx.parse_brackets(p, OKX, 100.0, 6e4),
    ("okx", "books"): lambda p: okx.parse_order_book(p, "inverse", 100.0),
    ("okx", "ws_liquidation_orders"): lambda p: okx.parse_liquidations(p, OKX_LISTED),
}
# Of a message only what `accepts` has looked at is sure.
MESSAGES: Final[dict[tuple[str, str], Callable[[Any], Any]]] = {
    ("gate", "public_liquidates"): lambda m: gate.parse_liquidation_message(m, GATE_LISTED),
    ("gate", "candlestick_message"): lambda m: gate.parse_candle_message(m, GATE_LISTED),
    ("bitget", "liquidation_message"): lambda m: bitget.parse_liquidation_message(m, BITGET_LISTED),
    ("bitget", "candle_snapshot"): lambda m: bitget.parse_candle_message(m, BITGET_LISTED),
    ("hyperliquid", "candle_message"): lambda m: hyperliquid.parse_candle_message(m, {"BTC": HYPERLIQUID}),
    ("hyperliquid", "trades_message"): lambda m: hyperliquid.parse_trades_message(m, {"BTC": HYPERLIQUID}),
    ("bybit", "ws_all_liquidation"): lambda m: bybit.parse_prints(m, BYBIT["BTC/USD:BTC"]),
    ("okx", "ws_liquidation_orders"): lambda m: okx.parse_liquidations(m, OKX_LISTED),
}

JUNK: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**20),
    st.floats(),
    st.sampled_from(["", "0", "-1", "1e400", "nan", "BTC", "\u5e01"]),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just([{}]),
)


def places(payload: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a payload, the whole first."""
    inside: list[tuple[Any, Any]] = []
    if isinstance(payload, dict):
        inside = list(payload.items())
    elif isinstance(payload, list):
        inside = list(enumerate(payload))
    return [at, *(place for key, value in inside for place in places(value, (*at, key)))]


def changed(payload: Any, place: tuple[Any, ...], junk: Any) -> Any:
    """Put junk in a place."""
    if not place:
        return junk
    payload = copy.deepcopy(payload)
    at = payload
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = junk
    return payload


def read_or_refused(parse: Callable[[Any], Any], payload: Any) -> None:
    try:
        parse(payload)
    except (BadPayload, UnknownMarket):
        return


@pytest.mark.parametrize(("venue", "name"), PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_answer_of_any_shape_is_read_or_refused(venue: str, name: str, data: st.DataObject) -> None:
    payload = golden(venue, name)
    place = data.draw(st.sampled_from(places(payload)))
    read_or_refused(PARSERS[venue, name], changed(payload, place, data.draw(JUNK)))


@pytest.mark.parametrize(("venue", "name"), MESSAGES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_message_of_any_shape_is_read_or_refused(venue: str, name: str, data: st.DataObject) -> None:
    payload = golden(venue, name)
    inner = [place for place in places(payload) if place and place[0] not in {"channel", "arg"}]
    place = data.draw(st.sampled_from(inner))
    read_or_refused(MESSAGES[venue, name], changed(payload, place, data.draw(JUNK)))
