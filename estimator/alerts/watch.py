"""`Watcher`: a thread that looks at the cache every few seconds and tells what the rules say of it.

It reads what everybody reads and holds nothing that the worker needs: slow or broken, it costs alerts and no more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final
from zlib import crc32

import polars as pl

from estimator.alerts.config import AlertConfig, ClusterRule, PrintRule, Rule, SignalRule, StaleRule
from estimator.alerts.delivery import Note, Post
from estimator.alerts.rules import (
    Alert,
    CoinSeen,
    MarketSeen,
    PrintSeen,
    VenueSeen,
    find_cluster_alerts,
    find_print_alerts,
    find_signal_alerts,
    find_stale_alerts,
    wants,
)
from estimator.alerts.targets import make_targets
from estimator.cache import Cache, MarketStatus
from estimator.domain import MINUTE_MS, Liquidation, Origin, Side
from estimator.errors import CacheError
from estimator.hours import hourly_volatility, last_hour, read_hours
from estimator.latest import by_open_interest, open_interest_usd, read_live, read_now
from estimator.model.clusters import Cluster, ClusterRules, find_clusters
from estimator.model.signals import Signals, read_signals

_LOG: Final = logging.getLogger(__name__)
LOOK_S: Final = 2.0
_SLICE_S: Final = 0.5  # of every look, at most, for reading columns anew
_CLUSTERS_S: Final = 60.0  # clusters are found anew this often
_NEWS_MS: Final = 2 * MINUTE_MS  # prints that are older when they are first seen are no news
_RULES_S: Final = 30.0
_RESUMED: Final = 100  # alerts, at most
_RESUMED_MS: Final = 10 * MINUTE_MS
_HORIZON_H: Final = 24.0


@dataclass
class _Group:
    """Markets of one coin that a rule adds up: what was last read of them."""

    hours_key: object = None
    sigma: float | None = None
    signals: Signals | None = None
    clusters: tuple[Cluster, ...] = ()
    read_s: float = -math.inf


class Watcher:
    """Holds rules against the cache and hands on what they tell, once.

    Parameters
    ----------
    cache : Cache
    config : AlertConfig
    post : Post
        Delivers.
    origins : collection of Origin
        Markets of others are left alone.
    shard : (int, int)
        Which of how many workers this is: it watches its coins and venues.
    """

    def __init__(
        self,
        cache: Cache,
        config: AlertConfig,
        post: Post,
        origins: Collection[Origin] = tuple(Origin),
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self._cache, self._config, self._post = cache, config, post
        self._origins, self._shard = frozenset(origins), shard
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._marks: dict[str, bytes] = {}
        self._told_rules_s = -math.inf
        self._error = ""

    def run(self, stop: threading.Event) -> None:
        """Look until stopped; what fails is tried again."""
        resumed = False
        while not stop.wait(LOOK_S):
            try:
                now_ms = time.time_ns() // 1_000_000
                if not resumed:
                    self.resume(now_ms)
                    resumed = True
                self.look(now_ms)
                self._error = ""
            except CacheError as error:
                self._note(str(error))
            except Exception as error:  # noqa: BLE001 - alerts end with the worker, not before
                _LOG.exception("alerts: a mistake of this program, tried again")
                self._note(repr(error))

    def resume(self, now_ms: int) -> None:
        """Send what an earlier run of this worker told lately and had not tried to deliver when it ended."""
        for alert in reversed(self._cache.alerts.recent(_RESUMED)):
            lately = now_ms - alert["told_ms"] <= _RESUMED_MS and alert.get("shard") == self._shard[0]
            if lately and not alert["quiet"] and not alert["deliveries"]:
                self._post.put(Note(alert["id"], alert["title"], alert["text"], alert["severity"]))

    def look(self, now_ms: int) -> list[Alert]:
        """Look once, tell what is new, and return it.

        Raises
        ------
        CacheError
        """
        self._tell_rules()
        announced = [s for s in self._cache.get_statuses() if s.origin in self._origins]
        statuses = [s for s in announced if s.loaded and s.progress >= 1]
        fresh = [*self._prints(statuses), *self._coins(statuses, announced), *self._venues(statuses, now_ms)]
        by_name = {rule.title: rule for rule in self._config.rule}
        return [alert for alert in fresh if self._tell(alert, by_name[alert.rule], now_ms)]

    def _tell(self, alert: Alert, rule: Rule, now_ms: int) -> bool:
        """Keep and send an alert unless it was told already."""
        log = self._cache.alerts
        if not log.claim(alert.key, now_ms, rule.cool_down_ms, event=alert.event, lasting=not alert.event):
            return False
        quiet = self._config.is_quiet(datetime.fromtimestamp(now_ms / 1000, UTC), alert.severity)
        alert_id = log.add({**asdict(alert), "told_ms": now_ms, "quiet": quiet, "shard": self._shard[0]})
        if not quiet:
            self._post.put(Note(alert_id, alert.title, alert.text, alert.severity))
        return True

    def _tell_rules(self) -> None:
        """Let the web know the rules; the first worker does it for all."""
        if self._shard[0] == 0 and time.monotonic() - self._told_rules_s > _RULES_S:
            self._told_rules_s = time.monotonic()
            self._cache.alerts.put_rules(
                [{"name": r.title, "kind": r.kind, "when": r.when()} for r in self._config.rule]
            )

    def _is_mine(self, name: str) -> bool:
        return crc32(name.encode()) % self._shard[1] == self._shard[0]

    # --- prints

    def _prints(self, statuses: Sequence[MarketStatus]) -> list[Alert]:
        rules = [r for r in self._config.rule if isinstance(r, PrintRule)]
        watched = [s for s in statuses if self._is_mine(s.base) and any(wants(r, _market(s)) for r in rules)]
        least = min((r.min_usd for r in rules), default=math.inf)
        seen = [p for s, news in self._news(watched) for p in _large(s, news, least)]
        return [alert for rule in rules for alert in find_print_alerts(rule, seen)]

    def _news(self, watched: Sequence[MarketStatus]) -> Iterator[tuple[MarketStatus, pl.DataFrame]]:
        """Yield prints since the look before; of a market seen for the first time those of the last minutes."""
        first = [s for s in watched if s.id not in self._marks]
        later = self._cache.get_liquidations_after(watched, self._marks)
        # Marks before prints: one that comes in between is seen twice, and told once.
        self._marks |= self._cache.get_newest_print_ids(first) if first else {}
        for status in watched:
            if status.id in later:
                frame, self._marks[status.id] = later[status.id]
                yield status, frame
        for status in first:
            yield status, self._cache.get_liquidations_from(status, status.as_of_ms - _NEWS_MS)[0]

    # --- coins

    def _coins(self, statuses: Sequence[MarketStatus], announced: Sequence[MarketStatus]) -> list[Alert]:
        """Alerts of clusters and signals: what was read is held against the prices of now."""
        rules = [r for r in self._config.rule if isinstance(r, ClusterRule | SignalRule)]
        there = {s.id for s in (announced if self._has_begun() else statuses)}
        loading = {s.base for s in announced if s.id not in there}
        ready = [s for s in statuses if s.base not in loading]
        asked = [(rule, markets) for rule in rules for markets in self._chosen(rule, ready)]
        self._refresh(markets for _, markets in asked)
        found: list[Alert] = []
        for rule, markets in asked:
            group = self._groups.get(_ids(markets))
            if group is None:
                continue
            seen = _coin(markets, group)
            found += (
                find_cluster_alerts(rule, seen) if isinstance(rule, ClusterRule) else find_signal_alerts(rule, seen)
            )
        return found

    def _has_begun(self) -> bool:
        """Whether the start is over: what is not there by then may never be."""
        progress = self._cache.get_progress()
        return progress is not None and progress.done >= 1

    def _chosen(self, rule: Rule, statuses: Sequence[MarketStatus]) -> Iterator[tuple[MarketStatus, ...]]:
        """Yield the markets of a rule, coin by coin, in the order of the page."""
        wanted = [s for s in statuses if self._is_mine(s.base) and wants(rule, _market(s))]
        for coin in dict.fromkeys(s.base for s in wanted):
            yield by_open_interest(s for s in wanted if s.base == coin)

    def _refresh(self, asked: Iterator[tuple[MarketStatus, ...]]) -> None:
        """Read groups anew that are due, those read longest ago first, for a part of a second."""
        now_s = time.monotonic()
        groups = {_ids(markets): markets for markets in asked}
        for gone in self._groups.keys() - groups.keys():
            del self._groups[gone]
        due = sorted((self._read_s(key), key) for key in groups)
        for read_s, key in due:
            if now_s - read_s < _CLUSTERS_S or time.monotonic() - now_s > _SLICE_S:
                return
            self._groups[key] = self._read(groups[key], self._groups.get(key, _Group()))

    def _read_s(self, key: tuple[str, ...]) -> float:
        return self._groups[key].read_s if key in self._groups else -math.inf

    def _read(self, markets: tuple[MarketStatus, ...], before: _Group) -> _Group:
        hours_key = (last_hour(markets), [s.last_ms >= last_hour(markets) for s in markets])
        sigma, signals = before.sigma, before.signals
        if hours_key != before.hours_key:
            bars = read_hours(self._cache, markets)
            sigma, signals = hourly_volatility(bars), read_signals(bars)
        return _Group(hours_key, sigma, signals, self._clusters(markets, sigma), time.monotonic())

    def _clusters(self, markets: tuple[MarketStatus, ...], sigma: float | None) -> tuple[Cluster, ...]:
        held, mark = open_interest_usd(markets), markets[0].mark_price
        closed_ms = max(s.last_ms for s in markets)
        reach = math.exp(2 * ClusterRules().window)
        lives = [read_live(self._cache, s, closed_ms) for s in markets]
        grid = read_now(self._cache, markets, (mark / reach, mark * reach), lives)
        if grid is None or held is None:
            return ()
        return find_clusters(grid, mark_price=mark, open_interest_usd=held, hourly_volatility=sigma, hours=_HORIZON_H)

    # --- venues

    def _venues(self, statuses: Sequence[MarketStatus], now_ms: int) -> list[Alert]:
        rules = [r for r in self._config.rule if isinstance(r, StaleRule)]
        if not rules or Origin.LIVE not in self._origins:
            return []
        return [a for rule in rules for a in find_stale_alerts(rule, self._silent(rule, statuses, now_ms))]

    def _silent(self, rule: StaleRule, statuses: Sequence[MarketStatus], now_ms: int) -> list[VenueSeen]:
        """Venues of a rule with what came last: from their markets, or from the worker where it follows none."""
        last: dict[str, int] = {}
        for status in statuses:
            if status.origin is Origin.LIVE and wants(rule, _market(status)):
                last[status.exchange] = max(status.as_of_ms, last.get(status.exchange, 0))
        problems: dict[str, str] = {}
        for worker in self._cache.get_health():
            for venue in worker.venues:
                if venue.problem is not None and (not rule.venues or venue.name in rule.venues):
                    problems[venue.name] = venue.problem
                    last.setdefault(venue.name, worker.started_ms)
        return [VenueSeen(n, ms, now_ms, problems.get(n)) for n, ms in last.items() if self._is_mine(n)]

    def _note(self, error: str) -> None:
        if error != self._error:
            _LOG.warning("alerts wait: %s", error)
        self._error = error


@contextmanager
def watching(
    cache: Cache, config: AlertConfig, origins: Collection[Origin], shard: tuple[int, int] = (0, 1)
) -> Iterator[None]:
    """Watch and deliver in threads while the block runs.

    Raises
    ------
    SettingsError
        If a target is none.
    """
    stop = threading.Event()
    with Post(make_targets(config.targets) if config.targets else [], cache.alerts, config.digest) as post:
        watcher = Watcher(cache, config, post, origins, shard)
        threading.Thread(target=watcher.run, args=(stop,), name="alerts", daemon=True).start()
        try:
            yield
        finally:
            stop.set()


def _market(status: MarketStatus) -> MarketSeen:
    return MarketSeen(status.exchange, status.symbol, status.base)


def _ids(markets: Sequence[MarketStatus]) -> tuple[str, ...]:
    return tuple(sorted(s.id for s in markets))


def _coin(markets: tuple[MarketStatus, ...], group: _Group) -> CoinSeen:
    first = markets[0]
    return CoinSeen(
        coin=first.base,
        venues=tuple(s.exchange for s in markets),
        origin=first.origin,
        time_ms=max(s.as_of_ms for s in markets),
        mark_price=first.mark_price,
        clusters=group.clusters,
        signals=group.signals,
    )


def _large(status: MarketStatus, frame: pl.DataFrame, least_usd: float) -> Iterator[PrintSeen]:
    """Yield prints that may matter to any rule and are news."""
    recent = pl.col("time").dt.epoch("ms") >= status.as_of_ms - _NEWS_MS
    rows = frame.filter(pl.col("notional_usd") >= least_usd, recent)
    for time_ms, side, price, quantity, usd in rows.with_columns(pl.col("time").dt.epoch("ms")).iter_rows():
        yield PrintSeen(_market(status), status.origin, Liquidation(time_ms, Side(side), price, quantity, usd))
