"""The journal's way into history: nothing acknowledged is lost, nothing is stored twice, wherever it is killed."""

from __future__ import annotations

import logging
import multiprocessing
import random
import resource
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from estimator.cache import Cache
from estimator.cache.journal import JOURNAL, REJECTED, Entry
from estimator.domain import TIME
from estimator.errors import CacheUnavailable, CorruptEntry, HistoryUnavailable
from estimator.history import History, Published, PublishedStatus, Recorder, with_market
from estimator.model.book import PositionBook
from estimator.redis_server import BundledServer
from tests.estimator.history.writing import BATCH, MARKETS, entries_of, produce_and_record
from tests.estimator.model.markets import market
from tests.waiting import within

KILLS = 20
BTC, ETH = MARKETS
FOR_EVER = 2**42


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def recorder_of(cache: Cache, history: History, **options: Any) -> Recorder:
    return Recorder(cache.journal, history, **{"interval_s": 0.05, "backoff_s": 0.02, **options})


def interest(first_ms: int, n: int = 1) -> Entry:
    frame = pl.DataFrame({"time": range(first_ms, first_ms + n), "open_interest": [0.1 + i for i in range(n)]})
    return Entry.of("open_interest", BTC, frame.with_columns(pl.col("time").cast(TIME)))


def stored(history: History, table: Any = "open_interest", market_id: str = BTC) -> pl.DataFrame:
    return history.read(table, market_id, 0, FOR_EVER)


# --- the journal


def test_an_entry_gives_back_its_rows_exactly() -> None:
    frame = pl.DataFrame(
        {"time": [1, 2], "open": [0.1 + 0.2, 1e-300], "mark_high": [float("nan"), None], "side": ["long", "short"]}
    ).with_columns(pl.col("time").cast(TIME))
    got = Entry.of("candles", BTC, frame).frame()
    assert got["time"].equals(frame["time"])
    assert got["open"].to_list() == [0.1 + 0.2, 1e-300]
    assert got["mark_high"].null_count() == 2
    assert got["side"].to_list() == ["long", "short"]


@pytest.mark.parametrize("rows", [b"", b"{", b"[1]", b"{}", b'{"time": ["x"]}', b'{"time": [1], "a": [1, 2]}', b"\xff"])
def test_bytes_that_are_no_entry_are_called_corrupt(rows: bytes) -> None:
    with pytest.raises(CorruptEntry, match="candles"):
        Entry("candles", BTC, rows, 1).frame()


def test_the_journal_is_never_evicted_nor_cleared(cache: Cache, raw: Any) -> None:
    cache.journal.add([interest(1)])
    cache.clear_markets()
    assert cache.journal.length() == 1
    assert raw.ttl(JOURNAL) == -1


def test_taken_entries_stay_until_they_are_acknowledged(cache: Cache) -> None:
    assert cache.journal.read("a", 10, 10) == []
    ids = cache.journal.add([interest(1), interest(2)])
    assert [d.id for d in cache.journal.read("a", 10, 100)] == ids
    assert cache.journal.read("b", 10, 10) == []
    assert [d.id for d in cache.journal.resume("a", 10)] == ids
    cache.journal.ack(ids[:1])
    assert [d.id for d in cache.journal.resume("a", 10)] == ids[1:]
    assert cache.journal.length() == 1


def test_a_journal_without_redis_says_so() -> None:
    cache = Cache("redis://127.0.0.1:1/0")
    with pytest.raises(CacheUnavailable):
        cache.journal.add([interest(1)])


# --- recording


def test_what_the_journal_holds_reaches_its_tables_and_leaves_it(cache: Cache, history: History) -> None:
    cache.journal.add(entries_of(0) + entries_of(1))
    recorder = recorder_of(cache, history)
    assert recorder.move() == 8
    for market_id in MARKETS:
        assert stored(history, "liquidations", market_id).height == 2 * BATCH
        assert stored(history, "open_interest", market_id)["open_interest"].to_list() == [1.0, 2.0]
    assert cache.journal.length() == 0
    status = recorder.status
    assert (status.stored, status.known, status.waiting, status.error) == (2 * 2 * (BATCH + 1), 0, 0, None)


def test_a_batch_is_as_few_commits_as_it_has_tables(cache: Cache, history: History) -> None:
    for batch in range(20):
        cache.journal.add(entries_of(batch))
    recorder_of(cache, history).move()
    versions = len(list(Path(history.root).glob("liquidations/_delta_log/*.json")))
    assert versions == 2


def test_a_batch_ends_when_it_has_enough_rows(cache: Cache, history: History) -> None:
    for batch in range(3):
        cache.journal.add([interest(1000 * batch, 500)])
    began = time.monotonic()
    assert recorder_of(cache, history, interval_s=30, batch_rows=1000).move() == 3
    assert time.monotonic() - began < 5


def test_rows_delivered_again_are_known(cache: Cache, history: History) -> None:
    recorder = recorder_of(cache, history)
    for _ in range(2):
        cache.journal.add(entries_of(0))
        recorder.move()
    assert (recorder.status.stored, recorder.status.known) == (8, 8)


def test_a_recorder_that_stops_has_stored_everything(cache: Cache, history: History) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=recorder_of(cache, history).run, args=(stop,))
    thread.start()
    for batch in range(30):
        cache.journal.add(entries_of(batch))
    stop.set()
    thread.join(10)
    assert cache.journal.length() == 0
    assert stored(history).height == 30


def test_two_recorders_share_the_journal(cache: Cache, history: History) -> None:
    stop = threading.Event()
    recorders = [recorder_of(cache, history, consumer=name) for name in ("one", "two")]
    threads = [threading.Thread(target=r.run, args=(stop,)) for r in recorders]
    for thread in threads:
        thread.start()
    for batch in range(40):
        cache.journal.add(entries_of(batch))
    stop.set()
    for thread in threads:
        thread.join(20)
    assert cache.journal.length() == 0
    assert stored(history).height == 40
    assert sum(r.status.stored for r in recorders) == 40 * 8


# --- faults


def test_an_entry_that_can_never_be_stored_is_set_aside_and_holds_up_nothing(
    cache: Cache, history: History, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = pl.DataFrame({"time": [1], "open_interest": [float("inf")]}).with_columns(pl.col("time").cast(TIME))
    cache.journal.add(
        [
            Entry("open_interest", BTC, b"torn", 1),
            Entry.of("open_interest", BTC, wrong),
            Entry("trades", BTC, interest(1).rows, 1),
            Entry("open_interest", "no market", interest(1).rows, 1),
            interest(5),
        ]
    )
    raw.xadd(JOURNAL, {"t": b"\xff", "x": "of another make"})
    recorder = recorder_of(cache, history)
    with caplog.at_level(logging.ERROR):
        recorder.move()
    assert stored(history)["time"].dt.epoch("ms").to_list() == [5]
    assert recorder.status.rejected == cache.journal.rejected() == 5
    assert cache.journal.length() == 0
    reasons = [fields[b"reason"].decode() for _, fields in raw.xrange(REJECTED)]
    for reason, named in zip(reasons, ("open_interest", "finite", "no market", "trades", "journal"), strict=True):
        assert named in reason
    assert len(caplog.records) == 5


def test_while_history_cannot_be_written_entries_wait_and_the_error_shows(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "history"
    root.write_text("in the way")
    history, stop = History(root), threading.Event()
    recorder = recorder_of(cache, history, warn_entries=5)
    thread = threading.Thread(target=recorder.run, args=(stop,))
    with caplog.at_level(logging.WARNING):
        thread.start()
        cache.journal.add([interest(i) for i in range(10)])
        assert within(5, lambda: recorder.status.overdue and recorder.status.error is not None)
        assert cache.journal.length() == 10
        root.unlink()
        assert within(5, lambda: cache.journal.length() == 0)
        stop.set()
        thread.join(5)
    assert stored(history).height == 10
    assert recorder.status.error is None
    assert not recorder.status.overdue
    said = [r.message for r in caplog.records]
    assert sum("nothing is lost" in m for m in said) == 1
    assert any("10 entries wait in the journal" in m for m in said)


def test_a_panic_below_history_ends_nothing_and_shows(
    cache: Cache, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As what a library in Rust raises when it gives up."""

    def give_up(*_: object, **__: object) -> None:
        raise Panic("index out of bounds")

    stop, recorder, published = threading.Event(), recorder_of(cache, history), Published(history, interval_s=0.05)
    threads = [threading.Thread(target=one.run, args=(stop,)) for one in (recorder, published)]
    for thread in threads:
        thread.start()
    with monkeypatch.context() as patched:
        patched.setattr("estimator.history.store.write_deltalake", give_up)
        cache.journal.add([interest(0)])
        published.add_book(PositionBook(market()), 86_400_000)
        assert within(5, lambda: "index out of bounds" in str(recorder.status.error))
        assert within(5, lambda: "index out of bounds" in str(published.status.error))
    assert within(5, lambda: cache.journal.length() == 0 and recorder.status.error is None)
    assert within(5, lambda: published.status == PublishedStatus())
    stop.set()
    for thread in threads:
        thread.join(5)
    assert stored(history).height == 1


def test_a_full_disk_leaves_entries_in_the_journal(cache: Cache, history: History) -> None:
    cache.journal.add([interest(0, 2000)])
    recorder = recorder_of(cache, history)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(HistoryUnavailable):
            recorder.move()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.journal.length() == 1
    assert recorder.move() == 1
    assert stored(history).height == 2000


def test_a_recorder_outlives_its_redis(tmp_path: Path) -> None:
    history, stop = History(tmp_path / "history"), threading.Event()
    with BundledServer(tmp_path) as server:
        cache = Cache(server.url)
        cache.journal.add([interest(1)])
        recorder = recorder_of(cache, history)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        assert within(5, lambda: stored(history).height == 1)
    assert within(5, lambda: recorder.status.error is not None and "Redis" in recorder.status.error)
    assert thread.is_alive()
    stop.set()
    thread.join(10)
    cache.close()


def test_a_flushed_redis_is_started_on_anew(cache: Cache, history: History, raw: Any) -> None:
    recorder = recorder_of(cache, history)
    recorder.move()
    raw.flushall()
    assert recorder.move() == 0
    cache.journal.add([interest(1)])
    assert recorder.move() == 1


@pytest.mark.parametrize("crash", ["after the commit", "before the commit"])
def test_entries_taken_before_a_crash_are_stored_once_after_it(cache: Cache, history: History, crash: str) -> None:
    cache.journal.add(entries_of(0))
    taken = cache.journal.read("worker", 10, 100)
    assert len(taken) == 4
    if crash == "after the commit":
        for market_id in MARKETS:
            assert recorder_like_commit(history, market_id, taken) > 0
    recorder = recorder_of(cache, history, consumer="worker")
    assert recorder.move() == 4
    assert cache.journal.length() == 0
    assert stored(history, "liquidations").height == BATCH
    assert stored(history).height == 1


def recorder_like_commit(history: History, market_id: str, taken: list[Any]) -> int:
    """Commit as a recorder that dies before it acknowledges."""
    entries = [d.entry for d in taken if d.entry.market_id == market_id]
    return sum(history.append(e.table, with_market(market_id, e.frame())) for e in entries)


def test_killed_anywhere_everything_acknowledged_is_stored_exactly_once(
    url: str, cache: Cache, history: History, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.estimator.history.writing"])
    acknowledged, rng = tmp_path / "acknowledged", random.Random(7)  # noqa: S311  # moments to kill at, repeatable
    acknowledged.touch()
    for _ in range(KILLS):
        first = len(acknowledged.read_text().split())
        process = context.Process(target=produce_and_record, args=(url, history.root, str(acknowledged), first))
        process.start()
        assert within(10, lambda n=first: len(acknowledged.read_text().split()) > n)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
        assert process.exitcode == -9
        process.close()
    last = len(acknowledged.read_text().split())
    cache.journal.add(entries_of(last))  # the producer does not know whether its last batch arrived: it sends it again
    left = cache.journal.length()
    assert left < 4 * last  # recorders were killed at work
    recorder = recorder_of(cache, history)
    while cache.journal.length():
        recorder.move()
    times = [1_700_000_000_000 + 1000 * batch for batch in range(last + 1)]
    for market_id in MARKETS:
        prints = stored(history, "liquidations", market_id)
        assert prints["time"].dt.epoch("ms").to_list() == [t for t in times for _ in range(BATCH)]
        assert prints.n_unique(["time", "side", "price", "quantity_base", "print_id"]) == prints.height
        assert stored(history, "open_interest", market_id)["time"].dt.epoch("ms").to_list() == times
    print(f"{last} batches over {KILLS} kills, {left} entries left in the journal, {recorder.status.known} known rows")
