"""A server for the tests of a process, and a cache on it that begins empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from estimator.cache import Cache
from estimator.redis_server import BundledServer


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BundledServer(tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """The server itself, emptied."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        yield client


@pytest.fixture
def cache(url: str, raw: Any) -> Iterator[Cache]:  # noqa: ARG001 - empties the server first
    cache = Cache(url)
    yield cache
    cache.close()
