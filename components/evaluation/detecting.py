"""Detects ability -> COCO's average precision over all classes that are named at once, with its controls.

The vocabulary is generalised: base classes and novel ones together, those of the training images too, so that a novel
object can be taken for a base one. Asking for novel classes alone would flatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from components.abilities import Detections
from components.data.batches import SplitImages
from components.data.row_boxes import base_classes, cut, in_prompts
from components.evaluation.controls import shuffled
from components.evaluation.subject import Subject
from components.metrics.detection import Guess, Statistics, Truth, score, statistics

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The classes that are asked for, base classes first."""

    labels: tuple[str, ...]
    base: int
    """How many of them training knew boxes of."""


def vocabulary(train: SplitImages, images: SplitImages) -> Vocabulary:
    """Every class that a box of the training split or of the measured one is of."""
    base = base_classes(train.rows)
    rows = (*train.rows, *images.rows)
    others = {box.label for row in rows for box in row.sample.boxes} - set(base)
    return Vocabulary(labels=(*base, *sorted(others)), base=len(base))


def detecting(subject: Subject) -> dict[str, float]:
    """`ap_…` and `ap50_…` of all, base and novel classes; those of a group no image holds are left out.

    Columns: image_blind, detections of other images; text_only, the text classifier where a model has a second judge;
    chance, the same boxes with classes drawn at random. Nothing for a split without boxes.
    """
    words = vocabulary(subject.train, subject.images)
    truths = truth_of(subject.images, words.labels)
    if not any(len(truth.classes_N) for truth in truths):  # type: ignore[arg-type]
        return {}
    guesses = found_by(subject, subject.model.detect, words)
    columns = {
        "": guesses,
        "image_blind/": [guesses[at] for at in shuffled(len(guesses), subject.plan.blind_seed)],
        "chance/": _renamed(guesses, len(words.labels), subject.plan.blind_seed),
    }
    if by_text := getattr(subject.model, "detect_by_text", None):
        columns["text_only/"] = found_by(subject, by_text, words)
    return {
        prefix + name: value
        for prefix, column in columns.items()
        for name, value in _scores(statistics(column, truths, len(words.labels)), words.base)
    }


def truth_of(images: SplitImages, labels: Sequence[str]) -> list[Truth]:
    """The boxes of a split in the pixels of its decoded images."""
    number, side_px = {label: at for at, label in enumerate(labels)}, images.pixels_NCHW.shape[-1]
    truths = []
    for row in images.rows:
        boxes = [(box, cut(box, row, side_px, False)) for box in row.sample.boxes]
        seen = [(number[box.label], corners) for box, corners in boxes if corners]
        truths.append(
            Truth(
                boxes_N4=[corners for _, corners in seen], classes_N=[class_ for class_, _ in seen]
            )
        )
    return truths


@torch.inference_mode()
def found_by(subject: Subject, detect: Any, words: Vocabulary) -> list[Guess]:
    """What `detect` finds in every image of the split."""
    spec = subject.model.batch_spec()
    named = in_prompts(words.labels, spec.prompts)
    tokens_CT, lengths_C = subject.tokenizer.encode(named, spec.max_tokens)
    base_C = torch.arange(len(words.labels)) < words.base
    return [
        _guess(found)
        for block in subject.images.pixels_NCHW.split(BATCH)
        for found in detect(block, tokens_CT, lengths_C, base_C)
    ]


def _guess(found: Detections) -> Guess:
    return Guess(
        boxes_N4=found.boxes_N4.double().numpy(),
        scores_N=found.scores_N.double().numpy(),
        classes_N=found.classes_N.numpy(),
    )


def _renamed(guesses: Sequence[Guess], classes: int, seed: int) -> list[Guess]:
    dice = np.random.default_rng(seed)
    return [
        replace(guess, classes_N=dice.integers(0, classes, len(guess.scores_N)))  # type: ignore[arg-type]
        for guess in guesses
    ]


def _scores(stats: Statistics, base: int) -> list[tuple[str, float]]:
    is_base_K = np.arange(len(stats.objects_K)) < base
    values = []
    for group, among_K in (
        ("all", np.ones_like(is_base_K)), ("base", is_base_K), ("novel", ~is_base_K)
    ):  # fmt: skip
        if stats.objects_K[among_K].any():
            ap, ap50 = score(stats, among_K)
            values += [(f"ap_{group}", ap), (f"ap50_{group}", ap50)]
    return values
