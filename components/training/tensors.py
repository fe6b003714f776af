"""A model's weights and its optimiser's state <-> safetensors files, by name and without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from components.training.marker import CheckpointDamaged

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write_weights(file: Path, model: nn.Module) -> None:
    """Every parameter and buffer of its own; of tensors that are one (tied embeddings) the first name only.

    What belongs to a part it was handed is not its own: `checkpoint.py` keeps parts apart.
    """
    _write(file, _named(model))


def read_weights(file: Path, model: nn.Module) -> None:
    """Copy a file's tensors into a model.

    Raises `CheckpointDamaged`, the model untouched, unless names, shapes and types are exactly the model's.
    """
    saved, wanted = _read(file), _named(model)
    if saved.keys() != wanted.keys():
        missing, unexpected = (
            sorted(wanted.keys() - saved.keys()),
            sorted(saved.keys() - wanted.keys()),
        )
        raise CheckpointDamaged(
            file, f"tensors missing: {missing or 'none'}, unexpected: {unexpected or 'none'}"
        )
    for name, value in wanted.items():
        _check_like(file, name, saved[name], value)
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(saved[name])


def write_state(file: Path, model: nn.Module, optimiser: AdamW | None) -> None:
    """AdamW's moments and step counts, as `<parameter>/<moment>`; a parameter without gradient has none.

    A model that is built instead of trained has no optimiser, and its file is empty.
    """
    state = {
        f"{name}/{moment}": optimiser.state[value][moment]
        for name, value in (_optimised(model, optimiser).items() if optimiser else ())
        for moment in _MOMENTS
        if optimiser and value in optimiser.state
    }
    _write(file, state)


def read_state(file: Path, model: nn.Module, optimiser: AdamW) -> None:
    """Give an optimiser the state that `write_state` kept.

    Raises `CheckpointDamaged` if a tensor belongs to no parameter, or has another shape than its parameter.
    """
    saved, parameters = _read(file), _optimised(model, optimiser)
    foreign = {name.rpartition("/")[0] for name in saved} - parameters.keys()
    if foreign:
        raise CheckpointDamaged(file, f"state of unknown parameters {sorted(foreign)}")
    for name, value in parameters.items():
        found = {moment: saved.get(f"{name}/{moment}") for moment in _MOMENTS}
        moments = {moment: tensor for moment, tensor in found.items() if tensor is not None}
        if moments:
            _check_moments(file, name, moments, value)
            # `step` lives beside the parameter too: that is where the fused kernel looks for it.
            optimiser.state[value] = {key: kept.to(value.device) for key, kept in moments.items()}


def _named(model: nn.Module) -> dict[str, Tensor]:
    parts = getattr(model, "handed_parts", {}).values()
    foreign = {
        id(value) for part in parts for value in part.module.state_dict(keep_vars=True).values()
    }
    first: dict[int, str] = {}
    # keep_vars: the very parameters, so that tied ones are one object
    tensors = model.state_dict(keep_vars=True)
    return {
        name: value
        for name, value in tensors.items()
        if first.setdefault(id(value), name) == name and id(value) not in foreign
    }


def _optimised(model: nn.Module, optimiser: AdamW) -> dict[str, nn.Parameter]:
    names = {value: name for name, value in model.named_parameters()}
    return {names[value]: value for group in optimiser.param_groups for value in group["params"]}


def _check_like(file: Path, name: str, found: Tensor, wanted: Tensor) -> None:
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise CheckpointDamaged(
            file,
            f"{name} is {tuple(found.shape)} {found.dtype}, "
            f"the model's is {tuple(wanted.shape)} {wanted.dtype}",
        )


def _check_moments(
    file: Path, name: str, moments: Mapping[str, Tensor], parameter: nn.Parameter
) -> None:
    if moments.keys() != set(_MOMENTS):
        raise CheckpointDamaged(file, f"of {name} only {', '.join(sorted(moments))} is there")
    for moment in ("exp_avg", "exp_avg_sq"):
        _check_like(file, f"{name}/{moment}", moments[moment], parameter)


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(whole, file)
    except SafetensorError as error:  # a full disk, most often
        needed = sum(value.nbytes for value in whole.values())
        raise OSError(f"{file} cannot be written ({error}); it needs {needed} bytes.") from error
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(file, f"it cannot be read ({error})") from error
