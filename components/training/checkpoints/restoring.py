"""A checkpoint's tensors taken over by a training that goes on: weights, moments of the optimiser, averages, scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from components.training.checkpoints import tensors
from components.training.checkpoints.marker import CheckpointDamaged
from components.training.steps.optimiser import MOMENTS
from components.training.steps.parallel import like
from components.training.steps.state import SCALER, State


def restore(state: State, weights: Path, kept: Path) -> None:
    """Take over what a checkpoint holds: its model's `weights`, and all else that was `kept` beside them.

    Raises `CheckpointDamaged` for a tensor that is missing, that nothing here has, or of another shape.
    """
    saved, fixed = tensors.read(kept), state.fixed()
    tensors.fill(weights, tensors.read(weights), state.weights())
    moments = {name: value for name, value in saved.items() if name not in fixed}
    tensors.fill(kept, {name: saved[name] for name in saved.keys() - moments.keys()}, fixed)
    _restore_scale(state, moments)
    _restore_moments(state, kept, moments)


def _restore_scale(state: State, saved: dict[str, Tensor]) -> None:
    scale, tracker = (saved.pop(SCALER + name, None) for name in ("scale", "growth_tracker"))
    # A run that goes on in fp16 from another precision starts with the scaler's own scale.
    if state.scaler.is_enabled() and scale is not None and tracker is not None:
        kept = {
            **state.scaler.state_dict(),
            "scale": float(scale),
            "_growth_tracker": int(tracker),
        }
        state.scaler.load_state_dict(kept)


def _restore_moments(state: State, file: Path, saved: Mapping[str, Tensor]) -> None:
    parameters, names = state.parameters(), MOMENTS[type(state.optimiser)]
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
        state.optimiser.state[value] = {
            moment: like(saved[f"{name}/{moment}"], value) for moment in names
        }
