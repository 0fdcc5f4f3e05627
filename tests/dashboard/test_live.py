"""What moves, as those see it who follow it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import polars as pl
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from dashboard import live
from dashboard.answers import Answers
from dashboard.events import RESUME_MS, RESUME_PRINTS, Mark, Wanted, read_id, write_id
from dashboard.live import MAX_BEHIND, Follower, Live
from dashboard.live_routes import EventStream
from dashboard.view import ViewError
from estimator import LiquidationGrid
from estimator.cache import Cache
from estimator.domain import Liquidation, Side
from estimator.model.series import SERIES
from estimator.publishing import Rows
from estimator.redis_server import BundledServer
from tests.dashboard.conftest import serve
from tests.dashboard.sample import AS_OF_MS, LAST_MS, STEP_MS, sample_status

BTC, ETH = "okx:BTC/USDT:USDT", "okx:ETH/USDT:USDT"
CHANNEL: Final = "liqheat:v1:updates"


@dataclass
class Said:
    """An event as it came."""

    kind: str
    id: str
    data: dict[str, Any]


def _events(answer: httpx.Response) -> Iterator[Said]:
    lines: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            lines[name] = value
        elif "event" in lines:
            yield Said(lines["event"], lines.get("id", ""), json.loads(lines["data"]))
            lines = {}


def _until(events: Iterator[Said], kind: str) -> Said:
    return next(e for e in events if e.kind == kind)


@pytest.fixture
def redis_of_two(tmp_path: Path) -> Iterator[str]:
    """BTC and ETH on one venue, nothing but their statuses."""
    with BundledServer(tmp_path) as server:
        cache = Cache(server.url)
        for coin, rank in (("BTC", 0), ("ETH", 1)):
            cache.put_status(sample_status("okx", coin, rank))
        cache.close()
        yield server.url


def _move(cache: Cache, coin: str, price: float, seconds: int) -> None:
    """Move a price, as the worker does: the status first, then the message."""
    status = sample_status("okx", coin, 0)
    moved = replace(status, version=7, as_of_ms=AS_OF_MS + 1000 * seconds, mark_price=price)
    cache.put_status(moved)
    cache.publish(moved.id, {"version": 7, "as_of_ms": moved.as_of_ms, "mark_price": price})


def _print(number: int) -> Liquidation:
    return Liquidation(AS_OF_MS + number, Side.LONG, 100.0, 1.0 + number, 100.0 * (1 + number))


def _add(cache: Cache, number: int) -> None:
    cache.add_liquidations(BTC, [_print(number)])


def _column(close_ms: int, usd: float) -> LiquidationGrid:
    """One column with longs ten bins below the mark."""
    at = int(np.floor(np.log(sample_status("okx", "BTC", 0).mark_price) / 0.001)) - 10
    cells = np.full((1, 3), usd, dtype=np.float32)
    return LiquidationGrid(np.array([close_ms], "datetime64[ms]"), at, 0.001, cells, np.zeros_like(cells))


def _close(cache: Cache, steps: int, usd: float) -> None:
    """Close a column, as the worker does: the column first, then the status and the message."""
    status = sample_status("okx", "BTC", 0)
    close_ms = LAST_MS + steps * STEP_MS
    cache.put_columns(BTC, 0, _column(close_ms, usd))
    cache.put_status(replace(status, last_ms=close_ms, version=status.version + steps, as_of_ms=close_ms))
    cache.publish(BTC, {"version": status.version + steps, "as_of_ms": close_ms, "mark_price": status.mark_price})


def test_prices_of_the_coins_come_and_no_others(redis_of_two: str) -> None:
    cache = Cache(redis_of_two)
    with serve(redis_of_two) as client, client.stream("GET", "/api/v1/stream?symbol=BTC&events=price") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = _events(answer)
        first = next(events)
        assert [m["market"] for m in first.data["markets"]] == [BTC]
        assert first.data["markets"][0]["mark_price"] == sample_status("okx", "BTC", 0).mark_price
        for second, price in ((1, 12.5), (2, 13.5)):
            _move(cache, "ETH", 1.0, second)
            _move(cache, "BTC", price, second)
            assert _until(events, "price").data["markets"] == [
                {"version": 7, "as_of_ms": AS_OF_MS + 1000 * second, "mark_price": price, "market": BTC}
            ]
    cache.close()


def test_many_who_follow_share_one_subscription_which_ends_with_them(redis_of_two: str) -> None:
    def subscriptions() -> int:
        with redis.Redis.from_url(redis_of_two) as store:
            return int(store.pubsub_numsub(CHANNEL)[0][1])

    with serve(redis_of_two) as client:
        with ExitStack() as stack:
            opened = [
                stack.enter_context(client.stream("GET", f"/api/v1/stream?symbol={coin}&events=price"))
                for coin in ("BTC", "ETH", "BTC,ETH") * 5
            ]
            following = [_events(answer) for answer in opened]
            assert {next(events).kind for events in following} == {"price"}
            assert subscriptions() == 1
        end = time.monotonic() + 10
        while subscriptions():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_who_comes_as_the_last_one_leaves_is_told_what_is_published(redis_of_two: str) -> None:
    async def scene() -> None:
        cache = Cache(redis_of_two)
        live, wanted = Live(cache, Answers(cache)), Wanted(("BTC",), events=frozenset(("price",)))
        (await live.follow(wanted)).leave()  # while the subscription is being made
        follower = await live.follow(wanted)

        async def publish() -> None:
            while True:  # the statuses know nothing of it: it comes over the subscription, or never
                cache.publish(BTC, {"version": 1, "as_of_ms": AS_OF_MS, "mark_price": "only published"})
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(20):
            async for event in follower.events():
                if b"only published" in event:
                    break
        publishing.cancel()
        follower.leave()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not (await asyncio.wait(left, timeout=20))[1]
        await cache.aclose()

    asyncio.run(scene())


def test_a_column_that_closes_is_told_once_and_the_open_one_as_it_stands(redis_of_two: str) -> None:
    cache = Cache(redis_of_two)
    with serve(redis_of_two) as client, client.stream("GET", "/api/v1/stream?symbol=BTC&events=column") as answer:
        events = _events(answer)
        next(events)
        _close(cache, 1, 5000.0)
        closed = _until(events, "column")
        assert (closed.data["time_ms"], closed.data["open"], closed.data["basis"]) == (
            LAST_MS + STEP_MS, False, "estimated",
        )  # fmt: skip
        assert closed.data["long"] == {"first_bin": _column(0, 1.0).first_bin, "usd": [5000, 5000, 5000]}
        assert closed.data["short"]["usd"] == []
        cache.put_live(BTC, _column(LAST_MS + 2 * STEP_MS, 7000.0), _candle())
        cache.publish(BTC, {"version": 9, "as_of_ms": LAST_MS + STEP_MS + 1000, "mark_price": 1.0})
        after = _until(events, "column")
        assert (after.data["time_ms"], after.data["open"]) == (LAST_MS + 2 * STEP_MS, True)
        assert after.id == ""  # it will be told again: nothing is complete with it
    cache.close()


def _candle() -> pl.DataFrame:
    """Return the candle of the open column."""
    return Rows.single(LAST_MS + STEP_MS, dict.fromkeys(SERIES, 1.0))


def test_nothing_is_lost_or_doubled_over_a_break_even_by_another_process(redis_of_two: str) -> None:
    cache, last = Cache(redis_of_two), ""
    seen: list[int] = []
    columns: list[int] = []
    address = "/api/v1/stream?symbol=BTC&events=column,print"
    number = 0
    for turn in range(3):
        with serve(redis_of_two) as client:
            headers = {"Last-Event-ID": last} if last else {}
            with client.stream("GET", address, headers=headers) as answer:
                events = _events(answer)
                if not last:
                    last = next(events).id
                _close(cache, turn + 1, 100.0 * (turn + 1))
                _add(cache, number := number + 1)
                wanted = {number}
                while not (wanted <= set(seen) and len(columns) > turn):
                    event = next(events)
                    last = event.id or last
                    if event.kind == "print":
                        seen += [round(row[3]) - 1 for row in event.data["rows"]]
                    elif event.kind == "column":
                        columns.append(event.data["time_ms"])
        for _ in range(5):
            _add(cache, number := number + 1)
    assert seen == list(range(1, seen[-1] + 1))
    assert columns == sorted(set(columns))
    cache.close()


def test_columns_too_old_to_be_told_again_are_a_gap(redis_of_two: str) -> None:
    old = write_id({BTC: Mark(LAST_MS - 2 * RESUME_MS, "0-0")})
    with serve(redis_of_two) as client:
        address = "/api/v1/stream?symbol=BTC&events=column"
        with client.stream("GET", address, headers={"Last-Event-ID": old}) as answer:
            gap = _until(_events(answer), "gap")
    assert gap.data == {
        "market": BTC, "what": "column", "after_ms": LAST_MS - 2 * RESUME_MS, "until_ms": LAST_MS - RESUME_MS,
    }  # fmt: skip


def test_of_more_prints_than_are_told_again_the_newest_come_and_the_rest_is_a_gap(redis_of_two: str) -> None:
    cache = Cache(redis_of_two)
    cache.add_liquidations(BTC, [_print(number) for number in range(RESUME_PRINTS + 5)])
    cache.close()
    begun = write_id({BTC: Mark(LAST_MS, "0-0")})
    with serve(redis_of_two) as client:
        address = "/api/v1/stream?symbol=BTC&events=print"
        with client.stream("GET", address, headers={"Last-Event-ID": begun}) as answer:
            gap, told = islice(_events(answer), 2)
    assert (gap.kind, gap.data["what"], gap.data["until_ms"]) == ("gap", "print", AS_OF_MS + 5)
    assert [row[0] - AS_OF_MS for row in told.data["rows"]] == list(range(5, RESUME_PRINTS + 5))


def test_a_quiet_market_is_told_from_a_dead_connection(redis_of_two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.1)
    with serve(redis_of_two) as client, client.stream("GET", "/api/v1/stream?symbol=BTC") as answer:
        events = _events(answer)
        assert [_until(events, "alive").data for _ in range(2)] == [{}, {}]


def test_that_nothing_moves_is_not_said_by_one_who_cannot_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.1)
    with ExitStack() as store:
        redis_url = store.enter_context(BundledServer(tmp_path)).url
        cache = Cache(redis_url)
        cache.put_status(sample_status("okx", "BTC", 0))
        cache.close()
        with serve(redis_url) as client, client.stream("GET", "/api/v1/stream?symbol=BTC", timeout=2) as answer:
            events = _events(answer)
            _until(events, "alive")
            store.close()
            with pytest.raises(httpx.ReadTimeout):
                _until(events, "nothing ever")


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("symbol=NOPE", "symbol"),
        ("symbol=BTC,NOPE", "symbol"),
        ("symbol=BTC/USDT", "symbol"),
        ("symbol=", "symbol"),
        ("symbol=" + ",".join(f"A{n}" for n in range(17)), "symbol"),
        ("symbol=BTC&venues=kraken", "venues"),
        ("symbol=BTC&venues=../x", "venues"),
        ("symbol=BTC&events=price,nope", "events"),
        ("symbol=BTC&events=", "events"),
        ("symbol=BTC&range=24h", "range"),
    ],
)
def test_what_cannot_be_followed_is_named(client: httpx.Client, query: str, wrong: str) -> None:
    answer = client.get(f"/api/v1/stream?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (422, wrong)


@pytest.mark.parametrize("ident", ["x", "a=b", "binance:BTC=1/2", "binance:BTC/USDT:USDT=1/2-3;", "=" * 20_000])
def test_an_id_nobody_gave_is_refused(client: httpx.Client, ident: str) -> None:
    answer = client.get("/api/v1/stream?symbol=BTC", headers={"Last-Event-ID": ident})
    assert (answer.status_code, answer.json()["parameter"]) == (422, "Last-Event-ID")


_marks = st.dictionaries(
    st.from_regex(r"[a-z]{1,12}:[A-Z0-9]{1,10}/USD[TC]:USD[TC]", fullmatch=True),
    st.builds(
        Mark, st.integers(0, 2**45), st.tuples(st.integers(0, 2**45), st.integers(0, 999)).map("{0[0]}-{0[1]}".format)
    ),
    min_size=1,
)


@given(_marks)
def test_an_id_says_all_that_was_told(marks: dict[str, Mark]) -> None:
    assert read_id(write_id(marks)) == marks


@given(st.text(max_size=60))
def test_any_text_is_a_choice_or_an_error_that_names_it(text: str) -> None:
    try:
        wanted = Wanted.parse(f"symbol={text}&events={text}", "BTC")
    except ViewError:
        return
    assert wanted.coins
    assert wanted.events


def test_one_that_does_not_read_is_let_go_and_holds_nobody_up() -> None:
    async def scene() -> None:
        left: list[Follower] = []
        slow, quick = Follower(left.append), Follower(left.append)
        got: list[bytes] = []

        async def never(_message: Message) -> None:
            await asyncio.Event().wait()

        async def here() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        async def read() -> None:
            async for event in quick.events():
                got.append(event)  # noqa: PERF401 - it never ends: what has come so far counts

        stream = asyncio.create_task(EventStream(slow)({}, here, never))
        reading = asyncio.create_task(read())
        for number in range(2 * MAX_BEHIND):
            for follower in (slow, quick):
                follower.tell(b"%d" % number)
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await stream
        assert left == [slow]
        assert len(got) >= 2 * MAX_BEHIND - 1
        assert not quick.lost.is_set()
        reading.cancel()

    asyncio.run(scene())
