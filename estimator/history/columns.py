"""Published columns as rows of history: what people saw, bit for bit.

A column is stored once, whichever levels show it: levels of equal price bins show the same columns, some fewer of
them. What is stored is the rounding of the cache, so a column read back is the column that was published: a density in
USD per bin is ``mantissa * 2**exponent``, an int16 exponent for each layer and a float16 mantissa for each of its bins.
Layers alternate long and short; `total` has one pair, `tier` one per name in `tiers`.

Each of the two binary columns is one Zstandard frame: the exponents, little-endian, then the mantissas. Neighbouring
bins are alike, so what is packed are the second differences of the mantissas' bits along the bins, each difference an
int16 folded to an unsigned number (0, -1, 1, -2, ... become 0, 1, 2, 3, ...), first all low bytes, then all high ones.
That is a third of what the plain mantissas take, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import zstandard
from numpy.typing import NDArray

from estimator.cache.tiles import Tile, join_tiles, make_tile, stack_tiers
from estimator.domain import TIME
from estimator.errors import CorruptHistory
from estimator.history.tables import COLUMNS, COLUMNS_OPTIONAL, MARKET, with_market
from estimator.model.grid import LEVELS, LiquidationGrid

_ZSTD_LEVEL: Final = 3


def columns_frame(
    market_id: str,
    level: int,
    grid: LiquidationGrid,
    *,
    parameters_version: str,
    book_format: int,
    published_ms: int | None = None,
) -> pl.DataFrame:
    """Turn closed columns into rows of the table ``columns``, without the empty bins at both ends.

    Parameters
    ----------
    market_id : str
    level : int
        Index into `estimator.model.grid.LEVELS`.
    grid : LiquidationGrid
        With its tiers if it has them.
    parameters_version : str
        Of the parameters of the book.
    book_format : int
        Format of the state of the book that made them.
    published_ms : int, optional
        When they were first shown; None where that is not known. [ms]

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
            "price_factor": np.full(len(time_ms), LEVELS[level].price_factor),
            "first_bin": [grid.first_bin + w.start for w in windows],
            "n_price": [w.stop - w.start for w in windows],
            "bin_width": np.full(len(time_ms), grid.bin_width),
            "total": [_pack(total, row, w) for row, w in enumerate(windows)],
            "parameters_version": [parameters_version] * len(time_ms),
            "book_format": np.full(len(time_ms), book_format),
            "tiers": [list(grid.tiers) if tier else None] * len(time_ms),
            "tier": [_pack(tier, row, w) if tier else None for row, w in enumerate(windows)],
            "published": pl.Series([published_ms] * len(time_ms), dtype=pl.Int64).cast(TIME),
        }
    )
    schema = {**MARKET, **COLUMNS, **COLUMNS_OPTIONAL}
    return with_market(market_id, frame).select(pl.col(n).cast(t) for n, t in schema.items())


def columns_grid(frame: pl.DataFrame, *, tiers: bool = False) -> LiquidationGrid | None:
    """Turn rows of one market and one width of bins, by rising time, back into a grid; None without rows.

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
    level = [spec.price_factor for spec in LEVELS].index(frame["price_factor"][0])  # join_tiles asks for the bins only
    return join_tiles(level, totals, by_tier)


def _windows(tile: Tile) -> list[slice]:
    """Range of bins of each column that hold anything in any layer, at least one bin."""
    held = (tile.mantissa != 0).any(axis=1)
    first, last = held.argmax(axis=1), held.shape[1] - held[:, ::-1].argmax(axis=1)
    empty = ~held.any(axis=1)
    return [slice(0, 1) if e else slice(int(a), int(b)) for a, b, e in zip(first, last, empty, strict=True)]


def _pack(tile: Tile, row: int, window: slice) -> bytes:
    exponent = tile.exponent[row].astype("<i2").tobytes()
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(exponent + _fold(tile.mantissa[row][:, window]))


def _unpack(row: Mapping[str, Any], packed: bytes, names: Sequence[str]) -> Tile:
    n_layer, n_price = 2 * max(1, len(names)), row["n_price"]
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise CorruptHistory(f"column of {row['time']}: {error}") from error
    if len(raw) != 2 * n_layer * (1 + n_price):
        raise CorruptHistory(f"column of {row['time']}: {len(raw)} bytes for {n_layer} layers of {n_price} bins")
    exponent = np.frombuffer(raw, dtype="<i2", count=n_layer)[None]
    mantissa = _unfold(raw[2 * n_layer :], n_layer)[None]
    return Tile(np.array([row["time_ms"]]), row["first_bin"], exponent, mantissa, tuple(names))


def _fold(mantissa: NDArray[np.float16]) -> bytes:
    """Bytes of the folded second differences along the last axis; all arithmetic wraps around at 16 bits."""
    bits = np.pad(mantissa.astype("<f2").view("<u2"), ((0, 0), (2, 0)))
    change = np.diff(bits, n=2).view("<i2")
    folded = (change << 1) ^ (change >> 15)
    return np.ascontiguousarray(folded.view(np.uint8).reshape(-1, 2).T).tobytes()


def _unfold(raw: bytes, n_layer: int) -> NDArray[np.float16]:
    """Undo `_fold`."""
    folded = np.ascontiguousarray(np.frombuffer(raw, dtype=np.uint8).reshape(2, -1).T).view("<u2")
    change = (folded >> 1) ^ -(folded & 1)
    bits = change.reshape(n_layer, -1).cumsum(axis=1, dtype="<u2").cumsum(axis=1, dtype="<u2")
    return bits.view("<f2")
