"""What commands say of wrong options and settings, without starting a process."""

from __future__ import annotations

import os
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner, Result

from dashboard.cli import app
from estimator.archive import plan
from estimator.cli import HOPELESS
from estimator.errors import ParameterError
from estimator.settings import NAMES_TOLD, unknown_names
from tests.test_commands import free_port


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
    assert "REDIS_URL 'foo'" in problem("web", status=HOPELESS)
