"""What a sweep may choose: which settings, from which values, and the number that decides. Not how it is searched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from components.catalog import METRICS
from components.config import ConfigError
from components.table import UnknownName, nearest
from components.training.plan import TrainingPlan

LOSS = "loss"
"""The one metric that is no metric of the catalog: the model's own loss on the split `val`."""
SPLIT = "val"
"""What trials are compared on. Never `test`: whoever chooses by it has nothing left to measure the choice with."""
KINDS = {
    "log": "two numbers above 0, drawn evenly in their logarithm, as [1.0e-4, 1.0e-2]",
    "uniform": "two numbers, as [0.0, 0.2]",
    "int": "two whole numbers, both included, as [2, 6]",
    "choice": "numbers, words or true and false, as [64, 128]",
}
"""How a setting's values may be given."""
Settings = Mapping[str, Any]
"""What one trial is tried with: `section.key` -> value."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A sweep as an experiment's file asks for it, its section `search`.

    Raises `ConfigError` for what cannot be searched and UnknownName, with the nearest, for a metric or a kind of range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    metric: str
    """A metric of the catalog, or `loss`: measured on `val` at every checkpoint; whether more is better follows from it."""
    space: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    """`section.key` -> its values, as `{training.lr: {log: [1.0e-4, 1.0e-2]}}`."""
    trials: int = 8
    """How many settings are tried, at least 1. A sweep that is asked for more goes on."""
    at_once: int = 2
    """Most trials in training at a time, at least 1; each takes the plan's `cpus_per_worker` and `gpus_per_worker`."""
    seed: int = 0
    """Which settings are drawn first."""

    def __post_init__(self) -> None:
        if self.metric != LOSS and self.metric not in METRICS:
            raise UnknownName(
                f'search.metric: no metric "{self.metric}".{nearest(self.metric, [LOSS, *METRICS])}'
            )
        for name, least in {"trials": 1, "at_once": 1, "seed": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"search.{name}={value!r} cannot work; a whole number from {least} does."
                )
        if not self.space:
            raise ConfigError(
                "search.space names no setting; write what may change, as "
                "{training.lr: {log: [1.0e-4, 1.0e-2]}}."
            )
        for name, domain in self.space.items():
            _check_domain(f"search.space.{name}", domain)

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is to grow."""
        return self.metric != LOSS and METRICS[self.metric].higher_is_better

    def values(self) -> Iterator[tuple[str, Any]]:
        """Every choice, and both ends of every range, with the setting it is a value of."""
        for name, domain in self.space.items():
            for values in domain.values():
                for value in values:
                    yield name, value

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        space = {
            name: {kind: list(values) for kind, values in domain.items()}
            for name, domain in self.space.items()
        }
        return {**asdict(self), "space": space}


def check_space(search: Search, known: Mapping[str, Sequence[str]]) -> None:
    """Look at the names a space changes: `known` holds the settings of each section.

    Raises UnknownName, with the nearest, for a section or a setting there is not, and ConfigError for one that no
    weight depends on.
    """
    for name in search.space:
        section, _, key = name.partition(".")
        if section not in known:
            raise UnknownName(
                f'search.space.{name}: no section "{section}".{nearest(section, known)} '
                f"A sweep changes {' and '.join(known)}, as training.lr."
            )
        if key not in known[section]:
            raise UnknownName(
                f'search.space.{name}: no setting "{key}".{nearest(key, known[section])}'
            )
        if section == "training" and key in TrainingPlan.PLACEMENT:
            raise ConfigError(
                f"search.space.{name} says where or how a training runs; no weight depends on it, so there is nothing "
                "to search. Set it under training."
            )
        if name == "training.steps":
            raise ConfigError(
                "search.space.training.steps: trials are compared after equal numbers of steps, and the longest would "
                "win for its length. Set training.steps for all of them; those that fall behind are stopped early."
            )


def applied(
    settings: Settings, config: Mapping[str, Any], plan: TrainingPlan
) -> tuple[dict[str, Any], TrainingPlan]:
    """A family's config and a plan with a trial's settings in them. Raises `ConfigError` for a plan they spoil."""
    changed = dict(_of("training", settings))
    return {**config, **dict(_of("model", settings))}, replace(plan, **changed)


def _of(section: str, settings: Settings) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        where, _, key = name.partition(".")
        if where == section:
            yield key, value


def _check_domain(where: str, domain: Mapping[str, Sequence[Any]]) -> None:
    if len(domain) != 1:
        raise ConfigError(f"{where} takes one of {', '.join(KINDS)}, as {{log: [1.0e-4, 1.0e-2]}}.")
    ((kind, values),) = domain.items()
    if kind not in KINDS:
        raise UnknownName(
            f'{where}: no range "{kind}".{nearest(kind, KINDS)} Known: {", ".join(KINDS)}.'
        )
    if not _fits(kind, values):
        raise ConfigError(f"{where}: {kind} is {list(values)!r}; it takes {KINDS[kind]}.")


def _fits(kind: str, values: Sequence[Any]) -> bool:
    if kind == "choice":
        plain = all(isinstance(value, bool | int | float | str) for value in values)
        return plain and len(values) >= 1 and len(set(map(repr, values))) == len(values)
    numbers = [value for value in values if _is_number(value, whole=kind == "int")]
    if len(values) != 2 or len(numbers) != 2:
        return False
    low, high = numbers
    return low < high and (kind != "log" or low > 0)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)
