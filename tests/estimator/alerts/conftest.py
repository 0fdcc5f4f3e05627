"""A real Redis, and a web server that takes messages as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Sink:
    """A server: ``/ok`` takes messages, ``/500`` refuses, ``/flaky`` refuses the first two, ``/hang`` waits.

    Attributes
    ----------
    got : list of (str, dict)
        Path and message of everything that came, refused or not.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.release = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.got.append((self.path, message))
                if self.path == "/hang":
                    sink.release.wait(30)
                refused = self.path == "/500" or (self.path == "/flaky" and len(sink.at("/flaky")) < 3)
                self.send_response(500 if refused else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str, password: str = "") -> str:
        user = f"user:{password}@" if password else ""
        return f"json://{user}127.0.0.1:{self._server.server_port}/{path}"

    def at(self, path: str) -> list[dict[str, Any]]:
        return [message for where, message in list(self.got) if where == path]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()
