"""What a source of market data looks like to the pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import polars as pl

from estimator.domain import (
    CANDLES,
    FUNDING_RATE,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    OPEN_INTEREST,
    Candle,
    Gap,
    Liquidation,
    Market,
    Observation,
    Origin,
)

Progress = Callable[[float, str], None]
"""Called with the share done (0..1) and what is being done."""


def _empty(schema: dict[str, pl.DataType]) -> Callable[[], pl.DataFrame]:
    return lambda: pl.DataFrame(schema=schema)


@dataclass(frozen=True, slots=True)
class Connection:
    """From a time on a stream of a venue was heard, or not any more; `what` it carries, e.g. ``"liquidations"``."""

    time_ms: int
    what: str
    connected: bool


@dataclass(frozen=True, slots=True)
class MarketHistory:
    """Everything a source knows of a market up to now, closed candles only; frames as in `estimator.domain`.

    `progress` is the share (0..1) of the past that is there; less than 1 where older parts are still being fetched.
    `funding_interval_ms` is what the funding rate is a fraction per, None where the source does not say.
    `connections` say when its streams were heard, in order of time; without any, all there was is in the frames.
    """

    market: Market
    interval_ms: int
    candles: pl.DataFrame = field(default_factory=_empty(CANDLES))
    open_interest: pl.DataFrame = field(default_factory=_empty(OPEN_INTEREST))
    long_short_ratio: pl.DataFrame = field(default_factory=_empty(LONG_SHORT_RATIO))
    funding_rate: pl.DataFrame = field(default_factory=_empty(FUNDING_RATE))
    liquidations: pl.DataFrame = field(default_factory=_empty(LIQUIDATIONS))
    gaps: tuple[Gap, ...] = ()
    progress: float = 1.0
    funding_interval_ms: int | None = None
    connections: tuple[Connection, ...] = ()


@dataclass(frozen=True, slots=True)
class MarketUpdate:
    """What is new in one market since the last update.

    `candle` is the latest candle of the source's interval, closed or still open; a closed candle is sent exactly
    once as closed, in order. `mark_price` is the price now. `funding_rate` is the rate last settled, as in the history,
    not the one in force.
    """

    market: Market
    time_ms: int
    mark_price: float
    candle: Candle
    candle_closed: bool
    open_interest: Observation | None = None
    long_short_ratio: Observation | None = None
    funding_rate: Observation | None = None
    liquidations: tuple[Liquidation, ...] = ()
    connection: Connection | None = None


class Source(Protocol):
    """A source of market data. `markets` and `history` may be slow and are called in a thread."""

    origin: Origin
    description: str

    def markets(self) -> Sequence[Market]:
        """Return the markets on offer, most important first."""
        ...

    def history(self, market: Market, progress: Progress) -> MarketHistory:
        """Return the past of `market`."""
        ...

    def watch(self) -> AsyncIterator[MarketUpdate]:
        """Yield updates of every market for ever (a recording without replay ends at once)."""
        ...


@runtime_checkable
class GrowingSource(Source, Protocol):
    """A source whose past is fetched backwards, and whose markets may come later."""

    def recall(self, market: Market) -> MarketHistory:
        """Return the past of a market that is followed as far as it is known, without asking its venue."""
        ...

    def deepen(self, market: Market, progress: Progress) -> None:
        """Fetch the rest of the past, which `history` then returns; slow, called in a thread."""
        ...

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what its venues declare, by name, JSON-ready."""
        ...

    def forgotten(self) -> None:
        """Write again what was on its way to where it is kept: Redis was emptied."""
        ...
