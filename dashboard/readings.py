"""The numbers beside the chart: what it shows, from when, from whom, and what is missing."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np

from dashboard.frame import ChartFrame
from dashboard.lens import GAMMA, PERCENTILE, Shading, on_screen
from dashboard.maps import MapNow, summary
from dashboard.marks import missing_runs
from dashboard.measured import venues_json
from dashboard.view import ALL_TIERS, Lens
from estimator.cache import MarketStatus
from estimator.domain import Gap, Origin
from estimator.model.members import MEMBER_NAMES
from estimator.units import venue_name

DENSITY_SPAN: Final = 1e-4  # of the densest cell; what is below reads as nothing
_CODES: Final = 255

_BANNERS: Final = {
    Origin.SIMULATED: "SIMULATED market: prices and liquidations are made up and say nothing about any real one.",
    Origin.RECORDED: "RECORDED data: this is the past, not the market now.",
    Origin.LIVE: "",
}


def build_readings(frame: ChartFrame, shading: Shading, now: MapNow) -> dict[str, Any]:
    """Everything the page writes around the chart, JSON-ready."""
    lead = frame.statuses[0]
    return {
        "symbol": frame.view.symbol, "quote": lead.symbol.partition("/")[2].partition(":")[0],
        "range": frame.view.range,
        "as_of_ms": frame.as_of_ms, "mark_price": frame.mark_price,
        "price_day_before": frame.price_before, "origin": lead.origin.value, "source": lead.source,
        "banner": banner(frame), "loading": list(frame.loading), "preset": lead.preset,
        "basis": {"levels": "estimated", "prints": frame.prints_basis},
        "progress": min(s.progress for s in frame.statuses),
        "interval_ms": frame.interval_ms, "live": frame.live, "window": list(frame.window),
        "provisional": max(s.provisional_until_ms for s in frame.statuses) > int(frame.time_ms[0]) - frame.interval_ms,
        "provisional_until_ms": max(s.provisional_until_ms for s in frame.statuses),
        "venues": [venue_reading(frame, s) for s in frame.statuses],
        "totals": day_totals(frame), "scale": scale_reading(shading), "density": density_codes(shading),
        "map": summary(now), "band": band_codes(frame), "positions": positions_reading(frame),
    }  # fmt: skip


def source_words(status: MarketStatus) -> str:
    """Say that a market is made up or old, and what the worker has to add; nothing where it is live and real."""
    words = [_BANNERS[status.origin]]
    remark = status.source.partition("; ")[2]  # why it is not live, who stands in for whom
    if remark and status.origin is not Origin.RECORDED:
        words.append(f"Shown because {remark}." if status.origin is Origin.SIMULATED else f"NOT THE VENUES: {remark}.")
    return " ".join(w for w in words if w)


def banner(frame: ChartFrame) -> str:
    """Say what nobody may miss: that data is made up or old, why, and what is not in the sums yet."""
    parts = [source_words(frame.statuses[0])]
    if frame.loading:
        parts.append(f"Still being loaded and not in the sums: {', '.join(map(venue_name, frame.loading))}.")
    behind = [s for s in frame.statuses if s.progress < 1]
    if behind:
        parts.append("Older history is being fetched: levels are provisional.")
    return " ".join(p for p in parts if p)


def venue_reading(frame: ChartFrame, status: MarketStatus) -> dict[str, Any]:
    """State of one venue: how old, what is missing in the range."""
    return {
        "exchange": status.exchange, "market": status.id, "as_of_ms": status.as_of_ms, "mark_price": status.mark_price,
        "stale": frame.is_stale(status), "open_interest_base": status.open_interest_base,
        "interval_ms": status.interval_ms,
        "gaps": [{"start_ms": g.start_ms, "end_ms": g.end_ms, "what": g.what} for g in gaps_in_range(frame, status)],
    }  # fmt: skip


def gaps_in_range(frame: ChartFrame, status: MarketStatus) -> list[Gap]:
    """Gaps the source told of and columns that are not there, by start."""
    start, end = int(frame.time_ms[0]) - frame.interval_ms, int(frame.time_ms[-1])
    told = [g for g in status.gaps if g.start_ms < end and g.end_ms > start]
    seen = [Gap(r.start_ms, r.end_ms, "columns") for r in missing_runs(frame) if status.exchange in r.venues]
    # One stretch, one mention: a told gap explains the columns that are missing under it. One of prints does not.
    why = [g for g in told if g.what != "liquidations"]
    untold = [g for g in seen if not any(t.start_ms < g.end_ms and t.end_ms > g.start_ms for t in why)]
    return sorted([*told, *untold], key=lambda g: g.start_ms)


def day_totals(frame: ChartFrame) -> dict[str, Any] | None:
    """Realised liquidations of the last 24 h, None where no venue reports them. [USD]"""
    if frame.day.is_empty():
        return None
    venues = frame.day.select("exchange", "long_usd", "short_usd").to_dicts()
    return {
        "long_usd": sum(v["long_usd"] for v in venues),
        "short_usd": sum(v["short_usd"] for v in venues),
        "venues": venues,
        "largest": frame.largest_print,
    }


def scale_reading(shading: Shading) -> dict[str, Any]:
    """Say where full colour is reached, in USD per .1 % of price; None where nothing is shown."""
    return {
        "long_usd": shading.long_full or None, "short_usd": shading.short_full or None, "gamma": GAMMA,
        "percentile": PERCENTILE, "lens": shading.lens.value, "unit": shading.unit, "least_share": shading.least_share,
    }  # fmt: skip


def positions_reading(frame: ChartFrame) -> dict[str, Any] | None:
    """Say how much of the positions was observed; None where no venue publishes them."""
    if frame.measured is None:
        return None
    return {"basis": frame.observed_basis, "venues": venues_json(frame.measured)}


def band_codes(frame: ChartFrame) -> dict[str, Any] | None:
    """Tell how far the lowest and the highest estimate of a cell lie from the one shown, a byte each; None without.

    ``lowest = shown * low / 255`` and ``highest = shown * 255 / high``; rows are prices, as in `density_codes`.
    """
    if frame.view.lens is not Lens.CERTAIN:
        return None
    if frame.band is None:
        why = (
            "it is for all leverages together; shown is the contrast"
            if frame.view.tiers != ALL_TIERS
            else "it is being computed"
        )
        return {"missing": why}
    grid, cells = frame.grid, on_screen(frame.grid, frame.window)
    shown = (grid.long_usd + grid.short_usd)[:, cells]
    low, high = frame.band.low[:, cells], frame.band.high[:, cells]
    parts = ((low, shown), (shown, high))
    codes = [np.divide(a, b, out=np.ones_like(a), where=b > 0).T for a, b in parts]
    low_text, high_text = (
        base64.b64encode(np.rint(np.clip(c, 0, 1) * _CODES).astype(np.uint8).tobytes()).decode() for c in codes
    )
    return {"low": low_text, "high": high_text, "members": list(MEMBER_NAMES)}


def density_codes(shading: Shading) -> dict[str, Any]:
    """Density of every cell for the reading under the pointer, one byte each.

    ``USD per bin = exp(log_min + code * log_step)``, code 0 for nothing; rows are prices, as in the heatmap's ``z``.
    """
    usd = shading.density_usd.T
    top = float(usd.max(initial=0.0))
    if top <= 0:
        codes, log_min, log_step = np.zeros(usd.shape, dtype=np.uint8), 0.0, 0.0
    else:
        log_min = float(np.log(top * DENSITY_SPAN))
        log_step = float(-np.log(DENSITY_SPAN) / _CODES)
        raw = (np.log(np.maximum(usd, top * DENSITY_SPAN / 2)) - log_min) / log_step
        codes = np.clip(np.rint(raw), 0, _CODES).astype(np.uint8)
    return {
        "bdata": base64.b64encode(codes.tobytes()).decode(), "shape": list(codes.shape), "log_min": log_min,
        "log_step": log_step,
        "per_tenth_percent": shading.per_tenth_percent,
    }  # fmt: skip
