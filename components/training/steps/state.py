"""All that changes while a model learns, beside the model itself: what a checkpoint holds so that training goes on exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from components.training.plan import TrainingPlan
from components.training.steps.ema import Ema
from components.training.steps.lookahead import Lookahead
from components.training.steps.names import named
from components.training.steps.optimiser import optimiser_for, remembered

LEARNER, RAW, SCALER, SLOW = "learner/", "raw/", "scaler/", "slow"


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """A training in memory.

    As tensors by name: `<parameter>/<moment>` of the optimiser and `<parameter>/slow` of Lookahead; `raw/<name>`, the
    model's own weights where their average stands in its file; `learner/<name>`, what the learner has beside the model;
    `scaler/…`, fp16's. A parameter that is the learner's alone is called `learner/<name>` before its moments too.
    """

    learner: nn.Module
    """What learns: the model, or what holds it (a student beside its teacher)."""
    model: nn.Module
    """What a checkpoint keeps."""
    optimiser: Optimizer
    scaler: GradScaler
    """Does nothing but in fp16."""
    lookahead: Lookahead | None = None
    ema: Ema | None = None

    def moved(self) -> list[nn.Parameter]:
        """The parameters that the optimiser moves."""
        return [value for group in self.optimiser.param_groups for value in group["params"]]

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds as the model's weights: their moving average, where there is one."""
        own = named(self.model)
        return {**own, **self.ema.values} if self.ema else own

    def kept(self) -> dict[str, Tensor]:
        """Everything else that training goes on from."""
        moments = {
            f"{name}/{moment}": tensor
            for name, value in self.parameters().items()
            for moment, tensor in remembered(self.optimiser, value).items()
        }
        return {**moments, **self.fixed(), **self._scale()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimiser moves, by the name its moments are kept under."""
        own = {value: name for name, value in self.model.named_parameters()}
        others = {value: LEARNER + name for name, value in self.learner.named_parameters()}
        names = {**others, **own}
        return {names[value]: value for value in self.moved()}

    def fixed(self) -> dict[str, Tensor]:
        """What has its place from the first step on, and only changes in it."""
        own = {id(value) for value in self.model.state_dict(keep_vars=True).values()}
        beside = {
            LEARNER + name: value
            for name, value in self.learner.state_dict(keep_vars=True).items()
            if id(value) not in own
        }
        raw = {RAW + name: value for name, value in self.ema.live.items()} if self.ema else {}
        slow = self.lookahead.slow if self.lookahead else {}
        slow_named = {
            f"{name}/{SLOW}": slow[value] for name, value in self.parameters().items() if slow
        }
        return {**beside, **raw, **slow_named}

    def _scale(self) -> dict[str, Tensor]:
        if not self.scaler.is_enabled():
            return {}
        kept = self.scaler.state_dict()
        return {
            SCALER + "scale": torch.tensor(kept["scale"], dtype=torch.float64),
            SCALER + "growth_tracker": torch.tensor(kept["_growth_tracker"]),
        }


def begin(learner: nn.Module, plan: TrainingPlan, model: nn.Module | None = None) -> State:
    """The state of a training before its first step.

    model: what checkpoints keep, where it is not the learner itself. Raises `ParameterGroupsWrong`.
    """
    kept = learner if model is None else model
    optimiser = optimiser_for(learner, plan)
    moved = [value for group in optimiser.param_groups for value in group["params"]]
    device = moved[0].device.type if moved else "cpu"
    return State(
        learner=learner,
        model=kept,
        optimiser=optimiser,
        scaler=GradScaler(device, enabled=plan.precision == "fp16"),
        lookahead=Lookahead(moved, plan.lookahead) if plan.lookahead else None,
        ema=Ema(kept, plan.ema) if plan.ema else None,
    )
