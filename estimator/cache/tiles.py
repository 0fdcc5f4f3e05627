"""Tiles: runs of closed columns, or of candle rows, that are stored as one entry.

A tile covers `TILE_COLUMNS` intervals of its level, aligned to the epoch, so a column's time tells its tile. Values are
float16 times a power of two chosen *per column and layer*: adding a column to a tile never changes the stored ones.
A value keeps a relative precision of ``2**-11`` down to ``2**-28`` of the largest value of its column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from estimator.cache import codec
from estimator.domain import TIME, Float32Array, Int64Array
from estimator.errors import CorruptEntry, InputError, ParameterError
from estimator.model.grid import BIN_WIDTH, LEVELS, TIER_NAMES, LiquidationGrid, TierSource

TILE_COLUMNS: Final = 96
_MANTISSA_BITS: Final = 15  # the largest value of a column lands in 2**14 .. 2**15, half of what float16 can hold
_SMALLEST_EXPONENT: Final = -100
_MANTISSA_SHIFT: Final = np.uint32(23 - 10)
_BIAS_DIFFERENCE: Final = np.float32(2.0 ** (127 - 15))


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Columns of one tile as they are stored.

    Parameters
    ----------
    time_ms : Int64Array, shape (n_time,)
        Close times, rising.
    first_bin : int
        Lattice index of the lowest bin.
    exponent : int16 array, shape (n_time, n_layer)
        Power of two of each column and layer.
    mantissa : float16 array, shape (n_time, n_layer, n_price)
        Density divided by that power of two. Layers alternate long, short; one pair, or one per tier.
    tiers : tuple of str
        Names of the tiers; empty where the layers are totals.
    """

    time_ms: Int64Array
    first_bin: int
    exponent: NDArray[np.int16]
    mantissa: NDArray[np.float16]
    tiers: tuple[str, ...] = ()

    @property
    def stop_bin(self) -> int:
        """Lattice index just above the highest bin."""
        return self.first_bin + int(self.mantissa.shape[-1])

    def within(self, start_ms: int, end_ms: int) -> Tile:
        """Return the columns with ``start_ms < time <= end_ms``."""
        low, high = np.searchsorted(self.time_ms, [start_ms, end_ms], side="right")
        if high - low == len(self.time_ms):
            return self
        rows = slice(int(low), int(high))
        return Tile(self.time_ms[rows], self.first_bin, self.exponent[rows], self.mantissa[rows], self.tiers)

    def read_into(self, out: Float32Array, layer: int, first_bin: int) -> None:
        """Write the density of one layer, in USD per bin, into `out`, whose lowest bin is `first_bin`."""
        at = self.first_bin - first_bin
        target = out[:, at : at + self.mantissa.shape[-1]]
        # What astype(float32) would give, in a quarter of its time: the bits of a float16 >= 0, moved to where float32
        # has them, are the value short of the difference between the two exponent biases.
        bits = target.view(np.uint32)
        bits[...] = self.mantissa[:, layer].view(np.uint16)
        bits <<= _MANTISSA_SHIFT
        target *= _BIAS_DIFFERENCE
        target *= np.ldexp(np.float32(1), self.exponent[:, layer, None])


def make_tile(time_ms: Int64Array, first_bin: int, density: Float32Array, tiers: tuple[str, ...] = ()) -> Tile:
    """Round `density`, shape (n_time, n_layer, n_price), to what is stored.

    Raises
    ------
    ParameterError
        If a density is negative or not finite.
    """
    smallest, largest = density.min(initial=0.0), density.max(axis=-1, initial=0.0)
    if smallest < 0 or not np.isfinite(largest).all():
        raise ParameterError("density", (float(smallest), float(largest.max())), "finite USD per bin, >= 0")
    exponent = np.where(largest > 0, np.frexp(largest)[1] - _MANTISSA_BITS, 0).clip(_SMALLEST_EXPONENT)
    # A largest value that rounds up to a power of two counts as that: what is read back rounds to itself again.
    rounded = np.ldexp(largest, -exponent).astype(np.float16).astype(np.float32)
    exponent += np.frexp(rounded)[1] > _MANTISSA_BITS
    mantissa = np.abs(np.ldexp(density, -exponent[..., None]).astype(np.float16))  # abs: no -0.0, see read_into
    return Tile(time_ms, first_bin, exponent.astype(np.int16), mantissa, tiers)


def merge_tiles(stored: Tile | None, new: Tile) -> Tile:
    """Add the columns of `new` that `stored` does not have; `stored` itself where there are none.

    Raises
    ------
    ParameterError
        If their tiers differ.
    """
    if stored is None:
        return new
    if stored.tiers != new.tiers:
        raise ParameterError("tiers", new.tiers, f"{stored.tiers} as in the columns already stored")
    fresh = ~np.isin(new.time_ms, stored.time_ms)
    if not fresh.any():
        return stored
    first, stop = min(stored.first_bin, new.first_bin), max(stored.stop_bin, new.stop_bin)
    time_ms = np.concatenate([stored.time_ms, new.time_ms[fresh]])
    order = np.argsort(time_ms)
    exponent = np.concatenate([stored.exponent, new.exponent[fresh]])
    mantissa = np.concatenate([_widen(stored, first, stop), _widen(new, first, stop)[fresh]])
    return Tile(time_ms[order], first, exponent[order], mantissa[order], stored.tiers)


def _widen(tile: Tile, first: int, stop: int) -> NDArray[np.float16]:
    return np.pad(tile.mantissa, ((0, 0), (0, 0), (tile.first_bin - first, stop - tile.stop_bin)))


def encode_tile(tile: Tile) -> bytes:
    """Encode for the cache."""
    meta = {"first_bin": tile.first_bin, "tiers": tile.tiers}
    return codec.pack(meta, {"time_ms": tile.time_ms, "exponent": tile.exponent, "mantissa": tile.mantissa})


def decode_tile(key: str, payload: bytes) -> Tile:
    """Decode what `encode_tile` wrote; raises `CorruptEntry` naming `key`."""
    meta, arrays = codec.unpack(key, payload)
    try:
        return Tile(arrays["time_ms"], meta["first_bin"], arrays["exponent"], arrays["mantissa"], tuple(meta["tiers"]))
    except (KeyError, TypeError) as error:
        raise CorruptEntry(f"{key}: not a tile ({error})") from error


def split_grid(level: int, grid: LiquidationGrid) -> Iterator[tuple[int, list[Tile]]]:
    """Cut a grid into tiles: ``(index, [totals] or [totals, tiers])``.

    Raises
    ------
    ParameterError
        If the lattice or the times are not those of `level`, or a density is negative or not finite.
    """
    time_ms = grid.time.astype("datetime64[ms]").astype(np.int64)
    _check_lattice(level, grid, time_ms)
    layers: list[tuple[Float32Array, tuple[str, ...]]] = [(np.stack([grid.long_usd, grid.short_usd], axis=1), ())]
    if grid.tier_source is not None:
        layers.append((stack_tiers(grid.tier_source, len(grid.tiers)), grid.tiers))
    index = tile_index(level, time_ms)
    for i in np.unique(index):
        rows = index == i
        yield int(i), [make_tile(time_ms[rows], grid.first_bin, part[rows], names) for part, names in layers]


def stack_tiers(tier_source: TierSource, n_tier: int) -> Float32Array:
    """Return the densities of every tier, shape (n_time, 2 * n_tier, n_price), long before short."""
    return np.stack([side for i in range(n_tier) for side in tier_source(i)], axis=1)


def _check_lattice(level: int, grid: LiquidationGrid, time_ms: Int64Array) -> None:
    interval_ms, factor, _ = LEVELS[level]
    if not np.isclose(grid.bin_width, BIN_WIDTH * factor, rtol=1e-9):
        raise ParameterError("bin_width", grid.bin_width, f"{BIN_WIDTH * factor} at level {level}")
    if (time_ms % interval_ms).any() or (np.diff(time_ms) <= 0).any():
        raise ParameterError("time", grid.time, f"rising multiples of {interval_ms} ms at level {level}")


def tile_index(level: int, close_ms: Int64Array) -> Int64Array:
    """Return the index of the tile each close time belongs to."""
    return close_ms // LEVELS[level].interval_ms // TILE_COLUMNS


def tile_range(level: int, start_ms: int, end_ms: int) -> range:
    """Return the indices of the tiles that can hold columns with ``start_ms < time <= end_ms``."""
    interval_ms = LEVELS[level].interval_ms
    return range((start_ms // interval_ms + 1) // TILE_COLUMNS, end_ms // interval_ms // TILE_COLUMNS + 1)


def join_tiles(level: int, totals: Sequence[Tile], tiers: Sequence[Tile]) -> LiquidationGrid | None:
    """Put tiles together on the union of their windows; None where they hold no column.

    The grid has tiers only where every column has them.
    """
    totals = [t for t in totals if len(t.time_ms)]
    if not totals:
        return None
    tiers = [t for t in tiers if len(t.time_ms)]
    time_ms = np.concatenate([t.time_ms for t in totals])
    first, stop = min(t.first_bin for t in totals), max(t.stop_bin for t in totals)
    has_tiers = bool(tiers) and np.array_equal(time_ms, np.concatenate([t.time_ms for t in tiers]))
    return LiquidationGrid(
        time=time_ms.astype("datetime64[ms]"),
        first_bin=first,
        bin_width=BIN_WIDTH * LEVELS[level].price_factor,
        long_usd=_read_layer(totals, 0, first, stop),
        short_usd=_read_layer(totals, 1, first, stop),
        tiers=tiers[0].tiers if has_tiers else TIER_NAMES,
        tier_source=_tier_source(tiers, first, stop) if has_tiers else None,
    )


def _tier_source(tiers: Sequence[Tile], first: int, stop: int) -> TierSource:
    return lambda i: (_read_layer(tiers, 2 * i, first, stop), _read_layer(tiers, 2 * i + 1, first, stop))


def _read_layer(tiles: Sequence[Tile], layer: int, first: int, stop: int) -> Float32Array:
    out = np.zeros((sum(len(t.time_ms) for t in tiles), stop - first), dtype=np.float32)
    at = 0
    for tile in tiles:
        tile.read_into(out[at : at + len(tile.time_ms)], layer, first)
        at += len(tile.time_ms)
    return out


def measure(part: Tile | pl.DataFrame) -> tuple[int, int]:
    """Return the columns or rows of a decoded entry and the bytes it takes."""
    if isinstance(part, Tile):
        return len(part.time_ms), part.mantissa.nbytes + part.exponent.nbytes + part.time_ms.nbytes
    return part.height, int(part.estimated_size())


def check_series(frame: pl.DataFrame) -> None:
    """Accept a frame with `time` and Float64 columns only.

    Raises
    ------
    InputError
        Naming the column.
    """
    if "time" not in frame.columns or frame.schema["time"] != TIME:
        raise InputError("series", "needs a column of start times, Datetime ms UTC", column="time")
    for name, dtype in frame.schema.items():
        if name != "time" and dtype != pl.Float64:
            raise InputError("series", f"is {dtype}, cast it to Float64", column=name)


def split_series(level: int, frame: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Cut candle rows into tiles by their close times: ``(index, rows)``; the last row of a time wins."""
    check_series(frame)
    frame = frame.unique("time", keep="last").sort("time")
    index = tile_index(level, frame["time"].to_physical().to_numpy() + LEVELS[level].interval_ms)
    for i in np.unique(index):
        yield int(i), frame.filter(pl.Series(index == i))


def merge_series(stored: pl.DataFrame | None, new: pl.DataFrame) -> pl.DataFrame:
    """Add the rows of `new` whose time `stored` does not have; `stored` itself where there are none."""
    if stored is None:
        return new
    fresh = new.join(stored, on="time", how="anti")
    return pl.concat([stored, fresh], how="diagonal").sort("time") if fresh.height else stored


def pack_series(frame: pl.DataFrame) -> dict[str, codec.Array]:
    """Arrays of a series frame; a missing value is NaN."""
    times: dict[str, codec.Array] = {"time": frame["time"].to_physical().to_numpy()}
    values = {c: frame[c].fill_null(float("nan")).to_numpy() for c in frame.columns if c != "time"}
    return times | values


def unpack_series(arrays: dict[str, codec.Array]) -> pl.DataFrame:
    """Frame of what `pack_series` made; NaN is a missing value."""
    frame = pl.DataFrame({name: np.array(values) for name, values in arrays.items()})
    return frame.with_columns(pl.col("time").cast(TIME), pl.col(pl.Float64).fill_nan(None))


def encode_series(frame: pl.DataFrame) -> bytes:
    """Encode for the cache."""
    return codec.pack({}, pack_series(frame))


def decode_series(key: str, payload: bytes) -> pl.DataFrame:
    """Decode what `encode_series` wrote; raises `CorruptEntry` naming `key`."""
    _, arrays = codec.unpack(key, payload)
    if "time" not in arrays:
        raise CorruptEntry(f"{key}: not a series")
    return unpack_series(arrays)


def encode_live(grid: LiquidationGrid, series: pl.DataFrame) -> bytes:
    """Encode the provisional column and the open candle rows; densities stay float32."""
    check_series(series)
    arrays: dict[str, Any] = {
        "grid.time_ms": grid.time.astype("datetime64[ms]").astype(np.int64),
        "grid.long_usd": grid.long_usd,
        "grid.short_usd": grid.short_usd,
    }
    if grid.tier_source is not None:
        arrays["grid.tiers"] = stack_tiers(grid.tier_source, len(grid.tiers))
    meta = {"first_bin": grid.first_bin, "bin_width": grid.bin_width, "tiers": grid.tiers}
    return codec.pack(meta, arrays | pack_series(series))


def decode_live(key: str, payload: bytes) -> tuple[LiquidationGrid, pl.DataFrame]:
    """Decode what `encode_live` wrote; raises `CorruptEntry` naming `key`."""
    meta, arrays = codec.unpack(key, payload)
    try:
        parts = arrays.pop("grid.tiers", None)
        grid = LiquidationGrid(
            time=arrays.pop("grid.time_ms").astype("datetime64[ms]"),
            first_bin=meta["first_bin"],
            bin_width=meta["bin_width"],
            long_usd=arrays.pop("grid.long_usd"),
            short_usd=arrays.pop("grid.short_usd"),
            tiers=tuple(meta["tiers"]),
            tier_source=None if parts is None else (lambda i: (parts[:, 2 * i], parts[:, 2 * i + 1])),
        )
        return grid, unpack_series(arrays)
    except (KeyError, TypeError, ParameterError) as error:
        raise CorruptEntry(f"{key}: not a live column ({error})") from error
