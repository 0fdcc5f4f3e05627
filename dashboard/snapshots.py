"""Snapshots on disk: a view and its data, each in one file that is written once and never again.

A file is a ZIP archive: ``facts.json`` (`Facts`) and parts that need nothing else to be shown, whatever the cache holds
or the estimator assumes by then. Nothing lists the files to anybody: who has the id has the snapshot.
"""

from __future__ import annotations

import os
import re
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from estimator.errors import LiqheatError

FORMAT: Final = 1  # of files written now; what a later one changes must still be read
MAX_BYTES: Final = 8 << 20  # of one snapshot
ID: Final = r"[0-9a-f]{32}"  # 128 random bits; one case, since file systems may not tell two apart
_ID_BYTES: Final = 16
_FACTS: Final = "facts.json"


class SnapshotsFull(LiqheatError):
    """There is no room for another snapshot, or none may be made."""


class UnknownSnapshot(LiqheatError):
    """There is no snapshot of that name."""


class DamagedSnapshot(LiqheatError):
    """A file that does not read as it was written, or one of a later version."""


class Facts(BaseModel):
    """What a snapshot shows.

    Parameters
    ----------
    format : int
    made_ms, as_of_ms : int
        When it was made, and of when its data is.
    view : str
        Query string of the view, as `ViewState.query` spells it.
    symbol, range : str
        Of the view.
    origin, source : str
        Where the data came from.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    made_ms: int
    as_of_ms: int
    view: str
    symbol: str
    range: str
    origin: str
    source: str


class Snapshots:
    """The snapshots of a folder. Any number of processes may share it; every method blocks.

    Parameters
    ----------
    folder : Path
        Made at the first snapshot.
    most_bytes : int
        All snapshots together; 0 takes none.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def save(self, facts: Facts, parts: Mapping[str, bytes]) -> str:
        """Write a snapshot and return its id.

        Raises
        ------
        SnapshotsFull
        """
        size = sum(map(len, parts.values()))
        if size > MAX_BYTES:
            raise SnapshotsFull(f"a snapshot of {size >> 20} MB is too large, at most {MAX_BYTES >> 20} MB are kept")
        name = secrets.token_hex(_ID_BYTES)
        try:
            if self._used() + size > self._most_bytes:
                raise SnapshotsFull("the room for snapshots here is full: those there are stay, no more are taken")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(name, facts, parts)
        except OSError as error:
            raise SnapshotsFull(f"the snapshot cannot be written: {error.strerror}") from error
        return name

    def has(self, name: str) -> bool:
        """Whether there is a snapshot of that name."""
        return re.fullmatch(ID, name) is not None and self._path(name).is_file()

    def facts(self, name: str) -> Facts:
        """Return what a snapshot shows.

        Raises
        ------
        UnknownSnapshot, DamagedSnapshot
        """
        try:
            facts = Facts.model_validate_json(self.part(name, _FACTS))
        except ValidationError as error:
            raise DamagedSnapshot(f"snapshot {name}: {error.error_count()} facts are not readable") from None
        if facts.format > FORMAT:
            raise DamagedSnapshot(f"snapshot {name} has format {facts.format}, this version reads up to {FORMAT}")
        return facts

    def part(self, name: str, part: str) -> bytes:
        """Return a part of a snapshot, its checksum compared.

        Raises
        ------
        UnknownSnapshot, DamagedSnapshot
        """
        if not self.has(name):
            raise UnknownSnapshot("there is no such snapshot")
        try:
            with zipfile.ZipFile(self._path(name)) as archive:
                return archive.read(part)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DamagedSnapshot(f"snapshot {name}: {error}") from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.zip"

    def _used(self) -> int:
        if not self._folder.is_dir():
            return 0
        with os.scandir(self._folder) as entries:
            return sum(map(_size, entries))

    def _write(self, name: str, facts: Facts, parts: Mapping[str, bytes]) -> None:
        """Whole or not at all: under its name stands only what is on disk for good."""
        unfinished = self._folder / f".{name}"
        try:
            with unfinished.open("xb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    for part, body in {_FACTS: facts.model_dump_json().encode(), **parts}.items():
                        archive.writestr(part, body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.chmod(0o444)
            unfinished.rename(self._path(name))
        finally:
            unfinished.unlink(missing_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _size(entry: os.DirEntry[str]) -> int:
    """Size of a file; of one that another process has just finished, and so renamed, it is seen under its new name."""
    try:
        return entry.stat().st_size if entry.is_file() else 0
    except FileNotFoundError:
        return 0
