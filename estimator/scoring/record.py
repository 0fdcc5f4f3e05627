"""The track record: rows of many hours put together, with intervals, for all there is and for every coin and venue.

Rows are first summed by market and UTC day. Days are the blocks of the bootstrap, and everything shown is a ratio of
such sums, so that a record of years takes no longer than one of weeks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import polars as pl

from estimator.domain import Float64Array, Side
from estimator.evaluation import metrics
from estimator.evaluation.events import HORIZONS_H
from estimator.scoring.track import BASELINES, DENSITY_EDGES, PUBLISHED

ALL: Final = "all"
ENOUGH_DAYS: Final = 7  # fewer blocks make no interval worth the name
ENOUGH_PRINTS: Final = 100
ENOUGH_TOUCHES: Final = 100
_GROUPS: Final = len(DENSITY_EDGES) + 1
_LEAST_GROUP: Final = 0.01  # share of the cells a group must have to count for the slope
_BY_DENSITY: Final = ("uniform", "predicted", "observed")
_MARKET: Final = ("exchange", "base", "horizon_h", "day")

_VERSION: Final = ("exchange", "base", "horizon_h", "parameters_version", "code_version")

Scope = tuple[str, str]  # venue and coin, each possibly `ALL`
Summary = dict[str, Any]
_Name = TypeVar("_Name", str, tuple[str, str])


class Sums(NamedTuple):
    """Rows of a stretch of whole days, summed: by day and model, by side, clusters reached, and versions in force."""

    days: pl.DataFrame
    sides: pl.DataFrame
    reached: pl.DataFrame
    versions: pl.DataFrame


def add_up(rows: pl.DataFrame, touches: pl.DataFrame) -> Sums:
    """Sum rows of whole UTC days by market and day.

    Parameters
    ----------
    rows, touches : DataFrame
        Of the tables ``track_record`` and ``track_touches``, of any number of markets.
    """
    return Sums(_days(rows), _sides(rows), _reached(touches), _versions(rows))


def summarise_sums(parts: Iterable[Sums]) -> dict[Scope, Summary]:
    """Put the rows of a record together, summed.

    Parameters
    ----------
    parts : iterable of Sums
        In any order, but no day may be in two of them.

    Returns
    -------
    dict
        By venue and coin, and by ``"all"`` for either: ``{"horizons": {"1": ..., "4": ...}}``, JSON-ready; every
        interval is ``[value, low, high]``, null where there is none.
    """
    days, sides, reached, versions = (pl.concat(frames) for frames in zip(*parts, strict=True))
    sums = Sums(
        days.sort(*_MARKET, "model"), sides.sort(*_MARKET, "model"), reached.sort(_MARKET), _merged(versions)
    )  # fmt: skip
    found = {}
    for venue, coin in _scopes(sums):
        here = _within(venue, coin)
        inside = [frame.filter(here) for frame in sums]
        found[venue, coin] = {
            "horizons": {
                str(h): _horizon(*(part.filter(pl.col("horizon_h") == h) for part in inside)) for h in HORIZONS_H
            }
        }
    return found


def _scopes(sums: Sums) -> list[Scope]:
    names = pl.concat([f.select("exchange", "base") for f in (sums.days, sums.reached)]).unique()
    pairs = list(names.iter_rows())
    return sorted({(v, c) for venue, coin in pairs for v in (venue, ALL) for c in (coin, ALL)} | {(ALL, ALL)})


def _within(venue: str, coin: str) -> pl.Expr:
    either = pl.lit(value=True)
    return (either if venue == ALL else pl.col("exchange") == venue) & (
        either if coin == ALL else pl.col("base") == coin
    )


def _base() -> pl.Expr:
    return pl.col("symbol").str.split("/").list.first().alias("base")


def _keyed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(_base(), pl.col("time").dt.date().alias("day"))


def _days(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum by market, day and model."""
    usd = pl.col("observed_usd")
    sums = [
        usd.sum().alias("usd"),
        (pl.col("bits") * usd).sum().alias("bits"),
        (pl.col("capture") * usd).sum().alias("capture"),
        pl.col("sharpness").sum(),
        pl.len().alias("units"),
        pl.col("n_print").sum().alias("prints"),
        pl.col("time").n_unique().alias("closes"),
        *(
            pl.col(f"{n}_usd_by_density").list.get(i).sum().alias(f"{n}_{i}")
            for n in _BY_DENSITY
            for i in range(_GROUPS)
        ),
    ]
    return _keyed(rows).group_by(*_MARKET, "model").agg(sums)


def _sides(rows: pl.DataFrame) -> pl.DataFrame:
    """Count closes with liquidations on both sides: was the heavier side right, and how far off was the ratio."""
    both = _keyed(rows).select(*_MARKET, "symbol", "time", "model", "side", "predicted_usd", "observed_usd")
    keys = [*_MARKET, "symbol", "time", "model"]
    longs, shorts = (both.filter(pl.col("side") == side.value).drop("side") for side in Side)
    pairs = longs.join(shorts, on=keys, suffix="_short").filter(
        pl.min_horizontal("predicted_usd", "predicted_usd_short", "observed_usd", "observed_usd_short") > 0
    )
    ratio = {n: (pl.col(f"{n}_usd") / pl.col(f"{n}_usd_short")).log(2) for n in ("predicted", "observed")}
    right = ((ratio["predicted"] > 0) == (ratio["observed"] > 0)).cast(pl.Float64)
    error = (ratio["predicted"] - ratio["observed"]).abs()
    return pairs.group_by(*_MARKET, "model").agg(
        pl.len().alias("pairs"), right.sum().alias("right"), error.sum().alias("error")
    )


def _reached(touches: pl.DataFrame) -> pl.DataFrame:
    """Sum clusters that might have been touched by market and day."""
    clear = pl.col("mirror_clear")
    return (
        _keyed(touches)
        .group_by(_MARKET)
        .agg(
            pl.len().alias("clusters"),
            pl.col("touched").sum().cast(pl.Float64),
            pl.col("probability").sum(),
            clear.sum().alias("clear"),
            (pl.col("touched") & clear).sum().cast(pl.Float64).alias("clear_touched"),
            (pl.col("mirror_touched") & clear).sum().cast(pl.Float64).alias("clear_mirror"),
        )
    )


def _versions(rows: pl.DataFrame) -> pl.DataFrame:
    published = _keyed(rows).filter(pl.col("model") == PUBLISHED)
    return published.group_by(_VERSION).agg(
        pl.len().alias("units"), pl.min("time").alias("first"), pl.max("time").alias("last")
    )


def _merged(versions: pl.DataFrame) -> pl.DataFrame:
    return versions.group_by(_VERSION).agg(pl.sum("units"), pl.min("first"), pl.max("last"))


def _horizon(days: pl.DataFrame, sides: pl.DataFrame, reached: pl.DataFrame, versions: pl.DataFrame) -> Summary:
    ours = days.filter(pl.col("model") == PUBLISHED)
    n_day, n_print = ours["day"].n_unique(), int(ours["prints"].sum())
    return {
        "n": {
            "days": n_day,
            "closes": int(ours["closes"].sum()),
            "units": int(ours["units"].sum()),
            "prints": n_print,
            "usd": float(ours["usd"].sum()),
        },
        "enough": n_day >= ENOUGH_DAYS and n_print >= ENOUGH_PRINTS,
        "needed": {"days": ENOUGH_DAYS, "prints": ENOUGH_PRINTS},
        "models": _models(days, sides) if ours.height else {},
        "gain": _gains(days) if ours.height else {},
        "clusters": _clusters(reached),
        "versions": _listed(versions),
    }


def _models(days: pl.DataFrame, sides: pl.DataFrame) -> dict[str, Summary]:
    by_model = _by_model(days)
    shown = by_model[PUBLISHED]
    alike = {name: theirs for name, theirs in by_model.items() if _keys(theirs).equals(_keys(shown))}
    # All at once: what takes time is going through the draws.
    found = _ratios(
        {(what, name): theirs[what] for name, theirs in alike.items() for what in ("bits", "capture")},
        shown["usd"],
        shown,
    )
    for name, theirs in by_model.items():
        if name not in alike:  # a baseline that came later
            found |= _ratios({(what, name): theirs[what] for what in ("bits", "capture")}, theirs["usd"], theirs)
    return {
        name: {
            "bits": found["bits", name],
            "capture": found["capture", name],
            **_model(theirs, sides.filter(pl.col("model") == name)),
        }
        for name, theirs in by_model.items()
    }


def _by_model(days: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {name: days.filter(pl.col("model") == name) for name in _present(days)}


def _keys(days: pl.DataFrame) -> pl.DataFrame:
    return days.select(_MARKET)


def _present(days: pl.DataFrame) -> list[str]:
    """Models there are, ours first."""
    there = set(days["model"])
    return [name for name in (PUBLISHED, *(b.name for b in BASELINES)) if name in there]


def _model(days: pl.DataFrame, sides: pl.DataFrame) -> Summary:
    groups = np.array([[days[f"{n}_{i}"].sum() for i in range(_GROUPS)] for n in _BY_DENSITY], dtype=np.float64)
    found = _ratios({n: sides[n] for n in ("right", "error")}, sides["pairs"], sides)
    return {
        "sharpness": _number(float(days["sharpness"].to_numpy().sum() / max(int(days["units"].sum()), 1))),
        "calibration": _calibration(groups),
        "side_right": found["right"],
        "side_error": found["error"],
        "side_pairs": int(sides["pairs"].sum()),
    }


def _calibration(groups: Float64Array) -> Summary:
    """Slope over groups of cells, and the groups: what was predicted and observed, 1 as uniform, and their share."""
    uniform = groups[0]
    share = uniform / max(float(uniform.sum()), 1e-300)
    held = uniform > 0
    found = [
        metrics.Decile(float(p / u), float(o / u)) for u, p, o in zip(*groups[:, share >= _LEAST_GROUP], strict=True)
    ]
    parts = zip(*groups[:, held], share[held], strict=True)
    return {
        "slope": _number(metrics.calibration_slope(found)),
        "groups": [[_number(p / u), _number(o / u), _number(s)] for u, p, o, s in parts],
    }


def _gains(days: pl.DataFrame) -> dict[str, list[float | None]]:
    """Bits of what was published over each baseline; both on the same prints, redrawn by the same days."""
    by_model = _by_model(days)
    ours = by_model.pop(PUBLISHED)
    alike = {name: theirs for name, theirs in by_model.items() if _keys(theirs).equals(_keys(ours))}
    gains = {"uniform": ours["bits"], **{name: ours["bits"] - theirs["bits"] for name, theirs in alike.items()}}
    found = _ratios(gains, ours["usd"], ours)
    for name, theirs in by_model.items():
        if name not in alike:
            both = ours.join(theirs, on=_MARKET, suffix="_other")
            found |= _ratios({name: both["bits"] - both["bits_other"]}, both["usd"], both)
    return found


def _clusters(reached: pl.DataFrame) -> Summary:
    """How often clusters were touched, against a random walk and against the mirrored distance."""
    touched, mine = reached["touched"], reached["clear_touched"]
    over_all = {
        "touched": touched,
        "expected": reached["probability"],
        "over_walk": touched - reached["probability"],
    }
    over_clear = {
        "pairs_touched": mine,
        "mirror_touched": reached["clear_mirror"],
        "over_mirror": mine - reached["clear_mirror"],
    }
    n_day, clear = reached["day"].n_unique(), int(reached["clear"].sum())
    return {
        "n": int(reached["clusters"].sum()),
        "days": n_day,
        "enough": n_day >= ENOUGH_DAYS and clear >= ENOUGH_TOUCHES,
        "needed": {"days": ENOUGH_DAYS, "clusters": ENOUGH_TOUCHES},
        **_ratios(over_all, reached["clusters"], reached),
        "pairs": clear,
        **_ratios(over_clear, reached["clear"], reached),
    }


def _listed(versions: pl.DataFrame) -> list[Summary]:
    keys = ("parameters_version", "code_version")
    rows = versions.group_by(keys).agg(pl.sum("units"), pl.min("first"), pl.max("last")).sort("last", descending=True)
    times = [pl.col(n).dt.epoch("ms").alias(f"{n}_ms") for n in ("first", "last")]
    return rows.select(*keys, "units", *times).to_dicts()


def _ratios(
    totals: Mapping[_Name, pl.Series], weight: pl.Series, rows: pl.DataFrame
) -> dict[_Name, list[float | None]]:
    """Ratios of sums over one sum, with their intervals by days."""
    days = np.asarray(rows["day"].to_physical().cast(pl.Int64).to_numpy())
    times, index = metrics.block_times(days)
    n = times.shape[1]
    sums = np.column_stack(
        [metrics.block_sums(s.cast(pl.Float64).to_numpy(), index, n) for s in (weight, *totals.values())]
    )
    over, drawn = sums.sum(axis=0), times @ sums
    if n < 2 or not over[0] > 0:  # nothing, or a single day
        drawn = np.full_like(drawn, np.nan)
    base = np.where(drawn[:, 0] > 0, drawn[:, 0], np.nan)
    value = over / over[0] if over[0] > 0 else np.full(len(over), np.nan)
    return {
        name: [_number(v) for v in metrics.interval(float(value[i]), drawn[:, i] / base)]
        for i, name in enumerate(totals, start=1)
    }


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
