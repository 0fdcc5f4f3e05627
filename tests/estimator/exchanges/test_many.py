"""What is true of every venue: many markets at once tell what each would tell, the past what the stream told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from estimator.domain import LIQUIDATIONS, MINUTE_MS, Market
from estimator.errors import BadPayload, SourceError
from estimator.exchanges.venue import Exchange
from tests.venues.every import EACH, at
from tests.venues.harness import NOW, Work

# Where each venue tells of all its markets, and how one of them is spoiled there.
TOLD: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "bybit": ("/v5/market/tickers", lambda said: said["result"]["list"]),
    "okx": ("/public/open-interest", lambda said: said["data"]),
    "gate": ("/tickers", lambda said: said),
    "bitget": ("/market/tickers", lambda said: said["data"]),
    "hyperliquid": ("/info", lambda said: said[1]),
}
HELD = {
    "bybit": "singleOpenInterest",
    "okx": "oiCcy",
    "gate": "total_size",
    "bitget": "holdingAmount",
    "hyperliquid": "openInterest",
}
SUBSCRIPTIONS = {"binance": 2, "bybit": 6, "okx": 2, "gate": 5, "bitget": 3}  # of prints, with what never rests
IN_BULK = pytest.mark.parametrize("name", TOLD)


@EACH
def test_many_markets_tell_what_each_of_them_tells(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        markets = list(work.markets.values())
        held = await work.venue.fetch_open_interests_now(markets)
        rates = await work.venue.fetch_funding_rates_now(markets)
        assert {m.id for m in markets} == set(held) == set(rates)
        for market in markets:
            source = work.feed.market(name, market.base)
            assert held[market.id].value == pytest.approx(source.open_interest(NOW))
            assert held[market.id] == await work.venue.fetch_open_interest_now(market)
            assert rates[market.id] == await work.venue.fetch_funding_rate_now(market)

    at(name, story)


@EACH
def test_few_requests_are_made_where_the_venue_is_said_to_need_few(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        markets, declared = list(work.markets.values()), work.venue.capabilities

        async def asked(ask: Callable[..., Any]) -> int:
            before = len(work.server.calls)
            await work.feed.advance(MINUTE_MS)
            await ask(markets)
            return len(work.server.calls) - before

        assert len(markets) >= 4
        # One request for each coin of settlement or contract type, of which there are two.
        assert (await asked(work.venue.fetch_open_interests_now) <= 2) == declared.bulk_open_interest
        assert (await asked(work.venue.fetch_funding_rates_now) <= 2) == declared.bulk_funding

    at(name, story, coins=("BTC", "ETH", "SOL", "XRP"))


@EACH
def test_a_market_that_is_gone_is_absent_and_the_others_are_there(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        (market, *_) = work.markets.values()
        gone = Market(name, f"LUNA/{market.symbol.partition('/')[2]}", market.contract, market.brackets)
        assert set(await work.venue.fetch_open_interests_now([gone, market])) == {market.id}
        assert set(await work.venue.fetch_funding_rates_now([gone, market])) == {market.id}

    at(name, story)


@IN_BULK
def test_a_value_that_cannot_be_read_is_absent_and_the_others_are_there(name: str) -> None:
    path, rows_of = TOLD[name]

    async def story(work: Work[Exchange]) -> None:
        await work.feed.advance(MINUTE_MS)
        markets = [m for m in work.markets.values() if m.contract == "linear"]

        def spoiled(payload: Any) -> Any:
            rows_of(payload)[0][HELD[name]] = "much"
            return payload

        work.faults.add(path=path, edit=spoiled)
        found = await work.venue.fetch_open_interests_now(markets)
        assert len(found) == len(markets) - 1

    at(name, story)


@EACH
def test_a_venue_that_is_down_is_told_as_such(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        await work.feed.advance(MINUTE_MS)
        work.faults.add(status=503, times=99)
        with pytest.raises(SourceError):
            await work.venue.fetch_open_interests_now(list(work.markets.values()))

    at(name, story)


@IN_BULK
def test_an_answer_of_another_shape_is_refused(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        await work.feed.advance(MINUTE_MS)
        work.faults.add(path=TOLD[name][0], edit=lambda _: [], times=9)
        with pytest.raises((BadPayload, SourceError)):
            await work.venue.fetch_open_interests_now(list(work.markets.values()))

    at(name, story)


@EACH
def test_past_prints_are_those_of_the_stream_to_the_last_digit_or_there_are_none(name: str) -> None:
    async def story(work: Work[Exchange]) -> None:
        markets, kept_ms = list(work.markets.values()), work.venue.capabilities.past_liquidations_ms
        if work.venue.capabilities.liquidations != "none":
            async with work.following(markets, prints=True, subscriptions=SUBSCRIPTIONS[name]):
                await work.feed.advance(30 * MINUTE_MS)
            assert len(work.prints) > 20
        for market in markets:
            streamed = [
                (p.time_ms, p.side.value, p.price, p.quantity_base, p.notional_usd)
                for where, p in work.prints
                if where == market
            ]
            past = await work.venue.fetch_liquidations(market, NOW, work.feed.now_ms + 1)
            told = past.with_columns(pl.col("time").dt.epoch("ms")).select(list(LIQUIDATIONS)).rows()
            assert told == ([] if kept_ms is None else streamed)

    at(name, story)
