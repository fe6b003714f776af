"""The loss on a few batches of the split `val`, measured beside the training: which checkpoint to keep beyond its time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from components.config import ConfigError
from components.data.batches import Batches, SplitImages
from components.data.text import Tokenizer
from components.records import Batch, BatchSpec, Loss
from components.training import progress
from components.training.loop import LossNotFinite
from components.training.plan import TrainingPlan
from components.training.steps.parallel import cut_again
from components.training.steps.state import State

VAL_LOSS = "val_loss"
SPLIT = "val"


class Validation:
    """`plan.val_batches` batches of the split, the same at every checkpoint; all workers ask together."""

    def __init__(
        self,
        images: SplitImages,
        spec: BatchSpec,
        tokenizer: Tokenizer,
        plan: TrainingPlan,
        *,
        rank: int,
        world: int,
        device: torch.device,
    ) -> None:
        """Raises ConfigError for a split that is too small for one batch of 2 pairs a worker."""
        size = min(plan.batch_size, len(images.rows) // world * world)
        if size < 2 * world:
            raise ConfigError(
                f"val_batches={plan.val_batches} needs {2 * world} images of the split {SPLIT}, which holds "
                f"{len(images.rows)}; 0 trains without."
            )
        self._batches = Batches(images, spec, tokenizer, size, plan.seed, rank=rank, world=world)
        self._count = min(plan.val_batches, self._batches.steps_per_epoch)
        self._plan, self._world, self._device = plan, world, device

    @torch.no_grad()
    def measure(self, state: State, loss: nn.Module, done: int) -> float:
        """Mean loss in eval mode, of the weights a checkpoint would hold; the training's draws are left as they are.

        Raises LossNotFinite, of the last of `done` steps: the training's loss was finite up to there, so that step's
        batch is what made the weights that this loss is of.
        """
        # total, items
        summed = torch.zeros(2, dtype=torch.float64, device=self._device)
        state.learner.eval()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _averaged(state):
            torch.manual_seed(self._plan.seed)
            for step in range(self._count):
                summed += self._weighed(loss, self._batches.batch(step).to(self._device))
            cut_again(loss)  # before the averages leave the weights' place
        state.learner.train()
        if self._world > 1:
            torch.distributed.all_reduce(summed)
        value = float(summed[0] / summed[1])
        if not math.isfinite(value):  # of all workers' batches: all of them raise
            raise LossNotFinite(done - 1, {VAL_LOSS: value})
        return value

    def _weighed(self, loss: Callable[[Batch], Loss], batch: Batch) -> Tensor:
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._plan.precision)
        with torch.autocast(self._device.type, dtype=precision, enabled=precision is not None):
            found = loss(batch)
        items = len(batch.tokens_BT) if found.items is None else float(found.items)
        return torch.tensor([float(found.total) * items, items], device=self._device).double()


def best_step(path: Path) -> int | None:
    """The step with the lowest validation loss of a file of progress, the first of equals; None if none was measured."""
    lines = [line for line in progress.read(path) if VAL_LOSS in line.values]
    return min(lines, key=lambda line: line.values[VAL_LOSS]).step if lines else None


class _averaged:
    """The moving averages in the weights' place for a while, where there are any."""

    def __init__(self, state: State) -> None:
        self._ema = state.ema

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        if self._ema is None:
            return
        for name, live in self._ema.live.items():
            average = self._ema.values[name]
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
