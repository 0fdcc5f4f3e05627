"""Markets read from recorded files.

A recording is a folder of tables (csv, parquet, feather/arrow/ipc, json, ndjson; each also ``.gz``), laid out as

- ``.../EXCHANGE/SYMBOL/KIND/file``, e.g. ``okx/SOL-USDT-SWAP/ohlcv_1m/june.csv.gz``, or
- ``.../EXCHANGE/SYMBOL/KIND.csv``, e.g. ``binance/BTCUSDT/candles.csv``, or
- any folder, or folder of folders by kind, with a ``liqheat.json`` that says what it holds.

`READINGS` declares what a kind of file gives and how; a market needs at least candles and open interest. Of candles
at several intervals the finest are used. Files that no reading covers are left alone.

``liqheat.json``::

    {
      "exchange": "binance", "symbol": "BTC/USDT:USDT",      required
      "contract": "linear",                                  or "inverse"
      "max_leverage": 125, "taker_fee_rate": 0.0005,         else the defaults of the venue
      "contract_size": 0.01,                                 base coin per contract, for volume in contracts
      "drop_unfinished": true,                               the last candle was still open when it was saved
      "readings": [                                          else READINGS, and any table by its columns
        {"series": "candles", "kind": "prices*"},            kind: the file's name without endings, or its folder
        {"series": "open_interest", "kind": "oi",
         "columns": {"time": "when", "open_interest": "usd"},  schema column: column of the file
         "unit": "usd", "known_after_ms": 3600000}
      ]
    }

Maintenance tiers come by rule, ``1 / (2 * maximum leverage)``, from a maximum leverage per coin: no venue's table of
tiers is shipped.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import re
import threading
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import polars as pl

from estimator.domain import (
    CANDLES,
    CANDLES_OPTIONAL,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Candle,
    Gap,
    Liquidation,
    Market,
    Observation,
    Origin,
    Side,
)
from estimator.errors import InputError, ParameterError, SourceError, SourceUnavailable
from estimator.exchanges.base import MarketHistory, MarketUpdate, Progress
from estimator.exchanges.frames import (
    DESCRIPTION_FILE,
    as_candles,
    as_liquidations,
    as_observations,
    as_open_interest,
    has_columns,
    is_table,
    one_per_time,
    read_frame,
    usd_to_base,
    with_names,
)
from estimator.exchanges.readings import (
    BY_COLUMNS,
    READINGS,
    SCHEMAS,
    VENUES,
    Description,
    Reading,
    SeriesName,
    describe,
)

__all__ = ["RecordedSource", "as_candles", "as_open_interest", "find_recordings", "load_recording", "read_frame"]

REPLAY_FROM: Final = 0.75  # share of the candles that a replayed recording starts with
_MOST_NAMED: Final = 10  # files in a message
_EXAMPLE: Final = '{"exchange": "binance", "symbol": "BTC/USDT:USDT"}'
_SETTLEMENTS_MS: Final = tuple(hours * HOUR_MS for hours in (1, 2, 4, 8))
_MAJORS: Final = ("BTC", "ETH", "SOL")
_INTERVAL: Final = re.compile(r"_(\d+)([mhd])$")
_INTERVAL_MS: Final = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

_Part = tuple[Reading, pl.DataFrame, str]  # a reading, the frame it covers and the name of the file


@dataclass(frozen=True, slots=True)
class Recording:
    """The files of one market, each with its kind."""

    market: Market
    description: Description
    files: tuple[tuple[Path, str], ...]

    @property
    def described(self) -> bool:
        """Whether the user said what each file gives."""
        return self.description.readings not in (None, READINGS)

    def readings(self, kind: str) -> list[Reading]:
        """Return the readings that may cover files of a kind."""
        offered = self.description.readings or (*READINGS, *BY_COLUMNS)
        return [r for r in offered if fnmatch(kind, r.kind) and fnmatch(self.market.exchange, r.exchange)]

    def kinds_of(self, series: SeriesName) -> set[str]:
        """Return the kinds of file that may give a series."""
        return {kind for _, kind in self.files if any(r.series == series for r in self.readings(kind))}

    @property
    def lacking(self) -> list[SeriesName]:
        """Series the estimator needs that no file may give."""
        needed: tuple[SeriesName, ...] = ("candles", "open_interest")
        return [series for series in needed if not self.kinds_of(series)]

    @property
    def candle_interval_ms(self) -> float:
        """Finest interval of candles that the kinds of the files name; infinite where they name none."""
        return min((_named_interval_ms(kind) for kind in self.kinds_of("candles")), default=math.inf)

    def wanted(self, kind: str) -> list[Reading]:
        """Return the readings to use: of candles only the finest."""
        finest = _named_interval_ms(kind) <= self.candle_interval_ms
        return [r for r in self.readings(kind) if finest or r.series != "candles"]


class RecordedSource:
    """Markets from files.

    Without `replay` the whole recording is history and `watch` ends at once. With it, history is the first three
    quarters of the candles and `watch` plays the rest, that many times faster than time: every candle of the recording
    is sent closed, at its end, with what became known during it. No price inside a candle is made up, so a longer
    step shows its open candle made of the closed ones so far. Stretches without candles are skipped rather than
    waited out. Times stay those of the recording.

    Parameters
    ----------
    path : Path
        A folder or one file.
    replay : float or None
        Seconds of the recording per second.

    Raises
    ------
    SourceUnavailable
        If the path does not exist.
    SourceError
        If it holds no market, or a description that is not valid.
    """

    origin = Origin.RECORDED

    def __init__(self, path: Path, *, replay: float | None) -> None:
        if replay is not None and not 0 < replay < math.inf:
            raise ParameterError("replay", replay, "a finite number > 0, or none")
        self._recordings = {r.market.id: r for r in find_recordings(path)}
        self._replay = replay
        self._loaded: dict[str, MarketHistory] = {}
        self._lock = threading.Lock()
        pace = "at rest" if replay is None else f"replayed at {replay:g}x"
        self.description = (
            f"recorded files of {path.name}, {pace}; maintenance tiers by rule, 1 / (2 x maximum leverage)"
        )

    def markets(self) -> Sequence[Market]:
        """Return the recorded markets, the majors first."""
        return [r.market for r in self._recordings.values()]

    def history(self, market: Market, progress: Progress) -> MarketHistory:
        """Return the recording of `market`, or its first part when it is replayed."""
        full = self._load(market, progress)
        return full if self._replay is None else _until(full, _replay_start(full))

    async def watch(self) -> AsyncIterator[MarketUpdate]:
        """Play the rest of every recording, each from its own start; end where the last one ends."""
        if self._replay is None:
            return
        full = [await asyncio.to_thread(self._load, market, lambda _done, _what: None) for market in self.markets()]
        started = time.monotonic()
        for due_ms, update in heapq.merge(*(_updates(h, _replay_start(h)) for h in full), key=lambda pair: pair[0]):
            await asyncio.sleep(max(0.0, started + due_ms / 1000 / self._replay - time.monotonic()))
            yield update

    def _load(self, market: Market, progress: Progress) -> MarketHistory:
        recording = self._recordings.get(market.id)
        if recording is None:
            raise SourceError(f"{market.id} is not in the recording; it has {', '.join(self._recordings)}")
        with self._lock:
            if market.id not in self._loaded:
                self._loaded[market.id] = load_recording(recording, progress)
            return self._loaded[market.id]


def find_recordings(path: Path) -> list[Recording]:
    """Find the markets under a path, the majors first; where one market occurs twice, the finer candles win.

    Raises
    ------
    SourceUnavailable
        If the path does not exist.
    SourceError
        If there is no market, or a description is not valid.
    """
    path = path.resolve()
    if not path.exists():
        raise SourceUnavailable(f"no recording at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if is_table(p))
    folders: dict[Path, list[tuple[Path, str]]] = {}
    for file in files:
        folder, kind = _place(file)
        folders.setdefault(folder, []).append((file, kind))
    told = [r for folder, inside in folders.items() if (r := _recording(folder, inside)) is not None]
    found = [r for r in told if not r.lacking]
    if not found:
        for recording in told:
            if recording.described:
                raise SourceError(_unfit(recording))
        raise SourceError(
            f"no market with candles and open interest in {path}: lay files out as EXCHANGE/SYMBOL/KIND/file "
            f"({', '.join(VENUES)}) or write {DESCRIPTION_FILE} beside them, e.g. {_EXAMPLE}"
        )
    finest = {r.market.id: r for r in sorted(found, key=lambda r: r.candle_interval_ms, reverse=True)}
    return sorted(finest.values(), key=lambda r: (_rank(r.market.base), r.market.id))


def load_recording(recording: Recording, progress: Progress) -> MarketHistory:
    """Read the files of a market into one history.

    Raises
    ------
    InputError
        If a file cannot be used, or there are no candles or no open interest in them.
    """
    parts: dict[SeriesName, list[_Part]] = {name: [] for name in SCHEMAS}
    for done, (file, kind) in enumerate(recording.files):
        progress(done / len(recording.files), f"reading {file.name}")
        if readings := recording.wanted(kind):
            for reading, frame in _covered(read_frame(file), readings, file, strict=recording.described):
                parts[reading.series].append((reading, frame, file.name))
    candles = _candles(recording, parts.pop("candles"))
    progress(1.0, f"read {candles.height} candles of {recording.market.id}")
    return _history(recording, candles, parts)


def _history(recording: Recording, candles: pl.DataFrame, parts: dict[SeriesName, list[_Part]]) -> MarketHistory:
    interval = _usual_step_ms(candles["time"])
    span = (_epoch(candles)[0], _epoch(candles)[-1] + interval)
    known: dict[str, Any] = {}
    for name, read in parts.items():
        frames = [_observed(reading, frame, file, candles) for reading, frame, file in read]
        merged = pl.concat([pl.DataFrame(schema=SCHEMAS[name]), *(f.select(SCHEMAS[name].keys()) for f in frames)])
        merged = merged.unique(maintain_order=True).sort("time") if name == "liquidations" else one_per_time(merged)
        known[name] = merged.filter(pl.col("time").dt.epoch("ms") <= span[1])
    if known["open_interest"].is_empty():
        raise InputError("open_interest", f"no value for {recording.market.id} while it has candles")
    gaps = (*_gaps("candles", candles, span), *_gaps("open_interest", known["open_interest"], span))
    return MarketHistory(
        recording.market,
        interval,
        candles,
        gaps=gaps,
        funding_interval_ms=_funding_interval(known["funding_rate"]),
        **known,
    )


def _funding_interval(funding: pl.DataFrame) -> int | None:
    """Tell what the rates are a fraction per: rows that come as settlements do are settlements; else it is not said."""
    step = _usual_step_ms(funding["time"]) if funding.height > 1 else 0
    return step if step in _SETTLEMENTS_MS else None


def _recording(folder: Path, files: list[tuple[Path, str]]) -> Recording | None:
    """Make a recording of the files of a folder, if something says what market they are of."""
    description = describe(folder)
    if description is None:
        return None
    try:
        return Recording(description.market(), description, tuple(files))
    except ParameterError as error:
        raise SourceError(f"{folder / DESCRIPTION_FILE}: {error}") from error


def _unfit(recording: Recording) -> str:
    """Say which series the readings of a description find no file for, and which files no reading fits."""
    unread = [file.name for file, kind in recording.files if not recording.readings(kind)]
    kinds = ", ".join(dict.fromkeys(r.kind for r in recording.description.readings or ()))
    text = f"{recording.market.id}: no reading of {DESCRIPTION_FILE} finds {' or '.join(recording.lacking)}"
    if unread:
        more = f" and {len(unread) - _MOST_NAMED} more" if len(unread) > _MOST_NAMED else ""
        text += f": its kinds are {kinds or 'none'}, and none fits {', '.join(unread[:_MOST_NAMED])}{more}"
    return text


def _place(file: Path) -> tuple[Path, str]:
    """Find the folder of the market a file belongs to, and the kind of the file."""
    parent, stem = file.parent, file.name.split(".", 1)[0]
    if (parent / DESCRIPTION_FILE).exists():
        return parent, stem
    by_folder = any(fnmatch(parent.name, r.kind) for r in READINGS)
    return (parent.parent, parent.name) if by_folder or (parent.parent / DESCRIPTION_FILE).exists() else (parent, stem)


def _covered(
    frame: pl.DataFrame, readings: list[Reading], file: Path, *, strict: bool
) -> Iterator[tuple[Reading, pl.DataFrame]]:
    """Yield the first reading of each series whose columns the file has, with the frame under schema names."""
    seen: set[str] = set()
    for reading in readings:
        if reading.series in seen or not has_columns(frame, reading.columns.values()):
            continue
        named = with_names(frame, reading.columns)
        if has_columns(named, (c for c in SCHEMAS[reading.series] if c != "volume")):
            seen.add(reading.series)
            yield reading, named
    if strict and not seen:
        raise InputError(file.name, f"no reading of {DESCRIPTION_FILE} fits its columns: {', '.join(frame.columns)}")


def _candles(recording: Recording, parts: list[_Part]) -> pl.DataFrame:
    read = []
    for reading, frame, file in parts:
        candles = as_candles(frame, file)
        if reading.unit == "contracts":
            candles = candles.with_columns(pl.col("volume") * recording.description.contract_size_of(recording.market))
        read.append(candles)
    merged = one_per_time(pl.concat(read, how="diagonal")) if read else pl.DataFrame(schema=CANDLES)
    kept = merged.head(merged.height - 1) if recording.description.drop_unfinished else merged
    if kept.height < 2:  # an interval takes two
        raise InputError("candles", f"fewer than two for {recording.market.id} in {recording.files[0][0].parent}")
    return kept


def _observed(reading: Reading, frame: pl.DataFrame, file: str, candles: pl.DataFrame) -> pl.DataFrame:
    """Bring one file of a series other than candles into the schema, at the times its values became known."""
    if reading.series == "liquidations":
        return as_liquidations(frame, file)
    found = as_observations(frame, reading.series, file)
    if reading.series == "open_interest":
        found = as_open_interest(found, name=file)
    if reading.unit == "usd":
        daily = reading.daily_price
        found = usd_to_base(found, candles, daily.time_of(pl.col("time")) if daily else None)
    elif reading.unit == "percent":
        found = found.with_columns(pl.col(reading.series) / 100)
    return found.with_columns(pl.col("time") + pl.duration(milliseconds=reading.known_after_ms))


def _until(full: MarketHistory, n_candles: int) -> MarketHistory:
    """Cut a history after its first candles, with nothing in it that became known later."""
    candles = full.candles.head(n_candles)
    end = _epoch(candles)[-1] + full.interval_ms
    before = pl.col("time").dt.epoch("ms") <= end
    return replace(
        full,
        candles=candles,
        open_interest=full.open_interest.filter(before),
        long_short_ratio=full.long_short_ratio.filter(before),
        funding_rate=full.funding_rate.filter(before),
        liquidations=full.liquidations.filter(before),
        gaps=tuple(replace(g, end_ms=min(g.end_ms, end)) for g in full.gaps if g.start_ms < end),
    )


def _replay_start(full: MarketHistory) -> int:
    """Index of the first candle that is played: no earlier than the first open interest."""
    known_from = _epoch(full.open_interest)[0] - full.interval_ms
    return max(int(full.candles.height * REPLAY_FROM), bisect_right(_epoch(full.candles), known_from), 1)


def _updates(full: MarketHistory, first: int) -> Iterator[tuple[int, MarketUpdate]]:
    """Yield every candle from `first` on, closed, with its due time in ms after the start of the replay."""
    news = {
        "open_interest": _slices(full.open_interest, _observations),
        "long_short_ratio": _slices(full.long_short_ratio, _observations),
        "funding_rate": _slices(full.funding_rate, _observations),
    }
    prints = _slices(full.liquidations, _prints)
    since = _epoch(full.candles)[first - 1] + full.interval_ms
    for count, row in enumerate(
        full.candles.slice(first).with_columns(pl.col("time").dt.epoch("ms")).iter_rows(named=True), 1
    ):
        end = row["time"] + full.interval_ms
        candle = Candle(row.pop("time"), **{k: row[k] for k in (*list(CANDLES)[1:], *CANDLES_OPTIONAL) if k in row})
        latest = {name: found[-1] for name, within in news.items() if (found := within(since, end))}
        yield (
            count * full.interval_ms,
            MarketUpdate(
                full.market,
                end,
                candle.close,
                candle,
                candle_closed=True,
                liquidations=tuple(prints(since, end)),
                **latest,
            ),
        )
        since = end


def _slices(frame: pl.DataFrame, build: Callable[[pl.DataFrame], list[Any]]) -> Callable[[int, int], list[Any]]:
    """Return a look-up of what became known after one time and up to another."""
    times, built = _epoch(frame), build(frame)
    return lambda after, until: built[bisect_right(times, after) : bisect_right(times, until)]


def _observations(frame: pl.DataFrame) -> list[Observation]:
    value = next(c for c in frame.columns if c != "time")
    return [Observation(t, v) for t, v in zip(_epoch(frame), frame[value], strict=True)]


def _prints(frame: pl.DataFrame) -> list[Liquidation]:
    columns = [frame[c] for c in ("side", "price", "quantity_base", "notional_usd")]
    rows = zip(_epoch(frame), *columns, strict=True)
    return [Liquidation(t, Side(side), price, quantity, usd) for t, side, price, quantity, usd in rows]


def _gaps(what: str, frame: pl.DataFrame, span: tuple[int, int]) -> list[Gap]:
    """Find stretches of over one and a half usual steps without a row, also before the first and after the last."""
    times, step = _epoch(frame), _usual_step_ms(frame["time"])
    edges = [span[0] - step, *times, span[1]]
    return [Gap(a + step, b, what) for a, b in pairwise(edges) if b - a > 1.5 * step]


def _usual_step_ms(times: pl.Series) -> int:
    """Most frequent distance between rows, the shortest of them where several are."""
    steps = times.dt.epoch("ms").diff().drop_nulls().mode()
    return int(steps.min()) if len(steps) else DAY_MS  # type: ignore[arg-type]


def _epoch(frame: pl.DataFrame) -> list[int]:
    return frame["time"].dt.epoch("ms").to_list()


def _named_interval_ms(kind: str) -> float:
    """Interval that a kind such as ``ohlcv_5m`` names; 0, finer than any, where it names none."""
    named = _INTERVAL.search(kind)
    return int(named[1]) * _INTERVAL_MS[named[2]] if named else 0


def _rank(base: str) -> int:
    return _MAJORS.index(base) if base in _MAJORS else len(_MAJORS)
