"""What commands say of wrong options and settings, without starting a process."""

from __future__ import annotations

import os
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dashboard.cli import app
from estimator.archive import plan
from estimator.errors import ParameterError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no setting from outside, and signals that stay as they are."""
    for name in [n for n in os.environ if n.startswith("LIQHEAT_") or n == "REDIS_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*arguments: object) -> Result:
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
