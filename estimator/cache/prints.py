"""Forced liquidations as entries of a Redis stream, ordered by time and complete."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import LIQUIDATIONS, TIME, Liquidation, Side
from estimator.errors import CorruptEntry

MAX_PRINTS: Final = 200_000  # per market; the oldest go first
_FIELD: Final = b"p"
_RECORD: Final = struct.Struct("<b3d")  # +1 long, -1 short | price | quantity_base | notional_usd
_DTYPE: Final = np.dtype([("sign", "i1"), ("price", "<f8"), ("quantity_base", "<f8"), ("notional_usd", "<f8")])
_PAGE: Final = 20_000  # entries per XRANGE, so that no read holds up the server for long


def append(client: Any, key: str, prints: Sequence[Liquidation]) -> None:
    """Add the prints that the stream does not hold yet, in order of time.

    A print is told by its time, side, price and size: adding the same batch again changes nothing, while equal prints
    within one batch all count. Ids are ``time_ms-sequence``. A stream refuses ids below its newest: for prints that
    come late its end is rewritten, in one transaction.
    """
    batch = sorted(((p.time_ms, _record(p)) for p in prints), key=lambda entry: entry[0])
    if not batch:
        return

    def write(pipe: Any) -> None:
        tail = _read(pipe, key, f"{batch[0][0]}-0", "+")
        held = [(_time_ms(entry_id), record) for entry_id, record in tail]
        missing = list((Counter(batch) - Counter(held)).elements())
        missing.sort(key=lambda entry: entry[0])
        pipe.multi()
        if missing and held and missing[0][0] < held[-1][0]:
            first = missing[0][0]
            _cut(pipe, key, [entry_id for entry_id, _ in tail if _time_ms(entry_id) >= first], first)
            missing = sorted([*(e for e in held if e[0] >= first), *missing], key=lambda entry: entry[0])
        for time_ms, record in missing:
            pipe.xadd(key, {_FIELD: record}, id=f"{time_ms}-*", maxlen=MAX_PRINTS, approximate=True)

    client.transaction(write, key)


def _cut(pipe: Any, key: str, ids: list[bytes], first_ms: int) -> None:
    for at in range(0, len(ids), 1000):
        pipe.xdel(key, *ids[at : at + 1000])
    pipe.execute_command("XSETID", key, f"{max(first_ms - 1, 0)}-18446744073709551615")


def read(client: Any, key: str, start_ms: int, end_ms: int, limit: int) -> pl.DataFrame:
    """Return prints with ``start_ms <= time <= end_ms`` as `estimator.domain.LIQUIDATIONS`, at most `limit`, the largest."""
    entries = _read(client, key, f"{max(start_ms, 0)}-0", str(max(end_ms, 0)))
    return _frame(key, entries).sort("notional_usd", descending=True).head(limit).sort("time", maintain_order=True)


def _read(client: Any, key: str, first: str, last: str) -> list[tuple[bytes, bytes]]:
    return [entry for page in _pages(client, key, first, last) for entry in page]


def _pages(client: Any, key: str, first: str, last: str) -> Iterator[list[tuple[bytes, bytes]]]:
    while True:
        page = client.xrange(key, first, last, count=_PAGE)
        yield [(entry_id, fields[_FIELD]) for entry_id, fields in page]
        if len(page) < _PAGE:
            return
        first = f"({page[-1][0].decode()}"


def _frame(key: str, entries: Sequence[tuple[bytes, bytes]]) -> pl.DataFrame:
    ids, records = zip(*entries, strict=True) if entries else ((), ())
    if any(len(record) != _RECORD.size for record in records):
        raise CorruptEntry(f"{key}: a print is not {_RECORD.size} bytes long")
    values = np.frombuffer(b"".join(records), dtype=_DTYPE)
    columns = {
        "time": pl.Series([_time_ms(i) for i in ids], dtype=pl.Int64),
        "side": pl.Series(np.where(values["sign"] > 0, "long", "short").tolist(), dtype=pl.String),
        **{name: np.ascontiguousarray(values[name]) for name in ("price", "quantity_base", "notional_usd")},
    }
    return pl.DataFrame(columns).with_columns(pl.col("time").cast(TIME)).select(*LIQUIDATIONS)


def _record(print_: Liquidation) -> bytes:
    return _RECORD.pack(Side(print_.side).sign, print_.price, print_.quantity_base, print_.notional_usd)


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
