"""Answers of one program are not taken for those of another."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from dashboard import answers, insight_routes
from dashboard.revision import REVISION, digest
from tests.dashboard.conftest import serve


def test_any_change_of_any_module_changes_the_revision(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "inner" / "b.py").write_text("")
    seen = [digest(tmp_path)]
    for change in (
        lambda: (tmp_path / "a.py").write_text("x = 2\n"),
        lambda: (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py"),
        (tmp_path / "inner" / "c.py").unlink,
    ):
        change()
        seen.append(digest(tmp_path))
    assert len(set(seen)) == len(seen)
    assert digest(tmp_path) == seen[-1]


@pytest.mark.parametrize("path", ["chart", "heatmap", "map", "clusters", "signals", "cascade"])
def test_what_another_program_answered_is_sent_anew(
    redis_url: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    first = client.get(f"/api/v1/{path}?symbol=BTC")
    for module in (answers, insight_routes):
        monkeypatch.setattr(module, "REVISION", REVISION + "+1")
    with serve(redis_url) as upgraded:
        known = {"If-None-Match": first.headers["etag"]}
        assert upgraded.get(f"/api/v1/{path}?symbol=BTC", headers=known).status_code == 200
