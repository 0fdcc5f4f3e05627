"""Keeping little memory that is not in use: what pasts need, and the start, following does not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_DONTNEED: Final = 4  # of madvise, on Linux
_GLIBC: Final = {-8: 2, -3: 4 << 20}  # of mallopt: arenas at most, bytes from which on an array is a mapping of its own
_JEMALLOC: Final = "background_thread:true,narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0"
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p .* /.*\.so[.0-9]*$")


def keep_little() -> None:
    """Tell the allocators of this process, and of Polars and delta-rs in it and its children, to keep little.

    Large arrays come and go in threads; as allocators are set up, each thread keeps what they leave behind. To be
    called before Polars is imported, which reads its part then; what the environment says already stands.
    """
    os.environ.setdefault("_RJEM_MALLOC_CONF", _JEMALLOC)
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for what, value in _GLIBC.items():
                mallopt(what, value)


def give_back_heap() -> None:
    """Return freed memory: glibc keeps what the large arrays of a past leave behind."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def give_back_code() -> None:
    """Let go of the pages of libraries: a compiler, for one, is used at the start alone.

    What is used again comes back from the system's cache of files. Only pages that are as they are on the disk are let
    go: of mappings that cannot be written and hold no page of their own.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, length in clean_code(Path("/proc/self/smaps").read_text().splitlines()):
            madvise(start, length, _DONTNEED)


def clean_code(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Return start and length of the mappings of libraries that no page was ever written of."""
    found: tuple[int, int] | None = None
    for line in smaps:
        name, _, rest = line.partition(":")
        if "-" in line.split(" ", 1)[0]:  # the head of a mapping
            matched = _MAPPING.match(line)
            found = None if matched is None else (int(matched[1], 16), int(matched[2], 16) - int(matched[1], 16))
        elif found is not None and name in ("Private_Dirty", "Shared_Dirty", "Anonymous") and rest.split()[0] != "0":
            found = None
        elif found is not None and name == "VmFlags":
            yield found
