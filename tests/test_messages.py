"""What commands say of wrong options and settings, almost all without starting a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from unittest import mock

import pytest
from typer.testing import CliRunner, Result

from dashboard.cli import app
from estimator.archive import plan
from estimator.cli import HOPELESS
from estimator.errors import InputError, ParameterError
from estimator.files import estimate_files, read_market
from estimator.settings import NAMES_TOLD, unknown_names
from tests.estimator.test_archive import BTC
from tests.test_commands import COMMAND, environment, free_port


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no setting from outside, and signals that stay as they are."""
    for name in [n for n in os.environ if n.startswith("LIQHEAT_") or n == "REDIS_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*arguments: object) -> Result:
    with mock.patch.dict(os.environ):  # options of `run` go there
        return CliRunner().invoke(app, [str(a) for a in arguments])


def problem(*arguments: object, status: int = 1) -> str:
    """The one line of a command that is refused."""
    done = called(*arguments)
    assert done.exit_code == status, done.output
    (line,) = done.output.splitlines()
    return line.removeprefix("liqheat: ")


# backfill


def test_a_backfill_that_cannot_be_says_why() -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert problem("backfill", "--archive", "/none") == "no such folder: /none"
    assert problem("backfill", "--symbols", " ,").startswith("--symbols: got ' ,', expected symbols such as")
    assert f"--last {tomorrow}: the archive ends yesterday" in problem("backfill", "--last", tomorrow)
    wrong = problem("backfill", "--first", "2026-03-02", "--last", "2026-03-01")
    assert wrong == "--first 2026-03-02: is after the last day, 2026-03-01"
    with pytest.raises(ParameterError, match="first: got '2026-03-02', expected a day not after 2026-03-01"):
        plan([], date(2026, 3, 2), date(2026, 3, 1))


def test_an_archive_without_any_of_the_files_is_an_error(folder: Path) -> None:
    done = called("backfill", "--archive", folder, "--first", "2026-03-01", "--last", "2026-03-09")
    assert done.exit_code == 1
    lines = [line for line in done.output.splitlines() if "%" not in line]
    assert lines[0] == "0 new rows from 0 files; 0 files complete already, 19 absent"
    assert sum(line.startswith("absent: ") for line in lines) == 10
    assert lines[-2] == "… and 9 more"
    assert lines[-1].startswith("liqheat: the archive has none of the files asked for")


# settings


def test_wrong_settings_are_named_with_their_variables_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIQHEAT_PORT", "abc")
    monkeypatch.setenv("LIQHEAT_TRUSTED_PROXIES", "nobody")
    done = called("alerts", "check")
    assert done.exit_code == HOPELESS
    port, proxies = done.output.splitlines()
    assert port.startswith("liqheat: LIQHEAT_PORT: 'abc' is not valid: Input should be a valid integer")
    assert proxies.startswith("liqheat: LIQHEAT_TRUSTED_PROXIES: 'nobody' is not valid: 'nobody' does not appear")


def test_a_wrong_setting_that_may_hold_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIQHEAT_PUBLIC_URL", "ftp://me:s3cr3t@host")
    said = problem("alerts", "check", status=HOPELESS)
    assert said.startswith("LIQHEAT_PUBLIC_URL: ")
    assert "s3cr3t" not in said


def test_an_env_file_that_is_no_text_is_named(folder: Path) -> None:
    (folder / ".env").write_bytes(b"LIQHEAT_PORT=\xff\xfe")
    assert problem("alerts", "check", status=HOPELESS).startswith(".env cannot be read: ")


def test_a_misspelt_setting_is_told_and_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("LIQHEAT_VENEUS=okx\nLIQHEAT_PORT=9000\n")
    monkeypatch.setenv("LIQHEAT_WHATEVER", "1")
    told = [
        "liqheat: LIQHEAT_VENEUS is no setting and changes nothing; did you mean LIQHEAT_VENUES?",
        "liqheat: LIQHEAT_WHATEVER is no setting and changes nothing",
    ]
    assert called("alerts", "check").output.splitlines()[:-1] == told
    monkeypatch.setenv(NAMES_TOLD, "1")
    assert unknown_names() == {}


def test_what_would_fail_again_in_the_same_way_ends_a_run_for_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "/none" in problem("run", "--data", "/none", status=HOPELESS)
    (folder / "file").touch()
    monkeypatch.setenv("LIQHEAT_DATA", str(folder / "file" / "data"))
    assert "cannot write to the data folder" in problem("run", "--port", free_port(), status=HOPELESS)
    monkeypatch.setenv("LIQHEAT_ALERTS_FILE", "/none")
    assert "LIQHEAT_ALERTS_FILE /none" in problem("run", status=HOPELESS)
    assert "REDIS_URL" in problem("web", status=HOPELESS)
    monkeypatch.setenv("REDIS_URL", "foo")
    assert problem("web", status=HOPELESS).startswith("REDIS_URL: 'foo' is not valid: ")


# estimate


def estimating(*more: object) -> str:
    return problem("estimate", "candles.csv", "oi.csv", "--market", "market.json", *more, status=HOPELESS)


def test_an_output_that_cannot_be_is_told_before_anything_is_read(folder: Path) -> None:
    assert estimating() == "nothing to write: give --out GRID.parquet, --png MAP.png or both"
    assert "must end with .parquet" in estimating("--out", "grid.csv")
    assert "must end with .png" in estimating("--png", "map.jpg")
    assert estimating("--out", "gone/grid.parquet") == "--out gone/grid.parquet: there is no folder gone"
    (folder / "a.png").mkdir()
    assert estimating("--png", "a.png") == "--png a.png: is a folder"


BRACKET: Final = {"notional_floor": 0, "max_leverage": 125, "maintenance_margin_rate": 0.004}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"brackets": None}, "brackets: got null, expected a valid list"),
        ({"brackets": [{"max_leverage": 5}]}, "brackets.0.notional_floor: is missing"),
        ({"brackets": [{**BRACKET, "max": 5}]}, "brackets.0.max: there is no such field; known here: notional_floor, "),
        ({"brackets": ["a"]}, 'brackets.0: got "a", expected a valid object'),
        ({"brackets": [{**BRACKET, "max_leverage": 0}]}, "max_leverage: got 0.0, expected a number >= 1"),
        ({"fee": 1}, "fee: there is no such field; known here: exchange, "),
        ({"contract": "spot"}, "contract: got \"spot\", expected 'linear' or 'inverse'"),
        ({"symbol": "BTC"}, "symbol: got 'BTC', expected a unified perpetual symbol"),
        ({"taker_fee_rate": "0.1"}, 'taker_fee_rate: got "0.1", expected a valid number'),
    ],
)
def test_a_field_of_a_market_that_cannot_be_is_named(folder: Path, change: dict[str, object], said: str) -> None:
    market = {"exchange": "binance", "symbol": "BTC/USDT:USDT", "contract": "linear", "brackets": [BRACKET]}
    file = folder / "market.json"
    file.write_text(json.dumps(market))
    assert read_market(file).max_leverage == 125
    file.write_text(json.dumps(market | change))
    with pytest.raises(InputError) as caught:
        read_market(file)
    assert str(caught.value).startswith(f"{file}: {said}")


def test_a_market_is_read_first_and_an_unknown_exchange_told(folder: Path) -> None:
    command = ("estimate", ".", "oi.csv", "--market", "market.json", "--png", "map.png")
    assert problem(*command) == "market.json: no such file or directory"
    market = {"exchange": "binanec", "symbol": "BTC/USDT:USDT", "contract": "linear", "brackets": [BRACKET]}
    (folder / "market.json").write_text(json.dumps(market))
    first, *_, last = called(*command).output.splitlines()
    assert "exchange 'binanec' is none of binance, " in first
    assert first.endswith("did you mean binance?")
    assert last == "liqheat: .: is a folder, not a file"


def test_an_input_error_names_the_file_and_writes_times_as_iso(folder: Path) -> None:
    (folder / "candles.csv").write_text("time,open,high,low,close\n2026-06-01,1,2,1.5,1\n")
    with pytest.raises(InputError, match=r"candles\.csv: candles\.low row 0: above another price .*value 1\.5"):
        estimate_files(folder / "candles.csv", folder / "oi.csv", BTC, "balanced", lambda _done, _what: None)
    told = str(
        InputError("candles", "is a duplicate time", column="time", row=1, value=datetime(2026, 6, 1, tzinfo=UTC))
    )
    assert told == "candles.time row 1: is a duplicate time (value 2026-06-01T00:00:00+00:00)"


# run


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LIQHEAT_VENUES", "okx,kraken", "'kraken' is not one of binance, bybit"),
        ("LIQHEAT_EXCHANGE_BASE", "nohttp", "use an address such as http://"),
        ("REDIS_URL", "foo", "use redis://"),
    ],
)
def test_an_address_or_a_venue_that_cannot_be_ends_a_run_first(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert problem("run", status=HOPELESS).startswith(f"{name}: {value!r} is not valid: {said}")


@pytest.mark.parametrize("host", ["no such host", "a..b", "192.0.2.1"])  # an address of nobody
def test_a_host_that_cannot_be_listened_on_is_told_as_such(host: str) -> None:
    assert problem("run", "--host", host, "--port", free_port()).endswith("choose another with --host")


def test_help_lists_run_first() -> None:
    listed = [i.name or i.callback.__name__ for i in app.registered_commands if i.callback]
    assert listed == ["run", "web", "worker", "estimate", "backfill", "calibrate", "score", "warm"]


# calibrate and score


def test_a_calibration_that_cannot_be_says_why() -> None:
    assert problem("calibrate", "--markets", "foo") == (
        "--markets: got 'foo', expected venue:SYMBOL such as binance:BTC/USDT:USDT"
    )
    assert problem("calibrate", "--reset").startswith("--reset needs --markets")
    said = problem("calibrate", "--markets", "binance:BTC/USDT:USDT", "--reset")
    assert said == "binance:BTC/USDT:USDT: there is no history of it"


def test_a_folder_to_score_that_is_not_there_is_named_first() -> None:
    assert problem("score", "--data", "/none") == "--data /none: no such folder"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_ends_scores_within_a_moment(folder: Path) -> None:
    command = (*COMMAND, "score")
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True) as scoring:
        assert scoring.stderr is not None
        while "on" not in scoring.stderr.readline().split():  # a model on a case: threads compute
            assert scoring.poll() is None
        scoring.send_signal(signal.SIGINT)
        _, said = scoring.communicate(timeout=5)
    assert scoring.returncode == 130
    assert said.splitlines()[-1] == "liqheat: stopped"
