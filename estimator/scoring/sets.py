"""Readers of the shared sets; what each column means, and its traps, is in the README of the sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import DAY_MS, HOUR_MS, TIME, Float64Array, Int64Array, Market
from estimator.errors import InputError
from estimator.evaluation.density import MarketPast
from estimator.evaluation.events import Path, Prints
from estimator.evaluation.positions import Snapshot
from estimator.evaluation.totals import Totals
from estimator.exchanges.frames import as_candles, as_observations, read_frame
from estimator.exchanges.readings import VENUES
from estimator.model.margin import brackets_from_max_leverage
from estimator.model.steps import build_steps

COINS: Final = ("BTC", "ETH", "SOL", "DOGE", "HYPE")
DAILY: Final = ("BTC", "SOL", "XRP", "ADA", "BNB")  # coins with daily totals
PRINTED: Final = ("BTC", "SOL", "DOGE")  # coins with prints
TURNOVER: Final = 1.4  # volume of a day over open interest, where a venue's own candles are missing
BURN_IN_MS: Final = 150 * DAY_MS

# OKX gives the bankruptcy price of a position. Its mark at the trigger is that over 1 -+ (maintenance + taker fee),
# the venue's first tier; 96 to 98 % of prints then lie inside their hour's candle, against 56 to 73 % as printed.
OKX_MARGIN: Final = {"BTC": 0.0045, "SOL": 0.007, "DOGE": 0.007}
OKX_SIGN: Final = {"sell": 1, "buy": -1}
BINANCE_SIGN: Final = {"SELL": 1, "BUY": -1}


def market_of(exchange: str, coin: str) -> Market:
    """Return a perpetual with tiers by rule."""
    venue = VENUES[exchange]
    leverage = dict(venue.max_leverage_of).get(coin, venue.max_leverage)
    symbol = f"{coin}/{venue.settle}:{venue.settle}"
    return Market(exchange, symbol, "linear", brackets_from_max_leverage([(0.0, leverage)]), venue.taker_fee_rate)


def read_table(folder: File, exchange: str, coin: str, kind: str, *, prefix: str = "finm33150") -> pl.DataFrame:
    """Read the one file of a kind.

    Raises
    ------
    InputError
        If it is not there.
    """
    place = folder / prefix / exchange / coin / kind
    files = sorted(place.glob("*.csv*"))
    if not files:
        raise InputError(kind, f"no file in {place}")
    return read_frame(files[0])


def read_candles(folder: File, exchange: str, coin: str) -> pl.DataFrame:
    """Read hourly candles, volume in base coins (in contracts at OKX)."""
    return as_candles(read_table(folder, exchange, coin, "candles_1h"))


def read_past(folder: File, exchange: str, coin: str) -> MarketPast:
    """Read the past of a market whose own open interest is not in the sets: that of Hyperliquid stands for it.

    Candles are the venue's own, for Hyperliquid Bybit's; volume is brought to 1.4 times the open interest a day.
    """
    candles = read_candles(folder, "bybit" if exchange == "hyperliquid" else exchange, coin)
    interest = _hyperliquid_interest(folder, coin)
    early = pl.col("time") < candles["time"][0] + pl.duration(milliseconds=BURN_IN_MS)
    volume_a_day = 24 * candles.filter(early)["volume"].to_numpy().mean()
    factor = TURNOVER * interest.filter(early)["open_interest"].to_numpy().mean() / volume_a_day
    funding = as_observations(read_table(folder, exchange, coin, "funding"), "funding_rate", "funding")
    return _past(exchange, coin, candles.with_columns(pl.col("volume") * factor), interest, funding)


def read_aggregate_past(folder: File, exchange: str) -> MarketPast:
    """Read BTC with the open interest and the volume of Binance, Bybit and OKX together, at the prices of one of them.

    A row of open interest stamped h is that of the end of its hour: its hourly changes hardly follow returns (.06).
    """
    frame = _regime(folder)
    price = pl.col("price_close").cast(pl.Float64)
    interest = frame.select(_known_in_an_hour(), (pl.col("oi_close").cast(pl.Float64) / price).alias("open_interest"))
    candles = read_candles(folder, exchange, "BTC").drop("volume")
    for venue in ("binance", "bybit", "okx"):
        size = dict(VENUES[venue].contract_size_of).get("BTC", 1.0)
        volume = read_candles(folder, venue, "BTC").select("time", (pl.col("volume") * size).alias(venue))
        candles = candles.join(volume, on="time")
    candles = candles.with_columns(pl.sum_horizontal("binance", "bybit", "okx").alias("volume"))
    funding = frame.select(_known_in_an_hour(), pl.col("funding_close").cast(pl.Float64) / 100)
    return _past(exchange, "BTC", candles, interest, funding)


def _past(exchange: str, coin: str, candles: pl.DataFrame, interest: pl.DataFrame, funding: pl.DataFrame) -> MarketPast:
    market = market_of(exchange, coin)
    steps, _ = build_steps(market, candles, interest, step_ms=HOUR_MS)
    return MarketPast(market, steps, {"funding_rate": known_at(steps.close_ms, funding)})


def _hyperliquid_interest(folder: File, coin: str) -> pl.DataFrame:
    """Open interest in coins.

    A row stamped h is a mean over the hour: it is known at h + 1 h, and what makes coins of its USD is the price of
    the middle of the hour. Hourly changes then correlate least with returns on either side (HYPE .01 and .07, against
    -.50 and .57 with the price at the stamp).
    """
    usd = as_observations(read_table(folder, "hyperliquid", coin, "open_interest_1h"), "open_interest_usd", "oi")
    middle = (pl.col("open") + pl.col("close")) / 2
    return usd.join(read_candles(folder, "bybit", coin).select("time", middle.alias("middle")), on="time").select(
        (pl.col("time") + pl.duration(milliseconds=HOUR_MS)).cast(TIME),
        (pl.col("open_interest_usd") / pl.col("middle")).alias("open_interest"),
    )


def _regime(folder: File) -> pl.DataFrame:
    return read_table(folder, "aggregate", "BTC", "regime_1h", prefix="coinglass-btc").sort("timestamp")


def _known_in_an_hour() -> pl.Expr:
    return pl.from_epoch(pl.col("timestamp") + HOUR_MS, "ms").dt.replace_time_zone("UTC").cast(TIME).alias("time")


def known_at(close_ms: Int64Array, series: pl.DataFrame) -> Float64Array:
    """Last value whose time is not later than each close; NaN before the first."""
    at = np.searchsorted(series["time"].to_physical().to_numpy(), close_ms, side="right") - 1
    return np.where(at >= 0, series[series.columns[1]].to_numpy()[np.maximum(at, 0)], np.nan)


def read_snapshots(folder: File) -> dict[str, list[Snapshot]]:
    """Read the positions of large and of successful Hyperliquid accounts, by coin."""
    found: dict[str, list[Snapshot]] = {coin: [] for coin in COINS}
    for file in sorted((folder / "hyperliquid-whales" / "hyperliquid" / "ALL" / "positions").glob("*.json.gz")):
        document = json.loads(gzip.decompress(file.read_bytes()))
        time_ms = _parse_ms(document["lastUpdated"])
        rows = {(trader, p["coin"]): p for trader, p in _positions(document["whaleTracker"])}
        for coin, snapshots in found.items():
            mine = [(trader, p) for (trader, name), p in rows.items() if name == coin]
            if mine:
                snapshots.append(_snapshot(time_ms, mine))
    return found


def _positions(tracked: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("daily", "weekly"):
        for account in tracked[name]:
            yield from ((account["address"], position) for position in account["positions"])
    yield from ((position["traderAddress"], position) for position in tracked["biggestPositions"])


def _parse_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def _snapshot(time_ms: int, positions: list[tuple[str, dict[str, Any]]]) -> Snapshot:
    usd = np.array([float(p["positionValue"]) for _, p in positions])
    size = np.array([abs(float(p["size"])) for _, p in positions])
    liquidated_at = [p["liquidationPx"] for _, p in positions]
    return Snapshot(
        time_ms,
        trader=np.array([int(address[2:14], 16) for address, _ in positions]),
        is_long=np.array([p["direction"] == "Long" for _, p in positions]),
        mark=usd / size,
        liquidation_price=np.array([float("nan") if price is None else float(price) for price in liquidated_at]),
        notional_usd=usd,
    )


def read_path(folder: File, exchange: str, coin: str) -> Path:
    """Read where the price of a venue went, hour by hour."""
    candles = read_candles(folder, exchange, coin)
    start_ms = candles["time"].to_physical().to_numpy()
    low, high, close = (candles[c].to_numpy() for c in ("low", "high", "close"))
    return Path(start_ms, low, high, close)


def read_okx_prints(folder: File, coin: str, *, at_trigger: bool) -> Prints:
    """Read OKX's prints at the bankruptcy price as printed, or at the mark price that triggered them."""
    frame = read_table(folder, "okx", coin, "liquidations")
    sign = np.array([OKX_SIGN[s] for s in frame["side"]])
    multiplier = dict(VENUES["okx"].contract_size_of)[coin]
    price = frame["price"].to_numpy() / (1.0 - sign * OKX_MARGIN[coin] * at_trigger)
    return _prints(frame, sign, price, frame["size_usd"].to_numpy() * multiplier)


def read_hyperliquid_prints(folder: File, coin: str) -> Prints:
    """Read Hyperliquid's prints, which carry no side."""
    frame = read_table(folder, "hyperliquid", coin, "liquidations")
    return _prints(
        frame, np.zeros(frame.height, dtype=np.int64), frame["price"].to_numpy(), frame["size_usd"].to_numpy()
    )


def _prints(frame: pl.DataFrame, sign: Int64Array, price: Float64Array, usd: Float64Array) -> Prints:
    time_ms = pl.Series(frame["timestamp"]).str.to_datetime(time_unit="ms", time_zone="UTC").to_physical().to_numpy()
    order = np.argsort(time_ms, kind="stable")
    return Prints(time_ms[order], sign[order], price[order], usd[order])


def read_binance_prints(folder: File, coin: str) -> Prints:
    """Read a capture of Binance's stream at the average fill; it sends at most one order per symbol and second.

    Of the captures only this one, of December 2025, is longer than an hour.
    """
    place = folder / "binance-forceorder-captures" / "binance" / "ALL" / "force_orders"
    frame = read_frame(place / "2025-12-27_to_28_riftfern.csv").unique(maintain_order=True)
    frame = frame.filter(pl.col("symbol_without_quote").is_in([coin, f"{coin}USDT"])).sort("trade_time_ms")
    sign = np.array([BINANCE_SIGN[s] for s in frame["side"]], dtype=np.int64)
    price, usd = (frame[c].cast(pl.Float64).to_numpy() for c in ("average_price", "usd_size"))
    return Prints(frame["trade_time_ms"].to_numpy(), sign, price, usd)


def read_totals(folder: File) -> Totals:
    """Read hourly liquidations of BTC over Binance, Bybit and OKX, with Binance's candle."""
    candles = read_candles(folder, "binance", "BTC").select(start=pl.col("time").dt.epoch("ms"), low="low", high="high")
    frame = _regime(folder).join(candles, left_on="timestamp", right_on="start").sort("timestamp")
    columns = ("low", "high", "liquidation_long_usd", "liquidation_short_usd")
    low, high, long_usd, short_usd = (frame[c].cast(pl.Float64).to_numpy() for c in columns)
    return Totals(frame["timestamp"].to_numpy(), low, high, long_usd, short_usd)


def read_daily_past(folder: File, coin: str) -> MarketPast:
    """Read five years of daily candles, open interest and taker volume over all venues, with ratios and funding.

    What a row says is known at the end of its day. Zeros and missing values before a series starts are left out.
    """
    day = pl.col("time") + pl.duration(days=1)
    candles = as_candles(_daily(folder, coin, "futures_ohlcv_1d"))
    taker = _daily(folder, coin, "taker_vol_agg_futures_1d").select("time", usd=pl.sum_horizontal(_TAKER))
    candles = candles.join(taker, on="time").with_columns((pl.col("usd") / pl.col("close")).alias("volume"))
    interest = (
        candles.join(_daily(folder, coin, "futures_oi_agg_1d"), on="time")
        .filter(pl.col("oi_total_close") > 0)
        .select(day.cast(TIME).alias("time"), (pl.col("oi_total_close") / pl.col("close")).alias("open_interest"))
    )
    market = market_of("binance", coin)
    steps, _ = build_steps(market, candles, interest, step_ms=DAY_MS)
    more = {
        "long_short_ratio": ("long_short_all_1d", pl.col("lsr_global")),
        "top_account_ratio": ("long_short_all_1d", pl.col("lsr_top_accounts")),
        "top_position_ratio": ("long_short_all_1d", pl.col("lsr_top_positions")),
        "funding_rate": ("funding_oi_weight_1d", pl.col("funding_close") / 100),
        "taker_buy_share": ("taker_vol_agg_futures_1d", pl.col("taker_buy_usd") / pl.sum_horizontal(_TAKER)),
    }
    known = {
        name: known_at(
            steps.close_ms, _daily(folder, coin, kind).select(day.cast(TIME), value.alias(name)).drop_nulls()
        )
        for name, (kind, value) in more.items()
    }
    return MarketPast(market, steps, known)


_TAKER: Final = ("taker_buy_usd", "taker_sell_usd")


def _daily(folder: File, coin: str, kind: str) -> pl.DataFrame:
    frame = read_table(folder, "aggregate", coin, kind, prefix="coinglass-daily")
    time = frame["ts_utc"].str.slice(0, 10).str.to_datetime("%Y-%m-%d", time_unit="ms", time_zone="UTC")
    return frame.with_columns(time.cast(TIME).alias("time")).drop("ts_utc")


def read_daily_totals(folder: File, coin: str) -> Totals:
    """Read daily liquidations by side over all venues; the series start late in 2020, before that are zeros."""
    prices = as_candles(_daily(folder, coin, "futures_ohlcv_1d")).select("time", "low", "high")
    frame = _daily(folder, coin, "liquidation_agg_1d").join(prices, on="time").sort("time")
    frame = frame.filter(pl.col("liq_long_usd") > 0)
    columns = ("low", "high", "liq_long_usd", "liq_short_usd")
    low, high, long_usd, short_usd = (frame[c].cast(pl.Float64).to_numpy() for c in columns)
    return Totals(frame["time"].to_physical().to_numpy(), low, high, long_usd, short_usd)
