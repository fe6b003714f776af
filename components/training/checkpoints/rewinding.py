"""Back to the last finite checkpoint after a loss that was not, with the batch that made it passed over.

Which batches a run passes over stands in its folder: they are part of what each later step is, also after a restart.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed as dist

from components import atomic
from components.objectives.workers import workers
from components.records import Batch
from components.training.checkpoints import tensors
from components.training.checkpoints.checkpoint import discard
from components.training.loop import Batches, LossNotFinite

MOST = 3
"""Batches that a run may pass over; a training that needs more diverges, and other data will not help it."""

PASSED_OVER = "passed_over.json"
"""In the run's folder."""


def passed_over(folder: Path) -> list[int]:
    """Numbers of the batches that a run passes over, in the order it met them."""
    path = folder / PASSED_OVER
    found: list[int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


class Passing:
    """The batches that are left when some are passed over: later ones move up."""

    def __init__(self, batches: Batches, passed: Sequence[int]) -> None:
        self._batches, self._passed = batches, sorted(passed)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        return self._batches.batch(number(step, self._passed))


def number(step: int, passed: Sequence[int]) -> int:
    """Which batch a step learns from, `passed` ones left out of the count.

    >>> [number(step, [1, 2, 4]) for step in range(3)]
    [0, 3, 5]
    """
    for each in sorted(passed):
        step += each <= step
    return step


def rewind(folder: Path, checkpoints: Path, error: LossNotFinite, *, writes: bool) -> None:
    """Note the batch of a step that was not finite, and leave a finite checkpoint, or none, as the newest.

    All workers call it and one of them writes. Raises the error itself, in all of them, where as many as `MOST` were
    passed over before.
    """
    passed = passed_over(folder)
    if workers() > 1:
        dist.barrier()
    if len(passed) >= MOST:
        raise error
    if writes:
        _note(folder, checkpoints, error, passed)
    if workers() > 1:
        dist.barrier()


def _note(folder: Path, checkpoints: Path, error: LossNotFinite, passed: list[int]) -> None:
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        if is_finite(path):
            break
        discard(path)
    # Last: cut off before, the same step fails again; noted first, a checkpoint that is not finite would blame the next one.
    atomic.write_json(folder / PASSED_OVER, [*passed, number(error.step, passed)])
    logging.getLogger(__name__).warning(
        "step %d is not finite: back to the last finite checkpoint, batch %d is passed over (%d of %d)",
        error.step, number(error.step, passed), len(passed) + 1, MOST,
    )  # fmt: skip


def is_finite(path: Path) -> bool:
    """Whether a checkpoint is: a finite gradient may still leave weights, or moments, that are not."""
    files = (tensors.read(file) for file in path.glob("*.safetensors"))
    return all(bool(torch.isfinite(value).all()) for file in files for value in file.values())
