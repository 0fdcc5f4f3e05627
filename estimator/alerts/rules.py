"""What is seen → what is told of it, in words. Pure: no clock, no Redis, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from estimator.alerts.config import SEVERITIES, ClusterRule, PrintRule, Rule, Severity, SignalRule, StaleRule
from estimator.domain import HOUR_MS, Liquidation, Origin, Side
from estimator.model.clusters import Cluster
from estimator.model.rules import SignalRules
from estimator.model.signals import Reading, Signals
from estimator.model.wording import explain
from estimator.units import price_text, short_usd, span_text, venue_name

_SHARES: Final = (0.0, 0.02, 0.05)  # of open interest in a cluster, by rising severity
_TIMES: Final = (1.0, 3.0, 10.0)  # a print's size over the least one
_NOT_LIVE: Final = {
    Origin.SIMULATED: " This is the simulated market: no real prices.",
    Origin.RECORDED: " This is a recorded market, not a live one.",
}
_LONG_SILENCE: Final = 5.0  # times the seconds of the rule
_FRESH_MS: Final = 3 * HOUR_MS  # a washout that began earlier is not news


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to tell.

    Parameters
    ----------
    rule, kind : str
        Name and kind of its rule.
    severity : str
    market : str
        Coin, market id or venue.
    title, text : str
        One line, and what is behind it.
    time_ms : int
        As of when. [ms]
    origin : Origin
    about : str
        What it is about within its rule and market: the cool-down holds by it.
    event : str
        What happened once; empty for what lasts.
    """

    rule: str
    kind: str
    severity: Severity
    market: str
    title: str
    text: str
    time_ms: int
    origin: Origin
    about: str = ""
    event: str = ""

    @property
    def key(self) -> str:
        """What two alerts about the same have in common."""
        return f"{self.origin.value}|{self.rule}|{self.market}|{self.about}"


class MarketSeen(NamedTuple):
    """A market as rules choose it."""

    venue: str
    symbol: str
    coin: str

    @property
    def id(self) -> str:
        """``exchange:symbol``."""
        return f"{self.venue}:{self.symbol}"


@dataclass(frozen=True, slots=True)
class CoinSeen:
    """A coin on the venues of a rule, added up as on the page.

    Parameters
    ----------
    coin : str
    venues : tuple of str
    origin : Origin
    time_ms : int
    mark_price : float
        Of the venue with most open interest. [quote]
    clusters : tuple of Cluster
    signals : Signals, optional
        Of the last full hour.
    """

    coin: str
    venues: tuple[str, ...]
    origin: Origin
    time_ms: int
    mark_price: float
    clusters: tuple[Cluster, ...] = ()
    signals: Signals | None = None


class PrintSeen(NamedTuple):
    """A liquidation that has just been told."""

    market: MarketSeen
    origin: Origin
    liquidation: Liquidation


class VenueSeen(NamedTuple):
    """A live venue: since when it has been silent, when it is now, and why it is not followed where it is not. [ms]"""

    name: str
    last_ms: int
    now_ms: int
    problem: str | None = None


def wants(rule: Rule, market: MarketSeen) -> bool:
    """Whether a rule is about a market."""
    names = (market.coin, market.symbol, market.id)
    return (not rule.venues or market.venue in rule.venues) and any(
        fnmatchcase(name, glob) for glob in rule.markets for name in names
    )


def find_cluster_alerts(rule: ClusterRule, seen: CoinSeen) -> list[Alert]:
    """Tell of the nearest cluster of either side that is near and large enough."""
    found = []
    for side in Side:
        large = (c for c in seen.clusters if c.side is side and _is_large(c, rule))
        near = [(distance_to(c, seen.mark_price), c) for c in large]
        distance, cluster = min(near, key=lambda n: n[0], default=(1.0, None))
        if cluster is not None and 100 * distance <= rule.distance_percent:
            found.append(_cluster_alert(rule, seen, cluster, distance))
    return _severe(rule, found)


def distance_to(cluster: Cluster, mark_price: float) -> float:
    """Way from the mark to the nearer edge of a cluster, a fraction of the mark; 0 inside and beyond."""
    edge = cluster.high if cluster.side is Side.LONG else cluster.low
    return max(0.0, cluster.side.sign * (mark_price - edge) / mark_price)


def find_signal_alerts(rule: SignalRule, seen: CoinSeen, rules: SignalRules | None = None) -> list[Alert]:
    """Tell of a reading that is active, with every input in words.

    A washout is told once, for the hour that set it off, and only while that is news.
    """
    if seen.signals is None:
        return []
    told = seen.signals
    reading, title = {
        "overheated": (told.overheated_long, "longs look overheated"),
        "squeeze": (told.short_squeeze, "shorts look ready to be squeezed"),
        "washout": (told.washout, "washout"),
    }[rule.kind]
    if not reading.active or (reading.since_ms is not None and told.time_ms - reading.since_ms > _FRESH_MS):
        return []
    text = f"{explain(reading, rules or SignalRules())} Read at the last full hour of {_on(seen.venues)}."
    alert = _make(rule, _signal_severity(reading), seen.coin, seen.origin, told.time_ms, f"{seen.coin}: {title}", text)
    return _severe(rule, [alert if reading.since_ms is None else replace(alert, event=str(reading.since_ms))])


def find_print_alerts(rule: PrintRule, prints: Sequence[PrintSeen]) -> list[Alert]:
    """Tell of prints that are large enough, the largest of a market first."""
    large = [p for p in prints if wants(rule, p.market) and p.liquidation.notional_usd >= rule.min_usd]
    large.sort(key=lambda p: -p.liquidation.notional_usd)
    return _severe(rule, [_print_alert(rule, p) for p in large])


def find_stale_alerts(rule: StaleRule, venues: Iterable[VenueSeen]) -> list[Alert]:
    """Tell of venues that have been silent for too long."""
    found = []
    for venue in venues:
        silent_s = (venue.now_ms - venue.last_ms) / 1000
        if silent_s < rule.seconds:
            continue
        severity: Severity = "critical" if silent_s >= _LONG_SILENCE * rule.seconds else "warning"
        why = f" It is not followed: {venue.problem}." if venue.problem else ""
        name = venue_name(venue.name)
        text = f"Nothing has come from {name} for {span_text(silent_s)}: what is shown of it is that old.{why}"
        title = f"{name}: silent for {span_text(silent_s)}"
        found.append(_make(rule, severity, venue.name, Origin.LIVE, venue.now_ms, title, text))
    return _severe(rule, found)


def _is_large(cluster: Cluster, rule: ClusterRule) -> bool:
    return cluster.mass_usd >= rule.min_usd and 100 * cluster.share >= rule.min_share_percent


def _cluster_alert(rule: ClusterRule, seen: CoinSeen, cluster: Cluster, distance: float) -> Alert:
    severity = SEVERITIES[max(n for n, share in enumerate(_SHARES) if cluster.share >= share)]
    first, last = (cluster.high, cluster.low) if cluster.side is Side.LONG else (cluster.low, cluster.high)
    touch = (
        ""
        if cluster.touch is None
        else f" If the price moved at random it would be there within 24 h with a \
chance of {100 * cluster.touch:.0f} %."
    )
    text = (
        f"Estimated {cluster.side}s worth {short_usd(cluster.mass_usd)} ({100 * cluster.share:.2g} % of open interest) "
        f"would be liquidated from {price_text(first)} to {price_text(last)}. The price is "
        f"{price_text(seen.mark_price)} ({_on(seen.venues)}).{touch}"
    )
    away = f"{100 * distance:.2g} % from" if distance else "at"
    title = f"{seen.coin}: price {away} a cluster of {cluster.side}s"
    return _make(rule, severity, seen.coin, seen.origin, seen.time_ms, title, text, str(cluster.side))


def _signal_severity(reading: Reading) -> Severity:
    return "critical" if all(c.passed for c in reading.conditions) else "warning"


def _print_alert(rule: PrintRule, seen: PrintSeen) -> Alert:
    print_ = seen.liquidation
    severity = SEVERITIES[max(n for n, times in enumerate(_TIMES) if print_.notional_usd >= times * rule.min_usd)]
    size, market = short_usd(print_.notional_usd), seen.market
    title = f"{market.coin}: {print_.side} of {size} liquidated on {venue_name(market.venue)}"
    text = f"A {print_.side} of {size} was liquidated at {price_text(print_.price)} ({market.id})."
    alert = _make(rule, severity, market.id, seen.origin, print_.time_ms, title, text)
    return replace(alert, event=f"{print_.time_ms} {print_.side} {print_.price!r} {print_.quantity_base!r}")


def _make(
    rule: Rule, severity: Severity, market: str, origin: Origin, time_ms: int, title: str, text: str, about: str = ""
) -> Alert:
    """Make an alert; one from a market that is not live says so."""
    mark = "" if origin is Origin.LIVE else f"[{origin.value.upper()}] "
    return Alert(
        rule.title, rule.kind, severity, market, mark + title, text + _NOT_LIVE.get(origin, ""), time_ms, origin, about
    )


def _severe(rule: Rule, found: list[Alert]) -> list[Alert]:
    least = SEVERITIES.index(rule.min_severity)
    return [a for a in found if SEVERITIES.index(a.severity) >= least]


def _on(venues: Sequence[str]) -> str:
    return ", ".join(venues)
