"""All that one checkpoint will hold, in memory and apart from the training that goes on; and how it becomes files.

A training waits while `take` copies tensors into `HostMemory`; turning them into bytes, hashes and files is `write`,
which a thread may do while the next steps run.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components import atomic
from components.catalog import MODELS
from components.data.text import Tokenizer
from components.failpoint import failpoint
from components.models.parts import Part
from components.training.checkpoints import marker, tensors
from components.training.steps.names import named

WEIGHTS, CONFIG, TOKENIZER = "weights.safetensors", "config.json", "tokenizer.json"
STATE, STEP = "state.safetensors", "state.json"
PARTS = "parts"

KEPT_INSIDE = ("stage", "random")
"""Parts that a checkpoint holds itself; the others are named with their digest and found again."""

Hold = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""What is done with a file's tensors when they are taken."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a checkpoint says of the run that made it."""

    family: str
    config: Mapping[str, Any]
    seed: int
    shards_digest: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files of one checkpoint before they are files."""

    step: int
    about: Mapping[str, Any]
    """What the marker says beside the files."""
    tensors: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """File -> its tensors by name."""
    json: dict[str, Any] = field(default_factory=dict)
    """File -> its JSON."""
    tokenizers: dict[str, Tokenizer] = field(default_factory=dict)
    """File -> its tokenizer."""

    @property
    def size_bytes(self) -> int:
        """Of all tensors; the rest of a checkpoint is small beside them."""
        return sum(value.nbytes for file in self.tensors.values() for value in file.values())


class HostMemory:
    """Memory of the host that tensors are copied into, kept from one checkpoint to the next.

    The second copy is ten times faster than the first: its pages are there. Beside a GPU it is pinned, so that the copy
    runs at the bus's speed.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Tensor] = {}

    def hold(self, file: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of a file's tensors, which stay as they are until the next `hold` of that file."""
        copies = {name: self._copy((file, name), value.detach()) for name, value in found.items()}
        if any(value.is_cuda for value in found.values()):
            torch.cuda.synchronize()
        return copies

    def _copy(self, key: tuple[str, str], value: Tensor) -> Tensor:
        held = self._held.get(key)
        if held is None or (held.shape, held.dtype) != (value.shape, value.dtype):
            held = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._held[key] = held
        return held.copy_(value, non_blocking=True)


def as_they_are(_: str, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """For a snapshot that is written before anything changes: no copy."""
    return found


def take(
    model: nn.Module,
    *,
    tokenizer: Tokenizer,
    origin: Origin,
    step: int,
    state: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    hold: Hold = as_they_are,
) -> Snapshot:
    """What the checkpoint of `step` will hold.

    state: what training needs to go on beside the weights, by name; none for a model that is built and not trained.
    weights: what to keep as the model's weights in place of its own (their moving average), under the same names.
    """
    about = {
        "family": origin.family,
        "step": step,
        "seed": origin.seed,
        "shards_digest": origin.shards_digest,
        "tokenizer_digest": tokenizer.digest,
    }
    made = Snapshot(step=step, about=about)
    kept = named(model) if weights is None else weights
    _take_model(made, "", model, kept, origin.family, origin.config, tokenizer, hold)
    made.tensors[STATE] = hold(STATE, state or {})
    made.json[STEP] = {"step": step}
    return made


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot's files into an empty folder, and its marker last.

    Raises OSError that names the folder and the bytes needed where the disk refuses.
    """
    try:
        _write_files(folder, snapshot)
        failpoint("checkpoint_unmarked")
        files = [*snapshot.tensors, *snapshot.json, *snapshot.tokenizers]
        marker.write(folder, snapshot.about, files)
    except OSError as error:
        raise _refused(folder, snapshot, error) from error
    failpoint("checkpoint_unplaced")


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    for file, found in snapshot.tensors.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        tensors.write(folder / file, found)
    for file, value in snapshot.json.items():
        atomic.write_json(folder / file, value)
    for file, tokenizer in snapshot.tokenizers.items():
        tokenizer.save(folder / file)


def _refused(folder: Path, snapshot: Snapshot, error: OSError) -> OSError:
    written_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free_bytes = shutil.disk_usage(folder).free + written_bytes
    # A short write tells no reason: where less is free than is needed, that is the reason.
    full = free_bytes < snapshot.size_bytes
    return OSError(
        error.errno or (errno.ENOSPC if full else errno.EIO),
        f"the checkpoint of step {snapshot.step} cannot be written ({error}); it needs {snapshot.size_bytes} bytes, "
        f"{free_bytes} are free",
        str(folder.parent),
    )


def _take_model(
    made: Snapshot,
    within: str,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    family: str,
    config: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    hold: Hold,
) -> None:
    """What rebuilds a model, and the same of each part that is kept nowhere else."""
    parts: Mapping[str, Part] = getattr(model, "handed_parts", {})
    about: dict[str, Any] = {"family": family, "config": dict(config)}
    if parts:
        # Without the path: where a stage's checkpoint lay is no part of what this one holds.
        about["parts"] = {
            slot: asdict(replace(part.origin, path="")) for slot, part in parts.items()
        }
    made.tensors[within + WEIGHTS] = hold(within + WEIGHTS, weights)
    made.json[within + CONFIG] = about
    if tokenizer is not None:
        made.tokenizers[within + TOKENIZER] = tokenizer
    for slot, part in parts.items():
        if part.origin.kind in KEPT_INSIDE:
            _take_part(made, f"{within}{PARTS}/{slot}/", part, hold)


def _take_part(made: Snapshot, within: str, part: Part, hold: Hold) -> None:
    module: Any = part.module
    name = next(name for name, kind in MODELS.items() if type(module) is kind)
    own = named(module)
    _take_model(made, within, module, own, name, module.config.to_dict(), part.tokenizer, hold)
