"""Observed positions of markets, summed by price: what their venue publishes by account, without the accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError

from estimator.cache.connection import Connection
from estimator.cache.keys import market_key
from estimator.errors import CorruptEntry
from estimator.model.holdings import Observed

KEPT_S: Final = 120  # what nobody renews for so long is not shown any more: the worker or the venue is gone
_CODEC: Final = TypeAdapter(Observed)


class ObservedPositions:
    """What was measured, by market. Obtained as `Cache.positions`; calls raise as those of `Cache` do.

    Parameters
    ----------
    connection : Connection
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, observed: Mapping[str, Observed | None]) -> None:
        """Replace what was measured of markets, by id, for the next `KEPT_S` seconds; None where there is nothing."""
        with self._connection.translated():
            pipe = self._connection.sync.pipeline(transaction=False)
            for market_id, seen in observed.items():
                if seen is None:
                    pipe.unlink(_key(market_id))
                else:
                    pipe.set(_key(market_id), _CODEC.dump_json(seen), ex=KEPT_S)
            pipe.execute()

    def get(self, market_ids: Sequence[str]) -> dict[str, Observed]:
        """Return what was measured of markets, by id; those without are absent.

        Raises
        ------
        CorruptEntry
        """
        keys = [_key(market_id) for market_id in market_ids]
        with self._connection.translated():
            payloads = self._connection.sync.mget(keys) if keys else []
        found = zip(market_ids, keys, payloads, strict=True)
        return {market_id: _decode(key, payload) for market_id, key, payload in found if payload is not None}


def _key(market_id: str) -> str:
    return market_key(market_id, "positions")


def _decode(key: str, payload: bytes) -> Observed:
    try:
        return _CODEC.validate_json(payload)
    except ValidationError as error:
        raise CorruptEntry(f"{key}: {error.errors()[0]['msg']}") from error
