"""Weights and settings of a model as a folder of the Hub: in transformers' layout where it has the family.

The other families, and towers that transformers does not know, keep our own names: `config.json` says family and
settings as a checkpoint does, and `model.safetensors` holds the same tensors.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.models import hub_align, hub_clip, hub_layout, hub_visualbert
from components.models.align import Align
from components.models.clip import Clip
from components.models.hub_layout import HubLayoutRefused
from components.models.visualbert import VisualBert
from components.training.checkpoints.snapshot import CONFIG, PARTS, TOKENIZER, WEIGHTS

TRANSFORMERS: Mapping[type, tuple[str, Callable[[Any, Path], None]]] = {
    Align: ("transformers AlignModel", hub_align.save_pretrained),
    Clip: ("transformers CLIPModel", hub_clip.save_pretrained),
    VisualBert: (
        "transformers VisualBertForPreTraining (the image tower is not in it)",
        hub_visualbert.save_pretrained,
    ),
}
OURS = "ours: config.json and model.safetensors as a checkpoint of diptych has them"


def write(model: Any, checkpoint: Path, folder: Path) -> str:
    """Write config.json and model.safetensors; returns which layout they are in, and why if it is ours."""
    if type(model) in TRANSFORMERS:
        layout, save = TRANSFORMERS[type(model)]
        try:
            save(model, folder)
        except HubLayoutRefused as refused:
            return f"{_copy(checkpoint, folder)}. {refused}"
        return layout
    return _copy(checkpoint, folder)


def _copy(checkpoint: Path, folder: Path) -> str:
    """What rebuilds the model, without the state of its training; parts that a checkpoint holds itself come along."""
    for inside in (checkpoint, *sorted((checkpoint / PARTS).rglob("*"))):
        place = folder / inside.relative_to(checkpoint)
        for name, as_name in (
            (WEIGHTS, hub_layout.WEIGHTS),
            (CONFIG, hub_layout.CONFIG),
            (TOKENIZER, TOKENIZER),
        ):
            if (inside / name).is_file():
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(inside / name, place / as_name)
    return OURS
