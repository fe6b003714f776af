"""All that changes while a model learns, beside the model itself: what a checkpoint holds so that training goes on exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from components.training import tensors
from components.training.ema import Ema
from components.training.lookahead import Lookahead
from components.training.marker import CheckpointDamaged
from components.training.optimiser import MOMENTS, optimiser_for, remembered
from components.training.parallel import like
from components.training.plan import TrainingPlan

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
        own = tensors.named(self.model)
        return {**own, **self.ema.values} if self.ema else own

    def kept(self) -> dict[str, Tensor]:
        """Everything else that training goes on from."""
        moments = {
            f"{name}/{moment}": tensor
            for name, value in self._parameters().items()
            for moment, tensor in remembered(self.optimiser, value).items()
        }
        return {**moments, **self._fixed(), **self._scale()}

    def read(self, weights: Path, state: Path) -> None:
        """Take over what a checkpoint holds.

        Raises `CheckpointDamaged` for a tensor that is missing, that nothing here has, or of another shape.
        """
        saved, fixed = tensors.read(state), self._fixed()
        tensors.fill(weights, tensors.read(weights), self.weights())
        moments = {name: value for name, value in saved.items() if name not in fixed}
        tensors.fill(state, {name: saved[name] for name in saved.keys() - moments.keys()}, fixed)
        self._read_scale(moments)
        self._read_moments(state, moments)

    def _parameters(self) -> dict[str, nn.Parameter]:
        own = {value: name for name, value in self.model.named_parameters()}
        others = {value: LEARNER + name for name, value in self.learner.named_parameters()}
        names = {**others, **own}
        return {names[value]: value for value in self.moved()}

    def _fixed(self) -> dict[str, Tensor]:
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
            f"{name}/{SLOW}": slow[value] for name, value in self._parameters().items() if slow
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

    def _read_scale(self, saved: dict[str, Tensor]) -> None:
        scale, tracker = (saved.pop(SCALER + name, None) for name in ("scale", "growth_tracker"))
        # A run that goes on in fp16 from another precision starts with the scaler's own scale.
        if self.scaler.is_enabled() and scale is not None and tracker is not None:
            kept = {
                **self.scaler.state_dict(),
                "scale": float(scale),
                "_growth_tracker": int(tracker),
            }
            self.scaler.load_state_dict(kept)

    def _read_moments(self, file: Path, saved: Mapping[str, Tensor]) -> None:
        parameters, names = self._parameters(), MOMENTS[type(self.optimiser)]
        owners = {name.rpartition("/")[0] for name in saved}
        if foreign := owners - parameters.keys():
            raise CheckpointDamaged(file, f"state of unknown parameters {sorted(foreign)}")
        for name in sorted(owners):
            value = parameters[name]
            there = {key.rpartition("/")[2] for key in saved if key.rpartition("/")[0] == name}
            if there != set(names):
                raise CheckpointDamaged(file, f"of {name} only {', '.join(sorted(there))} is there")
            for moment in names:
                if moment != "step":
                    tensors.check_like(file, f"{name}/{moment}", saved[f"{name}/{moment}"], value)
            # `step` lives beside the parameter too: that is where the fused kernel looks for it.
            self.optimiser.state[value] = {
                moment: like(saved[f"{name}/{moment}"], value) for moment in names
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
