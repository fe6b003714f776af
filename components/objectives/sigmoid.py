"""Sigmoid loss: each pair of an image and a text is judged alone, as one that belongs together or does not (SigLIP).

Zhai et al. 2023, arXiv:2303.15343, algorithm 1. A sum over pairs needs no pass before its gradients: three matrix
products in one pass, no more than a block of logits at a time, and over several workers exact as `contrastive.py` is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from components.objectives.pairs import Pairs, Pull, known, learns


def sigmoid_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    bias: Tensor,
    groups_B: Tensor | None = None,
) -> Tensor:
    """Sum over all pairs of minus log sigmoid of `scale cos + bias`, negated where they do not belong together, over the
    number of images; in nats, at least 0.

    image_BD, text_BD: rows of length 1; row i of one belongs to row i of the other.
    scale, bias: SigLIP starts at 10 and -10, near the log odds of a pair in a large batch.
    groups_B: int64; pairs that are none but share a number (equal captions or images) take no part.
    Over several workers as `info_nce`: the mean over workers is the loss of the global batch.

    >>> round(sigmoid_loss(torch.ones(1, 1), torch.ones(1, 1), torch.tensor(0.0), torch.tensor(0.0)).exp().item(), 4)
    2.0
    """
    inputs = image_BD, text_BD, scale, bias
    wanted = learns(*inputs)
    # Under autocast a product would round logits to bfloat16.
    with torch.no_grad(), torch.autocast(image_BD.device.type, enabled=False):
        pairs = Pairs.of(image_BD, text_BD, groups_B)
        value, gradients = _in_one_pass(
            pairs, scale.to(pairs.image_BD), bias.to(pairs.image_BD), wanted
        )
    return known(value, inputs, gradients) if gradients else value


def _in_one_pass(
    pairs: Pairs, scale: Tensor, bias: Tensor, wanted: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    pull, value, by_bias = Pull(pairs, scale), scale.new_zeros(()), bias.new_zeros(())
    for block in pairs.blocks:
        logits_RN, own = pairs.logits(block, scale).add_(bias), pairs.own(block)
        # log(1 + e^s) of a pair that is none; of one that is, log(1 + e^-s), which is s less.
        value += F.softplus(logits_RN).sum() - logits_RN[own].sum()
        if wanted:
            slope_RN = logits_RN.sigmoid_()
            slope_RN[own] -= 1
            by_bias += slope_RN.sum()
            pull.add(block, slope_RN)
    rows = len(pairs.image_BD)
    gradients = (*pull.gradients(1 / rows), by_bias / rows) if wanted else ()
    return value / rows, gradients
