"""SPICE: how many of a caption's statements about the scene its references make too (Anderson et al. 2016,
arXiv:1607.08822).

From scene-graph tuples the counts equal those of SPICE 1.0's own classes, with and without synsets. Where the tuples
come from is a slot, `SceneGraphParser`: SPICE's own parser cannot run without Java and Stanford's models, so a score
bears the name of the parser, as "SPICE-spacy", and never "SPICE" alone. Where a word is equally near to two objects,
SPICE 1.0 chooses by where they lie in memory; here it is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.metrics.metric import MetricInputError
from components.metrics.ngrams import Floats, Ints, check_weights, refuse_uncounted, weighted_mean
from components.metrics.scene_graph import Concept, SceneGraph, SceneTuple, Synonyms
from components.metrics.spice_words import COLOURS, NUMBERS, SIZES

Caption = Sequence[SceneTuple]
"""What one caption states."""

Statement = tuple[Concept, ...]


class SceneGraphParser(Protocol):
    """Reads captions."""

    name: str
    """What scores made with it are called."""

    def parse(self, captions: Sequence[str]) -> list[list[tuple[str, ...]]]:
        """The tuples of each caption: (object), (object, attribute), (subject, object, relation)."""


def _attribute_in(words: frozenset[str]) -> Callable[[Statement], bool]:
    # An attribute merged from two words, as gray/grey, is in no category: SPICE 1.0 looks its joined name up.
    return lambda t: len(t) == 2 and len(t[1].words) == 1 and t[1].words <= words


CATEGORIES: dict[str, Callable[[Statement], bool]] = {
    "All": lambda t: True,
    "Object": lambda t: len(t) == 1,
    "Attribute": lambda t: len(t) == 2,
    "Relation": lambda t: len(t) == 3,
    "Cardinality": _attribute_in(NUMBERS),
    "Color": _attribute_in(COLOURS),
    "Size": _attribute_in(SIZES),
}
"""C = 7 columns of the statistics, in this order."""


@dataclass(frozen=True)
class SpiceStatistics:
    """Statements of each image, counted a category of `CATEGORIES`."""

    matched_NC: Ints
    """The candidate's that meet one of the references'."""
    offered_NC: Ints
    """The candidate's."""
    wanted_NC: Ints
    """The references', merged. Several of the candidate's may meet the same one, so matched may exceed wanted."""


def statistics(
    candidate_tuples: Sequence[Caption],
    reference_tuples: Sequence[Sequence[Caption]],
    synonyms: Synonyms | None = None,
) -> SpiceStatistics:
    """Counts of each image's candidate against all its references together.

    synonyms: synsets of a word (METEOR's file, as the published programme reads it); None compares words as they are.
    Raises MetricInputError for lists of different lengths, no image, an image without references, or a tuple that is
    none. A caption without any tuple is no error.
    """
    _refuse_unpaired(candidate_tuples, reference_tuples)
    counts_N3C = np.zeros((len(candidate_tuples), 3, len(CATEGORIES)), np.int64)
    pairs = zip(candidate_tuples, reference_tuples, strict=True)
    for image, (candidate, several) in enumerate(pairs):
        offered = merged([candidate], synonyms)
        wanted = merged(several, synonyms)
        for column, belongs in enumerate(CATEGORIES.values()):
            mine = [statement for statement in offered if belongs(statement)]
            theirs = [statement for statement in wanted if belongs(statement)]
            met = sum(any(_meet(one, other) for other in theirs) for one in mine)
            counts_N3C[image, :, column] = met, len(mine), len(theirs)
    return SpiceStatistics(
        matched_NC=counts_N3C[:, 0], offered_NC=counts_N3C[:, 1], wanted_NC=counts_N3C[:, 2]
    )


def merged(captions: Sequence[Caption], synonyms: Synonyms | None = None) -> list[Statement]:
    """The statements of several captions about one scene, each once."""
    graph = SceneGraph(synonyms)
    for caption in captions:
        for scene_tuple in caption:
            graph.add(scene_tuple)
    return graph.tuples


def score(stats: SpiceStatistics, weights: NDArray[np.generic] | None = None) -> float:
    """The corpus score, in [0, 2): the mean of the images' F over all tuples; above 1 only as `per_image` says.

    weights: one number an image, how often it counts; equals repeating the image.
    """
    return weighted_mean(per_image(stats), weights)


def per_image(stats: SpiceStatistics, category: str = "All") -> Floats:
    """F of every image in one category: (N,); 0 where nothing matches or there is nothing to match.

    It exceeds 1 where several of the candidate's statements meet the same one of the references', as in SPICE 1.0.
    """
    column = _column(category)
    precision_N = _quotient(stats.matched_NC[:, column], stats.offered_NC[:, column])
    recall_N = _quotient(stats.matched_NC[:, column], stats.wanted_NC[:, column])
    return _quotient(2 * precision_N * recall_N, precision_N + recall_N)


def by_category(
    stats: SpiceStatistics, weights: NDArray[np.generic] | None = None
) -> dict[str, float]:
    """Mean F in each category, over the images whose references state something in it; "All" over all images.

    A category that no counted image's references have is left out: there is nothing to be right about (SPICE 1.0
    prints NaN there).
    """
    weight_N = check_weights(weights, len(stats.matched_NC))
    found = {"All": score(stats, weight_N)}
    for name in list(CATEGORIES)[1:]:
        counted_N = weight_N * (stats.wanted_NC[:, _column(name)] > 0)
        if counted_N.any():
            found[name] = weighted_mean(per_image(stats, name), counted_N)
    return found


def _column(category: str) -> int:
    if category not in CATEGORIES:
        raise MetricInputError(f'No category "{category}"; there are {", ".join(CATEGORIES)}.')
    return list(CATEGORIES).index(category)


def _meet(one: Statement, other: Statement) -> bool:
    return len(one) == len(other) and all(
        mine.meets(theirs) for mine, theirs in zip(one, other, strict=True)
    )


def _quotient(above: NDArray[np.generic], below: NDArray[np.generic]) -> Floats:
    return np.asarray(
        np.divide(above, below, out=np.zeros(len(above)), where=np.asarray(below) > 0)
    )


def _refuse_unpaired(
    candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> None:
    if len(candidates) != len(references):
        raise MetricInputError(
            f"Tuples of {len(candidates)} candidates but of references of {len(references)} images; give one "
            "candidate an image, in the same order."
        )
    refuse_uncounted(candidates, references)
