"""The gradient of a contrastive loss over a batch whose activations do not fit (GradCache; Gao et al. 2021, arXiv:2101.06983).

The loss compares all rows, so micro-batches cannot each have their own. In three passes: features of every micro-batch,
without a graph; the loss of all features and its gradient at them; each micro-batch once more, with a graph that is
pulled by that gradient. One forward pass more than a step has, and equal gradients: the draws of a micro-batch are seeded
the same both times, and batch statistics are counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.abilities import LearnsFromFeatures
from components.records import Batch, Loss
from components.training.steps.state import State

Pair = tuple[Tensor, Tensor]


def gradients(
    run: Callable[..., Any],
    parts: Sequence[Batch],
    batch: Batch,
    state: State,
    cast: Callable[[], AbstractContextManager[Any]],
    sync: Callable[[bool], AbstractContextManager[Any]],
) -> Loss:
    """As `gradients.gradients`, for a learner that `LearnsFromFeatures`.

    run(number, part, ask): a seeded forward pass in the plan's precision, which `cast` is for the loss. Each has its own:
    what autocast keeps of a pass without a graph must not reach one with it.
    """
    learner: Any = state.learner
    with torch.no_grad(), statistics_kept(learner):
        made = [run(number, part, _features) for number, part in enumerate(parts)]
    image_BD, text_BD = (torch.cat(each).requires_grad_() for each in zip(*made, strict=True))
    with cast():
        found: Loss = learner.feature_loss(image_BD, text_BD, batch)
    state.scaler.scale(found.total).backward()
    # What the loss itself learns (a scale) has its gradient now, and workers wait for it with the others.
    own = [value for value in state.moved() if value.grad is not None]
    pulls = zip(_rows(image_BD.grad, parts), _rows(text_BD.grad, parts), strict=True)
    for number, (part, pull) in enumerate(zip(parts, pulls, strict=True)):
        with sync(number == len(parts) - 1):
            run(number, part, partial(_pulled, pull, own)).backward()
    return Loss(found.total.detach(), {name: each.detach() for name, each in found.parts.items()})


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Running means of batch norms as they were, whatever passes through in between."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._NormBase)]
    live = [value for each in norms for value in each.buffers(recurse=False)]
    before = [value.clone() for value in live]
    yield
    for value, kept in zip(live, before, strict=True):
        value.copy_(kept)


def _features(learner: LearnsFromFeatures, batch: Batch) -> Pair:
    return learner.features(batch)


def _pulled(pull: Pair, own: Sequence[Tensor], learner: LearnsFromFeatures, batch: Batch) -> Tensor:
    """A scalar whose gradient is that of the loss, and 0 at what has it already."""
    image_BD, text_BD = learner.features(batch)
    total = (image_BD * pull[0]).sum() + (text_BD * pull[1]).sum()
    return sum((0.0 * value.sum() for value in own), start=total)


def _rows(grad: Tensor | None, parts: Sequence[Batch]) -> tuple[Tensor, ...]:
    assert grad is not None, "the loss is made of both features"
    rows: tuple[Tensor, ...] = grad.split(len(parts[0].tokens_BT))
    return rows
