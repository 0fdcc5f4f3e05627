"""Recordings: files of any common form become one market history, honest about units, times and gaps."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from estimator.domain import CANDLES, HOUR_MS, MINUTE_MS, Gap, Market, Observation, Origin, Side
from estimator.errors import InputError, ParameterError, SourceError, SourceUnavailable
from estimator.exchanges.base import MarketHistory, MarketUpdate
from estimator.exchanges.recorded import RecordedSource, as_candles, as_open_interest, read_frame

MARKET_DATA = Path(os.environ.get("LIQHEAT_MARKET_DATA", Path(__file__).parents[4] / "shared" / "market"))
needs_data = pytest.mark.skipif(
    not (MARKET_DATA / "okx-sol-jabine").exists(),
    reason="no recorded market data; set LIQHEAT_MARKET_DATA to its folder",
)

START = 1_780_272_000_000  # 2026-06-01 00:00 UTC
ISO_START = "2026-06-01T00:00:00Z"


def _bars(n: int, *, start: int = START, step: int = MINUTE_MS, price: float = 100.0) -> pl.DataFrame:
    close = [price + i for i in range(n)]
    return pl.DataFrame(
        {
            "time": [start + i * step for i in range(n)],
            "open": [price, *close[:-1]],
            "high": [c + 2 for c in close],
            "low": [c - 2 for c in close],
            "close": close,
            "volume": [10.0] * n,
        }
    )


def _series(column: str, n: int, *, start: int = START, step: int = MINUTE_MS, value: float = 1000.0) -> pl.DataFrame:
    return pl.DataFrame({"time": [start + i * step for i in range(n)], column: [value + i for i in range(n)]})


def _write(folder: Path, **tables: pl.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_csv(folder / f"{name}.csv")
    return folder


def _simple(root: Path, n: int = 40) -> Path:
    return _write(root / "binance" / "BTCUSDT", candles=_bars(n), open_interest=_series("open_interest", n))


def _describe(folder: Path, **document: Any) -> None:
    document = {"exchange": "binance", "symbol": "BTC/USDT:USDT", **document}
    (folder / "liqheat.json").write_text(json.dumps(document))


def _history(path: Path, replay: float | None = None) -> MarketHistory:
    source = RecordedSource(path, replay=replay)
    return source.history(source.markets()[0], lambda _done, _what: None)


def _watched(source: RecordedSource) -> list[MarketUpdate]:
    async def collect() -> list[MarketUpdate]:
        return [update async for update in source.watch()]

    return asyncio.run(collect())


def _ms(frame: pl.DataFrame) -> list[int]:
    return frame["time"].dt.epoch("ms").to_list()


# --- real recordings, as they come ---------------------------------------------------------------------------------


@needs_data
def test_a_month_of_okx_needs_no_description() -> None:
    source = RecordedSource(MARKET_DATA / "okx-sol-jabine", replay=None)
    (market,) = source.markets()
    assert (market.id, market.contract, market.maintenance_fee_rate) == ("okx:SOL/USDT:USDT", "linear", 0.0005)
    history = source.history(market, lambda _done, _what: None)
    assert (history.interval_ms, history.candles.height) == (MINUTE_MS, 37_486)  # the finest of 1m, 5m, 15m, 1h
    assert [g.what for g in history.gaps] == ["open_interest"]  # only before the first value that can be priced
    assert history.gaps[0].start_ms == _ms(history.candles)[0]
    assert history.long_short_ratio["long_short_ratio"].is_between(1.96, 3.84).all()
    assert history.funding_rate.height == 78


@needs_data
def test_open_interest_of_okx_carries_no_trace_of_the_price_it_was_quoted_at() -> None:
    history = _history(MARKET_DATA / "okx-sol-jabine")
    closes = history.candles.select(pl.col("time") + pl.duration(minutes=1), "close")
    # One hour back: a row counts as known an hour after its stamp.
    stamped = history.open_interest.with_columns(pl.col("time") - pl.duration(hours=1)).join(closes, on="time")
    flow = np.diff(np.log(stamped["open_interest"].to_numpy()))
    returns = np.diff(np.log(stamped["close"].to_numpy()))
    assert abs(np.corrcoef(flow, returns)[0, 1]) < 0.1
    assert history.open_interest["open_interest"].is_between(2.5e6, 3.8e6).all()  # about 3.1 million SOL


@needs_data
def test_two_files_of_binance_with_a_hole_between_become_one_market_with_a_gap() -> None:
    history = _history(MARKET_DATA / "binance-5m-ism")
    assert (history.market.id, history.interval_ms) == ("binance:BTC/USDT:USDT", 5 * MINUTE_MS)
    assert history.candles.height == 5_750 + 586
    assert history.candles["volume"].eq(0).all()
    hole = (1_781_449_500_000, 1_781_953_200_000)  # 2026-06-14T15:05 .. 06-20T11:00
    assert history.gaps == (Gap(*hole, "candles"), Gap(*hole, "open_interest"))
    assert history.open_interest["open_interest"].is_between(96_000, 111_000).all()
    assert history.market.max_leverage == 125


@needs_data
def test_a_folder_of_sources_offers_the_markets_that_have_candles_and_open_interest() -> None:
    found = [m.id for m in RecordedSource(MARKET_DATA, replay=None).markets()]
    assert found[0] == "binance:BTC/USDT:USDT"
    assert "okx:SOL/USDT:USDT" in found
    assert "hyperliquid:ETH/USDC:USDC" in found
    assert not any(m.startswith("bybit") for m in found)  # candles and funding only


# --- finding markets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("binance/BTCUSDT", "binance:BTC/USDT:USDT"),
        ("okx/SOL-USDT-SWAP", "okx:SOL/USDT:USDT"),
        ("hyperliquid/DOGE", "hyperliquid:DOGE/USDC:USDC"),
        ("binance/BTCUSD_PERP", "binance:BTC/USD:BTC"),
        ("bybit/1000PEPEUSDT", "bybit:1000PEPE/USDT:USDT"),
    ],
)
def test_the_market_is_read_off_the_folders(tmp_path: Path, folder: str, expected: str) -> None:
    _write(tmp_path / folder, candles=_bars(5), open_interest=_series("open_interest", 5))
    (market,) = RecordedSource(tmp_path, replay=None).markets()
    assert market.id == expected
    assert market.contract == ("inverse" if expected.endswith(":BTC") else "linear")


def test_maintenance_is_half_of_one_over_the_maximum_leverage_and_the_page_is_told(tmp_path: Path) -> None:
    source = RecordedSource(_simple(tmp_path), replay=None)
    (bracket,) = source.markets()[0].brackets
    assert bracket.maintenance_margin_rate == 1 / (2 * 125)
    assert "tiers by rule" in source.description
    assert source.origin is Origin.RECORDED


@pytest.mark.parametrize("finer", ["first", "second"])
def test_a_market_found_twice_is_taken_from_its_finer_candles(tmp_path: Path, finer: str) -> None:
    for source in ("first", "second"):
        minutes = 1 if source == finer else 5
        folder = _write(tmp_path / source / "binance" / "BTCUSDT", open_interest=_series("open_interest", 10))
        _write(folder / f"candles_{minutes}m", a=_bars(10, step=minutes * MINUTE_MS))
    assert len(RecordedSource(tmp_path, replay=None).markets()) == 1
    assert _history(tmp_path).interval_ms == MINUTE_MS


def test_one_file_with_a_description_beside_it_is_a_recording(tmp_path: Path) -> None:
    table = _bars(6).with_columns(open_interest=pl.lit(500.0), funding_rate=pl.lit(0.0001))
    _write(tmp_path, everything=table)
    _describe(tmp_path)
    history = _history(tmp_path / "everything.csv")
    assert history.open_interest.height == history.funding_rate.height == 6
    assert history.gaps == ()


@pytest.mark.parametrize("missing", ["candles", "open_interest"])
def test_without_candles_or_open_interest_there_is_no_market(tmp_path: Path, missing: str) -> None:
    (_simple(tmp_path) / f"{missing}.csv").unlink()
    with pytest.raises(SourceError, match=r"no market with candles and open interest.*liqheat\.json"):
        RecordedSource(tmp_path, replay=None)


def test_files_that_no_reading_of_a_description_fits_are_named(tmp_path: Path) -> None:
    _write(tmp_path, prices=_bars(10), held=_series("open_interest", 10))
    _describe(
        tmp_path, readings=[{"series": "candles", "kind": "prices"}, {"series": "open_interest", "kind": "interest*"}]
    )
    with pytest.raises(SourceError, match=r"finds open_interest: .* prices, interest\*, and none fits held\.csv$"):
        RecordedSource(tmp_path, replay=None)


def test_a_path_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="nowhere"):
        RecordedSource(tmp_path / "nowhere", replay=None)


def test_a_market_that_is_not_recorded_is_refused(tmp_path: Path) -> None:
    source = RecordedSource(_simple(tmp_path), replay=None)
    (held,) = source.markets()
    other = Market("okx", "ETH/USDT:USDT", "linear", held.brackets)
    with pytest.raises(SourceError, match=r"okx:ETH/USDT:USDT.*binance:BTC/USDT:USDT"):
        source.history(other, lambda _done, _what: None)


# --- units, times, gaps --------------------------------------------------------------------------------------------


def test_open_interest_in_usd_is_divided_by_the_price_of_its_stamp_and_known_at_the_end_of_its_period(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "hyperliquid" / "BTC"
    _write(folder / "candles_1h", a=_bars(5, step=HOUR_MS))
    usd = pl.DataFrame({"timestamp": [START, START + HOUR_MS, START + 2 * HOUR_MS], "oi_usd": [1000.0, 1000.0, 1010.0]})
    _write(folder / "open_interest_1h", a=usd)
    history = _history(tmp_path)
    assert _ms(history.open_interest) == [START + HOUR_MS, START + 2 * HOUR_MS, START + 3 * HOUR_MS]
    assert history.open_interest["open_interest"].to_list() == [10.0, 10.0, 10.0]  # at 100, 100 and 101


def test_open_interest_of_okx_is_priced_once_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "okx" / "SOL-USDT-SWAP"
    bars = _bars(48, step=HOUR_MS)  # the close at hour h is 99 + h
    _write(folder / "ohlcv_1h", a=bars)
    stamps = [17, 18, 41, 42]
    usd = pl.DataFrame({"ts": [START + h * HOUR_MS for h in stamps], "oi": 2300.0, "oi_value": 2300.0})
    _write(folder / "open_interest", a=usd)
    history = _history(tmp_path)
    # 17:00 was priced at 16:00 of the day before, which is not recorded; the next two at 16:00, then the day after.
    assert _ms(history.open_interest) == [START + (h + 1) * HOUR_MS for h in stamps[1:]]
    assert history.open_interest["open_interest"].to_list() == pytest.approx([2300 / 115, 2300 / 115, 2300 / 139])


def test_volume_in_contracts_becomes_base_coin(tmp_path: Path) -> None:
    folder = tmp_path / "okx" / "BTC-USDT-SWAP"
    _write(folder / "candles_1m", a=_bars(5))
    _write(folder, open_interest=_series("open_interest", 5))
    assert _history(tmp_path).candles["volume"].to_list() == pytest.approx([0.1] * 5)


def test_contracts_of_unknown_size_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "okx" / "PEPE-USDT-SWAP"
    _write(folder / "candles_1m", a=_bars(5))
    _write(folder, open_interest=_series("open_interest", 5))
    with pytest.raises(SourceError, match="contract_size"):
        _history(tmp_path)


def test_the_finest_candles_are_used(tmp_path: Path) -> None:
    folder = _write(tmp_path / "binance" / "ETHUSDT", open_interest=_series("open_interest", 10))
    _write(folder / "ohlcv_1m", a=_bars(10))
    _write(folder / "ohlcv_5m", a=_bars(2, step=5 * MINUTE_MS, price=500.0))
    history = _history(tmp_path)
    assert (history.interval_ms, history.candles.height) == (MINUTE_MS, 10)
    assert history.candles["close"].max() == 109


def test_holes_are_listed_and_not_filled(tmp_path: Path) -> None:
    bars = _bars(30)
    interest = _series("open_interest", 30)
    _write(
        tmp_path / "binance" / "BTCUSDT",
        candles=pl.concat([bars[:10], bars[14:]]),
        open_interest=pl.concat([interest[3:20], interest[22:28]]),
    )
    history = _history(tmp_path)
    at = [START + i * MINUTE_MS for i in range(31)]
    assert history.gaps == (
        Gap(at[10], at[14], "candles"),
        Gap(at[0], at[3], "open_interest"),
        Gap(at[20], at[22], "open_interest"),
        Gap(at[28], at[30], "open_interest"),
    )
    assert history.candles.height == 26
    assert history.open_interest.height == 23


def test_what_became_known_after_the_last_candle_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path / "binance" / "BTCUSDT", candles=_bars(5), open_interest=_series("open_interest", 60))
    assert _ms(_history(tmp_path).open_interest)[-1] == START + 5 * MINUTE_MS


def test_overlapping_files_are_merged_once(tmp_path: Path) -> None:
    folder = _write(tmp_path / "binance" / "BTCUSDT", open_interest=_series("open_interest", 12))
    _write(folder / "candles_1m", first=_bars(8), second=_bars(12)[4:])
    history = _history(tmp_path)
    assert _ms(history.candles) == _ms(as_candles(_bars(12)))


@pytest.mark.parametrize(("hours", "said"), [(1, 1), (4, 4), (8, 8), (0.25, None), (24, None)])
def test_funding_that_comes_as_settlements_do_is_per_that_interval(
    tmp_path: Path, hours: float, said: int | None
) -> None:
    step = int(hours * HOUR_MS)
    n = 3 * step // MINUTE_MS + 5
    rates = _series("funding_rate", 4, step=step, value=0.0001)
    folder = _write(
        tmp_path / "binance" / "BTCUSDT",
        candles_1m=_bars(n),
        open_interest=_series("open_interest", n),
        funding=rates,
    )
    interval = _history(folder.parents[1]).funding_interval_ms
    assert interval == (None if said is None else said * HOUR_MS)


def test_prints_keep_their_time_even_when_they_share_it(tmp_path: Path) -> None:
    prints = pl.DataFrame(
        {
            "time": [START + 1, START + 1, START + 70_000],
            "side": ["long", "short", "long"],
            "price": [99.0, 101.0, 98.0],
            "quantity": [1.0, 2.0, 3.0],
            "size_usd": [99.0, 202.0, 294.0],
        }
    )
    _write(_simple(tmp_path), liquidations=prints)
    found = _history(tmp_path).liquidations
    assert found["side"].to_list() == ["long", "short", "long"]
    assert found["notional_usd"].sum() == 595.0


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    source = RecordedSource(_simple(tmp_path), replay=None)
    seen: list[float] = []
    source.history(source.markets()[0], lambda done, _what: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


# --- liqheat.json --------------------------------------------------------------------------------------------------


def test_a_description_maps_any_columns_and_units(tmp_path: Path) -> None:
    bars = _bars(8).rename({"time": "when", "close": "last"})
    percent = pl.DataFrame({"when": [START], "pct": [0.01]})
    usd = pl.DataFrame({"when": [START + MINUTE_MS], "usd": [5000.0]})
    _write(tmp_path, prices=bars, oi=usd, rates=percent)
    when = {"time": "when"}
    _describe(
        tmp_path,
        exchange="dydx",
        symbol="ETH/USDC:USDC",
        max_leverage=20,
        drop_unfinished=True,
        readings=[
            {"series": "candles", "kind": "prices", "columns": {**when, "close": "last"}, "unit": "contracts"},
            {"series": "open_interest", "kind": "oi", "columns": {**when, "open_interest": "usd"}, "unit": "usd",
             "known_after_ms": 60_000},
            {"series": "funding_rate", "kind": "rates", "columns": {**when, "funding_rate": "pct"}, "unit": "percent"},
        ],
        contract_size=0.5,
    )  # fmt: skip
    history = _history(tmp_path)
    assert history.market.id == "dydx:ETH/USDC:USDC"
    assert history.market.brackets[0].maintenance_margin_rate == 1 / 40
    assert history.candles.height == 7  # the last was still open
    assert history.candles["volume"].to_list() == [5.0] * 7
    assert (_ms(history.open_interest), history.open_interest["open_interest"].to_list()) == (
        [START + 2 * MINUTE_MS],
        [50.0],
    )
    assert history.funding_rate["funding_rate"].to_list() == pytest.approx([0.0001])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"exchange": None}, "exchange"),
        ({"colour": "red"}, "colour"),
        ({"contract": "quanto"}, "contract"),
        ({"symbol": "BTCUSDT"}, "symbol"),
        ({"max_leverage": 0.5}, "max_leverage"),
        ({"readings": [{"series": "weather"}]}, r"readings\.0\.series"),
        ({"readings": [{"series": "candles", "columns": {"hihg": "h"}}]}, "hihg"),
    ],
)
def test_a_wrong_description_is_refused_by_the_field(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    _write(tmp_path, candles=_bars(5), open_interest=_series("open_interest", 5))
    _describe(tmp_path, **change)
    with pytest.raises(SourceError, match=problem):
        RecordedSource(tmp_path, replay=None)


def test_a_described_file_whose_columns_do_not_fit_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, candles=_bars(5), oi=_series("open_interest", 5))
    _describe(
        tmp_path,
        readings=[
            {"series": "candles", "kind": "candles"},
            {"series": "open_interest", "kind": "oi", "columns": {"open_interest": "contracts"}},
        ],
    )
    with pytest.raises(InputError, match=r"oi\.csv: no reading .* time, open_interest"):
        _history(tmp_path)


# --- replay --------------------------------------------------------------------------------------------------------


def test_at_rest_everything_is_history_and_watching_ends_at_once(tmp_path: Path) -> None:
    source = RecordedSource(_simple(tmp_path), replay=None)
    assert source.history(source.markets()[0], lambda _done, _what: None).candles.height == 40
    assert _watched(source) == []


def test_history_and_replay_together_are_the_recording(tmp_path: Path) -> None:
    whole = _history(_simple(tmp_path))
    source = RecordedSource(tmp_path, replay=1e9)
    past = source.history(source.markets()[0], lambda _done, _what: None)
    played = _watched(source)
    assert past.candles.height == 30
    assert [*_ms(past.candles), *(u.candle.time_ms for u in played)] == _ms(whole.candles)
    assert [u.candle.close for u in played] == whole.candles["close"].to_list()[30:]
    observed = [u.open_interest for u in played if u.open_interest is not None]
    known = [Observation(t, v) for t, v in zip(*whole.open_interest.get_columns(), strict=True)]
    assert [o.value for o in observed] == [o.value for o in known[past.open_interest.height :]]
    assert all(u.candle_closed and u.time_ms == u.candle.time_ms + MINUTE_MS for u in played)
    assert all(u.mark_price == u.candle.close for u in played)


def test_history_of_a_replay_holds_nothing_from_its_future(tmp_path: Path) -> None:
    bars, folder = _bars(40), tmp_path / "binance" / "BTCUSDT"
    _write(folder, candles=pl.concat([bars[:35], bars[37:]]), open_interest=_series("open_interest", 40))
    past = _history(tmp_path, replay=60.0)
    now = _ms(past.candles)[-1] + MINUTE_MS
    assert max(_ms(past.open_interest)) <= now
    assert past.gaps == ()


def test_replay_keeps_its_pace_and_skips_stretches_without_candles(tmp_path: Path) -> None:
    bars = _bars(40)
    later = bars[34:].with_columns(pl.col("time") + 1000 * HOUR_MS)
    folder = tmp_path / "binance" / "BTCUSDT"
    _write(folder, candles=pl.concat([bars[:34], later]), open_interest=_series("open_interest", 34))
    source = RecordedSource(tmp_path, replay=3000.0)  # ten minutes in .2 s
    source.history(source.markets()[0], lambda _done, _what: None)
    began = time.monotonic()
    played = _watched(source)
    assert len(played) == 10
    assert 0.19 < time.monotonic() - began < 2.0


def test_markets_are_played_side_by_side(tmp_path: Path) -> None:
    _simple(tmp_path)
    other = START + 77 * 24 * HOUR_MS
    _write(
        tmp_path / "okx" / "ETH-USDT-SWAP",
        candles=_bars(40, start=other),
        open_interest=_series("open_interest", 40, start=other),
    )
    source = RecordedSource(tmp_path, replay=1e9)
    turns = [u.market.base for u in _watched(source)]
    assert len(turns) == 20
    assert all({a, b} == {"BTC", "ETH"} for a, b in zip(turns[::2], turns[1::2], strict=True))


def test_replay_starts_no_earlier_than_open_interest(tmp_path: Path) -> None:
    late = _series("open_interest", 4, start=START + 36 * MINUTE_MS)
    _write(tmp_path / "binance" / "BTCUSDT", candles=_bars(40), open_interest=late)
    past = _history(tmp_path, replay=60.0)
    assert past.open_interest.height == 1


def test_prints_are_played_with_the_candle_they_fell_in(tmp_path: Path) -> None:
    at = START + 33 * MINUTE_MS + 5
    row = {"time": [at], "side": ["short"], "price": [1.0], "quantity_base": [2.0], "notional_usd": [2.0]}
    _write(_simple(tmp_path), liquidations=pl.DataFrame(row))
    (update,) = [u for u in _watched(RecordedSource(tmp_path, replay=1e9)) if u.liquidations]
    assert update.candle.time_ms == START + 33 * MINUTE_MS
    assert update.liquidations[0].side is Side.SHORT


@pytest.mark.parametrize("replay", [0.0, -1.0, float("inf"), float("nan")])
def test_a_pace_that_means_nothing_is_refused(tmp_path: Path, replay: float) -> None:
    with pytest.raises(ParameterError, match="replay"):
        RecordedSource(_simple(tmp_path), replay=replay)


# --- reading users' files ------------------------------------------------------------------------------------------


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("ending", ["csv", "parquet", "feather", "arrow", "ipc", "json", "ndjson", "jsonl"])
def test_every_format_reads_the_same(tmp_path: Path, ending: str, packed: bool) -> None:  # noqa: FBT001
    bars = _bars(4)
    data = {
        "csv": lambda: _bytes(bars.write_csv),
        "parquet": lambda: _bytes(bars.write_parquet),
        "json": lambda: json.dumps(bars.to_dicts()).encode(),
        "ndjson": lambda: _bytes(bars.write_ndjson),
        "jsonl": lambda: _bytes(bars.write_ndjson),
    }.get(ending, lambda: _bytes(bars.write_ipc))()
    file = tmp_path / f"bars.{ending}{'.gz' * packed}"
    file.write_bytes(gzip.compress(data) if packed else data)
    assert read_frame(file).equals(bars)


def test_json_rows_are_candles(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([list(row) for row in _bars(3).rows()]))
    assert as_candles(read_frame(file)).equals(as_candles(_bars(3)))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gone.csv", None, "no such file"),
        ("table.xlsx", b"", "not a file this reads"),
        ("broken.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("broken.csv.gz", b"not gzip", "cannot be read as csv"),
        ("object.json", b'{"a": 1}', "not a list of rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem) as refusal:
        read_frame(tmp_path / name)
    assert refusal.value.frame == str(tmp_path / name)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([START, START + MINUTE_MS], id="milliseconds"),
        pytest.param([START // 1000, START // 1000 + 60], id="seconds"),
        pytest.param([START * 1000, (START + MINUTE_MS) * 1000], id="microseconds"),
        pytest.param([START * 1_000_000, (START + MINUTE_MS) * 1_000_000], id="nanoseconds"),
        pytest.param([ISO_START, "2026-06-01T00:01:00.000Z"], id="ISO"),
        pytest.param(["2026-06-01 08:00:00+08:00", "2026-06-01 00:01"], id="offset, and none"),
        pytest.param(["2026/06/01", "2026-05-31 22:31:00-0130"], id="day, and a negative offset"),
    ],
)
def test_times_of_every_kind_are_utc(times: list[Any]) -> None:
    found = as_candles(_bars(2).drop("time").with_columns(pl.Series("Timestamp", times)))
    assert _ms(found) == [START, START + MINUTE_MS]


def test_datetimes_without_a_zone_are_utc_and_others_are_converted() -> None:
    there = as_candles(_bars(2))
    naive = there.with_columns(pl.col("time").dt.replace_time_zone(None).cast(pl.Datetime("ns")))
    tokyo = there.with_columns(pl.col("time").dt.convert_time_zone("Asia/Tokyo"))
    assert as_candles(naive).equals(there)
    assert as_candles(tokyo).equals(there)


def test_short_column_names_unsorted_rows_and_a_missing_volume_are_accepted() -> None:
    bars = _bars(5)
    messy = bars.drop("volume").rename({"time": "ts", "open": "O", "high": "h", "low": "l", "close": "c"}).reverse()
    found = as_candles(messy)
    assert found.schema == pl.Schema(CANDLES)
    assert found["close"].to_list() == bars["close"].to_list()
    assert found["volume"].to_list() == [0.0] * 5


def test_of_two_rows_of_one_time_the_later_counts() -> None:
    twice = pl.concat([_bars(3), _bars(3).with_columns(volume=pl.lit(99.0))])
    assert as_candles(twice)["volume"].to_list() == [99.0] * 3


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("close", 2, None),
        ("open", 1, -5.0),
        ("high", 3, 1.0),
        ("low", 0, 1e9),
        ("volume", 4, -1.0),
        ("close", 1, float("nan")),
    ],
)
def test_a_candle_that_cannot_be_is_named(column: str, row: int, value: float | None) -> None:
    values = _bars(5)[column].to_list()
    values[row] = value
    with pytest.raises(InputError) as refusal:
        as_candles(_bars(5).with_columns(pl.Series(column, values, dtype=pl.Float64)))
    assert (refusal.value.frame, refusal.value.row) == ("candles", row)
    assert refusal.value.column in {column, "high", "low"}  # a wrong price also breaks the range of its candle


@pytest.mark.parametrize(("value", "problem"), [("soon", "not a time"), ("1969-07-20", "before 2009")])
def test_a_time_that_cannot_be_is_named(value: str, problem: str) -> None:
    table = _bars(3).with_columns(time=pl.Series([ISO_START, "2026-06-01T00:01:00Z", value]))
    with pytest.raises(InputError, match=problem) as refusal:
        as_candles(table)
    assert (refusal.value.column, refusal.value.row, refusal.value.value) == ("time", 2, value)


def test_an_absent_column_is_named_with_what_would_do() -> None:
    with pytest.raises(InputError, match=r"candles\.close: absent; accepted names are close, c, .* has time, open"):
        as_candles(_bars(3).drop("close"))


def test_open_interest_in_usd_needs_candles() -> None:
    usd = _series("oi_usd", 4, value=10_000.0)
    with pytest.raises(InputError, match="in USD"):
        as_open_interest(usd)
    base = as_open_interest(usd, as_candles(_bars(4)))
    expected = [10_000 / 100, 10_001 / 100, 10_002 / 101, 10_003 / 102]
    assert base["open_interest"].to_list() == pytest.approx(expected)


def test_open_interest_in_usd_is_not_valued_at_the_price_of_another_day() -> None:
    bars = pl.concat([_bars(4), _bars(4, start=START + 72 * HOUR_MS)])
    usd = _series("oi_usd", 3, start=START, step=36 * HOUR_MS)  # the second row lies in the hole
    assert _ms(as_open_interest(usd, as_candles(bars))) == [START, START + 72 * HOUR_MS]


def test_rows_without_a_value_are_left_out_and_negative_ones_refused() -> None:
    table = _series("sumOpenInterest", 3).with_columns(pl.Series("sumOpenInterest", [5.0, None, 7.0]))
    assert as_open_interest(table)["open_interest"].to_list() == [5.0, 7.0]
    with pytest.raises(InputError, match="must be >= 0"):
        as_open_interest(_series("open_interest", 2, value=-5.0))
    with pytest.raises(InputError, match="not a finite number") as refusal:
        as_open_interest(pl.DataFrame({"time": [START, START + 1], "open_interest": ["5", "many"]}))
    assert (refusal.value.row, refusal.value.value) == (1, "many")


def test_a_bare_oi_is_not_guessed_at() -> None:
    with pytest.raises(InputError, match="absent; accepted names"):
        as_open_interest(_series("oi", 3))
