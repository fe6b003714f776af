"""The training loop. It knows `loss(batch)` and nothing else: no family, no files, no Ray, no MLflow.

What a step does is a pure function of the weights, the optimiser's state and the step's number: batches and dropout
are seeded by (seed, step, rank). So an interrupted training that goes on equals one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.records import Batch, Loss
from components.training.optimiser import set_lr
from components.training.plan import TrainingPlan
from components.training.state import State

OnStep = Callable[[int, Mapping[str, float]], None]
OnCheckpoint = Callable[[int], None]
Stop = Callable[[int], bool]


class LossNotFinite(ArithmeticError):
    """The loss or its gradient became NaN or infinite; no weight was changed by that step."""

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


class LossOf(nn.Module):
    """A model seen as a module whose forward is its loss, which is what DDP can wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Loss:
        """`model.loss(batch)`."""
        made: Loss = self.model.loss(batch)  # type: ignore[operator]
        return made


def fit(
    state: State,
    batches: Batches,
    plan: TrainingPlan,
    *,
    loss: Callable[[Batch], Loss] | None = None,
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
        end: `loss`, `loss/<part>`, `lr`, `grad_norm` (before clipping), `samples_per_s`, `cpu_s` (this process's, since the
        last report), `memory_mb` (peak).
    on_checkpoint: called with the number of finished steps, after `on_step`, so that no checkpoint is ahead of the
        progress that was reported.
    stop: asked once after each step but the last, with the number of finished steps; all workers must answer alike.

    Raises `LossNotFinite` before a bad gradient reaches a weight, and `Interrupted` where `stop` says so, after a report
    and a checkpoint of that step.
    """
    loss = loss or LossOf(state.learner)
    state.learner.train()
    meter = _Meter(plan.batch_size)
    for step in range(start_step, plan.steps):
        torch.manual_seed(step_seed(plan.seed, step, rank))
        values = _learn(loss, batches.batch(step).to(device), state.optimiser, plan, step)
        state.learner.after_step()  # type: ignore[operator]
        done = step + 1
        meter.count()
        last = done == plan.steps
        stopped = not last and stop(done)
        if done % plan.report_every == 0 or last or stopped:
            on_step(done, {**_floats(values), **meter.read()})
        if done % plan.checkpoint_every == 0 or last or stopped:
            on_checkpoint(done)
        if stopped:
            raise Interrupted(done)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one step's dropout on one worker, in [0, 2**63); neighbours share nothing."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _learn(
    loss: Callable[[Batch], Loss], batch: Batch, optimiser: Optimizer, plan: TrainingPlan, step: int
) -> dict[str, Tensor | float]:
    device = batch.tokens_BT.device.type
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=plan.precision == "bf16"):
        found = loss(batch)
    found.total.backward()  # type: ignore[no-untyped-call]
    norm = _clip(optimiser, plan.clip_norm)
    values: dict[str, Tensor | float] = {"loss": found.total.detach()}
    values |= {f"loss/{name}": part.detach() for name, part in found.parts.items()}
    # Looked at after backward: there gradients are averaged over the workers, so all of them stop at the same step.
    if not torch.isfinite(found.total.detach() + norm):
        raise LossNotFinite(step, _floats({**values, "grad_norm": norm}))
    lr = set_lr(optimiser, step, plan)
    optimiser.step()
    return {**values, "lr": lr, "grad_norm": norm}


def _clip(optimiser: Optimizer, limit: float) -> Tensor:
    """Scale all gradients down to a global norm of `limit` (0: leave them); the norm before that."""
    parameters = [value for group in optimiser.param_groups for value in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, limit or math.inf)


def _floats(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


class _Meter:
    """Speed and CPU time since the last reading, and the process's peak memory."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps = 0
        self._since_s, self._cpu_since_s = time.monotonic(), time.process_time()

    def count(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        now_s, cpu_now_s = time.monotonic(), time.process_time()
        rate = self._steps * self._batch_size / max(now_s - self._since_s, 1e-9)
        spent_s = cpu_now_s - self._cpu_since_s
        self._steps, self._since_s, self._cpu_since_s = 0, now_s, cpu_now_s
        return {"samples_per_s": rate, "cpu_s": spent_s, "memory_mb": _peak_memory_mb()}


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
