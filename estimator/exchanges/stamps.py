"""Times and intervals as venues write them."""

from __future__ import annotations

from typing import Any, Final

from estimator.domain import DAY_MS
from estimator.errors import BadPayload
from estimator.exchanges.edge import number

_LAST_MS: Final = 10**14  # in the year 5138
_LONGEST_MS: Final = 30 * DAY_MS


def stamp(row: Any, key: str | int, endpoint: str, unit_ms: int = 1) -> int:
    """Read a time given in units since the epoch. [ms]

    Raises
    ------
    BadPayload
        If it is no time.
    """
    value = number(row, key, endpoint)
    if not 0 <= value <= _LAST_MS / unit_ms:
        raise BadPayload(endpoint, str(key), f"not a time (got {value:g})")
    return round(value * unit_ms)


def interval_ms(count: float | None, unit_ms: int) -> int | None:
    """Return an interval of so many units; None where it is not known or cannot be. [ms]"""
    return round(count * unit_ms) if count is not None and 0 < count <= _LONGEST_MS / unit_ms else None
