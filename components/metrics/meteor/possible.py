"""Which words and phrases of a candidate may match which of a reference: METEOR's four matchers, in its order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from components.metrics.meteor.aligner import EXACT, PARAPHRASE, STEM, SYNONYM, Match
from components.metrics.meteor.corpus import Corpus

MOST = 10_000
"""Possible matches of a pair of captions; with more of them only the first words are aligned."""
SHORT = 50
"""Words of a caption that are aligned then."""

Places = dict[int, list[int]]


class Sentence(NamedTuple):
    """One caption, ready to be matched."""

    words: list[int]
    stems: list[int]
    word_at: Places
    stem_at: Places
    phrases: list[tuple[int, int, int]]
    """(where, width, phrase), by where, then width."""
    phrase_at: Places


class Finder:
    """Finds the possible matches of any two sentences of a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._word_T = corpus.word_T.tolist()
        self._stem_V = corpus.stem_V.tolist()
        self._near = _rows(corpus.near_V1.tolist(), corpus.near.tolist())
        self._other = _rows(corpus.other_E1.tolist(), corpus.other.tolist())
        columns = (corpus.at_O, corpus.width_O, corpus.phrase_O)
        self._phrases = list(zip(*(column.tolist() for column in columns), strict=True))
        self._width = dict(zip(corpus.phrase_O.tolist(), corpus.width_O.tolist(), strict=True))

    def sentence(self, number: int, most_words: int | None = None) -> Sentence:
        """Sentence `number` of the corpus, or its first words."""
        first, last = self._corpus.start_S1[number : number + 2].tolist()
        words = self._word_T[first:last][:most_words]
        stems = [self._stem_V[word] for word in words]
        first, last = self._corpus.phrase_S1[number : number + 2].tolist()
        phrases = [
            phrase for phrase in self._phrases[first:last] if phrase[0] + phrase[1] <= len(words)
        ]
        phrase_at = _places([phrase for *_, phrase in phrases], [at for at, *_ in phrases])
        return Sentence(words, stems, _places(words), _places(stems), phrases, phrase_at)

    def options(
        self, candidate: Sentence, reference: Sentence, most: float
    ) -> list[list[Match]] | None:
        """For each word of the reference the matches that start there; None if there are over `most`."""
        options: list[list[Match]] = [[] for _ in reference.words]
        same = candidate.words == reference.words
        for i, found in enumerate(options):
            self._words(i, found, candidate, reference, only_exact=same)
            most -= len(found)
            if most < 0:
                return None
        if not same and not self._phrase_matches(options, candidate, reference, most):
            return None
        return options

    def _words(
        self, i: int, found: list[Match], candidate: Sentence, reference: Sentence, only_exact: bool
    ) -> None:
        word = reference.words[i]
        found += [Match(EXACT, i, 1, j, 1) for j in candidate.word_at.get(word, ())]
        if only_exact:
            return
        stem = reference.stems[i]
        if stem >= 0:
            found += [
                Match(STEM, i, 1, j, 1)
                for j in candidate.stem_at.get(stem, ())
                if candidate.words[j] != word
            ]
        near = self._near[word]
        if near:
            places = [j for other in near for j in candidate.word_at.get(other, ())]
            found += [Match(SYNONYM, i, 1, j, 1) for j in sorted(places)]

    def _phrase_matches(
        self, options: list[list[Match]], candidate: Sentence, reference: Sentence, most: float
    ) -> bool:
        """Add the paraphrases of the reference's phrases, then those of the candidate's; False if over `most`."""
        if not (candidate.phrases and reference.phrases):
            return True
        for i, width, phrase in reference.phrases:
            for other in self._other[phrase]:
                for j in candidate.phrase_at.get(other, ()):
                    options[i].append(Match(PARAPHRASE, i, width, j, self._width[other]))
                    most -= 1
            if most < 0:
                return False
        for j, span, phrase in candidate.phrases:
            for other in self._other[phrase]:
                for i in reference.phrase_at.get(other, ()):
                    options[i].append(Match(PARAPHRASE, i, self._width[other], j, span))
                    most -= 1
            if most < 0:
                return False
        return True


def _places(values: Sequence[int], at: Sequence[int] | None = None) -> Places:
    """Where each value stands."""
    places: Places = defaultdict(list)
    for place, value in zip(at if at is not None else range(len(values)), values, strict=True):
        places[value].append(place)
    return dict(places)


def _rows(first: list[int], flat: list[int]) -> list[list[int]]:
    return [flat[start:end] for start, end in pairwise(first)]
