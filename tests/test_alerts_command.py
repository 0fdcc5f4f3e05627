"""Alerts as a user meets them: checked before anything starts, tried by command, told by a running server."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from estimator.cli import HOPELESS
from tests.estimator.alerts.conftest import Sink, sink
from tests.test_commands import assert_one_line, liqheat, running
from tests.waiting import within

__all__ = ["sink"]
DOCS = Path(__file__).parents[1] / "docs"
HIDDEN = "s3cr3t"
RULES = """
[[rule]]
kind = "cluster"
name = "near"
distance_percent = 15
min_share_percent = 0

[digest]
within_seconds = 0
over = 100
"""


def configured(folder: Path, text: str = RULES) -> str:
    file = folder / "alerts.toml"
    file.write_text(text)
    return str(file)


def test_check_prints_rules_and_targets_without_credentials(tmp_path: Path) -> None:
    file = configured(tmp_path, RULES + '[[quiet]]\nfrom = "23:00"\nto = "07:00"\nzone = "Europe/Berlin"\n')
    urls = f"json://user:{HIDDEN}@127.0.0.1:1/{HIDDEN} discord://{HIDDEN}/{HIDDEN}"
    done = liqheat(tmp_path, "alerts", "check", LIQHEAT_ALERTS_FILE=file, LIQHEAT_ALERTS_URLS=urls)
    assert done.returncode == 0, done.stderr
    when = "the price is within 15 % of a cluster of at least 0 % of open interest"
    assert done.stderr.splitlines() == [
        f"near: told when {when}; at most every 2 h, from severity info on",
        "quiet from 23:00 to 07:00 Europe/Berlin, unless critical",
        "to json: JSON",
        "to discord: Discord",
    ]
    assert HIDDEN not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("alerts", "check"), ("alerts", "test"), ("run",)])
def test_a_wrong_file_ends_every_command_with_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = configured(tmp_path, '[[rule]]\nkind = "print"\nmin_usd = -5\n')
    done = liqheat(tmp_path, *command, LIQHEAT_ALERTS_FILE=file)
    status = HOPELESS if command == ("run",) else 1
    assert_one_line(done, "alerts.toml: rule 1: min_usd: got -5, expected greater than 0", status=status)
    assert not (tmp_path / "data").exists()


def test_a_wrong_target_is_not_shown(tmp_path: Path) -> None:
    done = liqheat(tmp_path, "alerts", "check", LIQHEAT_ALERTS_URLS=f"nosuch://u:{HIDDEN}@host")
    assert_one_line(done, "target 1 of alerts (nosuch): Apprise knows no service by that scheme")
    assert HIDDEN not in done.stderr


def test_the_example_of_the_documentation_passes(tmp_path: Path) -> None:
    (example,) = re.findall(r"(?s)```toml\n(.+?)```", (DOCS / "alerts.md").read_text())
    done = liqheat(tmp_path, "alerts", "check", LIQHEAT_ALERTS_FILE=configured(tmp_path, example))
    assert done.returncode == 0, done.stderr
    assert "to tgram: Telegram" in done.stderr


def test_without_alerts_the_commands_say_how_to_have_some(tmp_path: Path) -> None:
    assert_one_line(liqheat(tmp_path, "alerts", "test"), "LIQHEAT_ALERTS_FILE or LIQHEAT_ALERTS_URLS")
    nobody = liqheat(tmp_path, "alerts", "test", LIQHEAT_ALERTS_FILE=configured(tmp_path))
    assert_one_line(nobody, "nobody to send to")


def test_a_test_message_goes_to_every_target_and_each_outcome_is_printed(tmp_path: Path, sink: Sink) -> None:
    file = configured(tmp_path)
    fine = liqheat(tmp_path, "alerts", "test", LIQHEAT_ALERTS_FILE=file, LIQHEAT_ALERTS_URLS=sink.url("ok", HIDDEN))
    assert (fine.returncode, fine.stderr) == (0, "json: sent\n")
    urls = f"{sink.url('500', HIDDEN)} {sink.url('ok')}"
    half = liqheat(tmp_path, "alerts", "test", "--rule", "near", LIQHEAT_ALERTS_FILE=file, LIQHEAT_ALERTS_URLS=urls)
    assert (half.returncode, half.stderr) == (1, "json: failed (HTTP 500)\njson 2: sent\n")
    assert [m["title"] for m in sink.at("/ok")] == ["Test of liqheat's alerts"] * 2
    assert "near: told when the price is within 15 %" in sink.at("/ok")[0]["message"]
    none = liqheat(tmp_path, "alerts", "test", "--rule", "far", LIQHEAT_ALERTS_FILE=file, LIQHEAT_ALERTS_URLS=urls)
    assert_one_line(none, "--rule far: there is no such rule; there are near")


def test_a_running_server_tells_alerts_lists_them_and_counts_them(tmp_path: Path, sink: Sink) -> None:
    urls = f"{sink.url('ok', HIDDEN)} json://127.0.0.1:1/{HIDDEN}"
    with running(tmp_path, LIQHEAT_ALERTS_FILE=configured(tmp_path), LIQHEAT_ALERTS_URLS=urls, LIQHEAT_DAYS="2") as run:
        run.wait_until_ready()
        assert within(90, lambda: bool(sink.at("/ok"))), run.text
        site = f"http://127.0.0.1:{run.port}"

        def delivered() -> bool:
            alerts = httpx.get(f"{site}/api/v1/alerts?limit=100", timeout=5).json()["alerts"]
            return bool(alerts) and all(
                {"json", "json 2"} == {d["target"] for d in a["deliveries"]} for a in alerts[-1:]
            )

        assert within(30, delivered), run.text
        listed = httpx.get(f"{site}/api/v1/alerts", timeout=5).json()
        assert [r["name"] for r in listed["rules"]] == ["near"]
        first = listed["alerts"][-1]
        assert first["title"] in {m["title"] for m in sink.at("/ok")}
        assert first["title"].startswith("[SIMULATED] ")
        outcomes = {d["target"]: d["outcome"] for d in first["deliveries"]}
        assert outcomes == {"json": "sent", "json 2": "failed"}
        metrics = httpx.get(f"{site}/metrics", timeout=5).text
        assert 'liqheat_alert_deliveries_total{outcome="sent",target="json"}' in metrics
        assert HIDDEN not in run.text + metrics + str(listed)
