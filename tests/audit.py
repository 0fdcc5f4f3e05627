"""Holds the locked dependencies against published advisories: ``python -m tests.audit``, which `make check` runs.

Advisories come from PyPI, or from OSV where PyPI gives none. Where neither does, nothing was audited: that is said in
capitals with the reasons, and passes, since nobody can work without a network otherwise. A known advisory fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

LOCK: Final = Path(__file__).parents[1] / "requirements.lock"
# Options of pip-audit by service.
SERVICES: Final[Mapping[str, Sequence[str]]] = {
    "pypi": ("--vulnerability-service", "pypi"),
    "osv": ("--vulnerability-service", "osv"),
}
IGNORED: Final[Mapping[str, str]] = {}  # ids of advisories that do not concern us, each with the reason
TIMEOUT_S: Final = 10
WHOLE_S: Final = 300


class NotAudited(Exception):
    """A service has no advisories for us, and why."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """A known fault of a locked dependency."""

    package: str
    version: str
    id: str
    fixed_in: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a service knows of a lock file."""

    audited: int
    unknown: tuple[str, ...]
    advisories: tuple[Advisory, ...]


def one_package(lock: str) -> str:
    """Return one package of a lock file, with its hashes, that every machine has: enough to see what a service says."""
    packages = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    return next(p for p in packages if ";" not in p.splitlines()[0]) + "\n"


def read_report(found: Mapping[str, Any], ignored: Mapping[str, str]) -> Report:
    """Read what pip-audit has written.

    Raises
    ------
    NotAudited
        If the service knows none of the packages: an index that is not PyPI itself has no advisories.
    """
    packages: Sequence[Mapping[str, Any]] = found["dependencies"]
    unknown = tuple(p["name"] for p in packages if "skip_reason" in p)
    if len(unknown) == len(packages):
        raise NotAudited(str(packages[0]["skip_reason"]) if packages else "no package was looked at")
    advisories = tuple(
        Advisory(p["name"], p["version"], v["id"], tuple(v["fix_versions"]), v.get("description", ""))
        for p in packages
        for v in p.get("vulns", ())
        if not {v["id"], *v.get("aliases", ())} & ignored.keys()
    )
    return Report(len(packages) - len(unknown), unknown, advisories)


def ask(service: Sequence[str], lock: str) -> Report:
    """Ask a service, given as options, about every package of a lock file.

    Raises
    ------
    NotAudited
    """
    with TemporaryDirectory() as folder:
        asked, told = Path(folder) / "asked.txt", Path(folder) / "told.json"
        asked.write_text(lock)
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", str(asked), "--disable-pip", "--require-hashes",
            "--format", "json", "--output", str(told), "--progress-spinner", "off", *service,
            "--timeout", str(TIMEOUT_S),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WHOLE_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotAudited(f"no answer within {WHOLE_S} s") from None
        if not told.exists():  # it writes what it has found, whatever that is, and nothing where it could not ask
            raise NotAudited((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return read_report(json.loads(told.read_text()), IGNORED)


def audit(lock: str) -> tuple[Report | None, dict[str, str]]:
    """Return what the first service that answers knows, and why those before it did not."""
    reasons: dict[str, str] = {}
    for name, service in SERVICES.items():
        try:
            ask(service, one_package(lock))  # one question, before as many as there are packages
            return ask(service, lock), reasons
        except NotAudited as error:
            reasons[name] = str(error)
    return None, reasons


def tell(report: Report | None, reasons: Mapping[str, str]) -> int:
    """Say what was found; status 1 where an advisory is known."""
    if report is None:
        told = "\n".join(f"  {service}: {reason[:300]}" for service, reason in reasons.items())
        print(f"{'!' * 78}\nDEPENDENCIES WERE NOT AUDITED: no advisories are to be had here.\n{told}\n{'!' * 78}")
        return 0
    for a in report.advisories:
        fixed = ", ".join(a.fixed_in) or "nothing yet"
        print(f"{a.package} {a.version}: {a.id}, fixed in {fixed}\n  {a.text[:300]}")
    if report.unknown:
        print(f"NOT AUDITED, for the service does not know them: {', '.join(report.unknown)}")
    print(f"{report.audited} dependencies audited, {len(report.advisories)} advisories")
    return 1 if report.advisories else 0


if __name__ == "__main__":
    raise SystemExit(tell(*audit(LOCK.read_text())))
