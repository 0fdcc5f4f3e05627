"""Run the long proofs: ``python -m tests.soak kills --moments 50`` or ``python -m tests.soak faults --minutes 10``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from estimator.memory import keep_little
from tests.soak.account import Check
from tests.soak.kills import kill_again_and_again
from tests.soak.troubles import trouble

_console = Console(width=None if sys.stdout.isatty() else 200)


def main(words: Sequence[str]) -> int:
    """Run one proof; status 1 if anything did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills", help="kill a worker at random moments, compare it with one that never was")
    kills.add_argument("--moments", type=int, default=50)
    faults = commands.add_parser("faults", help="follow six venues through every fault, compare with calm ones")
    faults.add_argument("--minutes", type=float, default=10.0)
    for command in (kills, faults):
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--folder", type=Path, help="keep everything there")
    asked = parser.parse_args(words)
    keep_little()  # as the command `worker` does: Polars reads it when the process of the workers imports it
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="liqheat-soak-"))
    if asked.command == "kills":
        return _kills(folder, asked.moments, asked.seed)
    return _faults(folder, asked.minutes, asked.seed)


def _kills(folder: Path, moments: int, seed: int) -> int:
    began = time.monotonic()
    with _bar() as bar:
        task = bar.add_task("starting", total=moments)
        outcome = asyncio.run(
            kill_again_and_again(
                folder, moments, seed, tell=lambda done, what: bar.update(task, completed=done, description=what)
            )
        )
    _console.print(_table(outcome.checks))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.kinds.items()))
    _console.print(f"{moments} moments ({kinds}), seed {seed}, {time.monotonic() - began:.0f} s, in {folder}")
    return 0 if outcome.good else 1


def _faults(folder: Path, minutes: float, seed: int) -> int:
    with _bar() as bar:
        task = bar.add_task("starting", total=round(60 * minutes))
        outcome = asyncio.run(
            trouble(
                folder,
                60 * minutes,
                seed,
                tell=lambda gone, what: bar.update(task, completed=round(gone), description=what),
            )
        )
    _console.print(_table(outcome.checks))
    count = Table("trouble", "times")
    for kind, times in sorted(outcome.faults.items()):
        count.add_row(kind, str(times))
    _console.print(count)
    _console.print(f"{outcome.minutes:.0f} minutes of the market, {outcome.prints} prints, seed {seed}, in {folder}")
    return 0 if outcome.good else 1


def _bar() -> Progress:
    return Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=_console
    )


def _table(checks: Sequence[Check]) -> Table:
    table = Table("statement", "compared", "wrong", "what")
    for check in checks:
        style = "bold red" if check.wrong else ""
        table.add_row(check.what, f"{check.compared}", f"{len(check.wrong)}", check.told or check.note, style=style)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
