"""Ask a server of ours over loopback: JSON both ways, no proxy, no redirect elsewhere."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from http import HTTPStatus
from typing import Any

from infra.settings import Settings
from infra.variables import HOST

TIMEOUT_S = 10
BUSY_S = 0.25
BUSY_PATIENCE_S = 10


def ask(
    port: int, path: str, *, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """GET, or POST if there is a body: the status, and the answer read as JSON (None if it is not).

    Raises OSError or http.client.HTTPException where nobody answers HTTP.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        text = None if body is None else json.dumps(body)
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request("GET" if body is None else "POST", path, text, sent)
        answer = connection.getresponse()
        content = answer.read()
        try:
            return answer.status, json.loads(content)
        except ValueError:
            return answer.status, None
    finally:
        connection.close()


def ask_prefect(settings: Settings, path: str, body: Any) -> tuple[int, Any]:
    """POST to Prefect's API with the CSRF token that it asks of every client; again, for ten seconds, while it is busy."""
    client = secrets.token_hex(8)
    status, token = _when_free(settings.prefect_port, f"/api/csrf-token?client={client}")
    if status != 200:
        return status, token
    headers = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token["token"]}
    return _when_free(settings.prefect_port, f"/api{path}", body=body, headers=headers)


def _when_free(port: int, path: str, **sent: Any) -> tuple[int, Any]:
    """Prefect says 503, and has done nothing, where another write held its SQLite file: its own clients ask again too."""
    until_s = time.monotonic() + BUSY_PATIENCE_S
    while True:
        status, answer = ask(port, path, **sent)
        if status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > until_s:
            return status, answer
        time.sleep(BUSY_S)
