"""How sure a number is: images are drawn again, with replacement, and the number is computed of each draw.

Statistics are computed once; a draw only says how often each image counts. CIDEr's document frequencies stay those of
all images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from components.metrics.metric import MetricInputError
from components.metrics.ngrams import Floats

RESAMPLES = 1000
LEVEL = 0.95


def draws(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """How often each image counts in each draw: (N,), whole numbers that sum to N. The same seed, the same draws.

    Raises MetricInputError if there is no image or no draw.
    """
    if images < 1 or resamples < 1:
        raise MetricInputError(
            f"{resamples} draws of {images} images; at least one of each is needed."
        )
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(images, size=images)
        yield np.bincount(drawn, minlength=images).astype(np.float64)


def intervals(
    score: Callable[[Floats], Mapping[str, float]],
    images: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, tuple[float, float]]:
    """Percentile interval of each number that `score` gives for the weights of a draw.

    level: share of draws inside, in (0, 1). Raises MetricInputError outside.
    """
    if not 0 < level < 1:
        raise MetricInputError(f"level={level}: an interval holds a share in (0, 1), as 0.95.")
    drawn = [score(weights) for weights in draws(images, resamples, seed)]
    edges = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: tuple(np.quantile([each[name] for each in drawn], edges).tolist())
        for name in drawn[0]
    }
