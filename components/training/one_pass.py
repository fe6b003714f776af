"""What stands in for training where nothing is trained: one pass over the pairs, or over those that a teacher keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.abilities import Condenses, Indexes
from components.config import ConfigError
from components.data.batches import load_split
from components.data.text import Tokenizer
from components.records import Shards
from components.training.checkpoints.checkpoint import load_part
from components.training.teachers.teaching import Distillation


def index(
    model: Any, shards: Shards, split: str, tokenizer: Tokenizer, taught: Distillation | None
) -> None:
    """Build a model's index, if its family keeps one: of the pairs of a split, or of its teacher's index.

    Raises as `_condense` and as the family's `build`.
    """
    if taught is not None:
        _condense(model, taught)
    elif isinstance(model, Indexes):
        side_px = model.batch_spec().image_px  # type: ignore[attr-defined]
        model.build(load_split(shards, split, side_px), tokenizer)


def _condense(model: Any, plan: Distillation) -> None:
    """Raises as `checkpoint.load_part` for a teacher that is gone or another one, and ConfigError for a model that cannot be
    made from it, or a plan that names what only a training can use."""
    family = type(model).__name__
    if not isinstance(model, Condenses):
        raise ConfigError(
            f"A {family} learns nothing, and keeps nothing that a teacher could hand on; leave distill out."
        )
    if plan.terms or not plan.inherit:
        raise ConfigError(
            f"A {family} is built in one pass, and no term can teach it. Write distill: {{teacher: …, inherit: true}}, "
            "and how much it keeps as model.keep."
        )
    model.condense(load_part(Path(plan.teacher.path), plan.teacher).module)
