"""Forced liquidations as entries of a Redis stream, ordered by time and complete."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import LIQUIDATIONS, TIME, Liquidation, Side
from estimator.errors import CorruptEntry

MAX_PRINTS: Final = 200_000  # per market and source; the first to arrive go first
_FIELD: Final = b"p"
_RECORD: Final = struct.Struct("<qb3d")
_DTYPE: Final = np.dtype(
    [
        ("time", "<i8"),  # ms
        ("sign", "i1"),  # +1 long, -1 short
        ("price", "<f8"),
        ("quantity_base", "<f8"),
        ("notional_usd", "<f8"),
    ]
)
_PAGE: Final = 10_000  # entries per read or write, so that none holds up the server for long
# Joined by the server: one long reply parses a hundred times faster than ten thousand short ones.
_READ_PAGE: Final = """
local entries = redis.call('xrange', KEYS[1], ARGV[1], ARGV[2], 'count', ARGV[3])
local records = {}
for i = 1, #entries do records[i] = entries[i][2][2] end
return {#entries, #entries > 0 and entries[#entries][1] or '', table.concat(records)}
"""

_READ_NEWEST: Final = """
local entries = redis.call('xrevrange', KEYS[1], ARGV[2], ARGV[1], 'count', ARGV[3])
local records = {}
for i = 1, #entries do records[#entries + 1 - i] = entries[i][2][2] end
return table.concat(records)
"""


def append(client: Any, key: str, prints: Sequence[Liquidation]) -> None:
    """Add the prints that the stream does not hold yet.

    A print is told by its time, side, price and size: adding the same batch again changes nothing, while equal prints
    within one batch all count. Ids are ``time_ms-sequence``. A stream refuses ids below its newest: prints that come
    late get the newest time as their id, and `read` looks as far beyond its range as the latest of them was late.
    """
    if not prints:
        return
    first_ms = min(p.time_ms for p in prints)
    tail, newest_id = _range(client, key, f"{first_ms}-0", "+")
    newest_ms = _id_ms(newest_id)
    oldest_ms = _oldest_ms(client, key)
    fresh = [r for r in _without(Counter(tail), map(_record, prints)) if _record_ms(r) >= oldest_ms]
    fresh.sort(key=_record_ms)
    if fresh and (late_ms := newest_ms - _record_ms(fresh[0])) > _late_ms(client, key):
        client.set(_late_key(key), late_ms)
    for at in range(0, len(fresh), _PAGE):
        pipe = client.pipeline(transaction=False)
        for record in fresh[at : at + _PAGE]:
            entry_id = f"{max(_record_ms(record), newest_ms)}-*"
            pipe.xadd(key, {_FIELD: record}, id=entry_id, maxlen=MAX_PRINTS, approximate=True)
        pipe.execute()


def read(client: Any, key: str, start_ms: int, end_ms: int, limit: int) -> pl.DataFrame:
    """Return prints with ``start_ms <= time <= end_ms``, the `limit` largest, as `estimator.domain.LIQUIDATIONS`."""
    last_ms = max(end_ms, 0) + _late_ms(client, key)
    records, _ = _range(client, key, f"{max(start_ms, 0)}-0", str(last_ms))
    frame = _frame(records).filter(pl.col("time").dt.epoch("ms").is_between(start_ms, end_ms))
    if frame.height > limit:
        largest = frame["notional_usd"].arg_sort(descending=True).head(limit).sort()
        frame = frame[largest]
    return frame.sort("time", maintain_order=True)


def read_from(client: Any, key: str, start_ms: int) -> tuple[pl.DataFrame, bytes]:
    """Return the prints since a time, and the id after which `read_after` goes on."""
    records, last_id = _range(client, key, f"{max(start_ms, 0)}-0", "+")
    frame = _frame(records).filter(pl.col("time").dt.epoch("ms") >= start_ms)
    return frame.sort("time", maintain_order=True), last_id


def read_after(client: Any, after: Mapping[str, bytes]) -> dict[str, tuple[pl.DataFrame, bytes]]:
    """Return what streams have got since an id each, in the order in which it came, at most `_PAGE` prints of each."""
    reply = client.xread(dict(after), count=_PAGE) if after else {}
    pages = reply.items() if isinstance(reply, dict) else reply
    found = {}
    for key, entries in pages:
        rows = entries[0] if entries and isinstance(entries[0], list) else entries
        found[key.decode()] = _frame([fields[_FIELD] for _, fields in rows]), rows[-1][0]
    return found


def newest_ids(client: Any, keys: Sequence[str]) -> list[bytes]:
    """Return the id of the newest print of each stream, ``0-0`` of an empty one; `read_after` goes on from it."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.xrevrange(key, count=1)
    return [entries[0][0] if entries else b"0-0" for entries in pipe.execute()]


def read_between(client: Any, key: str, after: str, until: str, most: int) -> pl.DataFrame:
    """Return the newest prints of the ids ``after < id <= until``, in the order in which they came."""
    return _frame(_cut(client.eval(_READ_NEWEST, 1, key, f"({after}", until, most)))


def _range(client: Any, key: str, first: str, last: str) -> tuple[list[bytes], bytes]:
    """Return the records between two ids, and the last id (``0-0`` without any)."""
    found, last_id = [], b"0-0"
    while True:
        n, page_end, joined = client.eval(_READ_PAGE, 1, key, first, last, _PAGE)
        if len(joined) != n * _RECORD.size:
            raise CorruptEntry(f"{key}: {n} prints take {len(joined)} bytes, not {_RECORD.size} each")
        found.append(joined)
        last_id = page_end or last_id
        if n < _PAGE:
            return _cut(b"".join(found)), last_id
        first = f"({last_id.decode()}"


def _cut(joined: bytes) -> list[bytes]:
    return [joined[at : at + _RECORD.size] for at in range(0, len(joined), _RECORD.size)]


def _without(held: Counter[bytes], records: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `records` in order, leaving out each of `held` as often as it is there."""
    for record in records:
        if held[record]:
            held[record] -= 1
        else:
            yield record


def forget(client: Any, key: str) -> None:
    """Drop the stream."""
    client.unlink(key, _late_key(key))


def _oldest_ms(client: Any, key: str) -> int:
    """Return the time before which a full stream takes nothing: older history must not push out newer prints."""
    if client.xlen(key) < MAX_PRINTS:
        return 0
    ((oldest_id, _),) = client.xrange(key, count=1)
    return _id_ms(oldest_id)


def _late_ms(client: Any, key: str) -> int:
    return int(client.get(_late_key(key)) or 0)


def _late_key(key: str) -> str:
    return f"{key}:late"


def _frame(records: Sequence[bytes]) -> pl.DataFrame:
    values = np.frombuffer(b"".join(records), dtype=_DTYPE)
    frame = pl.DataFrame({name: np.ascontiguousarray(values[name]) for name in _DTYPE.names or ()})
    side = pl.when(pl.col("sign") > 0).then(pl.lit(Side.LONG.value)).otherwise(pl.lit(Side.SHORT.value))
    return frame.with_columns(pl.col("time").cast(TIME), side.alias("side")).select(*LIQUIDATIONS)


def _record(print_: Liquidation) -> bytes:
    sign = Side(print_.side).sign
    return _RECORD.pack(print_.time_ms, sign, print_.price, print_.quantity_base, print_.notional_usd)


def _record_ms(record: bytes) -> int:
    return int.from_bytes(record[:8], "little", signed=True)


def _id_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
