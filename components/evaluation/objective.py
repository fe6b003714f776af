"""What a sweep compares trials by: one number of a checkpoint, on the split `val`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.config import ConfigError
from components.data.batches import Batches, load_split
from components.data.shards import open_shards
from components.evaluation.measure import measure
from components.evaluation.plan import EvaluationPlan
from components.records import BatchSpec, Checkpoint
from components.training.checkpoints.checkpoint import load_model
from components.training.sweeps.search import LOSS, SPLIT

_MOST_PAIRS = 64
"""Pairs of a validation batch: one number for all trials, since a contrastive loss depends on it."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Measures checkpoints; small enough to send to the processes that train."""

    metric: str
    """A metric of the catalog, or `loss`."""
    shards: Path
    plan: EvaluationPlan
    """How captions are written, and the like; its own splits are not looked at."""
    cache: Path | None = None
    """Folder of METEOR's compiled data."""

    def __call__(self, checkpoint: Checkpoint) -> float:
        """The number. Raises `ConfigError` where this model on these data has none."""
        if self.metric == LOSS:
            return validation_loss(checkpoint, self.shards)
        with tempfile.TemporaryDirectory() as folder:  # nobody reads a trial's captions again
            report = measure(
                checkpoint, open_shards(self.shards), SPLIT, self.plan, Path(folder), self.cache
            )
        if self.metric not in report.values:
            raise ConfigError(
                f"search.metric: {self.metric} cannot be measured on {SPLIT} here; measured were "
                f"{', '.join(sorted(report.values))}."
            )
        return report.values[self.metric]


@torch.no_grad()
def validation_loss(checkpoint: Checkpoint, shards: Path) -> float:
    """The mean of the model's own loss over batches of `val`, dropout off; the same draws each time.

    Batches hold at most 64 pairs; the pairs that do not fill the last one are left out.
    """
    loaded, tokenizer, _ = load_model(checkpoint.path)
    model: Any = loaded
    spec: BatchSpec = model.batch_spec()
    images = load_split(open_shards(shards), SPLIT, spec.image_px)
    size = min(_MOST_PAIRS, len(images.rows))
    batches = Batches(images, spec, tokenizer, size, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = [
            float(model.loss(batches.batch(step)).total)
            for step in range(max(1, len(images.rows) // size))
        ]
    return sum(losses) / len(losses)
