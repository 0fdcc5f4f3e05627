"""Bringing the archive into history: what is there already is skipped, what is damaged is named."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from estimator.archive.fetch import Archive
from estimator.archive.layout import ArchiveFile, Kind, plan
from estimator.archive.parse import METRICS_MS, PARSERS
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, Market
from estimator.errors import BadPayload
from estimator.exchanges.base import Progress
from estimator.history import History, TableName, with_market


@dataclass(slots=True)
class Imported:
    """What an import did.

    Parameters
    ----------
    rows : int
        New rows in history.
    files : int
        Files read.
    complete : int
        Files not read because history has all of their time.
    missing : list of str
        Files the archive does not have (not yet published, or the market was not listed).
    short : dict of str to int
        Files with fewer rows than their time has, and how many are absent; what they have is stored.
    damaged : dict of str to str
        Files of which nothing was stored, and why.
    """

    rows: int = 0
    files: int = 0
    complete: int = 0
    missing: list[str] = field(default_factory=list)
    short: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def backfill(
    archive: Archive,
    history: History,
    markets: Sequence[Market],
    first: date,
    last: date,
    progress: Progress,
    *,
    downloads: int = 4,
) -> Imported:
    """Bring every file of `plan` that is not yet complete into history: files of one kind and day in one commit.

    Parameters
    ----------
    progress : callable
        Called with the share done (0..1) and what is being done.
    downloads : int
        Files fetched at once.

    Returns
    -------
    Imported
        Damaged and missing files are listed there and stop nothing; run it again to try them again.

    Raises
    ------
    SourceUnavailable
        If the archive does not answer.
    HistoryUnavailable
        If history cannot be written.
    """
    files = plan(markets, first, last)
    groups: dict[tuple[Kind, date], list[ArchiveFile]] = {}
    for file in files:
        groups.setdefault((file.kind, file.day), []).append(file)
    done, result = 0, Imported()
    with ThreadPoolExecutor(max_workers=downloads, thread_name_prefix="archive") as pool:
        for (kind, day), group in groups.items():
            progress(done / len(files), f"{kind} of {day}")
            import_files(archive, history, group, result, pool)
            done += len(group)
    progress(1.0, f"{result.rows} new rows from {result.files} files")
    return result


def import_day(archive: Archive, history: History, market: Market, day: date) -> Imported:
    """Bring one day of candles, open interest and account ratio of one market into history; errors as `backfill`."""
    result = Imported()
    with ThreadPoolExecutor(max_workers=2) as pool:
        import_files(archive, history, [f for f in plan([market], day, day) if f.kind != "fundingRate"], result, pool)
    return result


def import_files(
    archive: Archive, history: History, files: Sequence[ArchiveFile], result: Imported, pool: ThreadPoolExecutor
) -> None:
    """Bring `files` into history, one commit per table, and add what was done to `result`."""
    wanted = _incomplete(history, files)
    result.complete += len(files) - len(wanted)
    frames: dict[TableName, list[pl.DataFrame]] = {}
    for file, outcome in zip(wanted, pool.map(lambda f: _load(archive, f), wanted), strict=True):
        if isinstance(outcome, dict):
            _note_short(file, outcome, result)
            for table, frame in outcome.items():
                frames.setdefault(table, []).append(with_market(file.market.id, frame))
        elif outcome is None:
            result.missing.append(file.path)
        else:
            result.damaged[file.path] = str(outcome)
    for table, parts in frames.items():
        result.rows += history.append(table, pl.concat(parts))


def _note_short(file: ArchiveFile, frames: dict[TableName, pl.DataFrame], result: Imported) -> None:
    result.files += 1
    absent = _expected(file) - min(frame.height for frame in frames.values())
    if absent > 0:
        result.short[file.path] = absent


def _incomplete(history: History, files: Sequence[ArchiveFile]) -> list[ArchiveFile]:
    """Files for whose time history lacks a row."""
    by_kind: dict[tuple[Kind, date], list[ArchiveFile]] = {}
    for file in files:
        by_kind.setdefault((file.kind, file.day), []).append(file)
    complete = {key for (kind, _), group in by_kind.items() for key in _complete(history, kind, group[0])}
    return [f for f in files if (f.kind, f.day, f.market.id) not in complete]


def _complete(history: History, kind: Kind, file: ArchiveFile) -> set[tuple[Kind, date, str]]:
    """Markets of which history has every row for the time of `file`."""
    tables, start_ms, end_ms = _held_in(kind, file)
    sets = [_full_markets(history.times(table, start_ms, end_ms), file) for table in tables]
    return {(kind, file.day, market_id) for market_id in set.intersection(*sets)}


def _held_in(kind: Kind, file: ArchiveFile) -> tuple[tuple[TableName, ...], int, int]:
    if kind == "klines":
        return ("candles",), file.start_ms, file.end_ms
    if kind == "metrics":  # known at the end of each five minutes
        return ("open_interest", "long_short_ratio"), file.start_ms + 1, file.end_ms + 1
    return ("funding",), file.start_ms, file.end_ms


def _full_markets(times: pl.DataFrame, file: ArchiveFile) -> set[str]:
    """Markets whose times leave no gap longer than the interval of the file, which for funding is up to 8 hours."""
    step_ms = {"klines": MINUTE_MS, "metrics": METRICS_MS, "fundingRate": 8 * HOUR_MS}[file.kind]
    ms = pl.col("time").dt.epoch("ms").sort()
    gaps = times.group_by("exchange", "symbol").agg(
        pl.max_horizontal(ms.first() - file.start_ms, file.end_ms - ms.last(), ms.diff().max().fill_null(0)).alias(
            "longest"
        )
    )
    full = gaps.filter(pl.col("longest") <= step_ms + (MINUTE_MS if file.kind == "fundingRate" else 0))
    return set(full.select(pl.format("{}:{}", "exchange", "symbol")).to_series())


def _expected(file: ArchiveFile) -> int:
    """Rows of a file without gaps; of funding, whose interval varies, at least one."""
    return {"klines": DAY_MS // MINUTE_MS, "metrics": DAY_MS // METRICS_MS, "fundingRate": 1}[file.kind]


def _load(archive: Archive, file: ArchiveFile) -> dict[TableName, pl.DataFrame] | BadPayload | None:
    try:
        csv = archive.fetch(file.path)
        return None if csv is None else PARSERS[file.kind](file, csv)
    except BadPayload as error:
        return error
