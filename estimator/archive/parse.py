"""CSV of the archive to rows of history; pure, and strict about every value and time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Final

import polars as pl

from estimator.archive.layout import ArchiveFile, Kind, archive_symbol
from estimator.domain import MINUTE_MS, TIME
from estimator.errors import BadPayload
from estimator.history import TableName

METRICS_MS: Final = 5 * MINUTE_MS
_MICROSECONDS: Final = 10**14  # a time beyond this is in microseconds, as in the newer files of other markets
# From this day on USD-M metrics are labelled with the start of their five minutes, before with the end. COIN-M always
# with the start. (binance-public-data issue 491)
_START_LABELS_FROM: Final = date(2026, 6, 25)

_COLUMNS: Final[dict[Kind, tuple[str, ...]]] = {
    "klines": (
        "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
        "taker_buy_volume", "taker_buy_quote_volume", "ignore",
    ),
    "metrics": (
        "create_time", "symbol", "sum_open_interest", "sum_open_interest_value", "count_toptrader_long_short_ratio",
        "sum_toptrader_long_short_ratio", "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
    "fundingRate": ("calc_time", "funding_interval_hours", "last_funding_rate"),
}  # fmt: skip


def parse_klines(file: ArchiveFile, csv: bytes) -> dict[TableName, pl.DataFrame]:
    """Turn a day of one-minute candles into rows of ``candles``; volume in base coin.

    Raises
    ------
    BadPayload
        Naming column and row of what cannot be.
    """
    # COIN-M counts volume in contracts; what USD-M has as quote volume is the base coin there.
    coin = file.market.contract == "inverse"
    volume, taker = ("quote_volume", "taker_buy_quote_volume") if coin else ("volume", "taker_buy_volume")
    raw = _read_csv(file, csv)
    frame = raw.select(
        _integer("open_time").alias("time"),
        *(_number(name) for name in ("open", "high", "low", "close")),
        _number(volume).alias("volume"),
        _number(taker).alias("taker_buy_volume"),
    )
    _check_times(file, frame["time"], file.start_ms, file.end_ms - MINUTE_MS, MINUTE_MS)
    for name in ("open", "high", "low", "close"):
        _check(file, frame, name, pl.col(name).is_finite() & (pl.col(name) > 0))
    _check(file, frame, "low", pl.col("low") <= pl.min_horizontal("open", "close"))
    _check(file, frame, "high", pl.col("high") >= pl.max_horizontal("open", "close", "low"))
    _check(file, frame, "volume", pl.col("volume").is_finite() & (pl.col("volume") >= 0))
    at_most = pl.col("volume") * (1 + 1e-9)
    _check(file, frame, "taker_buy_volume", pl.col("taker_buy_volume").is_between(0, at_most))
    _check_unique(file, frame)
    return {"candles": frame.sort("time").with_columns(pl.col("time").cast(TIME))}


def parse_metrics(file: ArchiveFile, csv: bytes) -> dict[TableName, pl.DataFrame]:
    """Turn a day of metrics into rows of ``open_interest`` (base coin) and ``long_short_ratio`` (accounts).

    Times are when the values became known: the end of their five minutes, however the file labels them. Blank values,
    which the venue leaves during outages, are left out; of repeated rows the first counts.

    Raises
    ------
    BadPayload
        Naming column and row of what cannot be.
    """
    # COIN-M: the "value" is in base coin, the plain number in contracts.
    interest = "sum_open_interest_value" if file.market.contract == "inverse" else "sum_open_interest"
    raw = _read_csv(file, csv)
    _check(file, raw, "symbol", pl.col("symbol") == archive_symbol(file.market))
    labels = raw["create_time"].str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False).dt.epoch("ms")
    _check_times(file, labels, file.start_ms, file.end_ms, 1)
    shift = METRICS_MS if _labels_start(file, labels) else 0
    frame = raw.select(
        (labels + shift).alias("time"),
        _number(interest).alias("open_interest"),
        _number("count_long_short_ratio").alias("long_short_ratio"),
    )
    for source, name in ((interest, "open_interest"), ("count_long_short_ratio", "long_short_ratio")):
        blank = raw[source].fill_null("").str.strip_chars() == ""
        _check(file, frame, name, blank | (pl.col(name).is_finite() & (pl.col(name) >= 0)))
    frame = frame.unique("time", keep="first").sort("time").with_columns(pl.col("time").cast(TIME))
    names: tuple[TableName, TableName] = ("open_interest", "long_short_ratio")
    return {name: frame.filter(pl.col(name) > 0).select("time", name) for name in names}


def parse_funding(file: ArchiveFile, csv: bytes) -> dict[TableName, pl.DataFrame]:
    """Turn a month of funding into rows of ``funding``.

    Raises
    ------
    BadPayload
        Naming column and row of what cannot be.
    """
    frame = _read_csv(file, csv).select(
        _integer("calc_time").alias("time"),
        _number("last_funding_rate").alias("funding_rate"),
    )
    _check_times(file, frame["time"], file.start_ms, file.end_ms - 1, 1)
    _check(file, frame, "funding_rate", pl.col("funding_rate").is_between(-1, 1))
    _check_unique(file, frame)
    return {"funding": frame.sort("time").with_columns(pl.col("time").cast(TIME))}


PARSERS: Final[dict[Kind, Callable[[ArchiveFile, bytes], dict[TableName, pl.DataFrame]]]] = {
    "klines": parse_klines,
    "metrics": parse_metrics,
    "fundingRate": parse_funding,
}


def _read_csv(file: ArchiveFile, csv: bytes) -> pl.DataFrame:
    """Columns as text, by the names of the header line or, in old files without one, by their order."""
    documented = _COLUMNS[file.kind]
    first = csv.partition(b"\n")[0].decode(errors="replace").strip()
    has_header = not first[:1].isdigit()
    names = first.split(",") if has_header else documented
    if absent := [name for name in documented if name not in names]:
        raise BadPayload(file.path, "header", f"lacks {', '.join(absent)}; it is {first[:200]!r}")
    if csv.strip().count(b"\n") < has_header:
        raise BadPayload(file.path, "csv", "has no rows")
    try:
        return pl.read_csv(csv, has_header=False, skip_rows=int(has_header), infer_schema=False, new_columns=names)
    except pl.exceptions.PolarsError as error:
        raise BadPayload(file.path, "csv", str(error)) from error


def _number(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def _integer(name: str) -> pl.Expr:
    ms = pl.col(name).str.strip_chars().cast(pl.Int64, strict=False)
    return pl.when(ms > _MICROSECONDS).then(ms // 1000).otherwise(ms)


def _check(file: ArchiveFile, frame: pl.DataFrame, column: str, holds: pl.Expr) -> None:
    wrong = frame.select((~holds.fill_null(value=False)).arg_true()).to_series()
    if wrong.len():
        row = int(wrong[0])
        raise BadPayload(file.path, f"{column} row {row}", f"cannot be {frame[column][row]!r}")


def _check_times(file: ArchiveFile, times: pl.Series, first_ms: int, last_ms: int, grid_ms: int) -> None:
    _check(
        file,
        times.alias("time").to_frame(),
        "time",
        pl.col("time").is_between(first_ms, last_ms) & (pl.col("time") % grid_ms == 0),
    )


def _check_unique(file: ArchiveFile, frame: pl.DataFrame) -> None:
    _check(file, frame, "time", pl.col("time").is_first_distinct())


def _labels_start(file: ArchiveFile, labels: pl.Series) -> bool:
    """Whether rows are labelled with the start of their five minutes: the edges of the day tell, else the date."""
    own_midnight, next_midnight = (labels == file.start_ms).any(), (labels == file.end_ms).any()
    if own_midnight != next_midnight:
        return bool(own_midnight)
    return file.market.contract == "inverse" or file.day >= _START_LABELS_FROM
