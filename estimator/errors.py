"""The exceptions of liqheat.

::

    LiqheatError
    ├── InputError            data that cannot be used: names the column, the row and the value
    ├── ParameterError        a model parameter or a view value outside its domain
    ├── SettingsError         the environment asks for something impossible
    ├── SourceError           a venue or a recording failed
    │   ├── SourceUnavailable it cannot be reached at all
    │   │   ├── VenueDown     server errors, time-outs, lost connections
    │   │   └── RegionBlocked it does not serve this place
    │   ├── RateLimited       too many requests: says how long to wait
    │   │   └── Banned        the address is shut out for a while
    │   ├── BadPayload        an answer that is not what is documented: names the endpoint and the field
    │   └── UnknownMarket     not (or no longer) listed
    ├── HistoryError
    │   ├── HistoryUnavailable it cannot be read or written: disk full, no permission, object store gone
    │   └── CorruptHistory    bytes in history do not decode
    └── CacheError
        ├── CacheUnavailable  Redis does not answer, or takes nothing in for now: its disk or its memory is full
        └── CorruptEntry      bytes in the cache do not decode
"""

from __future__ import annotations

from datetime import datetime


class LiqheatError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(LiqheatError):
    """A frame that cannot be used.

    Parameters
    ----------
    frame : str
        Name of the argument, e.g. ``"candles"``.
    problem : str
        What is wrong and what to do about it.
    column, row, value : optional
        Where it was found.
    """

    def __init__(
        self,
        frame: str,
        problem: str,
        *,
        column: str | None = None,
        row: int | None = None,
        value: object = None,
    ) -> None:
        self.frame, self.problem = frame, problem
        self.column, self.row, self.value = column, row, value
        where = frame if column is None else f"{frame}.{column}"
        if row is not None:
            where += f" row {row}"
        written = value.isoformat() if isinstance(value, datetime) else repr(value)
        super().__init__(f"{where}: {problem}" + ("" if value is None else f" (value {written})"))


class ParameterError(LiqheatError, ValueError):
    """A value outside its domain.

    Parameters
    ----------
    name : str
        The parameter.
    value : object
        What was given.
    expected : str
        What would have been accepted.
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name, self.value, self.expected = name, value, expected
        super().__init__(f"{name}: got {value!r}, expected {expected}")


class SettingsError(LiqheatError):
    """The environment or the command line asks for something impossible."""


class SourceError(LiqheatError):
    """A venue or a recording failed."""


class SourceUnavailable(SourceError):
    """The source cannot be reached at all."""


class VenueDown(SourceUnavailable):
    """Server errors, time-outs and lost connections; worth another try."""


class RegionBlocked(SourceUnavailable):
    """The venue does not serve this place; trying again is of no use."""


class RateLimited(SourceError):
    """Too many requests.

    Parameters
    ----------
    message : str
    retry_after_s : float, optional
        How long the venue asks to wait. [s]
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        wait = "" if retry_after_s is None else f" (wait {retry_after_s:g} s)"
        super().__init__(message + wait)


class Banned(RateLimited):
    """The address is shut out for a while after too many requests."""


class BadPayload(SourceError):
    """An answer that is not what the venue documents.

    Parameters
    ----------
    endpoint : str
        What was asked.
    field : str
        Where in the answer, e.g. ``"data[3].sumOpenInterest"``; ``"body"`` for all of it.
    problem : str
    """

    def __init__(self, endpoint: str, field: str, problem: str) -> None:
        self.endpoint, self.field, self.problem = endpoint, field, problem
        super().__init__(f"{endpoint}: {field}: {problem}")


class UnknownMarket(SourceError):
    """The market is not, or no longer, listed."""


class HistoryError(LiqheatError):
    """The durable store failed."""


class HistoryUnavailable(HistoryError):
    """History cannot be read or written: the disk is full, permissions are missing, the object store is gone."""


class CorruptHistory(HistoryError):
    """Bytes in history do not decode."""


class CacheError(LiqheatError):
    """The cache failed."""


class CacheUnavailable(CacheError):
    """Redis does not answer, or takes nothing in for now: its disk or its memory is full."""


class CorruptEntry(CacheError):
    """Bytes in the cache do not decode to what the key promises."""
