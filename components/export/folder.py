"""An exported model as a folder, whole or not there: files, tokenizer, a card, and a marker with every sha256.

hub     model.safetensors and config.json, as transformers reads them where it has the family, else ours
onnx    a file a graph, held against the model by onnxruntime
torch   torch.export's programs, the same graphs
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from components import atomic
from components.abilities import Captions, Detects, Steers
from components.config import ConfigError
from components.data.text import Tokenizer
from components.export import hub_files, onnx_files, onnx_steering, programs
from components.export.card import card
from components.export.graphs import graphs_of
from components.training.checkpoints import marker

Format = Literal["hub", "onnx", "torch"]
ABOUT, TOKENIZER, CARD = "export.json", "tokenizer.json", "README.md"
TEXT_TOKENIZER = "text_tokenizer.json"
"""What the graph `text` reads, where that is another tokenizer than the one that is written with."""
_WRITTEN_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    format: Format
    layout: str
    """What reads it."""
    differences: Mapping[str, float] = field(default_factory=dict)
    """Graph -> the largest difference from the model's own numbers."""
    captions_alike: int = 0
    """Images whose captions, by `greedy` or MAGIC, were compared, and equal."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What is done around the graphs, and with which numbers."""


def export(
    model: Any, tokenizer: Tokenizer, checkpoint: Path, target: Path, format: Format, title: str
) -> Exported:
    """Write a model in eval mode, loaded from `checkpoint`, to the folder `target`, which must not exist.

    Raises ConfigError for a format there is not and a folder that is there, NotExportable where no graph can be made,
    NotAlike where one gives other numbers, and OSError of a full disk; nothing is left then.
    """
    if format not in get_args(Format):
        raise ConfigError(f'format="{format}" is none of {", ".join(get_args(Format))}.')
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} is there already; give a folder that does not exist.")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made = _WRITERS[format](model, tokenizer, checkpoint, building, target)
        tokenizer.save(building / TOKENIZER)
        about = {
            "title": title, "format": format, "layout": made.layout,
            "differences": dict(made.differences), "captions_alike": made.captions_alike,
            "settings": dict(made.settings),
            "checkpoint": marker.read(checkpoint)[1], "torch": torch.__version__,
        }  # fmt: skip
        atomic.write_json(building / ABOUT, about)
        atomic.write_text(building / CARD, card(title, model, made.layout, made.differences))
        files = sorted(
            str(path.relative_to(building)) for path in building.rglob("*") if path.is_file()
        )
        marker.write(building, {"export": format}, files)
        building.chmod(0o755)
        os.rename(building, target)  # noqa: PTH104  refuses a folder that came meanwhile and holds files
        atomic.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return made


def _hub(
    model: Any, tokenizer: Tokenizer, checkpoint: Path, building: Path, target: Path
) -> Exported:
    return Exported(
        folder=target, format="hub", layout=hub_files.write(model, checkpoint, building)
    )


def _onnx(
    model: Any, tokenizer: Tokenizer, checkpoint: Path, building: Path, target: Path
) -> Exported:
    differences = _graphs(model, tokenizer, building, onnx_files.write, onnx_files.check)
    alike, asked = 0, {"max_tokens": _WRITTEN_TOKENS}
    if isinstance(model, Captions):
        pixels = _pictures(model)
        if isinstance(model, Steers):
            onnx_steering.same_captions(model, tokenizer, building, pixels, **asked)
        else:
            onnx_files.same_captions(model, building, pixels, eos_id=tokenizer.eos_id, **asked)
        alike = len(pixels)
    return Exported(
        folder=target, format="onnx", layout="onnxruntime", differences=differences,
        captions_alike=alike, settings=_around(model),
    )  # fmt: skip


def _torch(
    model: Any, tokenizer: Tokenizer, checkpoint: Path, building: Path, target: Path
) -> Exported:
    differences = _graphs(model, tokenizer, building, programs.write, programs.check)
    return Exported(
        folder=target, format="torch", layout="torch.export.load", differences=differences,
        settings=_around(model),
    )  # fmt: skip


def _graphs(
    model: Any,
    tokenizer: Tokenizer,
    folder: Path,
    write: Callable[..., Path],
    check: Callable[..., float],
) -> dict[str, float]:
    family: Any = model
    if isinstance(model, Steers):
        family.handed_parts["clip"].tokenizer.save(folder / TEXT_TOKENIZER)
    return {graph.name: check(graph, write(graph, folder)) for graph in graphs_of(model, tokenizer)}


def _around(model: Any) -> dict[str, Any]:
    """What MAGIC's search, and a detector's choice of boxes, do with what the graphs say."""
    family: Any = model
    if isinstance(model, Steers):
        return {
            "cosine_scale": float(family.clip.cosine_scale()),
            "clip_words": family.config.clip_words,
            "clip_tokens": family.clip.batch_spec().max_tokens,
        }
    if isinstance(model, Detects):
        return {
            "proposing": dict(family.proposing), "overlap": family.config.overlap,
            "detections": family.config.detections, "prompts": list(family.config.prompts),
        }  # fmt: skip
    return {}


def _pictures(model: Any) -> torch.Tensor:
    side = model.batch_spec().image_px
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 3, side, side), generator=draw, dtype=torch.uint8)


_WRITERS: Mapping[str, Callable[..., Exported]] = {"hub": _hub, "onnx": _onnx, "torch": _torch}
