"""Writes `dashboard/examples.json`, the answers that the description of the API shows: real ones, cut short.

``python -m tests.render_openapi``
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx

from dashboard.described import FILE

SNAPSHOT: Final = "{name}"
SITE: Final = "http://127.0.0.1:8050"
# What is asked for the example of a route and a form.
ASKED: Final = {
    "/api/v1/heatmap": {"application/json": "symbol=BTC&range=24h", "text/csv": "symbol=BTC&range=24h&format=csv"},
    "/api/v1/chart": {"application/json": "symbol=BTC&range=24h"},
    "/api/v1/map": {"application/json": "symbol=BTC"},
    "/api/v1/band": {"application/json": "symbol=BTC"},
    "/api/v1/positions": {"application/json": "symbol=BTC"},
    "/api/v1/clusters": {"application/json": "symbol=BTC"},
    "/api/v1/signals": {"application/json": "symbol=BTC"},
    "/api/v1/cascade": {"application/json": "symbol=BTC&change=-0.03"},
    "/api/v1/position": {"application/json": "symbol=BTC&venue=bybit&quantity=1&leverage=10&days=7"},
    "/api/v1/liquidations": {
        "application/json": "symbol=BTC&limit=2", "text/csv": "symbol=BTC&limit=2&format=csv",
    },
    "/api/v1/liquidations/stream": {"text/event-stream": "symbol=BTC"},
    "/api/v1/markets": {"application/json": "limit=1", "text/csv": "limit=2&format=csv"},
    "/api/v1/source": {"application/json": ""},
    "/api/v1/track-record": {"application/json": "", "text/csv": "format=csv"},
    "/api/v1/snapshots": {"application/json": ""},
    "/api/v1/snapshots/{name}": {"application/json": ""},
    "/api/v1/snapshots/{name}/chart": {"application/json": ""},
    "/api/v1/snapshots/{name}/levels": {"text/csv": "format=csv"},
    "/oembed": {"application/json": f"url={SITE}/%3Fsymbol=BTC"},
    "/healthz": {"application/json": ""},
    "/readyz": {"application/json": ""},
}  # fmt: skip
_WIDE: Final = frozenset({"/api/v1/chart", "/api/v1/snapshots/{name}/chart"})  # figures, of which a glimpse is enough


def short(value: Any, *, wide: bool = False, depth: int = 0) -> Any:
    """Cut lists, texts and digits, and of figures what lies deep."""
    if isinstance(value, dict):
        items = list(value.items())[: 4 if wide and depth > 2 else 60]
        return {k: short(v, wide=wide, depth=depth + 1) for k, v in items}
    if isinstance(value, list):
        most = 2 if any(isinstance(v, list | dict) for v in value) else 3 if len(value) > 8 else 8
        return [short(v, wide=wide, depth=depth + 1) for v in value[:most]]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value[:119] + "…" if isinstance(value, str) and len(value) > 120 else value


def answered(client: httpx.Client, path: str, media_type: str, query: str, name: str) -> Any:
    """Return what the server answers, cut short."""
    query = query.replace(SITE, str(client.base_url).rstrip("/"))
    address = path.replace(SNAPSHOT, name) + (f"?{query}" if query else "")
    if media_type == "text/event-stream":
        with client.stream("GET", address) as stream:
            return next(_event(line) for line in stream.iter_lines() if line.startswith("data: "))
    answer = client.get(address) if path != "/api/v1/snapshots" else freeze(client)
    if media_type == "text/csv":
        return "".join(answer.text.splitlines(keepends=True)[:3])
    answer.raise_for_status()
    text = answer.text.replace(str(client.base_url).rstrip("/"), SITE)
    return short(json.loads(text), wide=path in _WIDE)


def freeze(client: httpx.Client) -> httpx.Response:
    """Make a snapshot of the view the examples show."""
    return client.post("/api/v1/snapshots", json={"view": "symbol=BTC&range=24h"})


def _event(line: str) -> str:
    return f"event: prints\ndata: {json.dumps(short(json.loads(line.removeprefix('data: '))))}\n\n"


def render(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the examples of a server that holds the sample, bands and a track record."""
    name = freeze(client).json()["id"]
    return {
        path: {media_type: answered(client, path, media_type, q, name) for media_type, q in forms.items()}
        for path, forms in ASKED.items()
    }


def main() -> None:
    """Ask a server of our own and write the file."""
    os.environ.update({f"LIQHEAT_LIMIT_{n}": "0" for n in ("READS", "COMPUTED", "WRITES", "SNAPSHOTS")})
    from estimator.cache import Cache
    from estimator.settings import Settings
    from tests.dashboard.conftest import serve
    from tests.dashboard.sample import SHARES, sample_server
    from tests.dashboard.test_band import put_bands
    from tests.dashboard.test_measured import put_positions
    from tests.dashboard.test_track import META, horizon

    with (
        TemporaryDirectory() as folder,
        sample_server(Path(folder) / "redis", levels=(0, 2, 3), coins=("BTC",)) as url,
        serve(url, Settings(data=Path(folder))) as client,
    ):
        cache = Cache(url)
        put_bands(cache, tuple(SHARES))
        put_positions(cache)
        cache.track.put(META, {("all", "all"): {"horizons": {"1": horizon()}}})
        cache.close()
        while client.get("/api/v1/markets").json()["markets"][0]["pending"]:
            pass
        FILE.write_text(json.dumps(render(client), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
