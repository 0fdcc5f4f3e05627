"""The levels of a view as data: CoinGlass-shaped JSON, compact binary, Arrow, CSV.

Lens, handles, palette, panels and theme are about the picture and change nothing here; symbol, venues, range, tiers,
side and price do.

Binary layout, little-endian::

    "LQHM" | uint32 length of the header | header, JSON | long codes | short codes

Both code blocks are uint8 of shape ``(n_price, n_time)``: USD per bin = ``exp(log_min + code * log_step)``, code 0 for
nothing. The header gives ``n_price, n_time, time_ms`` (first column and step), ``first_bin, bin_width`` (row ``i``
covers prices from ``exp((first_bin + i) * bin_width)`` to the next), ``log_min, log_step`` and ``provenance``.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from dashboard.frame import ChartFrame
from dashboard.maps import read_map
from dashboard.marks import missing_runs
from dashboard.preview import draw_preview
from dashboard.readings import DENSITY_SPAN, gaps_in_range
from estimator.domain import TIME, Float32Array, Int64Array
from estimator.model.grid import LiquidationGrid

JSON_THRESHOLD: Final = 0.05  # of the densest cell: smaller ones are left out of the JSON
MAGIC: Final = b"LQHM"
_LENGTH: Final = struct.Struct("<I")
_CODES: Final = 255


class Form(StrEnum):
    """Forms the levels come in."""

    JSON = "json"
    BINARY = "binary"
    ARROW = "arrow"
    CSV = "csv"
    PNG = "png"


class Export(NamedTuple):
    """A form: its media type, whether it gains from gzip, and its builder."""

    media_type: str
    gzipped: bool
    build: Callable[[ChartFrame], bytes]


def levels(frame: ChartFrame) -> LiquidationGrid:
    """Return the grid of a frame inside its price window."""
    return frame.grid.crop(*frame.window)


def provenance(frame: ChartFrame) -> dict[str, Any]:
    """Where the levels come from and what is missing in them."""
    lead = frame.statuses[0]
    return {
        "origin": lead.origin.value, "source": lead.source,
        "basis": {"levels": "estimated", "liquidations": frame.prints_basis},
        "preset": lead.preset, "unit": "USD per bin, estimated", "view": frame.view.query(),
        "venues": [
            {
                "exchange": s.exchange, "market": s.id, "as_of_ms": s.as_of_ms,
                "provisional_until_ms": s.provisional_until_ms, "stale": frame.is_stale(s),
                "gaps": [{"start_ms": g.start_ms, "end_ms": g.end_ms, "what": g.what} for g in gaps_in_range(frame, s)],
            }
            for s in frame.statuses
        ],
        "missing": [run._asdict() for run in missing_runs(frame)],
        "last_column_is_open": frame.live,
    }  # fmt: skip


def build_json(frame: ChartFrame) -> bytes:
    """Write CoinGlass's shape, plus provenance.

    A cell is ``[column, row, usd]``; longs lie below the column's candle, shorts above it.
    """
    grid = levels(frame)
    usd = grid.long_usd + grid.short_usd
    least = float(usd.max(initial=0.0)) * JSON_THRESHOLD
    columns, rows = np.nonzero((usd >= least) & (usd > 0))
    values = three_digits(usd[columns, rows])
    total = float(usd.sum(dtype=np.float64))
    kept = float(usd[columns, rows].sum(dtype=np.float64)) / total if total else 1.0
    answer = {
        "y_axis": [float(f"{p:.8g}") for p in np.sqrt(grid.price_edges[1:] * grid.price_edges[:-1])],
        "liquidation_leverage_data": np.column_stack([columns, rows, values]).tolist(),
        "price_candlesticks": _candlesticks(frame),
        "update_time": frame.as_of_ms,
        "x_axis_ms": frame.time_ms.tolist(),
        "long_short_split": _split(frame),
        "provenance": {
            **provenance(frame),
            "left_out_below_usd": least,
            "share_of_usd_kept": round(kept, 6),
            "significant_digits": 3,
        },
    }
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


def three_digits(usd: Float32Array) -> Int64Array:
    """Round to three significant digits and whole dollars. [USD]"""
    scale = 10.0 ** np.floor(np.log10(np.maximum(usd.astype(np.float64), 1.0)) - 2)
    out: Int64Array = np.rint(np.rint(usd / scale) * scale).astype(np.int64)
    return out


def _split(frame: ChartFrame) -> dict[str, Any]:
    """Estimated totals of the latest column inside the price window. [USD]"""
    now = read_map(frame)
    return {
        "time_ms": frame.as_of_ms,
        "long_usd": float(now.long_beyond_usd[0]),
        "short_usd": float(now.short_beyond_usd[-1]),
    }


def _candlesticks(frame: ChartFrame) -> list[list[float | int]]:
    names = ("open", "high", "low", "close", "volume")
    rows = frame.series.select(pl.col("time").dt.epoch("ms"), *names).drop_nulls(names[:4]).fill_null(0.0)
    return [[time, *(float(f"{v:.8g}") for v in values)] for time, *values in rows.iter_rows()]


def build_binary(frame: ChartFrame) -> bytes:
    """Write the compact form; its layout is in this module's docstring."""
    grid = levels(frame)
    top = float(max(grid.long_usd.max(initial=0.0), grid.short_usd.max(initial=0.0)))
    log_min = float(np.log(top * DENSITY_SPAN)) if top > 0 else 0.0
    log_step = float(-np.log(DENSITY_SPAN) / _CODES)
    header = {
        "n_price": grid.n_price, "n_time": len(frame.time_ms), "time_ms": [int(frame.time_ms[0]), frame.interval_ms],
        "first_bin": grid.first_bin, "bin_width": grid.bin_width, "log_min": log_min, "log_step": log_step,
        "mark_price": frame.mark_price, "provenance": provenance(frame),
    }  # fmt: skip
    head = json.dumps(header, separators=(",", ":")).encode()
    blocks = (_log_codes(usd.T, log_min, log_step) for usd in (grid.long_usd, grid.short_usd))
    return b"".join((MAGIC, _LENGTH.pack(len(head)), head, *blocks))


def _log_codes(usd: Float32Array, log_min: float, log_step: float) -> bytes:
    raw = (np.log(np.maximum(usd, np.exp(log_min) / 2)) - log_min) / log_step
    return bytes(np.clip(np.rint(raw), 0, _CODES).astype(np.uint8).tobytes())


def level_table(frame: ChartFrame) -> pl.DataFrame:
    """One row per cell that holds anything: ``time, price_low, price_high, long_usd, short_usd``. [USD per bin]"""
    grid = levels(frame)
    columns, rows = np.nonzero((grid.long_usd > 0) | (grid.short_usd > 0))
    edges = grid.price_edges
    return pl.DataFrame(
        {
            "time": pl.Series(frame.time_ms[columns]).cast(TIME),
            "price_low": edges[rows],
            "price_high": edges[rows + 1],
            "long_usd": grid.long_usd[columns, rows],
            "short_usd": grid.short_usd[columns, rows],
        }
    )


def build_arrow(frame: ChartFrame) -> bytes:
    """`level_table` as an Arrow IPC stream."""
    return _arrow(level_table(frame), "uncompressed")


def build_csv(frame: ChartFrame) -> bytes:
    """`level_table` as CSV, times ISO 8601 UTC."""
    return _csv(level_table(frame), frame.statuses[0].origin.value)


def pack_levels(frame: ChartFrame) -> bytes:
    """`level_table`, small, for `unpack_levels`."""
    return _arrow(level_table(frame), "zstd")


def unpack_levels(packed: bytes, form: Form, origin: str) -> bytes:
    """Return what `build_arrow` or `build_csv` would have given for the packed levels."""
    table = pl.read_ipc_stream(io.BytesIO(packed))
    return _csv(table, origin) if form is Form.CSV else _arrow(table, "uncompressed")


def _arrow(table: pl.DataFrame, compression: Literal["uncompressed", "zstd"]) -> bytes:
    out = io.BytesIO()
    table.write_ipc_stream(out, compression=compression)
    return out.getvalue()


def _csv(table: pl.DataFrame, origin: str) -> bytes:
    text = table.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"), pl.lit(origin).alias("origin"))
    return text.write_csv(float_precision=6).encode()


FORMS: Final = {
    Form.JSON: Export("application/json", True, build_json),
    Form.BINARY: Export("application/octet-stream", True, build_binary),
    Form.ARROW: Export("application/vnd.apache.arrow.stream", True, build_arrow),
    Form.CSV: Export("text/csv", True, build_csv),
    Form.PNG: Export("image/png", False, draw_preview),
}
