"""CIDEr and CIDEr-D over captions (Vedantam et al. 2015, arXiv:1411.5726).

CIDEr-D, what papers and pycocoevalcap call "CIDEr", clips a candidate's word weights at the reference's and multiplies
by a Gaussian of the length difference. Equals pycocoevalcap 1.2 (CIDEr-D) and vrama91/cider (CIDEr), whose "length" in
the Gaussian is the number of bigrams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.metrics.frequencies import DocumentFrequencies, in_references
from components.metrics.ngrams import (
    HIGHEST_ORDER,
    Floats,
    Grams,
    Ints,
    Sentences,
    Tokens,
    add_up,
    count_grams,
    encode,
    weighted_mean,
)

SIGMA = 6.0
"""Width of the length Gaussian, in words."""
SCALE = 10.0
"""CIDEr is ten times a mean cosine, so it lies in [0, 10]."""

Variant = Literal["cider_d", "cider"]


@dataclass(frozen=True)
class CiderStatistics:
    """Both scores of every image, under document frequencies that are fixed from here on."""

    cider_d_N: Floats
    cider_N: Floats
    frequencies: str
    """"references" (the evaluated ones) or the digest of the saved record."""
    frequency_images: int
    """Over how many images the frequencies were counted."""


def statistics(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    frequencies: DocumentFrequencies | None = None,
) -> CiderStatistics:
    """Scores of each image's candidate.

    frequencies: a saved record; without one, the evaluated references are counted, and an image alone scores 0.
    Raises MetricInputError for lists of different lengths or an image without references.
    """
    sentences = encode(candidates, references, split_spaces=True)
    return statistics_from(sentences, count_grams(sentences), frequencies)


def statistics_from(
    sentences: Sentences,
    grams: Sequence[Grams],
    frequencies: DocumentFrequencies | None = None,
    *,
    source: str | None = None,
) -> CiderStatistics:
    """The same from n-grams already counted, so that BLEU and CIDEr can share them.

    source: what the statistics call the frequencies; "references" or the record's digest if left out.
    """
    if source is None:
        source = "references" if frequencies is None else frequencies.digest
    if frequencies is None:
        counts = [in_references(sentences, order) for order in grams]
        images = sentences.images
    else:
        counts, images = frequencies.look_up(sentences, grams), frequencies.images
    cosines = [
        _cosines(order, count, images, sentences)
        for order, count in zip(grams, counts, strict=True)
    ]
    clipped_R, plain_R = (np.sum(way, axis=0) / HIGHEST_ORDER for way in zip(*cosines, strict=True))
    return CiderStatistics(
        cider_d_N=_mean_over_references(clipped_R * _length_factor(sentences), sentences),
        cider_N=_mean_over_references(plain_R, sentences),
        frequencies=source,
        frequency_images=images,
    )


def score(
    stats: CiderStatistics,
    weights: NDArray[np.generic] | None = None,
    *,
    variant: Variant = "cider_d",
) -> float:
    """The corpus score in [0, 10]: the mean over images.

    weights: one number an image, how often it counts. The document frequencies are held fixed: weights equal repeating
    rows of the statistics, not counting frequencies anew over the repeated images.
    """
    return weighted_mean(per_image(stats, variant=variant), weights)


def per_image(stats: CiderStatistics, *, variant: Variant = "cider_d") -> Floats:
    """The score of every image: (N,), in [0, 10]."""
    return {"cider_d": stats.cider_d_N, "cider": stats.cider_N}[variant]


def _cosines(
    grams: Grams, count_G: Ints, images: int, sentences: Sentences
) -> tuple[Floats, Floats]:
    """For each reference, clipped and plain cosine with its image's candidate over n-grams of one order."""
    # An n-gram no reference has gets frequency 1: the highest weight there is.
    rarity_G = np.log(images) - np.log(np.maximum(count_G, 1))
    mine_P = grams.candidate.count_P * rarity_G[grams.candidate.gram_P]
    theirs_P = grams.reference.count_P * rarity_G[grams.reference.gram_P]
    hit_P = grams.match_P >= 0
    theirs, mine = theirs_P[hit_P], mine_P[grams.match_P[hit_P]]
    sentence = grams.reference.sentence_P[hit_P]
    total = len(sentences.image_S)
    clipped_S = add_up(np.minimum(mine, theirs) * theirs, sentence, total)
    plain_S = add_up(mine * theirs, sentence, total)
    norm_S = np.sqrt(
        add_up(mine_P**2, grams.candidate.sentence_P, total)
        + add_up(theirs_P**2, grams.reference.sentence_P, total)
    )
    product_R = (norm_S * norm_S[sentences.image_S])[sentences.images :]
    return (
        _quotient(clipped_S[sentences.images :], product_R),
        _quotient(plain_S[sentences.images :], product_R),
    )


def _quotient(above: Floats, below: Floats) -> Floats:
    """0 where nothing has weight: all its n-grams stand in every image, or there is none."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _length_factor(sentences: Sentences) -> Floats:
    bigrams_S = np.maximum(sentences.length_S - 1, 0)
    away_R = (bigrams_S - bigrams_S[sentences.image_S])[sentences.images :]
    return np.asarray(np.exp(-(away_R**2) / (2 * SIGMA**2)))


def _mean_over_references(value_R: Floats, sentences: Sentences) -> Floats:
    image_R = sentences.image_S[sentences.images :]
    summed_N = add_up(value_R, image_R, sentences.images)
    return SCALE * summed_N / np.bincount(image_R, minlength=sentences.images)
