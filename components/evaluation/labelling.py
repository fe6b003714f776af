"""Matches ability -> zero-shot classification: the label whose text fits an image best, scored pair by pair.

For families without a shared space, as SimVLM: "classify" is the label of highest likelihood (section 3 of the paper).
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.evaluation.controls import shuffled
from components.evaluation.matching import LIST, lists_asked
from components.evaluation.subject import Subject
from components.metrics.classification import top_k_accuracy

MOST_PAIRS = 8192
"""Forward passes of one measurement: with many labels fewer images are asked; at most LIST for each of the plan's lists."""


def labelling(subject: Subject) -> dict[str, float]:
    """`match_zero_shot_accuracy` among the same labels as zero-shot classification, with chance and the blind control.

    The plan's first prompt alone is read: likelihoods of several are not averaged as embeddings are. Nothing where the
    plan asks for no lists, or labels are fewer than two or too many for two images.
    """
    rows, plan = subject.images.rows, subject.plan
    labels = subject.concepts or {row.sample.concept: row.sample.label for row in rows}
    count = min(len(rows), LIST * lists_asked(subject), MOST_PAIRS // max(len(labels), 1))
    if count < 2 or len(labels) < 2:
        return {}
    number = {concept: index for index, concept in enumerate(labels)}
    generator = torch.Generator().manual_seed(plan.blind_seed)
    chosen = torch.randperm(len(rows), generator=generator)[:count].tolist()
    truth_N = torch.tensor([number[rows[index].sample.concept] for index in chosen])
    texts = [plan.prompts[0].replace("{}", label) for label in labels.values()]
    scores_NC = score_labels(subject, chosen, texts)
    blind_NC = scores_NC[shuffled(count, plan.blind_seed)]
    return {
        "match_zero_shot_accuracy": top_k_accuracy(scores_NC, truth_N),
        "image_blind/match_zero_shot_accuracy": top_k_accuracy(blind_NC, truth_N),
        "chance/match_zero_shot_accuracy": 1 / len(labels),
    }


@torch.inference_mode()
def score_labels(subject: Subject, chosen: list[int], texts: list[str]) -> Tensor:
    """(N, C): every chosen image with every text."""
    limit = subject.model.batch_spec().max_tokens
    tokens_CT, lengths_C = subject.tokenizer.encode(texts, limit)
    scores = []
    for index in chosen:
        pixels_CCHW = subject.images.pixels_NCHW[index].expand(len(texts), -1, -1, -1)
        keys_C = torch.full((len(texts),), 2 * subject.images.rows[index].key)
        scores.append(subject.model.match(pixels_CCHW, tokens_CT, lengths_C, keys_C).float())
    return torch.stack(scores)
