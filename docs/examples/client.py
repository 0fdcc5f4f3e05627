"""A client of the API in one file: levels as arrays, prints page by page, prints as they come, snapshots.

Needs httpx and NumPy, as in the environment of liqheat itself::

    .venv/bin/python docs/examples/client.py http://127.0.0.1:8050 BTC
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import httpx
import numpy as np
from numpy.typing import NDArray


class Levels(NamedTuple):
    """Estimated levels of a view.

    Parameters
    ----------
    time_ms : array, shape (n_time,)
        Close times of the columns, milliseconds since the epoch, UTC.
    price_edges : array, shape (n_price + 1,)
    long_usd, short_usd : array, shape (n_price, n_time)
        USD that would be liquidated per bin. Estimated.
    about : dict
        Mark price and provenance.
    """

    time_ms: NDArray[np.int64]
    price_edges: NDArray[np.float64]
    long_usd: NDArray[np.float64]
    short_usd: NDArray[np.float64]
    about: dict[str, Any]


class Liqheat:
    """A running server.

    Parameters
    ----------
    address : str
        Such as ``http://127.0.0.1:8050``.
    """

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=30)
        self._kept: dict[str, tuple[str, bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def levels(self, **view: str) -> Levels:
        """Fetch levels in the compact form; asked again, an unchanged market costs no body."""
        body = self._get("/api/v1/heatmap", {**view, "format": "binary"})
        if body[:4] != b"LQHM":
            raise ValueError("not a heatmap")
        (length,) = struct.unpack_from("<I", body, 4)
        head = json.loads(body[8 : 8 + length])
        codes = np.frombuffer(body, np.uint8, offset=8 + length).reshape(2, head["n_price"], head["n_time"])
        usd = np.where(codes > 0, np.exp(head["log_min"] + codes * head["log_step"]), 0.0)
        first_ms, step_ms = head["time_ms"]
        return Levels(
            time_ms=first_ms + step_ms * np.arange(head["n_time"], dtype=np.int64),
            price_edges=np.exp((head["first_bin"] + np.arange(head["n_price"] + 1)) * head["bin_width"]),
            long_usd=usd[0],
            short_usd=usd[1],
            about={"mark_price": head["mark_price"], **head["provenance"]},
        )

    def prints(self, **view: str) -> Iterator[dict[str, Any]]:
        """Yield liquidation prints of a view, newest first, however many pages they fill."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._json("/api/v1/liquidations", {**view, **({"cursor": cursor} if cursor else {})})
            for row in page["rows"]:
                yield dict(zip(page["columns"], row, strict=True))
            cursor = page["next"]

    def follow(self, **wanted: str) -> Iterator[dict[str, Any]]:
        """Yield liquidation prints as they come; the first are the newest of the last day."""
        with self._http.stream("GET", "/api/v1/liquidations/stream", params=wanted, timeout=None) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                for row in event.get("rows", ()):
                    yield dict(zip(event["columns"], row, strict=True))

    def clusters(self, **asked: str) -> list[dict[str, Any]]:
        """Clusters of levels by falling magnet score."""
        found: list[dict[str, Any]] = self._json("/api/v1/clusters", asked)["clusters"]
        return found

    def freeze(self, view: str) -> str:
        """Freeze a view and its data and return the address of the snapshot."""
        answer = self._http.post("/api/v1/snapshots", json={"view": view})
        answer.raise_for_status()
        return str(answer.json()["url"])

    def _json(self, path: str, parameters: dict[str, str]) -> Any:
        return json.loads(self._get(path, parameters))

    def _get(self, path: str, parameters: dict[str, str]) -> bytes:
        key = str(httpx.URL(path, params=parameters))
        tag, body = self._kept.get(key, ("", b""))
        answer = self._http.get(key, headers={"If-None-Match": tag} if tag else {})
        if answer.status_code == 304:
            return body
        if answer.status_code == 422:
            raise ValueError(answer.json()["error"])  # names the parameter, its value and what is accepted
        answer.raise_for_status()
        self._kept[key] = (answer.headers.get("ETag", ""), answer.content)
        return answer.content


def main(address: str, symbol: str) -> None:
    """Print what a view amounts to."""
    with Liqheat(address) as server:
        levels = server.levels(symbol=symbol, range="24h")
        middle = np.sqrt(levels.price_edges[1:] * levels.price_edges[:-1])
        for side, usd in (("longs", levels.long_usd[:, -1]), ("shorts", levels.short_usd[:, -1])):
            densest = int(usd.argmax())
            print(f"{side}: {usd.sum():,.0f} USD estimated in the window, most of it near {middle[densest]:,.6g}")
        total = sum(p["notional_usd"] for p in server.prints(symbol=symbol, range="24h"))
        print(f"liquidated in 24 h: {total:,.0f} USD, {levels.about['basis']['liquidations']}")
        print(f"origin: {levels.about['origin']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8050")
    parser.add_argument("symbol", nargs="?", default="BTC")
    asked = parser.parse_args()
    try:
        main(asked.address, asked.symbol)
    except (httpx.HTTPError, ValueError) as error:
        parser.exit(1, f"{asked.address}: {str(error).splitlines()[0]}\n")
