"""Memory that is given back is only what the system has elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from estimator.memory import clean_code, keep_little

SMAPS = """
7f0000000000-7f0000010000 r-xp 00000000 08:01 11 /usr/lib/libone.so.2
Rss: 64 kB
Private_Dirty: 0 kB
Anonymous: 0 kB
VmFlags: rd ex mr mw me
7f0000010000-7f0000020000 r--p 00000000 08:01 11 /usr/lib/libone.so.2
Rss: 64 kB
Private_Dirty: 8 kB
Anonymous: 8 kB
VmFlags: rd mr mw me
7f0000020000-7f0000030000 rw-p 00000000 08:01 11 /usr/lib/libone.so.2
Private_Dirty: 0 kB
VmFlags: rd wr mr mw me
7f0000030000-7f0000040000 r--p 00000000 00:00 0
Private_Dirty: 0 kB
VmFlags: rd mr mw me
7f0000040000-7f0000041000 r--p 00000000 08:01 12 /srv/table.parquet
Private_Dirty: 0 kB
VmFlags: rd mr mw me
"""


def test_only_mappings_of_libraries_that_were_never_written_are_let_go() -> None:
    assert list(clean_code(SMAPS.strip().splitlines())) == [(0x7F0000000000, 0x10000)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells its mappings")
def test_a_process_goes_on_after_its_code_was_let_go() -> None:
    program = """
import re, sys
import polars as pl
from estimator.memory import give_back_code, give_back_heap
from estimator.model.book import compile_book
def resident():
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1])
def work():
    compile_book()
    return pl.DataFrame({"a": [3, 1, 2]}).sort("a")["a"].to_list()
first, before = work(), resident()
give_back_heap()
give_back_code()
after = resident()
assert work() == first
print(before, after)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[1]) < int(told[0]) / 2


_CROWD = """
import ctypes, sys, tempfile, threading
from estimator.memory import keep_little
if sys.argv[1] == "little":
    keep_little()
meet = threading.Barrier(6)
def hold():
    kept = [bytes(9_000) for _ in range(100)]
    meet.wait()
threads = [threading.Thread(target=hold) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as told:
    file = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(told.read().count(b"<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only this C library has arenas")
def test_the_threads_of_a_worker_share_two_arenas() -> None:
    def arenas(how: str) -> int:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", _CROWD, how], env=plain, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert arenas("little") <= 2 < arenas("as it is")


def test_what_the_environment_says_of_allocators_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RJEM_MALLOC_CONF", "narenas:1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    keep_little()
    assert os.environ["_RJEM_MALLOC_CONF"] == "narenas:1"
