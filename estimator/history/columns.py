"""Published columns as rows of history: what people saw, bit for bit.

The binary columns `total` and `tier` are one Zstandard frame each, of little-endian numbers: first an int16 exponent
per layer, then the float16 mantissas, layer by layer, ``n_price`` each. Layers alternate long and short; `total` has
one pair, `tier` one per name in `tiers`. A density in USD per bin is ``mantissa * 2**exponent``. This is the rounding
of the cache, so a column read back is the column that was published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import zstandard

from estimator.cache.tiles import Tile, join_tiles, make_tile, stack_tiers
from estimator.domain import TIME
from estimator.errors import CorruptHistory
from estimator.history.tables import COLUMNS, COLUMNS_OPTIONAL, MARKET, with_market
from estimator.model.grid import LiquidationGrid

_ZSTD_LEVEL: Final = 3


def columns_frame(
    market_id: str, level: int, grid: LiquidationGrid, *, parameters: str, book_format: int
) -> pl.DataFrame:
    """Turn closed columns into rows of the table ``columns``, without the empty bins at both ends.

    Parameters
    ----------
    market_id : str
    level : int
        Index into `estimator.model.grid.LEVELS`.
    grid : LiquidationGrid
        With its tiers if it has them.
    parameters : str
        Version of the parameters of the book.
    book_format : int
        Format of the state of the book that made them.

    Raises
    ------
    ParameterError
        If a density is negative or not finite.
    """
    time_ms = grid.time.astype("datetime64[ms]").astype(np.int64)
    total = make_tile(time_ms, grid.first_bin, np.stack([grid.long_usd, grid.short_usd], axis=1))
    tier = None
    if grid.tier_source is not None:
        stacked = stack_tiers(grid.tier_source, len(grid.tiers))
        tier = make_tile(time_ms, grid.first_bin, stacked, grid.tiers)
    windows = _windows(total)
    frame = pl.DataFrame(
        {
            "time": pl.Series(time_ms).cast(TIME),
            "level": np.full(len(time_ms), level),
            "first_bin": [grid.first_bin + w.start for w in windows],
            "n_price": [w.stop - w.start for w in windows],
            "bin_width": np.full(len(time_ms), grid.bin_width),
            "total": [_pack(total, row, w) for row, w in enumerate(windows)],
            "parameters": [parameters] * len(time_ms),
            "book_format": np.full(len(time_ms), book_format),
            "tiers": [list(grid.tiers) if tier else None] * len(time_ms),
            "tier": [_pack(tier, row, w) if tier else None for row, w in enumerate(windows)],
        }
    )
    schema = {**MARKET, **COLUMNS, **COLUMNS_OPTIONAL}
    return with_market(market_id, frame).select(pl.col(n).cast(t) for n, t in schema.items())


def columns_grid(frame: pl.DataFrame, *, tiers: bool = False) -> LiquidationGrid | None:
    """Turn rows of one market and one level, by rising time, back into a grid; None without rows.

    Parameters
    ----------
    frame : DataFrame
        From `History.read`.
    tiers : bool
        Decode the tiers as well; the grid has them only where every row does.

    Raises
    ------
    CorruptHistory
        If bytes do not decode.
    """
    if frame.is_empty():
        return None
    rows = frame.with_columns(time_ms=pl.col("time").dt.epoch("ms")).rows(named=True)
    totals = [_unpack(row, row["total"], ()) for row in rows]
    by_tier = [_unpack(row, row["tier"], tuple(row["tiers"])) for row in rows if tiers and row["tier"] is not None]
    return join_tiles(int(frame["level"][0]), totals, by_tier)


def _windows(tile: Tile) -> list[slice]:
    """Range of bins of each column that hold anything in any layer, at least one bin."""
    held = (tile.mantissa != 0).any(axis=1)
    first, last = held.argmax(axis=1), held.shape[1] - held[:, ::-1].argmax(axis=1)
    empty = ~held.any(axis=1)
    return [slice(0, 1) if e else slice(int(a), int(b)) for a, b, e in zip(first, last, empty, strict=True)]


def _pack(tile: Tile, row: int, window: slice) -> bytes:
    parts = tile.exponent[row].astype("<i2"), tile.mantissa[row][:, window].astype("<f2")
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(p.tobytes() for p in parts))


def _unpack(row: Mapping[str, Any], packed: bytes, names: Sequence[str]) -> Tile:
    n_layer, n_price = 2 * max(1, len(names)), row["n_price"]
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise CorruptHistory(f"column of {row['time']}: {error}") from error
    if len(raw) != 2 * n_layer * (1 + n_price):
        raise CorruptHistory(f"column of {row['time']}: {len(raw)} bytes for {n_layer} layers of {n_price} bins")
    exponent = np.frombuffer(raw, dtype="<i2", count=n_layer)[None]
    mantissa = np.frombuffer(raw, dtype="<f2", offset=2 * n_layer).reshape(1, n_layer, n_price)
    return Tile(np.array([row["time_ms"]]), row["first_bin"], exponent, mantissa, tuple(names))
