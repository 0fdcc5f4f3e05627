"""A snapshot of a market that its worker made is the same byte for byte after a refit, a flush and a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx

from estimator.cache import Cache
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS
from estimator.exchanges.base import MarketHistory
from estimator.exchanges.simulated import SimulatedSource
from estimator.history import Calibrations, History, Published, with_market
from estimator.model.parameters import Parameters
from estimator.pipeline import MarketFollower
from estimator.redis_server import BundledServer
from estimator.refit import refit
from estimator.settings import Settings
from tests.dashboard.conftest import serve
from tests.estimator.test_pipeline import play, until, updates

END_MS: Final = 20_400 * DAY_MS
FROZEN_MS: Final = END_MS - 2 * HOUR_MS
# Two days fill the book, six of prints are what it takes to fit.
SOURCE: Final = SimulatedSource(7, end_ms=END_MS, days=9)
VIEW: Final = "symbol=BTC&range=12h"


def _follower(cache: Cache, store: History, whole: MarketHistory, until_ms: int) -> tuple[MarketFollower, Published]:
    """A worker's follower that has taken in the past, on a cache with nothing in it."""
    published = Published(store)
    follower = MarketFollower(whole.market, 0, SOURCE, cache, "balanced", published)
    follower.backfill(until(whole, until_ms))
    cache.put_progress(1.0, "ready")
    return follower, published


def _stored(store: History, whole: MarketHistory) -> None:
    """Put into history what the journal of a live market would have brought there."""
    market_id = whole.market.id
    numbered = whole.liquidations.with_row_index("print_id").cast({"print_id": str})
    store.append("open_interest", with_market(market_id, whole.open_interest))
    store.append("liquidations", with_market(market_id, numbered))
    store.append("candles", with_market(market_id, whole.candles))


def _parts(site: httpx.Client, name: str) -> list[bytes]:
    """All that is shown of a snapshot: figures and readings, levels, picture."""
    paths = (f"/api/v1/snapshots/{name}/chart", f"/api/v1/snapshots/{name}/levels?format=csv", f"/s/{name}/preview.png")
    return [site.get(path).raise_for_status().content for path in paths]


def test_a_snapshot_stays_as_it_is_when_its_market_is_fitted_anew_and_the_cache_is_lost(tmp_path: Path) -> None:
    whole = SOURCE.history(SOURCE.markets()[0], lambda _done, _what: None)
    store, settings = History(tmp_path / "history"), Settings(data=tmp_path)
    _stored(store, until(whole, FROZEN_MS))
    with BundledServer(tmp_path / "one") as redis:
        cache = Cache(redis.url)
        follower, published = _follower(cache, store, whole, FROZEN_MS)
        (before,) = cache.get_statuses()
        with serve(redis.url, settings) as site:
            name = str(site.post("/api/v1/snapshots", json={"view": VIEW}).raise_for_status().json()["id"])
            shown = _parts(site, name)
        # What `liqheat calibrate` does, then what the worker does with it.
        fitted = refit(store, whole.market, Parameters(), offer=True, now_ms=FROZEN_MS)
        assert Calibrations(store).due() == {whole.market.id: fitted}
        published.calibrations.put_in_force(whole.market.id, follower.change_ms, fitted)
        published.flush()
        cache.close()
    with BundledServer(tmp_path / "two") as redis:  # an empty cache, another worker, another server
        cache = Cache(redis.url)
        follower, _ = _follower(cache, store, whole, FROZEN_MS)
        play(follower, updates(whole, FROZEN_MS))
        (after,) = cache.get_statuses()
        assert after.parameters_version == fitted.parameters.for_leverage(whole.market.max_leverage).version
        assert after.parameters_version != before.parameters_version
        assert after.last_ms - before.last_ms >= 2 * HOUR_MS - 10 * MINUTE_MS
        with serve(redis.url, settings) as site:
            assert site.get(f"/api/v1/chart?{VIEW}").raise_for_status().content != shown[0]
            assert _parts(site, name) == shown
            assert name in site.get(f"/s/{name}").raise_for_status().text
        cache.close()
