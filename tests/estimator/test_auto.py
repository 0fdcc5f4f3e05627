"""``--source auto``: live where a venue answers, else simulated, and live again only where a user asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import ccxt.async_support as ccxt
import pytest
import redis

from estimator.auto import Auto
from estimator.cache import Cache, Choice
from estimator.domain import MINUTE_MS, Origin
from estimator.errors import LiqheatError, SettingsError
from estimator.history import History
from estimator.probe import QUESTIONS, ask_venues, in_words
from estimator.settings import Settings
from estimator.worker import work
from tests.venues.feed import Feed
from tests.venues.server import VENUES, VenueServer, running
from tests.waiting import until

CLIENTS: Final = {"binance": "binanceusdm"}
THREE: Final = ("binance", "bybit", "okx")
BTC: Final = "BTC/USDT:USDT"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def answers(names: tuple[str, ...] = THREE, *, within_s: float = 1.0, base: str) -> dict[str, str | None]:
    async with aclosing(ask_venues(names, within_s=within_s, base=base)) as said:
        return {name: problem async for name, problem in said}


def with_venues(story: Callable[[VenueServer], Awaitable[None]]) -> None:
    """Tell a story before venues that answer."""

    async def told() -> None:
        async with asyncio.timeout(30), running(Feed(now_ms(), days=0.1, coins=("BTC",))) as server:
            await story(server)

    asyncio.run(told())


@contextlib.contextmanager
def dead_address() -> Iterator[str]:
    """An address that refuses every connection: bound, so that nobody else takes it, and not listened to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# asking


@pytest.mark.parametrize("venue", VENUES)
def test_a_venue_is_asked_what_its_client_asks_for_the_time(venue: str) -> None:
    async def story(server: VenueServer) -> None:
        assert await answers((venue,), base=server.base) == {venue: None}
        (ours,) = server.calls
        client = getattr(ccxt, CLIENTS.get(venue, venue))({"enableRateLimit": False})
        sent: list[tuple[str, Any]] = []

        async def note(url: str, *rest: Any) -> Any:
            sent.append((url, rest[-1]))
            return {"code": "0", "data": [{"ts": "1"}]} if venue == "okx" else {"data": {}}

        client.fetch = note
        await client.fetch_time()
        await client.close()
        ((address, body),) = sent
        assert address.partition("?")[0] == QUESTIONS[venue][0] == f"https://{ours.host}{ours.path}"
        assert (body is None) == (QUESTIONS[venue][1] is None)

    with_venues(story)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 451}, "does not serve this region (451)"),
        ({"status": 403}, "does not serve this region (403)"),
        ({"status": 429}, "asks for a pause (429)"),
        ({"status": 503}, "is out of order (503)"),
        (
            {"status": 302, "headers": {"location": "http://a.invalid/"}},
            "something else answers in its place (302)",
        ),
        ({"status": 200, "body": "<html>please log in"}, "something else answers in its place (200)"),
        ({"latency_s": 4}, "no answer within 2 s"),
        ({"drop": True}, "the connection broke off"),
    ],
)
def test_why_a_venue_is_of_no_use_is_told_in_words(fault: dict[str, Any], words: str) -> None:
    async def story(server: VenueServer) -> None:
        server.faults["bybit"].add(**fault)
        said = await answers(within_s=2, base=server.base)
        assert said == {"binance": None, "bybit": words, "okx": None}

    with_venues(story)


def test_no_network_is_told_at_once() -> None:
    began = time.monotonic()
    with dead_address() as base:
        assert set(asyncio.run(answers(base=base)).values()) == {"the connection is refused"}
    nowhere = asyncio.run(answers(base="http://no-such-host.invalid:1"))
    assert set(nowhere.values()) == {"no network, its name is not found"}
    assert time.monotonic() - began < 5
    words = in_words({name: nowhere[name] or "" for name in THREE})
    assert words == "Binance, Bybit, OKX: no network, its name is not found"


def test_an_unknown_venue_is_named() -> None:
    with pytest.raises(SettingsError, match="'mtgox' is not one of binance"):
        asyncio.run(answers(("mtgox",), base="http://127.0.0.1:1"))


# choosing


def made(cache: Cache, base: str, shard: tuple[int, int] = (0, 1), *, within_s: float = 0.5) -> Auto:
    settings = Settings(exchange_base=base, probe_s=within_s, probe_every_s=0.1, _env_file=None)  # type: ignore[call-arg]
    return Auto(settings, cache.choices, shard)


def test_one_venue_that_answers_is_enough_and_the_dead_are_not_waited_for(cache: Cache) -> None:
    async def story(server: VenueServer) -> None:
        for venue in ("binance", "okx"):
            server.faults[venue].add(latency_s=60)
        began = time.monotonic()
        assert await made(cache, server.base, within_s=20.0).ask() == {}
        assert time.monotonic() - began < 5

    with_venues(story)


def test_venues_that_are_too_slow_do_not_count(cache: Cache) -> None:
    async def story(server: VenueServer) -> None:
        for venue in THREE:
            server.faults[venue].add(latency_s=3)
        problems = await made(cache, server.base, within_s=0.2).ask()
        assert problems == dict.fromkeys(THREE, "no answer within 0.2 s")

    with_venues(story)


def test_a_venue_that_comes_back_is_noted_but_only_a_user_ends_the_simulation(cache: Cache) -> None:
    async def story(server: VenueServer) -> None:
        dead = dict.fromkeys(THREE, "the connection is refused")
        server.faults["binance"].add(status=451, times=1000)
        waiting = asyncio.ensure_future(made(cache, server.base).until_asked(dead))
        await until(lambda: (said := cache.choices.get()) is not None and bool(said.answering))
        said = cache.choices.get()
        assert said is not None
        assert said.source == "simulated"
        assert said.answering == ("bybit", "okx")
        assert said.problems == {"binance": "does not serve this region (451)"}
        await asyncio.sleep(0.7)
        assert not waiting.done()
        cache.choices.ask_for_live()
        await asyncio.wait_for(waiting, 5)

    with_venues(story)


def test_a_user_who_asked_is_not_asked_about_venues(cache: Cache) -> None:
    cache.choices.ask_for_live()
    with dead_address() as base:
        assert asyncio.run(made(cache, base).ask()) == {}


def test_the_choice_is_one_for_all_workers_and_outlives_the_first(cache: Cache) -> None:
    async def story() -> None:
        first, second = (made(cache, "http://127.0.0.1:1", (i, 2)) for i in range(2))
        assert not await first.is_chosen()
        waiting = asyncio.ensure_future(second.is_chosen())
        cache.choices.put(Choice("simulated", 1, {"okx": "no network"}))
        await asyncio.sleep(1.2)
        assert not waiting.done()
        keeping = asyncio.ensure_future(first.keep_live())
        assert await asyncio.wait_for(waiting, 5)
        keeping.cancel()
        assert await made(cache, "http://127.0.0.1:1").is_chosen()  # a worker that was started again

    asyncio.run(story())


def test_a_fixed_source_leaves_no_choice_behind(cache: Cache, tmp_path: Path) -> None:
    cache.choices.put(Choice("simulated", 1, {}, ("bybit",)))
    settings = Settings(source="recorded", recording=tmp_path, _env_file=None)  # type: ignore[call-arg]
    with pytest.raises(LiqheatError):
        asyncio.run(work(settings, cache, lambda _done, _text: None))
    assert cache.choices.get() is None


def test_a_new_run_forgets_markets_and_keeps_the_choice(cache: Cache) -> None:
    choice = Choice("simulated", 1, {"okx": "no network"}, ("bybit",))
    cache.choices.put(choice)
    cache.put_progress(0.5, "simulating")
    cache.clear_markets()
    assert cache.get_progress() is None
    assert cache.choices.get() == choice


# the worker as a process


@contextlib.contextmanager
def worker(folder: Path, url: str, base: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "REDIS_URL": url, "LIQHEAT_SOURCE": "auto", "LIQHEAT_EXCHANGE_BASE": base, "LIQHEAT_DAYS": "0.5",
        "LIQHEAT_DATA": str(folder), "LIQHEAT_MARKETS": "BTC", "LIQHEAT_VENUES": "bybit",
        "LIQHEAT_PROBE_EVERY_S": "0.3",
    }  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LIQHEAT_")}
    process = subprocess.Popen([sys.executable, "-m", "dashboard.cli", "worker"], env=kept | settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def passing(feed: Feed) -> None:
    """Let the venues' time pass as the clock's does."""
    while True:
        await feed.advance(max(now_ms() - feed.now_ms, 0))
        await asyncio.sleep(0.2)


def simulated_keys(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as raw:
        return list(raw.scan_iter("liqheat:v1:*:prints:simulated:*"))


def loaded(cache: Cache) -> set[Origin]:
    return {s.origin for s in cache.get_statuses() if s.loaded}


def test_live_data_takes_over_by_one_click_and_nothing_simulated_survives(
    cache: Cache, url: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")

    async def story() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            with worker(tmp_path, url, f"http://127.0.0.1:{port}") as process:
                await until(lambda: loaded(cache) == {Origin.SIMULATED})
                await until(lambda: bool(simulated_keys(url)))
                (words,) = {s.source.partition("; ")[2] for s in cache.get_statuses()}
                assert words == "no venue answers (Bybit: the connection is refused)"
                held.close()
                feed = Feed(now_ms(), days=1.0, coins=("BTC",))
                async with running(feed, port=port) as server:
                    time_passes = asyncio.ensure_future(passing(feed))
                    await until(lambda: (said := cache.choices.get()) is not None and said.answering == ("bybit",))
                    assert loaded(cache) == {Origin.SIMULATED}
                    assert not (tmp_path / "history").exists()
                    cache.choices.ask_for_live()
                    await until(lambda: loaded(cache) == {Origin.LIVE})
                    assert [s.id for s in cache.get_statuses()] == [f"bybit:{BTC}"]
                    assert not simulated_keys(url)
                    assert process.poll() is None
                    await until(lambda: not cache.choices.is_live_asked())
                    assert_only_the_venue_is_in_history(history, server, since_ms=now_ms() - 2 * 86_400_000)
                    time_passes.cancel()

    asyncio.run(story())


def assert_only_the_venue_is_in_history(history: History, server: VenueServer, *, since_ms: int) -> None:
    for venue in THREE:
        candles = history.read("candles", f"{venue}:{BTC}", since_ms, now_ms() + MINUTE_MS)
        truth = server.feed.market("bybit", "BTC")
        starts = candles["time"].dt.epoch("ms").to_list()
        assert candles["close"].to_list() == [truth.closed(t).close for t in starts]
        assert bool(starts) == (venue == "bybit")


def test_where_a_venue_answers_nothing_simulated_is_ever_shown(cache: Cache, url: str, tmp_path: Path) -> None:
    async def story() -> None:
        feed = Feed(now_ms(), days=1.0, coins=("BTC",))
        async with running(feed) as server:
            with worker(tmp_path, url, server.base):
                time_passes, seen = asyncio.ensure_future(passing(feed)), set()
                while Origin.LIVE not in loaded(cache):
                    seen |= {s.origin for s in cache.get_statuses()}
                    await asyncio.sleep(0.02)
                time_passes.cancel()
                assert seen <= {Origin.LIVE}
                assert not simulated_keys(url)
                await until(lambda: (said := cache.choices.get()) is not None and said.source == "live")

    asyncio.run(asyncio.wait_for(story(), 60))
