"""Run the benchmarks: all, or those named."""

from __future__ import annotations

import sys
from typing import Final

from tests.benchmarks import browser, cache, follow, kernel, server, start, viewers
from tests.benchmarks.report import machine

PARTS: Final = {
    "kernel": kernel.measure,
    "cache": cache.measure,
    "start": start.measure,
    "server": server.measure,
    "viewers": viewers.measure,
    "browser": browser.measure,
    "follow": follow.measure,
}


def main(names: list[str]) -> int:
    """Measure and print; status 2 for a name that is none."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(machine(), flush=True)
    for name in names or PARTS:
        for result in PARTS[name]():
            print(result.line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
