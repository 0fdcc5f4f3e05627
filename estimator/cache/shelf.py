"""Tiles of markets in Redis: written once, added to, renewed, and read over a memory of the process."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import polars as pl

from estimator.cache import codec, tiles
from estimator.cache.connection import Connection
from estimator.cache.keys import EPOCH, market_key
from estimator.cache.memory import Kept, TileMemory
from estimator.cache.tiles import TILE_COLUMNS, Tile
from estimator.model.grid import LEVELS

_MANY_TILES: Final = 64  # ranges wider than this first ask which tiles there are

Part = TypeVar("Part", Tile, pl.DataFrame)


class Form(NamedTuple, Generic[Part]):
    """How tiles of a form are added to what stands there, written and read."""

    merge: Callable[[Part | None, Part], Part]
    encode: Callable[[Part], bytes]
    decode: Callable[[str, bytes], Part]


COLUMNS: Final = Form(tiles.merge_tiles, tiles.encode_tile, tiles.decode_tile)
SERIES: Final = Form(tiles.merge_series, tiles.encode_series, tiles.decode_series)


class Shelf:
    """Where the tiles of all markets stand. Calls raise as those of `estimator.cache.Cache` do.

    Parameters
    ----------
    connection : Connection
    ttl_s : int
        Life time of a tile nobody renews. [s]
    memory_bytes : int
        Tiles kept decoded take at most this much. [bytes]
    """

    def __init__(self, connection: Connection, ttl_s: int, memory_bytes: int) -> None:
        self._connection, self._redis, self._ttl_s = connection, connection.sync, ttl_s
        self._memory = TileMemory(memory_bytes)
        self._epoch: bytes | None = None
        self._renewed: dict[str, float] = {}

    def begin_epoch(self) -> None:
        """Let no reader answer from memory any more; last, so that none can file old tiles under the new epoch."""
        with self._connection.translated():
            self._redis.set(EPOCH, secrets.token_hex(8), ex=self._ttl_s)
        self._renewed.clear()

    def clear(self, market_id: str) -> None:
        """Drop the tiles of a market with its open column, and begin a new epoch."""
        with self._connection.translated():
            keys = [market_key(market_id, kind, level, at) for kind, level, at in self._index(market_id)]
            pipe = self._redis.pipeline()
            pipe.unlink(market_key(market_id, "index"), market_key(market_id, "live"), *keys)
            pipe.set(EPOCH, secrets.token_hex(8), ex=self._ttl_s)
            pipe.execute()
        self._renewed.pop(market_id, None)

    def append(self, market_id: str, level: int, index: int, parts: Mapping[str, Part], form: Form[Part]) -> None:
        """Merge parts of one tile, by kind, with what stands there; what is there already stays as it is."""
        keys = {kind: market_key(market_id, kind, level, index) for kind in parts}
        ends_ms = (index + 1) * TILE_COLUMNS * LEVELS[level].interval_ms

        def write(pipe: Any) -> None:
            payloads = dict(zip(keys, pipe.mget(list(keys.values())), strict=True))
            pipe.multi()
            pipe.set(EPOCH, secrets.token_hex(8), nx=True, ex=self._ttl_s)
            for kind, part in parts.items():
                stored = None if payloads[kind] is None else form.decode(keys[kind], payloads[kind])
                merged = form.merge(stored, part)
                if merged is not stored:
                    pipe.set(keys[kind], form.encode(merged), ex=self._ttl_s)
                    pipe.zadd(market_key(market_id, "index"), {f"{kind}:{level}:{index}": ends_ms})
            pipe.expire(market_key(market_id, "index"), self._ttl_s)

        with self._connection.translated():
            self._redis.transaction(write, *keys.values())

    def read(
        self, market_id: str, kinds: Sequence[str], level: int, start_ms: int, end_ms: int, form: Form[Part]
    ) -> dict[str, list[Part]]:
        """Return the tiles that reach into a range, in order of time, by kind."""
        wanted: Collection[int] = tiles.tile_range(level, start_ms, end_ms)
        with self._connection.translated():
            if len(wanted) > _MANY_TILES:
                wanted = self._stored_indices(market_id, kinds[0], level, wanted)
            keys = {(kind, i): market_key(market_id, kind, level, i) for kind in kinds for i in wanted}
            found = self._fetch(list(keys.values()), form.decode) if keys else {}
        return {kind: [found[keys[kind, i]] for i in wanted if keys[kind, i] in found] for kind in kinds}

    def renew(self, market_id: str) -> None:
        """Prolong what the market still keeps: tiles are written once but must live as long as the market."""
        now = time.monotonic()
        if now - self._renewed.get(market_id, -self._ttl_s) < self._ttl_s / 4:
            return
        self._renewed[market_id] = now
        with self._connection.translated():
            self._prolong(market_id)

    def renew_all_anew(self) -> None:
        """Take no renewal for done: what held it may be gone."""
        self._renewed.clear()

    def _prolong(self, market_id: str) -> None:
        entries = list(self._index(market_id))
        newest = {level: max(i for _, lv, i in entries if lv == level) for level in {lv for _, lv, _ in entries}}
        pipe = self._redis.pipeline(transaction=False)
        for key in (EPOCH, market_key(market_id, "index"), market_key(market_id, "live")):
            pipe.expire(key, self._ttl_s)
        for kind, level, index in entries:
            kept = LEVELS[level].keep_ms // LEVELS[level].interval_ms // TILE_COLUMNS + 1
            if index >= newest[level] - kept:
                pipe.expire(market_key(market_id, kind, level, index), self._ttl_s)
            else:
                pipe.zrem(market_key(market_id, "index"), f"{kind}:{level}:{index}")
        pipe.execute()

    def _fetch(self, keys: Sequence[str], decode: Callable[[str, bytes], Part]) -> dict[str, Part]:
        """Return the entries there are, with one MGET unless the cache was filled anew since the last call."""
        while True:
            epoch = self._epoch
            known: dict[str, Any] = {k: v for k in keys if (v := self._memory.complete(k, epoch)) is not None}
            missing: list[str] = [k for k in keys if k not in known]
            now, *payloads = self._redis.mget([EPOCH, *missing])
            self._epoch = now
            if now == epoch or not known:
                break
        fetched = {k: self._decode(k, p, now, decode) for k, p in zip(missing, payloads, strict=True) if p is not None}
        return known | fetched

    def _decode(self, key: str, payload: bytes, epoch: bytes | None, decode: Callable[[str, bytes], Part]) -> Part:
        digest = codec.check(key, payload)
        kept: Any = self._memory.same(key, digest)
        value: Part = decode(key, payload) if kept is None else kept
        rows, nbytes = tiles.measure(value)
        self._memory.keep(key, Kept(value, digest, epoch, rows == TILE_COLUMNS, nbytes))
        return value

    def _stored_indices(self, market_id: str, kind: str, level: int, within: Collection[int]) -> list[int]:
        return sorted(i for k, lv, i in self._index(market_id) if (k, lv) == (kind, level) and i in within)

    def _index(self, market_id: str) -> Iterator[tuple[str, int, int]]:
        for member in self._redis.zrange(market_key(market_id, "index"), 0, -1):
            kind, level, index = member.decode().split(":")
            yield kind, int(level), int(index)
