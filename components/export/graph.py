"""One function of a model as a graph will have it: its inputs, which of their sizes may be others, and what to try it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class NotExportable(ValueError):
    """A model, or a part of it, that no graph can be made of; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One function of a model, with inputs to make the graph from and others to try it with."""

    name: str
    module: nn.Module
    """Its forward takes `*inputs`, in this order, and gives a tuple of tensors."""
    inputs: Mapping[str, Tensor]
    """Two rows."""
    growing: Mapping[str, tuple[int, ...]]
    """Dimensions of each input that may have another size: rows, and the tokens read so far."""
    outputs: tuple[str, ...]
    probes: tuple[tuple[Tensor, ...], ...]
    """One row, and three with other lengths."""


class Call(nn.Module):
    """A method as a module, whose parameters are those of the model it belongs to."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.model = method.__self__
        self._name = method.__name__

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (getattr(self.model, self._name)(*inputs),)


def of_rows(
    name: str,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    growing: Mapping[str, tuple[int, ...]] | None = None,
) -> Graph:
    """A graph whose inputs all have a row each; probes are one of three rows, and all of them."""
    growing = {each: (growing or {}).get(each, (0,)) for each in inputs}
    return Graph(
        name=name,
        module=module,
        inputs={each: value[:2] for each, value in inputs.items()},
        growing=growing,
        outputs=("score" if name == "match" else "embedded",),
        probes=(_cut(inputs, [2]), _cut(inputs, [0, 1, 2])),
    )


def _cut(inputs: Mapping[str, Tensor], rows: Sequence[int]) -> tuple[Tensor, ...]:
    """Rows of each input, tokens no longer than the longest text among them."""
    chosen = {name: value[list(rows)] for name, value in inputs.items()}
    if "lengths" in chosen:
        chosen["tokens"] = chosen["tokens"][:, : int(chosen["lengths"].max())]
    return tuple(chosen.values())
