"""A smaller model of the same kind starts from a larger one's weights, before any training.

The rule. Layers of a list (`nn.ModuleList`) are taken at even distances: layer i of n from layer i N // n of N, which is
every k-th where N is k n. A tensor of the same shape is copied; of a larger one the leading slice of each dimension is
taken; a smaller one leaves what there is. Where one product makes several things side by side (queries, keys and values)
each of them is sliced for itself. Heads stay whole if both have heads of one width; with that, TinyCLIP's manual
inheritance (Wu et al. 2023, arXiv:2309.12314) without its search for which to keep.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.config import ConfigError
from components.models.blocks import CrossAttention, SelfAttention
from components.models.gpt2 import CausalAttention

SIDE_BY_SIDE: dict[tuple[type, str], tuple[int, int]] = {
    (SelfAttention, "inward"): (3, 0),
    (CrossAttention, "memory"): (2, 0),
    (CausalAttention, "c_attn"): (3, -1),
}
"""Module and its layer -> how many things the layer's tensors hold side by side, and in which dimension."""

STATISTICS = ("running_mean", "running_var")
"""Of batch norms: buffers that are learnt as weights are. Others are constants or counts."""


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Fill what the student learns from the teacher's tensors; the names of those that were filled.

    Raises ConfigError for two models of different types: their tensors mean different things.
    """
    if type(student) is not type(teacher):
        raise ConfigError(
            f"A {type(student).__name__} cannot inherit the weights of a {type(teacher).__name__}; set inherit: false, or "
            "name a teacher of the same family."
        )
    theirs = _learnt(teacher)
    fixed = {name for name, value in student.named_parameters() if not value.requires_grad}
    return [
        name
        for name, value in _learnt(student).items()
        if name not in fixed
        and (source := theirs.get(_theirs(name, student, teacher))) is not None
        and _fill(value, source.to(value.device), *_side_by_side(student, name))
    ]


def _learnt(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and what batch norms counted."""
    statistics = {
        name: value
        for name, value in model.named_buffers()
        if name.rpartition(".")[2] in STATISTICS
    }
    return dict(model.named_parameters()) | statistics


def _theirs(name: str, student: nn.Module, teacher: nn.Module) -> str:
    """The teacher's tensor that a student's comes from: the same path, with layers at even distances."""
    path: list[str] = []
    ours, whole = student, teacher
    for word in name.split("."):
        theirs = word
        if isinstance(ours, nn.ModuleList) and isinstance(whole, nn.ModuleList):
            theirs = str(int(word) * len(whole) // len(ours))
        path.append(theirs)
        ours, whole = getattr(ours, word, ours), getattr(whole, theirs, whole)
    return ".".join(path)


def _side_by_side(student: nn.Module, name: str) -> tuple[int, int]:
    """How many things stand side by side in a tensor, and in which dimension."""
    owner, _, _ = name.rpartition(".")
    above, _, layer = owner.rpartition(".")
    return SIDE_BY_SIDE.get((type(student.get_submodule(above)), layer), (1, 0))


def _fill(value: Tensor, source: Tensor, parts: int, dimension: int) -> bool:
    """Take the leading slice of each part; False, and nothing is changed, where the student is the larger one."""
    if value.ndim != source.ndim or any(
        mine > its for mine, its in zip(value.shape, source.shape, strict=True)
    ):
        return False
    if parts > 1:
        pairs = zip(value.chunk(parts, dimension), source.chunk(parts, dimension), strict=True)
        return all([_fill(mine, its, 1, 0) for mine, its in pairs])  # noqa: C419 each is to be filled
    value.copy_(source[tuple(slice(size) for size in value.shape)])
    return True
