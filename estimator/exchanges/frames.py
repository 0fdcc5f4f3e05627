"""Reading market data out of files: any common format, any common column name, one schema.

What cannot be used is refused with the frame, the column, the row (counted from 0) and the value.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from estimator.domain import CANDLES, CANDLES_OPTIONAL, LIQUIDATIONS, TIME
from estimator.errors import InputError

# Names a column goes by in files, in order of preference; letter case does not count. A bare "oi" is missing on
# purpose: venues mean base coin, contracts or USD by it.
COLUMN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "time": ("time", "timestamp", "ts", "date", "datetime", "datetime_utc", "ts_utc", "open_time"),
    "open": ("open", "o", "price_open"),
    "high": ("high", "h", "price_high"),
    "low": ("low", "l", "price_low"),
    "close": ("close", "c", "price_close"),
    "volume": ("volume", "v", "vol", "base_volume"),
    "taker_buy_volume": ("taker_buy_volume", "taker_buy_base_volume", "taker_buy_base_asset_volume"),
    "mark_high": ("mark_high",),
    "mark_low": ("mark_low",),
    "open_interest": ("open_interest", "openinterest", "sum_open_interest", "sumopeninterest"),
    "open_interest_usd": (
        "open_interest_usd",
        "open_interest_value",
        "sum_open_interest_value",
        "sumopeninterestvalue",
        "oi_usd",
        "oi_value",
    ),
    "long_short_ratio": ("long_short_ratio", "longshortratio", "ratio"),
    "funding_rate": ("funding_rate", "fundingrate"),
    "side": ("side",),
    "price": ("price",),
    "quantity_base": ("quantity_base", "quantity"),
    "notional_usd": ("notional_usd", "size_usd", "usd_size"),
}
OHLCV: Final = tuple(CANDLES)
PRICES: Final = ("open", "high", "low", "close")

_CLOCK: Final = (
    r"^(?<date>\d{4}[-/]\d{2}[-/]\d{2})(?:[T ](?<clock>\d{2}:\d{2})(?<seconds>:\d{2}(?:\.\d+)?)?)?"
    r"\s*(?:Z|(?<ahead>[+-])(?<hours>\d{2}):?(?<minutes>\d{2})?)?$"
)
# An integer time is taken for seconds, milliseconds, microseconds or nanoseconds by its size.
_UNITS_TO_MS: Final = ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3), (float("inf"), 1e-6))
_FIRST_BITCOIN_MS: Final = 1_230_940_800_000
_PRICE_AGE: Final = "1d"  # a price older than this, inside a gap, does not value a row


def read_frame(path: Path) -> pl.DataFrame:
    """Read a table by the ending of its name: csv, parquet, feather/arrow/ipc, json, ndjson/jsonl; each also ``.gz``.

    A JSON file holds a list of records, or a list of ``[time, open, high, low, close, volume]`` rows.

    Raises
    ------
    InputError
        If the file is absent, of another kind, or not what its name says.
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    ending = (suffixes[:-1] if packed else suffixes)[-1:]
    reader = _READERS.get(ending[0] if ending else "")
    if path.is_dir():
        raise InputError(str(path), "is a folder, not a file")
    if reader is None:
        raise InputError(str(path), f"not a file this reads ({', '.join(_READERS)}, each also with .gz)")
    try:
        data = path.read_bytes()
        return reader(gzip.decompress(data) if packed else data)
    except FileNotFoundError:
        raise InputError(str(path), "no such file") from None
    except (OSError, EOFError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(str(path), f"cannot be read as {ending[0][1:]}: {error}") from error


def is_table(path: Path) -> bool:
    """Whether `read_frame` knows the ending of this name."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(tuple(_READERS)) and name != DESCRIPTION_FILE


DESCRIPTION_FILE: Final = "liqheat.json"  # describes a recording; never data itself


def as_candles(frame: pl.DataFrame, name: str = "candles") -> pl.DataFrame:
    """Bring a user's candles into the schema of `estimator.domain.CANDLES`.

    Columns are found by their usual names (`COLUMN_NAMES`). Times may be integers in seconds to nanoseconds, ISO
    text or datetimes, and are UTC where they do not say. Rows are sorted; of rows with one time the last counts.
    A file without volume gets zeros.

    Raises
    ------
    InputError
        Naming column, row and value of the first price or volume that cannot be.
    """
    given = {c: _numbers(frame, c, name) for c in (*OHLCV[1:], *CANDLES_OPTIONAL) if _find(frame, c) is not None}
    for column in PRICES:
        if column not in given:
            raise _absent(frame, column, name)
    volume = given.setdefault("volume", pl.Series("volume", [0.0] * frame.height, dtype=pl.Float64))
    candles = pl.DataFrame([_times(frame, name), *given.values()]).select(
        *OHLCV, *(c for c in CANDLES_OPTIONAL if c in given)
    )
    for column in PRICES:
        _refuse(candles[column], candles[column] <= 0, name, "a price must be > 0")
    _refuse(volume, volume < 0, name, "volume must be >= 0")
    _refuse(
        candles["high"],
        candles["high"] < candles.select(pl.max_horizontal(PRICES)).to_series(),
        name,
        "below another price of its candle",
    )
    _refuse(
        candles["low"],
        candles["low"] > candles.select(pl.min_horizontal(PRICES)).to_series(),
        name,
        "above another price of its candle",
    )
    return one_per_time(candles)


def as_open_interest(
    frame: pl.DataFrame, candles: pl.DataFrame | None = None, name: str = "open_interest"
) -> pl.DataFrame:
    """Bring a user's open interest into the schema of `estimator.domain.OPEN_INTEREST`.

    Parameters
    ----------
    frame : pl.DataFrame
        With open interest in base coin, or in USD.
    candles : pl.DataFrame, optional
        As `as_candles` returns them; needed to turn USD into base coin, at the last close before each row.
    name : str
        What errors call the frame.

    Raises
    ------
    InputError
        If the column is absent, in USD without candles, or holds a value that cannot be.
    """
    if _find(frame, "open_interest") is None and _find(frame, "open_interest_usd") is not None:
        if candles is None:
            raise InputError(
                name, "is in USD: give candles too, or open interest in base coin", column="open_interest_usd"
            )
        usd = as_observations(frame, "open_interest_usd", name)
        base = usd_to_base(usd.rename({"open_interest_usd": "open_interest"}), candles)
    else:
        base = as_observations(frame, "open_interest", name)
    _refuse(base["open_interest"], base["open_interest"] < 0, name, "open interest must be >= 0")
    return base


def as_observations(frame: pl.DataFrame, value: str, name: str) -> pl.DataFrame:
    """Take the times and one value out of a frame; rows without a value are left out.

    Raises
    ------
    InputError
        If a column is absent, or a time or a value cannot be.
    """
    found = _find(frame, value)
    if found is None:
        raise _absent(frame, value, name)
    values = _numbers(frame, value, name, optional=True)
    return one_per_time(pl.DataFrame([_times(frame, name), values]).drop_nulls())


def as_liquidations(frame: pl.DataFrame, name: str = "liquidations") -> pl.DataFrame:
    """Bring prints into the schema of `estimator.domain.LIQUIDATIONS`; `side` is that of the position.

    Raises
    ------
    InputError
        If a column is absent, a side is neither "long" nor "short", or a number cannot be.
    """
    for column in LIQUIDATIONS:
        if _find(frame, column) is None:
            raise _absent(frame, column, name)
    side = frame[_find(frame, "side") or "side"].cast(pl.String).str.to_lowercase().alias("side")
    _refuse(side, ~side.is_in(["long", "short"]), name, "the side of the position must be long or short")
    numbers = [_numbers(frame, c, name) for c in ("price", "quantity_base", "notional_usd")]
    return pl.DataFrame([_times(frame, name), side, *numbers]).sort("time")


def usd_to_base(open_interest: pl.DataFrame, candles: pl.DataFrame, priced_at: pl.Expr | None = None) -> pl.DataFrame:
    """Turn open interest in USD into base coin, at the last open or close up to the time of its price.

    Parameters
    ----------
    open_interest : pl.DataFrame
        Columns time and open_interest. [USD]
    candles : pl.DataFrame
    priced_at : pl.Expr, optional
        When the price was taken at which the source made USD of it; the time of the row where absent.

    Returns
    -------
    pl.DataFrame
        Without the rows that were priced when there was no candle. [base coin]
    """
    opens = candles.select(pl.col("time").alias("_at"), pl.col("open").alias("_price"))
    closes = candles.select(
        (pl.col("time") + pl.col("time").diff().min()).alias("_at"), pl.col("close").alias("_price")
    )
    prices = pl.concat([opens, closes]).sort("_at", maintain_order=True)  # a close comes after the open of its instant
    priced = open_interest.with_columns((priced_at if priced_at is not None else pl.col("time")).alias("_at"))
    joined = priced.sort("_at").join_asof(prices, on="_at", tolerance=_PRICE_AGE).drop_nulls("_price").sort("time")
    return joined.select("time", pl.col("open_interest") / pl.col("_price"))


def one_per_time(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by time; of rows with one time keep the last."""
    return frame.unique("time", keep="last", maintain_order=True).sort("time")


def has_columns(frame: pl.DataFrame, columns: Iterable[str]) -> bool:
    """Whether every column is there, a schema column under any of its usual names."""
    return all(_find(frame, column) is not None for column in columns)


def with_names(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """Add schema columns under their own names, taken from the columns a mapping names."""
    return frame.with_columns(pl.col(_find(frame, there) or there).alias(here) for here, there in columns.items())


def _find(frame: pl.DataFrame, column: str) -> str | None:
    """Find the name a column goes by in a frame: its own or, for a schema column, a usual one."""
    by_lower = {c.strip().lower(): c for c in reversed(frame.columns)}
    return next((by_lower[n] for n in (column.lower(), *COLUMN_NAMES.get(column, ())) if n in by_lower), None)


def _absent(frame: pl.DataFrame, column: str, name: str) -> InputError:
    accepted = ", ".join(COLUMN_NAMES[column])
    return InputError(
        name, f"absent; accepted names are {accepted}; the file has {', '.join(frame.columns)}", column=column
    )


def _refuse(values: pl.Series, wrong: pl.Series, name: str, problem: str, shown: pl.Series | None = None) -> None:
    """Raise for the first row that is wrong."""
    rows = wrong.fill_null(value=True).arg_true()
    if len(rows):
        row = int(rows[0])
        raise InputError(name, problem, column=values.name, row=row, value=(values if shown is None else shown)[row])


def _numbers(frame: pl.DataFrame, column: str, name: str, *, optional: bool = False) -> pl.Series:
    raw = frame[_find(frame, column) or column]
    values = raw.cast(pl.Float64, strict=False).alias(column)
    wrong = ~values.is_finite().fill_null(value=False)
    _refuse(values, wrong & raw.is_not_null() if optional else wrong, name, "not a finite number", shown=raw)
    return values


def _times(frame: pl.DataFrame, name: str) -> pl.Series:
    found = _find(frame, "time")
    if found is None:
        raise _absent(frame, "time", name)
    raw = frame[found]
    if raw.dtype.is_numeric():
        epoch = _epoch_of_numbers(raw)
    elif raw.dtype.is_temporal():
        epoch = raw.cast(pl.Datetime("ms")).dt.epoch("ms") if raw.dtype == pl.Date else raw.dt.epoch("ms")
    else:
        epoch = _epoch_of_text(raw)
    _refuse(epoch.alias("time"), epoch.is_null(), name, "not a time", shown=raw)
    _refuse(epoch.alias("time"), epoch < _FIRST_BITCOIN_MS, name, "a time before 2009; is the unit right?", shown=raw)
    return epoch.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").cast(TIME).alias("time")


def _epoch_of_numbers(raw: pl.Series) -> pl.Series:
    top = float(raw.abs().max() or 0)  # type: ignore[arg-type]
    to_ms = next(factor for limit, factor in _UNITS_TO_MS if top < limit)
    return (raw.cast(pl.Float64) * to_ms).round().cast(pl.Int64, strict=False)


def _epoch_of_text(raw: pl.Series) -> pl.Series:
    """Milliseconds of ISO 8601 text in its usual variants, UTC where no offset is given."""
    part = pl.col("_").struct.field
    day = part("date").str.replace_all("/", "-")
    clock = part("clock").fill_null("00:00") + part("seconds").fill_null(":00")
    local = (day + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ms", strict=False)
    minutes = part("hours").cast(pl.Int64) * 60 + part("minutes").fill_null("0").cast(pl.Int64)
    ahead = pl.when(part("ahead") == "-").then(-minutes).otherwise(minutes).fill_null(0)
    parts = raw.cast(pl.String).str.strip_chars().str.extract_groups(_CLOCK).alias("_").to_frame()
    return parts.select(local.dt.epoch("ms") - ahead * 60_000).to_series()


def _read_json(data: bytes) -> pl.DataFrame:
    rows: Any = json.loads(data)
    if not isinstance(rows, list):
        raise TypeError("not a list of rows")
    if rows and isinstance(rows[0], list):
        return pl.DataFrame(rows, schema=list(OHLCV), orient="row", infer_schema_length=None)
    return pl.DataFrame(rows, infer_schema_length=None)


_READERS: Final[dict[str, Callable[[bytes], pl.DataFrame]]] = {
    ".csv": lambda data: pl.read_csv(io.BytesIO(data), infer_schema_length=None),
    ".parquet": lambda data: pl.read_parquet(io.BytesIO(data)),
    ".feather": lambda data: pl.read_ipc(io.BytesIO(data)),
    ".arrow": lambda data: pl.read_ipc(io.BytesIO(data)),
    ".ipc": lambda data: pl.read_ipc(io.BytesIO(data)),
    ".json": _read_json,
    ".ndjson": lambda data: pl.read_ndjson(io.BytesIO(data), infer_schema_length=None),
    ".jsonl": lambda data: pl.read_ndjson(io.BytesIO(data), infer_schema_length=None),
}
