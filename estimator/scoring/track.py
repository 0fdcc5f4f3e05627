"""Scoring what was published: each hour's column as it was shown, against what came within the next hours.

The protocol is that of `estimator.evaluation.events`: first crossed cells of a bin, side by side, bits over uniform.
Baselines are computed for the same moment from the candles up to it. A claim of its own is that clusters attract the
price: how often one was touched stands beside the chance of a random walk and beside its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, TIME, BoolArray, Float64Array, Int64Array, Side
from estimator.errors import InputError
from estimator.evaluation import books
from estimator.evaluation.baselines import Distance, Freshness
from estimator.evaluation.density import DensityModel, MarketPast
from estimator.evaluation.events import HORIZONS_H, Prints, bins_of, crossed_unit
from estimator.evaluation.levels import opens_only, volume_day
from estimator.evaluation.units import Case, Scored, Truth, Unit, score
from estimator.history.tables import TRACK_OPTIONAL, TRACK_RECORD, TRACK_TOUCHES
from estimator.model.clusters import Cluster, find_clusters, touch_probability
from estimator.model.grid import LiquidationGrid
from estimator.model.steps import build_steps
from estimator.observed import Heard
from estimator.scoring.evidence import STEP_MS, Evidence

PUBLISHED: Final = "published"
BASELINES: Final[tuple[DensityModel, ...]] = (
    Distance(),
    Freshness(),
    volume_day(),
    volume_day(wide=True),
    opens_only(),
    opens_only(wide=True),
    books.label_leverage(),
)
CODE_VERSION: Final = "1"  # of the protocol of this module; rows of different ones are not comparable
LATE_MS: Final = 5 * MINUTE_MS  # a column shown later than this after its close promised nothing
# log2 of the density of a cell over the mean of its unit, where one group of cells ends and the next begins
DENSITY_EDGES: Final = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
LEAST_TOUCH: Final = 0.02  # clusters less likely to be touched tell nothing
_VOLATILITY_H: Final = (72, 24)  # hours of returns it is taken from, and the fewest

Due = tuple[int, int]  # close of a column [ms] and horizon [h]


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """Columns that were published, behind the interface of the models that are computed."""

    grid: LiquidationGrid
    name: str = PUBLISHED

    def densities(self, past: MarketPast, emit: BoolArray) -> LiquidationGrid:
        """Return the columns that were shown at these closes."""
        wanted = past.steps.close_ms[emit].astype("datetime64[ms]")
        return self.grid.pick(np.isin(self.grid.time.astype("datetime64[ms]"), wanted))


class Hours(NamedTuple):
    """Where the price went in whole hours; shape (n,) each."""

    start_ms: Int64Array
    low: Float64Array
    high: Float64Array
    close: Float64Array

    def horizon(self, close_ms: int, hours: int) -> slice | None:
        """Return the hours after a close; None where one of them, or the one before, is missing."""
        at = int(np.searchsorted(self.start_ms, close_ms))
        inside = slice(at, at + hours)
        wanted = close_ms + HOUR_MS * np.arange(-1, hours)
        return inside if at > 0 and np.array_equal(self.start_ms[at - 1 : at + hours], wanted) else None


def judge(evidence: Evidence, due: Collection[Due]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Score what was published at some closes over some horizons.

    Parameters
    ----------
    evidence : Evidence
    due : collection of (int, int)
        Closes of columns and horizons that are over.

    Returns
    -------
    DataFrame, DataFrame
        Rows of the tables ``track_record`` and ``track_touches``, without the market.
    """
    grid, kept = evidence.grid, evidence.published_ms - evidence.close_ms <= LATE_MS
    if grid is None or not kept.any():
        return _frame([], TRACK_RECORD), _frame([], TRACK_TOUCHES)
    hours = hours_of(evidence.candles)
    shown = {int(t): i for i, t in enumerate(evidence.close_ms) if kept[i]}
    wanted = sorted((t, h) for t, h in due if t in shown and hours.horizon(t, h) is not None)
    stamps = _Stamps(evidence, shown)
    return _record(evidence, hours, wanted, stamps), _touches(evidence, hours, wanted, stamps)


def hours_of(candles: pl.DataFrame) -> Hours:
    """Merge candles to hours, those of which every part is there."""
    merged = (
        candles.sort("time")
        .group_by(pl.col("time").dt.truncate("1h").dt.epoch("ms").alias("start"), maintain_order=True)
        .agg(pl.min("low"), pl.max("high"), pl.last("close"), pl.len())
    )
    whole = merged.filter(pl.col("len") >= merged["len"].max()) if merged.height else merged
    return Hours(*(whole[n].to_numpy() for n in ("start", "low", "high", "close")))


class _Stamps:
    """What every row says of its column."""

    def __init__(self, evidence: Evidence, shown: dict[int, int]) -> None:
        self._evidence, self._shown = evidence, shown

    def published_ms(self, close_ms: int) -> int:
        return int(self._evidence.published_ms[self._shown[close_ms]])

    def of(self, close_ms: int, horizon_h: int, side: Side) -> dict[str, Any]:
        return {
            "time": close_ms,
            "horizon_h": horizon_h,
            "side": side.value,
            "parameters_version": self._evidence.versions[self._shown[close_ms]],
            "code_version": CODE_VERSION,
            "published": self.published_ms(close_ms),
        }


# --- liquidations -----------------------------------------------------------------------------------------------------


def _record(evidence: Evidence, hours: Hours, due: Sequence[Due], stamps: _Stamps) -> pl.DataFrame:
    """Score the published column and the baselines at each close where prints lie in crossed cells."""
    heard = [(t, h) for t, h in due if _was_heard(evidence.heard, t, h) and len(evidence.prints.usd)]
    if not heard or evidence.grid is None:
        return _frame([], TRACK_RECORD)
    try:
        steps, _ = build_steps(evidence.market, evidence.candles, evidence.open_interest, step_ms=STEP_MS)
    except InputError:  # candles and open interest that never overlap: there is no past
        return _frame([], TRACK_RECORD)
    past = MarketPast(evidence.market, steps)
    truths = [
        Truth(str(h), evidence.market.id, units)
        for h in HORIZONS_H
        if (units := tuple(_units(evidence.prints, hours, past, [t for t, over in heard if over == h], h, stamps)))
    ]
    if not truths:
        return _frame([], TRACK_RECORD)
    case = Case(evidence.market.id, past, tuple(truths))
    rows: list[dict[str, Any]] = []
    for model in (Frozen(evidence.grid), *BASELINES):
        for truth, scored in zip(truths, score(model, case), strict=True):
            rows += _rows(scored, truth.units, stamps)
    return _frame(rows, TRACK_RECORD)


def _was_heard(heard: Heard | None, close_ms: int, horizon_h: int) -> bool:
    return heard is None or heard.covers(close_ms, close_ms + horizon_h * HOUR_MS)


def _units(
    prints: Prints, hours: Hours, past: MarketPast, closes: Sequence[int], horizon_h: int, stamps: _Stamps
) -> Iterator[Unit]:
    """Yield both sides of each close where prints came after the column was shown, in cells first crossed then."""
    for close_ms in closes:
        inside = hours.horizon(close_ms, horizon_h)
        step = int(np.searchsorted(past.steps.close_ms, close_ms))
        if inside is None or step >= len(past.steps) or past.steps.close_ms[step] != close_ms:
            continue
        now = prints.between(max(close_ms, stamps.published_ms(close_ms)), close_ms + horizon_h * HOUR_MS)
        hour = (now.time_ms - 1 - close_ms) // HOUR_MS
        close_bin = bins_of(hours.close[inside.start - 1])
        for side, extreme in ((Side.LONG, hours.low[inside]), (Side.SHORT, hours.high[inside])):
            unit = crossed_unit(step, side, close_bin, bins_of(extreme), now, hour, DAY_MS)
            if unit is not None:
                yield unit


def _rows(scored: Scored, units: Sequence[Unit], stamps: _Stamps) -> Iterator[dict[str, Any]]:
    """One row per unit."""
    index = scored.items["unit"].to_numpy()
    weight, bits = (scored.items[n].to_numpy() for n in ("weight", "bits"))
    usd = np.bincount(index, weight, len(units))
    mean_bits = np.bincount(index, weight * bits, len(units)) / usd
    count = np.bincount(index, minlength=len(units))
    cells = _by_density(scored, len(units))
    for i, (unit, whole) in enumerate(zip(units, scored.units.iter_rows(named=True), strict=True)):
        yield {
            **stamps.of(whole["time_ms"], int(scored.kind), unit.side),
            "model": scored.model,
            "n_print": int(count[i]),
            "n_cell": int(whole["n_cell"]),
            "observed_usd": float(usd[i]),
            "predicted_usd": whole["predicted"],
            "bits": float(mean_bits[i]),
            "capture": whole["capture"],
            "sharpness": whole["sharpness"],
            "uniform_usd_by_density": cells[0, i].tolist(),
            "predicted_usd_by_density": cells[1, i].tolist(),
            "observed_usd_by_density": cells[2, i].tolist(),
        }


def _by_density(scored: Scored, n_unit: int) -> Float64Array:
    """Sum cells of like density in each unit: what uniform and the model expect in them, and what was observed.

    Returns
    -------
    Float64Array, shape (3, n_unit, n_group)
    """
    relative, observed, weight = (scored.cells[n].to_numpy() for n in ("relative", "observed", "weight"))
    unit = np.repeat(np.arange(n_unit), scored.units["n_cell"].cast(pl.Int64).to_numpy())
    group = np.digitize(np.log2(np.maximum(relative, 2.0**-30)), DENSITY_EDGES)
    n = len(DENSITY_EDGES) + 1
    sums = [np.bincount(unit * n + group, weight * part, n_unit * n) for part in (1.0, relative, observed)]
    return np.stack(sums).astype(np.float64).reshape(3, n_unit, n)


# --- clusters ---------------------------------------------------------------------------------------------------------


def _touches(evidence: Evidence, hours: Hours, due: Sequence[Due], stamps: _Stamps) -> pl.DataFrame:
    """Tell of every cluster that was shown, and might have been reached, whether it was."""
    rows: list[dict[str, Any]] = []
    for close_ms in sorted({t for t, _ in due}):
        close, sigma = _price_and_volatility(hours, close_ms)
        clusters = () if sigma is None else _clusters(evidence, close_ms, close)
        for horizon_h in (h for t, h in due if t == close_ms):
            inside = hours.horizon(close_ms, horizon_h)
            if inside is None or sigma is None:
                continue
            low, high = float(hours.low[inside].min()), float(hours.high[inside].max())
            for cluster in clusters:
                probability = touch_probability(math.log(cluster.price / close), sigma, horizon_h)
                if probability >= LEAST_TOUCH:
                    found = _touch(cluster, clusters, close, low, high)
                    rows.append({**stamps.of(close_ms, horizon_h, cluster.side), "probability": probability, **found})
    return _frame(rows, TRACK_TOUCHES)


def _price_and_volatility(hours: Hours, close_ms: int) -> tuple[float, float | None]:
    """Price at a close, and the deviation of the hourly log returns before it; None where too few are known."""
    at = int(np.searchsorted(hours.start_ms, close_ms))
    most, least = _VOLATILITY_H
    returns = np.diff(np.log(hours.close[max(at - most - 1, 0) : at]))
    sigma = float(returns.std(ddof=1)) if len(returns) >= least else 0.0
    return float(hours.close[at - 1]), sigma if sigma > 0 else None


def _clusters(evidence: Evidence, close_ms: int, close: float) -> tuple[Cluster, ...]:
    known = evidence.open_interest.filter(pl.col("time").dt.epoch("ms") <= close_ms)
    if evidence.grid is None or known.is_empty():
        return ()
    column = evidence.grid.pick(evidence.close_ms == close_ms)
    # Bounds and distances do not depend on it, only which mass is too small to count.
    held_usd = float(known["open_interest"][-1]) * close
    return find_clusters(column, mark_price=close, open_interest_usd=held_usd) if held_usd > 0 else ()


def _touch(cluster: Cluster, clusters: Sequence[Cluster], close: float, low: float, high: float) -> dict[str, Any]:
    """Whether the price reached a cluster, and the same distance on the other side, within its low and high."""
    mirror = close * close / cluster.price
    below = cluster.side is Side.LONG
    return {
        "price": cluster.price,
        "distance": math.log(cluster.price / close),
        "mass_usd": cluster.mass_usd,
        "touched": low <= cluster.price if below else high >= cluster.price,
        "mirror_clear": not any(c.low <= mirror <= c.high for c in clusters),
        "mirror_touched": high >= mirror if below else low <= mirror,
    }


def _frame(rows: Sequence[dict[str, Any]], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    types = {**schema, **TRACK_OPTIONAL}
    plain = {n: pl.Int64() if t == TIME else t for n, t in types.items()}
    return pl.DataFrame(rows, schema=plain).with_columns(pl.col(n).cast(TIME) for n, t in types.items() if t == TIME)
