"""What recorded files mean: declarations only, as data.

A `Reading` says how files of one kind give one series; `READINGS` covers the recordings known so far, a user's
``liqheat.json`` (a `Description`) any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import polars as pl
from pydantic import ConfigDict, TypeAdapter, ValidationError

from estimator.domain import (
    CANDLES,
    CANDLES_OPTIONAL,
    FUNDING_RATE,
    HOUR_MS,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    MINUTE_MS,
    OPEN_INTEREST,
    ContractType,
    Market,
)
from estimator.errors import ParameterError, SourceError
from estimator.exchanges.frames import DESCRIPTION_FILE
from estimator.model.margin import brackets_from_max_leverage

SeriesName = Literal["candles", "open_interest", "long_short_ratio", "funding_rate", "liquidations"]
Unit = Literal["plain", "contracts", "usd", "percent"]

SCHEMAS: Final[dict[SeriesName, dict[str, pl.DataType]]] = {
    "candles": CANDLES,
    "open_interest": OPEN_INTEREST,
    "long_short_ratio": LONG_SHORT_RATIO,
    "funding_rate": FUNDING_RATE,
    "liquidations": LIQUIDATIONS,
}


@dataclass(frozen=True, slots=True)
class DailyPrice:
    """A price taken once a day at which a source makes USD of its open interest.

    Parameters
    ----------
    taken_at_ms : int
        Time of day of the price. [ms after midnight UTC]
    used_from_ms : int
        Time of day from which rows are stamped that use it. [ms after midnight UTC]
    """

    taken_at_ms: int
    used_from_ms: int

    def time_of(self, stamp: pl.Expr) -> pl.Expr:
        """When the price behind a row was taken."""
        used_from, taken_at = pl.duration(milliseconds=self.used_from_ms), pl.duration(milliseconds=self.taken_at_ms)
        return (stamp - used_from).dt.truncate("1d") + taken_at


@dataclass(frozen=True, slots=True)
class Reading:
    """How files of one kind give one series.

    Parameters
    ----------
    series : str
        What the file gives.
    kind, exchange : str
        Shell patterns for the folder of the file (or its name) and for the venue.
    columns : dict
        Column of the file by schema column, where its name is not one of `frames.COLUMN_NAMES`.
    unit : {"plain", "contracts", "usd", "percent"}
        Of the volume of candles (contracts) or the value of other series (usd, percent); "plain" as in the schema.
    known_after_ms : int
        How long after its stamp a value became known. Never too short, or the past would see the future.
    daily_price : DailyPrice, optional
        For open interest in USD that is not marked to the price of its own time.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    series: SeriesName
    kind: str = "*"
    exchange: str = "*"
    columns: dict[str, str] = field(default_factory=dict)
    unit: Unit = "plain"
    known_after_ms: int = 0
    daily_price: DailyPrice | None = None

    def __post_init__(self) -> None:
        for column in self.columns:
            if column != "time" and column not in SCHEMAS[self.series] and column not in CANDLES_OPTIONAL:
                raise ParameterError("columns", column, f"a column of {self.series}: {', '.join(SCHEMAS[self.series])}")


# OKX makes USD of a coin's open interest at the price of 16:00 UTC, in rows from 18:00 on. Measured on the SOL month of
# June 2026: hourly changes of the result correlate with returns by .01 (by -.65 with the price of the hour).
_OKX_PRICE: Final = DailyPrice(taken_at_ms=16 * HOUR_MS, used_from_ms=18 * HOUR_MS)

# The first reading of a series that covers a file is used. Rows stamped with the start of a period count as known at
# its end, except where the value is measured to be that of the stamp itself: Binance's open interest in USD over the
# close at the stamp keeps no trace of price (correlation of 5m changes with returns -.05; five minutes off, -.64).
READINGS: Final = (
    Reading("candles", "ohlcv_*", "okx", unit="contracts"),
    Reading("candles", "candles_*", "okx", unit="contracts"),
    Reading(
        "open_interest",
        "open_interest",
        "okx",
        {"open_interest": "oi_value"},
        "usd",
        known_after_ms=HOUR_MS,
        daily_price=_OKX_PRICE,
    ),
    Reading("long_short_ratio", "long_short_ratio", "okx", {"long_short_ratio": "ratio"}, known_after_ms=HOUR_MS),
    Reading("candles", "price_oi_funding_5m"),
    Reading("open_interest", "price_oi_funding_5m", columns={"open_interest": "oi_close"}, unit="usd"),
    Reading(
        "funding_rate",
        "price_oi_funding_5m",
        columns={"funding_rate": "funding_close"},
        known_after_ms=5 * MINUTE_MS,
    ),
    Reading(
        "open_interest", "open_interest_1h", columns={"open_interest": "oi_usd"}, unit="usd", known_after_ms=HOUR_MS
    ),
    Reading("candles", "candles*"),
    Reading("candles", "ohlcv*"),
    Reading("open_interest", "open_interest*"),
    Reading("open_interest", "open_interest*", columns={"open_interest": "open_interest_usd"}, unit="usd"),
    Reading("long_short_ratio", "long_short_ratio*"),
    Reading("funding_rate", "funding*"),
    Reading("liquidations", "liquidations*"),
)
BY_COLUMNS: Final = (
    Reading("candles"),
    Reading("open_interest"),
    Reading("open_interest", columns={"open_interest": "open_interest_usd"}, unit="usd"),
    Reading("long_short_ratio"),
    Reading("funding_rate"),
    Reading("liquidations"),
)


@dataclass(frozen=True, slots=True)
class Venue:
    """Defaults for the recordings of a venue: public terms, from which tiers follow by rule."""

    settle: str = "USDT"
    taker_fee_rate: float = 0.0005
    max_leverage: float = 50.0
    max_leverage_of: tuple[tuple[str, float], ...] = ()
    contract_size_of: tuple[tuple[str, float], ...] = ()


VENUES: Final = {
    "binance": Venue(max_leverage_of=(("BTC", 125.0), ("ETH", 125.0), ("SOL", 100.0), ("XRP", 100.0))),
    "bybit": Venue(taker_fee_rate=0.00055, max_leverage_of=(("BTC", 100.0), ("ETH", 100.0))),
    "okx": Venue(
        max_leverage_of=(("BTC", 100.0), ("ETH", 100.0)),
        contract_size_of=(("BTC", 0.01), ("ETH", 0.1), ("SOL", 1.0), ("DOGE", 1000.0), ("HYPE", 0.1)),
    ),
    "hyperliquid": Venue(
        settle="USDC",
        taker_fee_rate=0.00045,
        max_leverage=10.0,
        max_leverage_of=(("BTC", 40.0), ("ETH", 25.0), ("SOL", 20.0), ("XRP", 20.0)),
    ),
}
_SYMBOL_FOLDER: Final = re.compile(r"([A-Z0-9]{1,20}?)(?:[-_]?(USDT|USDC|USD))?(?:[-_](?:SWAP|PERP))?")


@dataclass(frozen=True, slots=True)
class Description:
    """The content of ``liqheat.json``, as documented above."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    exchange: str
    symbol: str
    contract: ContractType = "linear"
    max_leverage: float | None = None
    taker_fee_rate: float | None = None
    contract_size: float | None = None
    drop_unfinished: bool = False
    readings: tuple[Reading, ...] | None = None

    def market(self) -> Market:
        """Return the market, its tiers by rule."""
        venue, base = VENUES.get(self.exchange, Venue()), self.symbol.split("/", 1)[0]
        leverage = self.max_leverage or dict(venue.max_leverage_of).get(base, venue.max_leverage)
        fee = venue.taker_fee_rate if self.taker_fee_rate is None else self.taker_fee_rate
        return Market(self.exchange, self.symbol, self.contract, brackets_from_max_leverage([(0.0, leverage)]), fee)

    def contract_size_of(self, market: Market) -> float:
        """Return the base coin in one contract."""
        sizes = VENUES.get(self.exchange, Venue()).contract_size_of
        size = self.contract_size or dict(sizes).get(market.base)
        if size is None:
            raise SourceError(
                f"{market.id}: volume is in contracts of unknown size; give contract_size in {DESCRIPTION_FILE}"
            )
        return size


def describe(folder: Path) -> Description | None:
    """Read the description in a folder, or derive one from the names EXCHANGE/SYMBOL."""
    file = folder / DESCRIPTION_FILE
    if file.exists():
        try:
            return TypeAdapter(Description).validate_json(file.read_bytes())
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors())
            raise SourceError(f"{file}: {wrong}") from error
    venue, named = VENUES.get(folder.parent.name), _SYMBOL_FOLDER.fullmatch(folder.name)
    if venue is None or named is None:
        return None
    base, quote = named[1], named[2] or venue.settle
    inverse = quote == "USD"
    symbol = f"{base}/{quote}:{base if inverse else quote}"
    return Description(folder.parent.name, symbol, "inverse" if inverse else "linear", readings=READINGS)
