"""The band around what is shown holds it, is there only where every venue has one, and fades what is uncertain."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest

from dashboard.frame import read_frame
from dashboard.lens import GAMMA, shade
from dashboard.maps import build_map, read_band_beyond, read_map
from dashboard.view import Lens, ViewState
from estimator.cache import Cache
from estimator.domain import HOUR_MS, Float32Array, Side
from estimator.model.grid import LEVELS, LiquidationGrid
from estimator.model.members import MEMBER_NAMES
from tests.dashboard.conftest import serve
from tests.dashboard.sample import LAST_MS, SHARES, sample_server

FACTORS = (1.0, 0.5, 2.0, 0.9, 1.1)  # of the books beside the one shown, in the order of their names
SURE = ViewState("BTC", lens=Lens.CERTAIN)


def beside(shown: LiquidationGrid) -> LiquidationGrid:
    """Books that hold fixed multiples of what is shown, an hour apart."""
    hours = shown.time.astype("datetime64[ms]").astype(np.int64) % HOUR_MS == 0
    grid = shown.pick(hours)

    def member(index: int) -> tuple[Float32Array, Float32Array]:
        factor = np.float32(FACTORS[index])
        return grid.long_usd * factor, grid.short_usd * factor

    return replace(grid, tiers=MEMBER_NAMES, tier_source=member)


def put_bands(cache: Cache, venues: tuple[str, ...]) -> None:
    for venue in venues:
        market_id = f"{venue}:BTC/USDT:USDT"
        shown = cache.get_columns(market_id, 0, LAST_MS - LEVELS[0].keep_ms, LAST_MS)
        assert shown is not None
        cache.put_bands(market_id, 0, beside(shown))


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sample_server(tmp_path_factory.mktemp("band"), levels=(0,), coins=("BTC",)) as made:
        yield made


@pytest.fixture
def cache(url: str) -> Iterator[Cache]:
    made = Cache(url)
    yield made
    made.close()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with serve(url) as made:
        yield made


def test_a_band_holds_what_is_shown_and_is_as_wide_as_the_books_differ(cache: Cache) -> None:
    put_bands(cache, tuple(SHARES))
    frame = read_frame(cache, SURE)
    assert frame.band is not None
    shown = frame.grid.long_usd + frame.grid.short_usd
    assert (frame.band.low <= shown).all()
    assert (shown <= frame.band.high).all()
    hours = (frame.time_ms % HOUR_MS == 0) & frame.band.known
    assert hours.sum() >= 20
    held = shown[hours] > 0
    assert frame.band.low[hours][held] == pytest.approx(0.5 * shown[hours][held], rel=2e-3)
    assert frame.band.high[hours][held] == pytest.approx(2.0 * shown[hours][held], rel=2e-3)


def test_the_sums_ahead_of_the_price_have_a_band_too(cache: Cache) -> None:
    put_bands(cache, tuple(SHARES))
    frame = read_frame(cache, SURE)
    now = read_map(frame)
    ends = read_band_beyond(frame, now)
    assert ends is not None
    for side, shown in ((Side.LONG, now.long_beyond_usd), (Side.SHORT, now.short_beyond_usd)):
        low, high = ends[side]
        assert (low <= shown).all()
        assert (shown <= high).all()
        assert high.max() > 1.8 * shown.max()
    assert [t["fill"] for t in build_map(frame, now)["data"] if t.get("meta") == "band"] == ["toself", "toself"]


def test_colour_fades_where_books_differ_and_other_lenses_ask_for_none(cache: Cache) -> None:
    put_bands(cache, tuple(SHARES))
    plain, frame = read_frame(cache, ViewState("BTC")), read_frame(cache, SURE)
    assert plain.band is None
    assert frame.band is not None
    alike = shade(plain).codes.astype(int)
    assert np.abs(shade(frame).codes - alike).max() <= 1, "where all cells are as uncertain none fades more"
    above = frame.grid.price_edges[:-1] > frame.mark_price
    low = np.where(above, frame.band.low * np.float32(0.5), frame.band.low)
    codes = shade(replace(frame, band=replace(frame.band, low=low))).codes.astype(int)
    assert (np.abs(codes) <= np.abs(alike) + 1).all()
    assert np.abs(codes[codes > 0]).sum() == pytest.approx(0.5**GAMMA * np.abs(alike[alike > 0]).sum(), rel=0.02)
    assert np.abs(codes[codes < 0]).sum() > 0.9 * np.abs(alike[alike < 0]).sum()


def test_without_the_books_of_every_venue_there_is_no_band(cache: Cache) -> None:
    put_bands(cache, ("binance", "bybit"))
    assert read_frame(cache, SURE).band is None
    assert read_frame(cache, replace(SURE, venues=("binance",))).band is not None
    assert read_frame(cache, replace(SURE, venues=("binance",), tiers=("50x",))).band is None, (
        "by leverage there is none"
    )


def test_who_asks_for_a_band_makes_the_worker_compute_it(cache: Cache, client: httpx.Client) -> None:
    answer = client.get("/api/v1/band?symbol=BTC")
    assert answer.status_code == 503
    assert "being computed" in answer.json()["reason"]
    assert cache.band_attention.watched() == {"BTC"}
    missing = client.get("/api/v1/chart?symbol=BTC&lens=certain").json()["readings"]["band"]
    assert missing == {"missing": "it is being computed"}


def test_the_band_is_told_by_the_api_and_beside_the_chart(cache: Cache, client: httpx.Client) -> None:
    put_bands(cache, tuple(SHARES))
    told = client.get("/api/v1/band?symbol=BTC").json()
    assert told["books"] == ["shown", *MEMBER_NAMES]
    for side in Side:
        low, shown, high = (np.array(told[f"{side}_beyond_usd"][name]) for name in ("low", "shown", "high"))
        assert (low <= shown).all()
        assert (shown <= high).all()
    assert 0.2 < told["certainty"] < 1
    readings = client.get("/api/v1/chart?symbol=BTC&lens=certain").json()["readings"]
    low, high = (np.frombuffer(base64.b64decode(readings["band"][name]), np.uint8) for name in ("low", "high"))
    assert len(low) == len(high) == np.prod(readings["density"]["shape"])
    assert low.min() == pytest.approx(128, abs=1)
    assert high.min() == pytest.approx(128, abs=1)
