"""The gradient of a whole batch's loss, out of the parts that workers and their memory hold at a time.

Exact where a loss says over how many items it is the mean (`Loss.items`), or is made of features (`feature_cache.py`).
What no sum over parts can give back: batch statistics (BatchNorm) are those of a part, dropout is drawn for each part
anew, and a loss of several means over different things is weighed by one of them (its family's docstring says so).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from components.abilities import LearnsFromFeatures
from components.objectives.workers import workers
from components.records import Batch, Loss
from components.training.plan import TrainingPlan
from components.training.steps import feature_cache
from components.training.steps.state import State

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Ask = Callable[[Any, Batch], Any]


class LossOf(nn.Module):
    """A learner seen as a module whose forward is its loss, which is what DDP can wrap."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch, ask: Ask | None = None) -> Any:
        """`learner.loss(batch)`, or what `ask` makes of learner and batch: all that is learnt goes through here."""
        return self.learner.loss(batch) if ask is None else ask(self.learner, batch)  # type: ignore[operator]


def gradients(
    loss: Callable[..., Any],
    batch: Batch,
    state: State,
    plan: TrainingPlan,
    seeded: Callable[[int], None],
) -> Loss:
    """Leave the gradient in `.grad`, still scaled by the state's scaler, and return the loss, detached.

    loss: `LossOf(state.learner)` or what wraps it. seeded: seeds the draws of a micro-batch, by its number.
    The total is that of the batch of all workers, the parts are this worker's.
    """
    parts = batch.split(plan.accumulate) if plan.accumulate > 1 else [batch]

    def run(number: int, part: Batch, ask: Ask | None = None) -> Any:
        seeded(number)
        with cast(plan, batch):
            return loss(part, ask) if ask else loss(part)

    if len(parts) > 1 and isinstance(state.learner, LearnsFromFeatures):
        casting, syncing = partial(cast, plan, batch), partial(_sync, loss)
        found = feature_cache.gradients(run, parts, batch, state, casting, syncing)
        total, _ = _over_workers(found.total, torch.ones_like(found.total))
        return Loss(total, found.parts)
    return _mean(run, parts, state, partial(_sync, loss))


def cast(plan: TrainingPlan, batch: Batch) -> torch.autocast:
    """The plan's precision, for a forward pass."""
    kind = batch.tokens_BT.device.type
    return torch.autocast(kind, DTYPES[plan.precision], enabled=plan.precision != "fp32")


def _mean(
    run: Callable[..., Loss],
    parts: list[Batch],
    state: State,
    sync: Callable[[bool], AbstractContextManager[Any]],
) -> Loss:
    """Each part's gradient by its weight; where items are counted, divided by their number when that is known."""
    alone = len(parts) == workers() == 1
    # Counts near 1, so that fp16's scale still fits; the same number for all parts and workers.
    per_part = parts[0].tokens_BT.numel()
    found, weights = [], []
    for number, part in enumerate(parts):
        with sync(number == len(parts) - 1):
            made = run(number, part)
            items = None if alone else made.items
            weight = torch.ones_like(made.total) / len(parts) if items is None else items / per_part
            state.scaler.scale(made.total if alone else made.total * weight).backward()
        found.append(Loss(made.total.detach(), {k: v.detach() for k, v in made.parts.items()}))
        weights.append(weight.detach())
    if alone:
        return found[0]
    shares = torch.stack(weights)
    total, share = _over_workers(
        (torch.stack([each.total for each in found]) * shares).sum(), shares.sum()
    )
    if items is not None:
        grads = [value.grad for value in state.moved() if value.grad is not None]
        torch._foreach_mul_(grads, 1 / share)
    return Loss(total / share, _weighed([each.parts for each in found], shares))


def _over_workers(total: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Their means over workers, as DDP leaves gradients; never 0 below a line."""
    both = torch.stack([total, share])
    if workers() > 1:
        dist.all_reduce(both)
        both /= workers()
    return both[0], _above_zero(both[1])


def _above_zero(share: Tensor) -> Tensor:
    """For below a line: where no item was counted what stands above is 0 as well."""
    return share.clamp(min=torch.finfo(share.dtype).tiny)


def _weighed(parts: list[Mapping[str, Tensor]], shares: Tensor) -> dict[str, Tensor]:
    """Means over the parts that have a value of that name: where nothing was there to average, none stands."""
    found = {}
    for name in dict.fromkeys(name for each in parts for name in each):
        there = torch.tensor([name in each for each in parts], device=shares.device)
        values = torch.stack([each[name].to(shares.dtype) for each in parts if name in each])
        found[name] = (values * shares[there]).sum() / _above_zero(shares[there].sum())
    return found


def _sync(loss: Any, last: bool) -> AbstractContextManager[Any]:
    """Workers average their gradients once, after the last part."""
    return nullcontext() if last or not hasattr(loss, "no_sync") else loss.no_sync()
