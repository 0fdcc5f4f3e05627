"""Getting one file, from the web or a folder, and making sure that it is whole."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from estimator.errors import BadPayload, RateLimited, RegionBlocked, SourceUnavailable, VenueDown

BINANCE: Final = "https://data.binance.vision"
_MAX_BYTES: Final = 64 << 20  # of one unpacked file; a day of minutes takes 200 kB
_MAX_WAIT_S: Final = 60.0
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)


class Archive:
    """Where the files are.

    Parameters
    ----------
    base : str or Path
        ``http(s)://`` address or folder that holds ``data/``.
    attempts : int
        How often a failing download is tried.
    wait_s : float
        Greatest first pause between attempts; it doubles. [s]

    Raises
    ------
    SourceUnavailable
        If there is no such folder.
    """

    def __init__(self, base: str | Path = BINANCE, *, attempts: int = 5, wait_s: float = 1.0) -> None:
        self._base = str(base).rstrip("/")
        self._attempts, self._backoff = attempts, wait_random_exponential(wait_s, max=_MAX_WAIT_S)
        self._client: httpx.Client | None = None
        if self._base.startswith(("http://", "https://")):
            self._client = httpx.Client(timeout=_TIMEOUT, follow_redirects=True)
        elif not Path(base).is_dir():
            raise SourceUnavailable(f"no such folder: {base}")

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def fetch(self, path: str) -> bytes | None:
        """Return the CSV inside the zip at `path` after all checks; None if the archive has no such file.

        Raises
        ------
        BadPayload
            If checksum, zip or download are damaged, also when asked again.
        SourceUnavailable
            If the archive does not answer.
        """
        tries = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause,
            retry=retry_if_exception_type((VenueDown, RateLimited, BadPayload)),
            reraise=True,
        )
        if self._client is None:
            return self._fetch_once(path)  # a file on a disk is as damaged the second time
        return tries(self._fetch_once, path)

    def _pause(self, state: RetryCallState) -> float:
        """Back off with jitter, no less than the archive asks for."""
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        return max(self._backoff(state), min(asked_s or 0.0, _MAX_WAIT_S))

    def _fetch_once(self, path: str) -> bytes | None:
        zipped = self._read(path)
        if zipped is None:
            return None
        checksum = self._read(f"{path}.CHECKSUM")
        if checksum is None:
            raise BadPayload(path, "CHECKSUM", "is missing, so the file cannot be trusted")
        _check_sum(path, zipped, checksum)
        return _unzip(path, zipped)

    def _read(self, path: str) -> bytes | None:
        if self._client is not None:
            return _download(self._client, f"{self._base}/{path}")
        try:
            return (Path(self._base) / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceUnavailable(f"archive {self._base}/{path}: {error.strerror}") from error


def _download(client: httpx.Client, url: str) -> bytes | None:
    try:
        answer = client.get(url)
    except httpx.RemoteProtocolError as error:
        raise BadPayload(url, "body", f"is cut short ({error})") from error
    except httpx.HTTPError as error:
        raise VenueDown(f"archive {url}: {error or type(error).__name__}") from error
    if answer.status_code == HTTPStatus.NOT_FOUND:
        return None
    if answer.status_code == HTTPStatus.OK:
        return answer.content
    raise _refusal(url, answer)


def _refusal(url: str, answer: httpx.Response) -> Exception:
    text = f"archive {url}: {answer.status_code} {answer.reason_phrase}"
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        asked = answer.headers.get("Retry-After", "")
        return RateLimited(text, float(asked) if asked.isdigit() else None)
    if answer.status_code in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS}:
        return RegionBlocked(text)
    return VenueDown(text) if answer.is_server_error else SourceUnavailable(text)


def _check_sum(path: str, zipped: bytes, checksum: bytes) -> None:
    """Compare with the line ``<sha256>  <file name>`` of a checksum file."""
    digest, name = (*checksum.decode(errors="replace").split(), "", "")[:2]
    if name.lstrip("*") != path.rpartition("/")[2]:
        raise BadPayload(path, "CHECKSUM", f"names another file: {name[:80]!r}")
    actual = hashlib.sha256(zipped).hexdigest()
    if actual != digest.lower():
        raise BadPayload(path, "CHECKSUM", f"sha256 is {actual}, the archive says {digest[:64]!r}")


def _unzip(path: str, zipped: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            (member,) = archive.infolist()
            if member.file_size > _MAX_BYTES:
                raise BadPayload(path, "zip", f"unpacks to {member.file_size} bytes")
            return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadPayload(path, "zip", str(error)) from error
