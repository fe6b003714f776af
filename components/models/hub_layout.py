"""Weights in transformers' layout on disk (config.json and safetensors), read and written without transformers.

Each family that transformers has too keeps in `hub_<family>.py` which of its tensors is which of theirs; this file
knows no family. Never fetches anything: a folder is named, and read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from components import atomic

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

Names = Mapping[str, str | tuple[str, ...]]
"""Our tensor's name -> theirs, or several of theirs that ours holds one below the other (queries, keys, values)."""


class HubLayoutRefused(ValueError):
    """A folder that does not hold what it should; the message names what is foreign."""


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """The folder's config.json, which must say that it is a `model_type`. Raises HubLayoutRefused."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HubLayoutRefused(
            f"{folder} is no model in transformers' layout: {CONFIG} cannot be read ({error}). "
            "Give the folder that save_pretrained wrote, or one snapshot of the Hub's."
        ) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != model_type:
        raise HubLayoutRefused(
            f'{file} is of model_type "{found}", and a "{model_type}" is wanted; give the folder of one.'
        )
    return dict(config)


def settings(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings named in `defaults`, as found; transformers writes none that equals its default."""
    return {name: config.get(name, default) for name, default in defaults.items()}


def require(config: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a config whose setting is another than the one way our layers work. Raises HubLayoutRefused."""
    wrong = {name: config.get(name) for name, value in wanted.items() if config.get(name) != value}
    if wrong:
        name, found = next(iter(wrong.items()))
        raise HubLayoutRefused(
            f"{where} has {name}={found!r}; our layers are made for {wanted[name]!r}, and with other weights would "
            "give wrong numbers without a word. Choose a checkpoint that has it."
        )


def weight_files(folder: Path) -> list[Path]:
    """The one weights file, or those that an index lists, in the order of their names; there or not.

    Raises HubLayoutRefused for an index that cannot be read, or lists what is no safetensors file of its own folder.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({str(name) for name in listed})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubLayoutRefused(f"{folder / INDEX} cannot be read ({error!r}).") from error
    for name in names:
        # A bare name: an index must not lead out of its folder.
        if name in ("", ".", "..") or Path(name).name != name or not name.endswith(".safetensors"):
            raise HubLayoutRefused(
                f'{folder / INDEX} lists "{name[:80]}", and may list only safetensors files that lie beside it.'
            )
    return [folder / name for name in names]


def weights_digest(folder: Path) -> str:
    """sha256 of the one weights file; of several, over their sha256s. Raises HubLayoutRefused."""
    digests = [atomic.sha256_file(file) for file in weight_files(folder)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def load(model: nn.Module, folder: Path, names: Names, *, ignored: Collection[str] = ()) -> None:
    """Copy a folder's tensors into a model, the model untouched unless all of them fit.

    ignored: their tensors that we have no use for (buffers that follow from the config, an unused head).
    Raises HubLayoutRefused naming the tensors that are missing, foreign or of another shape.
    """
    theirs, ours = _read_tensors(folder), model.state_dict()
    assert names.keys() == ours.keys(), "a family's names are those of its tensors"
    wanted = {their for several in names.values() for their in _several(several)}
    missing = sorted(wanted - theirs.keys())
    foreign = sorted(theirs.keys() - wanted - set(ignored))
    if missing or foreign:
        raise HubLayoutRefused(
            f"{folder} holds other tensors than its config says: missing {missing[:5] or 'none'}, "
            f"foreign {foreign[:5] or 'none'} ({len(missing)} and {len(foreign)} in all)."
        )
    copied = {}
    for name, several in names.items():
        parts = [theirs[their] for their in _several(several)]
        copied[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
        if copied[name].shape != ours[name].shape:
            raise HubLayoutRefused(
                f"{folder}: {', '.join(_several(several))} makes {tuple(copied[name].shape)}, and the config "
                f"asks for {tuple(ours[name].shape)}; weights and config.json are not of one model."
            )
    with torch.no_grad():
        for name, value in copied.items():
            ours[name].copy_(value)


def write(model: nn.Module, folder: Path, names: Names, config: Mapping[str, Any]) -> None:
    """Write a model's tensors under their names, then config.json, which makes the folder whole.

    Raises HubLayoutRefused for a folder that holds a model already.
    """
    if (folder / CONFIG).exists():
        raise HubLayoutRefused(
            f"{folder} holds a model already; give a folder that does not exist."
        )
    ours, theirs = model.state_dict(), {}
    assert names.keys() == ours.keys(), "a family's names are those of its tensors"
    for name, several in names.items():
        whole, parts = ours[name].detach().cpu(), _several(several)
        # A copy of each: a chunk of a matrix is a view, and safetensors refuses tensors that share memory.
        pieces = whole.chunk(len(parts)) if len(parts) > 1 else (whole,)
        theirs |= {their: piece.clone() for their, piece in zip(parts, pieces, strict=True)}
    atomic.write_bytes(folder / WEIGHTS, save(theirs, metadata={"format": "pt"}))
    atomic.write_json(folder / CONFIG, config)


def _several(several: str | tuple[str, ...]) -> tuple[str, ...]:
    return (several,) if isinstance(several, str) else several


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    files = weight_files(folder)
    try:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise HubLayoutRefused(
            f"{folder}: {file.name} cannot be read ({error}). Pickled weights (.bin) are not read; "
            "convert them to safetensors with transformers."
        ) from error
    return tensors
