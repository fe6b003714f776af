"""Whether what was written computes what the model does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.export.graph import Graph

TOLERANCE = 1e-4
"""Largest difference that is let pass, as a share of the largest number (at least 1) that the model gave."""

Compare = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class NotAlike(ValueError):
    """A written graph that gives other numbers than its model: it is not kept."""


@torch.no_grad()
def compared(graph: Graph, run: Compare) -> float:
    """The largest absolute difference over every output of every probe, of other sizes than the graph was made from.

    Raises NotAlike for another shape, a NaN, or more than `TOLERANCE`.
    """
    largest = 0.0
    for probe in graph.probes:
        wanted, found = graph.module(*probe), run(probe)
        for name, ours, theirs in zip(graph.outputs, wanted, found, strict=True):
            largest = max(largest, _difference(graph.name, name, ours, theirs))
    return largest


def _difference(graph: str, output: str, ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise NotAlike(
            f"{graph}: {output} has the shape {tuple(theirs.shape)} and the model's is {tuple(ours.shape)}."
        )
    if not ours.numel():
        return 0.0
    difference = float((ours.double() - theirs.double()).abs().max())
    limit = TOLERANCE * max(1.0, float(ours.double().abs().max()))
    if not difference <= limit:  # written so that NaN is refused too
        raise NotAlike(
            f"{graph}: {output} differs from the model's by {difference:.2g}, and {limit:.2g} is let pass."
        )
    return difference
