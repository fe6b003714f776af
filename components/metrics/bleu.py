"""BLEU-1 to BLEU-4 over captions (Papineni et al. 2002), with COCO's choices.

Equals pycocoevalcap's: the reference length is the closest, the shorter of two equally close; the corpus' brevity
penalty comes from summed lengths; nothing is smoothed but tiny constants that keep a quotient defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.ngrams import (
    HIGHEST_ORDER,
    Floats,
    Grams,
    Ints,
    Sentences,
    Tokens,
    add_up,
    check_weights,
    count_grams,
    encode,
)

# COCO's constants: with no match at all BLEU-4 is about 1e-12, not 0.
ABOVE, BELOW = 1e-15, 1e-9


@dataclass(frozen=True)
class BleuStatistics:
    """What BLEU needs of each image; corpus scores are sums of rows."""

    matched_N4: Ints
    """Candidate n-grams also found in a reference, clipped at the reference's count."""
    offered_N4: Ints
    """Candidate n-grams."""
    length_N: Ints
    """Candidate words."""
    reference_length_N: Ints
    """Words of the reference closest in length."""


def statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> BleuStatistics:
    """Counts of each image's candidate against its references.

    Raises MetricInputError for lists of different lengths or an image without references.
    """
    sentences = encode(candidates, references, split_spaces=True)
    return statistics_from(sentences, count_grams(sentences))


def statistics_from(sentences: Sentences, grams: Sequence[Grams]) -> BleuStatistics:
    """The same from n-grams already counted, so that BLEU and CIDEr can share them."""
    length_N = sentences.length_S[: sentences.images]
    matched = [_matched(order, sentences.images) for order in grams]
    return BleuStatistics(
        matched_N4=np.stack(matched, axis=1),
        offered_N4=np.maximum(length_N[:, None] - np.arange(HIGHEST_ORDER), 0),
        length_N=length_N,
        reference_length_N=_closest(sentences),
    )


def score(
    stats: BleuStatistics, weights: NDArray[np.generic] | None = None
) -> tuple[float, float, float, float]:
    """BLEU-1, -2, -3, -4 of the corpus, each in [0, 1].

    weights: one number an image, how often it counts; equals repeating the image.
    """
    weight_N = check_weights(weights, len(stats.length_N))
    one, two, three, four = _bleu(
        (weight_N @ stats.matched_N4)[None],
        (weight_N @ stats.offered_N4)[None],
        np.array([weight_N @ stats.length_N]),
        np.array([weight_N @ stats.reference_length_N]),
    )[0].tolist()
    return one, two, three, four


def per_image(stats: BleuStatistics) -> Floats:
    """BLEU-1 to -4 of every image by itself: (N, 4), in [0, 1]."""
    return _bleu(
        stats.matched_N4.astype(np.float64),
        stats.offered_N4.astype(np.float64),
        stats.length_N.astype(np.float64),
        stats.reference_length_N.astype(np.float64),
    )


def _bleu(matched_N4: Floats, offered_N4: Floats, length_N: Floats, closest_N: Floats) -> Floats:
    precision_N4 = (matched_N4 + ABOVE) / (offered_N4 + BELOW)
    geometric_N4 = np.cumprod(precision_N4, axis=1) ** (1 / np.arange(1, HIGHEST_ORDER + 1))
    ratio_N = (length_N + ABOVE) / (closest_N + BELOW)
    brevity_N = np.exp(np.minimum(1 - 1 / ratio_N, 0))
    return np.asarray(geometric_N4 * brevity_N[:, None])


def _matched(grams: Grams, images: int) -> Ints:
    """Clipped matches of one order: each candidate count, at most the highest count in any one reference."""
    hit_P = grams.match_P >= 0
    most_P = np.zeros(len(grams.candidate.count_P), np.int64)
    np.maximum.at(most_P, grams.match_P[hit_P], grams.reference.count_P[hit_P])
    clipped_P = np.minimum(most_P, grams.candidate.count_P)
    return add_up(clipped_P, grams.candidate.sentence_P, images).astype(np.int64)


def _closest(sentences: Sentences) -> Ints:
    """For each image the reference length nearest to the candidate's; of two equally near, the shorter."""
    length_R = sentences.length_S[sentences.images :]
    image_R = sentences.image_S[sentences.images :]
    away_R = np.abs(length_R - sentences.length_S[image_R])
    order = np.lexsort((length_R, away_R, image_R))
    first = np.searchsorted(image_R[order], np.arange(sentences.images))
    return length_R[order][first]
