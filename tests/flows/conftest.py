"""What several files of flows' tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.data.shards import write_shards
from components.data.sources.shapes import scene
from flows import experiment
from infra.settings import Settings
from infra.stack import short_lived


@pytest.fixture(scope="session")
def home(
    settings_on_free_ports: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Prefect and MLflow of a home that the files share: each names its experiments as no other does."""
    settings = settings_on_free_ports(tmp_path_factory.mktemp("flows") / "home")
    with short_lived(settings, ("prefect", "mlflow")):
        yield settings


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A checkout's data and state of its own: 60 scenes are its `shapes_l0`, its experiments are those in `tmp_path`."""
    settings = Settings(home=tmp_path / "home", repo=tmp_path)
    settings.prepare()
    monkeypatch.setattr(Settings, "read", classmethod(lambda cls: settings))
    monkeypatch.setattr(experiment, "FOLDER", tmp_path)
    (tmp_path / "data").mkdir()
    write_shards([scene(index, 0) for index in range(60)], tmp_path / "data/shards/shapes_l0")
    return settings
