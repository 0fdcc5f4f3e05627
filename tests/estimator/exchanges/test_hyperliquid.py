"""Hyperliquid: payloads as documented become frames; the real ccxt client against a local server."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, LeverageBracket, Market, Observation, Side
from estimator.errors import BadPayload, UnknownMarket, VenueDown
from estimator.exchanges.edge import Health
from estimator.exchanges.hyperliquid import Hyperliquid
from estimator.exchanges.hyperliquid_payloads import (
    ASK_ACCOUNT,
    CANDLES_KEPT,
    CAPABILITIES,
    parse_account,
    parse_brackets,
    parse_candle_message,
    parse_candles,
    parse_funding_rate,
    parse_funding_rate_now,
    parse_markets,
    parse_open_interest_now,
    parse_order_book,
    parse_trades_message,
)
from estimator.exchanges.venue import Exchange, PublishesPositions, Trade
from estimator.live import Pace
from estimator.model.holdings import Account, Holding
from estimator.model.margin import liquidation_price
from tests.venues.harness import LAST_HOUR, MINUTE_START, NOW, Work, at_work, golden, row, times
from tests.venues.wire_hyperliquid import HOLDERS, WIRE, holders

MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
CONTEXTS = golden("hyperliquid", "metaAndAssetCtxs")
LISTED = parse_markets(CONTEXTS, Health())


def recorded(name: str) -> Any:
    file = MARKET_DATA / "wire-fixtures-nautilus" / "hyperliquid" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"no {file.name}; set LIQHEAT_MARKET_DATA to the folder that holds it")
    return json.loads(file.read_text())


# Payloads


def test_listings_are_what_still_trades_under_the_venues_own_names() -> None:
    assert [one.market.symbol for one in LISTED] == ["BTC/USDC:USDC", "kPEPE/USDC:USDC"]
    assert LISTED[0].open_interest_usd == pytest.approx(27353.17682 * 77562)
    assert {one.funding_interval_ms for one in LISTED} == {HOUR_MS}


def test_maintenance_is_half_the_initial_margin_of_each_tier() -> None:
    table = parse_brackets(CONTEXTS, "BTC")
    assert table.brackets == (
        LeverageBracket(0.0, 40.0, 0.0125, 0.0),
        LeverageBracket(150_000_000.0, 20.0, 0.025, 1_875_000.0),
    )
    assert parse_brackets(CONTEXTS, "kPEPE").brackets == (LeverageBracket(0.0, 10.0, 0.05),)


def test_the_tiers_give_the_liquidation_price_of_the_method() -> None:
    """10x on BTC at 60000: 54683.5 long, 65185.2 short (method.md, section 1), for a maximum leverage of 40."""
    rate = parse_brackets(CONTEXTS, "BTC").brackets[0].maintenance_margin_rate
    for side, price in (("long", 54683.5), ("short", 65185.2)):
        got = liquidation_price(
            side=side,  # type: ignore[arg-type]
            entry_price=60_000.0,
            quantity=1.0,
            margin=6_000.0,
            maintenance_margin_rate=rate,
        )
        assert got == pytest.approx(price, abs=0.05)


def test_open_interest_is_in_coins_and_funding_by_the_hour() -> None:
    assert parse_open_interest_now(CONTEXTS, "BTC", NOW) == Observation(NOW, 27353.17682)
    rate = parse_funding_rate_now(CONTEXTS, "kPEPE", NOW)
    assert (rate.rate, rate.interval_ms) == (-0.0001, HOUR_MS)


def test_a_delisted_coin_is_unknown() -> None:
    with pytest.raises(UnknownMarket):
        parse_open_interest_now(CONTEXTS, "MATIC", NOW)


def test_as_many_contexts_as_assets_or_nothing() -> None:
    with pytest.raises(BadPayload, match="3 assets but 2 contexts"):
        parse_markets([CONTEXTS[0], CONTEXTS[1][:2]], Health())


def test_candles_funding_and_the_book() -> None:
    assert row(parse_candles(golden("hyperliquid", "candleSnapshot"))) == (
        1_760_000_040_000, 64000.1, 64050.0, 63990.5, 64020.3, 120.5,
    )  # fmt: skip
    assert row(parse_funding_rate(golden("hyperliquid", "fundingHistory"))) == (1_760_000_400_031, 0.0000125)
    book = parse_order_book(golden("hyperliquid", "l2Book"))
    assert (book.bids.tolist(), book.asks.tolist()) == ([[64000.0, 1.5], [63999.0, 0.5]], [[64001.0, 2.0]])


def test_a_candle_message_never_says_that_it_closed() -> None:
    market = LISTED[0].market
    ((where, candle, closed),) = parse_candle_message(golden("hyperliquid", "candle_message"), {"BTC": LISTED[0]})
    assert (where, candle.time_ms, candle.high, candle.volume) == (market, 1_710_146_280_000, 71422.0, 1.20407)
    assert not closed


def test_an_account_holds_what_is_listed_and_what_no_price_liquidates_has_none() -> None:
    told = parse_account(golden("hyperliquid", "clearinghouseState"), {one.native_id: one for one in LISTED})
    assert told == Account(
        1_760_000_100_456,
        (
            Holding("hyperliquid:BTC/USDC:USDC", Side.SHORT, 3.5, 224_000.0, 71_320.25),
            Holding("hyperliquid:kPEPE/USDC:USDC", Side.LONG, 250_000.0, 2_600.0, None),
        ),
    )


def test_a_trade_names_both_accounts() -> None:
    (trade,) = parse_trades_message(golden("hyperliquid", "trades_message"), {"BTC": LISTED[0]})
    assert trade == Trade(1_760_000_100_789, 64_000.5 * 0.25, (f"0x{'0' * 38}aa", f"0x{'0' * 38}bb"))
    assert parse_trades_message(golden("hyperliquid", "trades_message"), {}) == []


def test_all_requests_together_stay_within_the_weights_of_a_minute() -> None:
    accounts, others = (CAPABILITIES.limits[name] for name in (ASK_ACCOUNT, "publicPostInfo"))
    assert accounts.per_seconds == others.per_seconds == 60
    assert 2 * accounts.requests + 20 * others.requests <= 1200
    # A bucket lets half of what is declared through for good: accounts are asked no faster, so none ever waits there.
    assert 60 / Pace().account_s <= accounts.requests / 2


def test_recorded_account_without_positions_is_read() -> None:
    told = parse_account(recorded("http_clearinghouse_state_negative_total_raw_usd"), {"BTC": LISTED[0]})
    assert told == Account(1_700_000_000_000)


def test_recorded_funding_is_read() -> None:
    table = parse_funding_rate(recorded("http_funding_history"))
    assert table["funding_rate"].to_list() == [0.0000125, -0.0000081, 0.0000033]


def test_recorded_contexts_are_read() -> None:
    contexts = recorded("ws_all_dexs_asset_ctxs")["data"]["ctxs"][0][1]
    universe = [{"name": f"C{i}", "maxLeverage": 10, "szDecimals": 1} for i in range(len(contexts))]
    payload = [{"universe": universe}, contexts]
    assert parse_open_interest_now(payload, "C0", NOW).value == 27353.17682
    assert parse_funding_rate_now(payload, "C0", NOW).rate == -0.0000015186
    assert len(parse_markets(payload, Health())) == len(contexts)


# Over sockets


def test_the_past_is_that_of_the_market() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        exchange: Exchange = work.venue
        market, source, since = work.markets["BTC/USDC:USDC"], work.bitcoin, MINUTE_START - DAY_MS
        candles = await exchange.fetch_candles(market, since, NOW + HOUR_MS)
        assert times(candles) == list(range(since, MINUTE_START, MINUTE_MS))
        for column in ("open", "high", "low", "close", "volume"):
            assert candles[column].to_list() == [getattr(source.closed(t), column) for t in times(candles)], column
        now = await exchange.fetch_open_interest_now(market)
        assert now == Observation(NOW, source.open_interest(NOW))
        assert (await exchange.fetch_funding_rate_now(market)).rate == source.funding_rate(NOW)
        assert [b.max_leverage for b in (await exchange.fetch_brackets(market)).brackets] == [40, 20]
        book = await exchange.fetch_order_book(market, 100)
        assert len(book.bids) == 20
        assert book.bids[0, 0] < source.price(NOW) < book.asks[0, 0]

    at_work(Hyperliquid, WIRE, story)


def test_funding_of_more_than_one_page_is_whole() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        since = NOW - 30 * DAY_MS
        funding = await work.venue.fetch_funding_rate(work.markets["BTC/USDC:USDC"], since, NOW + HOUR_MS)
        assert times(funding) == [t + 31 for t in range(0, NOW, HOUR_MS) if t + 31 >= since]
        assert funding["funding_rate"].to_list() == [work.bitcoin.funding_rate(t) for t in times(funding)]

    at_work(Hyperliquid, WIRE, story, days=31)


def test_candles_go_back_as_far_as_they_are_kept() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        candles = await work.venue.fetch_candles(work.markets["BTC/USDC:USDC"], NOW - 5 * DAY_MS, NOW)
        # Of those kept, one is still open.
        assert CANDLES_KEPT - 2 <= candles.height <= CANDLES_KEPT
        assert times(candles)[-1] == MINUTE_START - MINUTE_MS

    at_work(Hyperliquid, WIRE, story, days=6)


def test_markets_asked_for_at_once_share_one_answer() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        before = len(work.server.calls)
        await work.feed.advance(MINUTE_MS)
        markets = list(work.markets.values())
        held = await asyncio.gather(*map(work.venue.fetch_open_interest_now, markets))
        assert len(work.server.calls) == before + 1
        now = work.feed.now_ms
        want = [work.feed.market("hyperliquid", market.base).open_interest(now) for market in markets]
        assert [one.value for one in held] == want

    at_work(Hyperliquid, WIRE, story)


def test_what_the_venue_does_not_tell_is_empty_and_said_to_be() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        market = work.markets["BTC/USDC:USDC"]
        empty: list[pl.DataFrame] = [
            await work.venue.fetch_open_interest(market, *LAST_HOUR),
            await work.venue.fetch_long_short_ratio(market, *LAST_HOUR),
        ]
        assert all(table.is_empty() for table in empty)
        exchange: Exchange = work.venue
        assert await exchange.fetch_mark_candles(market, *LAST_HOUR) is None
        assert [one async for one in work.venue.watch_liquidations([market])] == []
        assert CAPABILITIES.liquidations == "none"
        assert CAPABILITIES.mark_candles is CAPABILITIES.ratio_history is CAPABILITIES.open_interest_history is None

    at_work(Hyperliquid, WIRE, story)


def test_a_candle_closes_when_the_next_one_comes() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        markets = list(work.markets.values())
        async with work.following(markets, subscriptions=2):
            await work.feed.advance(5 * MINUTE_MS)
        for market in markets:
            source, got = work.feed.market("hyperliquid", market.base), work.closed(market)
            assert [c.time_ms for c in got] == [MINUTE_START + i * MINUTE_MS for i in range(5)]
            assert [c.volume for c in got] == [source.closed(c.time_ms).volume for c in got]

    at_work(Hyperliquid, WIRE, story)


def test_twice_late_and_absurd_messages_change_nothing() -> None:
    def spoiled(messages: list[Any]) -> list[Any]:
        made = []
        for message in messages:
            data = message["data"]
            made += [message, {**message, "data": data | {"v": "0.0"}}, {**message, "data": data | {"l": "-1"}}]
            made.append({**message, "data": data | {"t": data["t"] + HOUR_MS}})
        return made

    async def story(work: Work[Hyperliquid]) -> None:
        market = work.markets["BTC/USDC:USDC"]
        work.faults.rewrite = spoiled
        async with work.following([market], subscriptions=1):
            await work.feed.advance(5 * MINUTE_MS)
        got = work.closed(market)
        assert [c.volume for c in got] == [work.bitcoin.closed(c.time_ms).volume for c in got]
        assert len(got) == 5
        assert {reason for _, reason in work.venue.health.rejected} == {
            "late or repeated message",
            "price not above 0",
            "in the future",
        }

    at_work(Hyperliquid, WIRE, story)


def test_after_a_lost_connection_no_candle_with_missing_trades_is_called_closed() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        market = work.markets["BTC/USDC:USDC"]
        async with work.following([market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
            await work.drop_sockets()
            await work.feed.advance(MINUTE_MS)  # nobody hears
            await work.server.subscribed("hyperliquid", 1)
            await work.feed.advance(2 * MINUTE_MS)
        got = work.closed(market)
        assert [c.volume for c in got] == [work.bitcoin.closed(c.time_ms).volume for c in got]
        assert len(got) >= 2
        assert work.venue.health.reconnects == {"candles": 1}

    at_work(Hyperliquid, WIRE, story)


def test_accounts_are_heard_of_by_their_trades_and_told_with_their_positions() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        venue: PublishesPositions = work.venue
        markets = list(work.markets.values())
        heard: list[Trade] = []

        async def hear() -> None:
            async for trades in venue.watch_trades(markets):
                heard.extend(trades)

        hearing = asyncio.ensure_future(hear())
        try:
            await work.server.subscribed("hyperliquid", 2)
            await work.feed.advance(2 * MINUTE_MS)
            async with asyncio.timeout(10):
                while len({a for t in heard for a in t.addresses}) < 2 * HOLDERS:  # noqa: ASYNC110 - over a socket
                    await asyncio.sleep(0.01)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
        now = work.feed.now_ms
        for account in holders(work.bitcoin):
            told = await venue.fetch_account(account.address, markets)
            assert told.time_ms == now
            size, price = account.quantity(now), account.liquidation_price(now)
            value = size * work.bitcoin.price(now)
            held = (Holding("hyperliquid:BTC/USDC:USDC", account.side, size, value, price),)
            assert told.holdings == (held if size else ())
        assert (await venue.fetch_account("0x" + "f" * 40, markets)).holdings == ()

    at_work(Hyperliquid, WIRE, story)


def test_a_position_that_cannot_be_is_left_out_and_counted() -> None:
    def worthless(said: Any) -> Any:
        for held in said["assetPositions"]:
            held["position"]["positionValue"] = "0.0"
        return said

    async def story(work: Work[Hyperliquid]) -> None:
        work.faults.add(path="/info", edit=worthless)
        told = await work.venue.fetch_account(holders(work.bitcoin)[0].address, list(work.markets.values()))
        assert told.holdings == ()
        assert work.venue.health.rejected == {("positions", "value not above 0"): 1}

    at_work(Hyperliquid, WIRE, story)


def test_a_coin_that_is_refused_does_not_stop_the_others() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        market, ether = work.markets["BTC/USDC:USDC"], work.markets["ETH/USDC:USDC"]
        work.feed.coins = ("BTC",)  # ETH is taken off the list meanwhile
        async with work.following([ether, market], subscriptions=1):
            await work.feed.advance(MINUTE_MS)
        assert {where for where, _, _ in work.ticks} == {market}
        assert work.venue.health.rejected == {("subscriptions", "refused by the venue"): 1}

    at_work(Hyperliquid, WIRE, story)


def test_faults_are_told_by_kind_and_unlisted_markets_as_such() -> None:
    async def story(work: Work[Hyperliquid]) -> None:
        market = work.markets["BTC/USDC:USDC"]
        work.faults.add(path="/info", cut_at=0.5)
        assert (await work.venue.fetch_candles(market, *LAST_HOUR)).height == 60
        assert work.venue.health.errors == {"BadPayload": 1}
        gone = Market("hyperliquid", "LUNA/USDC:USDC", "linear", market.brackets)
        with pytest.raises(UnknownMarket):
            await work.venue.fetch_candles(gone, *LAST_HOUR)
        work.faults.add(path="/info", status=502, times=9)
        with pytest.raises(VenueDown):
            await work.venue.fetch_candles(market, *LAST_HOUR)

    at_work(Hyperliquid, WIRE, story)
