"""The journal: what arrived and must not be lost, on its way from the worker into history.

A Redis stream with a consumer group. An entry leaves it only when `ack` says that it is stored for good. The stream
has no life time and no greatest length: ``volatile-lru`` never drops it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import polars as pl
import redis

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX
from estimator.domain import TIME
from estimator.errors import CorruptEntry

JOURNAL: Final = f"{PREFIX}:journal"
REJECTED: Final = f"{JOURNAL}:rejected"
_HURRY: Final = f"{JOURNAL}:hurry"
_HURRY_MS: Final = 2000
_GROUP: Final = "history"
_ABANDONED_MS: Final = 120_000  # entries a consumer took and left this long ago are another's


@dataclass(frozen=True, slots=True)
class Entry:
    """Rows of one table and one market that arrived together.

    Parameters
    ----------
    table : str
        A table of history, e.g. ``"liquidations"``.
    market_id : str
    rows : bytes
        JSON object of columns; times in ms.
    n_rows : int
    """

    table: str
    market_id: str
    rows: bytes
    n_rows: int

    @classmethod
    def of(cls, table: str, market_id: str, frame: pl.DataFrame) -> Self:
        """Make an entry of `frame`, whose columns are numbers, text and `time`."""
        if table == "liquidations":  # here, where a delivery is still one: see number_prints
            frame = number_prints(frame)
        columns = frame.with_columns(pl.col("time").dt.epoch("ms"), pl.col(pl.Float64).fill_nan(None))
        return cls(table, market_id, json.dumps(columns.to_dict(as_series=False)).encode(), frame.height)

    @classmethod
    def of_rows(cls, table: str, market_id: str, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Make an entry of rows with times in ms; prints have their `print_id`. What a row lacks is null."""
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        return cls(table, market_id, json.dumps(columns).encode(), len(rows))

    def frame(self) -> pl.DataFrame:
        """Rows as they were given.

        Raises
        ------
        CorruptEntry
            If the bytes do not decode.
        """
        try:
            columns = json.loads(self.rows)
            return pl.DataFrame(columns, infer_schema_length=None).with_columns(pl.col("time").cast(TIME))
        except (ValueError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
            raise CorruptEntry(f"{JOURNAL} ({self.table} of {self.market_id}): {error}") from error


@dataclass(frozen=True, slots=True)
class Delivered:
    """An entry and its id in the stream."""

    id: bytes
    entry: Entry


def number_prints(frame: pl.DataFrame) -> pl.DataFrame:
    """Give each print of one delivery that has no `print_id` its ordinal among the prints equal to it.

    The same delivery gets the same ordinals again, so that it is recognised; equal prints of one delivery stay apart.
    """
    same = [c for c in ("exchange", "symbol", "time", "side", "price", "quantity_base") if c in frame.columns]
    ordinal = pl.int_range(pl.len()).over(same).cast(pl.String)
    if "print_id" in frame.columns:
        return frame.with_columns(pl.coalesce(pl.col("print_id").cast(pl.String), ordinal).alias("print_id"))
    return frame.with_columns(ordinal.alias("print_id"))


class Journal:
    """The stream as producers and recorders see it. Obtained as `Cache.journal`.

    Notes
    -----
    Every call raises `CacheUnavailable` when Redis does not answer.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis = connection.sync

    def check_kept(self) -> None:
        """Make sure that the server keeps entries until they are acknowledged; as `Connection.check_kept`."""
        self._connection.check_kept()

    def add(self, entries: Sequence[Entry]) -> list[bytes]:
        """Append all of `entries` or none, and return their ids: from then on they are not lost."""
        with self._connection.translated():
            pipe = self._redis.pipeline(transaction=True)
            for entry in entries:
                pipe.xadd(JOURNAL, _fields(entry))
            return list(pipe.execute())

    def read(self, consumer: str, count: int, block_ms: int) -> list[Delivered]:
        """Take up to `count` entries nobody has taken, waiting for the first; [] if none comes."""
        return self._read(consumer, ">", count, block_ms)

    def resume(self, consumer: str, count: int) -> list[Delivered]:
        """Return entries `consumer` took before and has not acknowledged, and such that others abandoned."""
        with self._connection.translated():
            self._create_group()
            self._redis.xautoclaim(JOURNAL, _GROUP, consumer, _ABANDONED_MS, count=count, justid=True)
        return self._read(consumer, "0", count, None)

    def ack(self, ids: Sequence[bytes]) -> None:
        """Drop entries that are stored for good."""
        if not ids:
            return
        with self._connection.translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.xack(JOURNAL, _GROUP, *ids)
            pipe.xdel(JOURNAL, *ids)
            pipe.execute()

    def reject(self, delivered: Delivered, reason: str) -> None:
        """Set an entry that can never be stored aside in the stream of rejects, with the reason."""
        with self._connection.translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.xadd(REJECTED, {**_fields(delivered.entry), "reason": reason})
            pipe.xack(JOURNAL, _GROUP, delivered.id)
            pipe.xdel(JOURNAL, delivered.id)
            pipe.execute()

    def length(self) -> int:
        """Return how many entries wait, taken or not."""
        with self._connection.translated():
            return int(self._redis.xlen(JOURNAL))

    def backlog(self) -> tuple[int, int]:
        """Return how many entries wait, and for how long the oldest has, by the server's clock. [ms]"""
        with self._connection.translated():
            pipe = self._redis.pipeline(transaction=True)
            pipe.xlen(JOURNAL)
            pipe.xrange(JOURNAL, count=1)
            pipe.time()
            count, oldest, (seconds, micros) = pipe.execute()
        since_ms = int(oldest[0][0].split(b"-")[0]) if oldest else 1000 * seconds + micros // 1000
        return count, max(1000 * seconds + micros // 1000 - since_ms, 0)

    def last_id(self) -> bytes | None:
        """Return the id of the newest entry; None where nothing waits."""
        with self._connection.translated():
            found = self._redis.xrevrange(JOURNAL, count=1)
        return bytes(found[0][0]) if found else None

    def waits(self, last_id: bytes) -> bool:
        """Whether an entry up to an id is not yet in history."""
        with self._connection.translated():
            return bool(self._redis.xrange(JOURNAL, max=last_id, count=1))

    def hurry(self) -> None:
        """Ask for what waits to be stored soon, for somebody waits for it."""
        with self._connection.translated():
            self._redis.set(_HURRY, 1, px=_HURRY_MS)

    def hurries(self) -> bool:
        """Whether somebody has asked for hurry lately."""
        with self._connection.translated():
            return bool(self._redis.exists(_HURRY))

    def rejected(self) -> int:
        """Return how many entries were set aside."""
        with self._connection.translated():
            return int(self._redis.xlen(REJECTED))

    def _read(self, consumer: str, after: str, count: int, block_ms: int | None) -> list[Delivered]:
        with self._connection.translated():
            try:
                reply = self._redis.xreadgroup(_GROUP, consumer, {JOURNAL: after}, count=count, block=block_ms)
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._create_group()  # the first read, or the first after Redis lost everything
                reply = self._redis.xreadgroup(_GROUP, consumer, {JOURNAL: after}, count=count, block=block_ms)
        return [Delivered(i, _entry(fields)) for i, fields in _flatten(reply)]

    def _create_group(self) -> None:
        try:
            self._redis.xgroup_create(JOURNAL, _GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def _fields(entry: Entry) -> dict[str, str | bytes | int]:
    return {"t": entry.table, "m": entry.market_id, "r": entry.rows, "n": entry.n_rows}


def _entry(fields: Mapping[bytes, bytes]) -> Entry:
    """Fields of any other shape become an entry that does not decode, which is then rejected with its reason."""
    table, market_id, rows, n_rows = (fields.get(name, b"") for name in (b"t", b"m", b"r", b"n"))
    return Entry(
        table.decode(errors="replace"), market_id.decode(errors="replace"), rows, int(n_rows) if n_rows.isdigit() else 0
    )


def _flatten(reply: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """Entries of a reply in either version of the protocol; None stands for the fields of a dropped entry."""
    if not reply:
        return []
    (pages,) = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    pages = pages[0] if pages and isinstance(pages[0], list) else pages
    return [(i, fields or {}) for i, fields in pages]
