"""Named tensors <-> safetensors files, without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.training.checkpoints.marker import CheckpointDamaged
from components.training.steps.names import named
from components.training.steps.parallel import like


def read_weights(file: Path, model: nn.Module) -> None:
    """Copy a file's tensors into a model.

    Raises `CheckpointDamaged`, the model untouched, unless names, shapes and types are exactly the model's.
    """
    fill(file, read(file), named(model))


def fill(file: Path, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Copy tensors that were read from `file` into those of equal name.

    Raises `CheckpointDamaged`, nothing copied, unless names, shapes and types are the same.
    """
    if saved.keys() != wanted.keys():
        missing, unexpected = (
            sorted(wanted.keys() - saved.keys()),
            sorted(saved.keys() - wanted.keys()),
        )
        raise CheckpointDamaged(
            file, f"tensors missing: {missing or 'none'}, unexpected: {unexpected or 'none'}"
        )
    for name, value in wanted.items():
        check_like(file, name, saved[name], value)
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(like(saved[name], value))


def check_like(file: Path, name: str, found: Tensor, wanted: Tensor) -> None:
    """Raise `CheckpointDamaged` for a tensor of another shape or type."""
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise CheckpointDamaged(
            file,
            f"{name} is {tuple(found.shape)} {found.dtype}, "
            f"the model's is {tuple(wanted.shape)} {wanted.dtype}",
        )


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name and wait until they are on disk. Raises `OSError` if it refuses."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(whole, file)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises `CheckpointDamaged` if it cannot be read."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(file, f"it cannot be read ({error})") from error
