"""The bundled server is private, durable, and never outlives whoever started it."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis

from estimator.cache import Cache
from estimator.errors import CacheUnavailable, SettingsError
from estimator.redis_server import BundledServer
from tests.waiting import within

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from estimator.redis_server import BundledServer
with BundledServer(Path(sys.argv[1])) as server:
    print(server.pid, server.url, flush=True)
    time.sleep(60)
"""


def client_of(server: BundledServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert within(5, lambda: not runs(pid))


def test_it_answers_within_a_second_and_leaves_nothing_running(tmp_path: Path) -> None:
    began = time.monotonic()
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert client.ping()
        assert time.monotonic() - began < 1
        pid, path = server.pid, Path(server.url.removeprefix("unix://"))
        assert pid is not None
        assert runs(pid)
    assert not runs(pid)
    assert not path.parent.exists()


def test_only_this_user_can_reach_it(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, client_of(server) as client:
        path = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert client.config_get("port") == {"port": "0"}


def test_it_drops_only_what_may_expire_and_syncs_every_second(tmp_path: Path) -> None:
    with BundledServer(tmp_path, maxmemory="64mb") as server, client_of(server) as client:
        got = client.config_get("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save")
        assert got == {
            "maxmemory": str(64 << 20),
            "maxmemory-policy": "volatile-lru",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }


def test_what_it_holds_survives_a_restart(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, client_of(server) as client:
        client.xadd("prints", {"p": "1"})
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert client.xlen("prints") == 1


def test_a_half_written_end_of_its_file_is_cut_off(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, client_of(server) as client:
        client.set("first", "1")
        client.set("second", "2")
    (log,) = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-5])
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert client.get("first") == b"1"
        assert client.get("second") is None


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
def test_full_it_takes_nothing_in_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert server.pid is not None
        client.xadd("prints", {"p": "before"})
        limits = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, limits[1]))  # as a full disk: files grow no more
        cache = Cache(server.url)

        def refused() -> bool:
            try:
                cache.put_progress(0.5, "half")
            except CacheUnavailable as error:
                return "MISCONF" in str(error)
            return False

        assert within(5, refused)
        assert cache.get_progress() is not None  # what it holds it still tells
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limits)
        assert within(5, lambda: not refused())
        client.xadd("prints", {"p": "after"})
        cache.close()
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert [fields[b"p"] for _, fields in client.xrange("prints")] == [b"before", b"after"]


def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server, client_of(server) as client:
        client.set("key", "value")
    (log,) = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"damaged" + log.read_bytes())
    with pytest.raises(SettingsError, match=f"move {tmp_path}/redis aside"):
        BundledServer(tmp_path).__enter__()


def test_a_second_one_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        with pytest.raises(SettingsError, match=rf"another liqheat uses .* \(Redis process {server.pid}\)"):
            BundledServer(tmp_path).__enter__()
        with client_of(server) as client:
            assert client.ping()
    with BundledServer(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="LIQHEAT_DATA"):
        BundledServer(tmp_path / "file").__enter__()


def test_a_long_temporary_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert client.ping()


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().decode().split()
        assert runs(int(pid))
        parent.kill()
    left_over = Path(url.removeprefix("unix://")).parent
    with BundledServer(tmp_path):  # at once, as whoever restarts us would
        assert not runs(int(pid))
        assert not left_over.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_server_does_not_block_the_next(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        assert server.pid is not None
        kill(server.pid)
    with BundledServer(tmp_path) as server, client_of(server) as client:
        assert client.ping()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_listens_on_no_port(tmp_path: Path) -> None:
    with BundledServer(tmp_path) as server:
        links = [str(f.readlink()) for f in Path(f"/proc/{server.pid}/fd").iterdir()]
        inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
        table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        assert inodes
        assert not inodes & {line.split()[9] for line in table.splitlines()}


def _left_over(data: Path, folder: Path) -> None:
    """Start on a data folder whose note names `folder`."""
    (data / "redis").mkdir(parents=True)
    (data / "redis" / "lock").write_text(json.dumps({"pid": 1, "socket_folder": str(folder)}))
    with BundledServer(data) as server:
        assert server.pid is not None


def test_only_a_socket_folder_of_ours_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    empty, full, deep = tmp_path / "liqheat-a", tmp_path / "liqheat-b", tmp_path / "else" / "liqheat-c"
    for folder in (empty, full, deep):
        folder.mkdir(parents=True)
    (full / "s").write_text("a file, not a socket")
    link = tmp_path / "liqheat-d"
    link.symlink_to(full)
    for number, folder in enumerate((empty, full, deep, link)):
        _left_over(tmp_path / f"data{number}", folder)
    assert not empty.exists()
    assert (full / "s").exists()
    assert deep.exists()
    assert link.is_symlink()


def test_its_folder_is_private_and_its_lock_no_link(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir(mode=0o755)
    other = tmp_path / "precious"
    other.write_text("kept")
    (folder / "lock").symlink_to(other)
    with pytest.raises(SettingsError), BundledServer(tmp_path):
        pass
    assert other.read_text() == "kept"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
