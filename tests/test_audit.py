"""An audit says what it has found, and never passes for one where there was none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.audit import LOCK, NotAudited, Report, ask, one_package, read_report, tell

KNOWN = {
    "dependencies": [
        {"name": "one", "version": "1.0", "vulns": []},
        {
            "name": "two",
            "version": "2.0",
            "vulns": [
                {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"], "description": "reads any file"},
                {"id": "PYSEC-2", "aliases": ["CVE-2"], "fix_versions": [], "description": "only on Mondays"},
            ],
        },
        {"name": "three", "skip_reason": "not on PyPI"},
    ]
}


def test_a_known_advisory_fails_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    report = read_report(KNOWN, {})
    assert tell(report, {}) == 1
    said = capsys.readouterr().out
    assert "two 2.0: PYSEC-1, fixed in 2.1" in said
    assert "PYSEC-2, fixed in nothing yet" in said
    assert "NOT AUDITED, for the service does not know them: three" in said
    assert "2 dependencies audited, 2 advisories" in said


def test_an_advisory_is_left_aside_by_any_of_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert [a.id for a in read_report(KNOWN, {"CVE-2": "we work on Tuesdays"}).advisories] == ["PYSEC-1"]
    assert tell(read_report(KNOWN, {"CVE-2": "", "PYSEC-1": ""}), {}) == 0
    assert "0 advisories" in capsys.readouterr().out


def test_an_index_without_advisories_is_no_audit() -> None:
    """A mirror answers that it knows no package, and pip-audit then finds no vulnerability in any."""
    with pytest.raises(NotAudited, match="not found on PyPI"):
        read_report({"dependencies": [{"name": "one", "skip_reason": "Dependency not found on PyPI"}]}, {})
    with pytest.raises(NotAudited):
        read_report({"dependencies": []}, {})


def test_no_audit_is_said_in_capitals_with_the_reasons_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(None, {"pypi": "not found on PyPI", "osv": "no network"}) == 0
    said = capsys.readouterr().out
    assert "DEPENDENCIES WERE NOT AUDITED" in said
    assert "pypi: not found on PyPI" in said
    assert "osv: no network" in said
    assert tell(Report(3, (), ()), {}) == 0
    assert "NOT AUDITED" not in capsys.readouterr().out


def test_one_package_is_asked_about_before_all_are() -> None:
    whole = LOCK.read_text()
    one = one_package(whole)
    assert one.count("==") == 1
    assert "--hash=sha256:" in one
    assert one in whole
    assert (
        one_package("a==1 ; sys_platform == 'win32' \\\n    --hash=x\nb==2 \\\n    --hash=y\nc==3\n")
        == "b==2 \\\n    --hash=y\n"
    )


@contextmanager
def osv(advisories: dict[str, dict[str, Any]]) -> Iterator[Sequence[str]]:
    """A server on loopback that answers as OSV does; yields the options that ask it."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            found = advisories.get(asked)
            body = json.dumps({"vulns": [found]} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield ("--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query")
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_that_knows_of_a_fault_makes_the_audit_of_the_lock_file_fail() -> None:
    affected = {
        "package": {"name": "starlette", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
    }
    fault = {"id": "GHSA-x", "aliases": ["CVE-9"], "summary": "reads\nany file", "affected": [affected]}
    with osv({"starlette": fault}) as service:
        report = ask(service, LOCK.read_text())
    (advisory,) = report.advisories
    assert (advisory.package, advisory.id, advisory.fixed_in) == ("starlette", "CVE-9", ("99.1",))
    assert report.unknown == ()
    assert report.audited > 100
    assert tell(report, {}) == 1


def test_a_service_that_cannot_be_reached_is_named_with_the_reason() -> None:
    nowhere = ("--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:1/v1/query")
    with pytest.raises(NotAudited, match=r"127\.0\.0\.1"):
        ask(nowhere, one_package(LOCK.read_text()))
