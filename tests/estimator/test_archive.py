"""What the archive holds reaches history whole, once, in base coin and at the time it became known; damage does not."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from estimator.archive import Archive, ArchiveFile, Kind, archive_symbol, backfill, import_day, plan
from estimator.archive.parse import parse_klines, parse_metrics
from estimator.domain import DAY_MS, MINUTE_MS, LeverageBracket, Market
from estimator.errors import BadPayload, ParameterError, RegionBlocked, VenueDown
from estimator.history import History

BRACKETS = (LeverageBracket(0, 125, 0.004),)
BTC = Market("binance", "BTC/USDT:USDT", "linear", BRACKETS)
ETH = Market("binance", "ETH/USDT:USDT", "linear", BRACKETS)
COIN = Market("binance", "BTC/USD:BTC", "inverse", BRACKETS)
DAY = date(2024, 1, 15)
AFTER_RELABELLING = date(2026, 7, 1)
KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
METRICS_HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
FUNDING_HEADER = "calc_time,funding_interval_hours,last_funding_rate"


def quiet(_done: float, _text: str) -> None:
    """Nobody watches."""


def ms_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def klines_csv(day: date, *, header: bool = True, rows: int = 1440) -> str:
    lines = [KLINE_HEADER] if header else []
    for i in range(rows):
        t = ms_of(day) + i * MINUTE_MS
        lines.append(f"{t},{100 + i},{102 + i},{99 + i},{101 + i},10.5,{t + 59_999},1050.25,7,4.5,450.75,0")
    return "\n".join(lines) + "\n"


def metrics_csv(day: date, market: Market = BTC, *, header: bool = True, first_minute: int = 5) -> str:
    lines = [METRICS_HEADER] if header else []
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    for i in range(288):
        label = begin + timedelta(minutes=first_minute + 5 * i)
        lines.append(
            f"{label:%Y-%m-%d %H:%M:%S},{archive_symbol(market)},{5000 + i},{7 + i},1.1,1.2,{1 + i / 1000},0.9"
        )
    return "\n".join(lines) + "\n"


def funding_csv(month: date, days: int, *, interval: int = 8) -> str:
    rows = [f"{ms_of(month) + h * 3_600_000 + 4},{interval},0.0001" for h in range(0, 24 * days, interval)]
    return "\n".join([FUNDING_HEADER, *rows]) + "\n"


def zip_of(name: str, text: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name.replace(".zip", ".csv"), text)
    return out.getvalue()


def put(root: Path, file: ArchiveFile, text: str) -> Path:
    """Lay a file and its checksum where the archive has them."""
    path = root / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_of(path.name, text))
    write_checksum(path)
    return path


def write_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")


def put_day(root: Path, market: Market, day: date) -> None:
    put(root, ArchiveFile(market, "klines", day), klines_csv(day))
    put(root, ArchiveFile(market, "metrics", day), metrics_csv(day, market))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


class Loopback(ThreadingHTTPServer):
    """A folder over HTTP, with what was asked for and answers that can be told to go wrong."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, Callable[[_Handler, bytes], None]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, file: ArchiveFile, fault: Callable[[_Handler, bytes], None]) -> None:
        self.faults[f"/{file.path}"] = fault


class _Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        path = self.server.root / self.path.lstrip("/")
        body = path.read_bytes() if path.is_file() else None
        if self.path in self.server.faults and body is not None:
            self.server.faults[self.path](self, body)
        elif body is None:
            self.answer(404)
        else:
            self.answer(200, body)

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(folder: Path) -> Iterator[Loopback]:
    with Loopback(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def online(web: Loopback) -> Iterator[Archive]:
    archive = Archive(web.url, attempts=3, wait_s=0.01)
    yield archive
    archive.close()


# --- layout


def test_files_lie_where_the_venue_puts_them() -> None:
    assert ArchiveFile(BTC, "klines", DAY).path == "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-15.zip"
    assert (
        ArchiveFile(BTC, "metrics", DAY).path == "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-01-15.zip"
    )
    funding = ArchiveFile(BTC, "fundingRate", DAY.replace(day=1))
    assert funding.path == "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01.zip"
    coin = "data/futures/cm/daily/klines/BTCUSD_PERP/1m/BTCUSD_PERP-1m-2024-01-15.zip"
    assert ArchiveFile(COIN, "klines", DAY).path == coin


def test_a_plan_covers_every_day_and_month_once() -> None:
    files = plan([BTC, ETH], date(2023, 12, 30), date(2024, 1, 2))
    assert len(files) == len(set(files)) == 2 * (4 * 2 + 2)
    december = next(f for f in files if f.kind == "fundingRate" and f.day.month == 12)
    assert december.end_ms == ms_of(date(2024, 1, 1))


def test_a_plan_is_for_binance_and_runs_forward() -> None:
    with pytest.raises(ParameterError, match="bybit"):
        plan([Market("bybit", "BTC/USDT:USDT", "linear", BRACKETS)], DAY, DAY)
    with pytest.raises(ParameterError, match="not after 2024-01-14"):
        plan([BTC], DAY, DAY - timedelta(days=1))


# --- what is read


@pytest.mark.parametrize("header", [True, False])
def test_a_day_arrives_whole_with_or_without_header_lines(folder: Path, history: History, *, header: bool) -> None:
    put(folder, ArchiveFile(BTC, "klines", DAY), klines_csv(DAY, header=header))
    put(folder, ArchiveFile(BTC, "metrics", DAY), metrics_csv(DAY, header=header))
    done = import_day(Archive(folder), history, BTC, DAY)
    assert (done.rows, done.files, done.missing, done.damaged, done.short) == (1440 + 2 * 288, 2, [], {}, {})
    candles = history.read("candles", BTC.id, ms_of(DAY), ms_of(DAY) + DAY_MS)
    assert candles.height == 1440
    assert candles.row(1, named=True) | {"time": None} == {
        "time": None, "open": 101.0, "high": 103.0, "low": 100.0, "close": 102.0, "volume": 10.5,
        "taker_buy_volume": 4.5, "mark_high": None, "mark_low": None,
    }  # fmt: skip


def test_coin_margined_volume_and_interest_are_taken_in_base_coin() -> None:
    candles = parse_klines(ArchiveFile(COIN, "klines", DAY), klines_csv(DAY).encode())["candles"]
    assert candles["volume"].unique().to_list() == [1050.25]
    assert candles["taker_buy_volume"].unique().to_list() == [450.75]
    metrics = metrics_csv(DAY, COIN, first_minute=0)
    interest = parse_metrics(ArchiveFile(COIN, "metrics", DAY), metrics.encode())["open_interest"]
    assert interest["open_interest"][:2].to_list() == [7.0, 8.0]


@pytest.mark.parametrize(
    ("market", "day", "first_minute"), [(BTC, DAY, 5), (BTC, AFTER_RELABELLING, 0), (COIN, DAY, 0)]
)
def test_metrics_are_dated_when_they_became_known_however_they_are_labelled(
    market: Market, day: date, first_minute: int
) -> None:
    csv = metrics_csv(day, market, first_minute=first_minute)
    times = parse_metrics(ArchiveFile(market, "metrics", day), csv.encode())["long_short_ratio"]["time"].dt.epoch("ms")
    assert times[0] == ms_of(day) + 5 * MINUTE_MS
    assert times[-1] == ms_of(day) + DAY_MS


@pytest.mark.parametrize(("day", "first_minute"), [(DAY, 5), (AFTER_RELABELLING, 0)])
def test_labels_without_either_midnight_are_read_by_their_date(day: date, first_minute: int) -> None:
    header, *rows = metrics_csv(day, first_minute=first_minute).splitlines()
    kept = "\n".join([header, *rows[1:-1]])
    frames = parse_metrics(ArchiveFile(BTC, "metrics", day), kept.encode())
    assert frames["open_interest"]["time"].dt.epoch("ms")[0] == ms_of(day) + 10 * MINUTE_MS


def test_blank_metrics_are_left_out_and_repeated_ones_count_once() -> None:
    header, *rows = metrics_csv(DAY).splitlines()
    rows[3] = rows[3].replace(",5003,", ",,")
    rows[5] = rows[5].replace(",5005,", ",0,")
    text = "\n".join([header, *rows, rows[7]])
    frames = parse_metrics(ArchiveFile(BTC, "metrics", DAY), text.encode())
    assert frames["open_interest"].height == 286
    assert frames["long_short_ratio"].height == 288


def test_markets_and_funding_of_many_days_arrive_in_one_run(folder: Path, history: History) -> None:
    days = [DAY, DAY + timedelta(days=1)]
    for market in (BTC, ETH):
        for day in days:
            put_day(folder, market, day)
        put(folder, ArchiveFile(market, "fundingRate", DAY.replace(day=1)), funding_csv(DAY.replace(day=1), 31))
    said: list[float] = []
    done = backfill(Archive(folder), history, [BTC, ETH], days[0], days[1], lambda share, _: said.append(share))
    assert done.rows == 2 * (2 * (1440 + 2 * 288) + 93)
    assert said == sorted(said)
    assert (said[0], said[-1]) == (0.0, 1.0)
    assert history.read("funding", ETH.id, 0, ms_of(date(2025, 1, 1))).height == 93


# --- again, and what is not there


def test_what_history_has_is_not_read_again(folder: Path, web: Loopback, online: Archive, history: History) -> None:
    put_day(folder, BTC, DAY)
    put(folder, ArchiveFile(BTC, "fundingRate", DAY.replace(day=1)), funding_csv(DAY.replace(day=1), 31))
    first = backfill(online, history, [BTC], DAY, DAY, quiet)
    asked = web.asked.copy()
    again = backfill(online, history, [BTC], DAY, DAY, quiet)
    assert (first.files, first.complete) == (3, 0)
    assert (again.files, again.complete, again.rows) == (0, 3, 0)
    assert web.asked == asked


def test_an_interrupted_run_goes_on_where_it_was(folder: Path, history: History) -> None:
    days = [DAY + timedelta(days=i) for i in range(3)]
    for day in days:
        put_day(folder, BTC, day)

    class StoppedError(Exception):
        pass

    def stop(done: float, _text: str) -> None:
        if done > 0.5:
            raise StoppedError

    with pytest.raises(StoppedError):
        backfill(Archive(folder), history, [BTC], days[0], days[-1], stop)
    rest = backfill(Archive(folder), history, [BTC], days[0], days[-1], quiet)
    assert rest.complete > 0
    assert history.read("candles", BTC.id, ms_of(days[0]), ms_of(days[-1]) + DAY_MS).height == 3 * 1440


def test_a_short_day_is_stored_reported_and_asked_for_again(folder: Path, history: History) -> None:
    file = ArchiveFile(BTC, "klines", DAY)
    put(folder, file, klines_csv(DAY, rows=1400))
    put(folder, ArchiveFile(BTC, "metrics", DAY), metrics_csv(DAY))
    assert import_day(Archive(folder), history, BTC, DAY).short == {file.path: 40}
    put(folder, file, klines_csv(DAY))
    again = import_day(Archive(folder), history, BTC, DAY)
    assert (again.rows, again.short, again.complete) == (40, {}, 1)


@pytest.mark.parametrize("over_http", [True, False])
def test_missing_days_are_named_and_stop_nothing(
    folder: Path, online: Archive, history: History, *, over_http: bool
) -> None:
    put_day(folder, BTC, DAY)
    tomorrow = DAY + timedelta(days=1)
    done = backfill(online if over_http else Archive(folder), history, [BTC], DAY, tomorrow, quiet)
    kinds: tuple[Kind, Kind] = ("klines", "metrics")
    absent = {ArchiveFile(BTC, kind, tomorrow).path for kind in kinds}
    assert set(done.missing) == absent | {ArchiveFile(BTC, "fundingRate", DAY.replace(day=1)).path}
    assert done.rows == 1440 + 2 * 288


# --- damage


def damage_zip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    write_checksum(path)  # damaged before the venue took its checksum


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_checksum(path: Path) -> None:
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{'0' * 64}  {path.name}\n")


def drop_checksum(path: Path) -> None:
    path.with_name(f"{path.name}.CHECKSUM").unlink()


def swap_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  ETHUSDT-1m-2024-01-15.zip\n")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_zip, "zip"),
        (cut_short, "sha256"),
        (spoil_checksum, "sha256"),
        (drop_checksum, "missing"),
        (swap_checksum, "another file"),
    ],
)
def test_nothing_of_a_damaged_file_is_stored(
    folder: Path, history: History, damage: Callable[[Path], None], named: str
) -> None:
    put_day(folder, BTC, DAY)
    file = ArchiveFile(BTC, "klines", DAY)
    damage(folder / file.path)
    done = import_day(Archive(folder), history, BTC, DAY)
    assert list(done.damaged) == [file.path]
    assert named in done.damaged[file.path]
    assert history.last_time("candles", BTC.id) is None
    assert history.last_time("open_interest", BTC.id) == ms_of(DAY) + DAY_MS


def replace_row(row: int, old: str, new: str) -> str:
    lines = klines_csv(DAY).splitlines()
    assert old in lines[row + 1]
    lines[row + 1] = lines[row + 1].replace(old, new, 1)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("csv", "named"),
    [
        (replace_row(3, ",103,", ",,"), "open row 3"),
        (replace_row(3, ",105,", ",abc,"), "high row 3"),
        (replace_row(4, ",103,", ",-1,"), "low row 4"),
        (replace_row(4, ",106,", ",1,"), "row 4"),
        (replace_row(5, ",10.5,", ",nan,"), "volume row 5"),
        (replace_row(5, ",4.5,", ",11,"), "taker_buy_volume row 5"),
        (replace_row(6, str(ms_of(DAY) + 6 * MINUTE_MS), str(ms_of(DAY) - MINUTE_MS)), "time row 6"),
        (replace_row(6, str(ms_of(DAY) + 6 * MINUTE_MS), str(ms_of(DAY) + 5 * MINUTE_MS)), "time row 6"),
        (replace_row(6, str(ms_of(DAY) + 6 * MINUTE_MS), str(ms_of(DAY) + 6 * MINUTE_MS + 1)), "time row 6"),
        (klines_csv(DAY).replace("taker_buy_volume", "taker"), "header"),
        (f"{KLINE_HEADER}\n", "no rows"),
        ("", "header"),
        ("<html>\nnot found\n</html>", "header"),
    ],
)
def test_values_that_cannot_be_are_named(csv: str, named: str) -> None:
    with pytest.raises(BadPayload, match=named):
        parse_klines(ArchiveFile(BTC, "klines", DAY), csv.encode())


def test_metrics_of_another_market_are_refused() -> None:
    with pytest.raises(BadPayload, match="symbol row 0"):
        parse_metrics(ArchiveFile(BTC, "metrics", DAY), metrics_csv(DAY, ETH).encode())


# --- the web


def test_a_download_cut_off_half_way_is_tried_again(
    folder: Path, web: Loopback, online: Archive, history: History
) -> None:
    put_day(folder, BTC, DAY)
    file = ArchiveFile(BTC, "klines", DAY)

    def cut_once(handler: _Handler, body: bytes) -> None:
        first = web.asked[f"/{file.path}"] == 1
        handler.answer(200, body[: len(body) // 2] if first else body, length=len(body))
        handler.close_connection = True

    web.fail(file, cut_once)
    done = import_day(online, history, BTC, DAY)
    assert (done.damaged, done.rows) == ({}, 1440 + 2 * 288)
    assert web.asked[f"/{file.path}"] == 2


def test_a_file_that_always_ends_half_way_is_named_as_damaged(
    folder: Path, web: Loopback, online: Archive, history: History
) -> None:
    put_day(folder, BTC, DAY)
    file = ArchiveFile(BTC, "klines", DAY)

    def cut(handler: _Handler, body: bytes) -> None:
        handler.answer(200, body[:100], length=len(body))
        handler.close_connection = True

    web.fail(file, cut)
    assert "cut short" in import_day(online, history, BTC, DAY).damaged[file.path]
    assert history.last_time("candles", BTC.id) is None


def test_a_busy_archive_is_asked_again(folder: Path, web: Loopback, online: Archive, history: History) -> None:
    put_day(folder, BTC, DAY)
    file = ArchiveFile(BTC, "metrics", DAY)

    def busy(handler: _Handler, body: bytes) -> None:
        n = web.asked[f"/{file.path}"]
        handler.answer(*((503, b"") if n == 1 else (429, b"") if n == 2 else (200, body)), Retry_After="0")

    web.fail(file, busy)
    assert import_day(online, history, BTC, DAY).rows == 1440 + 2 * 288


@pytest.mark.parametrize(("status", "error"), [(500, VenueDown), (451, RegionBlocked)])
def test_an_archive_that_does_not_answer_ends_the_run(
    folder: Path, web: Loopback, online: Archive, history: History, status: int, error: type[Exception]
) -> None:
    put_day(folder, BTC, DAY)
    web.fail(ArchiveFile(BTC, "klines", DAY), lambda handler, _: handler.answer(status))
    with pytest.raises(error, match=str(status)):
        backfill(online, history, [BTC], DAY, DAY, quiet)


def test_nobody_listening_is_said_so(history: History) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    archive = Archive(f"http://{address}", attempts=1)
    with pytest.raises(VenueDown, match=re.escape(address)):
        backfill(archive, history, [BTC], DAY, DAY, quiet)
    archive.close()


def test_imported_rows_are_plain_parquet_for_anyone(folder: Path, history: History) -> None:
    put_day(folder, BTC, DAY)
    import_day(Archive(folder), history, BTC, DAY)
    frame = pl.read_delta(f"{history.root}/candles")
    assert frame["symbol"].unique().to_list() == ["BTC/USDT:USDT"]
    assert frame["date"].unique().to_list() == [DAY]
