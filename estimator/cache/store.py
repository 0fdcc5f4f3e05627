"""`Cache`: every key, its life time, and the reads and writes of the worker and the web."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from hashlib import blake2b
from typing import Any, Final
from weakref import WeakKeyDictionary

import polars as pl

from estimator.cache import prints, tiles
from estimator.cache.alerts import ALERTS, AlertLog
from estimator.cache.attention import BAND_ATTENTION, BAND_LASTS_S, Attention
from estimator.cache.choice import CHOICE, Choices
from estimator.cache.connection import Connection
from estimator.cache.counters import COUNTERS, Counters
from estimator.cache.gathering import Gathering
from estimator.cache.health import WorkerHealth, of_one_crew
from estimator.cache.journal import JOURNAL, Journal
from estimator.cache.keys import PREFIX, market_key
from estimator.cache.positions import ObservedPositions
from estimator.cache.shelf import COLUMNS, SERIES, Shelf
from estimator.cache.status import MarketStatus, Progress
from estimator.cache.track import TrackRecords
from estimator.cache.viewers import SingleFlight, Updates
from estimator.domain import LIQUIDATIONS, Liquidation, Origin
from estimator.errors import CacheError, CorruptEntry
from estimator.model.grid import LEVELS, LiquidationGrid

_STATUSES: Final = f"{PREFIX}:statuses"
_PROGRESS: Final = f"{PREFIX}:progress"
_VENUES: Final = f"{PREFIX}:venues"
_HEALTH: Final = f"{PREFIX}:health"
_CHANNEL: Final = f"{PREFIX}:updates"
_SIGN: Final = f"{PREFIX}:sign"
_VIEW: Final = f"{PREFIX}:view:"
_LOCK: Final = f"{PREFIX}:lock:"


class Cache:
    """Redis as the worker and the web see it. One worker writes a market; any number of threads and processes read.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``; nothing is opened before the first call.
    ttl_s : int
        Life time of an entry nobody renews; `put_status` renews those of its market. [s]
    lock_s : float
        How long a process that dies while computing a view blocks the others. [s]
    memory_bytes : int
        Tiles kept decoded take at most this much. [bytes]

    Raises
    ------
    SettingsError
        If the URL has another form.

    Notes
    -----
    Every call raises `CacheUnavailable` when Redis does not answer and `CorruptEntry` when bytes do not decode.
    """

    def __init__(self, url: str, *, ttl_s: int = 259_200, lock_s: float = 15.0, memory_bytes: int = 64 << 20) -> None:
        self._connection = Connection(url)
        self._redis = self._connection.sync
        self.journal, self.choices = Journal(self._connection), Choices(self._connection)
        self.counters = Counters(self._connection)
        self.attention, self.track = Attention(self._connection), TrackRecords(self._connection, ttl_s)
        self.band_attention = Attention(self._connection, BAND_ATTENTION, BAND_LASTS_S)
        self.alerts, self.positions = AlertLog(self._connection), ObservedPositions(self._connection)
        self.ttl_s, self._lock_s = ttl_s, lock_s
        self._shelf = Shelf(self._connection, ttl_s, memory_bytes)
        self._stream_keys: dict[str, str] = {}
        self._signs: dict[str, str] = {}
        self._run: str | None = None
        self._updates: WeakKeyDictionary[asyncio.AbstractEventLoop, Updates] = WeakKeyDictionary()
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, SingleFlight] = WeakKeyDictionary()

    # --- worker ---------------------------------------------------------------------------------------------------

    def clear_markets(self) -> None:
        """Drop all but journal, choice, counts, alerts and prints, and begin a new epoch: as a worker starts."""
        with self._connection.translated():
            found = self._redis.scan_iter(f"{PREFIX}:*", count=1000)
            kept = (JOURNAL.encode(), CHOICE.encode(), COUNTERS.encode(), ALERTS.encode())
            keys = [k for k in found if b":prints:" not in k and not k.startswith(kept)]
            for at in range(0, len(keys), 1000):
                self._redis.unlink(*keys[at : at + 1000])
        self._shelf.begin_epoch()

    def forget_simulated(self) -> None:
        """Drop the prints of every simulated market: from now on the source is a real one."""
        with self._connection.translated():
            for key in self._redis.scan_iter(f"{PREFIX}:*:prints:{Origin.SIMULATED.value}:*", count=1000):
                self._redis.unlink(key)

    def clear_market(self, market_id: str) -> None:
        """Drop the columns and the series of a market and begin a new epoch: its past is to be told anew."""
        self._shelf.clear(market_id)

    def put_sign(self, name: str) -> None:
        """Leave a sign of a worker, by which it sees whether Redis still holds what it has published."""
        self._signs[name] = secrets.token_hex(8)
        with self._connection.translated():
            self._redis.set(f"{_SIGN}:{name}", self._signs[name], ex=self.ttl_s)
        self._shelf.renew_all_anew()

    def has_sign(self, name: str) -> bool:
        """Whether the sign that was left last still stands; it is renewed."""
        with self._connection.translated():
            found = self._redis.getex(f"{_SIGN}:{name}", ex=self.ttl_s)
        return bool(found is not None and found.decode() == self._signs.get(name))

    def was_restarted(self) -> bool:
        """Whether the server is another process than at the last call: what it took last may be gone.

        While its disk is slow, Redis answers up to two seconds before it writes.
        """
        with self._connection.translated():
            run = self._redis.info("server").get("run_id")
        before, self._run = self._run, run
        return before not in (None, run)

    def put_status(self, status: MarketStatus) -> None:
        """Publish the state of a market and keep its entries alive."""
        with self._connection.translated():
            pipe = self._redis.pipeline()
            pipe.hset(_STATUSES, status.id, status.to_json())
            pipe.expire(_STATUSES, self.ttl_s)
            pipe.execute()
        self._shelf.renew(status.id)
        self._stream_keys[status.id] = _stream_key(status)

    def put_progress(self, done: float, text: str) -> None:
        """Say how far the start of the worker is (0..1) and what it does."""
        with self._connection.translated():
            self._redis.set(_PROGRESS, json.dumps({"done": done, "text": text}), ex=self.ttl_s)

    def dropped(self) -> int:
        """Count the entries that Redis has dropped because its memory was full."""
        return self._connection.dropped()

    def put_health(self, health: WorkerHealth) -> None:
        """Say how a worker is doing, in place of what it said before."""
        with self._connection.translated():
            pipe = self._redis.pipeline()
            pipe.hset(_HEALTH, f"{health.shard}/{health.shards}", health.to_json())
            pipe.expire(_HEALTH, self.ttl_s)
            pipe.execute()

    def put_capabilities(self, venues: Mapping[str, Mapping[str, Any]]) -> None:
        """Publish what live venues declare, by name."""
        with self._connection.translated():
            self._redis.set(_VENUES, json.dumps(venues), ex=self.ttl_s)

    def put_columns(self, market_id: str, level: int, grid: LiquidationGrid) -> None:
        """Add closed columns; those already stored are kept as they are, whatever `grid` says.

        Raises
        ------
        ParameterError
            If the lattice or the times are not those of `level`, the tiers are not those already stored, or a density
            is negative or not finite.
        """
        with self.gathering(market_id) as columns:
            columns.put(level, grid)

    @contextmanager
    def gathering(self, market_id: str) -> Iterator[Gathering]:
        """Add closed columns piece by piece, as `put_columns` does; all of them are there when the block has ended."""
        columns = Gathering(self._shelf, market_id)
        yield columns
        columns.flush()

    def put_bands(self, market_id: str, level: int, grid: LiquidationGrid) -> None:
        """Add closed columns of an ensemble, whose tiers are its members; as `put_columns`."""
        for index, (_, members) in tiles.split_grid(level, grid):
            self._shelf.append(market_id, level, index, {"bands": members}, COLUMNS)

    def put_series(self, market_id: str, level: int, frame: pl.DataFrame) -> None:
        """Add closed candle rows; those already stored are kept as they are.

        Parameters
        ----------
        frame : DataFrame
            `time` (interval start) and any Float64 columns; null and NaN both mean missing.

        Raises
        ------
        InputError
            If a column has another type.
        """
        for index, rows in tiles.split_series(level, frame):
            self._shelf.append(market_id, level, index, {"series": rows}, SERIES)

    def put_live(self, market_id: str, grid: LiquidationGrid, series: pl.DataFrame) -> None:
        """Replace the provisional column and the open candle rows."""
        payload = tiles.encode_live(grid, series)
        with self._connection.translated():
            self._redis.set(market_key(market_id, "live"), payload, ex=self.ttl_s)

    def drop_live(self, market_id: str) -> None:
        """Forget the provisional column and the open candle rows: their step has closed."""
        with self._connection.translated():
            self._redis.unlink(market_key(market_id, "live"))

    def add_liquidations(self, market_id: str, prints_: Sequence[Liquidation]) -> None:
        """Add prints to the stream of the market and its source; adding the same batch again changes nothing.

        Raises
        ------
        CacheError
            If no status of the market was put before: prints of different sources are kept apart by it.
        """
        with self._connection.translated():
            key = self._stream_key(market_id)
            if key is None:
                raise CacheError(f"{market_id}: put_status must come first, it says whose prints these are")
            prints.append(self._redis, key, prints_)

    def forget_liquidations(self, market_id: str) -> None:
        """Drop the prints of a market whose source tells its past anew: a simulated or a recorded one."""
        with self._connection.translated():
            key = self._stream_key(market_id)
            if key is not None:
                prints.forget(self._redis, key)

    def publish(self, market_id: str, message: Mapping[str, Any]) -> None:
        """Send `message` to every reader of `updates`, with the market under ``"market"``."""
        with self._connection.translated():
            self._redis.publish(_CHANNEL, json.dumps({**message, "market": market_id}))

    # --- both sides -----------------------------------------------------------------------------------------------

    def get_statuses(self) -> list[MarketStatus]:
        """Return the markets by rank."""
        with self._connection.translated():
            stored = self._redis.hgetall(_STATUSES)
        statuses = [MarketStatus.from_json(f"{_STATUSES} {i.decode()}", value) for i, value in stored.items()]
        return sorted(statuses, key=lambda s: (s.rank, s.id))

    def get_progress(self) -> Progress | None:
        """Return how far the start of the worker is; None where it has not said so."""
        with self._connection.translated():
            payload = self._redis.get(_PROGRESS)
        return None if payload is None else _parse_progress(payload)

    def get_health(self) -> list[WorkerHealth]:
        """Return what each worker last said of itself, by shard; `time_ms` tells whether it still does."""
        with self._connection.translated():
            stored = self._redis.hgetall(_HEALTH)
        return of_one_crew([WorkerHealth.from_json(f"{_HEALTH} {w.decode()}", p) for w, p in stored.items()])

    def get_capabilities(self) -> dict[str, dict[str, Any]]:
        """Return what live venues declare, by name; empty where no market is live."""
        with self._connection.translated():
            payload = self._redis.get(_VENUES)
        found: dict[str, dict[str, Any]] = json.loads(payload) if payload else {}
        return found

    def get_columns(
        self, market_id: str, level: int, start_ms: int, end_ms: int, *, tiers: bool = False
    ) -> LiquidationGrid | None:
        """Return closed columns with ``start_ms < time <= end_ms``; None if there are none.

        Parameters
        ----------
        tiers : bool
            Read the tiers as well; without, or where some columns have none, the grid holds totals only.
        """
        kinds = ("tile", "tiers") if tiers else ("tile",)
        found = self._shelf.read(market_id, kinds, level, start_ms, end_ms, COLUMNS)
        cut = {kind: [t.within(start_ms, end_ms) for t in found.get(kind, [])] for kind in kinds}
        return tiles.join_tiles(level, cut["tile"], cut.get("tiers", []))

    def get_bands(self, market_id: str, level: int, start_ms: int, end_ms: int) -> LiquidationGrid | None:
        """Return columns of the ensemble with ``start_ms < time <= end_ms``; None if there are none.

        Its tiers are the members; its totals are the first of them.
        """
        found = self._shelf.read(market_id, ("bands",), level, start_ms, end_ms, COLUMNS)["bands"]
        cut = [t.within(start_ms, end_ms) for t in found]
        return tiles.join_tiles(level, cut, cut)

    def get_series(self, market_id: str, level: int, start_ms: int, end_ms: int) -> pl.DataFrame | None:
        """Return candle rows that *close* in ``start_ms < close <= end_ms``, as columns do; None if there are none."""
        found = self._shelf.read(market_id, ("series",), level, start_ms, end_ms, SERIES)["series"]
        if not found:
            return None
        start = pl.col("time").dt.epoch("ms") + LEVELS[level].interval_ms
        rows = pl.concat(found, how="diagonal").filter(start > start_ms, start <= end_ms)
        return rows if rows.height else None

    def get_live(self, market_id: str) -> tuple[LiquidationGrid, pl.DataFrame] | None:
        """Return the provisional column and the open candle rows; None if there are none."""
        key = market_key(market_id, "live")
        with self._connection.translated():
            payload = self._redis.get(key)
        return None if payload is None else tiles.decode_live(key, payload)

    def get_liquidations(self, market_id: str, start_ms: int, end_ms: int, limit: int = 5000) -> pl.DataFrame:
        """Return prints with ``start_ms <= time <= end_ms`` in order of time; beyond `limit` the largest are kept."""
        with self._connection.translated():
            key = self._stream_key(market_id)
            if key is None:
                return pl.DataFrame(schema=LIQUIDATIONS)
            return prints.read(self._redis, key, start_ms, end_ms, limit)

    def get_liquidations_from(self, status: MarketStatus, start_ms: int) -> tuple[pl.DataFrame, bytes]:
        """Return every print since a time, and a mark for `get_liquidations_after`."""
        with self._connection.translated():
            return prints.read_from(self._redis, _stream_key(status), start_ms)

    def get_liquidations_after(
        self, statuses: Iterable[MarketStatus], marks: Mapping[str, bytes]
    ) -> dict[str, tuple[pl.DataFrame, bytes]]:
        """Return what came since the marks of markets, by market id, with new marks; one call for all of them."""
        ids = {_stream_key(s): s.id for s in statuses if s.id in marks}
        with self._connection.translated():
            news = prints.read_after(self._redis, {key: marks[market_id] for key, market_id in ids.items()})
        return {ids[key]: new for key, new in news.items()}

    def get_newest_print_ids(self, statuses: Sequence[MarketStatus]) -> dict[str, bytes]:
        """Return marks for `get_liquidations_after` by market id, from which on everything is new."""
        with self._connection.translated():
            ids = prints.newest_ids(self._redis, [_stream_key(s) for s in statuses])
        return {s.id: newest for s, newest in zip(statuses, ids, strict=True)}

    def get_liquidations_between(self, status: MarketStatus, after: str, until: str, most: int) -> pl.DataFrame:
        """Return what came after one mark of a market, up to another; the newest of it where there is more."""
        with self._connection.translated():
            return prints.read_between(self._redis, _stream_key(status), after, until, most)

    # --- web ------------------------------------------------------------------------------------------------------

    async def ping(self) -> bool:
        """Tell whether Redis answers."""
        try:
            with self._connection.translated():
                return bool(await self._connection.asynchronous.ping())
        except CacheError:
            return False

    async def updates(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what is published from now on, as dicts with ``"market"``.

        All readers of an event loop share one subscription. It reconnects by itself and then yields
        ``{"market": "*", "event": "resync"}``: read everything again. A reader that lags far behind loses the oldest.
        """
        loop = asyncio.get_running_loop()
        shared = self._updates.setdefault(loop, Updates(self._connection, _CHANNEL))
        async with aclosing(shared.read()) as messages:
            async for message in messages:
                yield message

    async def get_or_compute(self, key: str, ttl_s: float, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the bytes stored for `key`, computing and storing them once for all tasks and processes that ask.

        An error of `compute` reaches all who wait in this process and is not stored.
        """
        flight = self._flights.get(loop := asyncio.get_running_loop())
        if flight is None:
            flight = SingleFlight(self._connection, view_prefix=_VIEW, lock_prefix=_LOCK, lock_s=self._lock_s)
            self._flights[loop] = flight
        return await flight.get(key, ttl_s, compute)

    def close(self) -> None:
        """Close the connections of the threads."""
        self._connection.close()

    async def aclose(self) -> None:
        """End the subscription and close every connection this event loop and the threads hold."""
        updates = self._updates.pop(asyncio.get_running_loop(), None)
        if updates is not None:
            await updates.aclose()
        await self._connection.aclose()
        self.close()

    def _stream_key(self, market_id: str) -> str | None:
        """Key of the prints of the market's present source. The worker knows it, the web looks it up."""
        if market_id in self._stream_keys:
            return self._stream_keys[market_id]
        payload = self._redis.hget(_STATUSES, market_id)
        return None if payload is None else _stream_key(MarketStatus.from_json(f"{_STATUSES} {market_id}", payload))


def _stream_key(status: MarketStatus) -> str:
    source = blake2b(status.source.encode(), digest_size=4).hexdigest()
    return market_key(status.id, "prints", status.origin.value, source)


def _parse_progress(payload: bytes) -> Progress:
    try:
        return Progress(**json.loads(payload))
    except (ValueError, TypeError) as error:
        raise CorruptEntry(f"{_PROGRESS}: {error}") from error
