"""How a worker is doing: its venues, its way into history, itself. Written every few seconds, for page and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from estimator.domain import Gap
from estimator.errors import CorruptEntry


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """One stream of a venue, over all markets that it carries.

    Parameters
    ----------
    name : str
        ``"candles"`` or ``"liquidations"``.
    connected : bool
        Whether something was heard since the connection was last lost.
    last_message_ms : int, optional
        Time of the last message, pulses included; None before the first. [ms]
    reconnects : int
        Times the connection was lost since the worker's start.
    """

    name: str
    connected: bool
    last_message_ms: int | None
    reconnects: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """How many values of a kind were left out since the worker's start, and why."""

    what: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class VenueHealth:
    """A venue as the worker finds it.

    Parameters
    ----------
    name : str
    markets : int
        Markets followed there.
    problem : str, optional
        Why it is not followed at all, in words; None once it has answered.
    streams : tuple of StreamHealth
        Empty before the first connection.
    gaps : tuple of Gap
        The latest stretches in which a stream was not connected, latest last; `what` is the stream.
    errors : dict
        Failed requests and lost streams since the worker's start, by kind of error (``"RateLimited"``, …).
    rejected : tuple of Rejected
        Values left out.
    """

    name: str
    markets: int
    problem: str | None
    streams: tuple[StreamHealth, ...]
    gaps: tuple[Gap, ...]
    errors: dict[str, int]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class RecorderHealth:
    """The way of what arrived into history.

    Parameters
    ----------
    waiting : int
        Entries in the journal, of all workers.
    lag_ms : int
        Age of the oldest of them; 0 where none waits. [ms]
    last_commit_ms : int, optional
        When entries last became history; None before the first. [ms]
    stored, known, rejected : int
        Rows stored, rows history already had, and entries set aside for good, since the worker's start.
    error : str, optional
        Why the last attempt failed, of the journal's entries or of published columns; None while all is well.
    overdue : bool
        More entries wait than is normal.
    columns_waiting : int
        Published columns and book states not yet in history; they can be computed again.
    """

    waiting: int
    lag_ms: int
    last_commit_ms: int | None
    stored: int
    known: int
    rejected: int
    error: str | None
    overdue: bool
    columns_waiting: int


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker at one time.

    Parameters
    ----------
    time_ms : int
        When this was written: a worker that has been silent for long is gone. [ms]
    started_ms : int
        [ms]
    shard, shards : int
        Which of how many workers it is.
    markets : int
        Markets it shows.
    rss_bytes : int
        Resident memory. [bytes]
    loop_delay_ms : float
        Longest time for which its event loop was late since the record before. [ms]
    venues : tuple of VenueHealth
        Empty where the source is not live.
    recorder : RecorderHealth, optional
        None where nothing is recorded: the source is not live.
    dropped : int
        Entries that Redis has dropped because its memory is full: parts of charts that are missing.
    """

    time_ms: int
    started_ms: int
    shard: int
    shards: int
    markets: int
    rss_bytes: int
    loop_delay_ms: float
    venues: tuple[VenueHealth, ...]
    recorder: RecorderHealth | None
    dropped: int = 0

    def to_json(self) -> bytes:
        """Encode as JSON."""
        return _CODEC.dump_json(self)

    @classmethod
    def from_json(cls, key: str, payload: bytes) -> WorkerHealth:
        """Decode what `to_json` wrote.

        Raises
        ------
        CorruptEntry
            Naming `key` and what is wrong.
        """
        try:
            return _CODEC.validate_json(payload)
        except ValidationError as error:
            raise CorruptEntry(f"{key}: {error.errors()[0]['msg']}") from error


_CODEC: Final = TypeAdapter(WorkerHealth)


def of_one_crew(records: list[WorkerHealth]) -> list[WorkerHealth]:
    """Leave out records of workers that ran when there were more or fewer of them; the rest by shard."""
    if not records:
        return []
    shards = max(records, key=lambda r: r.time_ms).shards
    return sorted((r for r in records if r.shards == shards), key=lambda r: r.shard)
