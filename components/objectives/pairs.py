"""Each image of this worker beside each text of all workers, a block of rows at a time: what contrastive losses sum over.

Only texts travel between workers, and the gradients of texts back. Letters: R rows of a block · N texts of all workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.objectives.workers import first_row, in_one_message, summed

CELLS = 1 << 22
"""Logits that are kept rather than computed twice: 16 MiB of float32, 2048 x 2048."""
ROWS = 256
"""Rows of a block where there are more: of 64 to 1024 the quickest on a CPU, and 4 MiB for 4096 texts."""


@dataclass(frozen=True)
class Pairs:
    """A worker's share of all pairs."""

    image_BD: Tensor
    text_ND: Tensor
    groups_B: Tensor | None
    groups_N: Tensor | None
    start: int
    """Column of the first row's own text."""

    @classmethod
    def of(cls, image_BD: Tensor, text_BD: Tensor, groups_B: Tensor | None) -> Pairs:
        """Everybody's texts and groups, gathered; all at least float32, since logits reach 100 and bfloat16 has 8 bits."""
        wide = torch.promote_types(image_BD.dtype, torch.float32)
        text_ND, groups_N = in_one_message(text_BD.detach().to(wide), groups_B)
        start = first_row(len(image_BD))
        return cls(image_BD.detach().to(wide), text_ND, groups_B, groups_N, start)

    @property
    def blocks(self) -> list[slice]:
        """Rows that are looked at together: all, if their logits are few."""
        rows, columns = len(self.image_BD), len(self.text_ND)
        size = rows if rows * columns <= CELLS else ROWS
        return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]

    def logits(self, rows: slice, scale: Tensor) -> Tensor:
        """(R, N): scaled cosines, minus infinity for a double, which takes no part."""
        logits_RN = (scale * self.image_BD[rows]) @ self.text_ND.T
        doubles_RN = self.doubles(rows)
        return logits_RN if doubles_RN is None else logits_RN.masked_fill_(doubles_RN, -torch.inf)

    def doubles(self, rows: slice) -> Tensor | None:
        """(R, N) bool, True where image and text share a group but are no pair."""
        if self.groups_B is None or self.groups_N is None:
            return None
        return doubles(self.groups_B[rows], self.groups_N, self.start + rows.start)

    def own(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Where in a block each image meets its own text."""
        row_R = torch.arange(rows.stop - rows.start, device=self.image_BD.device)
        return row_R, row_R + rows.start + self.start

    def taking_part(self) -> Tensor:
        """(N,) or scalar: how many columns each row is scored against, those that are no doubles of it."""
        columns = torch.tensor(len(self.text_ND), device=self.text_ND.device)
        if self.groups_N is None:
            return columns
        _, place_N, sizes = self.groups_N.unique(return_inverse=True, return_counts=True)
        several: Tensor = sizes[place_N]
        return columns + 1 - several


def doubles(groups_R: Tensor, groups_N: Tensor, start: int) -> Tensor:
    """(R, N) bool, True where a column is a double of the row; never at the row's own, `start` for the first."""
    double_RN = groups_R[:, None] == groups_N
    row_R = torch.arange(len(groups_R), device=groups_R.device)
    double_RN[row_R, start + row_R] = False
    return double_RN


class Pull:
    """Gathers what each block's slopes (of the loss by logits) mean for images, texts and scale."""

    def __init__(self, pairs: Pairs, scale: Tensor) -> None:
        self._pairs, self._scale = pairs, scale
        self._image_BD = torch.empty_like(pairs.image_BD)
        self._text_ND = torch.zeros_like(pairs.text_ND)

    def add(self, rows: slice, slope_RN: Tensor) -> None:
        """A block, each once."""
        torch.mm(slope_RN, self._pairs.text_ND, out=self._image_BD[rows])
        self._text_ND.addmm_(slope_RN.T, self._pairs.image_BD[rows])

    def gradients(self, factor: float) -> tuple[Tensor, Tensor, Tensor]:
        """By images, by texts (of all workers' losses), by the scale; each times `factor`."""
        scale = factor * (self._pairs.image_BD * self._image_BD).sum()
        text_BD = summed(self._text_ND.mul_(factor * self._scale))
        return self._image_BD.mul_(factor * self._scale), text_BD, scale


def known(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value` as a function of `inputs`, whose gradients were computed with it."""
    result: Tensor = _Known.apply(value, len(inputs), *inputs, *gradients)
    return result


def learns(*inputs: Tensor) -> bool:
    """Whether gradients by any of these will be asked for."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        inputs, gradients = tensors[:count], tensors[count:]
        ctx.save_for_backward(
            *(each.to(of.dtype) for of, each in zip(inputs, gradients, strict=True))
        )
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return (None, None, *(grads[0] * each for each in gradients), *(None for _ in gradients))
