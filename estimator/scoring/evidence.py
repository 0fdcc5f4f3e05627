"""What was published of a market and what happened to it afterwards: out of history, or the cache where there is none.

Nothing is computed anew here. Columns are those that were shown, prints are those that came, candles those observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from estimator.cache import Cache, MarketStatus
from estimator.domain import (
    BANKRUPTCY_PRINTS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    TIME,
    ContractType,
    Int64Array,
    LeverageBracket,
    Market,
    Origin,
    Side,
)
from estimator.evaluation.events import Prints
from estimator.exchanges.base import Connection
from estimator.history import History
from estimator.history.columns import columns_grid
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.observed import Heard

PAST_MS: Final = 30 * DAY_MS  # what baselines see of the past, where there is so much
STEP_MS: Final = 30 * MINUTE_MS
LEVEL: Final = next(i for i, spec in enumerate(LEVELS) if spec.interval_ms == STEP_MS)
_MOST_PRINTS: Final = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """A market as it was seen.

    Parameters
    ----------
    market : Market
    candles : pl.DataFrame
        Closed candles of `STEP_MS`, or of an hour where the source has no finer ones.
    open_interest : pl.DataFrame
    prints : Prints
        At the price that triggered them, as well as that is known.
    heard : Heard or None
        When prints were heard; None where the source has all there are.
    grid : LiquidationGrid or None
        Columns as they were shown, closed at full hours.
    published_ms : Int64Array, shape (n_time,)
        When each was first shown; where the source is not live, when it closed. [ms]
    versions : tuple of str, length n_time
        Of the parameters each was made with.
    """

    market: Market
    candles: pl.DataFrame
    open_interest: pl.DataFrame
    prints: Prints
    heard: Heard | None
    grid: LiquidationGrid | None
    published_ms: Int64Array
    versions: tuple[str, ...]

    @property
    def close_ms(self) -> Int64Array:
        """Closes of the columns, shape (n_time,). [ms]"""
        return np.zeros(0, dtype=np.int64) if self.grid is None else _milliseconds(self.grid)


def market_of(status: MarketStatus) -> Market:
    """Make the market of a status, with the tier that its levels use."""
    rate, fee = status.maintenance_margin_rate, status.maintenance_fee_rate or 0.0
    tier = LeverageBracket(0.0, status.max_leverage, 0.5 / status.max_leverage if rate is None else rate)
    contract: ContractType = "inverse" if status.contract == "inverse" else "linear"
    return Market(status.exchange, status.symbol, contract, (tier,), fee)


def from_history(
    history: History, status: MarketStatus, first_ms: int, last_ms: int, *, past_ms: int = PAST_MS
) -> Evidence:
    """Read columns closed in ``first_ms <= close <= last_ms`` that say when they were shown, and all around them.

    Raises
    ------
    HistoryUnavailable, CorruptHistory
    """
    market_id, market = status.id, market_of(status)
    columns = history.read("columns", market_id, first_ms, last_ms + 1, level=LEVEL)
    columns = columns.filter(pl.col("time").dt.epoch("ms") % HOUR_MS == 0, pl.col("published").is_not_null())
    heard = Heard("liquidations")
    for time_ms, what, connected in (
        history.read("connections", market_id, 0, last_ms + DAY_MS)
        .select(pl.col("time").dt.epoch("ms"), "what", "connected")
        .iter_rows()
    ):
        heard.note(Connection(time_ms, what, connected))
    until_ms = last_ms + DAY_MS
    return Evidence(
        market=market,
        candles=merge_candles(history.read("candles", market_id, first_ms - past_ms, until_ms)),
        open_interest=history.read("open_interest", market_id, first_ms - past_ms, until_ms),
        prints=triggers(history.read("liquidations", market_id, first_ms, until_ms), market, status.origin),
        heard=heard if heard.told else None,
        grid=columns_grid(columns),
        published_ms=columns["published"].dt.epoch("ms").to_numpy(),
        versions=tuple(columns["parameters_version"]),
    )


def from_cache(cache: Cache, status: MarketStatus, first_ms: int, last_ms: int, *, every_h: int = 1) -> Evidence | None:
    """Read the same of a market that has no history; None where nothing of it is shown.

    Its columns were computed at the start of the worker, each from what came before it, or shown since.

    Parameters
    ----------
    every_h : int
        Only columns closed at multiples of so many hours. [h]
    """
    rows = cache.get_series(status.id, LEVEL, 0, last_ms + DAY_MS)
    grid = cache.get_columns(status.id, LEVEL, first_ms - 1, last_ms)
    if rows is None or grid is None or status.interval_ms > HOUR_MS:
        return None
    interval_ms = max(STEP_MS, status.interval_ms)
    times_ms = _milliseconds(grid)
    whole = times_ms % (every_h * HOUR_MS) == 0
    market = market_of(status)
    interest = rows.select(
        (pl.col("time") + pl.duration(milliseconds=interval_ms)).cast(TIME), "open_interest"
    ).drop_nulls()
    prints = cache.get_liquidations(status.id, first_ms, last_ms + DAY_MS, _MOST_PRINTS)
    return Evidence(
        market=market,
        candles=rows.select("time", "open", "high", "low", "close", "volume").drop_nulls(),
        open_interest=interest,
        prints=triggers(prints, market, status.origin),
        heard=None,
        grid=grid.pick(whole) if whole.any() else None,
        published_ms=times_ms[whole],
        versions=(status.parameters_version,) * int(whole.sum()),
    )


def merge_candles(candles: pl.DataFrame, step_ms: int = STEP_MS) -> pl.DataFrame:
    """Merge fine candles to those of a step, by when they start; the last one may be incomplete."""
    return (
        candles.group_by(pl.col("time").dt.truncate(f"{step_ms}ms"), maintain_order=True)
        .agg(pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close"), pl.sum("volume"))
        .sort("time")
    )


def triggers(prints: pl.DataFrame, market: Market, origin: Origin) -> Prints:
    """Turn prints into what triggered them: OKX and Bybit print the bankruptcy price.

    With maintenance rate *m*, fee *f* and a side of +1 for longs a linear position bankrupt at *b* is liquidated at
    ``b / (1 - side * (m + f))``, an inverse one at ``b * (1 + side * (m + f))``: where equity is what maintenance of
    the first tier asks for. What a simulated market prints is what it filled.
    """
    rows = prints.sort("time", maintain_order=True)
    sign = np.where(rows["side"] == Side.LONG.value, 1, -1).astype(np.int64)
    price = rows["price"].to_numpy()
    if origin is not Origin.SIMULATED and market.exchange in BANKRUPTCY_PRINTS:
        margin = sign * (market.brackets[0].maintenance_margin_rate + market.maintenance_fee_rate)
        price = price * (1.0 + margin) if market.contract == "inverse" else price / (1.0 - margin)
    return Prints(rows["time"].dt.epoch("ms").to_numpy(), sign, price, rows["notional_usd"].to_numpy())


def _milliseconds(grid: LiquidationGrid) -> Int64Array:
    return grid.time.astype("datetime64[ms]").astype(np.int64)
