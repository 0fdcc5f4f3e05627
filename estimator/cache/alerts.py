"""Alerts as the web and later workers find them: what was told, to whom it went, and what must not be told again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX
from estimator.errors import CorruptEntry

ALERTS: Final = f"{PREFIX}:alerts"
_LOG: Final = f"{ALERTS}:log"
_DELIVERIES: Final = f"{ALERTS}:deliveries"
_COUNTS: Final = f"{ALERTS}:counts"
_RULES: Final = f"{ALERTS}:rules"
_TOLD: Final = f"{ALERTS}:told:"
MAX_ALERTS: Final = 500
MAX_DELIVERIES: Final = 2_000
_KEPT_S: Final = 30 * 86_400  # nobody asks for older ones
_RULES_S: Final = 120  # rules of a worker that is gone are no rules
_MARGIN_MS: Final = 3_600_000
_JSON: Final = b"j"
_CLAIM: Final = """
local now, cool, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
if KEYS[2] and not redis.call('set', KEYS[2], ARGV[1], 'NX', 'PX', kept) then return 0 end
local last = tonumber(redis.call('get', KEYS[1]) or '')
if last and now - last < cool then
  if ARGV[3] == '1' and now > last then redis.call('set', KEYS[1], ARGV[1], 'PX', kept) end
  return 0
end
redis.call('set', KEYS[1], ARGV[1], 'PX', kept)
return 1
"""


class AlertLog:
    """Alerts in Redis. Obtained as `Cache.alerts`; calls raise as those of `estimator.cache.Cache` do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def claim(self, key: str, now_ms: int, cool_down_ms: int, *, event: str = "", lasting: bool = False) -> bool:
        """Take an alert for oneself: whoever gets True tells it, and nobody else does, after a restart either.

        Parameters
        ----------
        key : str
            What it is about.
        now_ms : int
            [ms]
        cool_down_ms : int
            Two claims of a key are at least so far apart. [ms]
        event : str
            What happened, where it happens once; it is claimed once, whatever the time.
        lasting : bool
            The cool-down counts from when it was last claimed in vain: what lasts is told once.
        """
        keys = [_told(key), *([_told(f"{key} {event}")] if event else [])]
        kept_ms = cool_down_ms + _MARGIN_MS
        with self._connection.translated():
            claimed = self._connection.sync.eval(_CLAIM, len(keys), *keys, now_ms, cool_down_ms, int(lasting), kept_ms)
        return bool(claimed)

    def add(self, alert: Mapping[str, Any]) -> str:
        """Keep an alert (with ``rule`` and ``severity``) and count it; return its id."""
        return self._append(_LOG, alert, MAX_ALERTS, f"alert|{alert['rule']}|{alert['severity']}")

    def note(self, delivery: Mapping[str, Any]) -> None:
        """Keep an attempt to deliver (``target``, ``outcome``, ids of ``alerts``) and count it."""
        self._append(_DELIVERIES, delivery, MAX_DELIVERIES, f"delivery|{delivery['target']}|{delivery['outcome']}")

    def recent(self, limit: int, before: str | None = None) -> list[dict[str, Any]]:
        """Return the newest alerts, each with its ``id`` and ``deliveries``: the last outcome of each target.

        Parameters
        ----------
        limit : int
        before : str, optional
            Id of an alert, there or forgotten meanwhile: only those told before it.
        """
        with self._connection.translated():
            told = self._connection.sync.xrevrange(_LOG, max="+" if before is None else f"({before}", count=limit)
            tried = self._connection.sync.xrange(_DELIVERIES) if told else []
        by_alert = _by_alert(_parsed(_DELIVERIES, tried))
        return [{**alert, "deliveries": list(by_alert.get(alert["id"], {}).values())} for alert in _parsed(_LOG, told)]

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return how often what happened: ``("alert", rule, severity)`` and ``("delivery", target, outcome)``."""
        with self._connection.translated():
            stored = self._connection.sync.hgetall(_COUNTS)
        found = {}
        for name, count in stored.items():
            what, who, how = name.decode().split("|")
            found[what, who, how] = int(count)
        return found

    def put_rules(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Say which rules are in force; to be said again within two minutes."""
        with self._connection.translated():
            self._connection.sync.set(_RULES, json.dumps(rules), ex=_RULES_S)

    def rules(self) -> list[dict[str, Any]] | None:
        """Return the rules in force; None where no worker tells alerts.

        Raises
        ------
        CorruptEntry
        """
        with self._connection.translated():
            payload = self._connection.sync.get(_RULES)
        try:
            found: list[dict[str, Any]] | None = None if payload is None else json.loads(payload)
        except ValueError as error:
            raise CorruptEntry(f"{_RULES}: {error}") from error
        return found

    def _append(self, key: str, entry: Mapping[str, Any], most: int, counted: str) -> str:
        with self._connection.translated():
            pipe = self._connection.sync.pipeline(transaction=False)
            pipe.xadd(key, {_JSON: json.dumps(entry, allow_nan=False)}, maxlen=most, approximate=False)
            pipe.hincrby(_COUNTS, counted, 1)
            for one in (key, _COUNTS):
                pipe.expire(one, _KEPT_S)
            entry_id, *_ = pipe.execute()
        return str(entry_id.decode())


def _told(what: str) -> str:
    return _TOLD + blake2b(what.encode(), digest_size=12).hexdigest()


def _parsed(key: str, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> list[dict[str, Any]]:
    try:
        return [{**json.loads(fields[_JSON]), "id": entry_id.decode()} for entry_id, fields in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptEntry(f"{key}: {error}") from error


def _by_alert(deliveries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Last outcome by alert and target."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for delivery in deliveries:
        told = {name: delivery[name] for name in ("target", "outcome", "attempt", "time_ms")}
        for alert_id in delivery["alerts"]:
            found.setdefault(alert_id, {})[delivery["target"]] = told
    return found
