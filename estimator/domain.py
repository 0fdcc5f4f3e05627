"""Value types, enumerations and frame schemas shared by every room.

Long and short always mean the *position*, never the side of a trade. Times are UTC; a bare integer time is
milliseconds since the epoch. Rates are fractions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from estimator.errors import ParameterError

TIME: Final = pl.Datetime("ms", "UTC")

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
TimeArray = NDArray[np.datetime64]

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

# Frame schemas. The order of the columns is free; extra columns are ignored.
CANDLES: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # start of the interval
    "open": pl.Float64(),
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "volume": pl.Float64(),  # base coin, counted once
}
# Optional columns of candles: taker-buy volume (base coin) and the extremes of the mark price.
CANDLES_OPTIONAL: Final[dict[str, pl.DataType]] = {
    "taker_buy_volume": pl.Float64(),
    "mark_high": pl.Float64(),
    "mark_low": pl.Float64(),
}
OPEN_INTEREST: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # when the value became known
    "open_interest": pl.Float64(),  # base coin
}
LONG_SHORT_RATIO: Final[dict[str, pl.DataType]] = {
    "time": TIME,
    "long_short_ratio": pl.Float64(),  # accounts long / accounts short
}
FUNDING_RATE: Final[dict[str, pl.DataType]] = {
    "time": TIME,
    "funding_rate": pl.Float64(),  # fraction per interval
}
LIQUIDATIONS: Final[dict[str, pl.DataType]] = {
    "time": TIME,
    "side": pl.String(),  # the position that was closed: "long" or "short"
    "price": pl.Float64(),
    "quantity_base": pl.Float64(),
    "notional_usd": pl.Float64(),
}


class Side(StrEnum):
    """Side of a position."""

    LONG = "long"
    SHORT = "short"

    @property
    def sign(self) -> int:
        """+1 for long, -1 for short."""
        return 1 if self is Side.LONG else -1


class Origin(StrEnum):
    """Where data comes from. Simulated data is never shown as anything else."""

    LIVE = "live"
    RECORDED = "recorded"
    SIMULATED = "simulated"


class Basis(StrEnum):
    """How a number was obtained."""

    MEASURED = "measured"
    ESTIMATED = "estimated"


ContractType = Literal["linear", "inverse"]

# Venues that count the fee to close in maintenance margin (method.md, section 1).
FEE_IN_MAINTENANCE: Final = frozenset({"okx", "gate", "bitget"})
# Venues whose prints tell the bankruptcy price, beyond the trigger; held against what they declare.
BANKRUPTCY_PRINTS: Final = frozenset({"bybit", "okx"})

_SYMBOL = re.compile(r"[A-Za-z0-9]{1,20}/[A-Za-z0-9]{1,10}:[A-Za-z0-9]{1,20}")
_EXCHANGE = re.compile(r"[a-z0-9_]{1,24}")


@dataclass(frozen=True, slots=True)
class LeverageBracket:
    """One maintenance tier of a venue.

    Parameters
    ----------
    notional_floor : float
        Position notional at which the tier starts. [quote for linear, coin for inverse]
    max_leverage : float
        Highest leverage allowed in the tier.
    maintenance_margin_rate : float
        Fraction of notional that must remain as margin.
    maintenance_amount : float
        Amount subtracted so that maintenance margin is continuous across tiers ("cum"). [as notional_floor]
    """

    notional_floor: float
    max_leverage: float
    maintenance_margin_rate: float
    maintenance_amount: float = 0.0

    def __post_init__(self) -> None:
        if not self.notional_floor >= 0:
            raise ParameterError("notional_floor", self.notional_floor, "a number >= 0")
        if not self.max_leverage >= 1:
            raise ParameterError("max_leverage", self.max_leverage, "a number >= 1")
        if not 0 <= self.maintenance_margin_rate < 1:
            raise ParameterError("maintenance_margin_rate", self.maintenance_margin_rate, "a fraction in [0, 1)")
        if not self.maintenance_amount >= 0:
            raise ParameterError("maintenance_amount", self.maintenance_amount, "a number >= 0")


@dataclass(frozen=True, slots=True)
class Market:
    """A perpetual future on one venue.

    Parameters
    ----------
    exchange : str
        Venue in lower case, e.g. ``"binance"``.
    symbol : str
        Unified symbol, e.g. ``"BTC/USDT:USDT"``.
    contract : {"linear", "inverse"}
    brackets : sequence of LeverageBracket
        Maintenance tiers, by rising ``notional_floor``, the first at 0.
    taker_fee_rate : float
        Fee to close, a fraction of notional; part of maintenance only on venues in ``FEE_IN_MAINTENANCE``.

    Raises
    ------
    ParameterError
        Naming the field and the value.
    """

    exchange: str
    symbol: str
    contract: ContractType
    brackets: tuple[LeverageBracket, ...] = field(repr=False)
    taker_fee_rate: float = 0.0

    def __post_init__(self) -> None:
        if not _EXCHANGE.fullmatch(self.exchange):
            raise ParameterError("exchange", self.exchange, "a venue in lower case such as 'binance'")
        if not _SYMBOL.fullmatch(self.symbol):
            raise ParameterError("symbol", self.symbol, "a unified perpetual symbol such as 'BTC/USDT:USDT'")
        if self.contract not in ("linear", "inverse"):
            raise ParameterError("contract", self.contract, "'linear' or 'inverse'")
        brackets = tuple(self.brackets)
        object.__setattr__(self, "brackets", brackets)
        if not brackets:
            raise ParameterError("brackets", brackets, "at least one LeverageBracket")
        floors = [b.notional_floor for b in brackets]
        if floors[0] != 0 or any(a >= b for a, b in pairwise(floors)):
            raise ParameterError("brackets", floors, "notional floors that rise from 0")
        if not 0 <= self.taker_fee_rate < 0.1:
            raise ParameterError("taker_fee_rate", self.taker_fee_rate, "a fraction in [0, 0.1)")

    @property
    def id(self) -> str:
        """``exchange:symbol``, the key of the market everywhere."""
        return f"{self.exchange}:{self.symbol}"

    @property
    def base(self) -> str:
        """Base coin, e.g. ``"BTC"``."""
        return self.symbol.split("/", 1)[0]

    @property
    def max_leverage(self) -> float:
        """Highest leverage of any tier."""
        return max(b.max_leverage for b in self.brackets)

    @property
    def maintenance_fee_rate(self) -> float:
        """Fee counted in maintenance margin by this venue (0 where it is not)."""
        return self.taker_fee_rate if self.exchange in FEE_IN_MAINTENANCE else 0.0


@dataclass(frozen=True, slots=True)
class Position:
    """A position of a cross-margin account; names and units as in `liquidation_price`."""

    symbol: str
    side: Side | Literal["long", "short"]
    entry_price: float
    quantity: float
    mark_price: float
    maintenance_margin_rate: float
    maintenance_amount: float = 0.0
    taker_fee_rate: float = 0.0
    contract: ContractType = "linear"


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without data, shown as such and never filled in silently. Times in ms, end exclusive."""

    start_ms: int
    end_ms: int
    what: str  # the series: "candles", "open_interest", ...


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle of a market. Time is the start of the interval; volume in base coin.

    Without extremes of the mark price those of the traded price stand for them.
    """

    time_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    taker_buy_volume: float | None = None
    mark_high: float | None = None
    mark_low: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A value and the time at which it became known."""

    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Liquidation:
    """A forced liquidation as printed by a venue (measured, or simulated where the market is)."""

    time_ms: int
    side: Side
    price: float
    quantity_base: float
    notional_usd: float
