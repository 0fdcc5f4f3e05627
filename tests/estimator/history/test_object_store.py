"""History in an object store, here one that speaks S3: the same promises as on a disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from estimator.cache import Cache
from estimator.domain import DAY_MS
from estimator.errors import HistoryUnavailable
from estimator.history import History, Published, Recorder
from estimator.model.book import PositionBook
from estimator.redis_server import BundledServer
from tests.estimator.history.test_store import BTC, ETH, T0, candles, make_grid, read_all
from tests.estimator.history.writing import BATCH, MARKETS, entries_of
from tests.estimator.model.markets import market

SERVE = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Address of an empty store on loopback."""
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet) as server:
        try:
            assert server.stdout is not None
            base = f"http://127.0.0.1:{int(server.stdout.readline())}"
            urllib.request.urlopen(urllib.request.Request(f"{base}/bucket", method="PUT")).close()
            yield base
        finally:
            server.kill()


@pytest.fixture
def root(base: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    speak_to(base, monkeypatch)
    return f"s3://bucket/{request.node.name}"


def speak_to(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what docs/operations.md says to set."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", base)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_rows_come_back_once_and_the_first_wins(root: str) -> None:
    history = History(root)
    assert history.last_time("candles", BTC) is None
    assert history.append("candles", pl.concat([candles(BTC), candles(ETH, price=7.0)])) == 20
    assert history.append("candles", candles(BTC, 5, 10, price=900.0)) == 5
    again = History(root)  # as another process sees it
    assert read_all(again, "candles", BTC)["open"].to_list()[:10] == candles(BTC)["open"].to_list()
    assert read_all(again, "candles", BTC).height == 15
    assert read_all(again, "candles", ETH)["open"][0] == 7.0


def test_writers_that_are_at_it_at_once_leave_each_row_once(root: str) -> None:
    def write(i: int) -> int:
        return sum(History(root).append("candles", candles(BTC, first, 5)) for first in (i, i + 2))

    with ThreadPoolExecutor(3) as pool:
        added = sum(pool.map(write, range(3)))
    assert added == read_all(History(root), "candles", BTC).height == 9


def test_a_journal_is_recorded_and_columns_are_kept(root: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with BundledServer(tmp_path_factory.mktemp("redis")) as server:
        cache, history = Cache(server.url), History(root)
        for batch in range(3):
            cache.journal.add(entries_of(batch))
        recorder = Recorder(cache.journal, history, interval_s=0.1)
        while recorder.move():
            pass
        assert cache.journal.length() == 0
        assert [history.read("liquidations", m, 0, 2**42).height for m in MARKETS] == [3 * BATCH] * len(MARKETS)
        cache.close()
    published, book = Published(history), PositionBook(market())
    grid = make_grid(tiers=False)
    published.add(0, grid, book)
    published.flush()
    assert published.status.error is None
    kept = dict(Published(History(root)).columns(book, T0 + DAY_MS))
    assert kept[0].time.tolist() == grid.time.astype("datetime64[ms]").tolist()


def test_upkeep_works_there_too(root: str) -> None:
    history = History(root, retention_days=2)
    for day in (0, 3):
        for i in range(3):
            history.append("candles", candles(BTC, 1440 * day + i, 1))
    done = history.compact(grace_hours=0)["candles"]
    assert (done.files_before, done.files_after) == (6, 2)
    assert done.vacuumed >= 6
    assert history.retain(T0 + 4 * DAY_MS) == 1
    assert read_all(History(root), "candles", BTC).height == 3


def test_a_store_that_is_gone_is_named_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to("http://127.0.0.1:9", monkeypatch)
    began = time.monotonic()
    with pytest.raises(HistoryUnavailable, match="s3://bucket/gone/candles") as caught:
        History("s3://bucket/gone").append("candles", candles(BTC, 3, 3))
    assert time.monotonic() - began < 30
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
