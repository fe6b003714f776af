"""Non-maximum suppression: of boxes that lie on each other the best stays. Many lists at once, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from components.objectives.boxes import overlap


def suppress(boxes_BN4: Tensor, scores_BN: Tensor, threshold: float) -> Tensor:
    """(B, N) bool: which boxes stay, when every box goes that overlaps a better one that stays by more than `threshold`.

    Boxes of score -inf are no boxes and never stay. Of equal scores the earlier is the better.
    """
    order_BN = scores_BN.argsort(dim=1, descending=True, stable=True)
    sorted_BN4 = boxes_BN4.gather(1, order_BN.unsqueeze(-1).expand(-1, -1, 4))
    covers_BNN = overlap(sorted_BN4, sorted_BN4) > threshold
    stays_BN = scores_BN.gather(1, order_BN) > -torch.inf
    for place in range(stays_BN.shape[1] - 1):
        stays_BN[:, place + 1 :] &= ~(stays_BN[:, place, None] & covers_BNN[:, place, place + 1 :])
    return torch.zeros_like(stays_BN).scatter_(1, order_BN, stays_BN)


def suppress_by_class(boxes_N4: Tensor, scores_NC: Tensor, threshold: float) -> Tensor:
    """(N, C) bool: suppression within each class alone, for boxes that all classes share.

    Which box covers which is asked once for all classes, so memory grows as N * N + N * C and never as their product.
    """
    covers_NN = (overlap(boxes_N4, boxes_N4) > threshold).fill_diagonal_(False)
    order_NC = scores_NC.argsort(dim=0, descending=True, stable=True)
    stays_CN = (scores_NC > -torch.inf).T.contiguous()
    for at_C in order_NC:
        # One that stays until its turn lies on no better one that stays: what it covers now are worse ones.
        goes_on_C1 = stays_CN.gather(1, at_C.unsqueeze(1))
        stays_CN &= ~(covers_NN[at_C] & goes_on_C1)
    return stays_CN.T


def best(
    boxes_P4: Tensor, scores_PC: Tensor, *, threshold: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a box and a class after suppression within each class: boxes_N4, scores_N, classes_N.

    At most `most`, best first. scores_PC: 0 or more.
    """
    stays_PC = suppress_by_class(boxes_P4, scores_PC, threshold)
    flat = scores_PC.masked_fill(~stays_PC, -1.0).flatten()
    scores_N, at_N = flat.topk(min(most, len(flat)))
    at_N, scores_N = at_N[scores_N >= 0], scores_N[scores_N >= 0]
    classes = scores_PC.shape[1]
    return boxes_P4[at_N // classes], scores_N, at_N % classes
