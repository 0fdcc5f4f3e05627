"""From scored things to a report: means, intervals, and what is gained over each baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from estimator.domain import Float64Array
from estimator.evaluation import metrics
from estimator.evaluation.units import Scored

# Baselines worth beating.
GATES: Final = (
    "distance",
    "freshness",
    "volume 1 d",
    "volume 1 d, wide",
    "opens-only",
    "opens-only, wide",
    "label-leverage",
)
Report = dict[str, Any]  # as written to JSON: kind -> {"n": {...}, "models": {model: {metric: [value, low, high]}}}


def summarise(scored: Sequence[Scored], over: Sequence[str] = GATES) -> Report:
    """Put what was scored together by kind of truth and by model.

    Parameters
    ----------
    scored : sequence of Scored
    over : sequence of str
        Models whose bits are subtracted for ``gain``.

    Returns
    -------
    dict
        ``{kind: {"n": counts, "models": {model: {metric: [value, low, high] or a number}}}}``; ``gain`` of a model
        holds the difference of bits to each of `over`, paired.
    """
    kinds = list(dict.fromkeys(s.kind for s in scored))
    return {kind: _kind(kind, [s for s in scored if s.kind == kind], over) for kind in kinds}


def is_total(kind: str) -> bool:
    """Whether a kind of truth is a total rather than a distribution over cells."""
    return kind.startswith("totals")


def _kind(kind: str, scored: list[Scored], over: Sequence[str]) -> Report:
    models = list(dict.fromkeys(s.model for s in scored))
    by_model = {m: [s for s in scored if s.model == m] for m in models}
    if is_total(kind):
        return {"n": _counts(by_model[models[0]]), "models": {m: _totals(s) for m, s in by_model.items()}}
    found = {m: _cells(s) for m, s in by_model.items()}
    for name, gains in _gains(by_model, over).items():
        found[name]["gain"] = gains
    return {"n": _counts(by_model[models[0]]), "models": found}


def _counts(scored: list[Scored]) -> dict[str, Any]:
    items = pl.concat([s.items for s in scored])
    weights = items.group_by("block").agg(pl.col("weight").sum())["weight"].to_numpy()
    return {
        "items": items.height,
        "units": sum(s.units.height for s in scored),
        "blocks": len(weights),
        "effective blocks": round(float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300)), 1),
        "sources": [s.source for s in scored],
    }


def _cells(scored: list[Scored]) -> dict[str, Any]:
    items = pl.concat([s.items for s in scored])
    units = pl.concat([s.units.with_columns(pl.lit(s.source).alias("source")) for s in scored])
    cells = pl.concat([s.cells for s in scored])
    bits, weight, block = (items[c].to_numpy() for c in ("bits", "weight", "block"))
    relative, observed, counted = (cells[c].to_numpy() for c in ("relative", "observed", "weight"))
    groups = metrics.deciles(relative, observed, counted)
    return {
        "bits": metrics.mean_interval(bits, weight, block),
        "bits by source": {s.source: _round(np.average(s.items["bits"], weights=s.items["weight"])) for s in scored},
        "capture": _unit_mean(units, "capture", units["observed"].to_numpy()),
        "spearman": _unit_mean(units, "spearman"),
        "sharpness": _unit_mean(units, "sharpness"),
        "wasserstein": _unit_mean(units, "wasserstein", units["observed"].to_numpy()),
        "ks": _round(metrics.ks_distance(items["rank"].to_numpy(), weight)),
        "calibration slope": _round(metrics.calibration_slope(groups)),
        "deciles": [[_round(g.predicted), _round(g.observed)] for g in groups],
        **_sides(units),
    }


def _unit_mean(units: pl.DataFrame, column: str, weight: Float64Array | None = None) -> metrics.Interval:
    value = units[column].to_numpy()
    return metrics.mean_interval(value, np.ones(len(value)) if weight is None else weight, units["block"].to_numpy())


def _sides(units: pl.DataFrame) -> dict[str, Any]:
    """Error of the ratio of long to short mass in log2 units, and how often the heavier side is right."""
    keys = ("source", "time_ms")
    both = (
        units.filter(pl.col("long"))
        .join(units.filter(~pl.col("long")), on=keys, suffix="_short")
        .filter(pl.min_horizontal("observed", "observed_short", "predicted", "predicted_short") > 0)
    )
    if both.is_empty():
        return {}
    predicted = np.log2((both["predicted"] / both["predicted_short"]).to_numpy())
    observed = np.log2((both["observed"] / both["observed_short"]).to_numpy())
    day = both["block"].to_numpy()
    one = np.ones(len(day))
    return {
        "side error": metrics.mean_interval(np.abs(predicted - observed), one, day),
        "side accuracy": metrics.mean_interval((predicted > 0) == (observed > 0), one, day),
    }


def _totals(scored: list[Scored]) -> dict[str, Any]:
    units = pl.concat([s.units.with_columns(pl.lit(s.source).alias("source")) for s in scored])
    found: dict[str, Any] = {}
    for name, of_side in (("long", pl.col("long")), ("short", ~pl.col("long"))):
        sides = [s.units.filter(of_side) for s in scored]
        left = [_left(side) for side in sides]
        block = np.concatenate([side["block"].to_numpy() for side in sides])
        predicted, observed = (
            np.concatenate([_relative(side[c]) for side in sides]) for c in ("predicted", "observed")
        )
        groups = metrics.deciles(predicted, observed)
        found[f"partial rank, {name}"] = metrics.correlation_interval(
            np.concatenate([p for p, _ in left]), np.concatenate([o for _, o in left]), block
        )
        found[f"calibration slope, {name}"] = _round(metrics.calibration_slope(groups))
        found[f"deciles, {name}"] = [[_round(g.predicted), _round(g.observed)] for g in groups]
    return {**found, **_sides(units)}


def _left(side: pl.DataFrame) -> tuple[Float64Array, Float64Array]:
    """Return what is left of prediction and observation after the controls, within one source."""
    controls = side.select(c for c in side.columns if c.startswith("control_")).to_numpy()
    return metrics.residual(side["predicted"].to_numpy(), controls), metrics.residual(
        side["observed"].to_numpy(), controls
    )


def _relative(values: pl.Series) -> Float64Array:
    """Bring the totals of a source to a mean of 1, so that sources can be put together."""
    array = values.to_numpy()
    return np.asarray(array / max(float(array.mean()), 1e-300))


def _gains(by_model: dict[str, list[Scored]], over: Sequence[str]) -> dict[str, dict[str, metrics.Interval]]:
    """Bits of each model over some of the others, with paired intervals."""
    first = pl.concat([s.items for s in next(iter(by_model.values()))])
    weight, block = first["weight"].to_numpy(), first["block"].to_numpy()
    bits = {m: pl.concat([s.items for s in scored])["bits"].to_numpy() for m, scored in by_model.items()}
    mean = {m: float(np.average(b, weights=weight)) for m, b in bits.items()}
    drawn = {m: metrics.mean_replicates(b, weight, block) for m, b in bits.items()}
    return {
        m: {o: metrics.interval(mean[m] - mean[o], drawn[m] - drawn[o]) for o in over if o in bits and o != m}
        for m in bits
    }


def _round(value: float) -> float:
    return round(float(value), 4)
