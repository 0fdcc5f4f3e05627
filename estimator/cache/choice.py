"""What ``--source auto`` has chosen, for all workers and for the page, and whether a user asked for live data since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from estimator.cache.connection import Connection
from estimator.cache.keys import PREFIX
from estimator.errors import CorruptEntry

CHOICE: Final = f"{PREFIX}:choice"
_ASKED: Final = f"{CHOICE}:asked"
KEPT_S: Final = 60  # a choice nobody renews for so long is forgotten: the next worker chooses anew


@dataclass(frozen=True, slots=True)
class Choice:
    """The source in force.

    Parameters
    ----------
    source : {"live", "simulated"}
    since_ms : int
        When it was chosen. [ms]
    problems : dict
        Why venues are of no use, in words, by name; empty where the source is live.
    answering : tuple of str
        Venues that answer by now though the simulated market is shown.
    """

    source: Literal["live", "simulated"]
    since_ms: int
    problems: dict[str, str]
    answering: tuple[str, ...] = ()


_CODEC: Final = TypeAdapter(Choice)


class Choices:
    """The one choice of all workers on a Redis. Calls raise as those of `estimator.cache.Cache` do.

    Parameters
    ----------
    connection : Connection
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, choice: Choice) -> None:
        """Say what is in force, for the next `KEPT_S` seconds."""
        with self._connection.translated():
            self._connection.sync.set(CHOICE, _CODEC.dump_json(choice), ex=KEPT_S)

    def get(self) -> Choice | None:
        """Return what is in force; None where no worker chooses.

        Raises
        ------
        CorruptEntry
        """
        with self._connection.translated():
            payload = self._connection.sync.get(CHOICE)
        try:
            return None if payload is None else _CODEC.validate_json(payload)
        except ValidationError as error:
            raise CorruptEntry(f"{CHOICE}: {error.errors()[0]['msg']}") from error

    def ask_for_live(self) -> None:
        """Note that a user wants live data; heard within `KEPT_S` seconds or never."""
        with self._connection.translated():
            self._connection.sync.set(_ASKED, b"live", ex=KEPT_S)

    def is_live_asked(self) -> bool:
        """Whether a user wants live data and no worker has followed that yet."""
        with self._connection.translated():
            return bool(self._connection.sync.exists(_ASKED))

    def answer(self) -> None:
        """Take the user's wish for done."""
        with self._connection.translated():
            self._connection.sync.unlink(_ASKED)

    def forget(self) -> None:
        """Forget choice and wish: the source is a fixed one from now on."""
        with self._connection.translated():
            self._connection.sync.unlink(CHOICE, _ASKED)
