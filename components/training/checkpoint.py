"""Checkpoints: weights on disk that alone rebuild their model, whole or not there at all.

A checkpoint is a folder `step-00000400/` with

    weights.safetensors   every parameter and buffer of its own, frozen towers included
    config.json           family, its config, and where the parts in its slots came from
    tokenizer.json        the tokenizer it was trained with
    parts/<slot>/         a part that was a stage: its own weights, config, tokenizer and parts
    state.safetensors     the optimiser's moments, by parameter name
    state.json            finished steps; 0 for a model that is built and not trained
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from components import atomic
from components.catalog import MODELS
from components.data.text import Tokenizer, TokenizerError
from components.failpoint import failpoint
from components.models.parts import Origin as PartOrigin
from components.models.parts import Part
from components.records import Checkpoint
from components.table import UnknownName
from components.training import marker, tensors
from components.training.building import build, find_part, slots
from components.training.marker import CheckpointDamaged, CheckpointMissing

__all__ = ["CheckpointDamaged", "CheckpointMissing", "Origin", "latest", "load_model"]
__all__ += ["load_part", "load_tokenizer", "pinned", "place", "restore", "save", "sweep", "verify"]

WEIGHTS, CONFIG, TOKENIZER = "weights.safetensors", "config.json", "tokenizer.json"
STATE, STEP = "state.safetensors", "state.json"
PARTS = "parts"

_KEPT_INSIDE = ("stage", "random")
"""Parts that a checkpoint holds itself; the others are named with their digest and found again."""

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
    optimiser: AdamW | None,
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
    optimiser: AdamW | None,
    tokenizer: Tokenizer,
    origin: Origin,
    step: int,
) -> None:
    files = _write_model(building, model, origin.family, origin.config, tokenizer)
    tensors.write_state(building / STATE, model, optimiser)
    atomic.write_json(building / STEP, {"step": step})
    about = {
        "family": origin.family,
        "step": step,
        "seed": origin.seed,
        "shards_digest": origin.shards_digest,
        "tokenizer_digest": tokenizer.digest,
    }
    failpoint("checkpoint_unmarked")
    marker.write(building, about, [*files, STATE, STEP])
    failpoint("checkpoint_unplaced")


def _write_model(
    folder: Path,
    model: nn.Module,
    family: str,
    config: Mapping[str, Any],
    tokenizer: Tokenizer | None,
) -> list[str]:
    """What rebuilds a model, and the same of each part that is kept nowhere else; the files' names."""
    parts: Mapping[str, Part] = getattr(model, "handed_parts", {})
    about: dict[str, Any] = {"family": family, "config": dict(config)}
    if parts:
        # Without the path: where a stage's checkpoint lay is no part of what this one holds.
        about["parts"] = {
            slot: asdict(replace(part.origin, path="")) for slot, part in parts.items()
        }
    tensors.write_weights(folder / WEIGHTS, model)
    atomic.write_json(folder / CONFIG, about)
    files = [WEIGHTS, CONFIG]
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
        files.append(TOKENIZER)
    for slot, part in parts.items():
        if part.origin.kind in _KEPT_INSIDE:
            files += _write_part(folder, slot, part)
    return files


def _write_part(folder: Path, slot: str, part: Part) -> list[str]:
    inside = folder / PARTS / slot
    inside.mkdir(parents=True)
    module: Any = part.module
    name = next(name for name, made in MODELS.items() if type(module) is made)
    written = _write_model(inside, module, name, module.config.to_dict(), part.tokenizer)
    return [f"{PARTS}/{slot}/{file}" for file in written]


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
    if origin.kind not in _KEPT_INSIDE:
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


def _folder_mode() -> int:
    # mkdtemp makes private folders; a checkpoint is as readable as the umask says.
    umask = os.umask(0)
    os.umask(umask)
    return 0o777 & ~umask
