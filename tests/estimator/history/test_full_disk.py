"""A disk that fills up costs nothing: what arrives waits, says so, and is stored once there is room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.estimator.history.writing import BATCH, MARKETS

ROOT = Path(__file__).parents[3]
OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")


def test_nothing_is_lost_or_doubled_by_a_disk_full_under_redis_and_history(tmp_path: Path) -> None:
    try:
        subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine lets no test mount a file system ({error})")
    command = [*OWN_MOUNTS, sys.executable, "-m", "tests.estimator.history.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["prints"] == told["batches"] * BATCH * len(MARKETS) > 0
    assert told["columns"] == 10
    assert told["waiting"] == 1
    assert "No space left on device" in told["shown"]["recorder"]  # of Redis or of history, whichever was first
    assert "history/columns" in told["shown"]["published"]
    assert any("MISCONF" in refusal for refusal in told["refused"])
