"""Share of candidates that say word for word what a reference says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.ngrams import Floats, Tokens, refuse_unpaired, weighted_mean


@dataclass(frozen=True)
class ExactMatchStatistics:
    """Whether each image's candidate equals one of its references."""

    equal_N: NDArray[np.bool_]


def statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> ExactMatchStatistics:
    """Compare token lists; both sides tokenised alike, so case and the filtered punctuation do not matter.

    An empty candidate never matches, not even an empty reference: saying nothing earns nothing.
    Raises MetricInputError for lists of different lengths or an image without references.
    """
    refuse_unpaired(candidates, references)
    equal = [
        bool(candidate) and any(list(candidate) == list(tokens) for tokens in several)
        for candidate, several in zip(candidates, references, strict=True)
    ]
    return ExactMatchStatistics(equal_N=np.array(equal))


def score(stats: ExactMatchStatistics, weights: NDArray[np.generic] | None = None) -> float:
    """Share of images matched, in [0, 1].

    weights: one number an image, how often it counts; equals repeating the image.
    """
    return weighted_mean(per_image(stats), weights)


def per_image(stats: ExactMatchStatistics) -> Floats:
    """1.0 where the candidate equals a reference, else 0.0: (N,)."""
    return stats.equal_N.astype(np.float64)
