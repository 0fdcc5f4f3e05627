"""The assumptions in force, each with its value, and how a level is made: taken from the program, not written down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any, Final, cast

from dashboard.frame import NotReady
from dashboard.pages import drawings
from dashboard.pages.shell import Part
from dashboard.readings import source_words
from dashboard.view import RANGES
from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, FEE_IN_MAINTENANCE, HOUR_MS, MINUTE_MS, ContractType, Origin
from estimator.errors import CacheError
from estimator.model.calibration import Calibration
from estimator.model.clusters import ClusterRules
from estimator.model.grid import LEVELS, TIERS
from estimator.model.parameters import SHARES, Parameters, Preset
from estimator.units import utc_text, venue_name

PATH: Final = "/method"
_MEASURED: Final = (
    ("Candles, volume, mark price, open interest, funding, account ratio", "measured", "as the venue publishes them"),
    ("Liquidation prints: tape, bubbles, bars, 24 h totals", "measured", "as far as a venue prints them: see below"),
    ("Entries, leverages and holding times of positions", "assumed", "nobody publishes them"),
    ("Levels, map, clusters, max pain, predicted liquidations", "estimated", "by the position book, from the above"),
)
_LIMITS: Final = (
    "No venue publishes who holds what at which leverage: levels are estimates, and a wrong mix moves them.",
    "A position counts whole at its first liquidation price: partial liquidation is not modelled.",
    "The rate of a market's first maintenance tier is used for all sizes; large positions are liquidated earlier.",
    "Margin that is added later shows only through the effective leverages: they are lower than the labels.",
    "The book does not know who traded. Openings are told from closings by the change of open interest and the volume.",
    "Side mass is uncertain: open interest is equal on both sides, which part of it is at risk is not known.",
    "That the price is drawn to clusters is unproven.",
)

# Field of `Parameters` -> unit, source, reason. A test holds the names against the fields.
REASONS: Final[dict[str, tuple[str, str, str]]] = {
    "leverages": ("notional / margin", "judgement", "what really backs a position, cross margin and top-ups included"),
    "shares": ("share of openings", "scored", "the sharpest mix whose scores are within noise of the best"),
    "sigmas": (
        "of ln distance",
        "scored",
        "high leverage is spread, not a comb of lines; sharp where it costs nothing",
    ),
    "volatility_scaling": (
        "exponent",
        "scored",
        "leverage follows how much a market usually moves: the largest gain on real positions; 0 would be off",
    ),
    "usual_volatility": ("ln price a day", "scored", "where the shares hold as they are; a usual day of BTC"),
    "volatility_days": (
        "days",
        "scored",
        "markets differ in leverage, times hardly: a short memory costs on daily totals",
    ),
    "volatility_prior_days": ("days", "judgement", "so that a new book does not follow its first days"),
    "tau_hours": ("h", "scored", "equal for all: shorter for high leverage scored worse on real data"),
    "churn": (
        "share of volume",
        "scored",
        "volume beyond the change of open interest that opens anew; 0 to .4 score alike",
    ),
    "sink_share": ("share of openings", "judgement", "hedgers, market makers, unlevered: never at risk in range"),
    "sink_tau_hours": ("h", "judgement", "they hold longer than traders do"),
    "background_share": (
        "share of near mass",
        "scored",
        "entries nobody can know; better than none on real liquidations",
    ),
    "background_near": ("ln price", "definition", "where the mass is counted that the background is a share of"),
    "background_range": ("ln price", "judgement", "how far the background reaches"),
    "ratio_lean": ("exponent", "scored", "no lean to one side tried so far was better than none: off"),
    "bin_width": ("ln price", "definition", "finer than anything that can be known, coarse enough to be quick"),
    "n_bins": ("bins", "definition", "the window the book keeps around the price"),
}
_PER_BUCKET: Final = ("leverages", "shares", "sigmas", "tau_hours")
CLUSTER_UNITS: Final = {
    "smoothing": "ln price", "background": "ln price", "window": "ln price", "prominence": "of the highest contrast",
    "least_contrast": "of the background", "separation": "ln price", "relative_height": "of the prominence",
    "least_share": "of open interest",
}  # fmt: skip


async def page(statuses: Callable[[], Awaitable[list[MarketStatus]]], cache: Cache) -> Part:
    """Return the page; without markets it shows the defaults and says so."""
    try:
        known: Sequence[MarketStatus] = [s for s in await statuses() if s.loaded]
        told = await asyncio.to_thread(cache.get_capabilities)
    except (NotReady, CacheError):
        known, told = (), {}
    return await asyncio.to_thread(build, known, told)


def build(statuses: Sequence[MarketStatus], capabilities: Mapping[str, Mapping[str, Any]]) -> Part:
    """Return the page for these markets, and what their venues declare where they are live. Blocks a little."""
    preset = cast("Preset", statuses[0].preset) if statuses else "balanced"
    parameters = Parameters.preset(preset)
    example = statuses[0] if statuses else None
    sections = (
        ("what", "What is measured, what is estimated", _measured(statuses)),
        ("made", "How a level is made", _pictures(example, preset)),
        ("assumed", "Assumptions", _assumptions(preset, parameters)),
        ("fitted", "Markets that go by their own liquidations", _fitted(statuses)),
        ("clusters", "When density counts as a cluster", _clusters()),
        ("venues", "Venues and their rules", _venues(statuses, capabilities)),
        ("kept", "What a range is drawn from", _levels()),
        ("limits", "Limits", "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in _LIMITS) + "</ul>" + _MORE),
    )
    contents = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{escape(title)}</h2>{text}</section>' for name, title, text in sections)
    text = (
        f'<article class="text"><h1>Method</h1>{_lead(statuses, preset, parameters)}'
        f'<nav class="contents" aria-label="On this page"><ul>{contents}</ul></nav>{body}</article>'
    )
    banner = source_words(statuses[0]) if statuses else ""
    words = "The assumptions behind the levels, every one with its value."
    return Part(PATH, "Method", words, text, banner=banner, origin=statuses[0].origin if statuses else None)


def _lead(statuses: Sequence[MarketStatus], preset: str, parameters: Parameters) -> str:
    where = (
        f"{len(statuses)} markets are followed here, {escape(statuses[0].origin.upper())}."
        if statuses
        else "No market is loaded yet: these are the defaults."
    )
    return (
        f"<p>Everything on this page is read from the running program. {where} Mix of leverages in force: "
        f"<b>{escape(preset)}</b>, parameters <code>{parameters.version}</code>: two charts with the same code were "
        "made with the same assumptions.</p>"
    )


_MORE: Final = (
    "<p>The whole derivation with its formulas is in <code>docs/method.md</code>, the words in "
    "<code>docs/vocabulary.md</code>, the venues in <code>docs/exchanges.md</code>, all of them beside the source. "
    'For machines: <a href="/docs">the API</a>.</p>'
)


def _measured(statuses: Sequence[MarketStatus]) -> str:
    rows = [(*r[:1], f'<b class="basis {r[1]}">{r[1]}</b>', escape(r[2])) for r in _MEASURED]
    table = _table("Basis of what is shown", ("What", "Basis", "How"), [(escape(r[0]), *r[1:]) for r in rows])
    if statuses and statuses[0].origin is Origin.SIMULATED:
        return table + "<p><b>Here all of it is simulated</b>: the rows say what the words mean on a real market.</p>"
    return table


def _pictures(example: MarketStatus | None, preset: Preset) -> str:
    maintenance, leverage, contract = 0.005, 125.0, "linear"
    name = "a market with the usual rules (nothing is loaded yet)"
    if example is not None and example.maintenance_margin_rate is not None:
        maintenance = example.maintenance_margin_rate + (example.maintenance_fee_rate or 0.0)
        leverage, contract = example.max_leverage, example.contract
        name = f"{example.symbol} on {venue_name(example.exchange)}"
    opening = drawings.open_at_one_price(preset, cast("ContractType", contract), maintenance, leverage)
    one = f"""<b>1. One opening.</b> Somebody opens at one price of {escape(name)}; nobody says with which
leverage. Each row is an effective leverage with its share of openings. Maintenance margin with the fee in it is
{100 * maintenance:.3g}&nbsp;%, at most {leverage:g}x. Rows are scaled each to itself."""
    many = f"""<b>2. Added up.</b> Weighted by their shares, without the {100 * opening.sink_share:g}&nbsp;% never at
risk in range, they are the levels of that opening. Every candle adds such a shape around the prices it traded at,
and older ones fade as positions close. {_tier_legend()}"""
    left = f"""<b>3. Swept.</b> The price falls by {100 * drawings.FALL:g} %. Levels it has passed are gone for good and
count as predicted liquidations (hollow); the rest stays where it was."""
    figures = (drawings.by_bucket(opening), one), (drawings.added_up(opening), many), (drawings.swept(opening), left)
    return "".join(f'<figure tabindex="0">{svg}<figcaption>{words}</figcaption></figure>' for svg, words in figures)


def _tier_legend() -> str:
    names = (f'<span><i class="tier-{at}"></i>{escape(t.name)}</span>' for at, t in enumerate(TIERS))
    return f'<span class="swatches">{"".join(names)}</span>'


def _assumptions(preset: Preset, parameters: Parameters) -> str:
    single = [f.name for f in fields(parameters) if f.name not in _PER_BUCKET]
    rows = [(name, _plain(getattr(parameters, name)), *REASONS[name]) for name in single]
    shared = [(name, "see below", *REASONS[name]) for name in _PER_BUCKET]
    head = ("Parameter", "Value", "Unit", "From", "Why")
    table = _table("Assumptions of the position book", head, [_codes(r) for r in (*shared, *rows)])
    shares = {name: dict(zip(parameters.leverages, values, strict=True)) for name, values in SHARES.items()}
    buckets = [
        (
            f"{leverage:g}x",
            *(_share(shares[name][leverage], current=name == preset) for name in SHARES),
            _plain(sigma),
            _plain(tau),
        )
        for leverage, sigma, tau in zip(parameters.leverages, parameters.sigmas, parameters.tau_hours, strict=True)
    ]
    names = (f"Share, {n}{' (in force)' if n == preset else ''} [%]" for n in SHARES)
    return table + _FROM + _table(
        "Buckets of effective leverage", ("Leverage", *names, "Sigma of ln distance", "Holding time, relative [h]"),
        buckets, numbers=True,
    )  # fmt: skip


_FROM: Final = (
    "<p><b>Scored</b>: chosen by scores on real liquidations and positions, the sharpest of those that score alike. "
    "<b>Judgement</b>: what is plausible, not settled by scores. <b>Definition</b>: how things are counted.</p>"
)


def _fitted(statuses: Sequence[MarketStatus]) -> str:
    rows = [_fit(s, s.calibration) for s in statuses if s.calibration is not None]
    if not rows:
        return "<p>None: all go by the assumptions above. <code>liqheat calibrate</code> fits them.</p>"
    head = (
        "Market", "In force after", "Parameters", "Data from", "to", "Prints fitted, held out",
        "Bits there, before", "after", "95 % of the gain", "Turnover", "Shares of openings [%]",
    )  # fmt: skip
    return _table("Assumptions fitted to markets", head, rows) + (
        "<p>Fitted to the first two thirds of the prints, scored on the last third, which it was not fitted to. "
        "Columns published before keep what they were made with.</p>"
    )


def _fit(status: MarketStatus, found: Calibration) -> tuple[str, ...]:
    p = found.parameters
    buckets = zip(p.leverages, p.shares, strict=True)
    gain = "–" if found.gain_low is None else f"{found.gain_low:+.3f} to {found.gain_high:+.3f}"
    return (
        f"{escape(venue_name(status.exchange))} {escape(status.symbol)}", utc_text(status.calibrated_ms or 0),
        f"<code>{p.version}</code>", utc_text(found.first_ms), utc_text(found.last_ms),
        f"{found.fitted:,}, {found.held:,}", f"{found.before:.3f}", f"{found.after:.3f}", gain, f"{p.churn:g}",
        ", ".join(f"{leverage:g}x {100 * share:.3g}" for leverage, share in buckets),
    )  # fmt: skip


def _share(value: float, *, current: bool) -> str:
    text = f"{100 * value:.4g}"
    return f"<b>{text}</b>" if current else text


def _clusters() -> str:
    rules = ClusterRules()
    rows = [(f.name, _plain(getattr(rules, f.name)), CLUSTER_UNITS[f.name]) for f in fields(rules)]
    return _table("Rules of clusters", ("Rule", "Value", "Unit"), [_codes(r) for r in rows]) + (
        "<p>Levels are smoothed along log price; a peak that stands out is a cluster. Estimated, like the levels.</p>"
    )


def _venues(statuses: Sequence[MarketStatus], capabilities: Mapping[str, Mapping[str, Any]]) -> str:
    if not statuses:
        return "<p>No market is loaded yet.</p>"
    rows = [
        _venue(name, [s for s in statuses if s.exchange == name])
        for name in dict.fromkeys(s.exchange for s in statuses)
    ]
    table = _table("Rules in force, from the markets followed", _VENUE_HEAD, rows)
    if not capabilities:
        return table + "<p>These markets are not live: no venue stands behind them.</p>"
    told = [(escape(name), *_capability(said)) for name, said in capabilities.items()]
    return table + _table("What the venues give without a key", _CAPABILITY_HEAD, told)


_VENUE_HEAD: Final = (
    "Venue", "Markets", "Maximum leverage", "Maintenance, first tier [%]", "Fee in maintenance [%]", "Funding every",
    "Prints",
)  # fmt: skip
_CAPABILITY_HEAD: Final = (
    "Venue", "Liquidations", "Price of a print", "Positions", "Open interest", "Account ratio", "Maintenance tiers",
    "Known oddities",
)  # fmt: skip


def _venue(name: str, statuses: Sequence[MarketStatus]) -> tuple[str, ...]:
    hours = sorted({s.funding_interval_ms / HOUR_MS for s in statuses if s.funding_interval_ms})
    prints = sum(s.has_prints for s in statuses)
    return (
        escape(venue_name(name)),
        str(len(statuses)),
        _span((s.max_leverage for s in statuses), unit="x"),
        _span((s.maintenance_margin_rate for s in statuses), scale=100),
        _span((s.maintenance_fee_rate for s in statuses), scale=100) if name in FEE_IN_MAINTENANCE else "not counted",
        ", ".join(f"{h:g} h" for h in hours) or "not said",
        f"{prints} of {len(statuses)} markets" if prints else "none seen",
    )


def _capability(said: Mapping[str, Any]) -> tuple[str, ...]:
    def depth(history: Mapping[str, Any] | None) -> str:
        if history is None:
            return "no history"
        days = history["depth_ms"] and history["depth_ms"] / DAY_MS
        return f"every {history['granularity_ms'] / MINUTE_MS:g} min, " + (
            f"{days:g} days back" if days else "all of it"
        )

    notes = "".join(f"<li>{escape(n)}</li>" for n in said["notes"])
    return (
        escape(_COMPLETENESS.get(said["liquidations"], said["liquidations"])),
        escape((said["liquidation_price_kind"] or "–").replace("_", " ")),
        "by account" if said.get("positions") else "none",
        f"in {escape(said['open_interest_unit'])}, {depth(said['open_interest_history'])}",
        depth(said["ratio_history"]),
        "as the venue lists them" if said["brackets"] == "public" else "rule: m = 1 / (2 · maximum leverage)",
        f"<ul>{notes}</ul>" if notes else "–",
    )


_COMPLETENESS: Final = {
    "full": "all of them", "sampled": "a sample: shape, not size", "partial": "some of them", "none": "none",
}  # fmt: skip


def _levels() -> str:
    rows = [
        (_hours(level.interval_ms), str(level.price_factor), f"{level.keep_ms / DAY_MS:g} days",
         ", ".join(r.name for r in RANGES.values() if r.level == at) or "–")
        for at, level in enumerate(LEVELS)
    ]  # fmt: skip
    return _table("Stored columns", ("A column every", "Bins merged", "Kept", "Ranges"), rows) + (
        "<p>A stored column is never rewritten: what you saw is what was known then.</p>"
    )


def _hours(interval_ms: int) -> str:
    return f"{interval_ms / MINUTE_MS:g} min" if interval_ms < HOUR_MS else f"{interval_ms / HOUR_MS:g} h"


def _span(values: Iterable[float | None], *, scale: float = 1.0, unit: str = "") -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return f"{low:.4g}{unit}" if low == high else f"{low:.4g}\N{EN DASH}{high:.4g}{unit}"


def _plain(value: float) -> str:
    return f"{value:g}" if value != int(value) else f"{int(value):,}"


def _codes(row: Sequence[str]) -> tuple[str, ...]:
    return f"<code>{escape(row[0])}</code>", *(escape(c) for c in row[1:])


def _table(caption: str, head: Iterable[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Return a table; its cells are markup already."""
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = "".join(f'<tr><th scope="row">{r[0]}</th>{"".join(f"<td>{c}</td>" for c in r[1:])}</tr>' for r in rows)
    kind = ' class="numbers"' if numbers else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
