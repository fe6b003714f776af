"""Ports on loopback: is one free, who holds it, give me a free one."""

from __future__ import annotations

import socket

from infra.variables import HOST


class PortInUse(RuntimeError):
    """Another process listens on a port that a service needs."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as listener:
        # Servers set it too: a port that only waits out old connections is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Distinct ports that are free now; another process may still be faster to take one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def require_free(port: int, *, service: str, variable: str) -> None:
    """Raise PortInUse, with who holds it and the variable that moves us, unless it is free."""
    if is_free(port):
        return
    raise PortInUse(
        f"Port {port}, where {service} should listen, is taken by {holder(port)}. "
        f"Stop that, or choose another port: {variable}={free_ports(1)[0]}."
    )


def holder(port: int) -> str:
    """Who listens on a port, for a person: pid and command line, as far as we may see them."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows only root
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return _describe(connection.pid)
    return "a process of another user"


def _describe(pid: int | None) -> str:
    import psutil

    if pid is None:
        return "a process of another user"
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return f"pid {pid}"
    return f"pid {pid} ({' '.join(words)[:120]})"
