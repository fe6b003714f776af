"""What `diptych score` was asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.data.caption_pairs import Pairs
from components.metrics import bootstrap
from components.metrics.certificate import Certificate
from components.metrics.scorecard import Choice
from components.metrics.scoring import Scores


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for at the terminal."""

    candidates: Path
    references: Path
    metrics: str = "all"
    processes: int = 1
    allow_missing: bool = False
    frequencies: Path | None = None
    save_frequencies: Path | None = None
    resamples: int = bootstrap.RESAMPLES
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of it."""

    request: Request
    pairs: Pairs
    choice: Choice
    scores: Scores
    corpus: dict[str, float]
    """Column name -> number."""
    intervals: dict[str, tuple[float, float]]
    """Empty where no draws were asked for."""
    certificate: Certificate | None
