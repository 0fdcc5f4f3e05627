"""What every venue must do over real sockets, through the real ccxt client. A venue's tests inherit this."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import polars as pl
import pytest

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Candle, Liquidation, Market
from estimator.errors import BadPayload, RateLimited, RegionBlocked, UnknownMarket, VenueDown
from estimator.exchanges.venue import Exchange
from estimator.exchanges.wire import Patience
from tests.venues.feed import OI_EVERY_MS, Feed, FeedMarket
from tests.venues.server import VenueServer, running
from tests.waiting import until

NOW = 1_780_272_000_000 + 9 * HOUR_MS + 30_000  # 2026-06-01 09:00:30 UTC
HOUR = (NOW - 30_000 - HOUR_MS, NOW - 30_000)  # the last one that is over
IMPATIENT = Patience(attempts=3, first_s=0.01, longest_s=0.02, obeyed_s=2.0)


def times(table: pl.DataFrame) -> list[int]:
    """Return the times of a frame. [ms]"""
    return table["time"].dt.epoch("ms").to_list()


class VenueContract:
    """Statements about any venue. `known_after_ms` of open interest is what a row's stamp stays behind."""

    wire: Any  # a `VenueWire`
    linear: ClassVar[str] = "BTC/USDT:USDT"
    inverse: ClassVar[str] = "BTC/USD:BTC"
    candle_path: ClassVar[str]
    candle_field: ClassVar[str] = "1"
    open_interest_known_after_ms: ClassVar[int] = 0
    ratio_known_after_ms: ClassVar[int] = OI_EVERY_MS
    absurd: Any  # changes one candle's price to 0
    drifted: Any  # takes the prices out of candles

    def make(self, base: str, clock: Callable[[], int]) -> Exchange:
        """Return the venue's client."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def at_work(self, **feed: Any) -> AsyncIterator[tuple[VenueServer, Exchange, dict[str, Market]]]:
        """Serve the venue and give a client with its markets by symbol; afterwards nothing may be left running."""
        async with running(Feed(NOW, **feed), {self.wire.venue: self.wire}) as server:
            venue = self.make(server.base, lambda: server.feed.now_ms)
            try:
                markets = {one.market.symbol: one.market for one in await venue.fetch_markets()}
                yield server, venue, markets
            finally:
                await venue.close()
                await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    def run(self, story: Callable[..., Any], **feed: Any) -> None:
        async def told() -> None:
            async with self.at_work(**feed) as (server, venue, markets):
                await story(server, venue, markets)

        asyncio.run(told(), debug=True)

    def feed_of(self, server: VenueServer) -> FeedMarket:
        return server.feed.market(self.wire.venue, "BTC")

    def test_lists_the_markets_that_trade_largest_first(self) -> None:
        async def story(_server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            assert {self.linear, self.inverse} <= set(markets)
            listings = await venue.fetch_markets()
            sizes = [one.open_interest_usd or 0.0 for one in listings]
            assert sizes == sorted(sizes, reverse=True)
            assert min(sizes) > 1e9
            assert {m.contract for m in markets.values()} == {"linear", "inverse"}

        self.run(story)

    @pytest.mark.parametrize("kind", ["linear", "inverse"])
    def test_candles_are_those_of_the_feed_over_several_pages(self, kind: str) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, since = self.feed_of(server), NOW - 30_000 - int(1.2 * DAY_MS)
            got = await venue.fetch_candles(markets[getattr(self, kind)], since, NOW + HOUR_MS)
            # The minute that still runs is not there.
            starts = list(range(since, NOW - 30_000, MINUTE_MS))
            assert times(got) == starts
            want = [feed.closed(t) for t in starts]
            for column in ("open", "high", "low", "close", "volume"):
                assert got[column].to_list() == pytest.approx([getattr(c, column) for c in want]), column

        self.run(story)

    def test_mark_candles_are_those_of_the_feed(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, since = self.feed_of(server), NOW - 30_000 - 5 * HOUR_MS
            got = await venue.fetch_mark_candles(markets[self.linear], since, NOW + HOUR_MS)
            assert got is not None
            starts = list(range(since, NOW - 30_000, MINUTE_MS))
            assert times(got) == starts
            assert got["mark_high"].to_list() == pytest.approx([feed.mark_candle(t).high for t in starts])
            assert got["mark_low"].to_list() == pytest.approx([feed.mark_candle(t).low for t in starts])

        self.run(story)

    @pytest.mark.parametrize("kind", ["linear", "inverse"])
    def test_open_interest_is_one_sided_base_coin_and_known_when_it_says(self, kind: str) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, market, late = self.feed_of(server), markets[getattr(self, kind)], self.open_interest_known_after_ms
            since = NOW - 30_000 - 20 * HOUR_MS
            got = await venue.fetch_open_interest(market, since, NOW + HOUR_MS)
            assert times(got) == list(range(since, NOW + 1, OI_EVERY_MS))
            assert got["open_interest"].to_list() == pytest.approx([feed.open_interest(t - late) for t in times(got)])
            now = await venue.fetch_open_interest_now(market)
            assert now.value == pytest.approx(feed.open_interest(NOW))
            assert now.time_ms == NOW

        self.run(story)

    def test_account_ratio_is_not_known_before_its_five_minutes_are_over(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, since = self.feed_of(server), NOW - 30_000 - 10 * HOUR_MS
            got = await venue.fetch_long_short_ratio(markets[self.linear], since, NOW + HOUR_MS)
            assert times(got) == list(range(since, NOW + 1, OI_EVERY_MS))
            want = [feed.long_short_ratio(t - self.ratio_known_after_ms) for t in times(got)]
            assert got["long_short_ratio"].to_list() == pytest.approx(want, rel=1e-3)

        self.run(story)

    def test_funding_is_what_was_settled(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed = self.feed_of(server)
            got = await venue.fetch_funding_rate(markets[self.linear], NOW - 2 * DAY_MS, NOW + HOUR_MS)
            assert [t % (8 * HOUR_MS) for t in times(got)] == [0] * 6
            assert got["funding_rate"].to_list() == pytest.approx([feed.funding_rate(t) for t in times(got)])
            now = await venue.fetch_funding_rate_now(markets[self.linear])
            assert now.rate == pytest.approx(feed.funding_rate(NOW))
            assert now.interval_ms == 8 * HOUR_MS

        self.run(story, days=3)

    def test_book_is_sorted_around_the_price_in_base_coin(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            price = self.feed_of(server).price(NOW - 1)
            for symbol in (self.linear, self.inverse):
                book = await venue.fetch_order_book(markets[symbol], 20)
                assert book.bids[0, 0] < price < book.asks[0, 0]
                assert (book.bids[:-1, 0] > book.bids[1:, 0]).all()
                assert (book.asks[:-1, 0] < book.asks[1:, 0]).all()
                assert book.bids[0, 1] == pytest.approx(1.0)
                assert len(book.bids) >= 20

        self.run(story)

    def test_asking_for_nothing_gives_empty_frames(self) -> None:
        async def story(_server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            market = markets[self.linear]
            assert (await venue.fetch_candles(market, NOW, NOW)).is_empty()
            assert (await venue.fetch_open_interest(market, NOW + HOUR_MS, NOW + DAY_MS)).is_empty()

        self.run(story)

    def test_waits_as_long_as_the_venue_asks_and_then_answers(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].add(path=self.candle_path, status=429, headers={"retry-after": "0.2"})
            began = asyncio.get_running_loop().time()
            got = await venue.fetch_candles(markets[self.linear], *HOUR)
            assert got.height == 60
            assert asyncio.get_running_loop().time() - began >= 0.2
            assert venue.health.errors == {"RateLimited": 1}

        self.run(story)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ({"status": 451, "times": 9}, RegionBlocked),
            ({"status": 503, "times": 9}, VenueDown),
            ({"drop": True, "times": 9}, VenueDown),
            ({"status": 429, "headers": {"retry-after": "900"}, "times": 9}, RateLimited),
            ({"cut_at": 0.6, "times": 9}, BadPayload),
        ],
    )
    def test_failures_are_told_by_kind(self, fault: dict[str, Any], error: type[Exception]) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].add(path=self.candle_path, **fault)
            with pytest.raises(error):
                await venue.fetch_candles(markets[self.linear], *HOUR)
            # Everything else still answers.
            if error is not RateLimited:
                assert (await venue.fetch_open_interest_now(markets[self.linear])).value > 0

        self.run(story)

    def test_schema_drift_names_endpoint_and_field(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].add(path=self.candle_path, edit=type(self).drifted, times=9)
            with pytest.raises(BadPayload) as caught:
                await venue.fetch_candles(markets[self.linear], *HOUR)
            assert caught.value.field == self.candle_field
            assert caught.value.endpoint in self.candle_path

        self.run(story)

    def test_a_price_that_cannot_be_is_left_out_and_counted(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].add(path=self.candle_path, edit=type(self).absurd)
            got = await venue.fetch_candles(markets[self.linear], *HOUR)
            assert got.height == 59
            assert venue.health.rejected == {("candles", "price not above 0"): 1}

        self.run(story)

    def test_a_market_that_is_gone_is_told_as_such(self) -> None:
        async def story(_server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            gone = Market(self.wire.venue, "LUNA/USDT:USDT", "linear", markets[self.linear].brackets)
            with pytest.raises(UnknownMarket):
                await venue.fetch_candles(gone, *HOUR)

        self.run(story)

    async def candles_while(
        self, server: VenueServer, venue: Exchange, markets: list[Market], story: Callable[[], Any], closed: int
    ) -> list[tuple[Market, Candle, bool]]:
        """Follow candles while a story goes on, until so many have closed."""
        got: list[tuple[Market, Candle, bool]] = []

        async def follow() -> None:
            async with contextlib.aclosing(venue.watch_candles(markets)) as stream:  # type: ignore[type-var]
                async for item in stream:
                    got.append(item)  # noqa: PERF401 - others read what has come so far

        return await self._while(follow, got, story, lambda: sum(c for _, _, c in got) >= closed, server)

    async def prints_while(
        self, server: VenueServer, venue: Exchange, markets: list[Market], story: Callable[[], Any], count: int
    ) -> list[tuple[Market, Liquidation]]:
        """Follow prints while a story goes on, until there are so many."""
        got: list[tuple[Market, Liquidation]] = []

        async def follow() -> None:
            async with contextlib.aclosing(venue.watch_liquidations(markets)) as stream:  # type: ignore[type-var]
                async for item in stream:
                    got.append(item)  # noqa: PERF401 - others read what has come so far

        return await self._while(follow, got, story, lambda: len(got) >= count, server)

    async def _while(
        self,
        follow: Callable[[], Any],
        got: list[Any],
        story: Callable[[], Any],
        done: Callable[[], bool],
        server: VenueServer,
    ) -> list[Any]:
        following = asyncio.ensure_future(follow())
        try:
            await server.subscribed(self.wire.venue, 1)
            await asyncio.sleep(0.05)
            await story()
            await until(lambda: done() or following.done())
            await asyncio.sleep(0.05)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        return got

    def test_the_candle_moves_and_closes_exactly_once(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            feed, both = self.feed_of(server), [markets[self.linear], markets[self.inverse]]
            got = await self.candles_while(server, venue, both, lambda: server.feed.advance(3 * MINUTE_MS), 6)
            for market in both:
                closed = [c for m, c, done in got if m is market and done]
                start = NOW - 30_000
                assert [c.time_ms for c in closed] == [start, start + MINUTE_MS, start + 2 * MINUTE_MS]
                for candle in closed:
                    want = feed.closed(candle.time_ms)
                    assert (candle.open, candle.high, candle.low, candle.close) == pytest.approx(
                        (want.open, want.high, want.low, want.close)
                    )
                    assert candle.volume == pytest.approx(want.volume)
                assert sum(not done for m, _, done in got if m is market) > 6

        self.run(story)

    def test_candles_sent_twice_and_out_of_order_change_nothing(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            before: list[Any] = []

            def muddle(messages: list[Any]) -> list[Any]:
                sent = [*messages, *before, *messages, "no json", '{"cut": ']
                before[:] = messages
                return sent

            server.faults[self.wire.venue].rewrite = muddle
            one = [markets[self.linear]]
            got = await self.candles_while(server, venue, one, lambda: server.feed.advance(2 * MINUTE_MS), 2)
            order = [(c.time_ms, done) for _, c, done in got]
            assert order == sorted(order)
            assert [c.time_ms for _, c, done in got if done] == [NOW - 30_000, NOW + 30_000]

        self.run(story, coins=("BTC",))

    def test_prints_are_those_of_the_feed_side_price_and_size(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            both = [markets[self.linear], markets[self.inverse]]
            want = self.feed_of(server).prints(NOW, NOW + 5 * MINUTE_MS)
            assert {p.side for p in want} == {"long", "short"}
            got = await self.prints_while(
                server, venue, both, lambda: server.feed.advance(5 * MINUTE_MS), 2 * len(want)
            )
            for market in both:
                mine = [p for m, p in got if m is market]
                assert [(p.time_ms, p.side) for p in mine] == [(p.time_ms, p.side) for p in want]
                assert [p.price for p in mine] == pytest.approx([p.price for p in want])
                assert [p.quantity_base for p in mine] == pytest.approx([p.quantity_base for p in want])
                assert [p.notional_usd for p in mine] == pytest.approx([p.notional_usd for p in want])

        self.run(story)

    def test_prints_sent_twice_count_once(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            server.faults[self.wire.venue].rewrite = lambda messages: [*messages, *messages]
            want = self.feed_of(server).prints(NOW, NOW + 5 * MINUTE_MS)
            one = [markets[self.linear]]
            got = await self.prints_while(server, venue, one, lambda: server.feed.advance(5 * MINUTE_MS), len(want))
            assert [p.time_ms for _, p in got] == [p.time_ms for p in want]

        self.run(story)

    def test_a_lost_socket_is_opened_again_and_the_gap_noted(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            async def broken() -> None:
                await server.feed.advance(MINUTE_MS)
                await until(lambda: "candles" in venue.health.last_message_ms)
                await server.drop_sockets(self.wire.venue)
                await until(lambda: venue.health.reconnects["candles"] > 0)
                await server.subscribed(self.wire.venue, 1)
                await asyncio.sleep(0.05)
                await server.feed.advance(MINUTE_MS)

            await self.candles_while(server, venue, [markets[self.linear]], broken, 2)
            assert venue.health.reconnects == {"candles": 1}
            assert [gap.what for gap in venue.health.gaps] == ["candles"]

        self.run(story)

    def test_a_market_the_venue_refuses_does_not_stop_the_others(self) -> None:
        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            gone = Market(self.wire.venue, "LUNA/USDT:USDT", "linear", markets[self.linear].brackets)
            both = [gone, markets[self.linear]]
            got = await self.candles_while(server, venue, both, lambda: server.feed.advance(MINUTE_MS), 1)
            assert {m.symbol for m, _, _ in got} == {self.linear}
            assert venue.health.rejected["subscriptions", "refused by the venue"] == 1

        self.run(story)

    def test_capabilities_are_what_the_code_does(self) -> None:
        async def story(_server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            declared, market = venue.capabilities, markets[self.linear]
            candles = await venue.fetch_candles(market, *HOUR)
            assert ("taker_buy_volume" in candles.columns) == declared.taker_buy_volume
            marks = await venue.fetch_mark_candles(market, *HOUR)
            assert (marks is not None) == (declared.mark_candles is not None)
            interest = await venue.fetch_open_interest(market, *HOUR)
            assert interest.is_empty() == (declared.open_interest_history is None)
            ratio = await venue.fetch_long_short_ratio(market, *HOUR)
            assert ratio.is_empty() == (declared.ratio_history is None)
            assert ((await venue.fetch_brackets(market)).source.startswith("public")) == (declared.brackets == "public")

        self.run(story)


class PulseContract(VenueContract):
    """Statements about a venue whose client listens to something that never rests beside the prints."""

    def test_a_quiet_market_is_no_dead_socket_but_a_silent_venue_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(f"estimator.exchanges.{self.wire.venue}._SILENCE_S", 0.5)

        async def story(server: VenueServer, venue: Exchange, markets: dict[str, Market]) -> None:
            # No prints: what is heard is that the venue lives.
            server.faults[self.wire.venue].rewrite = lambda messages: [
                m for m in messages if "iquidation" not in str(m)
            ]

            async def quiet() -> None:
                for _ in range(8):
                    await server.feed.advance(10_000)
                    await asyncio.sleep(0.1)
                assert not venue.health.reconnects
                server.faults[self.wire.venue].silent = True
                await until(lambda: venue.health.reconnects["liquidations"] > 0)

            assert await self.prints_while(server, venue, [markets[self.linear]], quiet, 0) == []

        self.run(story)
