"""Every candidate against each of its references -> METEOR's 23 counts, in plain Python; `kernels.py` compiled."""

from __future__ import annotations

from math import inf

import numpy as np

from components.metrics.meteor.aligner import MATCHERS, Match, align
from components.metrics.meteor.corpus import Corpus
from components.metrics.meteor.possible import MOST, SHORT, Finder
from components.metrics.ngrams import Ints

COUNTS = 7 + 4 * MATCHERS
CHUNKS = 20
"""Place of the number of chunks among the counts; the matched words of candidate and reference follow."""


def count(corpus: Corpus) -> Ints:
    """The counts of each reference with its image's candidate, (R, 23)."""
    finder = Finder(corpus)
    references = len(corpus.image_S) - corpus.images
    counts_R23 = np.zeros((references, COUNTS), np.int64)
    function_V = corpus.function_V.tolist()
    candidate = None
    last = -1
    for row in range(references):
        number = corpus.images + row
        image = int(corpus.image_S[number])
        if image != last:
            candidate, last = finder.sentence(image), image
        assert candidate is not None
        reference = finder.sentence(number)
        options = finder.options(candidate, reference, MOST)
        if options is None:
            short = finder.sentence(image, SHORT), finder.sentence(number, SHORT)
            options = finder.options(*short, inf)
        assert options is not None
        matches, chunks = align(options)
        ours, theirs = (
            [function_V[word] for word in side.words] for side in (candidate, reference)
        )
        counts_R23[row, 4:] = [*_tally(matches, ours, theirs), chunks, *_matched(matches)]
    image_R = corpus.image_S[corpus.images :]
    counts_R23[:, 0] = corpus.length_S[image_R]
    counts_R23[:, 1] = corpus.length_S[corpus.images :]
    counts_R23[:, 2] = corpus.function_S[image_R]
    counts_R23[:, 3] = corpus.function_S[corpus.images :]
    return counts_R23


def _tally(matches: list[Match], ours: list[bool], theirs: list[bool]) -> list[int]:
    """For each matcher content words of candidate and reference, then function words of both."""
    tally = [0] * (4 * MATCHERS)
    for matcher, i, width, j, span in matches:
        function_j = sum(ours[j : j + span])
        function_i = sum(theirs[i : i + width])
        tally[4 * matcher] += span - function_j
        tally[4 * matcher + 1] += width - function_i
        tally[4 * matcher + 2] += function_j
        tally[4 * matcher + 3] += function_i
    return tally


def _matched(matches: list[Match]) -> tuple[int, int]:
    return sum(match.span for match in matches), sum(match.width for match in matches)
