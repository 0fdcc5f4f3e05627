"""`History`: Delta tables on a disk or in an object store, written once and read by anyone.

Each table is a Delta table ``<root>/<name>``, partitioned by ``date`` (the UTC day of ``time``; published columns also
by how fine they are), that plain Polars, DuckDB or Spark open as it stands. A row is told by its key
(`estimator.history.tables`); **the first row of a key wins**, in every table: what was once stored, and perhaps shown,
is never rewritten, and adding rows again changes nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from estimator.domain import MINUTE_MS, TIME
from estimator.errors import HistoryUnavailable, ParameterError
from estimator.history.tables import SPACINGS, TABLE_NAMES, TABLES, TableName, prepare, split_market_id
from estimator.model.grid import LEVELS

_ROW_GROUP: Final = 8192  # small enough that the statistics of a group single out a market in a compacted day
_FILE_BYTES: Final = 64 << 20  # delta-rs splits a day it rewrites into files of about 100 MB
_WRITER: Final = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=_ROW_GROUP)
_CONFIGURATION: Final[Mapping[str, str | None]] = {
    "delta.checkpointInterval": "50",
    "delta.dataSkippingStatsColumns": "exchange,symbol,time",  # none of binary columns
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.logRetentionDuration": "interval 1 days",
}
# A commit fails if another came between looking for known keys and writing, and then looks again.
_ALONE: Final = CommitProperties(max_commit_retries=0)
_ATTEMPTS: Final = 20
_FEW_MARKETS: Final = 64
_BOOK_DAYS: Final = 3  # saved book states older than the newest by this much are of no more use
_LOOK_BACK: Final = (2, 14, 180)  # days in which the latest row is looked for before all of them


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `History.compact` did to one table: partitions rewritten, files before and after, files deleted for good."""

    partitions: int
    files_before: int
    files_after: int
    vacuumed: int


class History:
    """The durable store.

    Parameters
    ----------
    root : str or Path
        Folder (made if absent) or object-store URL such as ``s3://bucket/prefix``, whose credentials and options
        delta-rs takes from the environment.
    retention_days : int, optional
        `retain` drops days older than this; None keeps everything.
    columns_days : dict, optional
        By spacing in minutes, one of `SPACINGS`: `retain` drops columns that are only on this spacing, no coarser one,
        after so many days. Those absent are kept.

    Notes
    -----
    Safe to share between threads; any number of processes may read and append. Every call raises `HistoryUnavailable`
    when the store cannot be reached or written, and `ParameterError` for an unknown table or malformed market id.
    """

    def __init__(
        self, root: str | Path, *, retention_days: int | None = None, columns_days: Mapping[int, int] | None = None
    ) -> None:
        if retention_days is not None and retention_days < 1:
            raise ParameterError("retention_days", retention_days, "a number of days >= 1, or None")
        for minutes, days in (columns_days or {}).items():
            if minutes not in SPACINGS or days < 1:
                raise ParameterError("columns_days", {minutes: days}, f"days >= 1 for minutes out of {SPACINGS}")
        text = str(root)
        self.root = text.rstrip("/") if "://" in text else str(Path(text).resolve())
        self._retention_days, self._columns_days = retention_days, dict(columns_days or {})
        self._locks = {name: threading.Lock() for name in TABLE_NAMES}
        self._opened = threading.local()  # a DeltaTable is a snapshot: one per thread, none changes under its reader

    def append(self, table: TableName, frame: pl.DataFrame) -> int:
        """Add the rows whose key is not there yet, in one commit, and return how many that were.

        Parameters
        ----------
        table : str
        frame : DataFrame
            Rows of any number of markets: `exchange`, `symbol` and the columns of the table. Optional columns may be
            absent or null. Prints without `print_id` count as one delivery.

        Raises
        ------
        InputError
            Naming the column, row and value that cannot be stored; nothing is then.
        HistoryUnavailable
            If the commit is impossible; nothing is stored then.
        """
        rows = prepare(_known(table), frame)
        if rows.is_empty():
            return 0
        with self._translated(table), self._locks[table]:
            for _ in range(_ATTEMPTS):
                store = self._open(table) or self._create(table)
                if store is None:
                    continue
                fresh = _without_stored(store, table, rows)
                if fresh.is_empty() or self._commit(store, table, fresh):
                    return fresh.height
        raise HistoryUnavailable(f"{self.root}/{table}: other writers were first {_ATTEMPTS} times in a row")

    def read(
        self, table: TableName, market_id: str, start_ms: int, end_ms: int, *, level: int | None = None
    ) -> pl.DataFrame:
        """Return the rows of a market with ``start_ms <= time < end_ms``, by rising time, without market and date.

        Parameters
        ----------
        level : int, optional
            Of table ``columns``: those that this level shows.
        """
        spec = TABLES[_known(table)]
        names = [*spec.required, *spec.optional]
        exchange, symbol = split_market_id(market_id)
        with self._translated(table):
            store = self._open(table)
            if store is None or end_ms <= start_ms:
                return pl.DataFrame(schema={n: spec.schema[n] for n in names})
            here = (pl.col("exchange") == exchange) & (pl.col("symbol") == symbol)
            if level is not None:
                here &= _of_level(level)
            here &= _between(start_ms, end_ms - 1)
            rows = pl.scan_delta(store).filter(here).select(_stored(store, table, names)).collect()
        return rows.select(pl.col(n).cast(spec.schema[n]) for n in names).sort("time", maintain_order=True)

    def read_all(self, table: TableName) -> pl.DataFrame:
        """Return every row of a table, of all markets, by rising time, without the partitions."""
        spec = TABLES[_known(table)]
        with self._translated(table):
            store = self._open(table)
            if store is None:
                return pl.DataFrame(schema=spec.schema)
            rows = pl.scan_delta(store).select(_stored(store, table, list(spec.schema))).collect()
        return rows.select(pl.col(n).cast(t) for n, t in spec.schema.items()).sort("time", maintain_order=True)

    def read_months(self, table: TableName) -> Iterator[pl.DataFrame]:
        """Yield the rows that `read_all` returns, a month of UTC days at a time: for tables that outgrow the memory."""
        spec = TABLES[_known(table)]
        with self._translated(table):
            store = self._open(table)
        if store is None:
            return
        for first in sorted({day.replace(day=1) for day in _days(store)}):
            with self._translated(table):
                month = pl.scan_delta(store).filter(pl.col("date").is_between(first, _month_end(first)))
                rows = month.select(_stored(store, table, list(spec.schema))).collect()
            yield rows.select(pl.col(n).cast(t) for n, t in spec.schema.items()).sort("time", maintain_order=True)

    def times(self, table: TableName, start_ms: int, end_ms: int) -> pl.DataFrame:
        """Return `exchange`, `symbol` and `time` of every row of all markets with ``start_ms <= time < end_ms``."""
        names = ["exchange", "symbol", "time"]
        with self._translated(table):
            store = self._open(_known(table))
            if store is None or end_ms <= start_ms:
                return pl.DataFrame(schema={n: TABLES[table].schema[n] for n in names})
            rows = pl.scan_delta(store).filter(_between(start_ms, end_ms - 1)).select(names).collect()
        return rows.with_columns(pl.col("time").cast(TIME))

    def last_time(self, table: TableName, market_id: str, *, level: int | None = None) -> int | None:
        """Return the latest time of a market in a table [ms]; None if it has no row there."""
        exchange, symbol = split_market_id(market_id)
        here = (pl.col("exchange") == exchange) & (pl.col("symbol") == symbol)
        if level is not None:
            here &= _of_level(level)
        with self._translated(table):
            store = self._open(_known(table))
            days = [] if store is None else _days(store)
            done = 0
            for count in (*_LOOK_BACK, len(days)):
                looked = days[done:count]
                if store is None or not looked:
                    continue
                scan = pl.scan_delta(store).filter(pl.col("date").is_in(looked) & here)
                latest = scan.select(pl.col("time").max().cast(TIME).dt.epoch("ms")).collect().item()
                if latest is not None:
                    return int(latest)
                done = count
        return None

    def compact(self, *, grace_hours: int = 24) -> dict[str, Compacted]:
        """Rewrite partitions of many files as one file sorted by market; delete what nobody needs any more.

        Readers and writers go on meanwhile. Files that were replaced, and those a killed process left behind, are
        deleted once they are older than `grace_hours`: a reader or writer may need them for that long. Appending slows
        with the number of files (by 6 ms per hundred), so call this about once an hour.

        Raises
        ------
        HistoryUnavailable
            After all tables were tried. Also when two processes compact the same table at once: one of them fails and
            changes nothing.
        """
        done: dict[str, Compacted] = {}
        failures: list[HistoryUnavailable] = []
        for table in TABLE_NAMES:
            try:
                with self._translated(table):
                    store = self._open(table)
                    if store is not None:
                        done[table] = _compact(store, grace_hours)
            except HistoryUnavailable as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def retain(self, now_ms: int) -> int:
        """Drop what is older than the retention, and superseded book states; return how many partitions went.

        Whole partitions go, so nothing is rewritten.

        Parameters
        ----------
        now_ms : int
            The present, from which the retention counts back.
        """
        dropped = 0
        for table in TABLE_NAMES:
            with self._translated(table):
                store = self._open(table)
                if store is not None:
                    dropped += sum(_drop(store, *limit) for limit in self._limits(table, store, now_ms))
        return dropped

    def _limits(self, table: TableName, store: DeltaTable, now_ms: int) -> list[tuple[date, int | None]]:
        """Days before which partitions go: all of them, or those of columns of one spacing."""
        limits: list[tuple[date, int | None]] = []
        today, days = _day(now_ms), _days(store)
        if table == "parameters":  # what holds now may have been fitted long ago
            return limits
        if self._retention_days is not None:
            limits.append((today - timedelta(days=self._retention_days), None))
        if table == "books" and days:
            limits.append((days[0] - timedelta(days=_BOOK_DAYS), None))
        if table == "columns":
            limits += [(today - timedelta(days=kept), minutes) for minutes, kept in self._columns_days.items()]
        return limits

    def _open(self, table: TableName) -> DeltaTable | None:
        """Return the table as it is now; None if nothing was ever stored in it."""
        opened: dict[str, DeltaTable] = self._opened.__dict__
        try:
            if table in opened:
                opened[table].update_incremental()
            else:
                opened[table] = self._known_form(table, DeltaTable(f"{self.root}/{table}"))
        except TableNotFoundError:
            return None
        except BaseException:
            opened.pop(table, None)  # it may have been replaced: open it anew
            raise
        return opened[table]

    def _known_form(self, table: TableName, store: DeltaTable) -> DeltaTable:
        if store.metadata().partition_columns != list(TABLES[table].partitions):
            raise OSError("its form is that of another version of this program: move the folder aside")
        return store

    def _create(self, table: TableName) -> DeltaTable | None:
        """Make and return the table; None if another process was first."""
        spec = TABLES[table]
        try:
            write_deltalake(
                f"{self.root}/{table}",
                pl.DataFrame(schema={**spec.schema, **spec.partitions}),
                mode="ignore",
                partition_by=list(spec.partitions),
                configuration=_CONFIGURATION,
                commit_properties=_ALONE,
            )
        except CommitFailedError:
            if self._open(table) is None:
                raise
            return None
        return self._open(table)

    def _commit(self, store: DeltaTable, table: TableName, rows: pl.DataFrame) -> bool:
        """Store `rows`; False if another commit came first."""
        before = store.version()
        # A table made by an older version of this program gets the optional columns it does not have yet.
        grows: Literal["merge"] | None = "merge" if set(rows.columns) > _held(store) else None
        try:
            write_deltalake(
                store,
                rows,
                mode="append",
                schema_mode=grows,
                writer_properties=_WRITER,
                commit_properties=_ALONE,
            )
        except CommitFailedError:
            now = self._open(table)
            if now is None or now.version() == before:
                raise
            return False
        return True

    @contextmanager
    def _translated(self, table: str) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
            raise HistoryUnavailable(f"history {self.root}/{table}: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    """Message of an error on one line, without the colours and arrows of a terminal."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", " ", str(error)).split())


def _known(table: TableName) -> TableName:
    if table not in TABLES:
        raise ParameterError("table", table, ", ".join(TABLE_NAMES))
    return table


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()


def _between(first_ms: int, last_ms: int) -> pl.Expr:
    """Both ends inclusive; the days let whole partitions be left out, the times whole files."""
    days = pl.col("date").is_between(_day(first_ms), _day(last_ms))
    first, last = (pl.lit(ms).cast(TIME).cast(pl.Datetime("us", "UTC")) for ms in (first_ms, last_ms))
    return days & pl.col("time").is_between(first, last)


def _of_level(level: int) -> pl.Expr:
    """Columns that a level shows; whole partitions of finer ones are left out."""
    spec = LEVELS[level]
    coarse = pl.col("every") >= min(spec.interval_ms // MINUTE_MS, SPACINGS[-1])
    whole = pl.col("time").dt.epoch("ms") % spec.interval_ms == 0
    return coarse & whole & (pl.col("price_factor") == spec.price_factor)


def _held(store: DeltaTable) -> set[str]:
    return {field.name for field in store.schema().fields}


def _stored(store: DeltaTable, table: TableName, names: Sequence[str]) -> list[pl.Expr]:
    """Columns of a table; null where it was made before it had them."""
    held, types = _held(store), TABLES[table].schema
    return [pl.col(n) if n in held else pl.lit(None, dtype=types[n]).alias(n) for n in names]


def _drop(store: DeltaTable, first: date, every: int | None) -> int:
    """Drop partitions of days before `first`; return how many there were."""
    parts = [p for p in store.partitions() if every is None or int(p["every"]) == every]
    old = [p for p in parts if date.fromisoformat(str(p["date"])) < first]
    if old:
        store.delete(f"date < '{first}'" + ("" if every is None else f" and every = {every}"))
    return len(old)


def _days(store: DeltaTable) -> list[date]:
    """Days that have rows, the newest first."""
    return sorted({date.fromisoformat(str(p["date"])) for p in store.partitions()}, reverse=True)


def _month_end(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def _without_stored(store: DeltaTable, table: TableName, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose key the table does not hold."""
    key = TABLES[table].key
    times = rows["time"].dt.epoch("ms").sort()
    if not _reaches(store, times[0], times[-1]):
        return rows
    near = _between(times[0], times[-1])
    markets = rows.select("exchange", "symbol").unique()
    if markets.height <= _FEW_MARKETS:
        near &= pl.col("symbol").is_in(markets["symbol"].unique().to_list())
    known = pl.scan_delta(store).filter(near).select(key).collect()
    if known.is_empty():
        return rows
    known = known.select(pl.col(n).cast(rows.schema[n]) for n in key)
    return rows.join(known, on=key, how="anti", maintain_order="left")


def _reaches(store: DeltaTable, first_ms: int, last_ms: int) -> bool:
    """Whether any file may hold rows between two times, both included; live rows are mostly newer than all of them."""
    actions = pl.DataFrame(store.get_add_actions(flatten=True))
    if "max.time" not in actions.columns:
        return actions.height > 0
    low, high = (pl.col(f"{end}.time").dt.epoch("ms") for end in ("min", "max"))
    apart = (high < first_ms - 1) | (low > last_ms)  # the statistics of other writers may be cut to whole ms
    return not actions.select(apart.fill_null(value=False).all()).item()


def _compact(store: DeltaTable, grace_hours: int) -> Compacted:
    before = _files(store)
    crowded = before.filter(pl.col("len") > 1 + pl.col("bytes") // _FILE_BYTES)
    for part in crowded.drop("len", "bytes").iter_rows(named=True):
        filters = [(name, "=", str(value)) for name, value in part.items()]
        store.optimize.z_order(["symbol"], partition_filters=filters, writer_properties=_WRITER)
    vacuumed = store.vacuum(grace_hours, dry_run=False, enforce_retention_duration=False, full=True)
    store.create_checkpoint()
    store.cleanup_metadata()
    return Compacted(crowded.height, int(before["len"].sum()), int(_files(store)["len"].sum()), len(vacuumed))


def _files(store: DeltaTable) -> pl.DataFrame:
    """Partitions, how many files each has and their size, the oldest first."""
    actions = pl.DataFrame(store.get_add_actions(flatten=True))
    names = store.metadata().partition_columns
    size = pl.col("size_bytes").sum().alias("bytes")
    return actions.group_by(pl.col(f"partition.{n}").alias(n) for n in names).agg(pl.len(), size).sort(names)
