"""One model on one split, ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.evaluation.plan import EvaluationPlan


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What every measurement needs."""

    model: Any
    """Meets the ability that is measured."""
    tokenizer: Tokenizer
    images: SplitImages
    """The split under measurement."""
    train: SplitImages
    """What the trivial baselines copy from."""
    plan: EvaluationPlan
    val: SplitImages | None = None
    """What a linear probe's penalty is chosen on; None if the source has no such split."""
    concepts: Mapping[str, str] | None = None
    """Label of each concept that is a candidate; None for those of the split alone."""
