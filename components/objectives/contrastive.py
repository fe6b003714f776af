"""InfoNCE: an image and its text should be nearer than any other pair of the global batch (CLIP, ALIGN).

Radford et al. 2021, arXiv:2103.00020, figure 3. Exact over several workers: each scores its own rows against the
columns of all, so memory is O(b x W b), and gradients averaged over workers (what DDP does) equal one process's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


def info_nce(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor | float,
    groups_B: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean of the two cross entropies, image to text and text to image, in nats, at least 0.

    image_BD, text_BD: rows of length 1; row i of one belongs to row i of the other.
    scale: what cosines are multiplied by, CLIP's exp(logit_scale), 1 / sigma of ALIGN.
    groups_B: int64; rows that share a number (equal captions or images) are no negatives of each other.
    smoothing: share of each label's weight that is spread evenly over all columns that take part (ALIGN's 0.1).
    With torch.distributed initialised every worker calls this with as many rows, and its value is the worker's share:
    the mean over workers is the loss of the global batch.

    >>> same = torch.ones(4, 1)
    >>> round(info_nce(same, same, 1.0).item(), 4) == round(torch.tensor(4.0).log().item(), 4)
    True
    """
    rows, workers = len(image_BD), _workers()
    if workers == 1:
        logits_BB = scale * image_BD @ text_BD.T
        mask_BB = same_group(groups_B, groups_B, 0)
        image_to_text, text_to_image = logits_BB, logits_BB.T
    else:
        everyone_ND = gather(torch.cat([image_BD, text_BD], dim=1))
        every_image_ND, every_text_ND = everyone_ND.split(image_BD.shape[1], dim=1)
        image_to_text = scale * image_BD @ every_text_ND.T
        text_to_image = scale * text_BD @ every_image_ND.T
        every_group_N = None if groups_B is None else gather(groups_B)
        mask_BB = same_group(groups_B, every_group_N, rows * dist.get_rank())
    offset = rows * dist.get_rank() if workers > 1 else 0
    labels_B = torch.arange(offset, offset + rows, device=image_BD.device)
    return (
        smoothed_cross_entropy(image_to_text, labels_B, mask_BB, smoothing)
        + smoothed_cross_entropy(text_to_image, labels_B, mask_BB, smoothing)
    ) / 2


def smoothed_cross_entropy(
    logits_BN: Tensor, labels_B: Tensor, mask_BN: Tensor | None, smoothing: float
) -> Tensor:
    """Cross entropy over the columns that are not masked, in nats; without a mask, PyTorch's `label_smoothing`."""
    kept_BN = without(logits_BN, mask_BN)
    own = F.cross_entropy(kept_BN, labels_B)
    if not smoothing:
        return own
    # PyTorch would give masked columns their share, and 0.1 of minus infinity is minus infinity.
    log_p_BN = torch.log_softmax(kept_BN, dim=1)
    if mask_BN is None:
        spread = log_p_BN.mean(dim=1)
    else:
        spread = log_p_BN.masked_fill(mask_BN, 0).sum(dim=1) / (~mask_BN).sum(dim=1)
    return (1 - smoothing) * own - smoothing * spread.mean()


def simctg(hidden_BTD: Tensor, mask_BT: Tensor, margin: float) -> Tensor:
    """Mean over pairs of different tokens of one text of `max(0, margin - (1 - cos))`, at least 0; SimCTG's loss.

    Su et al. 2022, arXiv:2202.06417, equation 2. hidden_BTD: last-layer states. mask_BT: bool, True where a token counts.
    Texts of one token have no pair; with none at all it is 0.

    >>> same = torch.ones(1, 3, 4)
    >>> simctg(same, torch.ones(1, 3).bool(), 0.5).item()
    0.5
    """
    unit_BTD = F.normalize(hidden_BTD, dim=-1)
    short_BTT = (margin - 1 + unit_BTD @ unit_BTD.transpose(1, 2)).clamp(min=0)
    itself = torch.eye(mask_BT.shape[1], dtype=torch.bool, device=mask_BT.device)
    pair_BTT = mask_BT[:, :, None] & mask_BT[:, None, :] & ~itself
    return (short_BTT * pair_BTT).sum() / pair_BTT.sum().clamp(min=1)


def same_group(groups_B: Tensor | None, every_group_N: Tensor | None, offset: int) -> Tensor | None:
    """(B, N) bool, True where a column is a double of the row; never at the row's own column `offset + i`."""
    if groups_B is None or every_group_N is None:
        return None
    double_BN = groups_B[:, None] == every_group_N[None, :]
    own = torch.arange(len(groups_B), device=groups_B.device)
    double_BN[own, own + offset] = False
    return double_BN


def without(logits_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Logits with the masked ones at minus infinity, so that they take no part."""
    return logits_BN if mask_BN is None else logits_BN.masked_fill(mask_BN, float("-inf"))


def gather(rows_BD: Tensor) -> Tensor:
    """(W B, ...): the rows of all workers, in order of rank; gradients come back from all of them."""
    gathered: Tensor = _Gather.apply(rows_BD)
    return gathered


def _workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums over workers: without the sum tower gradients are 1/W of the truth."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor) -> Tensor:
        ctx.rows = len(rows_BD)
        out = rows_BD.new_empty((len(rows_BD) * _workers(), *rows_BD.shape[1:]))
        dist.all_gather_into_tensor(out, rows_BD.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        start = ctx.rows * dist.get_rank()
        return summed[start : start + ctx.rows]
