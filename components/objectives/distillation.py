"""What a student learns from a teacher's outputs: pure functions of tensors, each a scalar to be minimised.

Shapes as in `records.py`; N is rows or tokens that count, Q a queue, R the rest of a vocabulary as one bin. No gradient
reaches a teacher. Under torch.distributed `affinity` and `icl` score their own rows against the columns of all workers,
as `contrastive.py` does: their mean over workers is that of the global batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import ConfigError
from components.objectives.pairs import doubles
from components.objectives.workers import everyones, first_row, gather

KEPT = 64
"""Probabilities of a token's distribution that are kept on disk; the others share one bin."""


def logit_kl(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over rows of T² KL(teacher || student) of softmaxes at temperature T, in nats, at least 0; 0 of no rows.

    Hinton et al. 2015, arXiv:1503.02531; over the tokens of a text it is Kim & Rush 2016, arXiv:1606.07947.
    T² keeps gradients as large as at T 1.

    >>> logit_kl(torch.ones(2, 3), torch.zeros(2, 3)).item()
    0.0
    """
    student = F.log_softmax(_wide(student_NV) / temperature, dim=-1)
    teacher = F.log_softmax(_wide(teacher_NV.detach()) / temperature, dim=-1)
    nats = F.kl_div(student, teacher, log_target=True, reduction="sum")
    return nats / max(len(student), 1) * temperature**2


def others(groups_B: Tensor, shots: int) -> Tensor:
    """(B, shots) int64: which rows each row is shown as demonstrations: those after it, and after the last the first.

    For context distillation (Snell et al. 2022, arXiv:2209.15189): a teacher behind k demonstrations, a student with none.
    Rows of its own group come only where there are no others: a demonstration with the row's own text gives it away.
    Raises ConfigError where there are too few rows.

    >>> others(torch.tensor([0, 1, 0, 3]), 2).tolist()
    [[1, 3], [2, 3], [3, 1], [0, 1]]
    """
    rows = len(groups_B)
    if shots >= rows:
        raise ConfigError(
            f"distill.shots={shots} demonstrations of other rows, and a worker's batch has {rows}; fewer shots, a larger "
            "batch_size or fewer workers."
        )
    row_B = torch.arange(rows, device=groups_B.device)
    ahead_BB = (row_B - row_B[:, None]) % rows
    # Itself last of all, behind its own group.
    late_BB = (groups_B == groups_B[:, None]).int() + (ahead_BB == 0).int()
    return (ahead_BB + rows * late_BB).argsort(dim=1)[:, :shots]


def at_both(
    student_NV: Tensor, student_BT: Tensor, teacher_MV: Tensor, teacher_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows of both that stand for the same tokens.

    student_BT, teacher_BT: bool, the tokens that each has a row for, in order; texts may be cut at different lengths.
    """
    width = min(student_BT.shape[1], teacher_BT.shape[1])
    student_BT, teacher_BT = student_BT.clone(), teacher_BT.clone()
    both_BT = student_BT[:, :width] & teacher_BT[:, :width]
    picked = []
    for rows, has_BT in ((student_NV, student_BT), (teacher_MV, teacher_BT)):
        kept_BT = torch.zeros_like(has_BT)
        kept_BT[:, :width] = both_BT
        picked.append(rows[kept_BT[has_BT]])
    return picked[0], picked[1]


def keep_likeliest(
    logits_NV: Tensor, temperature: float = 1.0, kept: int = KEPT
) -> tuple[Tensor, Tensor]:
    """The largest probabilities of each row at a temperature, float16 (N, K), and their columns, int32 (N, K).

    What is kept of a teacher's words on disk; one minus their sum is the rest's.
    """
    p_NV = F.softmax(_wide(logits_NV) / temperature, dim=-1)
    p_NK, index_NK = p_NV.topk(min(kept, p_NV.shape[-1]), dim=-1)
    return p_NK.half(), index_NK.int()


def kept_kl(student_NV: Tensor, p_NK: Tensor, index_NK: Tensor, temperature: float = 1.0) -> Tensor:
    """`logit_kl` to a teacher of whom `keep_likeliest` kept a part: the words kept, and one bin for the rest.

    At most the whole KL (bins cannot tell more than words), and short of it by the rest's probability times the KL within
    the rest; so with a rest of 0.001 by 0.001 of that.
    """
    log_q_NV = F.log_softmax(_wide(student_NV) / temperature, dim=-1)
    index_NK = index_NK.long()
    log_q_NK = log_q_NV.gather(1, index_NK)
    p_NK = p_NK.detach().to(log_q_NV.dtype)
    if index_NK.shape[1] == log_q_NV.shape[1]:
        rest_N = p_NK.new_zeros(len(p_NK))
        log_rest_N = rest_N
    else:
        rest_N = (1 - p_NK.sum(dim=1)).clamp(min=0)
        hidden_NV = log_q_NV.scatter(1, index_NK, -torch.inf)
        log_rest_N = hidden_NV.logsumexp(dim=1)
    terms_N = (torch.xlogy(p_NK, p_NK) - p_NK * log_q_NK).sum(dim=1)
    terms_N = terms_N + torch.xlogy(rest_N, rest_N) - rest_N * log_rest_N
    return terms_N.sum() / max(len(terms_N), 1) * temperature**2


def affinity(
    student_image_BD: Tensor,
    student_text_BD: Tensor,
    teacher_image_BE: Tensor,
    teacher_text_BE: Tensor,
    student_scale: Tensor | float,
    teacher_scale: Tensor | float,
) -> Tensor:
    """Mean of two cross entropies in nats: how each image is spread over all texts, and each text over all images.

    Affinity mimicking of TinyCLIP (Wu et al. 2023, arXiv:2309.12314).
    All rows of length 1; a scale is what
    cosines are multiplied by. Least, the mean entropy of the teacher's spreads, where the student's are the teacher's.
    """
    student = _spreads(student_image_BD, student_text_BD, student_scale)
    teacher = _spreads(teacher_image_BE.detach(), teacher_text_BE.detach(), teacher_scale)
    pairs = zip(student, teacher, strict=True)
    both = [F.cross_entropy(ours, theirs.detach().softmax(dim=1)) for ours, theirs in pairs]
    return torch.stack(both).mean()


def icl(
    student_image_BD: Tensor,
    student_text_BD: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    scale: Tensor,
    groups_B: Tensor | None = None,
    *,
    how: Literal["exp", "raw"] = "exp",
) -> Tensor:
    """Mean of two InfoNCE losses in nats: a student's image among the teacher's texts, its text among their images.

    Interactive contrastive learning of CLIP-KD (Yang et al. 2024, arXiv:2307.12732). All rows of length 1 and
    equally wide; row i belongs to row i. groups_B as in `info_nce`.
    how: `exp` multiplies cosines by the scale; `raw` by its logarithm, as CLIP-KD's released code does.
    """
    scale = scale if how == "exp" else scale.log()
    losses = []
    for anchor_BD, candidate_BD in (
        (student_image_BD, teacher_text_BD),
        (student_text_BD, teacher_image_BD),
    ):
        logits_BN = scale * anchor_BD @ everyones(candidate_BD).T
        start = first_row(len(logits_BN))
        if groups_B is not None:
            double_BN = doubles(groups_B, everyones(groups_B), start)
            logits_BN = logits_BN.masked_fill(double_BN, -torch.inf)
        labels_B = torch.arange(start, start + len(logits_BN), device=logits_BN.device)
        losses.append(F.cross_entropy(logits_BN, labels_B))
    return torch.stack(losses).mean()


def feature(
    student_ND: Tensor, teacher_ND: Tensor, distance: Literal["mse", "l1"] = "mse"
) -> Tensor:
    """Mean over rows of how far unit rows are apart: the squared distance, in [0, 4], or the sum of absolute differences.

    CLIP-KD's feature distillation (arXiv:2307.12732) and ViLD's (arXiv:2104.13921). Rows are
    brought to length 1 here; sums over the width, so that a weight means the same for any width.

    >>> feature(torch.eye(2), 3 * torch.eye(2)).item()
    0.0
    """
    away_ND = F.normalize(student_ND, dim=-1) - F.normalize(teacher_ND.detach(), dim=-1)
    each_ND = away_ND.square() if distance == "mse" else away_ND.abs()
    return each_ND.sum(dim=-1).mean()


def squares(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference over the teacher's mean square, at least 0: 1 for a student that says nothing.

    For what has a size of its own: a visual prefix, a resampler's latents, gates. Relative, so that a weight means the
    same whatever that size is.
    """
    teacher = teacher.detach()
    return F.mse_loss(student, teacher) / teacher.square().mean().clamp(min=1e-12)


def attention(student_BTS: Tensor, teacher_BTS: Tensor, real_BT: Tensor) -> Tensor:
    """Mean over tokens that are real of the squared distance between two attention maps, in [0, 2].

    After Fang et al. 2021, arXiv:2104.02096 (DistillVLM), there for each head of the last block; here heads are averaged
    before, so that both may have their own number of them. Rows sum to 1. real_BT: bool.
    """
    away_BT = (student_BTS - teacher_BTS.detach()).square().sum(dim=-1)
    return away_BT[real_BT].mean()


def token_nce(
    student_ND: Tensor, teacher_ND: Tensor, queue_QD: Tensor, temperature: float = 0.07
) -> Tensor:
    """Mean InfoNCE in nats of each of the student's states: the teacher's of the same token among a queue of others.

    DistillVLM, arXiv:2104.02096. Rows are brought to length 1 here. queue_QD: the teacher's states of earlier
    batches; empty rows (all zero) take no part, and with none it is 0.
    """
    student_ND, teacher_ND, others_QD = (
        F.normalize(_wide(rows), dim=-1) for rows in (student_ND, teacher_ND.detach(), queue_QD)
    )
    own_N1 = (student_ND * teacher_ND).sum(dim=-1, keepdim=True)
    others_NQ = (student_ND @ others_QD.detach().T).masked_fill(~queue_QD.any(dim=-1), -torch.inf)
    logits = torch.cat([own_N1, others_NQ], dim=1) / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def _spreads(image_BD: Tensor, text_BD: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """(B, W B) logits of own images over everybody's texts, and of own texts over everybody's images."""
    return scale * image_BD @ gather(text_BD).T, scale * text_BD @ gather(image_BD).T


def _wide(values: Tensor) -> Tensor:
    """At least float32: softmaxes in half precision lose the tail."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
