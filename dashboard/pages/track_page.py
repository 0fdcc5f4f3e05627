"""The page of the track record: its filter, pictures, tables and words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from dashboard.frame import NotReady
from dashboard.pages.shell import Part
from dashboard.pages.sorting import Order, head
from dashboard.pages.track import (
    ALL,
    BASELINES,
    COLUMNS,
    HORIZONS,
    PATH,
    PUBLISHED,
    Summary,
    TrackQuery,
    count,
    percent,
    read_record,
)
from dashboard.pages.track_plots import Interval, Whisker, calibration, plain_heads, whiskers
from dashboard.readings import source_words
from estimator.cache import Cache, MarketStatus
from estimator.domain import BANKRUPTCY_PRINTS, Origin
from estimator.errors import CacheError
from estimator.units import short_usd, utc_text, venue_name


async def page(statuses: Callable[[], Awaitable[list[MarketStatus]]], cache: Cache, query: TrackQuery) -> Part:
    """Return the page; without markets it says that nothing is loaded.

    Raises
    ------
    ViewError
        If the coin or the venue is not on offer.
    """
    try:
        known: Sequence[MarketStatus] = await statuses()
        query.check(known)
        record = await asyncio.to_thread(read_record, cache, query)
    except (NotReady, CacheError):
        known, record = (), None
    return build(known, query, record)


def build(statuses: Sequence[MarketStatus], query: TrackQuery, record: Mapping[str, Any] | None) -> Part:
    """Return the page of a record."""
    one = None if record is None else record["horizons"].get(query.horizon)
    body = _nothing(bool(statuses)) if record is None or one is None else _sections(record, query, one)
    text = f'{_filter(statuses, query)}<article class="text"><h1>Track record</h1>{_LEAD}{body}{_ABOUT}</article>'
    lead = statuses[0] if statuses else None
    words = "How the levels that were shown did against what was liquidated afterwards, wins and losses alike."
    banner = source_words(lead) if lead else ""
    return Part(PATH, "Track record", words, text, "track.js", banner=banner, origin=lead.origin if lead else None)


def _filter(statuses: Sequence[MarketStatus], query: TrackQuery) -> str:
    coins = [ALL, *dict.fromkeys(s.base for s in statuses)]
    venues = [ALL, *sorted({s.exchange for s in statuses})]
    sorting = _sorting(query.order)
    download = escape(f"/api/v1/track-record?{urlencode([*_part(query), *sorting])}")
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in (*sorting, *parse_qsl(query.look.query()))
    )
    return f"""<form class="bar tools page-tools" role="search" action="{PATH}" id="filter">
<label class="tool"><span class="tool-name">Coin</span>{_select("symbol", coins, query.symbol)}</label>
<label class="tool"><span class="tool-name">Venue</span>{_select("venue", venues, query.venue)}</label>
<label class="tool"><span class="tool-name">Ahead</span>{_select("horizon", HORIZONS, query.horizon)}</label>
{hidden}<button type="submit" class="tool tool-button" id="show">Show</button>
<div class="spacer"></div>
<a class="tool tool-button" href="{download}&amp;format=csv" download="liqheat-track-record.csv">CSV</a>
<a class="tool tool-button" href="{download}&amp;format=json">JSON</a>
</form>"""


def _part(query: TrackQuery) -> list[tuple[str, str]]:
    return [("symbol", query.symbol), ("venue", query.venue), ("horizon", query.horizon)]


def _sorting(order: Order | None) -> list[tuple[str, str]]:
    return [] if order is None else [("sort", order.key), ("order", order.word)]


def _heads(query: TrackQuery, *keys: str, **hints: str) -> str:
    """Return heads that lead to the page in another order."""

    def address(order: Order) -> str:
        return f"{PATH}?{urlencode([*_part(query), *_sorting(order), *parse_qsl(query.look.query())])}"

    columns = {c.key: c._replace(hint=hints.get(c.key, c.hint)) for c in COLUMNS}
    return "".join(head(columns[key], query.order, address) for key in keys)


def _select(name: str, values: Iterable[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{escape(v)}"{" selected" if v == chosen else ""}>'
        f"{escape(venue_name(v) if name == 'venue' and v != ALL else v)}</option>"
        for v in values
    )
    return f'<select name="{name}" id="{name}">{options}</select>'


def _nothing(loaded: bool) -> str:  # noqa: FBT001 - one of two states of one page
    words = (
        "The first scores come an hour after the first column was shown, where liquidations came meanwhile. Simulated "
        "and recorded markets are scored from the past that is shown, a few minutes after the start."
        if loaded
        else "No market is loaded yet."
    )
    return f'<section class="state" id="state" role="status"><h2>No scores yet</h2><p>{words}</p></section>'


def _sections(record: Mapping[str, Any], query: TrackQuery, one: Summary) -> str:
    parts = [_state(record, query, one)]
    if one["models"]:
        parts += [_gains(one, query), _numbers(one, query), _calibration(one)]
    return "".join(
        (*parts, _clusters({**one["clusters"], "words": one["words"]["clusters"]}, query), _provenance(record, one))
    )


def _state(record: Mapping[str, Any], query: TrackQuery, one: Summary) -> str:
    n = one["n"]
    where = f"{'All coins' if query.symbol == ALL else escape(query.symbol)}, " + (
        "all venues" if query.venue == ALL else escape(venue_name(query.venue))
    )
    counts = (
        f"{where}, {query.horizon} ahead: {n['prints']:,} liquidations of {short_usd(n['usd'])} on "
        f"{count(n['days'], 'day')}, against {n['closes']:,} columns of markets.{_overlap(query.horizon)}"
    )
    simulated = (
        "<p><b>Simulated.</b> This record is about a market this program made up; it says nothing about real ones. "
        "Columns from before the start were computed then, each from what came before it; the record begins anew with "
        "every start.</p>"
        if record["origin"] == Origin.SIMULATED.value
        else "<p><b>Recorded.</b> Columns were computed from the recording, each from what came before it.</p>"
        if record["origin"] == Origin.RECORDED.value
        else ""
    )
    state = "few" if not one["enough"] else "enough"
    return (
        f'<section class="state" id="state" data-state="{state}" role="status"><p>{counts}</p>'
        f"<p><b>{escape(one['words']['levels'])}</b></p>{simulated}</section>"
    )


def _overlap(horizon: str) -> str:
    """Say how often a liquidation counts: a column of every hour is held against all the hours after it."""
    hours = int(horizon.removesuffix("h"))
    return "" if hours == 1 else f" These {hours} hours overlap: each liquidation counts up to {hours} times."


def _gains(one: Summary, query: TrackQuery) -> str:
    rows = [
        Whisker(name, BASELINES.get(name, name), interval, _interval_text(interval, 2))
        for name, interval in one["gain"].items()
    ]
    title = "Bits of the shown levels over each baseline; right of the line is better"
    picture = whiskers(title, rows, (_heads(query, "model"), _heads(query, "gain")))
    return f'<section id="gain"><h2>Against the baselines</h2><figure>{picture}{_GAIN_NOTE}</figure></section>'


def _numbers(one: Summary, query: TrackQuery) -> str:
    rows = "".join(
        f'<tr><th scope="row" title="{escape(BASELINES.get(name, "the levels as they were shown"))}">'
        f"{'<b>shown levels</b>' if name == PUBLISHED else escape(name)}</th>"
        f"<td>{_interval_text(told['bits'], 2)}</td><td>{_interval_text(told['capture'], 0, share=True)}</td>"
        f"<td>{_plain(told['calibration']['slope'])}</td><td>{_interval_text(told['side_right'], 0, share=True)}</td>"
        f"<td>{_interval_text(told['side_error'], 1)}</td><td>{_plain(told['sharpness'])}</td></tr>"
        for name, told in one["models"].items()
    )
    pairs = f"of {one['models'][PUBLISHED]['side_pairs']} columns with liquidations on both sides"
    heads = _heads(query, "model", "bits", "capture", "slope", "side", "error", "sharpness", side=pairs)
    return (
        '<section id="numbers"><h2>In numbers</h2><div class="scroll" tabindex="0" role="region" '
        'aria-label="Scores of every model, scrolls sideways"><table class="numbers"><caption class="off-screen">'
        f"Scores of every model. Column heads sort.</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
        "</table></div></section>"
    )


def _calibration(one: Summary) -> str:
    told = one["models"][PUBLISHED]["calibration"]
    slope = "not known yet" if told["slope"] is None else f"{told['slope']:.2f}"
    return (
        '<section id="calibration"><h2>Is dense as dense as it says?</h2><figure>'
        f"{calibration(told['groups'])}<figcaption>Crossed prices put together by how dense they were shown. On the "
        "line, twice as dense means twice as much liquidated. The size of a dot is its share of the prices, one at the "
        f"lower edge saw nothing. Slope <b>{slope}</b>; 1 is calibrated, less is overconfident.</figcaption></figure>"
        "</section>"
    )


def _clusters(found: Summary, query: TrackQuery) -> str:
    rows = [
        Whisker("touched", "clusters the price reached", found["touched"], _rate(found["touched"]), zero=False),
        Whisker("random walk", "what a driftless walk of that volatility would touch", found["expected"],
                _rate(found["expected"]), zero=False),
        Whisker("touched, other side empty", "of clusters with none at the same distance on the other side",
                found["pairs_touched"], _rate(found["pairs_touched"]), zero=False),
        Whisker("the other side", "the same distance on the other side of the price", found["mirror_touched"],
                _rate(found["mirror_touched"]), zero=False),
    ]  # fmt: skip
    picture = whiskers(f"Share reached within {query.horizon}", rows, plain_heads("%, 95 %")) if found["n"] else ""
    return (
        f'<section id="clusters"><h2>Do clusters attract the price?</h2><p><b>{escape(found["words"])}</b></p>'
        f"<figure>{picture}<figcaption>{count(found['n'], 'cluster')} with a chance of at least 2 % to be touched, as "
        "shown at full hours. The chance is that of a random walk with the volatility of the last three days; a "
        "cluster that is only as likely as its mirror image attracts nothing.</figcaption></figure></section>"
    )


def _provenance(record: Mapping[str, Any], one: Summary) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(v['parameters_version'])}</code></td><td>{escape(v['code_version'])}</td>"
        f"<td>{v['units']:,}</td><td>{utc_text(v['first_ms'])}</td><td>{utc_text(v['last_ms'])}</td></tr>"
        for v in one["versions"]
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Versions, scrolls sideways">'
        '<table class="numbers"><thead><tr><th>Parameters</th><th>Scoring</th><th>Sides of columns</th><th>First</th>'
        "<th>Last</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    made = "" if record["made_ms"] is None else f"<p>Summed up {utc_text(record['made_ms'])} UTC. "
    return (
        f'<section id="provenance"><h2>What was scored</h2>{made}Source: {escape(str(record["source"]))}. A score is '
        f"given once and kept; it does not change when the parameters do.</p>{table}</section>"
    )


def _interval_text(interval: Interval, digits: int, *, share: bool = False) -> str:
    value, low, high = interval
    if value is None:
        return "–"
    if share:
        return f"{percent(value)}{_between(low, high, lambda v: percent(v).removesuffix(' %'))}"
    return f"{_signed(value, digits)}{_between(low, high, lambda v: _signed(v, digits))}"


def _between(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f" <small>{text(low)} to {text(high)}</small>"


def _rate(interval: Interval) -> str:
    return _interval_text(interval, 0, share=True)


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # adding 0 makes -0 plain


def _plain(value: float | None) -> str:
    return "–" if value is None else _signed(value, 2)


_LEAD: Final = (
    "<p>Every full hour the levels as they were shown are held against what was liquidated in the hours after, in the "
    "prices that were crossed, for longs and shorts apart. Nothing is computed again afterwards: what was shown is "
    "what is scored.</p>"
)
_GAIN_NOTE: Final = (
    "<figcaption>A bit more means that liquidations lay, on average, where the shown density was twice that of the "
    "baseline. The line is zero: no better, no worse. Whiskers are 95 % intervals by redrawing whole days; where they "
    "reach over the line nothing is decided.</figcaption>"
)
_ABOUT: Final = (
    '<section id="about"><h2>How it is scored</h2><ul>'
    "<li>Baselines are computed for the same moment from the candles and the open interest up to it.</li>"
    "<li>Only hours count in which the venue's liquidations were heard all the time, and columns that were shown "
    "within five minutes of their close. A liquidation counts up to 1 M USD.</li>"
    f"<li>{' and '.join(venue_name(name) for name in sorted(BANKRUPTCY_PRINTS))} print the price at which a position "
    "is bankrupt; it is brought back to the price that triggered it, by the first maintenance tier. Binance prints "
    "fills of at most one order a second, Gate the limit of the order, Bitget does not say which.</li>"
    "<li>A position opened and liquidated within the horizon counts against every model alike.</li></ul>"
    "<p>Scores on positions, prints and totals that others recorded, with every loss, are in "
    '<code>docs/accuracy.md</code> beside the source; the assumptions are on <a href="/method">Method</a>.</p>'
    "</section>"
)
