"""Every candidate against each of its references -> METEOR's 23 counts, in plain Python; `kernels.py` compiled."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from math import inf

import numpy as np

from components.metrics.meteor.aligner import MATCHERS, Match, align
from components.metrics.meteor.corpus import Corpus
from components.metrics.meteor.possible import MOST, SHORT, Finder
from components.metrics.ngrams import Ints

CHUNKS = 20
"""Place of the number of chunks among the counts; the matched words of candidate and reference follow."""


FEWEST = 2000
"""References for which compiled code is loaded: it takes some 2 s of a process, plain Python 0.1 ms a reference."""


def count(corpus: Corpus, *, compiled: bool | None = None) -> Ints:
    """The counts of each reference with its image's candidate, (R, 23).

    compiled: by the kernels, which give the same numbers and ask for numba; None: where it is there and pays.
    """
    image_R = corpus.image_S[corpus.images :]
    if compiled is None:
        loaded = f"{__package__}.kernels" in sys.modules
        compiled = loaded or (len(image_R) >= FEWEST and find_spec("numba") is not None)
    if compiled:
        from components.metrics.meteor import kernels

        matched_R19 = kernels.count(corpus)
    else:
        matched_R19 = _in_python(corpus)
    given = [corpus.length_S[image_R], corpus.length_S[corpus.images :]]
    given += [corpus.function_S[image_R], corpus.function_S[corpus.images :]]
    return np.column_stack([*given, matched_R19])


def _in_python(corpus: Corpus) -> Ints:
    finder = Finder(corpus)
    function_V = corpus.function_V.tolist()
    rows = []
    last, candidate = -1, finder.sentence(0)
    for number in range(corpus.images, len(corpus.image_S)):
        image = int(corpus.image_S[number])
        if image != last:
            last, candidate = image, finder.sentence(image)
        reference = finder.sentence(number)
        options = finder.options(candidate, reference, MOST)
        if options is None:
            short = finder.sentence(image, SHORT), finder.sentence(number, SHORT)
            options = finder.options(*short, inf)
        assert options is not None  # nothing is over infinity
        matches, chunks = align(options)
        ours = [function_V[word] for word in candidate.words]
        theirs = [function_V[word] for word in reference.words]
        rows.append([*_tally(matches, ours, theirs), chunks, *_matched(matches)])
    return np.array(rows, np.int64)


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
