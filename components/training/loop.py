"""The training loop. It knows `loss(batch)` and nothing else: no family, no files, no Ray, no MLflow.

What a step does is a pure function of the weights, the optimiser's state and the step's number: batches and dropout
are seeded by (seed, step, rank). So an interrupted training that goes on equals one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.records import Batch, Loss
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf, gradients
from components.training.steps.optimiser import set_lr
from components.training.steps.parallel import whole
from components.training.steps.state import State
from components.training.usage.throughput import Meter

OnStep = Callable[[int, Mapping[str, float]], None]
OnCheckpoint = Callable[[int], None]
Stop = Callable[[int], bool]


class LossNotFinite(ArithmeticError):
    """The loss of a step, or its gradient, became NaN or infinite, or the validation loss after it; no checkpoint holds that step."""

    def __init__(self, step: int, parts: Mapping[str, float]) -> None:
        super().__init__(step, parts)
        self.step = step
        self.parts = dict(parts)

    def __str__(self) -> str:
        parts = ", ".join(f"{name}={value:g}" for name, value in self.parts.items())
        return (
            f"Step {self.step} is not finite: {parts}. The last checkpoint is untouched; "
            "a lower lr, a longer warmup_steps or precision fp32 in the training plan is what helps."
        )


class Interrupted(RuntimeError):
    """Training was asked to stop and did, after a whole step whose checkpoint is made; calling again goes on."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"Training was stopped after step {self.step}; the same command goes on from there."


class Batches(Protocol):
    """Where batches come from."""

    def batch(self, step: int) -> Batch:
        """The batch of a step (from 0), a pure function of its number."""


def fit(
    state: State,
    batches: Batches,
    plan: TrainingPlan,
    *,
    loss: Callable[..., Any] | None = None,
    start_step: int = 0,
    rank: int = 0,
    device: torch.device | str = "cpu",
    on_step: OnStep = lambda step, values: None,
    on_checkpoint: OnCheckpoint = lambda step: None,
    stop: Stop = lambda step: False,
) -> None:
    """Train `state` in place from `start_step` finished steps to `plan.steps`.

    loss: what to call for the loss; `LossOf(state.learner)` unless it is wrapped for several workers.
    on_step: called with the number of finished steps and their last values, every `report_every` steps and at the
        end: `loss`, `loss/<part>`, `lr`, `grad_norm` (before clipping; of no skipped step), and what `Meter.read` gives.
    on_checkpoint: called with the number of finished steps, after `on_step`, so that no checkpoint is ahead of the
        progress that was reported.
    stop: asked once after each step but the last, with the number of finished steps; all workers must answer alike.

    Raises `LossNotFinite` before a bad gradient reaches a weight, and `Interrupted` where `stop` says so, after a report
    and a checkpoint of that step.
    """
    loss = loss or LossOf(state.learner)
    state.learner.train()
    meter = Meter(plan, torch.device(device))
    for step in range(start_step, plan.steps):
        batch = batches.batch(step)
        with meter.counting():
            found = _gradients(loss, batch.to(device), state, plan, step, rank)
        values = _move(state, found, plan, step)
        done = step + 1
        meter.count(batch, skipped="skipped" in values)
        last = done == plan.steps
        stopped = not last and stop(done)
        saves = plan.saves_at(done) or stopped
        # A checkpoint that is measured says so in the line of its step.
        if done % plan.report_every == 0 or last or stopped or (saves and plan.val_batches):
            on_step(done, {**_floats(values), **meter.read()})
        if saves:
            on_checkpoint(done)
        if stopped:
            raise Interrupted(done)


def step_seed(seed: int, step: int, rank: int, part: int = 0) -> int:
    """The seed of one step's dropout on one worker in one micro-batch, in [0, 2**63); neighbours share nothing."""
    name = f"{seed}/{step}/{rank}/{part}" if part else f"{seed}/{step}/{rank}"
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _gradients(
    loss: Callable[..., Any], batch: Batch, state: State, plan: TrainingPlan, step: int, rank: int
) -> Loss:
    def seeded(part: int) -> None:
        torch.manual_seed(step_seed(plan.seed, step, rank, part))

    state.optimiser.zero_grad(set_to_none=True)
    return gradients(loss, batch, state, plan, seeded)


def _move(state: State, found: Loss, plan: TrainingPlan, step: int) -> dict[str, Tensor | float]:
    """The optimiser's step, and all that follows it; what is told of it."""
    state.scaler.unscale_(state.optimiser)
    norm = whole(nn.utils.clip_grad_norm_(state.moved(), plan.clip_norm or math.inf))
    values: dict[str, Tensor | float] = {"loss": found.total}
    values |= {f"loss/{name}": part for name, part in found.parts.items()}
    lr = set_lr(state.optimiser, step, plan)
    # The one place where a step waits for the device. Looked at after backward: there gradients are averaged over the
    # workers, so all of them stop, or skip, at the same step.
    if not torch.isfinite(found.total + norm):
        if not _too_large(state, found):
            raise LossNotFinite(step, _floats({**values, "grad_norm": norm}))
        state.scaler.update()
        return {**values, "lr": lr, "skipped": 1.0}
    state.optimiser.step()
    state.scaler.update()
    if state.lookahead:
        state.lookahead.update(step + 1)
    state.learner.after_step()  # type: ignore[operator]
    if state.ema:
        state.ema.update(step + 1)
    return {**values, "lr": lr, "grad_norm": norm}


def _too_large(state: State, found: Loss) -> bool:
    """Whether fp16's scale is to blame, and can be halved, for gradients that are not finite."""
    return bool(torch.isfinite(found.total)) and state.scaler.get_scale() > 1


def _floats(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """All values as numbers, fetched from the device at once."""
    there = {name: each for name, each in values.items() if isinstance(each, Tensor)}
    fetched = torch.stack([each.double() for each in there.values()]).tolist()
    numbers = {name: each for name, each in values.items() if not isinstance(each, Tensor)}
    return {**dict(zip(there, fetched, strict=True)), **numbers}
