"""A whole stack on free ports in a home of its own, for the tests that need real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import stack
from infra.settings import Settings

MakeSettings = Callable[[Path], Settings]


@pytest.fixture(scope="session")
def running(
    settings_on_free_ports: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """All four services, up; ended with the session whatever happens."""
    settings = settings_on_free_ports(tmp_path_factory.mktemp("stack") / "home")
    stack.up(settings)
    yield settings
    stack.down(settings)
