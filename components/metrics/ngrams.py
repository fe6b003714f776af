"""The core that BLEU, ROUGE-L and CIDEr share: words as numbers in flat arrays, and n-grams as numbers too.

An n-gram's number is made from the number of its first n - 1 words and the last word, so it is exact: no hashing, no
collisions. Shape letters: N images · S sentences (the N candidates first, then every reference) · P pairs of a
sentence and an n-gram in it · G distinct n-grams · W distinct words. Not for scoring.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from components.metrics.metric import MetricInputError

Tokens = Sequence[str]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HIGHEST_ORDER = 4
"""BLEU and CIDEr both stop at 4-grams."""


@dataclass(frozen=True)
class Sentences:
    """All captions of an evaluation as one flat array of word numbers."""

    images: int
    words: tuple[str, ...]
    """Word number -> word."""
    flat: NDArray[np.integer]
    """Word numbers of sentence 0, then of sentence 1, …"""
    starts: Ints
    """(S + 1): sentence s is `flat[starts[s]:starts[s + 1]]`."""
    image_S: Ints
    """The image a sentence belongs to; sentence n < N is image n's candidate."""

    @property
    def length_S(self) -> Ints:
        """Words in each sentence."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, and how often each stands in each sentence."""

    order: int
    parent_G: Ints
    """Number of the first n - 1 words among the (n-1)-grams; 0 for single words."""
    last_G: Ints
    """Number of the last word."""
    candidate: Pairs
    reference: Pairs
    match_P: Ints
    """For each reference pair the candidate pair of the same image and n-gram, or -1."""


@dataclass(frozen=True)
class Pairs:
    """Distinct (sentence, n-gram) pairs, sorted by sentence, then n-gram."""

    sentence_P: Ints
    gram_P: Ints
    count_P: Ints


def encode(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], *, split_spaces: bool
) -> Sentences:
    """Number the words of all captions.

    split_spaces: a token that holds a space of any kind ("3\\u00a01/2") counts as several words, as BLEU and CIDEr
    read it; ROUGE-L reads it as one.

    Raises MetricInputError if there is no image, an image without references, or lists of different lengths.
    """
    refuse_unpaired(candidates, references)
    lists: list[Tokens] = [*candidates, *chain.from_iterable(references)]
    words, flat, lengths = _numbered(lists)
    own = np.arange(len(candidates))
    sentences = Sentences(
        images=len(candidates),
        words=words,
        flat=flat,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        image_S=np.concatenate([own, np.repeat(own, [len(several) for several in references])]),
    )
    return split_at_spaces(sentences) if split_spaces else sentences


def split_at_spaces(sentences: Sentences) -> Sentences:
    """The same with each token that holds a space of any kind as several words; itself where none does."""
    pieces = [word.split() for word in sentences.words]
    if all(parts == [word] for parts, word in zip(pieces, sentences.words, strict=True)):
        return sentences
    words, piece, count_W = _numbered(pieces)
    count_T = count_W[sentences.flat]
    end_T = np.concatenate([[0], np.cumsum(count_T)])
    first_T = (np.cumsum(count_W) - count_W)[sentences.flat]
    within = np.arange(end_T[-1]) - np.repeat(end_T[:-1], count_T)
    flat = piece[np.repeat(first_T, count_T) + within]
    return replace(sentences, words=words, flat=flat, starts=end_T[sentences.starts])


def _numbered(lists: Sequence[Tokens]) -> tuple[tuple[str, ...], Ints, Ints]:
    """Distinct words as they come, the number of every word, and how many words each list has."""
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    every = map(number.__getitem__, chain.from_iterable(lists))
    flat = np.fromiter(every, np.int64, int(lengths.sum()))
    return tuple(number), flat, lengths


def refuse_unpaired(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """Raise MetricInputError unless every image has one candidate and at least one reference, as token lists."""
    refuse_uncounted(candidates, references)
    kinds = {*map(type, candidates), *map(type, chain.from_iterable(references))}
    if not any(issubclass(kind, str) for kind in kinds):
        return
    for index, (candidate, several) in enumerate(zip(candidates, references, strict=True)):
        if any(isinstance(tokens, str) for tokens in (candidate, *several)):
            raise MetricInputError(
                f"Image {index} holds a plain string; tokenise captions first "
                "(components/metrics/tokenise.py)."
            )


def refuse_uncounted(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    """Raise MetricInputError unless every image has one candidate and at least one reference, of whatever kind."""
    if len(candidates) != len(references):
        raise MetricInputError(
            f"{len(candidates)} candidates but references of {len(references)} images; "
            "give one candidate an image, in the same order."
        )
    if not candidates:
        raise MetricInputError("No image at all; a metric needs at least one.")
    for index, several in enumerate(references):
        if not several:
            raise MetricInputError(
                f"Image {index} has no reference; leave the image out or give it a caption."
            )


def compiled() -> ModuleType | None:
    """`gram_kernels`, where numba has been loaded already (METEOR does from some hundred images on); else None."""
    if sys.modules.get("numba") is None:
        return None
    from components.metrics import gram_kernels

    return gram_kernels


def count_grams(sentences: Sentences) -> list[Grams]:
    """The n-grams of orders 1 to 4 with their counts in each sentence."""
    kernels = compiled()
    found: list[Grams] = (kernels.count_grams if kernels else count_by_sorting)(sentences)
    return found


def count_by_sorting(sentences: Sentences) -> list[Grams]:
    """The same with NumPy alone."""
    words = max(len(sentences.words), 1)
    sentence_at = np.repeat(np.arange(len(sentences.image_S)), sentences.length_S)
    position = np.arange(len(sentences.flat))
    room = sentences.starts[1:][sentence_at] - position  # words from here to the sentence's end
    gram = np.zeros_like(position)
    found = []
    for order in range(1, HIGHEST_ORDER + 1):
        fits = room >= order
        position, sentence_at, room = position[fits], sentence_at[fits], room[fits]
        key = gram[fits] * words + sentences.flat[position + order - 1]
        distinct, gram = np.unique(key, return_inverse=True)
        found.append(
            _grams(order, distinct // words, distinct % words, sentences, sentence_at, gram)
        )
    return found


def _grams(
    order: int, parent_G: Ints, last_G: Ints, sentences: Sentences, sentence_at: Ints, gram: Ints
) -> Grams:
    grams = max(len(last_G), 1)
    key_P, count_P = np.unique(sentence_at * grams + gram, return_counts=True)
    pairs = Pairs(key_P // grams, key_P % grams, count_P)
    border = int(np.searchsorted(pairs.sentence_P, sentences.images))
    candidate = Pairs(pairs.sentence_P[:border], pairs.gram_P[:border], count_P[:border])
    reference = Pairs(pairs.sentence_P[border:], pairs.gram_P[border:], count_P[border:])
    wanted_P = sentences.image_S[reference.sentence_P] * grams + reference.gram_P
    return Grams(
        order=order,
        parent_G=parent_G,
        last_G=last_G,
        candidate=candidate,
        reference=reference,
        match_P=find(key_P[:border], wanted_P),
    )


def find(sorted_keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key stands among the sorted ones; -1 where it does not."""
    if not len(sorted_keys):
        return np.full(len(wanted), -1, np.int64)
    place = np.searchsorted(sorted_keys, wanted).clip(max=len(sorted_keys) - 1)
    return np.where(sorted_keys[place] == wanted, place, -1)


def add_up(value_P: NDArray[np.generic], place_P: Ints, places: int) -> Floats:
    """Sum of the values that fall in each place: (places,)."""
    # bincount of nothing answers integers, hence the cast.
    return np.bincount(place_P, weights=value_P, minlength=places).astype(np.float64)


def check_weights(weights: NDArray[np.generic] | None, images: int) -> Floats:
    """One weight an image as float64; ones if none were given.

    A weight says how often the image counts, as in a bootstrap resample. Raises MetricInputError if they are not one
    finite number >= 0 an image, or all are 0.
    """
    if weights is None:
        return np.ones(images)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (images,):
        raise MetricInputError(
            f"weights of shape {given.shape} for {images} images; give ({images},)."
        )
    if not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise MetricInputError("weights must be finite, at least 0, and not all 0.")
    return given


def weighted_mean(value_N: Floats, weights: NDArray[np.generic] | None) -> float:
    """The mean over images, each counted as often as its weight says."""
    weight_N = check_weights(weights, len(value_N))
    return float(value_N @ weight_N / weight_N.sum())
