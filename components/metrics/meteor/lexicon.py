"""What METEOR knows of single words, as arrays that can lie on disk: stem and synsets, found by a 64-bit hash.

Letters: W words of the lexicon, sorted by hash · V words asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from components.metrics.meteor.synonyms import detached
from components.metrics.ngrams import Ints

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Lexicon:
    """Known words; a word's row is its place in `hash_W`."""

    hash_W: Hashes
    stem_W: Hashes
    """Hash of the word's stem."""
    own_W: NDArray[np.int32]
    """How many of a word's synsets are its own; the others are its base form's and stand behind them."""
    first_W1: Ints
    synset: NDArray[np.int32]
    """The synsets of word w are `synset[first_W1[w]:first_W1[w + 1]]`."""

    def rows(self, words: Sequence[str]) -> Ints:
        """(V,) the words' rows, -1 for a word it does not know."""
        hash_V = hashes(words)
        if not len(self.hash_W):
            return np.full(len(words), -1, np.int64)
        place = np.searchsorted(self.hash_W, hash_V).clip(max=len(self.hash_W) - 1)
        return np.where(self.hash_W[place] == hash_V, place, -1)

    def stems(self, words: Sequence[str], row_V: Ints, stem: Callable[[str], str]) -> Ints:
        """(V,) stems as small numbers, equal where the stems are equal."""
        hash_V = self.stem_W[row_V] if len(self.stem_W) else np.zeros(len(words), np.uint64)
        unknown = np.flatnonzero(row_V < 0).tolist()
        hash_V[unknown] = hashes([stem(words[place]) for place in unknown])
        return np.unique(hash_V, return_inverse=True)[1].astype(np.int64)

    def synsets(self, words: Sequence[str], row_V: Ints) -> tuple[Ints, Ints]:
        """Pairs of (number of a word, a synset of it). An unknown word has those of the word it is detached to."""
        forms = [
            (place, form)
            for place in np.flatnonzero(row_V < 0).tolist()
            for form in detached(words[place])
        ]
        form_row = self.rows([form for _, form in forms])
        row = row_V.copy()
        count = np.zeros(len(words), np.int64)
        count[row_V >= 0] = np.diff(self.first_W1)[row_V[row_V >= 0]]
        for (place, _), base in zip(forms, form_row.tolist(), strict=True):
            if row[place] < 0 and base >= 0 and self.own_W[base]:
                row[place], count[place] = base, self.own_W[base]
        word = np.repeat(np.arange(len(words)), count)
        within = np.arange(len(word)) - np.repeat(np.cumsum(count) - count, count)
        return word, self.synset[self.first_W1[row[word]] + within].astype(np.int64)


def build(
    words: Sequence[str],
    synsets: Mapping[str, Sequence[int]],
    own: Mapping[str, Sequence[int]],
    stem: Callable[[str], str],
) -> Lexicon:
    """A lexicon of distinct words. synsets: all of a word, its own first; own: only its own."""
    hash_W = hashes(words)
    order = np.argsort(hash_W)
    words = [words[place] for place in order]
    several = [synsets.get(word, ()) for word in words]
    lengths = np.fromiter(map(len, several), np.int64, len(words))
    return Lexicon(
        hash_W=hash_W[order],
        stem_W=hashes([stem(word) for word in words]),
        own_W=np.fromiter((len(own.get(word, ())) for word in words), np.int32, len(words)),
        first_W1=np.concatenate([[0], np.cumsum(lengths)]),
        synset=np.fromiter(chain.from_iterable(several), np.int32, int(lengths.sum())),
    )


def hashes(words: Sequence[str]) -> Hashes:
    """64-bit hashes; two of a million words collide with a chance of one in forty million."""
    digests = (
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for word in words
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
