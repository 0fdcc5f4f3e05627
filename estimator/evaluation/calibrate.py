"""Fitting the assumptions of one market to its own liquidations, with shrinkage to the default.

Of a market's past the first two thirds are fitted to, the last is held out and tells what the fit is worth. The
mix of leverages is a Poisson fit; turnover and holding times are taken from a short list by their score.
Whatever the prints do not tell stays as it was: a candidate must be better by more than its standard error, and a
bucket that few prints reach keeps its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from estimator.domain import (
    BANKRUPTCY_PRINTS,
    DAY_MS,
    HOUR_MS,
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    Market,
    Side,
)
from estimator.errors import InputError
from estimator.evaluation import metrics
from estimator.evaluation.books import Book
from estimator.evaluation.density import MarketPast
from estimator.evaluation.events import CAP_USD, Path, Prints, bins_of, event_truth
from estimator.evaluation.units import Case, Truth, Unit, score
from estimator.model.book import PositionBook
from estimator.model.calibration import Calibration
from estimator.model.grid import BIN_WIDTH
from estimator.model.parameters import Parameters
from estimator.model.step import HIGH, LOW

HORIZON_H: Final = 1  # columns are frozen for so long, both where they are fitted to and where they are scored
BURN_IN_MS: Final = 2 * DAY_MS
LEAST_DAYS: Final = 6  # after the burn-in
LEAST_PRINTS: Final = 200  # to fit to
LEAST_HELD: Final = 50  # to tell what the fit is worth
TUNE_SHARE: Final = 2 / 3
CHURNS: Final = (0.05, 0.3, 0.5)
TILTS: Final = (0.5, 1.0)  # holding times like leverage to minus this
PRIOR: Final = 10.0  # prints that each bucket's default share counts for
REFITS: Final = 2
_ITERATIONS: Final = 200
_CHUNK: Final = 32  # columns by bucket held at once

Report = Callable[[float, str], None]


def prints_of(liquidations: pl.DataFrame, market: Market) -> Prints:
    """Take the prints of a market, each at the mark price that triggered it.

    A venue of `BANKRUPTCY_PRINTS` tells the price at which nothing is left; the trigger lies nearer to the entry by
    maintenance margin and fee.

    Parameters
    ----------
    liquidations : pl.DataFrame
        `estimator.domain.LIQUIDATIONS`.
    """
    rows = liquidations.sort("time")
    sign = np.where(rows["side"].to_numpy() == Side.LONG.value, 1, -1).astype(np.int64)
    price = rows["price"].to_numpy()
    if market.exchange in BANKRUPTCY_PRINTS:
        maintenance = market.brackets[0].maintenance_margin_rate + market.maintenance_fee_rate
        price = price / (1.0 - sign * maintenance)
    return Prints(rows["time"].dt.epoch("ms").to_numpy(), sign, price, rows["notional_usd"].to_numpy())


def path_of(candles: pl.DataFrame) -> Path:
    """Take where the price went, hour by hour, from finer candles."""
    hours = (
        candles.sort("time")
        .group_by((pl.col("time").dt.epoch("ms") // HOUR_MS * HOUR_MS).alias("start"), maintain_order=True)
        .agg(pl.col("low").min(), pl.col("high").max(), pl.col("close").last())
    )
    return Path(*(hours[name].to_numpy() for name in ("start", "low", "high", "close")))


def calibrate(
    past: MarketPast,
    prints: Prints,
    path: Path,
    default: Parameters,
    report: Report,
    heard: BoolArray | None = None,
) -> Calibration:
    """Fit turnover, holding times and mix of leverages of a market.

    Parameters
    ----------
    past : MarketPast
    prints : Prints
    path : Path
        Hourly.
    default : Parameters
        What is shrunk to.
    report : callable
        Told the share done and what is being done.
    heard : BoolArray, shape (n_step,), optional
        Steps in which no print was missed; all by default. What was not heard is not held to be quiet.

    Raises
    ------
    InputError
        If there are no prints, or too few in cells that the price crossed, or too few days.
    """
    _check_data(past, prints)
    truth, cut_ms = _truth(past, prints, path)
    close_ms = past.steps.close_ms
    tune = _keep(truth, lambda unit: bool(close_ms[unit.step] + HORIZON_H * HOUR_MS <= cut_ms))
    held = _keep(truth, lambda unit: bool(close_ms[unit.step] >= cut_ms))
    _check_prints("to fit to", tune, LEAST_PRINTS)
    _check_prints("held out", held, LEAST_HELD)
    units = exposures(past, prints, _begin_ms(past, prints), cut_ms, heard)
    # The mix first: turnover and holding times would make up for a part of what it lacks.
    chosen = _fit_shares(past, units, default, default, lambda done, what: report(0.3 * done, what))
    chosen = _turnover(past, tune, chosen, lambda done, what: report(0.3 + 0.4 * done, what))
    chosen = _fit_shares(past, units, chosen, default, lambda done, what: report(0.7 + 0.2 * done, what))
    report(0.9, "scoring the held-out third")
    before, after = _bits(past, held, default), _bits(past, held, chosen)
    gain = metrics.mean_interval(after.value - before.value, before.weight, before.block)
    low, high = (end if np.isfinite(end) else None for end in (gain.low, gain.high))
    return Calibration(
        chosen, int(close_ms[0]), int(close_ms[-1]), cut_ms, _count(tune), _count(held), before.mean, after.mean,
        low, high,
    )  # fmt: skip


def _check_data(past: MarketPast, prints: Prints) -> None:
    if not len(prints.time_ms):
        raise InputError("liquidations", "there are none: without prints there is nothing to fit to")
    days = (int(past.steps.close_ms[-1]) - _begin_ms(past, prints)) / DAY_MS
    if days < LEAST_DAYS:
        raise InputError(
            "liquidations", f"there are {max(days, 0.0):.1f} days of prints behind a book that has run for "
            f"{BURN_IN_MS // DAY_MS} days; {LEAST_DAYS} are needed",
        )  # fmt: skip


def _begin_ms(past: MarketPast, prints: Prints) -> int:
    """From when on prints are fitted to: a new book is left out."""
    return max(int(past.steps.close_ms[0]) + BURN_IN_MS, int(prints.time_ms[0]))


def _truth(past: MarketPast, prints: Prints, path: Path) -> tuple[Truth, int]:
    """Units behind the burn-in, and where the held-out third begins."""
    begin_ms, close_ms = _begin_ms(past, prints), past.steps.close_ms
    truth = event_truth("prints", past.market.id, past, prints, path, HORIZON_H)
    cut_ms = int(begin_ms + TUNE_SHARE * (int(close_ms[-1]) - begin_ms))
    return _keep(truth, lambda unit: bool(close_ms[unit.step] >= begin_ms)), cut_ms


def _keep(truth: Truth, wanted: Callable[[Unit], bool]) -> Truth:
    return replace(truth, units=tuple(u for u in truth.units if wanted(u)))


def _count(truth: Truth) -> int:
    return sum(len(u.cell) for u in truth.units)


def _check_prints(what: str, truth: Truth, least: int) -> None:
    found = _count(truth)
    if found < least:
        raise InputError(
            "liquidations",
            f"there are {found} prints {what} in cells that the price crossed first within {HORIZON_H} h; "
            f"{least} are needed",
        )


class _Bits(NamedTuple):
    """Score of every print; shape (n_print,) each."""

    value: Float64Array
    weight: Float64Array
    block: Int64Array

    @property
    def mean(self) -> float:
        return float(np.average(self.value, weights=self.weight))


def _bits(past: MarketPast, truth: Truth, parameters: Parameters) -> _Bits:
    (scored,) = score(Book("fit", parameters), Case(truth.source, past, (truth,)))
    return _Bits(*(scored.items[name].to_numpy() for name in ("bits", "weight", "block")))


def _turnover(past: MarketPast, truth: Truth, fitted: Parameters, report: Report) -> Parameters:
    """Choose turnover, then holding times."""
    report(0.0, "trying turnovers")
    chosen = _best(past, truth, fitted, [replace(fitted, churn=churn) for churn in CHURNS if churn != fitted.churn])
    report(0.6, "trying holding times")
    return _best(past, truth, chosen, [replace(chosen, tau_hours=_tilted(chosen, tilt)) for tilt in TILTS])


def _best(past: MarketPast, truth: Truth, usual: Parameters, candidates: Sequence[Parameters]) -> Parameters:
    """Return the candidate that scores highest above the usual less a standard error, if that is above it at all."""
    base = _bits(past, truth, usual)
    gains = [(0.0, usual), *((_sure_gain(_bits(past, truth, tried), base), tried) for tried in candidates)]
    return max(gains, key=lambda pair: pair[0])[1]


def _tilted(default: Parameters, tilt: float) -> tuple[float, ...]:
    """Return holding times that fall with leverage, those of 10x as they are."""
    return tuple(t * (10.0 / lev) ** tilt for t, lev in zip(default.tau_hours, default.leverages, strict=True))


def _sure_gain(one: _Bits, other: _Bits) -> float:
    """Return what one scores above another, less a standard error. [bits]"""
    difference = one.value - other.value
    spread = metrics.mean_replicates(difference, one.weight, one.block)
    return float(np.average(difference, weights=one.weight) - np.std(spread))


def exposures(
    past: MarketPast, prints: Prints, begin_ms: int, end_ms: int, heard: BoolArray | None = None
) -> list[Unit]:
    """Cells that the price crossed in each full hour, those where nothing was liquidated too, and the prints in them.

    A print counts in the step in which its cell was crossed first: later on, what is there has been opened since.

    Parameters
    ----------
    past, prints, heard
        As in `calibrate`.
    begin_ms, end_ms : int
        Columns that close from the one on, and hours that end by the other. [ms]
    """
    steps, close_bin = past.steps, bins_of(past.close)
    low, high = (
        bins_of(choose.reduceat(steps.candle[:, at], steps.first[:-1]))
        for choose, at in ((np.minimum, LOW), (np.maximum, HIGH))
    )
    units = []
    for at in np.flatnonzero((steps.close_ms % HOUR_MS == 0) & (steps.close_ms >= begin_ms)):
        after_ms = int(steps.close_ms[at])
        inside = slice(int(at) + 1, int(np.searchsorted(steps.close_ms, after_ms + HOUR_MS, side="right")))
        whole = inside.stop > inside.start and steps.close_ms[inside.stop - 1] == after_ms + HOUR_MS <= end_ms
        if whole and (heard is None or heard[inside].all()):
            now = prints.between(after_ms, after_ms + HOUR_MS)
            step = np.searchsorted(steps.close_ms[inside], now.time_ms)
            for side, extreme in ((Side.LONG, low[inside]), (Side.SHORT, high[inside])):
                units += _exposed(int(at), side, int(close_bin[at]), extreme, now, step)
    return units


def _exposed(at: int, side: Side, close_bin: int, extreme: Int64Array, now: Prints, step: Int64Array) -> list[Unit]:
    """Return the cells of one side of an hour; none where it crossed none."""
    reached = np.maximum.accumulate(np.maximum((close_bin - extreme) * side.sign, 0))  # cells crossed by each step
    n = int(reached[-1])
    if not n:
        return []
    cell = (close_bin - bins_of(now.price)) * side.sign - 1
    mine = (now.sign == side.sign) & (cell >= np.concatenate([[0], reached])[step]) & (cell < n)
    first = close_bin if side is Side.LONG else close_bin + 1
    edges: Float64Array = np.asarray((first - side.sign * np.arange(n + 1)) * BIN_WIDTH)
    return [Unit(at, side, edges, cell[mine], np.minimum(now.usd[mine], CAP_USD), now.time_ms[mine] // DAY_MS)]


def _fit_shares(
    past: MarketPast, units: Sequence[Unit], chosen: Parameters, default: Parameters, report: Report
) -> Parameters:
    """Fit the shares, a few times over: other shares make other columns."""
    usual = np.array(default.for_leverage(past.market.max_leverage).shares)
    for n in range(REFITS):
        report(n / REFITS, f"fitting the mix of leverages, {n + 1} of {REFITS}")
        present = np.array(chosen.for_leverage(past.market.max_leverage).shares) / usual
        mass, background, seen = _cells(past, units, chosen)
        shares = usual * fit_mix(mass / present, background, seen)
        chosen = replace(chosen, shares=_with_cut(tuple((shares / shares.sum()).tolist()), chosen, len(usual)))
    return chosen


def _with_cut(fitted: tuple[float, ...], parameters: Parameters, n_kept: int) -> tuple[float, ...]:
    """Shares of all buckets from those of the buckets that the market offers; the others keep theirs."""
    n_cut = len(parameters.shares) - n_kept  # leverages fall, and the highest are cut
    cut = parameters.shares[:n_cut]
    rest = 1.0 - sum(cut)
    return (*cut, *(rest * share for share in fitted))


def fit_mix(mass: Float64Array, background: Float64Array, seen: Float64Array) -> Float64Array:
    """Fit factors on buckets to what was liquidated: a Poisson fit with a gamma prior around 1, by MAP-EM.

    Parameters
    ----------
    mass : Float64Array, shape (n_cell, n_bucket)
        Density of each bucket with its default share, in any unit.
    background : Float64Array, shape (n_cell,)
        Density that is not fitted, in the same unit.
    seen : Float64Array, shape (n_cell,)
        What was liquidated, in prints: how many of them there are decides how far the fit leaves the default.

    Returns
    -------
    Float64Array, shape (n_bucket,)
        All 1 where nothing was seen.
    """
    factor = np.ones(mass.shape[1])
    total = mass.sum() + background.sum()
    if not (total > 0 and seen.sum() > 0):
        return factor
    scale = seen.sum() / total  # the level is not fitted: it cancels in the shares
    x, rest = mass * scale, background * scale
    expected = x.sum(axis=0)
    for _ in range(_ITERATIONS):
        mean = x @ factor + rest
        ratio = np.divide(seen, mean, out=np.zeros_like(seen), where=mean > 0)
        factor = (PRIOR + factor * (x.T @ ratio)) / (PRIOR + expected)
    return factor


def _cells(
    past: MarketPast, units: Sequence[Unit], parameters: Parameters
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Density by bucket, background, and prints of every crossed cell."""
    mass = np.concatenate(list(_layers(past, units, parameters)))
    seen = np.concatenate([np.bincount(u.cell, u.weight, len(u.edges) - 1) for u in units])
    weight = np.concatenate([u.weight for u in units])
    # In prints that count alike: what a few large ones tell is no more than a few tell.
    print_usd = float((weight**2).sum() / weight.sum()) if len(weight) else 1.0
    return mass[:, :-1], mass[:, -1], seen / print_usd


def _layers(past: MarketPast, units: Sequence[Unit], parameters: Parameters) -> Iterator[Float64Array]:
    """Yield, by unit, the density of its cells by bucket, the background last; shape (n_cell, n_bucket + 1)."""
    book, steps = PositionBook(past.market, parameters), past.steps
    emit: BoolArray = np.zeros(len(steps), dtype=bool)
    emit[[u.step for u in units]] = True
    columns = np.flatnonzero(emit)
    at, begin = 0, 0
    for end in (*(columns[_CHUNK - 1 :: _CHUNK] + 1).tolist(), len(steps)):
        if end == begin:
            continue
        sides = book.run_buckets(steps.part(begin, end), emit=emit[begin:end])
        rows = np.cumsum(emit[begin:end]) - 1
        while at < len(units) and units[at].step < end:
            yield _of_unit(units[at], sides, int(rows[units[at].step - begin]))
            at += 1
        begin = end


def _of_unit(unit: Unit, sides: tuple[Float32Array, Float32Array, int], row: int) -> Float64Array:
    """Cut the cells of a unit, which are bins of the lattice, out of the columns by bucket."""
    long_usd, short_usd, first_bin = sides
    usd = long_usd if unit.side is Side.LONG else short_usd
    edge = np.rint(unit.edges / BIN_WIDTH).astype(np.int64) - first_bin
    bins = np.minimum(edge[1:], edge[:-1])
    inside = (bins >= 0) & (bins < usd.shape[2])
    out = np.zeros((len(bins), usd.shape[0]))
    out[inside] = usd[:, row, bins[inside]].T
    return out
