"""What several files of trainings share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.components.training import ray_nodes as nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[nodes.Cluster]:
    """A Ray of one node, until the last test of the file that uses it kills it."""
    made = nodes.Cluster()
    try:
        nodes.wait_until(made.is_up)
        yield made
    finally:
        made.end()
