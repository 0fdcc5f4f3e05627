"""The track record as the worker last summed it up, for the web: by venue and coin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX
from estimator.errors import CorruptEntry

_TRACK: Final = f"{PREFIX}:track"
_META: Final = b"meta"

Scope = tuple[str, str]  # venue and coin, each possibly "all"


class TrackRecords:
    """Summaries of the track record. Calls raise as those of `estimator.cache.Cache` do.

    Parameters
    ----------
    connection : Connection
    ttl_s : int
        A record nobody renews is dropped after this long. [s]
    """

    def __init__(self, connection: Connection, ttl_s: int) -> None:
        self._connection, self._ttl_s = connection, ttl_s

    def put(self, meta: Mapping[str, Any], summaries: Mapping[Scope, Mapping[str, Any]]) -> None:
        """Replace the whole record.

        Parameters
        ----------
        meta : mapping
            What holds for all of it: origin, times.
        summaries : mapping
            By venue and coin.
        """
        fields: dict[str | bytes, str] = {_META: json.dumps(meta, allow_nan=False)}
        fields |= {_field(*scope): json.dumps(summary, allow_nan=False) for scope, summary in summaries.items()}
        with self._connection.translated():
            pipe = self._connection.sync.pipeline(transaction=True)
            pipe.delete(_TRACK)
            pipe.hset(_TRACK, mapping=fields)
            pipe.expire(_TRACK, self._ttl_s)
            pipe.execute()

    def renew(self) -> bool:
        """Keep the record alive; False where there is none."""
        with self._connection.translated():
            return bool(self._connection.sync.expire(_TRACK, self._ttl_s))

    def get(self, venue: str, coin: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Return what holds for the whole record, and the summary of a venue and coin.

        None where there is no record yet; a summary of None where it has nothing of these.

        Raises
        ------
        CorruptEntry
        """
        with self._connection.translated():
            meta, summary = self._connection.sync.hmget(_TRACK, [_META, _field(venue, coin)])
        if meta is None:
            return None
        try:
            return json.loads(meta), None if summary is None else json.loads(summary)
        except ValueError as error:
            raise CorruptEntry(f"{_TRACK} {_field(venue, coin)}: {error}") from error


def _field(venue: str, coin: str) -> str:
    return f"{venue}|{coin}"
