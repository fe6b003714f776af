"""Prefect's server as it is, behind a door that only this machine's own pages pass.

The server asks for no password, and who may write to its API can have the worker run a command.
Listening on loopback is not enough: a web page may point its own name at 127.0.0.1 (DNS
rebinding), and websockets know no CORS. So a request has to name this machine as its host, and
one that comes from a page has to come from our own. Run with ``python -m infra.prefect_server``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from infra.variables import HOST, LOOPBACK_NAMES

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


class OnlyThisMachine:
    """ASGI application that answers 403 unless host and origin are `port` of this machine."""

    def __init__(self, app: Application, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in LOOPBACK_NAMES}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_ours(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"Only from this machine.\n"})
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _is_ours(self, scope: Scope) -> bool:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc not in self.hosts:
            return False
        return headers.get(b"host") in self.hosts


def main() -> None:
    """Serve API, UI and scheduler as ``prefect server start`` does; PREFECT_* say where."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    uvicorn.run(
        OnlyThisMachine(create_app(final=True), server.api.port),
        host=HOST,
        port=server.api.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        # A browser tab holds a websocket open for good; stopping does not wait for it.
        timeout_graceful_shutdown=3,
        access_log=False,  # the page in a browser asks every few seconds
    )


if __name__ == "__main__":
    main()
