"""Checkpoints: weights on disk that alone rebuild their model, whole or not there at all.

A checkpoint is a folder `step-00000400/` with

    weights.safetensors   every parameter and buffer, frozen towers included
    config.json           family and its config
    tokenizer.json        the tokenizer it was trained with
    state.safetensors     the optimiser's moments, by parameter name
    state.json            finished steps
    MANIFEST.json         the marker, written last: size and sha256 of each file, and of itself

It is written under a temporary name beside its place and renamed when all of it is on disk. There is no pickle in it
and no clock: equal trainings make equal bytes, so the marker's sha256 names the checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from components.catalog import FAMILIES
from components.data import atomic
from components.data.text import Tokenizer, TokenizerError
from components.failpoint import failpoint
from components.records import Checkpoint
from components.table import UnknownName
from components.training import marker, tensors
from components.training.marker import CheckpointDamaged, CheckpointMissing

__all__ = ["CheckpointDamaged", "CheckpointMissing", "Origin", "latest", "load_model"]
__all__ += ["load_tokenizer", "place", "restore", "save", "sweep", "verify"]

WEIGHTS, CONFIG, TOKENIZER = "weights.safetensors", "config.json", "tokenizer.json"
STATE, STEP = "state.safetensors", "state.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER, STATE, STEP)

_UNFINISHED, _RETIRED = ".saving-", ".retired-"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a checkpoint says of the run that made it."""

    family: str
    config: Mapping[str, Any]
    seed: int
    shards_digest: str


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in its run's folder."""
    return folder / f"step-{step:08d}"


def save(
    folder: Path,
    model: nn.Module,
    optimiser: AdamW,
    *,
    tokenizer: Tokenizer,
    origin: Origin,
    step: int,
) -> Checkpoint:
    """Write the checkpoint of `step` into `folder`; a reader sees all of it or none.

    A checkpoint of the same step is replaced. Raises `OSError` if the disk refuses, with nothing left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder, prefix=_UNFINISHED))
    try:
        _write(building, model, optimiser, tokenizer, origin, step)
        _put(building, place(folder, step))
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return _describe(place(folder, step))


def verify(path: Path) -> Checkpoint:
    """Check the marker, and every file against it.

    Raises `CheckpointMissing` if there is no such folder, and `CheckpointDamaged` naming the file that is not what was
    saved.
    """
    content, _ = marker.read(path)
    marker.check_files(path, content)
    return _describe(path)


def load_model(path: Path) -> tuple[nn.Module, Tokenizer, Checkpoint]:
    """Rebuild a model from its checkpoint alone, on the CPU and in eval mode.

    Nothing is loaded before every file was checked. Raises as `verify`, and `CheckpointDamaged` where family, config,
    tokenizer or a tensor's name or shape is not what this code builds.
    """
    checkpoint = verify(path)
    with torch.random.fork_rng(
        devices=[]
    ):  # the random weights that are overwritten cost the caller no draw
        model = _build(path, checkpoint.family)
    tensors.read_weights(path / WEIGHTS, model)
    return model.eval(), load_tokenizer(path), checkpoint


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer a verified checkpoint was trained with; `CheckpointDamaged` if it is another."""
    try:
        tokenizer = Tokenizer.load(path / TOKENIZER)
    except TokenizerError as error:
        raise CheckpointDamaged(path / TOKENIZER, str(error)) from error
    trained_with = marker.read(path)[0]["tokenizer_digest"]
    if tokenizer.digest != trained_with:
        problem = f"its digest is {tokenizer.digest}, the weights were trained with {trained_with}"
        raise CheckpointDamaged(path / TOKENIZER, problem)
    return tokenizer


def restore(path: Path, model: nn.Module, optimiser: AdamW) -> int:
    """Put a verified checkpoint's weights and optimiser state into a model in training; its finished steps."""
    tensors.read_weights(path / WEIGHTS, model)
    tensors.read_state(path / STATE, model, optimiser)
    step: int = _read_json(path / STEP)["step"]
    return step


def latest(
    folder: Path, on_damaged: Callable[[CheckpointDamaged], None] | None = None
) -> Checkpoint | None:
    """The newest good checkpoint of a run, or None.

    Each damaged one that is passed over is told to `on_damaged`, or logged as a warning.
    """
    tell = on_damaged or _warn
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return verify(path)
        except CheckpointDamaged as error:
            tell(error)
    return None


def sweep(folder: Path, keep: int = 2) -> None:
    """Remove all but the last `keep` checkpoints, and what a killed training left half-written.

    Only the one process that writes this folder may call it.
    """
    for path in sorted(folder.glob("step-*"))[:-keep]:
        _retire(path)
    for prefix in (_UNFINISHED, _RETIRED):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def _write(
    building: Path,
    model: nn.Module,
    optimiser: AdamW,
    tokenizer: Tokenizer,
    origin: Origin,
    step: int,
) -> None:
    tensors.write_weights(building / WEIGHTS, model)
    tensors.write_state(building / STATE, model, optimiser)
    tokenizer.save(building / TOKENIZER)
    config = {"family": origin.family, "config": dict(origin.config)}
    atomic.write_json(building / CONFIG, config)
    atomic.write_json(building / STEP, {"step": step})
    about = {
        "family": origin.family,
        "step": step,
        "seed": origin.seed,
        "shards_digest": origin.shards_digest,
        "tokenizer_digest": tokenizer.digest,
    }
    failpoint("checkpoint_unmarked")
    marker.write(building, about, FILES)
    failpoint("checkpoint_unplaced")


def _describe(path: Path) -> Checkpoint:
    content, digest = marker.read(path)
    return Checkpoint(
        path=path,
        digest=digest,
        family=content["family"],
        step=content["step"],
        seed=content["seed"],
        shards_digest=content["shards_digest"],
    )


def _put(building: Path, target: Path) -> None:
    building.chmod(_folder_mode())
    if target.exists():
        _retire(target)
    building.replace(target)
    atomic.sync_folder(target.parent)


def _retire(path: Path) -> None:
    # Renamed first, so that no reader finds a checkpoint with half of its files gone.
    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=_RETIRED))
    path.replace(retired / path.name)
    shutil.rmtree(retired, ignore_errors=True)


def _build(path: Path, family: str) -> nn.Module:
    about = _read_json(path / CONFIG)
    if about["family"] != family:
        problem = f'its family is "{about["family"]}", the marker says "{family}"'
        raise CheckpointDamaged(path / CONFIG, problem)
    try:
        made = FAMILIES[family]
        model: nn.Module = made(made.Config(**about["config"]))
    except (UnknownName, TypeError, ValueError) as error:
        raise CheckpointDamaged(path / CONFIG, f"this code cannot build it: {error}") from error
    return model


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(file, f"it cannot be read ({error})") from error
    return found


def _warn(error: CheckpointDamaged) -> None:
    logging.getLogger(__name__).warning("passed over: %s", error)


def _folder_mode() -> int:
    # mkdtemp makes private folders; a checkpoint is as readable as the umask says.
    umask = os.umask(0)
    os.umask(umask)
    return 0o777 & ~umask
