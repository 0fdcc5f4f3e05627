"""History keeps each row once, for good, readable by anyone, and says so when it cannot."""

from __future__ import annotations

import multiprocessing
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from estimator.cache.tiles import Tile, make_tile
from estimator.domain import CANDLES, CANDLES_OPTIONAL, DAY_MS, FUNDING_RATE, LIQUIDATIONS, MINUTE_MS, TIME
from estimator.errors import CorruptHistory, HistoryUnavailable, InputError, ParameterError
from estimator.history import TABLE_NAMES, History, TableName, columns_frame, columns_grid, with_market
from estimator.history.columns import _pack, _unpack
from estimator.model.grid import BIN_WIDTH, LEVELS, TIER_NAMES, LiquidationGrid
from tests.estimator.history.writing import append_open_interest

BTC = "binance:BTC/USDT:USDT"
ETH = "binance:ETH/USDT:USDT"
BYBIT = "bybit:BTC/USDT:USDT"
T0 = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "data" / "history")


def candles(market_id: str, first: int = 0, n: int = 10, *, price: float = 100.0) -> pl.DataFrame:
    """Minutes `first` .. `first + n - 1` after T0."""
    times = pl.Series("time", T0 + MINUTE_MS * np.arange(first, first + n)).cast(TIME)
    closes = price + np.arange(n) / 8
    frame = pl.DataFrame([times]).with_columns(
        open=pl.Series(closes), high=pl.Series(closes + 2), low=pl.Series(closes - 2), close=pl.Series(closes + 1),
        volume=pl.Series(np.full(n, 3.25)),
    )  # fmt: skip
    return with_market(market_id, frame)


def prints(market_id: str, times_ms: list[int], *, price: float = 60_000.0) -> pl.DataFrame:
    n = len(times_ms)
    frame = pl.DataFrame(
        {"time": times_ms, "side": ["long"] * n, "price": [price] * n, "quantity_base": [0.5] * n,
         "notional_usd": [price / 2] * n}
    ).with_columns(pl.col("time").cast(TIME))  # fmt: skip
    return with_market(market_id, frame)


def make_grid(n: int = 6, *, level: int = 0, tiers: bool = True, seed: int = 1) -> LiquidationGrid:
    spec = LEVELS[level]
    density = np.random.default_rng(seed).lognormal(8, 3, (n, 6, 2, 50)).astype(np.float32)
    density[..., :7] = 0
    density[..., 40 + seed :] = 0
    first = T0 // spec.interval_ms + 1
    return LiquidationGrid(
        time=(spec.interval_ms * np.arange(first, first + n)).astype("datetime64[ms]"),
        first_bin=11_000,
        bin_width=BIN_WIDTH * spec.price_factor,
        long_usd=density[:, :, 0].sum(axis=1),
        short_usd=density[:, :, 1].sum(axis=1),
        tier_source=(lambda i: (density[:, i, 0], density[:, i, 1])) if tiers else None,
    )


def columns(market_id: str, grid: LiquidationGrid, *, level: int = 0) -> pl.DataFrame:
    return columns_frame(market_id, level, grid, parameters_version="balanced-1", book_format=1)


def read_all(history: History, table: TableName, market_id: str) -> pl.DataFrame:
    return history.read(table, market_id, 0, T0 + 400 * DAY_MS)


# --- rows come back


def test_nothing_stored_reads_as_no_rows(history: History) -> None:
    assert history.read("candles", BTC, 0, T0).schema == pl.Schema({**CANDLES, **CANDLES_OPTIONAL})
    assert history.last_time("candles", BTC) is None
    assert history.times("funding", 0, T0).is_empty()
    assert history.compact() == {}
    assert history.retain(T0) == 0


def test_months_joined_are_the_table(history: History) -> None:
    assert list(history.read_months("candles")) == []
    rows = candles(BTC)
    times = pl.concat([rows.with_columns(pl.col("time").dt.offset_by(f"{days}d")) for days in (0, 5, 40, 75)])
    history.append("candles", times)
    months = list(history.read_months("candles"))
    assert [m["time"].dt.strftime("%Y-%m").n_unique() for m in months] == [1] * len(months)
    assert len(months) >= 3
    assert pl.concat(months).equals(history.read_all("candles"))


def test_rows_of_many_markets_are_one_commit_and_come_back_by_market(history: History) -> None:
    frame = pl.concat([candles(BTC), candles(ETH, price=7.0), candles(BYBIT, price=101.0)])
    assert history.append("candles", frame.sample(fraction=1, shuffle=True, seed=1)) == 30
    for market_id, price in ((BTC, 100.0), (ETH, 7.0), (BYBIT, 101.0)):
        got = read_all(history, "candles", market_id)
        assert got.select(list(CANDLES)).equals(candles(market_id, price=price).select(list(CANDLES)))
    table = DeltaTable(f"{history.root}/candles")
    assert table.version() == 1  # made, then one commit


def test_a_read_is_from_its_start_up_to_before_its_end(history: History) -> None:
    history.append("candles", candles(BTC, -5, 10))
    got = history.read("candles", BTC, T0 - 2 * MINUTE_MS, T0 + 3 * MINUTE_MS)["time"].dt.epoch("ms").to_list()
    assert got == [T0 + MINUTE_MS * i for i in (-2, -1, 0, 1, 2)]
    assert history.read("candles", BTC, T0, T0).is_empty()


def test_optional_values_may_be_missing_and_are_then_null(history: History) -> None:
    part = candles(BTC).with_columns(taker_buy_volume=pl.lit(1.5), mark_high=pl.lit(float("nan")))
    history.append("candles", part)
    got = read_all(history, "candles", BTC)
    assert got["taker_buy_volume"].unique().to_list() == [1.5]
    assert got["mark_high"].null_count() == got["mark_low"].null_count() == 10


def test_the_latest_time_is_found_however_long_ago(history: History) -> None:
    history.append("candles", candles(BTC, 0, 3))
    for day in range(1, 20):
        history.append("candles", candles(ETH, 1440 * day, 1))
    assert history.last_time("candles", BTC) == T0 + 2 * MINUTE_MS
    assert history.last_time("candles", ETH) == T0 + 19 * DAY_MS
    assert history.last_time("candles", BYBIT) is None


# --- once and for good


def test_adding_rows_again_changes_nothing(history: History) -> None:
    history.append("candles", candles(BTC, 0, 10))
    assert history.append("candles", candles(BTC, 0, 10)) == 0
    assert history.append("candles", candles(BTC, 5, 10)) == 5
    assert read_all(history, "candles", BTC).height == 15


def test_the_first_row_of_a_key_is_never_rewritten(history: History) -> None:
    history.append("candles", candles(BTC, price=100.0))
    assert history.append("candles", candles(BTC, price=900.0)) == 0
    assert read_all(history, "candles", BTC)["open"][0] == 100.0
    twice = pl.concat([candles(ETH, 0, 1, price=1.0), candles(ETH, 0, 1, price=2.0)])
    assert history.append("candles", twice) == 1
    assert read_all(history, "candles", ETH)["open"].to_list() == [1.0]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([BTC, ETH]), st.integers(1430, 1450), st.integers(1, 9)), max_size=6))
def test_any_overlapping_deliveries_leave_each_key_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int, int]]
) -> None:
    history = History(tmp_path_factory.mktemp("overlap"))
    added = sum(history.append("candles", candles(*part)) for part in parts)
    keys = {(m, i) for m, first, n in parts for i in range(first, first + n)}
    assert added == len(keys)
    assert sum(read_all(history, "candles", m).height for m in (BTC, ETH)) == len(keys)


def test_equal_prints_of_one_delivery_are_distinct_and_the_delivery_is_recognised(history: History) -> None:
    delivery = prints(BTC, [T0, T0, T0, T0 + 1])
    assert history.append("liquidations", delivery) == 4
    assert history.append("liquidations", delivery) == 0
    assert read_all(history, "liquidations", BTC)["print_id"].to_list() == ["0", "1", "2", "0"]


def test_prints_with_ids_of_the_venue_are_told_apart_by_them(history: History) -> None:
    delivery = prints(BTC, [T0, T0])
    history.append("liquidations", delivery.with_columns(print_id=pl.Series(["a7", "a8"])))
    assert history.append("liquidations", delivery.with_columns(print_id=pl.Series(["a8", "a9"]))) == 1
    got = read_all(history, "liquidations", BTC)
    assert sorted(got["print_id"]) == ["a7", "a8", "a9"]
    assert set(LIQUIDATIONS) <= set(got.columns)


def test_threads_that_add_the_same_rows_leave_each_once(history: History) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda i: history.append("candles", candles(BTC, i % 3, 5)), range(12)))
    assert sum(added) == read_all(history, "candles", BTC).height == 7


def test_processes_that_add_the_same_rows_leave_each_once(history: History) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.estimator.history.writing"])
    writers = [context.Process(target=append_open_interest, args=(history.root, T0, 20)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    frame = pl.read_delta(f"{history.root}/open_interest")
    assert frame.height == frame.n_unique(["exchange", "symbol", "time"]) == 20


# --- what cannot be stored


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (pl.lit(None, dtype=pl.Float64).alias("close"), "close"),
        (pl.lit(float("nan")).alias("volume"), "volume"),
        (pl.lit(float("inf")).alias("high"), "high"),
        (pl.lit(None, dtype=pl.String).alias("symbol"), "symbol"),
        (pl.col("time").dt.replace_time_zone(None).alias("time"), "time"),
        (pl.lit("much").alias("open"), "does not fit"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_stored(history: History, change: pl.Expr, column: str) -> None:
    with pytest.raises(InputError, match=column):
        history.append("candles", candles(BTC, 0, 3).with_columns(change))
    assert read_all(history, "candles", BTC).is_empty()


def test_an_absent_column_an_unknown_table_and_a_malformed_market_are_named(history: History) -> None:
    with pytest.raises(InputError, match="volume"):
        history.append("candles", candles(BTC).drop("volume"))
    with pytest.raises(ParameterError, match="trades"):
        history.append("trades", candles(BTC))  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="market_id"):
        history.read("candles", "BTC", 0, 1)
    with pytest.raises(ParameterError, match="retention_days"):
        History("x", retention_days=0)


# --- faults


def test_a_store_that_cannot_be_written_says_so_and_recovers(tmp_path: Path) -> None:
    root = tmp_path / "history"
    root.write_text("a file where the folder should be")
    history = History(root)
    with pytest.raises(HistoryUnavailable, match=r"history/candles"):
        history.append("candles", candles(BTC))
    root.unlink()
    assert history.append("candles", candles(BTC)) == 10


def test_a_disk_that_fills_up_stores_all_of_a_batch_or_nothing(history: History) -> None:
    history.append("candles", candles(BTC, 0, 10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(HistoryUnavailable):
            history.append("candles", candles(BTC, 0, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_all(history, "candles", BTC).height == 10
    assert history.append("candles", candles(BTC, 0, 1000)) == 990


# --- upkeep


def test_compaction_keeps_every_row_in_few_files_while_others_read_and_write(history: History) -> None:
    for i in range(12):
        history.append("candles", pl.concat([candles(m, i, 1) for m in (BTC, ETH, BYBIT)]))
    done = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            i = 12
            while not done.is_set():
                history.append("candles", candles(BTC, i, 1))
                i += 1
                assert read_all(history, "candles", BTC).height == i
        except Exception as error:  # noqa: BLE001  # whatever it is, the test below shows it
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    compacted = [history.compact(grace_hours=1)["candles"] for _ in range(3)]
    done.set()
    worker.join()
    assert failures == []
    assert compacted[0].files_after < compacted[0].files_before
    assert read_all(history, "candles", ETH).equals(
        candles(ETH, 0, 12).with_columns(open=100.0, high=102.0, low=98.0, close=101.0)
        .select(list(CANDLES)).with_columns(pl.lit(None, dtype=pl.Float64).alias(c) for c in CANDLES_OPTIONAL)
    )  # fmt: skip


def test_replaced_and_abandoned_files_are_deleted_after_the_grace(history: History) -> None:
    for i in range(4):
        history.append("candles", candles(BTC, i, 1))
    folder = Path(history.root) / "candles"
    (folder / "date=2026-01-01" / "part-left-by-a-killed-process.parquet").write_bytes(b"torn")
    history.compact(grace_hours=1)
    assert len(list(folder.rglob("*.parquet"))) > 4
    history.compact(grace_hours=0)
    assert len([p for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts]) == 1
    assert read_all(history, "candles", BTC).height == 4


def test_a_compact_table_is_left_as_it_is(history: History) -> None:
    for i in range(3):
        history.append("candles", candles(BTC, i, 1))
    assert history.compact()["candles"].partitions == 1
    assert history.compact()["candles"].partitions == 0


def test_retention_drops_whole_days_and_nothing_younger(tmp_path: Path) -> None:
    history = History(tmp_path, retention_days=3)
    for day in range(6):
        history.append("candles", candles(BTC, 1440 * day, 2))
    assert history.retain(T0 + 5 * DAY_MS + 1) == 2
    times = read_all(history, "candles", BTC)["time"].dt.date().unique().sort().to_list()
    assert times == [date(2026, 1, d) for d in (3, 4, 5, 6)]
    assert History(tmp_path).retain(T0 + 900 * DAY_MS) == 0


def test_superseded_book_states_go_and_the_newest_stays(history: History) -> None:
    for day in range(6):
        time = pl.Series("time", [T0 + day * DAY_MS]).cast(TIME)
        history.append("books", with_market(BTC, pl.DataFrame([time, pl.Series("state", [b"state %d" % day])])))
    assert history.retain(T0 + 900 * DAY_MS) == 2
    got = read_all(history, "books", BTC)
    assert got["state"].to_list() == [b"state 2", b"state 3", b"state 4", b"state 5"]


# --- columns


@pytest.mark.parametrize("tiers", [True, False])
def test_columns_come_back_as_they_were_published(history: History, *, tiers: bool) -> None:
    grid = make_grid(tiers=tiers)
    assert history.append("columns", columns(BTC, grid)) == 6
    got = columns_grid(read_all(history, "columns", BTC), tiers=True)
    assert got is not None
    np.testing.assert_array_equal(got.time, grid.time)
    window = slice(got.first_bin - grid.first_bin, got.first_bin - grid.first_bin + got.n_price)
    tile = make_tile(grid.time.astype(np.int64), 0, np.stack([grid.long_usd, grid.short_usd], axis=1))
    published = np.zeros((6, 2, 50), dtype=np.float32)
    for layer in range(2):
        tile.read_into(published[:, layer], layer, 0)
    np.testing.assert_array_equal(got.long_usd, published[:, 0, window])
    np.testing.assert_array_equal(got.short_usd, published[:, 1, window])
    assert not np.delete(published, np.r_[window], axis=2).any()
    assert (got.tier_source is not None) is tiers
    for name in TIER_NAMES if tiers else ():
        expected = grid.tier_usd("short", name)[:, window]
        np.testing.assert_allclose(got.tier_usd("short", name), expected, rtol=2**-10)


def test_a_level_shows_the_columns_of_its_bins_that_close_with_its_intervals(history: History) -> None:
    history.append("columns", pl.concat([columns(BTC, make_grid(30)), columns(BTC, make_grid(3, level=3), level=3)]))
    for level, n in ((0, 30), (1, 10), (2, 5), (3, 3), (4, 1), (5, 0)):
        rows = history.read("columns", BTC, T0, T0 + 99 * DAY_MS, level=level)
        assert rows["time"].dt.epoch("ms").to_list() == [T0 + LEVELS[level].interval_ms * i for i in range(1, n + 1)]
        assert set(rows["price_factor"]) <= {LEVELS[level].price_factor}
        assert history.last_time("columns", BTC, level=level) == (T0 + LEVELS[level].interval_ms * n if n else None)


def test_fine_columns_go_after_their_days_without_a_rewrite_and_hourly_ones_stay(tmp_path: Path) -> None:
    history = History(tmp_path, columns_days={5: 2, 15: 3, 30: 4})
    for day in range(6):
        grid = make_grid(288)
        later = columns(BTC, grid).with_columns(pl.col("time") + pl.duration(days=day, minutes=-5))
        history.append("columns", later)
    files = {p for p in Path(history.root).glob("columns/**/*.parquet") if "_delta_log" not in p.parts}
    assert history.retain(T0 + 5 * DAY_MS) == 3 + 2 + 1
    rows = read_all(history, "columns", BTC).group_by(pl.col("time").dt.date()).len().sort("time")
    assert rows["len"].to_list() == [24, 48, 96, 288, 288, 288]
    assert {p for p in Path(history.root).glob("columns/**/*.parquet") if "_delta_log" not in p.parts} == files
    assert history.read("columns", BTC, T0, T0 + DAY_MS)["time"].dt.minute().unique().to_list() == [0]
    assert history.retain(T0 + 5 * DAY_MS) == 0


@pytest.mark.parametrize("days", [{7: 3}, {5: 0}])
def test_a_retention_of_columns_that_cannot_be_is_refused(days: dict[int, int]) -> None:
    with pytest.raises(ParameterError, match="columns_days"):
        History("x", columns_days=days)


@given(hnp.arrays(np.uint16, st.tuples(st.just(len(TIER_NAMES)), st.just(2), st.integers(1, 40))))
def test_packing_densities_loses_no_bit(bits: NDArray[np.uint16]) -> None:
    bits = bits.reshape(2 * len(TIER_NAMES), -1)
    tile = Tile(np.array([T0]), 7, np.arange(len(bits), dtype=np.int16)[None], bits.view(np.float16)[None])
    packed = _pack(tile, 0, slice(None))
    got = _unpack({"n_price": bits.shape[1], "time": T0, "time_ms": T0, "first_bin": 7}, packed, TIER_NAMES)
    np.testing.assert_array_equal(got.mantissa.view(np.uint16)[0], bits)
    np.testing.assert_array_equal(got.exponent, tile.exponent)


def test_a_table_of_another_form_is_left_alone(tmp_path: Path) -> None:
    pl.DataFrame({"date": [date(2026, 1, 1)], "level": [0]}).write_delta(
        str(tmp_path / "columns"), delta_write_options={"partition_by": ["date"]}
    )
    with pytest.raises(HistoryUnavailable, match="move the folder aside"):
        History(tmp_path).append("columns", columns(BTC, make_grid()))
    assert DeltaTable(str(tmp_path / "columns")).version() == 0


def test_a_column_once_stored_never_repaints(history: History) -> None:
    history.append("columns", columns(BTC, make_grid(seed=1)))
    before = read_all(history, "columns", BTC)
    assert history.append("columns", columns(BTC, make_grid(seed=2))) == 0
    assert read_all(history, "columns", BTC).equals(before)


def test_an_empty_column_and_no_column_are_different(history: History) -> None:
    grid = make_grid(2, tiers=False)
    grid.long_usd[0] = grid.short_usd[0] = 0
    history.append("columns", columns(BTC, grid))
    got = columns_grid(read_all(history, "columns", BTC))
    assert got is not None
    assert got.long_usd[0].sum() == got.short_usd[0].sum() == 0
    assert got.long_usd[1].sum() > 0
    assert columns_grid(read_all(history, "columns", ETH)) is None


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"\0" * len(b)])
def test_damaged_densities_are_named(history: History, damage: object) -> None:
    frame = columns(BTC, make_grid(2)).with_columns(pl.col("total").map_elements(damage, return_dtype=pl.Binary))  # type: ignore[arg-type]
    history.append("columns", frame)
    with pytest.raises(CorruptHistory, match="2026-01-01"):
        columns_grid(read_all(history, "columns", BTC))


# --- open to others


def test_every_table_opens_in_plain_polars_and_prunes_by_day(history: History) -> None:
    history.append("candles", pl.concat([candles(BTC, -1440, 5), candles(BTC, 0, 5)]))
    history.append("liquidations", prints(BTC, [T0]))
    history.append("columns", columns(BTC, make_grid(2)))
    history.append("funding", with_market(BTC, pl.DataFrame({"time": [T0], "funding_rate": [1e-4]}).cast(
        {"time": TIME, "funding_rate": FUNDING_RATE["funding_rate"]})))  # fmt: skip
    scan = pl.scan_delta(f"{history.root}/candles").filter(pl.col("date") == date(2026, 1, 1))
    assert scan.collect().height == 5
    for table in ("liquidations", "columns", "funding"):
        assert pl.read_delta(f"{history.root}/{table}")["symbol"].unique().to_list() == ["BTC/USDT:USDT"]
    files = list(Path(history.root).glob("candles/date=2026-01-01/*.parquet"))
    assert pl.read_parquet(files)["close"].to_list() == candles(BTC, 0, 5)["close"].to_list()


def test_a_url_is_passed_to_delta_as_it_is(tmp_path: Path) -> None:
    history = History(f"{tmp_path.as_uri()}/store/")
    history.append("candles", candles(BTC))
    assert history.root == f"{tmp_path.as_uri()}/store"
    assert read_all(history, "candles", BTC).height == 10
    assert (tmp_path / "store" / "candles").is_dir()


def test_the_tables_are_those_of_the_design() -> None:
    assert set(TABLE_NAMES) == {
        "candles", "open_interest", "long_short_ratio", "funding", "liquidations", "connections", "columns", "books",
        "parameters", "track_record", "track_touches",
    }  # fmt: skip
