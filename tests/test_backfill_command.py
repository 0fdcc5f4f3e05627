"""`liqheat backfill` from an archive on loopback, and what it brought on the page of a live run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from estimator.archive import ArchiveFile
from estimator.domain import DAY_MS, MINUTE_MS
from estimator.history import History
from tests.estimator.test_archive import BTC, Loopback, folder, put_day, spoil_checksum, web
from tests.test_commands import COMMAND, ROOT, environment, free_port, liqheat, running
from tests.waiting import within

__all__ = ["folder", "web"]  # fixtures
FIRST = date(2024, 1, 15)
DAYS = 4


def days(first: date, n: int) -> list[date]:
    return [first + timedelta(days=i) for i in range(n)]


def arguments(web: Loopback, first: date, last: date) -> tuple[str, ...]:
    return ("backfill", "--archive", web.url, "--first", str(first), "--last", str(last))


def test_an_import_goes_on_after_ctrl_c_and_names_what_is_missing_or_damaged(
    folder: Path, web: Loopback, tmp_path: Path
) -> None:
    present = days(FIRST, DAYS)
    for day in present:
        put_day(folder, BTC, day)
    slow = ArchiveFile(BTC, "klines", present[2])
    spoil_checksum(spoilt := folder / ArchiveFile(BTC, "klines", FIRST).path)
    done_first = f"/{ArchiveFile(BTC, 'klines', present[-1]).path}"  # the newest comes first
    web.fail(slow, lambda _handler, _body: time.sleep(30))
    command = (*COMMAND, *arguments(web, FIRST, present[-1] + timedelta(days=1)))
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        assert within(30, lambda: web.asked[f"/{slow.path}"] > 0)
        os.killpg(first.pid, signal.SIGINT)
        _, said = first.communicate(timeout=20)
    assert first.returncode == 130
    assert f"klines of {present[-1]}" in said  # progress
    assert said.splitlines()[-1] == "liqheat: interrupted; the same command goes on where this one was"
    web.faults.clear()
    asked = web.asked[done_first]

    done = liqheat(tmp_path, *arguments(web, FIRST, present[-1] + timedelta(days=1)))
    assert done.returncode == 1  # something is damaged
    assert "checksum" in done.stderr.lower()
    assert spoilt.name in done.stderr
    assert f"BTCUSDT-1m-{present[-1] + timedelta(days=1)}" in done.stderr  # not there
    assert web.asked[done_first] == asked == 1  # what was stored is not fetched again

    put_day(folder, BTC, FIRST)
    done = liqheat(tmp_path, *arguments(web, FIRST, present[-1]))
    assert done.returncode == 0, done.stderr
    rows = History(tmp_path / "data" / "history").times("candles", 0, 2**42)["time"].dt.epoch("ms").sort().to_list()
    begin_ms = int(datetime(2024, 1, 15, tzinfo=UTC).timestamp() * 1000)
    assert rows == list(range(begin_ms, begin_ms + DAYS * DAY_MS, MINUTE_MS))


@pytest.fixture
def venues() -> Iterator[str]:
    """Address of venues whose clock is ours."""
    port = free_port()
    command = [sys.executable, "-m", "tests.venues.server", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        server.kill()


def test_imported_days_are_on_the_chart_of_a_live_run(folder: Path, venues: str, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    past = days(today - timedelta(days=3), 3)
    for day in past:
        put_day(folder, BTC, day)
    done = liqheat(tmp_path, "backfill", "--archive", str(folder), "--first", str(past[0]), "--last", str(past[-1]))
    assert done.returncode == 0, done.stderr
    with running(
        tmp_path, "--source", "live", "--venues", "binance", "--markets", "BTC", "--exchange-base", venues,
        LIQHEAT_DAYS="3",
    ) as run:  # fmt: skip
        run.wait_until_ready()
        url = f"http://127.0.0.1:{run.port}/api/v1/heatmap"

        def first_close() -> float | None:
            answer = httpx.get(url, params={"symbol": "BTC", "range": "7d"}, timeout=10)
            closes = [c[4] for c in answer.json()["price_candlesticks"]] if answer.status_code == 200 else []
            return next((close for close in closes if close is not None), None)

        assert within(30, lambda: first_close() is not None), run.text
        assert 100 <= float(first_close() or 0) <= 1600  # prices of the archive, which the venues never had
