"""CLIPScore and RefCLIPScore from embeddings (Hessel et al. 2021, arXiv:2104.08718).

Equal to github.com/jmhessel/clipscore, but for one thing: a negative cosine with the references counts as 0 in
RefCLIPScore. The paper's formula takes max(..., 0) of that term; the published programme leaves it out, and its
harmonic mean can then be any negative number or 0/0. `reference_N` keeps the cosine as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.metric import MetricInputError
from components.metrics.ngrams import Floats, weighted_mean

WEIGHT = 2.5
"""What stretches cosines, which CLIP's rarely exceed 0.4, over [0, 1]: the paper's w."""

Array = NDArray[np.generic]


@dataclass(frozen=True)
class ClipScoreStatistics:
    """Both terms of every image."""

    image_N: Floats
    """2.5 times the cosine of image and candidate, at least 0: in [0, 2.5]."""
    reference_N: Floats
    """Highest cosine of the candidate with a reference, in [-1, 1]."""


def statistics(
    image_ND: Array, candidate_ND: Array, references: Sequence[Array]
) -> ClipScoreStatistics:
    """Terms of each image's candidate.

    image_ND, candidate_ND: embeddings of any length but 0. references: one (R, D) array an image, R at least 1.
    Raises MetricInputError for shapes that do not fit, an image without references, and values that are not finite or
    all 0.
    """
    image_ND, candidate_ND = _rows(image_ND, "image"), _rows(candidate_ND, "candidate")
    if image_ND.shape != candidate_ND.shape or len(references) != len(image_ND):
        raise MetricInputError(
            f"Images {image_ND.shape}, candidates {candidate_ND.shape}, references of {len(references)} images; all "
            "are needed for the same images, in the same width."
        )
    for index, several in enumerate(references):
        if np.ndim(several) != 2 or not len(several) or np.shape(several)[1] != image_ND.shape[1]:
            raise MetricInputError(
                f"References of image {index} have shape {np.shape(several)}; (R, {image_ND.shape[1]}) with R of at "
                "least 1 is needed."
            )
    reference_RD = _rows(np.concatenate(references), "reference")
    image_R = np.repeat(np.arange(len(references)), [len(several) for several in references])
    cosine_R = np.einsum("rd,rd->r", candidate_ND[image_R], reference_RD)
    starts = np.searchsorted(image_R, np.arange(len(references)))
    cosine_N = np.einsum("nd,nd->n", image_ND, candidate_ND)
    return ClipScoreStatistics(
        image_N=WEIGHT * np.clip(cosine_N, 0, 1),
        reference_N=np.clip(np.maximum.reduceat(cosine_R, starts), -1, 1),
    )


def clip_score(stats: ClipScoreStatistics, weights: Array | None = None) -> float:
    """CLIPScore of the corpus, in [0, 2.5]: the mean over images, each as often as its weight says."""
    return weighted_mean(stats.image_N, weights)


def ref_clip_score(stats: ClipScoreStatistics, weights: Array | None = None) -> float:
    """RefCLIPScore of the corpus, in [0, 10/7]: the mean over images, each as often as its weight says."""
    return weighted_mean(ref_per_image(stats), weights)


def per_image(stats: ClipScoreStatistics) -> Floats:
    """CLIPScore of every image: (N,), in [0, 2.5]."""
    return stats.image_N


def ref_per_image(stats: ClipScoreStatistics) -> Floats:
    """RefCLIPScore of every image: (N,), the harmonic mean of both terms, 0 where either is 0 or below."""
    clipped_N = np.maximum(stats.reference_N, 0)
    total_N = stats.image_N + clipped_N
    product_N = 2 * stats.image_N * clipped_N
    return np.divide(product_N, total_N, out=np.zeros_like(total_N), where=total_N > 0)


def _rows(values: Array, what: str) -> Floats:
    """Rows of length 1."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or not given.size:
        raise MetricInputError(f"{what} embeddings have shape {given.shape}; (N, D) is needed.")
    length_N = np.linalg.norm(given, axis=1)
    bad = np.flatnonzero(~(np.isfinite(length_N) & (length_N > 0)))
    if len(bad):
        raise MetricInputError(
            f"The {what} embedding of row {bad[0]} is all 0 or not finite; it points nowhere."
        )
    return np.asarray(given / length_N[:, None])
