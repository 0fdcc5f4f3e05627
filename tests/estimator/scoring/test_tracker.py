"""Scores are kept in history, given once, and stay what they were through kills, restarts and other parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from estimator.cache import Cache, MarketStatus
from estimator.domain import DAY_MS, HOUR_MS, MINUTE_MS, TIME, Liquidation, Origin, Side
from estimator.history import History, Published, with_market
from estimator.model.book import PositionBook
from estimator.model.grid import LEVELS
from estimator.model.parameters import Parameters
from estimator.observed import liquidations_of
from estimator.scoring.evidence import LEVEL
from estimator.scoring.tracker import LOOK_BACK_MS, SETTLE_MS, InHistory, InMemory, Tracker, due_between
from tests.estimator.model.markets import market
from tests.estimator.scoring.seen import END_MS, closes, columns, prints_frame, walk

MARKET_ID = market().id
SHOWN_FROM_MS = END_MS - DAY_MS  # columns before were computed when the worker started
AS_OF_MS = END_MS + SETTLE_MS


@pytest.fixture
def cache(cache: Cache) -> Cache:
    cache.put_progress(1.0, "following live")
    cache.put_status(status(Origin.LIVE))
    return cache


def status(origin: Origin, as_of_ms: int = AS_OF_MS) -> MarketStatus:
    place = market()
    return MarketStatus(
        exchange=place.exchange, symbol=place.symbol, base="BTC", contract="linear", max_leverage=125.0,
        origin=origin, source="a test", rank=0, as_of_ms=as_of_ms, mark_price=1.0, interval_ms=30 * MINUTE_MS,
        first_ms=0, last_ms=as_of_ms // HOUR_MS * HOUR_MS, provisional_until_ms=0, open_interest_base=None,
        long_short_ratio=None, funding_rate=None, gaps=(), preset="balanced", progress=1.0, version=1,
        maintenance_margin_rate=0.004, maintenance_fee_rate=0.0, has_prints=True,
    )  # fmt: skip


def publish(history: History, parameters: Parameters | None = None) -> None:
    """Keep columns as a worker does that began a day before the end: the past at once, then as it comes."""
    grid, book = columns(parameters), PositionBook(market(), parameters)
    clock = [SHOWN_FROM_MS]
    published = Published(history, now_ms=lambda: clock[0])
    before = closes(grid) <= SHOWN_FROM_MS
    published.add(LEVEL, grid.pick(before), book)
    for i, close_ms in enumerate(closes(grid)):
        if not before[i]:
            clock[0] = int(close_ms) + 1_500
            published.add(LEVEL, grid.pick(slice(i, i + 1)), book)
    published.flush()


@pytest.fixture
def history(tmp_path: Path) -> History:
    return filled(tmp_path / "history")


def filled(root: Path) -> History:
    """History after six days of which the last one was followed live."""
    history = History(root)
    frame, held, _ = walk()
    heard = pl.DataFrame({"time": [SHOWN_FROM_MS - HOUR_MS], "what": ["liquidations"], "connected": [True]})
    for table, rows in (
        ("candles", frame), ("open_interest", held), ("liquidations", prints_frame()),
        ("connections", heard.with_columns(pl.col("time").cast(TIME))),
    ):  # fmt: skip
        history.append(table, with_market(MARKET_ID, rows))  # type: ignore[arg-type]
    publish(history)
    return history


def kept(history: History) -> list[pl.DataFrame]:
    return [
        history.read_all(table).sort(pl.exclude(pl.List(pl.Float64))) for table in ("track_record", "track_touches")
    ]


def tracker(history: History, cache: Cache) -> Tracker:
    return Tracker(cache, InHistory(history, cache), Origin.LIVE)


def test_only_what_was_shown_in_time_is_scored_and_the_web_is_told(history: History, cache: Cache) -> None:
    tracker(history, cache).step()
    record, touches = kept(history)
    for frame in (record, touches):
        assert frame.height > 0
        assert frame["time"].dt.epoch("ms").to_numpy().min() >= SHOWN_FROM_MS
        assert set(frame["parameters_version"]) == {PositionBook(market()).parameters.version}
        lag_ms = (frame["published"] - frame["time"]).dt.total_milliseconds()
        assert set(lag_ms) <= {0, 1_500}
    found = cache.track.get("binance", "BTC")
    assert found is not None
    meta, summary = found
    assert summary is not None
    assert (meta["origin"], meta["source"]) == ("live", "a test")
    ours = record.filter(pl.col("model") == "published", pl.col("horizon_h") == 4)
    assert summary["horizons"]["4"]["n"]["prints"] == ours["n_print"].sum()
    known = {("all", "BTC"): True, ("all", "all"): True, ("binance", "all"): True, ("okx", "BTC"): False}
    for (venue, coin), is_known in known.items():
        told = cache.track.get(venue, coin)
        assert told is not None
        assert (told[0], told[1] is not None) == (meta, is_known)


def test_a_score_is_given_once_whatever_comes_later(history: History, cache: Cache) -> None:
    assert tracker(history, cache).step() > 0
    told = kept(history)
    # Other parameters: a past computed anew, late prints, and a worker that begins again.
    publish(history, Parameters.preset("high-leverage"))
    late = prints_frame(seed=99, each=5)
    history.append("liquidations", with_market(MARKET_ID, late))
    again = tracker(history, cache)
    again.step()
    assert again.step() == 0
    known = told[0].select("time", "horizon_h").unique()
    for before, after in zip(told, kept(history), strict=True):
        assert after.join(known, on=["time", "horizon_h"], how="semi").equals(
            before.join(known, on=["time", "horizon_h"], how="semi")
        )
    assert set(kept(history)[0]["parameters_version"]) == set(told[0]["parameters_version"])


def test_killed_between_two_tables_it_ends_as_if_it_had_not_been(
    history: History, cache: Cache, tmp_path: Path
) -> None:
    tracker(history, cache).step()
    whole = kept(history)
    half = filled(tmp_path / "half")
    half.append("track_touches", history.read_all("track_touches"))
    tracker(half, cache).step()
    tracker(half, cache).step()
    for one, other in zip(whole, kept(half), strict=True):
        assert one.equals(other)


def test_scores_wait_for_the_end_of_their_horizon_and_for_the_journal(history: History, cache: Cache) -> None:
    cache.put_status(status(Origin.LIVE, END_MS - 90 * MINUTE_MS))
    tracker(history, cache).step()
    known_ms = END_MS - 90 * MINUTE_MS - SETTLE_MS
    ends = kept(history)[0].select(pl.col("time").dt.epoch("ms") + pl.col("horizon_h").cast(pl.Int64) * HOUR_MS)
    assert ends.to_series().to_numpy().max() <= known_ms


def test_what_is_due() -> None:
    first = 100 * HOUR_MS
    assert due_between(first, first + HOUR_MS - 1, set()) == set()
    assert due_between(first, first + 4 * HOUR_MS, set()) == {(first + i * HOUR_MS, 1) for i in range(4)} | {(first, 4)}
    assert due_between(first, first + HOUR_MS, {(first, 1)}) == set()


def test_what_was_shown_long_ago_and_not_scored_in_time_is_left(history: History, cache: Cache) -> None:
    cache.put_status(status(Origin.LIVE, AS_OF_MS + LOOK_BACK_MS))
    tracker(history, cache).step()
    assert [frame.height for frame in kept(history)] == [0, 0]


@pytest.mark.parametrize("origin", [Origin.SIMULATED, Origin.RECORDED])
def test_a_market_without_history_is_scored_from_what_the_cache_shows_and_kept_apart(
    history: History, cache: Cache, origin: Origin
) -> None:
    frame, held, _ = walk()
    show = replace(status(origin), source="made up", last_ms=END_MS)
    cache.put_status(show)
    cache.put_columns(MARKET_ID, LEVEL, columns().coarsen(LEVELS[LEVEL].price_factor))
    rows = frame.join(
        held.with_columns(pl.col("time") - pl.duration(milliseconds=30 * MINUTE_MS)), on="time", how="left"
    )
    cache.put_series(MARKET_ID, LEVEL, rows.select("time", "open", "high", "low", "close", "volume", "open_interest"))
    cache.add_liquidations(MARKET_ID, liquidations_of(prints_frame()))
    ledger = InMemory(cache, every_h=2)
    scorer = Tracker(cache, ledger, origin)
    assert scorer.step() > 0
    assert scorer.step() == 0
    ((record, _),) = ledger.parts()
    assert set(record["time"].dt.hour() % 2) == {0}
    found = cache.track.get("all", "all")
    assert found is not None
    assert found[0]["origin"] == origin.value
    assert kept(history)[0].is_empty()
    # A live tracker beside it leaves it alone, and the other way round.
    assert tracker(history, cache).step() == 0
    assert Tracker(cache, InMemory(cache), Origin.LIVE).step() == 0


def test_the_record_comes_back_after_redis_was_emptied(history: History, cache: Cache) -> None:
    scorer = tracker(history, cache)
    scorer.step()
    told = cache.track.get("all", "all")
    cache.clear_markets()
    cache.put_status(status(Origin.LIVE))
    assert cache.track.get("all", "all") is None
    assert scorer.step() == 0
    again = cache.track.get("all", "all")
    assert told is not None
    assert again is not None
    assert again[1] == told[1]


def test_the_journal_is_awaited_before_anything_is_read(history: History, cache: Cache) -> None:
    from estimator.cache.journal import Entry

    one = Liquidation(END_MS - 1, Side.LONG, 1.0, 1.0, 1.0)
    row = {"time": one.time_ms, "side": "long", "price": 1.0, "quantity_base": 1.0, "notional_usd": 1.0}
    cache.journal.add([Entry.of_rows("liquidations", MARKET_ID, [row])])
    ledger = InHistory(history, cache, journal_s=0.3)
    assert Tracker(cache, ledger, Origin.LIVE).step() == 0
    assert kept(history)[0].is_empty()
