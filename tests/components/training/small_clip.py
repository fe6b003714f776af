"""A CLIP of milliseconds to be trained in tests, and jobs that train it.

Neither batch statistics nor dropout: several workers compute what one does, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.records import Shards
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

CONFIG = {
    "vision": "vit", "image_px": 32, "patch_px": 8, "vision_width": 32, "vision_layers": 1,
    "vision_heads": 2, "text_width": 32, "text_layers": 1, "embed_width": 16,
}  # fmt: skip


def jobs(
    plan: TrainingPlan, shards: Shards, folder: Path, config: Mapping[str, Any] = CONFIG
) -> Callable[..., TrainingJob]:
    """`jobs(…)("run", steps=3)`: a job in a folder of its own below `folder`, by a plan changed so."""

    def make(name: str, **changes: Any) -> TrainingJob:
        return TrainingJob(
            family="clip",
            config=config,
            plan=replace(plan, **changes),
            shards=shards.path,
            folder=folder / name,
        )

    return make
