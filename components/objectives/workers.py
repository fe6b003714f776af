"""What losses and statistics exchange over torch.distributed; alone, everything here is the identity.

torch 2.13 renamed the two collectives that work on one tensor; its older names still serve 2.10.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def workers() -> int:
    """How many take part; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_row(rows: int) -> int:
    """Where this worker's rows begin among those of all, who have as many each."""
    return rows * dist.get_rank() if workers() > 1 else 0


def everyones(rows_BD: Tensor) -> Tensor:
    """(W B, ...): the rows of all workers, in order of rank, without a gradient."""
    if workers() == 1:
        return rows_BD.detach()
    out = rows_BD.new_empty((len(rows_BD) * workers(), *rows_BD.shape[1:]))
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    all_gather(out, rows_BD.detach().contiguous())
    return out


def in_one_message(rows_BD: Tensor, groups_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`everyones` of rows and of their int64 group numbers, which ride along as further columns of the same bits."""
    if groups_B is None:
        return everyones(rows_BD), None
    width = rows_BD.shape[1]
    bits_BE = groups_B.contiguous()[:, None].view(rows_BD.dtype)
    every_ND = everyones(torch.cat([rows_BD, bits_BE], dim=1))
    return every_ND[:, :width].contiguous(), every_ND[:, width:].contiguous().view(torch.int64)[
        :, 0
    ]


def averaged(value: Tensor) -> Tensor:
    """The mean over workers of what each has, without a gradient."""
    if workers() == 1:
        return value.detach()
    mean = value.detach().clone()
    dist.all_reduce(mean)
    return mean.div_(workers())


def summed(every_ND: Tensor) -> Tensor:
    """(B, ...): this worker's rows of the sum over workers of what each has for the rows of all."""
    if workers() == 1:
        return every_ND
    out = every_ND.new_empty((len(every_ND) // workers(), *every_ND.shape[1:]))
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    reduce_scatter(out, every_ND.contiguous())
    return out


def log_sum_exp(column_N: Tensor) -> Tensor:
    """(N,) log of the sum over workers of exp; minus infinity where all of them have that."""
    if workers() == 1:
        return column_N
    highest_N = column_N.clone()
    dist.all_reduce(highest_N, dist.ReduceOp.MAX)
    shift_N = highest_N.clamp(min=torch.finfo(column_N.dtype).min)
    total_N = (column_N - shift_N).exp_()
    dist.all_reduce(total_N)
    return total_N.log_().add_(shift_N)


def gather(rows_BD: Tensor) -> Tensor:
    """(W B, ...): the rows of all workers, in order of rank; gradients come back from all of them."""
    gathered: Tensor = _Gather.apply(rows_BD) if workers() > 1 else rows_BD
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums over workers: without the sum tower gradients are 1/W of the truth."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        return everyones(rows_BD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0])
