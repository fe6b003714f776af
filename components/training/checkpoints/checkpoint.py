"""Checkpoints: weights on disk that alone rebuild their model, whole or not there at all.

A checkpoint is a folder `step-00000400/` with

    weights.safetensors   every parameter and buffer of its own, frozen towers included
    config.json           family, its config, and where the parts in its slots came from
    tokenizer.json        the tokenizer it was trained with
    parts/<slot>/         a part that was a stage: its own weights, config, tokenizer and parts
    state.safetensors     what training goes on from beside the weights, by name (`state.py`)
    state.json            finished steps; 0 for a model that is built and not trained
    MANIFEST.json         the marker, written last: size and sha256 of each file, and of itself

It is written under a temporary name beside its place and renamed when all of it is on disk. There is no pickle in it
and no clock: equal trainings make equal bytes, so the marker's sha256 names the checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components import atomic
from components.catalog import MODELS
from components.data.text import Tokenizer, TokenizerError
from components.models.parts import Origin as PartOrigin
from components.models.parts import Part
from components.records import Checkpoint
from components.table import UnknownName
from components.training.building import build, find_part, slots
from components.training.checkpoints import marker, restoring, snapshot, tensors
from components.training.checkpoints.marker import CheckpointDamaged, CheckpointMissing
from components.training.checkpoints.snapshot import (
    CONFIG,
    KEPT_INSIDE,
    PARTS,
    STATE,
    STEP,
    TOKENIZER,
    WEIGHTS,
    Origin,
    Snapshot,
)
from components.training.steps.state import State

__all__ = ["CheckpointDamaged", "CheckpointMissing", "Origin", "latest", "load_model"]
__all__ += [
    "discard",
    "discard_beyond",
    "load_part",
    "load_tokenizer",
    "pinned",
    "place",
    "put",
    "receive",
]
__all__ += ["restore", "save", "step_of", "sweep", "verify"]

_STEP = "step-"
_UNFINISHED, _RETIRED = ".saving-", ".retired-"


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in its run's folder."""
    return folder / f"{_STEP}{step:08d}"


def step_of(path: Path) -> int:
    """The reverse of `place`."""
    return int(path.name.removeprefix(_STEP))


def save(
    folder: Path,
    model: nn.Module,
    state: Mapping[str, Tensor] | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    tokenizer: Tokenizer,
    origin: Origin,
    step: int,
) -> Checkpoint:
    """Write the checkpoint of `step` into `folder` at once; the rest as `snapshot.take` and `put` have it."""
    taken = snapshot.take(
        model, tokenizer=tokenizer, origin=origin, step=step, state=state, weights=weights
    )
    return put(folder, taken)


def put(folder: Path, taken: Snapshot) -> Checkpoint:
    """Write a snapshot into `folder`; a reader sees all of it or none.

    A checkpoint of the same step is replaced. Raises `OSError` with the bytes needed if the disk refuses, with nothing
    left behind.
    """
    return _build(folder, taken.step, lambda building: snapshot.write(building, taken))


def receive(folder: Path, step: int, fill: Callable[[Path], None]) -> Checkpoint:
    """Let `fill` copy a checkpoint's files from elsewhere, check them, and only then let them be seen in `folder`.

    Raises as `fill` and `verify` do, with nothing left behind.
    """

    def fill_and_check(building: Path) -> None:
        fill(building)
        if (found := verify(building).step) != step:
            raise CheckpointDamaged(building / marker.MARKER, f"it is of step {found}, not {step}")

    return _build(folder, step, fill_and_check)


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
    if (found := _read_json(path / CONFIG)["family"]) != checkpoint.family:
        problem = f'its family is "{found}", the marker says "{checkpoint.family}"'
        raise CheckpointDamaged(path / CONFIG, problem)
    # the random weights that are overwritten cost the caller no draw
    with torch.random.fork_rng(devices=[]):
        model = _read_model(path)
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


def load_part(path: Path, origin: PartOrigin) -> Part:
    """A stage's checkpoint as a part of another model, its state of training left out.

    Raises as `load_model`, and `CheckpointDamaged` for a checkpoint that is not the one the origin names.
    """
    model, tokenizer, checkpoint = load_model(path)
    if checkpoint.digest != origin.digest:
        problem = f"it is {checkpoint.digest[:12]}, asked for is {origin.digest[:12]}"
        raise CheckpointDamaged(path / marker.MARKER, problem)
    return Part(module=model.requires_grad_(False), tokenizer=tokenizer, origin=origin)


def pinned(path: Path) -> dict[str, str]:
    """The digest of each part a verified checkpoint was made with, by slot."""
    about = _read_json(path / CONFIG)
    return {slot: part["digest"] for slot, part in about.get("parts", {}).items()}


def restore(path: Path, state: State) -> int:
    """Put what a verified checkpoint holds into a training; its finished steps."""
    restoring.restore(state, path / WEIGHTS, path / STATE)
    step: int = _read_json(path / STEP)["step"]
    return step


def latest(
    folder: Path, on_damaged: Callable[[CheckpointDamaged], None] | None = None
) -> Checkpoint | None:
    """The newest good checkpoint of a run, or None.

    Each damaged one that is passed over is told to `on_damaged`, or logged as a warning.
    """
    tell = on_damaged or _warn
    for path in sorted(folder.glob(f"{_STEP}*"), reverse=True):
        try:
            return verify(path)
        except (CheckpointDamaged, FileNotFoundError) as error:
            if not os.path.lexists(path):  # swept away meanwhile: there are newer ones
                return latest(folder, on_damaged)
            if not isinstance(error, CheckpointDamaged):
                raise
            tell(error)
    return None


def sweep(folder: Path, keep: int = 2, spare: Collection[int] = ()) -> None:
    """Remove all but the last `keep` checkpoints and those of the steps in `spare`, and what a kill left half-written.

    Only the one process that writes this folder may call it, and nothing may be written into it meanwhile.
    """
    for path in sorted(folder.glob(f"{_STEP}*"))[:-keep]:
        if step_of(path) not in spare:
            _retire(path)
    for prefix in (_UNFINISHED, _RETIRED):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def discard_beyond(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`, which training goes on from: damaged ones, that must not count as the newest."""
    for path in folder.glob(f"{_STEP}*"):
        if step_of(path) > step:
            _retire(path)


def discard(path: Path) -> None:
    """Remove one checkpoint; no reader finds half of it."""
    _retire(path)


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


def _build(folder: Path, step: int, fill: Callable[[Path], None]) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f"{_UNFINISHED}{secrets.token_hex(4)}"
    building.mkdir()
    try:
        fill(building)
        _place(building, place(folder, step))
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return _describe(place(folder, step))


def _place(building: Path, target: Path) -> None:
    if target.exists():
        _retire(target)
    building.replace(target)
    atomic.sync_folder(target.parent)


def _retire(path: Path) -> None:
    # Renamed first, so that no reader finds a checkpoint with half of its files gone.
    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=_RETIRED))
    path.replace(retired / path.name)
    shutil.rmtree(retired, ignore_errors=True)


def _read_model(path: Path) -> nn.Module:
    about = _read_json(path / CONFIG)
    try:
        family = MODELS[about["family"]]
        config = family.Config(**about["config"])
        origins = {slot: PartOrigin(**saved) for slot, saved in about.get("parts", {}).items()}
        if unknown := sorted(origins.keys() - slots(family).keys()):
            raise ValueError(f"{about['family']} has no slot {', '.join(unknown)}")
    except (UnknownName, KeyError, TypeError, ValueError) as error:
        raise _unbuildable(path, error) from error
    # A part that is gone from this machine is no damage of the checkpoint, and says itself what brings it back.
    parts = {slot: _read_part(path, slot, origin) for slot, origin in origins.items()}
    try:
        model = build(about["family"], config, parts)
    except (TypeError, ValueError) as error:
        raise _unbuildable(path, error) from error
    tensors.read_weights(path / WEIGHTS, model)
    return model


def _unbuildable(path: Path, error: Exception) -> CheckpointDamaged:
    return CheckpointDamaged(path / CONFIG, f"this code cannot build it: {error}")


def _read_part(path: Path, slot: str, origin: PartOrigin) -> Part:
    if origin.kind not in KEPT_INSIDE:
        return find_part(slot, origin, fetch=False)
    inside = path / PARTS / slot
    tokenizer = Tokenizer.load(inside / TOKENIZER) if (inside / TOKENIZER).exists() else None
    return Part(module=_read_model(inside), tokenizer=tokenizer, origin=origin)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(file, f"it cannot be read ({error})") from error
    return found


def _warn(error: CheckpointDamaged) -> None:
    logging.getLogger(__name__).warning("passed over: %s", error)
