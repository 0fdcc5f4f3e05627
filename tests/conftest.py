"""What holds for every test."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from tests.dashboard.sample import KEPT

# Files that wait for minutes of a market, and the browser's: begun last, they would be waited for.
LONG: Final = ("tests/soak/", "tests/test_", "tests/e2e/")

# All tests ask from one address: none is to be refused for what the others asked. Those of the limits set their own.
os.environ.update(dict.fromkeys((f"LIQHEAT_LIMIT_{n}" for n in ("READS", "COMPUTED", "WRITES", "SNAPSHOTS")), "0"))

settings.register_profile("liqheat", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("liqheat")


def pytest_configure(config: pytest.Config) -> None:
    """Give a run of tests, all its processes together, a folder of samples."""
    if KEPT not in os.environ:
        folder = os.environ[KEPT] = tempfile.mkdtemp(prefix="liqheat-samples-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the long files first."""

    def rank(item: pytest.Item) -> int:
        path = Path(item.nodeid.partition("::")[0]).as_posix()
        return next((n for n, part in enumerate(LONG) if path.startswith(part)), len(LONG))

    items.sort(key=rank)
