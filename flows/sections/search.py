"""The section `search` of an experiment -> what a sweep may try; each value is tried in the record it would stand in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from components.config import Config, ConfigError
from components.training.plan import TrainingPlan
from components.training.sweeps.search import LOSS, Search, check_space


def read_search(
    text: Mapping[str, Any],
    model: Config,
    training: TrainingPlan,
    measurable: Collection[str],
    validate: Callable[[type, Mapping[str, Any], str], Any],
    path: Path,
) -> Search:
    """The search; a mistake is told before any data is read.

    measurable: the metrics that a report of this family may hold.
    validate: how `experiment.py` makes a record of text.

    Raises UnknownName, with the nearest, for a key, a metric or a setting there is not, and ConfigError for a value
    that the rest of the experiment cannot stand beside.
    """
    search: Search = validate(Search, text, f"{path}: search")
    if search.metric not in {*measurable, LOSS}:
        raise ConfigError(
            f"{path}: search.metric is {search.metric}, which this family has not; it has "
            f"{', '.join(sorted(name for name in measurable if '/' not in name))}, and {LOSS}."
        )
    records: dict[str, Any] = {"model": model, "training": training}
    check_space(
        search, {name: [each.name for each in fields(each)] for name, each in records.items()}
    )
    for name, value in search.values():
        section, _, key = name.partition(".")
        record = records[section]
        validate(type(record), {**record.to_dict(), key: value}, f"{path}: search.space: {section}")
    return search
