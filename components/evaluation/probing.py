"""Probes ability -> accuracy of a linear classifier of concepts on frozen image features, with its baselines."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from components import abilities
from components.data.batches import SplitImages
from components.evaluation.controls import nearest_pixels, shuffled
from components.evaluation.subject import Subject
from components.metrics.classification import top_k_accuracy
from components.objectives.linear_probe import LinearProbe, fit_probe

BATCH = 128
CLASSES = 256
"""The commonest concepts of training are the classes; more would cost minutes and have few images each."""
C_GRID = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the penalty that are tried, from the simplest classifier on."""
HELD_OUT = 10
"""Without a validation split one training image in this many chooses the penalty."""
NAME = "linear_probe_accuracy"


def probing(subject: Subject) -> dict[str, float]:
    """Accuracy of naming the split's images of those concepts; nothing for a split without any (n/a, and not 0).

    The classifier learns from the training split's features; its penalty is chosen on `val`, or on a tenth of the
    training images where `val` is under measurement or not there.
    """
    train, images = subject.train, subject.images
    number = commonest(train)
    truth_N, learnt_N = _labels(images, number), _labels(train, number)
    known = (truth_N >= 0).nonzero()[:, 0]
    if not len(known):
        return {}
    scores_NC = _probe(subject, number).scores(image_features(subject.model, images, known))
    truth_N = truth_N[known]
    near_N = learnt_N[nearest_pixels(images, train)][known]
    common = learnt_N[learnt_N >= 0].mode().values
    return {
        NAME: top_k_accuracy(scores_NC, truth_N),
        f"image_blind/{NAME}": top_k_accuracy(
            scores_NC[shuffled(len(known), subject.plan.blind_seed)], truth_N
        ),
        f"chance/{NAME}": 1 / len(number),
        f"most_frequent/{NAME}": _share(truth_N == common),
        f"nearest_pixels/{NAME}": _share(near_N == truth_N),
    }


@torch.no_grad()
def image_features(model: abilities.Probes, images: SplitImages, chosen: Tensor) -> Tensor:
    """The chosen images of a split -> (N, D) float32."""
    pixels_NCHW = images.pixels_NCHW[chosen]
    return torch.cat([model.image_features(block).float() for block in pixels_NCHW.split(BATCH)])


def commonest(train: SplitImages) -> dict[str, int]:
    """The concepts that most training images show, numbered; the first in order on ties."""
    counts = Counter(row.sample.concept for row in train.rows)
    return {concept: number for number, (concept, _) in enumerate(counts.most_common(CLASSES))}


def _probe(subject: Subject, number: dict[str, int]) -> LinearProbe:
    learnt = _examples(subject, subject.train, number)
    free = _free(subject)
    judged = None if free is None else _examples(subject, free, number)
    tried = learnt
    if judged is None or not len(judged[1]):
        chosen_N = torch.arange(len(learnt[1])) % HELD_OUT == 0
        judged = learnt[0][chosen_N], learnt[1][chosen_N]
        tried = learnt[0][~chosen_N], learnt[1][~chosen_N]
    probes, probe = {}, None
    for c in C_GRID:
        probe = fit_probe(*tried, len(number), c=c, start=probe)
        probes[c] = _share(probe.scores(judged[0]).argmax(dim=1) == judged[1]), probe
    best = max(C_GRID, key=lambda c: probes[c][0])
    return probes[best][1] if tried is learnt else fit_probe(*learnt, len(number), c=best)


def _free(subject: Subject) -> SplitImages | None:
    """The split `val`, where it is not what is measured."""
    val = subject.val
    return val if val is not None and val.split != subject.images.split else None


def _examples(
    subject: Subject, images: SplitImages, number: dict[str, int]
) -> tuple[Tensor, Tensor]:
    labels_N = _labels(images, number)
    known = (labels_N >= 0).nonzero()[:, 0]
    if not len(known):
        return torch.empty(0, 0), labels_N[known]
    return image_features(subject.model, images, known), labels_N[known]


def _labels(images: SplitImages, number: dict[str, int]) -> Tensor:
    """Each image's class; -1 for one of no class."""
    return torch.tensor([number.get(row.sample.concept, -1) for row in images.rows])


def _share(right_N: Tensor) -> float:
    return right_N.double().mean().item()
