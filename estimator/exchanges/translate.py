"""A venue's refusals in our own words: from the status of its answer and from ccxt's errors."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from estimator.errors import (
    BadPayload,
    Banned,
    RateLimited,
    RegionBlocked,
    SourceError,
    UnknownMarket,
    VenueDown,
)
from estimator.exchanges.clients import errors

# Raised before a venue's own reason is known, first match wins.
_BY_CLASS: Final[tuple[tuple[type[Exception], type[SourceError]], ...]] = (
    (errors.RestrictedLocation, RegionBlocked),
    (errors.BadSymbol, UnknownMarket),
    (errors.MarketClosed, UnknownMarket),
    (errors.RateLimitExceeded, RateLimited),
    (errors.DDoSProtection, RateLimited),
    (errors.NetworkError, VenueDown),
)
_SERVER_ERROR: Final = 500
# Bybit's words for a ban, which it sends with the status of a region block; it asks for ten minutes of silence.
_TOO_OFTEN: Final = "too frequent"
_BAN_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers (in lower case) of an answer."""

    status: int
    headers: Mapping[str, str]


def translated(error: Exception, endpoint: str, answer: Answer | None) -> SourceError:
    """Put a ccxt error into our own tree; the status of the answer says more than ccxt's class."""
    said = f"{endpoint}: {_first_line(error)}"
    if answer is not None:
        by_status = _by_status(answer, said)
        if by_status is not None:
            return by_status
    if isinstance(error.__cause__, aiohttp.ClientError | asyncio.TimeoutError):
        return VenueDown(said)
    for theirs, ours in _BY_CLASS:
        if isinstance(error, theirs):
            return ours(said)
    if isinstance(error, errors.BadResponse | errors.NullResponse):
        return BadPayload(endpoint, "body", _first_line(error))
    return SourceError(said)


def _by_status(answer: Answer, said: str) -> SourceError | None:
    if answer.status == 403 and _TOO_OFTEN in said.lower():
        return Banned(said, _BAN_S)
    if answer.status in {403, 451}:
        return RegionBlocked(said)
    if answer.status in {418, 429}:
        kind = Banned if answer.status == 418 else RateLimited
        return kind(said, _retry_after_s(answer.headers.get("retry-after")))
    return VenueDown(said) if answer.status >= _SERVER_ERROR else None


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
