"""The numbers that signals look at, made from hourly bars: each row from itself and the rows before it."""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from estimator.domain import HOUR_MS, TIME
from estimator.errors import InputError, ParameterError
from estimator.model.indicators import percentile_rank, rsi, z_score
from estimator.model.rules import SignalRules, washout

BARS: Final[dict[str, pl.DataType]] = {
    "time": TIME,  # close of the hour; an hour apart, without holes
    "close": pl.Float64(),
    "open_interest": pl.Float64(),  # base coin
    "funding_rate": pl.Float64(),  # fraction per interval
    "long_short_ratio": pl.Float64(),  # accounts
    "liquidated_usd": pl.Float64(),  # of the hour, both sides
    "near_long_usd": pl.Float64(),  # estimated longs within `SignalRules.near` below the close
    "near_short_usd": pl.Float64(),  # estimated shorts within it above
}
DAY: Final = 24  # bars
_LEAST_RETURNS: Final = 18  # of them, for a volatility


class Feature(NamedTuple):
    """A number made from bars: its unit and the columns of the bars it needs."""

    unit: str
    needs: tuple[str, ...]


_MASS: Final = ("open_interest", "close", "near_long_usd", "near_short_usd")
FEATURES: Final[dict[str, Feature]] = {
    "funding_8h": Feature("fraction per 8 h", ("funding_rate",)),
    "funding_z": Feature("standard deviations", ("funding_rate",)),
    "funding_abs_z": Feature("standard deviations", ("funding_rate",)),
    "near_long": Feature("share of open interest", ("open_interest", "close", "near_long_usd")),
    "near_short": Feature("share of open interest", ("open_interest", "close", "near_short_usd")),
    "long_lean": Feature("times the shorts", ("near_long_usd", "near_short_usd")),
    "short_lean": Feature("times the longs", ("near_long_usd", "near_short_usd")),
    "rsi": Feature("0 to 100", ("close",)),
    "ratio_rank": Feature("percentile, 0 to 1", ("long_short_ratio",)),
    "interest_day": Feature("fraction in 24 h", ("open_interest",)),
    "interest_hour": Feature("fraction in 1 h", ("open_interest",)),
    "interest_z": Feature("standard deviations", ("open_interest",)),
    "volatility_z": Feature("standard deviations", ("close",)),
    "near_long_rank": Feature("percentile, 0 to 1", ("open_interest", "close", "near_long_usd")),
    "near_short_rank": Feature("percentile, 0 to 1", ("open_interest", "close", "near_short_usd")),
    "near_rank": Feature("percentile, 0 to 1", _MASS),
    "near_day": Feature("share of open interest in 24 h", _MASS),
    "liquidated_rank": Feature("percentile, 0 to 1", ("liquidated_usd",)),
    "washout_day": Feature("washouts in 24 h", ("liquidated_usd", "open_interest")),
}


def build_features(bars: pl.DataFrame, *, rules: SignalRules | None = None, funding_hours: float = 8.0) -> pl.DataFrame:
    """Make the numbers the readings look at: the columns of `bars` and those of `FEATURES`.

    Parameters and errors as in `read_signals`; a row uses itself and the rows before it.
    """
    rules = rules or SignalRules()
    bars = _checked(bars)
    if not 0 < funding_hours <= 1000:
        raise ParameterError("funding_hours", funding_hours, "a number of hours > 0")

    def z(name: str) -> pl.Expr:
        return z_score(pl.col(name), rules.window, rules.least)

    def rank(name: str) -> pl.Expr:
        return percentile_rank(pl.col(name), rules.window, rules.least)

    interest, held_usd = pl.col("open_interest"), pl.col("open_interest") * pl.col("close")
    return (
        bars.join(_from_closes(bars, rules), on="time", how="left", maintain_order="left")
        .with_columns(
            funding_8h=pl.col("funding_rate") * (8.0 / funding_hours),
            near_long=_over(pl.col("near_long_usd"), held_usd),
            near_short=_over(pl.col("near_short_usd"), held_usd),
            long_lean=_over(pl.col("near_long_usd"), pl.col("near_short_usd")),
            short_lean=_over(pl.col("near_short_usd"), pl.col("near_long_usd")),
            interest_day=_over(interest, interest.shift(DAY)) - 1,
            interest_hour=_over(interest, interest.shift(1)) - 1,
            interest_z=z("open_interest"),
            volatility_z=z("volatility"),
            ratio_rank=rank("long_short_ratio"),
            liquidated_rank=rank("liquidated_usd"),
        )
        .with_columns(near=pl.col("near_long") + pl.col("near_short"), funding_z=z("funding_8h"))
        .with_columns(
            funding_abs_z=pl.col("funding_z").abs(),
            near_long_rank=rank("near_long"),
            near_short_rank=rank("near_short"),
            near_rank=rank("near"),
            near_day=pl.col("near") - pl.col("near").shift(DAY),
            washed=washout(rules).active(),
        )
        .with_columns(washout_day=_washouts_of_a_day(pl.col("washed")))
    )


def _checked(bars: pl.DataFrame) -> pl.DataFrame:
    for name in BARS:
        if name not in bars.columns:
            raise InputError("bars", "is missing", column=name)
    bars = bars.select(pl.col(n).cast(dtype) for n, dtype in BARS.items()).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )
    apart = bars["time"].dt.epoch("ms").diff().drop_nulls()
    if (apart != HOUR_MS).any():
        raise InputError("bars", "must be an hour apart, without holes; missing ones as rows of nulls", column="time")
    return bars


def _from_closes(bars: pl.DataFrame, rules: SignalRules) -> pl.DataFrame:
    """RSI, which an hour without a close does not move, and realised volatility of the returns that are known."""
    known = bars.drop_nulls("close").select("time", rsi=rsi(pl.col("close"), rules.rsi_period))
    returns = pl.col("close").log().diff()
    volatility = bars.select("time", volatility=returns.rolling_std(DAY, min_samples=_LEAST_RETURNS))
    return volatility.join(known, on="time", how="left", maintain_order="left")


def _washouts_of_a_day(washed: pl.Expr) -> pl.Expr:
    """Count them; null where there is none but bars of the day are not known."""
    known = washed.cast(pl.Float64).rolling_sum(DAY, min_samples=1)
    unknown = washed.is_null().cast(pl.Float64).rolling_sum(DAY, min_samples=1)
    return pl.when((known > 0.5) | (unknown < 0.5)).then(known.round())


def _over(value: pl.Expr, of: pl.Expr) -> pl.Expr:
    return pl.when(of > 0).then(value / of)
