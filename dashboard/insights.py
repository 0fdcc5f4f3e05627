"""Clusters, signals and cascades of a view as the API tells them; every estimate says that it is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from dashboard.frame import read_now
from dashboard.view import ViewState
from estimator.cache import Cache, MarketStatus
from estimator.domain import Side
from estimator.hours import atr_1h, daily_volume_base, hourly_volatility, last_hour
from estimator.latest import open_interest_usd, read_live
from estimator.model.cascade import CascadeBand, CascadeEnd, Impact, LinearImpact, SquareRootImpact, find_cascade
from estimator.model.clusters import (
    MAGNET_NOTE,
    Cluster,
    ClusterRules,
    Stop,
    find_clusters,
    max_pain,
    place_stop,
    touch_probability,
)
from estimator.model.grid import LiquidationGrid
from estimator.model.positions import Plan, closing_of, work_out
from estimator.model.rules import SignalRules
from estimator.model.signals import Condition, PhaseReading, Reading, read_signals
from estimator.model.wording import describe, explain, explain_phase
from estimator.units import price_text, venue_name

REACH: Final = 0.9  # log price to either side of the mark that is read: more than the book keeps


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What clusters, cascades and stops are told from.

    Parameters
    ----------
    view : ViewState
    statuses : tuple of MarketStatus
        By falling open interest; the first one's mark price and candles count.
    grid : LiquidationGrid
        The latest column of every venue, added up.
    bars : pl.DataFrame
        As `estimator.hours.read_hours`.
    """

    view: ViewState
    statuses: tuple[MarketStatus, ...]
    grid: LiquidationGrid
    bars: pl.DataFrame

    @property
    def mark_price(self) -> float:
        """Mark price of the first venue."""
        return self.statuses[0].mark_price

    @property
    def open_interest_usd(self) -> float | None:
        """Open interest of all venues; None where one of them has none. [USD]"""
        return open_interest_usd(self.statuses)


def read_outlook(cache: Cache, view: ViewState, statuses: Sequence[MarketStatus], bars: pl.DataFrame) -> Outlook:
    """Read the latest columns of a view. Blocks.

    Raises
    ------
    NotReady
        If there are none yet.
    CacheError
    """
    mark, closed_ms = statuses[0].mark_price, max(s.last_ms for s in statuses)
    lives = [read_live(cache, status, closed_ms) for status in statuses]
    window = mark * math.exp(-REACH), mark * math.exp(REACH)
    return Outlook(view, tuple(statuses), read_now(cache, statuses, view, window, lives), bars)


def find_outlook_clusters(
    outlook: Outlook, *, hours: float = 24.0, rules: ClusterRules | None = None
) -> tuple[Cluster, ...]:
    """Clusters of an outlook; none where open interest is not known, of which they are shares."""
    held = outlook.open_interest_usd
    if held is None:
        return ()
    sigma = hourly_volatility(outlook.bars)
    return find_clusters(
        outlook.grid, mark_price=outlook.mark_price, open_interest_usd=held, hourly_volatility=sigma, hours=hours,
        rules=rules,
    )  # fmt: skip


def clusters_json(
    outlook: Outlook, *, hours: float, least_share: float, liquidation: float | None = None
) -> dict[str, Any]:
    """Ranked clusters, max pain, and where the stop of either side would go.

    Parameters
    ----------
    outlook : Outlook
    hours : float
        Horizon of the hitting probability. [h]
    least_share : float
        Least mass of a cluster, a share of open interest.
    liquidation : float, optional
        Liquidation price of the position to protect: a long's where it lies below the mark, else a short's. The other
        side has no stop then.
    """
    rules = ClusterRules(least_share=least_share)
    found = find_outlook_clusters(outlook, hours=hours, rules=rules)
    return {
        **about(outlook),
        "open_interest_usd": outlook.open_interest_usd,
        "hourly_volatility": hourly_volatility(outlook.bars),
        "horizon_hours": hours,
        "clusters": [cluster_json(c) for c in found],
        "max_pain": {side.value: max_pain(outlook.grid, side, rules, around=outlook.mark_price) for side in Side},
        "stops": {side.value: _stop_beside(outlook, side, found, liquidation) for side in Side},
        "magnet": MAGNET_NOTE,
        "rules": asdict(rules),
        "missing": _missing(outlook),
    }


def cluster_json(cluster: Cluster) -> dict[str, Any]:
    """One cluster; `touch` and `magnet` are null where the volatility is not known."""
    return {
        "side": cluster.side.value,
        "price": cluster.price,
        "low": cluster.low,
        "high": cluster.high,
        "distance": cluster.distance,
        "mass_usd": cluster.mass_usd,
        "share_of_open_interest": cluster.share,
        "touch_probability": cluster.touch,
        "magnet_score": cluster.magnet,
    }


def signals_json(
    statuses: Sequence[MarketStatus], bars: pl.DataFrame, rules: SignalRules | None = None
) -> dict[str, Any]:
    """Tell the combined readings of the last full hour, each with its inputs and in words."""
    rules = rules or SignalRules()
    told = read_signals(bars, rules=rules)
    readings = (told.overheated_long, told.short_squeeze, told.crowded, told.washout)
    return {
        **_about(statuses),
        "as_of_ms": last_hour(statuses),
        "readings": [reading_json(r, rules) for r in readings],
        "phase": phase_json(told.phase, rules),
        "rules": asdict(rules),
    }


def reading_json(reading: Reading, rules: SignalRules) -> dict[str, Any]:
    """Tell one reading; `active` is null where it hangs on what is not known."""
    return {
        "name": str(reading.name),
        "active": reading.active,
        "needed": reading.needed,
        "conditions": [_condition_json(c, rules) for c in reading.conditions],
        "since_ms": reading.since_ms,
        "ends": [_condition_json(c, rules) for c in reading.ends],
        "text": explain(reading, rules),
    }


def phase_json(phase: PhaseReading, rules: SignalRules) -> dict[str, Any]:
    """Tell the phase; null where it cannot be told."""
    return {
        "phase": phase.phase,
        "since_ms": phase.since_ms,
        "next_phase": phase.next_phase,
        "next_bars": phase.next_bars,
        "tests": [reading_json(t, rules) for t in phase.tests],
        "text": explain_phase(phase, rules),
    }


def _condition_json(condition: Condition, rules: SignalRules) -> dict[str, Any]:
    inputs = [asdict(i) | {"text": describe(i, rules)} for i in condition.inputs]
    return {"passed": condition.passed, "any_of": condition.any_of, "inputs": inputs}


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a cascade is asked with; None takes the market's own value.

    Parameters
    ----------
    changes : tuple of float
        Of the price, fractions such as -.03.
    participation, stress : float
        As in `estimator.model.cascade`.
    depth_usd : float, optional
        What rests in the order book within 1 % of the mark, one side. [USD]
    daily_volatility, daily_volume_usd : float, optional
    """

    changes: tuple[float, ...] = (-0.05, -0.03, -0.01, 0.01, 0.03, 0.05)
    participation: float = 1.0
    stress: float = 1.0
    depth_usd: float | None = None
    daily_volatility: float | None = None
    daily_volume_usd: float | None = None


def cascade_json(outlook: Outlook, asked: WhatIf) -> dict[str, Any]:
    """Tell what changes of price would set off; `cascades` is empty where volatility or volume is not known."""
    mark = outlook.mark_price
    sigma, own_volume = hourly_volatility(outlook.bars), daily_volume_base(outlook.bars)
    volatility = asked.daily_volatility or (None if sigma is None else sigma * math.sqrt(24))
    volume = own_volume if asked.daily_volume_usd is None else asked.daily_volume_usd / mark
    bands: list[CascadeBand] = []
    harsh_name = None
    if volatility is not None and volume is not None:
        mild, harsh = SquareRootImpact(volatility, volume), _harsh(asked, mark, volatility, volume)
        harsh_name = "order book, 1 % depth" if asked.depth_usd else "linear, from turnover"
        held = _held(outlook.grid)
        bands = [
            find_cascade(held, mark_price=mark, change=c, mild=mild, harsh=harsh, participation=asked.participation)
            for c in asked.changes
        ]
    return {
        **about(outlook),
        "daily_volatility": volatility,
        "daily_volume_usd": None if volume is None else volume * mark,
        "participation": asked.participation,
        "stress": asked.stress,
        "harsh_impact": harsh_name,
        "cascades": [_band_json(mark, c, b) for c, b in zip(asked.changes, bands, strict=False)],
        "missing": [
            *(["volatility: too few hours are known"] if volatility is None else []),
            *(["volume: too few hours are known"] if volume is None else []),
        ],
        "note": "a band between two impact models, not a forecast; levels are estimated",
    }


def _held(grid: LiquidationGrid) -> LiquidationGrid:
    """Cut a grid to the bins that hold anything: `read_outlook` asks for more than is known."""
    at = np.flatnonzero(grid.long_usd[-1] + grid.short_usd[-1])
    if not len(at):
        return grid
    middle = np.sqrt(grid.price_edges[1:] * grid.price_edges[:-1])
    return grid.crop(float(middle[at[0]]), float(middle[at[-1]]))


def _harsh(asked: WhatIf, mark: float, volatility: float, volume_base: float) -> Impact:
    if asked.depth_usd is not None:
        return LinearImpact(0.01 * mark / asked.depth_usd, asked.stress)
    return LinearImpact.from_turnover(volatility, volume_base, stress=asked.stress)


def _band_json(mark: float, change: float, band: CascadeBand) -> dict[str, Any]:
    return {
        "change": change,
        "side": band.side.value,
        "lower": _end_json(mark, band.lower),
        "upper": _end_json(mark, band.upper),
    }


def _end_json(mark: float, end: CascadeEnd) -> dict[str, Any]:
    return {
        "impact": end.impact,
        "price": end.price,
        "change": end.price / mark - 1,
        "liquidated_usd": end.liquidated_usd,
        "amplification": end.amplification,
        "branching": end.branching,
        "beyond_known": end.beyond_known,
    }


def _about(statuses: Sequence[MarketStatus]) -> dict[str, Any]:
    lead = statuses[0]
    return {
        "symbol": lead.base,
        "venues": [s.exchange for s in statuses],
        "origin": lead.origin.value,
        "as_of_ms": max(s.as_of_ms for s in statuses),
        "basis": {"levels": "estimated"},
    }


def about(outlook: Outlook) -> dict[str, Any]:
    """Say of what and of when an answer is."""
    return {**_about(outlook.statuses), "mark_price": outlook.mark_price}


def position_json(outlook: Outlook, plan: Plan, clusters: tuple[Cluster, ...]) -> dict[str, Any]:
    """Work a position out, and say where a stop would go.

    Raises
    ------
    ParameterError
        If its values do not fit together.
    """
    told = work_out(plan)
    stop = place_stop(
        clusters,
        side=plan.side,
        mark_price=plan.mark_price,
        atr_1h=atr_1h(outlook.bars),
        liquidation_price=told.liquidation_price,
    )
    at = plan.mark_price if told.liquidation_price is None else told.liquidation_price
    held = plan.value(told.quantity, at)
    days = plan.days or 1.0
    sigma = hourly_volatility(outlook.bars)

    def reach(price: float | None) -> dict[str, Any]:
        if price is None:
            return {"price": None, "distance": None, "touch_probability": None}
        away = math.log(price / plan.mark_price)
        passed = plan.side.sign * away >= 0  # nothing is left to be touched
        touch = None if sigma is None or passed else touch_probability(away, sigma, 24 * days)
        return {"price": price, "distance": math.expm1(away), "touch_probability": touch}

    return {
        **about(outlook),
        "mark_price": plan.mark_price,
        "position": _plan_json(plan),
        "quantity": told.quantity,
        "realised": told.realised,
        "funding": told.funding,
        "margin": told.margin,
        "equity": told.equity,
        "maintenance_margin": told.maintenance_margin,
        "margin_ratio": told.margin_ratio,
        "leverage": told.leverage,
        "liquidated": told.liquidated,
        "warnings": _warnings(outlook, plan),
        "liquidation": reach(told.liquidation_price),
        "margin_call": {"at_ratio": plan.call, **reach(told.call_price)},
        "bankruptcy": reach(told.bankruptcy_price),
        "horizon_days": days,
        "tier": told.tier,
        "closing": asdict(told.closing),
        "closings": {s.exchange: asdict(closing_of(s.exchange, plan.brackets, held)) for s in outlook.statuses},
        "stop": stop_json(stop),
        "unit": "coin" if plan.contract == "inverse" else "quote",
    }


def _warnings(outlook: Outlook, plan: Plan) -> list[str]:
    """Say what the venue would not allow."""
    most = next((s.max_leverage for s in outlook.statuses if s.exchange == plan.exchange), math.inf)
    leverage = plan.value(plan.quantity, plan.entry_price) / plan.margin
    if plan.cross or leverage <= most * (1 + 1e-6):
        return []
    return [f"{venue_name(plan.exchange)} allows at most {most:g}x here, this is {leverage:,.4g}x"]


def _plan_json(plan: Plan) -> dict[str, Any]:
    tiers = [[b.notional_floor, b.maintenance_margin_rate, b.maintenance_amount] for b in plan.brackets]
    return asdict(plan) | {"side": plan.side.value, "brackets": tiers}


def _stop_beside(
    outlook: Outlook, side: Side, clusters: tuple[Cluster, ...], liquidation: float | None
) -> dict[str, Any]:
    mark, atr = outlook.mark_price, atr_1h(outlook.bars)
    if liquidation is not None and side.sign * (mark - liquidation) <= 0:
        where = "below" if side is Side.LONG else "above"
        return stop_json(
            Stop(None, f"a {side} is liquidated {where} the mark {price_text(mark)}, "
                 f"not at {price_text(liquidation)}", None, None)
        )  # fmt: skip
    return stop_json(place_stop(clusters, side=side, mark_price=mark, atr_1h=atr, liquidation_price=liquidation))


def stop_json(stop: Stop) -> dict[str, Any]:
    """Tell where a stop goes, or why there is none."""
    return {
        "price": stop.price,
        "refused": stop.refused,
        "room": stop.room,
        "cluster": None if stop.cluster is None else cluster_json(stop.cluster),
    }


def _missing(outlook: Outlook) -> list[str]:
    missing = []
    if outlook.open_interest_usd is None:
        missing.append("open interest: a venue of the view has none, and clusters are shares of it")
    if hourly_volatility(outlook.bars) is None:
        missing.append("volatility: too few hours are known for a hitting probability")
    return missing
