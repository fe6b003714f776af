"""What a two-stage detector learns from: which boxes count as objects, and the losses of ViLD.

After Ren et al. 2015 (arXiv:1506.01497) and Gu et al. 2021 (arXiv:2104.13921). Letters: B images · N proposals or
anchors · O objects of an image · R sampled regions · C classes · D shared width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from components.objectives.boxes import overlap

BACKGROUND, IGNORED = -1, -2


def assign(
    boxes_BN4: Tensor, objects_BO4: Tensor, real_BO: Tensor, *, low: float, high: float, best: bool
) -> Tensor:
    """The object each box stands for, (B, N) int64: its index, BACKGROUND, or IGNORED.

    An overlap of `high` or more is an object, one below `low` is background, between is ignored.
    real_BO: bool, False where the row holds no object; at least one row an image. best: each object also gets the boxes that overlap it most.
    """
    shared_BNO = overlap(boxes_BN4, objects_BO4) * real_BO.unsqueeze(1)
    most_BN, object_BN = shared_BNO.max(dim=-1)
    assigned_BN = object_BN.masked_fill(most_BN < high, IGNORED)
    assigned_BN = assigned_BN.masked_fill(most_BN < low, BACKGROUND)
    if best:
        top_BO = shared_BNO.amax(dim=1)
        is_top_BNO = (shared_BNO == top_BO.unsqueeze(1)) & (shared_BNO > 0)
        forced_BN, its_BN = is_top_BNO.max(dim=-1)
        assigned_BN = torch.where(forced_BN, its_BN, assigned_BN)
    return assigned_BN


def sample(assigned_BN: Tensor, count: int, object_share: float) -> Tensor:
    """Which boxes a step learns from, (B, N) bool: at most `count` an image, at most that share of them objects.

    Drawn from torch's generator; what objects leave free is filled with background.
    """
    is_object_BN, is_background_BN = assigned_BN >= 0, assigned_BN == BACKGROUND
    dice_BN = torch.rand(assigned_BN.shape, device=assigned_BN.device)
    objects_BN = is_object_BN & (_rank(dice_BN, is_object_BN) < int(count * object_share))
    room_B1 = count - objects_BN.sum(dim=1, keepdim=True)
    return objects_BN | (is_background_BN & (_rank(dice_BN, is_background_BN) < room_B1))


def objectness_loss(logits_BN: Tensor, assigned_BN: Tensor, sampled_BN: Tensor) -> Tensor:
    """Mean binary cross-entropy over the sampled boxes, in nats."""
    is_object_BN = (assigned_BN >= 0).to(logits_BN.dtype)
    return F.binary_cross_entropy_with_logits(logits_BN[sampled_BN], is_object_BN[sampled_BN])


def offset_loss(
    offsets_BN4: Tensor, target_BN4: Tensor, objects_BN: Tensor, count: Tensor, beta: float = 1 / 9
) -> Tensor:
    """Smooth L1 summed over the four numbers of the boxes that stand for objects, over `count` (all that were sampled)."""
    found, wanted = offsets_BN4[objects_BN], target_BN4[objects_BN]
    return F.smooth_l1_loss(found, wanted, beta=beta, reduction="sum") / count.clamp(min=1)


def text_logits(
    region_ND: Tensor,
    text_CD: Tensor,
    background_D: Tensor,
    scale: float,
    known_C: Tensor | None = None,
) -> Tensor:
    """Scaled cosines, (N, 1 + C), the background first; -inf for classes that are not known (all are, if None).

    -inf and not 0, which the release multiplies by: a logit of 0 leaves its class in the denominator.
    region_ND, text_CD: rows of length 1. background_D: any length.
    """
    all_D = torch.cat([F.normalize(background_D, dim=-1).unsqueeze(0), text_CD])
    logits = scale * region_ND @ all_D.T
    if known_C is None:
        return logits
    allowed = torch.cat([known_C.new_ones(1), known_C])
    return logits.masked_fill(~allowed, -torch.inf)


def text_loss(logits_NC: Tensor, classes_N: Tensor) -> Tensor:
    """Mean cross-entropy in nats. classes_N: int64, BACKGROUND for a region that stands for no object."""
    return F.cross_entropy(logits_NC, classes_N + 1)


def image_loss(student_ND: Tensor, teacher_ND: Tensor, real_N: Tensor) -> Tensor:
    """L1 between unit rows, summed over the width, mean over the real proposals; 0 where there is none.

    No gradient reaches the teacher. real_N: bool, False for padding.
    """
    away_N = (student_ND - teacher_ND.detach()).abs().sum(dim=-1)
    return (away_N * real_N).sum() / real_N.sum().clamp(min=1)


def ensemble(text_NC: Tensor, image_NC: Tensor, base_C: Tensor, weight: float) -> Tensor:
    """Geometric mean of the two branches' probabilities, `weight` on the text for base classes, on the image for others.

    (N, C) in [0, 1]; with weight 1 a base class has the text's number and a novel one the image's.
    """
    power_C = torch.where(base_C, weight, 1 - weight).to(text_NC.dtype)
    return text_NC**power_C * image_NC ** (1 - power_C)


def _rank(dice_BN: Tensor, among_BN: Tensor) -> Tensor:
    """Place of each box in a random order of those marked, from 0; the others stand behind."""
    order_BN = dice_BN.masked_fill(~among_BN, 2.0).argsort(dim=1, stable=True)
    places = torch.arange(order_BN.shape[1], device=order_BN.device).expand_as(order_BN)
    return torch.empty_like(order_BN).scatter_(1, order_BN, places)
