"""One measured figure, its ratio and its target, and the line it is printed as."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """A measured figure.

    Parameters
    ----------
    name, value, unit
        What was measured.
    ratio : str
        The figure beside another, in words; empty where there is none.
    target : float, optional
        Bound from docs/performance.md.
    at_least : bool
        Whether the target is a lower bound.
    """

    name: str
    value: float
    unit: str
    ratio: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def line(self) -> str:
        """One line for people."""
        shown = f"{self.name:<62} {self.value:>10.4g} {self.unit:<7} {self.ratio:<50}"
        if self.target is None:
            return shown.rstrip()
        met = self.value >= self.target if self.at_least else self.value <= self.target
        bound = f"{'>=' if self.at_least else '<='} {self.target:g} {self.unit}"
        return f"{shown} target {bound}: {'met' if met else 'MISSED'}"


def best_of(n: int, run: Callable[[], object]) -> float:
    """Shortest of `n` runs. [s]"""
    taken = []
    for _ in range(n):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def machine() -> str:
    """Say what was measured on, and how busy it was."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, load {load}"


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process. [MB]"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
