"""What a venue still has of the past of a market, as rows for history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

import polars as pl

from estimator.domain import MINUTE_MS, TIME, Market
from estimator.errors import SourceError
from estimator.exchanges.venue import Exchange
from estimator.history import TABLES, TableName

_LOG: Final = logging.getLogger(__name__)
_FIVE_MINUTES_MS: Final = 5 * MINUTE_MS
_FEW_ROWS: Final = 400  # of candles of the mark price in a page would cost more requests than all the rest
_UNNOTICED_MS: Final = 3_000  # a venue's clock may be behind by so much, or its last trades late
_NEEDED: Final = ("candles", "open_interest")

Frames = dict[TableName, pl.DataFrame]


async def fetch_past(
    venue: Exchange, market: Market, since_ms: int, known_ms: int, until_ms: int, *, now_ms: int, marks: bool
) -> Frames:
    """Fetch candles from `since_ms`, with `marks` if wanted, and what was known from `known_ms` on.

    Of candles those that have closed by `until_ms`, and of the rest what was known then: at that very moment, too.

    Raises
    ------
    SourceError
        Without candles or open interest; it can do without the rest.
    """
    requests: dict[TableName, Awaitable[pl.DataFrame]] = {
        "candles": _candles(venue, market, since_ms, until_ms, now_ms, marks=marks),
        "open_interest": _interest(venue, market, known_ms, until_ms + 1, now_ms),
        "long_short_ratio": venue.fetch_long_short_ratio(market, known_ms, until_ms + 1),
        "funding": venue.fetch_funding_rate(market, known_ms, until_ms + 1),
    }
    if venue.capabilities.past_liquidations_ms is not None:
        requests["liquidations"] = venue.fetch_liquidations(market, since_ms, until_ms)
    answers = await asyncio.gather(*requests.values(), return_exceptions=True)
    frames: Frames = {}
    for table, answer in zip(requests, answers, strict=True):
        if not isinstance(answer, BaseException):
            frames[table] = answer
        elif table in _NEEDED or not isinstance(answer, SourceError):
            raise answer
        else:
            _LOG.warning("%s goes without %s: %s", market.id, table, answer)
    return frames


async def _candles(
    venue: Exchange, market: Market, since_ms: int, until_ms: int, now_ms: int, *, marks: bool
) -> pl.DataFrame:
    """Fetch candles, with the extremes of the mark price where that takes few requests.

    None that is still open when it is asked for: an answer may hold a part of it, and come after its end.
    """
    until_ms = min(until_ms, now_ms - _UNNOTICED_MS) // MINUTE_MS * MINUTE_MS
    depth = venue.capabilities.mark_candles
    if depth is None or depth.rows < _FEW_ROWS or not marks:
        return await venue.fetch_candles(market, since_ms, until_ms)
    candles, extremes = await asyncio.gather(
        venue.fetch_candles(market, since_ms, until_ms), _marks(venue, market, since_ms, until_ms)
    )
    return candles if extremes is None else candles.join(extremes, on="time", how="left", maintain_order="left")


async def _marks(venue: Exchange, market: Market, since_ms: int, until_ms: int) -> pl.DataFrame | None:
    try:
        return await venue.fetch_mark_candles(market, since_ms, until_ms)
    except SourceError as error:
        _LOG.warning("%s goes without the mark price: %s", market.id, error)
        return None


async def _interest(venue: Exchange, market: Market, since_ms: int, until_ms: int, now_ms: int) -> pl.DataFrame:
    """Fetch its past; where the venue keeps none, what it is now: the book then starts there."""
    if venue.capabilities.open_interest_history is not None:
        return await venue.fetch_open_interest(market, since_ms, until_ms)
    rows = []
    if until_ms >= now_ms - _FIVE_MINUTES_MS:
        seen = await venue.fetch_open_interest_now(market)
        rows = [{"time": max(seen.time_ms, since_ms), "open_interest": seen.value}]
    plain = {**TABLES["open_interest"].required, "time": pl.Int64()}
    return pl.DataFrame(rows, schema=plain).with_columns(pl.col("time").cast(TIME))


def usable(candles: pl.DataFrame) -> pl.DataFrame:
    """Leave out what is not known of every candle; the traded extremes stand for those of the mark price."""
    filled = candles.with_columns(
        pl.col(mark).fill_null(pl.col(traded))
        for mark, traded in (("mark_high", "high"), ("mark_low", "low"))
        if candles[mark].null_count() < candles.height
    )
    return filled.select(c for c in filled.columns if filled[c].null_count() == 0)
