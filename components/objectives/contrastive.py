"""InfoNCE: an image and its text should be nearer than any other pair of the global batch (CLIP, ALIGN).

Radford et al. 2021, arXiv:2103.00020, figure 3. Exact over several workers, and no more than a block of logits exists at
a time: memory is O(block x W b), and gradients averaged over workers (what DDP does) equal one process's. The first pass
over the blocks finds what rows and columns sum to, the second recomputes them and takes the gradients along: four
matrix products, each serving both directions, where two logit matrices under autograd take six.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from components.objectives.pairs import Pairs, Pull, known, learns
from components.objectives.workers import log_sum_exp


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
    the mean over workers is the loss of the global batch. Gradients exist once: they have none of their own.

    >>> same = torch.ones(4, 1)
    >>> round(info_nce(same, same, 1.0).item(), 4) == round(torch.tensor(4.0).log().item(), 4)
    True
    """
    scale = torch.as_tensor(scale, device=image_BD.device)
    inputs = image_BD, text_BD, scale
    wanted = learns(*inputs)
    # A product under autocast would round logits to bfloat16: steps of 0.5 where they reach 100.
    with torch.no_grad(), torch.autocast(image_BD.device.type, enabled=False):
        pairs = Pairs.of(image_BD, text_BD, groups_B)
        softmaxes = _Softmaxes(pairs, scale.to(pairs.image_BD), smoothing)
        value = softmaxes.value()
        gradients = softmaxes.gradients() if wanted else ()
    return known(value, inputs, gradients) if gradients else value


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


class _Softmaxes:
    """Both softmaxes over every pair: what rows and columns sum to, and from that the loss and its gradients."""

    def __init__(self, pairs: Pairs, scale: Tensor, smoothing: float) -> None:
        self._pairs, self._scale, self._smoothing = pairs, scale, smoothing
        self._kept: Tensor | None = None
        rows, columns = len(pairs.image_BD), len(pairs.text_ND)
        self._row_B1 = pairs.image_BD.new_empty(rows, 1)
        self._column_N = pairs.image_BD.new_full((columns,), -torch.inf)
        self._own = scale.new_zeros(())
        self._spread = scale.new_zeros(())
        # Each column's share of what smoothing spreads, from a row's side and, groups being mutual, from its own.
        self._share_N = (0.5 / pairs.taking_part()).to(self._column_N).expand(columns)
        for block in pairs.blocks:
            self._sum_up(block)
        self._column_N = log_sum_exp(self._column_N)

    def value(self) -> Tensor:
        """This worker's rows, and the columns that are its own texts."""
        rows, start = len(self._row_B1), self._pairs.start
        sums = (self._row_B1.sum() + self._column_N[start : start + rows].sum()) / 2
        kept = (1 - self._smoothing) * self._own + self._smoothing * self._spread
        return (sums - kept) / rows

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """By images, texts and scale."""
        pull = Pull(self._pairs, self._scale)
        for block in self._pairs.blocks:
            pull.add(block, self._slopes(block))
        return pull.gradients(1 / (2 * len(self._row_B1)))

    def _logits(self, block: slice) -> Tensor:
        if self._kept is not None:
            return self._kept
        logits_RN = self._pairs.logits(block, self._scale)
        if len(self._pairs.blocks) == 1:
            self._kept = logits_RN
        return logits_RN

    def _sum_up(self, block: slice) -> None:
        logits_RN = self._logits(block)
        self._row_B1[block] = logits_RN.logsumexp(dim=1, keepdim=True)
        self._column_N = torch.logaddexp(self._column_N, logits_RN.logsumexp(dim=0))
        self._own += logits_RN[self._pairs.own(block)].sum()
        if self._smoothing:
            doubles_RN = self._pairs.doubles(block)
            finite_RN = logits_RN if doubles_RN is None else logits_RN.masked_fill(doubles_RN, 0)
            self._spread += finite_RN.sum(dim=1) @ self._share_of(block)
            self._spread += finite_RN.sum(dim=0) @ self._share_N

    def _slopes(self, block: slice) -> Tensor:
        """(R, N): twice what the sum of this worker's losses gains by each logit."""
        logits_RN = self._logits(block)
        slope_RN = (logits_RN - self._row_B1[block]).exp_()
        slope_RN += logits_RN.sub_(self._column_N).exp_()
        if self._smoothing:
            slope_RN -= (2 * self._smoothing) * (self._share_of(block)[:, None] + self._share_N)
            doubles_RN = self._pairs.doubles(block)
            if doubles_RN is not None:
                slope_RN.masked_fill_(doubles_RN, 0)
        slope_RN[self._pairs.own(block)] -= 2 * (1 - self._smoothing)
        return slope_RN

    def _share_of(self, block: slice) -> Tensor:
        start = self._pairs.start
        return self._share_N[start + block.start : start + block.stop]
