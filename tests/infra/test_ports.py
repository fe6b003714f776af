"""Ports: a taken one is refused, and the person is told by whom and what to do."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from infra.ports import PortInUse, free_ports, holder, is_free, require_free


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.create_server((request.param, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_a_port_is_free_again_when_its_listener_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # A connection that is cut on the server's side leaves the port waiting it out.
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert is_free(port)


def test_the_holder_is_named_by_pid_and_command(taken: int) -> None:
    assert f"pid {os.getpid()} ({sys.orig_argv[0]} " in holder(taken)


def test_the_error_says_port_service_holder_and_variable(taken: int) -> None:
    with pytest.raises(PortInUse) as caught:
        require_free(taken, service="mlflow", variable="DIPTYCH_MLFLOW_PORT")
    for part in (str(taken), "mlflow", f"pid {os.getpid()}", "DIPTYCH_MLFLOW_PORT="):
        assert part in str(caught.value)


def test_a_free_port_passes() -> None:
    require_free(free_ports(1)[0], service="mlflow", variable="DIPTYCH_MLFLOW_PORT")


def test_free_ports_are_free_and_distinct() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(map(is_free, ports))
