"""What the tables of history hold: their columns, and the key that tells one row from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import polars as pl

from estimator.cache.journal import number_prints
from estimator.domain import (
    CANDLES,
    CANDLES_OPTIONAL,
    FUNDING_RATE,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    TIME,
)
from estimator.errors import InputError, ParameterError

TableName = Literal[
    "candles",
    "open_interest",
    "long_short_ratio",
    "funding",
    "liquidations",
    "columns",
    "books",
    "connections",
    "parameters",
    "track_record",
    "track_touches",
]
TABLE_NAMES: Final[tuple[TableName, ...]] = get_args(TableName)

MARKET: Final[dict[str, pl.DataType]] = {"exchange": pl.String(), "symbol": pl.String()}
COLUMNS: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # when the column closed
    "price_factor": pl.Int16(),  # bins of the lattice merged into one
    "first_bin": pl.Int32(),  # lattice index of the lowest stored bin
    "n_price": pl.Int32(),  # stored bins; outside of them the density is zero
    "bin_width": pl.Float64(),  # of these bins, in log price
    "total": pl.Binary(),  # densities, see estimator.history.columns
    "parameters_version": pl.String(),  # of the parameters of the book
    "book_format": pl.Int16(),
}
COLUMNS_OPTIONAL: Final[dict[str, pl.DataType]] = {
    "tiers": pl.List(pl.String()),
    "tier": pl.Binary(),
    "published": TIME,  # when it was first shown; null where an older version of this program did not say
}
# Minutes. A column belongs to the longest of these that ends where it closed; its partition tells which, so that fine
# columns can be dropped without a rewrite of the others.
SPACINGS: Final = (5, 15, 30, 60)
BOOKS: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # close of the last step in it
    "state": pl.Binary(),  # PositionBook.save()
}
CONNECTIONS: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # from when on
    "what": pl.String(),  # what the stream carries, e.g. "liquidations"
    "connected": pl.Boolean(),  # whether it was heard; between False and True something may be missing
}
PARAMETERS: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # when they were fitted, or from when on they hold
    "state": pl.String(),  # "fitted", "offered" or "in force", see estimator.history.calibrations
    "parameters_version": pl.String(),  # of the parameters with all their buckets
    "calibration": pl.String(),  # estimator.evaluation.calibrate.Calibration.to_json()
}
# Of scores that were given once: which column, with which assumptions and which scoring, against what came afterwards.
_SCORED: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # when the column closed
    "horizon_h": pl.Int16(),
    "side": pl.String(),
    "parameters_version": pl.String(),
    "code_version": pl.String(),
}
TRACK_RECORD: Final[dict[str, pl.DataType]] = {
    **_SCORED,
    "model": pl.String(),  # "published", or a baseline
    "n_print": pl.Int32(),  # in cells that the price crossed first within the horizon
    "n_cell": pl.Int32(),
    "observed_usd": pl.Float64(),  # each print up to `estimator.evaluation.events.CAP_USD`
    "predicted_usd": pl.Float64(),  # in the crossed cells; of a baseline any fixed multiple
    "bits": pl.Float64(),  # over uniform, weighted by USD
    "capture": pl.Float64(),  # share of what was observed in the densest tenth of the cells
    "sharpness": pl.Float64(),
    # By how dense the model holds a cell against the mean of its unit: what uniform and the model expect there, and
    # what was observed. [USD]
    "uniform_usd_by_density": pl.List(pl.Float64()),
    "predicted_usd_by_density": pl.List(pl.Float64()),
    "observed_usd_by_density": pl.List(pl.Float64()),
}
TRACK_TOUCHES: Final[dict[str, pl.DataType]] = {
    **_SCORED,
    "price": pl.Float64(),  # of a cluster
    "distance": pl.Float64(),  # in log price
    "mass_usd": pl.Float64(),
    "probability": pl.Float64(),  # that a driftless random walk touches it within the horizon
    "touched": pl.Boolean(),
    "mirror_clear": pl.Boolean(),  # whether no cluster lies at the same distance on the other side
    "mirror_touched": pl.Boolean(),
}
TRACK_OPTIONAL: Final[dict[str, pl.DataType]] = {"published": TIME}  # when the column was first shown


@dataclass(frozen=True, slots=True)
class TableSpec:
    """Columns of a table next to the market, those that tell its rows apart, and those it is partitioned by.

    Every table also has `exchange`, `symbol` and the partition column `date`, the UTC day of `time`.
    """

    required: Mapping[str, pl.DataType]
    optional: Mapping[str, pl.DataType]
    key: tuple[str, ...] = ("exchange", "symbol", "time")
    partitions: Mapping[str, pl.DataType] = field(default_factory=lambda: {"date": pl.Date()})

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Every stored column but the partitions, in order."""
        return {**MARKET, **self.required, **self.optional}


# `print_id` is the venue's own id of a print, else its ordinal among the equal prints of one delivery.
_PRINT_KEY: Final = ("exchange", "symbol", "time", "side", "price", "quantity_base", "print_id")
TABLES: Final[Mapping[TableName, TableSpec]] = {
    "candles": TableSpec(CANDLES, CANDLES_OPTIONAL),
    "open_interest": TableSpec(OPEN_INTEREST, {}),
    "long_short_ratio": TableSpec(LONG_SHORT_RATIO, {}),
    "funding": TableSpec(FUNDING_RATE, {}),
    "liquidations": TableSpec({**LIQUIDATIONS, "print_id": pl.String()}, {}, _PRINT_KEY),
    "columns": TableSpec(
        COLUMNS,
        COLUMNS_OPTIONAL,
        ("exchange", "symbol", "time", "price_factor"),
        {"date": pl.Date(), "every": pl.Int32()},
    ),
    "books": TableSpec(BOOKS, {}),
    "connections": TableSpec(CONNECTIONS, {}, ("exchange", "symbol", "time", "what", "connected")),
    "parameters": TableSpec(PARAMETERS, {}, ("exchange", "symbol", "time", "state")),
    "track_record": TableSpec(
        TRACK_RECORD, TRACK_OPTIONAL, ("exchange", "symbol", "time", "horizon_h", "side", "model")
    ),
    "track_touches": TableSpec(
        TRACK_TOUCHES, TRACK_OPTIONAL, ("exchange", "symbol", "time", "horizon_h", "side", "price")
    ),
}


def split_market_id(market_id: str) -> tuple[str, str]:
    """Return exchange and symbol of a market id.

    Raises
    ------
    ParameterError
        If it is not ``exchange:symbol``.
    """
    exchange, colon, symbol = market_id.partition(":")
    if not (exchange and colon and symbol):
        raise ParameterError("market_id", market_id, "exchange:symbol")
    return exchange, symbol


def with_market(market_id: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the columns `exchange` and `symbol` to the rows of one market."""
    exchange, symbol = split_market_id(market_id)
    return frame.with_columns(exchange=pl.lit(exchange), symbol=pl.lit(symbol))


def prepare(table: TableName, frame: pl.DataFrame) -> pl.DataFrame:
    """Bring rows into the form a table stores: its columns, types and partitions, each key once (the first).

    Raises
    ------
    InputError
        If a column is absent, has another type, or a value is missing or not finite; names the column, row and value.
    """
    spec = TABLES[table]
    if table == "liquidations":
        frame = number_prints(frame)
    _check_columns(table, {**MARKET, **spec.required}, frame)
    absent = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in spec.optional.items() if name not in frame]
    try:
        rows = frame.with_columns(absent).select(pl.col(n).cast(t) for n, t in spec.schema.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(table, f"does not fit the table: {error}") from error
    optional = [n for n, dtype in spec.optional.items() if dtype == pl.Float64]
    rows = rows.with_columns(pl.col(optional).fill_nan(None)) if optional else rows
    _check_values(table, {**MARKET, **spec.required}, rows)
    parts = {"date": pl.col("time").dt.date(), "every": spacing_of(pl.col("time"))}
    rows = rows.with_columns(parts[name].cast(dtype).alias(name) for name, dtype in spec.partitions.items())
    return rows.unique(spec.key, keep="first", maintain_order=True).sort("exchange", "symbol", "time")


def spacing_of(time: pl.Expr) -> pl.Expr:
    """Longest of `SPACINGS` that divides a time. [min]"""
    fits = (pl.when(time.dt.epoch("ms") % (m * MINUTE_MS) == 0).then(m) for m in reversed(SPACINGS))
    return pl.coalesce(*fits, pl.lit(SPACINGS[0]))


def _check_columns(table: str, wanted: Iterable[str], frame: pl.DataFrame) -> None:
    for name in wanted:
        if name not in frame.columns:
            raise InputError(table, f"is missing; there are {', '.join(frame.columns)}", column=name)
    if not (isinstance(frame.schema["time"], pl.Datetime) and frame.schema["time"].time_zone == "UTC"):
        raise InputError(table, f"is {frame.schema['time']}, it must be a Datetime in UTC", column="time")


def _check_values(table: str, schema: Mapping[str, pl.DataType], rows: pl.DataFrame) -> None:
    for name, dtype in schema.items():
        bad = ~pl.col(name).is_finite().fill_null(value=False) if dtype == pl.Float64 else pl.col(name).is_null()
        wrong = rows.select(bad.arg_true()).to_series()
        if wrong.len():
            row = int(wrong[0])
            raise InputError(table, "needs a value that is finite", column=name, row=row, value=rows[name][row])
