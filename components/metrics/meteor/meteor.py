"""METEOR 1.5 over captions (Denkowski and Lavie 2014), English, with the parameters of its `rank` task.

Equals the reference programme (`-l en -norm`): the same 23 counts, hence the same score, of all golden images and of
40,503 of 40,504 images of COCO val2014. In the one left over (0.30 there, 0.28 here) a beam full of paraphrases found both
ways keeps other paths; why is not known. A caption's best reference is the one of highest score, the first of equals.

An empty candidate scores 0, and so does anything against an empty reference. Of a caption the first 1,000 words are
aligned (`corpus.LONGEST`), the first 50 where these could match in over 10,000 ways (`possible.MOST`); the words behind
count in its length alone, so that no input takes long. The reference programme aligns them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.meteor import counting
from components.metrics.meteor.corpus import prepare
from components.metrics.meteor.counting import CHUNKS
from components.metrics.meteor.resources import Resources
from components.metrics.ngrams import Floats, Ints, Tokens, check_weights

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Weight of recall against precision; exponent and weight of fragmentation; weight of content words."""
WEIGHTS = (1.0, 0.6, 0.8, 0.6)
"""Of exact, stem, synonym and paraphrase matches."""


@dataclass(frozen=True)
class MeteorStatistics:
    """What METEOR needs of each image; corpus scores are sums of rows."""

    counts_N23: Ints
    """Of the best reference: words of candidate and reference, function words of both; for each matcher (exact, stem,
    synonym, paraphrase) matched content words of both, matched function words of both; chunks; matched words of both."""
    name: str
    """"meteor", or "meteor_ems" without paraphrases: another metric."""
    data: str
    """Digest of METEOR's data."""


def statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], resources: Resources
) -> MeteorStatistics:
    """Counts of each image's candidate against its best reference.

    Raises MetricInputError for lists of different lengths or an image without references.
    """
    corpus = prepare(candidates, references, resources)
    counts_R23 = counting.count(corpus)
    best_N = _first_highest(_scores(counts_R23.astype(np.float64)), corpus.image_S[corpus.images :])
    return MeteorStatistics(counts_R23[best_N], resources.name, resources.digest)


def score(stats: MeteorStatistics, weights: NDArray[np.generic] | None = None) -> float:
    """METEOR of the corpus, in [0, 1]: of the sums of all counts, not the mean over images.

    weights: one number an image, how often it counts; equals repeating the image. As in the reference programme the
    one chunk of an image whose words all match in order is not summed.
    """
    counts_N23 = stats.counts_N23.copy()
    counts_N23[_perfect(counts_N23), CHUNKS] = 0
    summed = check_weights(weights, len(counts_N23)) @ counts_N23
    return float(_scores(summed[None])[0])


def per_image(stats: MeteorStatistics) -> Floats:
    """METEOR of every image: (N,), in [0, 1]."""
    return _scores(stats.counts_N23.astype(np.float64))


def _scores(counts: Floats) -> Floats:
    words, functions = counts[:, :2], counts[:, 2:4]
    length = DELTA * (words - functions) + (1 - DELTA) * functions
    matched = np.zeros_like(length)
    for matcher, weight in enumerate(WEIGHTS):
        content, function = np.split(counts[:, 4 + 4 * matcher : 8 + 4 * matcher], 2, axis=1)
        matched += weight * (DELTA * content + (1 - DELTA) * function)
    share = np.divide(matched, length, out=np.zeros_like(length), where=length > 0)
    precision, recall = share.T
    either = (precision > 0) & (recall > 0)
    with np.errstate(divide="ignore"):
        mean = np.where(either, 1 / ((1 - ALPHA) / precision + ALPHA / recall), 0.0)
    total = counts[:, CHUNKS + 1] + counts[:, CHUNKS + 2]
    fragments = np.divide(counts[:, CHUNKS], total / 2, out=np.zeros_like(total), where=total > 0)
    fragments[_perfect(counts)] = 0
    return np.asarray(mean * (1 - GAMMA * fragments**BETA))


def _perfect(counts: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Whether all words of both sides match, in one chunk."""
    whole = (counts[:, :2] == counts[:, CHUNKS + 1 : CHUNKS + 3]).all(axis=1)
    return np.asarray(whole & (counts[:, CHUNKS] == 1))


def _first_highest(score_R: Floats, image_R: Ints) -> Ints:
    """The first reference of highest score of each image; references lie image by image."""
    order = np.lexsort((np.arange(len(score_R)), -score_R, image_R))
    return order[np.flatnonzero(np.diff(image_R, prepend=-1))]
