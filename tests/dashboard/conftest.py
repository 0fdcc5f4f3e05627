"""The sample in a real server, and the application on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from dashboard.app import create_app
from dashboard.connections import Connection
from dashboard.frame import ChartFrame, read_frame
from dashboard.view import ViewState
from estimator.cache import Cache
from estimator.settings import Settings
from tests.dashboard.sample import sample_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """BTC of three venues: the finest level, the half-hourly and the two-hourly one."""
    with sample_server(tmp_path_factory.mktemp("sample"), levels=(0, 2, 3), coins=("BTC",)) as url:
        yield url


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    cache = Cache(redis_url)
    yield cache
    cache.close()


@pytest.fixture
def frame(cache: Cache) -> ChartFrame:
    return read_frame(cache, ViewState("BTC"))


@contextmanager
def serve(redis_url: str, settings: Settings | None = None) -> Iterator[httpx.Client]:
    """The whole application on a free loopback port, and a client for it."""
    settings = settings or Settings()
    config = uvicorn.Config(
        create_app(settings, Cache(redis_url)), http=Connection, log_level="warning",
        timeout_graceful_shutdown=1, forwarded_allow_ips=settings.trusted_proxies,
    )  # fmt: skip
    with listen(config) as client:
        yield client


@contextmanager
def listen(config: uvicorn.Config) -> Iterator[httpx.Client]:
    """A server of HTTP on a free loopback port, and a client for it."""
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    host, port = listener.getsockname()
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def client(redis_url: str) -> Iterator[httpx.Client]:
    with serve(redis_url) as client:
        yield client
