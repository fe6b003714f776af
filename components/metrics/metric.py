"""What a metric is called, in which range it lives and where it comes from; and the refusal all metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class MetricInputError(ValueError):
    """Values a metric is not defined for: it refuses them by name and never answers NaN."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured number, as reports, gates and plots need to know it."""

    name: str
    ability: Literal["answers", "captions", "detects", "embeds", "in_context", "matches", "probes"]
    """The model ability it measures (`components/abilities.py`)."""
    unit: str
    low: float
    """Lowest value it can take."""
    high: float
    """Highest value it can take."""
    higher_is_better: bool
    source: str
    """The paper, and the programme whose numbers it equals."""

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        if not self.low < self.high:
            raise ValueError(f"{self.name}: low={self.low} must be below high={self.high}.")
