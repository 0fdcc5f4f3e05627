"""What the documentation gives away as examples works as it stands."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from estimator.settings import Settings
from tests.dashboard.conftest import serve

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("client", EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def address(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def test_the_client_reads_the_levels_that_the_table_has(example: ModuleType, client: httpx.Client) -> None:
    with example.Liqheat(address(client)) as server:
        levels = server.levels(symbol="BTC", range="12h")
        again = server.levels(symbol="BTC", range="12h")
    assert levels.long_usd.shape == (len(levels.price_edges) - 1, len(levels.time_ms))
    told = client.get("/api/v1/heatmap?symbol=BTC&range=12h").json()
    assert levels.time_ms.tolist() == told["x_axis_ms"]
    assert levels.long_usd[:, -1].sum() == pytest.approx(told["long_short_split"]["long_usd"], rel=0.02)
    assert levels.about["origin"] == "simulated"
    np.testing.assert_array_equal(again.short_usd, levels.short_usd)


def test_the_client_reads_every_print_over_pages(example: ModuleType, client: httpx.Client) -> None:
    with example.Liqheat(address(client)) as server:
        by_page = list(server.prints(symbol="BTC", range="12h", limit="50"))
        at_once = list(server.prints(symbol="BTC", range="12h", limit="5000"))
        first = next(server.follow(symbol="BTC"))
    assert len(by_page) > 50
    assert by_page == at_once
    assert set(first) == set(by_page[0])


def test_the_client_says_what_was_wrong(example: ModuleType, client: httpx.Client) -> None:
    with example.Liqheat(address(client)) as server, pytest.raises(ValueError, match="range: got '2d'"):
        server.levels(symbol="BTC", range="2d")


def test_the_client_makes_snapshots_and_prints_a_summary(
    example: ModuleType, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(redis_url, Settings(data=tmp_path)) as site:
        with example.Liqheat(address(site)) as server:
            assert httpx.get(server.freeze("symbol=BTC&range=12h")).status_code == 200
            assert {"side", "price", "mass_usd"} <= set(server.clusters(symbol="BTC", least_share="0.001")[0])
        example.main(address(site), "BTC")
    assert "origin: simulated" in capsys.readouterr().out


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "client.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_client_as_a_command_needs_an_address_only(client: httpx.Client) -> None:
    done = started(address(client))
    assert (done.returncode, done.stderr) == (0, "")
    assert "origin: simulated" in done.stdout


def test_the_client_as_a_command_says_what_was_wrong_in_one_line(client: httpx.Client) -> None:
    for arguments, said in (
        ((address(client), "NOPE"), "symbol: got 'NOPE'"),
        (("http://127.0.0.1:1",), "http://127.0.0.1:1: "),
        (("127.0.0.1:1",), "127.0.0.1:1: "),
    ):
        done = started(*arguments)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert said in line


def test_the_notebook_runs_from_top_to_bottom(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "levels.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # nobody's data is stored in it
    monkeypatch.setenv("LIQHEAT_ADDRESS", address(client))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "levels.ipynb", "exec"), names)  # noqa: S102 - our own notebook
    assert names["figure"].data
    assert 0 < names["share_within_2_percent"] < 1
