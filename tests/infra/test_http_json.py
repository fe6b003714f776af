"""Asking a server of ours: a server of a test's own answers what Prefect does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from infra import http_json
from infra.http_json import ask_prefect


@pytest.fixture
def busy() -> Iterator[SimpleNamespace]:
    """A Prefect that says `times` to a client that it is busy, and counts what it was asked."""
    told = SimpleNamespace(times=2, posts=0)

    class Prefect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, b'{"token": "t"}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            told.posts += 1
            self._say(503 if told.posts <= told.times else 201, b'{"id": 1}')

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Prefect)
    told.prefect_port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()


def test_a_prefect_whose_file_was_held_is_asked_again(busy) -> None:
    assert ask_prefect(busy, "/work_pools/", {}) == (201, {"id": 1})
    assert busy.posts == 3


def test_one_that_stays_busy_is_told_so_in_the_end(busy, monkeypatch) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(http_json, "time", clock)
    busy.times = 1000
    assert ask_prefect(busy, "/work_pools/", {})[0] == 503
    assert busy.posts == 42, "every quarter of a second, for ten"
