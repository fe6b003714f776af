"""A whole stack on free ports in a home of its own, for the tests that need real servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import stack
from infra.ports import free_ports
from infra.settings import PORT_VARIABLES, Settings

MakeSettings = Callable[[Path], Settings]


@pytest.fixture(scope="session")
def settings_on_free_ports() -> MakeSettings:
    """Settings of a home, with four ports that are free now."""

    def make(home: Path) -> Settings:
        ports = map(str, free_ports(len(PORT_VARIABLES)))
        chosen = dict(zip(PORT_VARIABLES.values(), ports, strict=True))
        return Settings.read({**os.environ, "DIPTYCH_HOME": str(home), **chosen})

    return make


@pytest.fixture(scope="session")
def running(
    settings_on_free_ports: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """All four services, up; ended with the session whatever happens."""
    settings = settings_on_free_ports(tmp_path_factory.mktemp("stack") / "home")
    stack.up(settings)
    yield settings
    stack.down(settings)
