"""What the table of markets shows beside the statuses: a day ago, clusters, max pain, liquidations of the day."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Final

import polars as pl

from dashboard.api import market_json
from dashboard.frame import STALE_MS
from estimator.cache import Cache, MarketStatus
from estimator.domain import Side
from estimator.errors import CacheError
from estimator.hours import funding_8h
from estimator.latest import NOW_COLUMNS, by_open_interest, open_interest_usd, read_day_before, read_live
from estimator.model.clusters import Cluster, find_clusters, max_pain, nearest_cluster
from estimator.model.grid import LEVELS, LiquidationGrid, add_grids

FACTS_S: Final = 15.0  # how old clusters and the changes of a day may be
LEAST_S: Final = 2.0  # between two readings, however many markets come meanwhile
REST: Final = 5.0  # times as long as a reading took until the next one: at most a sixth of one core
REACH: Final = 0.22  # log price around the mark that clusters are found in, background included

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What takes reading the columns and series of a market.

    Parameters
    ----------
    drawn_from : str
        Origin and source, told from those of another run.
    price_before, interest_before : float, optional
        Close and open interest 24 hours before the last column. [quote, base]
    cluster_above, cluster_below : dict, optional
        Nearest clusters: ``price, low, high, usd, share``; estimated.
    long_pain, short_pain : float, optional
        `estimator.model.clusters.max_pain`; estimated.
    """

    drawn_from: str
    price_before: float | None = None
    interest_before: float | None = None
    cluster_above: dict[str, float] | None = None
    cluster_below: dict[str, float] | None = None
    long_pain: float | None = None
    short_pain: float | None = None


def drawn_from(*statuses: MarketStatus) -> str:
    """Name the origin and the source of a market, or of the markets of a coin."""
    return "; ".join(sorted({f"{s.origin} {s.source}" for s in statuses}))


def coin_id(base: str) -> str:
    """Return the id of a coin on all its venues, beside the ids of markets."""
    return f"all:{base}"


def read_facts(cache: Cache, statuses: Sequence[MarketStatus]) -> dict[str, Facts]:
    """Read the facts of one coin's markets, by id, and of all of them together under `coin_id`. Blocks."""
    by_interest = by_open_interest(statuses)
    latest = {s.id: _latest(cache, s) for s in by_interest}
    facts = {}
    for status in by_interest:
        price, interest = read_day_before(cache, status)
        facts[status.id] = _with_levels(Facts(drawn_from(status), price, interest), [status], latest)
    together = _with_levels(Facts(drawn_from(*by_interest)), by_interest, latest)
    return facts | {coin_id(by_interest[0].base): together}


def _with_levels(known: Facts, statuses: Sequence[MarketStatus], latest: Mapping[str, LiquidationGrid | None]) -> Facts:
    """Add clusters and max pain of the latest columns of some markets together, around the price of the first."""
    found = [grid for s in statuses if (grid := latest[s.id]) is not None]
    if not found:
        return known
    mark, held = statuses[0].mark_price, open_interest_usd(statuses)
    wide = mark * math.exp(-REACH), mark * math.exp(REACH)
    grid = add_grids([replace(g.crop(*wide), time=found[0].time) for g in found])
    clusters = find_clusters(grid, mark_price=mark, open_interest_usd=held) if held is not None else ()
    return replace(
        known,
        cluster_above=_cluster(nearest_cluster(clusters, Side.SHORT)),
        cluster_below=_cluster(nearest_cluster(clusters, Side.LONG)),
        long_pain=max_pain(grid, Side.LONG, around=mark),
        short_pain=max_pain(grid, Side.SHORT, around=mark),
    )


def _cluster(found: Cluster | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {
        "price": found.price, "low": found.low, "high": found.high, "usd": found.mass_usd, "share": found.share,
    }  # fmt: skip


def _latest(cache: Cache, status: MarketStatus) -> LiquidationGrid | None:
    live = read_live(cache, status, status.last_ms)
    if live is not None:
        return live[0]
    start_ms = status.last_ms - NOW_COLUMNS * LEVELS[0].interval_ms
    grid = cache.get_columns(status.id, 0, start_ms, status.last_ms)
    return None if grid is None else grid.pick(slice(-1, None))


def market_row(
    status: MarketStatus, facts: Facts | None, day: Mapping[str, Any] | None, freshest_ms: int
) -> dict[str, Any]:
    """Everything the table says of a market; null where a value is not known or not measured.

    Parameters
    ----------
    status : MarketStatus
    facts : Facts, optional
        None until they are read.
    day : mapping, optional
        Its entry of `feed.market_totals`.
    freshest_ms : int
        Time of the freshest market. [ms]
    """
    held, price = status.open_interest_base, status.mark_price if status.loaded else None
    known = facts or Facts("")
    return {
        **market_json(status),
        "pending": status.loaded and facts is None,
        "stale": status.loaded and freshest_ms - status.as_of_ms > STALE_MS,
        "price_change_24h": _change(price, known.price_before),
        "open_interest_usd": held * price if held is not None and price is not None else None,
        "open_interest_change_24h": _change(held, known.interest_before),
        "funding_rate_8h": funding_8h(status),
        "funding_interval_ms": status.funding_interval_ms,
        "liquidated_24h": day if status.loaded else None,
        "cluster_above": known.cluster_above,
        "cluster_below": known.cluster_below,
        "max_pain": {"long": known.long_pain, "short": known.short_pain},
    }


def _change(now: float | None, before: float | None) -> float | None:
    return now / before - 1 if now is not None and before else None


class Overview:
    """Keeps the facts of all markets, read in the background, once for all processes; for one event loop.

    Parameters
    ----------
    cache : Cache
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._facts: dict[str, Facts] = {}
        self._key, self._read_at, self._took = "", -math.inf, 0.0
        self._task: asyncio.Task[None] | None = None

    async def facts(self, statuses: Sequence[MarketStatus]) -> dict[str, Facts]:
        """Return the facts by market id and `coin_id`, a little older than `FACTS_S` at most; the first call waits.

        Raises
        ------
        CacheError
            Where there are none yet.
        """
        loaded = [s for s in statuses if s.loaded]
        key = hashlib.blake2b(repr(sorted((s.id, drawn_from(s)) for s in loaded)).encode(), digest_size=12).hexdigest()
        age = monotonic() - self._read_at
        due = age > max(FACTS_S if key == self._key else LEAST_S, REST * self._took)
        if due and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._read(key, loaded))
            self._task.add_done_callback(_note)
        if not self._facts and self._task is not None:
            await asyncio.shield(self._task)
        sources = {s.id: drawn_from(s) for s in loaded}
        sources |= {coin_id(base): drawn_from(*found) for base, found in _by_coin(loaded).items()}
        return {name: f for name, source in sources.items() if (f := self._facts.get(name)) and f.drawn_from == source}

    async def _read(self, key: str, statuses: Sequence[MarketStatus]) -> None:
        began = monotonic()
        body = await self._cache.get_or_compute(
            f"overview-{key}", FACTS_S, lambda: asyncio.to_thread(_read_all, self._cache, statuses)
        )
        self._facts = {market_id: Facts(**facts) for market_id, facts in json.loads(body).items()}
        self._key, self._read_at, self._took = key, monotonic(), monotonic() - began


def _read_all(cache: Cache, statuses: Iterable[MarketStatus]) -> bytes:
    facts = (read_facts(cache, found) for found in _by_coin(statuses).values())
    return json.dumps({name: asdict(one) for found in facts for name, one in found.items()}).encode()


def _by_coin(statuses: Iterable[MarketStatus]) -> dict[str, list[MarketStatus]]:
    of_coin: dict[str, list[MarketStatus]] = defaultdict(list)
    for status in statuses:
        of_coin[status.base].append(status)
    return of_coin


def _note(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        level = logging.WARNING if isinstance(error, CacheError) else logging.ERROR
        _log.log(level, "the facts of the markets could not be read: %s", error, exc_info=level == logging.ERROR)


def venue_sums(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum rows by venue: markets, open interest and liquidations of the day; null where none of them is known."""
    frame = pl.DataFrame(
        [
            {
                "exchange": r["exchange"],
                "oi": r["open_interest_usd"],
                "long": (r["liquidated_24h"] or {}).get("long_usd"),
                "short": (r["liquidated_24h"] or {}).get("short_usd"),
            }
            for r in rows
        ],
        schema={"exchange": pl.String, "oi": pl.Float64, "long": pl.Float64, "short": pl.Float64},
    )
    sums = {"open_interest_usd": "oi", "long_usd": "long", "short_usd": "short"}
    known = [pl.when(pl.col(n).count() > 0).then(pl.col(n).sum()).alias(name) for name, n in sums.items()]
    return frame.group_by("exchange", maintain_order=True).agg(pl.len().alias("markets"), *known).to_dicts()
