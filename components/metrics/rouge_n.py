"""ROUGE-1 and ROUGE-2 over captions (Lin 2004): shared words and shared pairs of words.

Counts, precision, recall and F1 are those of the rouge-score package without its stemmer, on our tokens in place of
its own. Of several references the best precision and the best recall count, as COCO's ROUGE-L chooses them, and they may
come from different references; rouge-score would take the one reference of the highest F1, so with several references
ours is never lower, and with one it is equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.ngrams import (
    Floats,
    Grams,
    Sentences,
    Tokens,
    add_up,
    check_weights,
    count_grams,
    encode,
)

ORDERS = 2


@dataclass(frozen=True)
class RougeNStatistics:
    """Best precision and recall of each image's candidate over its references, in [0, 1]; one column an order."""

    precision_N2: Floats
    recall_N2: Floats


def statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> RougeNStatistics:
    """Clipped n-gram overlap of each candidate with its references.

    A caption too short to hold an n-gram shares nothing: precision and recall 0.
    Raises MetricInputError for lists of different lengths or an image without references.
    """
    sentences = encode(candidates, references, split_spaces=True)
    return statistics_from(sentences, count_grams(sentences))


def statistics_from(sentences: Sentences, grams: Sequence[Grams]) -> RougeNStatistics:
    """The same from n-grams already counted, so that BLEU, CIDEr and ROUGE-N can share them."""
    best = np.zeros((2, sentences.images, ORDERS))
    image_R = sentences.image_S[sentences.images :]
    for column, order in enumerate(grams[:ORDERS]):
        shared_R = _shared(order, sentences)
        offered_S = np.maximum(sentences.length_S - column, 1)
        np.maximum.at(best[0, :, column], image_R, shared_R / offered_S[image_R])
        np.maximum.at(best[1, :, column], image_R, shared_R / offered_S[sentences.images :])
    return RougeNStatistics(precision_N2=best[0], recall_N2=best[1])


def score(
    stats: RougeNStatistics, weights: NDArray[np.generic] | None = None
) -> tuple[float, float]:
    """ROUGE-1 and ROUGE-2 of the corpus, each in [0, 1]: the mean of the images' F1.

    weights: one number an image, how often it counts; equals repeating the image.
    """
    value_N2 = per_image(stats)
    weight_N = check_weights(weights, len(value_N2))
    one, two = (weight_N @ value_N2 / weight_N.sum()).tolist()
    return one, two


def per_image(stats: RougeNStatistics) -> Floats:
    """ROUGE-1 and ROUGE-2 of every image: (N, 2), in [0, 1]."""
    total_N2 = stats.precision_N2 + stats.recall_N2
    product_N2 = 2 * stats.precision_N2 * stats.recall_N2
    return np.divide(product_N2, total_N2, out=np.zeros_like(product_N2), where=total_N2 > 0)


def _shared(grams: Grams, sentences: Sentences) -> Floats:
    """For each reference how many n-grams it shares with its image's candidate, each at most as often as in both."""
    hit_P = grams.match_P >= 0
    mine_P = grams.candidate.count_P[grams.match_P[hit_P]]
    least_P = np.minimum(mine_P, grams.reference.count_P[hit_P])
    shared_S = add_up(least_P, grams.reference.sentence_P[hit_P], len(sentences.image_S))
    return shared_S[sentences.images :]
