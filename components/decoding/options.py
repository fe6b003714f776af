"""What a decoder can be told: which options each one reads, and between which numbers they make sense.

A decoder's own signature says what it reads and what it takes by default; nothing here knows a decoder by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any


class BadOption(ValueError):
    """A decoder's option out of its range."""


RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "beams": (lambda value: value >= 1, "at least 1"),
    "length_penalty": (lambda value: 0 <= value < math.inf, "at least 0"),
    "top_k": (lambda value: value is None or value >= 1, "at least 1, or left out"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "temperature": (lambda value: 0 < value < math.inf, "above 0"),
    "alpha": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "beta": (lambda value: 0 <= value < math.inf, "at least 0"),
    "seed": (lambda value: 0 <= value < 2**63, "at least 0"),
}
"""Each option's test, written so that NaN fails it, and what would work."""


def check(**options: Any) -> None:
    """Raise BadOption for the first option out of its range."""
    for name, value in options.items():
        fits, wanted = RANGES[name]
        if not fits(value):
            raise BadOption(f"{name}={value} must be {wanted}.")


def defaults(decoder: Callable[..., Any]) -> dict[str, Any]:
    """The options a decoder reads, each with its own default."""
    parameters = inspect.signature(decoder).parameters
    return {name: parameters[name].default for name in RANGES if name in parameters}


def read_by(decoder: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options a decoder reads, as given; where nothing or None is given, its own default."""
    return {
        name: default if given.get(name) is None else given[name]
        for name, default in defaults(decoder).items()
    }
