"""VQA accuracy: how many of the people who were asked gave this answer (Antol et al. 2015, arXiv:1505.00468).

Answers are compared after the normalisation of the official evaluation, here always on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.metric import MetricInputError
from components.metrics.ngrams import Floats, weighted_mean
from components.metrics.vqa_words import ARTICLES, CONTRACTIONS, NUMBERS, PUNCTUATION
from components.records import ANNOTATORS

ENOUGH = 3
"""People whose answer is right beyond doubt."""

_COMMA_IN_A_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def normalise(answer: str) -> str:
    """The answer as the official evaluation compares it.

    Punctuation goes (between letters it becomes a space), full stops go but before a digit, all is lower case, number
    words become digits, articles go, contractions get their apostrophes.

    >>> normalise("The  two-door car, isnt it?")
    "2 door car isn't it"
    """
    words = (NUMBERS.get(word, word) for word in _unpunctuated(answer.strip()).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _unpunctuated(answer: str) -> str:
    found = answer
    number = _COMMA_IN_A_NUMBER.search(answer) is not None
    for sign in PUNCTUATION:
        # As there: a sign that touches a space anywhere goes everywhere, and all go where a number has a comma.
        alone = f"{sign} " in answer or f" {sign}" in answer or number
        found = found.replace(sign, "" if alone else " ")
    return _FULL_STOP.sub("", found)


@dataclass(frozen=True)
class VqaStatistics:
    """How right each answer is."""

    right_N: Floats
    """In [0, 1]."""


def statistics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> VqaStatistics:
    """Compare one answer with the accepted ones of its question, for each question.

    Ten references or more are what so many people said: an answer counts `min(people who said it / 3, 1)`, averaged over
    leaving out each of them in turn. Fewer are a list of right answers, as made questions have: an answer that equals
    one of them counts 1. An empty answer never counts.
    Raises MetricInputError for lists of different lengths, or a question without references.
    """
    if not candidates or len(candidates) != len(references):
        raise MetricInputError(
            f"{len(candidates)} answers to {len(references)} questions; give one a question, and at least one."
        )
    for index, accepted in enumerate(references):
        if not accepted or isinstance(accepted, str):
            raise MetricInputError(
                f"Question {index} has the accepted answers {accepted!r}; give a list of one or more."
            )
    pairs = zip(candidates, references, strict=True)
    return VqaStatistics(right_N=np.array([right(answer, accepted) for answer, accepted in pairs]))


def right(answer: str, accepted: Sequence[str]) -> float:
    """How right one answer is, in [0, 1]: see `statistics`.

    >>> right("two", ["2"] * 3 + ["three"] * 7)
    0.9
    """
    given, known = normalise(answer), [normalise(other) for other in accepted]
    if not given:
        return 0.0
    same = known.count(given)
    if len(known) < ANNOTATORS:
        return float(same > 0)
    others = len(known) - same
    left_out_same = same * min((same - 1) / ENOUGH, 1) if same else 0.0
    return (left_out_same + others * min(same / ENOUGH, 1)) / len(known)


def score(stats: VqaStatistics, weights: NDArray[np.generic] | None = None) -> float:
    """Mean over questions, in [0, 1].

    weights: one number a question, how often it counts.
    """
    return weighted_mean(per_image(stats), weights)


def per_image(stats: VqaStatistics) -> Floats:
    """How right each answer is: (N,)."""
    return stats.right_N
