"""Average precision of boxes, as COCO counts it (Lin et al. 2014, arXiv:1405.0312; equal to pycocotools 2.0.11).

For each class and each overlap of 0.50, 0.55, … 0.95: detections of all images, best first, each take the object of
their image and class that they overlap most and that is still free; precision is read at 101 recalls. Letters: N boxes
of an image · D detections of a class · K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.metrics.metric import MetricInputError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Detections of a class in one image that count; the best ones."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The objects of one image."""

    boxes_N4: ArrayLike
    """Left, top, right, bottom."""
    classes_N: ArrayLike


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What was found in one image."""

    boxes_N4: ArrayLike
    scores_N: ArrayLike
    """The higher, the surer."""
    classes_N: ArrayLike


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Average precision of every class at every overlap."""

    precision_KT: Floats
    """In [0, 1]; NaN for a class that no image holds."""
    objects_K: NDArray[np.int64]
    """Objects of each class."""


def statistics(guesses: Sequence[Guess], truths: Sequence[Truth], classes: int) -> Statistics:
    """Average precision of classes 0 … `classes` - 1 over a split; guess i and truth i are of one image.

    Of equal scores the earlier image, and in it the earlier detection, comes first. Raises MetricInputError for NaN, no
    images, crossed corners or classes out of range.
    """
    if not truths or len(guesses) != len(truths):
        raise MetricInputError(
            f"{len(guesses)} guesses and {len(truths)} truths; give one of each an image, and at least one image."
        )
    found = [
        _checked(guess.boxes_N4, guess.classes_N, classes, guess.scores_N) for guess in guesses
    ]
    there = [_checked(truth.boxes_N4, truth.classes_N, classes, None) for truth in truths]
    objects_K = np.bincount(np.concatenate([each.classes_N for each in there]), minlength=classes)
    precision_KT = np.full((classes, len(THRESHOLDS)), np.nan)
    for number in np.flatnonzero(objects_K):
        precision_KT[number] = _of_class(found, there, int(number), int(objects_K[number]))
    return Statistics(precision_KT=precision_KT, objects_K=objects_K)


def score(stats: Statistics, among_K: ArrayLike | None = None) -> tuple[float, float]:
    """(AP, AP50) in [0, 1]: the mean over classes that occur, and over overlaps or at 0.50 alone.

    among_K: bool, the classes that count; all, if None. Classes that no image holds are left out. Raises
    MetricInputError where none is left: an average of nothing is no number.
    """
    among = np.ones(len(stats.objects_K), bool) if among_K is None else np.asarray(among_K, bool)
    if among.shape != stats.objects_K.shape:
        raise MetricInputError(
            f"among_K has shape {among.shape}; one bool for each of {len(stats.objects_K)} classes is needed."
        )
    counted = stats.precision_KT[among & (stats.objects_K > 0)]
    if not len(counted):
        raise MetricInputError(
            "No object of these classes is in the split; measure on one that has some."
        )
    return float(counted.mean()), float(counted[:, 0].mean())


@dataclass(frozen=True, kw_only=True)
class _Boxes:
    boxes_N4: Floats
    classes_N: NDArray[np.int64]
    scores_N: Floats

    def of(self, number: int, most: int | None = None) -> _Boxes:
        """Those of one class, best first."""
        at = np.flatnonzero(self.classes_N == number)
        at = at[np.argsort(-self.scores_N[at], kind="stable")][:most]
        return _Boxes(
            boxes_N4=self.boxes_N4[at], classes_N=self.classes_N[at], scores_N=self.scores_N[at]
        )


def _of_class(found: Sequence[_Boxes], there: Sequence[_Boxes], number: int, count: int) -> Floats:
    scores, hits = [], []
    for guess, truth in zip(found, there, strict=True):
        here = guess.of(number, MOST)
        scores.append(here.scores_N)
        hits.append(_hits(overlap(here.boxes_N4, truth.of(number).boxes_N4)))
    score_D, hit_TD = np.concatenate(scores), np.concatenate(hits, axis=1)
    hit_TD = hit_TD[:, np.argsort(-score_D, kind="stable")]
    return np.array([_area(hit_D, count) for hit_D in hit_TD])


def _hits(overlap_DN: Floats) -> NDArray[np.bool_]:
    """(thresholds, D): whether each detection, best first, takes a free object."""
    hit_TD = np.zeros((len(THRESHOLDS), len(overlap_DN)), bool)
    if not overlap_DN.size:
        return hit_TD
    for row, threshold in enumerate(THRESHOLDS):
        free_N = np.ones(overlap_DN.shape[1], bool)
        for place, overlap_N in enumerate(overlap_DN):
            value_N = np.where(free_N, overlap_N, -1.0)
            # Of equal overlaps the last, as pycocotools has it.
            best = len(value_N) - 1 - int(np.argmax(value_N[::-1]))
            if value_N[best] >= threshold:
                hit_TD[row, place] = True
                free_N[best] = False
    return hit_TD


def _area(hit_D: NDArray[np.bool_], count: int) -> float:
    """Mean precision at 101 recalls, where precision at a recall is the best at that recall or a higher one."""
    right_D = np.cumsum(hit_D)
    recall_D = right_D / count
    precision_D = right_D / (np.arange(len(hit_D)) + 1 + np.spacing(1))
    precision_D = np.maximum.accumulate(precision_D[::-1])[::-1]
    at = np.searchsorted(recall_D, RECALLS, side="left")
    return float(np.append(precision_D, 0.0)[np.minimum(at, len(hit_D))].mean())


def overlap(one_N4: Floats, other_M4: Floats) -> Floats:
    """Intersection over union, (N, M) in [0, 1]."""
    low = np.maximum(one_N4[:, None, :2], other_M4[None, :, :2])
    high = np.minimum(one_N4[:, None, 2:], other_M4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (one_N4, other_M4)]
    union = areas[0][:, None] + areas[1][None] - shared
    shares: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares


def _checked(boxes: ArrayLike, classes: ArrayLike, count: int, scores: ArrayLike | None) -> _Boxes:
    boxes_N4 = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes_N = np.asarray(classes, np.int64).reshape(-1)
    scores_N = np.zeros(len(boxes_N4)) if scores is None else np.asarray(scores, np.float64)
    if len(classes_N) != len(boxes_N4) or scores_N.shape != classes_N.shape:
        raise MetricInputError(
            f"{len(boxes_N4)} boxes, {len(classes_N)} classes and {scores_N.size} scores of one image; give one of each."
        )
    if not (np.isfinite(boxes_N4).all() and np.isfinite(scores_N).all()):
        raise MetricInputError(
            "Boxes or scores hold NaN or infinity; look at the model that made them."
        )
    if (boxes_N4[:, 2:] < boxes_N4[:, :2]).any():
        raise MetricInputError("A box has its right or bottom before its left or top.")
    if len(classes_N) and not (classes_N.min() >= 0 and classes_N.max() < count):
        raise MetricInputError(f"classes_N holds numbers beyond 0…{count - 1}.")
    return _Boxes(boxes_N4=boxes_N4, classes_N=classes_N, scores_N=scores_N)
