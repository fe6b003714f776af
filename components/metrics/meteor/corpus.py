"""The captions of an evaluation as numbers, and all METEOR's data say about their words and phrases.

Letters: N images · S sentences (the N candidates first, then every reference) · T words to align · V distinct words
among them · O occurrences of phrases that have a paraphrase in these captions · E those phrases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from components.metrics.meteor.normalise import Prefixes, normalise
from components.metrics.meteor.resources import Resources
from components.metrics.ngrams import Ints, Tokens, refuse_unpaired

LONGEST = 1000
"""Words of a caption that may be aligned; the ones behind count in its length alone."""


@dataclass(frozen=True)
class Corpus:
    """Captions to align."""

    images: int
    image_S: Ints
    length_S: Ints
    """All words of a sentence."""
    function_S: Ints
    """All function words of a sentence."""
    start_S1: Ints
    """The words to align of sentence s are `word_T[start_S1[s]:start_S1[s + 1]]`."""
    word_T: Ints
    function_V: NDArray[np.bool_]
    stem_V: Ints
    """Number of the stem, -1 where no other word has it."""
    near_V1: Ints
    near: Ints
    """Synonyms of word v, sorted, without itself: `near[near_V1[v]:near_V1[v + 1]]`."""
    phrase_S1: Ints
    """Occurrences in sentence s: `phrase_S1[s]` to `phrase_S1[s + 1]`, by place, then width."""
    phrase_O: Ints
    at_O: Ints
    """Word of the sentence where it starts."""
    width_O: Ints
    other_E1: Ints
    other: Ints
    """Paraphrases of phrase e, in the table's order: `other[other_E1[e]:other_E1[e + 1]]`."""


def prepare(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], resources: Resources
) -> Corpus:
    """All that alignment needs to know. Raises MetricInputError for input no text metric takes."""
    refuse_unpaired(candidates, references)
    sentences = _normalised([*candidates, *chain.from_iterable(references)], resources.prefixes)
    own = np.arange(len(candidates))
    image_S = np.concatenate([own, np.repeat(own, [len(several) for several in references])])
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__
    kept = np.minimum(lengths, LONGEST)
    short = sentences if (kept == lengths).all() else [words[:LONGEST] for words in sentences]
    word_T = np.fromiter(
        map(number.__getitem__, chain.from_iterable(short)), np.int64, int(kept.sum())
    )
    start_S1 = np.concatenate([[0], np.cumsum(kept)])
    words = list(number)
    row_V = resources.lexicon.rows(words)
    function_V = np.fromiter((word in resources.function_words for word in words), bool, len(words))
    function_S = _sums(function_V[word_T], start_S1)
    for place in np.flatnonzero(kept < lengths):
        rest = sentences[place][LONGEST:]
        function_S[place] += sum(word in resources.function_words for word in rest)
    near_V1, near = _synonyms(*resources.lexicon.synsets(words, row_V), len(words))
    return Corpus(
        images=len(candidates),
        image_S=image_S,
        length_S=lengths,
        function_S=function_S,
        start_S1=start_S1,
        word_T=word_T,
        function_V=function_V,
        stem_V=_shared(resources.lexicon.stems(words, row_V, resources.stem)),
        near_V1=near_V1,
        near=near,
        **_phrases(row_V[word_T], start_S1, resources),
    )


def _normalised(lists: Sequence[Tokens], prefixes: Prefixes) -> list[Tokens]:
    """Each as METEOR reads it; what has only letters and digits, nearly every caption, is taken as it is."""
    distinct: set[str] = set().union(*lists)
    plain = {
        word for word in distinct if word.isascii() and word.isalnum() and word == word.lower()
    }
    return [words if plain.issuperset(words) else normalise(words, prefixes) for words in lists]


def _sums(value_T: NDArray[np.bool_], start_S1: Ints) -> Ints:
    total = np.concatenate([[0], np.cumsum(value_T)])
    return np.asarray(total[start_S1[1:]] - total[start_S1[:-1]])


def _shared(stem_V: Ints) -> Ints:
    alone = np.bincount(stem_V)[stem_V] == 1 if len(stem_V) else np.zeros(0, bool)
    return np.where(alone, -1, stem_V)


def _synonyms(word: Ints, synset: Ints, words: int) -> tuple[Ints, Ints]:
    """Pairs of a word and one of its synsets -> the words that share one with it."""
    order = np.argsort(synset, kind="stable")
    word, synset = word[order], synset[order]
    start = np.flatnonzero(np.diff(synset, prepend=-1))
    count = np.diff(start, append=len(synset))
    start, count = start[count > 1], count[count > 1]
    left = np.repeat(np.repeat(start, count), np.repeat(count, count))
    squares = count * count
    within = np.arange(int(squares.sum())) - np.repeat(np.cumsum(squares) - squares, squares)
    side = np.repeat(count, squares)
    one, other = word[left + within // side], word[left + within % side]
    pairs = np.unique((one * words + other)[one != other])
    return np.searchsorted(pairs, np.arange(words + 1) * words), pairs % max(words, 1)


def _phrases(row_T: Ints, start_S1: Ints, resources: Resources) -> dict[str, Ints]:
    sentence_T = np.repeat(np.arange(len(start_S1) - 1), np.diff(start_S1))
    room_T = start_S1[1:][sentence_T] - np.arange(len(row_T))
    at, width, node = resources.paraphrases.occurrences(row_T, room_T)
    nodes, number = np.unique(node, return_inverse=True)
    phrase, other = resources.paraphrases.among(nodes)
    paired = np.zeros(len(nodes), bool)
    paired[phrase] = paired[other] = True
    kept = paired[number]
    at, width, number = at[kept], width[kept], number[kept]
    return {
        "phrase_S1": np.searchsorted(at, start_S1),
        "phrase_O": number,
        "at_O": at - start_S1[sentence_T[at]],
        "width_O": width,
        "other_E1": np.searchsorted(phrase, np.arange(len(nodes) + 1)),
        "other": other,
    }
