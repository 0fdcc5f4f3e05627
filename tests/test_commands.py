"""The `liqheat` command as a user meets it: real processes, real signals, messages of one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import polars as pl
import pytest

from estimator.cli import HOPELESS
from tests.waiting import within

ROOT = Path(__file__).parents[1]
COMMAND: Final = (sys.executable, "-m", "dashboard.cli")
END_S: Final = 5.0  # how long everything may take to end
READY_S: Final = 60.0
NAMES: Final = {"valkey", "web", "worker"}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The caller's environment without any of our settings, data in `folder`, no venue asked for anything."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LIQHEAT_") and k != "REDIS_URL"}
    ours = {"LIQHEAT_DATA": str(folder / "data"), "LIQHEAT_DAYS": "2", "LIQHEAT_SOURCE": "simulated"}
    return kept | ours | {"PYTHONPATH": str(ROOT)} | more


def liqheat(folder: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = (*COMMAND, *map(str, arguments))
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env=environment(folder, **more)
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str, status: int = 1) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("liqheat: ")
    for part in parts:
        assert part in line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def state(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def runs(pid: int) -> bool:
    found = state(pid)
    return found is not None and found[0] != "Z"


def children(pid: int) -> dict[str, int]:
    """Running children by what they are: web, worker, valkey; one that has only just been forked is none of them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (got := state(int(entry.name))) is not None and got[1] == pid and got[0] != "Z":
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().split() or [""]
            name = "valkey" if "valkey" in words[0] else words[-1]
            if name in NAMES:
                found[name] = int(entry.name)
    return found


class Running:
    """A `liqheat run` in its own process group, and what it said."""

    def __init__(self, folder: Path, *arguments: object, **more: str) -> None:
        self.port = free_port()
        self.said = folder / "said.txt"
        with self.said.open("w") as out:
            self.process = subprocess.Popen(
                (*COMMAND, "run", "--port", str(self.port), *map(str, arguments)),
                stdout=out, stderr=out, cwd=folder, env=environment(folder, **more), start_new_session=True,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.said.read_text()

    def status(self, path: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).status_code
        except httpx.TransportError:
            return 0

    def wait_until_ready(self) -> None:
        assert within(READY_S, lambda: self.status("/readyz") == 200), self.text

    def processes(self) -> dict[str, int]:
        assert within(20, lambda: children(self.process.pid).keys() == NAMES), self.text
        return children(self.process.pid)


@contextmanager
def running(folder: Path, *arguments: object, **more: str) -> Iterator[Running]:
    run = Running(folder, *arguments, **more)
    known: set[int] = set()
    try:
        yield run
    finally:
        known |= set(children(run.process.pid).values())
        run.process.kill()
        run.process.wait()
        within(END_S, lambda: not any(map(runs, known)))
        for pid in filter(runs, known):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; ending with the parent is Linux's")


# run


@linux_only
def test_run_says_its_address_gets_ready_and_ends_on_ctrl_c(folder: Path) -> None:
    with running(folder) as run:
        run.wait_until_ready()
        first = run.text.splitlines()[0]
        assert f"http://127.0.0.1:{run.port}" in first
        assert "SIMULATED" in first
        assert run.status("/") == 200
        processes = run.processes()
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
        assert run.process.wait(END_S) == 0
        assert not any(map(runs, processes.values()))
        assert run.text.splitlines()[-1] == "stopped"
        assert "Traceback" not in run.text


@linux_only
@pytest.mark.parametrize("moment", ["at work", "ready"])
def test_run_ends_on_sigterm_even_in_the_middle_of_a_long_computation(folder: Path, moment: str) -> None:
    with running(folder, LIQHEAT_DAYS="300" if moment == "at work" else "1") as run:
        processes = run.processes()
        if moment == "ready":
            run.wait_until_ready()
        else:
            assert within(30, lambda: "simulating" in run.text)
        run.process.terminate()
        assert run.process.wait(END_S) == 0
        assert not any(map(runs, processes.values()))
        assert "Traceback" not in run.text


@linux_only
def test_a_killed_supervisor_leaves_no_child(folder: Path) -> None:
    with running(folder) as run:
        processes = run.processes()
        run.process.kill()
        assert within(END_S, lambda: not any(map(runs, processes.values())))


@linux_only
def test_a_worker_that_dies_is_started_again_and_the_page_stays_up(folder: Path) -> None:
    with running(folder, LIQHEAT_DAYS="0.5") as run:
        run.wait_until_ready()
        before = run.processes()
        os.kill(before["worker"], signal.SIGKILL)
        assert within(20, lambda: children(run.process.pid).get("worker", before["worker"]) != before["worker"])
        assert "the worker ended with status -9" in run.text
        assert children(run.process.pid)["web"] == before["web"]
        run.wait_until_ready()


@linux_only
def test_a_bundled_redis_that_dies_is_started_again_and_filled_anew(folder: Path) -> None:
    with running(folder, LIQHEAT_DAYS="0.5") as run:
        run.wait_until_ready()
        before = run.processes()
        os.kill(before["valkey"], signal.SIGKILL)
        assert within(20, lambda: children(run.process.pid).get("valkey", before["valkey"]) != before["valkey"])
        assert "the bundled Redis ended; starting it again" in run.text
        run.wait_until_ready()


def test_a_recording_that_cannot_be_used_ends_the_run_with_the_reason(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    with running(folder, "--data", empty) as run:
        assert run.process.wait(timeout=READY_S) == HOPELESS
        assert "the worker cannot go on, for the reason above" in run.text
        assert str(empty) in run.text


def test_a_replay_needs_a_recording(folder: Path) -> None:
    assert_one_line(liqheat(folder, "run", "--replay", "60x"), "--replay", "--data FOLDER", status=HOPELESS)


def test_a_busy_port_is_one_line(folder: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert_one_line(liqheat(folder, "run", "--port", port), f"127.0.0.1:{port}", "--port")


def test_a_recording_that_is_not_there_is_one_line(folder: Path) -> None:
    assert_one_line(liqheat(folder, "run", "--source", "recorded"), "--data PATH", status=HOPELESS)
    gone = folder / ("a-long-name-" * 10)
    assert_one_line(liqheat(folder, "run", "--data", gone), str(gone), "no such file or folder", status=HOPELESS)


def test_an_impossible_setting_is_one_line(folder: Path) -> None:
    assert_one_line(liqheat(folder, "run", LIQHEAT_PORT="99999"), "LIQHEAT_PORT: '99999'", "65535", status=HOPELESS)
    assert_one_line(liqheat(folder, "worker", REDIS_URL="http://x"), "REDIS_URL", "redis://", status=HOPELESS)


@pytest.mark.parametrize("command", ["web", "worker"])
def test_parts_say_that_they_need_a_redis(folder: Path, command: str) -> None:
    assert_one_line(liqheat(folder, command), "REDIS_URL", "liqheat run", status=HOPELESS)


def test_help_lists_the_commands(folder: Path) -> None:
    done = liqheat(folder, "--help")
    assert done.returncode == 0
    for name in ("run", "web", "worker", "estimate", "warm"):
        assert re.search(rf"\b{name}\b", done.stdout)


# estimate

MARKET: Final = {
    "exchange": "binance", "symbol": "BTC/USDT:USDT", "contract": "linear", "taker_fee_rate": 0.0005,
    "brackets": [{"notional_floor": 0, "max_leverage": 125, "maintenance_margin_rate": 0.004}],
}  # fmt: skip


@pytest.fixture
def files(folder: Path) -> Path:
    """A day of 5m candles, open interest and a market in `folder`."""
    n = 288
    random = np.random.default_rng(3)
    close = 60_000 * np.exp(np.cumsum(random.normal(0, 0.001, n)))
    opened = np.concatenate([[60_000.0], close[:-1]])
    high, low = np.maximum(opened, close) * 1.0005, np.minimum(opened, close) * 0.9995
    time_ = 1_760_000_100_000 // 300_000 * 300_000 + 300_000 * np.arange(n)
    columns = {"open": opened, "high": high, "low": low, "close": close, "volume": random.random(n) * 100}
    pl.DataFrame({"time": time_, **columns}).write_csv(folder / "candles.csv")
    pl.DataFrame({"time": time_ + 300_000, "open_interest": 1e5 + random.normal(0, 50, n).cumsum()}).write_csv(
        folder / "oi.csv"
    )
    (folder / "market.json").write_text(json.dumps(MARKET))
    return folder


def test_estimate_writes_a_grid_and_a_picture(files: Path) -> None:
    outputs = ("--out", "grid.parquet", "--png", "map.png")
    done = liqheat(files, "estimate", "candles.csv", "oi.csv", "--market", "market.json", *outputs)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    grid = pl.read_parquet(files / "grid.parquet")
    assert grid.columns == ["time", "price_low", "price_high", "long_usd", "short_usd"]
    assert grid["time"].n_unique() == 288
    assert f"grid.parquet: {grid.height} cells" in done.stderr
    last = grid.filter(pl.col("time") == grid["time"].max())
    price = pl.read_csv(files / "candles.csv")["close"][-1]
    assert last.filter(pl.col("price_low") > price)["long_usd"].sum() == 0
    assert last.filter(pl.col("price_high") < price)["short_usd"].sum() == 0
    assert last["long_usd"].sum() > 1e6
    assert (files / "map.png").read_bytes().startswith(b"\x89PNG\r\n")


FAULTS: Final[dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]]] = {
    "a negative price": ("candles.csv", lambda t: t.replace(",60000.0,", ",-1.0,", 1), ("open", "row 0", "-1")),
    "text for a number": ("oi.csv", lambda t: t.rsplit(",", 1)[0] + ",many\n", ("open_interest", "row 287", "many")),
    "a missing column": ("candles.csv", lambda t: t.replace("high", "peak"), ("high",)),
    "an empty file": ("oi.csv", lambda _: "", ("oi.csv",)),
    "no market": ("market.json", lambda _: "[]", ("market.json",)),
    "a market without a symbol": ("market.json", lambda _: '{"exchange": "binance"}', ("symbol", "missing")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "parts"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_cannot_be_used_is_one_line_that_says_where(
    files: Path, name: str, spoil: Callable[[str], str], parts: tuple[str, ...]
) -> None:
    (files / name).write_text(spoil((files / name).read_text()))
    done = liqheat(files, "estimate", "candles.csv", "oi.csv", "--market", "market.json", "--out", "grid.parquet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("liqheat: ")]
    assert done.stderr.splitlines()[-1:] == errors
    for part in (name, *parts):
        assert part in errors[0]
    assert not (files / "grid.parquet").exists()


def test_a_file_that_is_not_there_is_one_line(files: Path) -> None:
    done = liqheat(files, "estimate", "gone.csv", "oi.csv", "--market", "market.json", "--out", "grid.parquet")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "liqheat: gone.csv: no such file")
    done = liqheat(files, "estimate", "candles.csv", "oi.csv", "--market", "gone.json", "--out", "grid.parquet")
    assert done.returncode == 1
    assert "gone.json" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
