"""Bytes of one cache entry: a checked header and raw arrays, compressed; never pickle.

::

    magic "LQHT" | version, 1 byte | BLAKE2b-128 of the body | body
    body = zstandard( header length, 4 bytes | JSON header | arrays, bytes shuffled by significance )

The digest detects truncation and damage, and names the content: equal digests decode equally.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from estimator.errors import CorruptEntry

Array = NDArray[Any]

_MAGIC: Final = b"LQHT"
_VERSION: Final = 1
_DIGEST_SIZE: Final = 16
_PREFIX_SIZE: Final = len(_MAGIC) + 1 + _DIGEST_SIZE
_LENGTH: Final = struct.Struct("<I")
_ZSTD_LEVEL: Final = 1
_MAX_RAW: Final = 256 << 20  # a tile of many prices with all its tiers takes tens of megabytes
_DTYPES: Final = frozenset({"<f2", "<f4", "<f8", "<i2", "<i8"})


def pack(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Encode `arrays` and the JSON-able `meta`.

    Parameters
    ----------
    meta : mapping
        Anything `json` can write.
    arrays : mapping of str to array
        Little-endian float16/32/64 or int16/64, any shape.

    Raises
    ------
    ValueError
        If an array has another type.
    """
    described, parts = [], []
    for name, array in arrays.items():
        if array.dtype.str not in _DTYPES:
            raise ValueError(f"{name}: cannot store {array.dtype}, only {', '.join(sorted(_DTYPES))}")
        described.append([name, array.dtype.str, list(array.shape)])
        parts.append(_shuffle(array))
    header = json.dumps({"meta": dict(meta), "arrays": described}).encode()
    raw = b"".join((_LENGTH.pack(len(header)), header, *parts))
    body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(raw)
    return _MAGIC + bytes((_VERSION,)) + _digest(body) + body


def check(key: str, payload: bytes) -> bytes:
    """Verify `payload` and return the digest that names its content.

    Raises
    ------
    CorruptEntry
        Naming `key` and what is wrong.
    """
    if len(payload) < _PREFIX_SIZE or not payload.startswith(_MAGIC):
        raise CorruptEntry(f"{key}: not a liqheat entry ({len(payload)} bytes)")
    if payload[len(_MAGIC)] != _VERSION:
        raise CorruptEntry(f"{key}: format version {payload[len(_MAGIC)]}, this build reads {_VERSION}")
    digest = payload[len(_MAGIC) + 1 : _PREFIX_SIZE]
    if _digest(memoryview(payload)[_PREFIX_SIZE:]) != digest:
        raise CorruptEntry(f"{key}: checksum differs, the entry is damaged or cut short")
    return digest


def unpack(key: str, payload: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Decode what `pack` wrote: ``(meta, arrays)``.

    Raises
    ------
    CorruptEntry
        Naming `key` and what is wrong.
    """
    check(key, payload)
    try:
        raw = memoryview(_decompress(memoryview(payload)[_PREFIX_SIZE:]))
        (length,) = _LENGTH.unpack_from(raw)
        header = json.loads(bytes(raw[_LENGTH.size : _LENGTH.size + length]))
        return header["meta"], _read_arrays(header["arrays"], raw[_LENGTH.size + length :])
    except _UNREADABLE as error:
        raise CorruptEntry(f"{key}: {error}") from error


_UNREADABLE: Final = (
    zstandard.ZstdError, struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip


def _decompress(body: memoryview) -> bytes:
    # The size stands at the start of a frame: checked before any memory is asked for.
    size = zstandard.frame_content_size(body)
    if not 0 <= size <= _MAX_RAW:
        raise ValueError(f"{size} bytes when decompressed, at most {_MAX_RAW} are read")
    return zstandard.ZstdDecompressor().decompress(body)


def _read_arrays(described: list[tuple[str, str, list[int]]], raw: memoryview) -> dict[str, Array]:
    arrays, at = {}, 0
    for name, dtype, shape in described:
        if dtype not in _DTYPES:
            raise ValueError(f"{name}: unknown type {dtype!r}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = _unshuffle(raw[at : at + size], dtype, shape)
        at += size
    if at != len(raw):
        raise ValueError(f"arrays end at byte {at} of {len(raw)}")
    return arrays


def _shuffle(array: Array) -> bytes:
    """Put bytes of equal significance together: neighbours differ little in the high ones, which then compress well."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.reshape(-1, array.dtype.itemsize).T.tobytes()


def _unshuffle(raw: memoryview, dtype: str, shape: list[int]) -> Array:
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_SIZE).digest()
