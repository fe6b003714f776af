"""A source with its parameters of params.yaml -> shards: what `dvc repro` runs."""

from __future__ import annotations

import inspect
from pathlib import Path

import yaml

from components import atomic
from components.catalog import SOURCES
from components.config import ConfigError
from components.data.shards import write_shards
from components.data.sources.counted import Counted
from components.records import Shards

PARAMS = Path("params.yaml")


def prepare_source(name: str, folder: Path) -> Shards:
    """Make the shards of a source in `folder`; beside it, what was left out and why, if the source counts that.

    Raises UnknownName for a source nobody knows, and ConfigError for a parameter it does not take.
    """
    source = SOURCES[name]
    params = (yaml.safe_load(PARAMS.read_text()) or {}).get(name, {}) if PARAMS.is_file() else {}
    takes = inspect.signature(source).parameters
    for key, value in params.items():
        if key not in takes or type(value) is not int or value < 1:
            raise ConfigError(
                f"{PARAMS}: {name}.{key} is {value!r}; {name} takes {', '.join(takes)}, whole numbers from 1."
            )
    samples = source(**params)
    shards = write_shards(samples, folder)
    if isinstance(samples, Counted):
        atomic.write_json(folder.with_name(f"{folder.name}.counts.json"), dict(samples.counts))
    return shards
