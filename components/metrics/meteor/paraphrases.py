"""METEOR's table of paraphrases as a tree of words in flat arrays that can lie on disk.

Letters: K nodes but the root, sorted by (parent, word) · P pairs, by phrase, then as in the table · T words of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.ngrams import Ints, find


@dataclass(frozen=True)
class Paraphrases:
    """Phrases that may stand for each other; a phrase is a node, 0 the root, node n's key `key_K[n - 1]`."""

    key_K: Ints
    """Parent node * words + row of the last word in the lexicon."""
    first_K2: NDArray[np.int32]
    """Where the paraphrases of each node start, the root's first."""
    other_P: NDArray[np.int32]
    """The paraphrase of each pair."""
    words: int
    """Words of the lexicon."""
    longest: int
    """Words of the longest phrase."""

    def occurrences(self, row_T: Ints, room_T: Ints) -> tuple[Ints, Ints, Ints]:
        """Every phrase in the text: (where it starts, its words, its node), by place, then width.

        row_T: rows in the lexicon, -1 for unknown words. room_T: words from here to the sentence's end.
        """
        at = np.flatnonzero(row_T >= 0)
        node = np.zeros(len(at), np.int64)
        found = [(at[:0], at[:0], at[:0])]
        for width in range(1, self.longest + 1):
            key, back = np.unique(node * self.words + row_T[at + width - 1], return_inverse=True)
            node = (find(self.key_K, key) + 1)[back]
            at, node = at[node > 0], node[node > 0]
            found.append((at, np.full(len(at), width), node))
            goes_on = room_T[at] > width
            at, node = at[goes_on], node[goes_on]
            known = row_T[at + width] >= 0
            at, node = at[known], node[known]
        start, widths, nodes = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(start, kind="stable")
        return start[order], widths[order], nodes[order]

    def among(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The table's pairs of these nodes (sorted, distinct) with one another: (phrase, paraphrase), in its order."""
        first = self.first_K2[nodes].astype(np.int64)
        count = self.first_K2[nodes + 1] - first
        phrase = np.repeat(np.arange(len(nodes)), count)
        within = np.arange(len(phrase)) - np.repeat(np.cumsum(count) - count, count)
        other = find(nodes, self.other_P[first[phrase] + within].astype(np.int64))
        return phrase[other >= 0], other[other >= 0]


def build(word_M: Ints, width_F: Ints, pair_P2: Ints, words: int) -> Paraphrases:
    """The tree of phrases whose words' rows lie end to end in `word_M`; pairs of phrase numbers in the table's order."""
    start_F = np.cumsum(width_F) - width_F
    longest = int(width_F.max(initial=0))
    node_F = np.zeros(len(width_F), np.int64)
    keys, nodes = [], 0
    for depth in range(longest):
        deeper = np.flatnonzero(width_F > depth)
        key, back = np.unique(
            node_F[deeper] * words + word_M[start_F[deeper] + depth], return_inverse=True
        )
        node_F[deeper] = nodes + 1 + back
        keys.append(key)
        nodes += len(key)
    source = node_F[pair_P2[:, 0]]
    order = np.argsort(source, kind="stable")
    first = np.searchsorted(source[order], np.arange(nodes + 2))
    return Paraphrases(
        key_K=np.concatenate(keys) if keys else np.zeros(0, np.int64),
        first_K2=first.astype(np.int32),
        other_P=node_F[pair_P2[:, 1]][order].astype(np.int32),
        words=words,
        longest=longest,
    )


def from_phrases(pairs: Sequence[tuple[str, str]], row: dict[str, int]) -> Paraphrases:
    """The tree of a few pairs as words with spaces; `row` gives each word's row in the lexicon."""
    number: dict[str, int] = {}
    for pair in pairs:
        for phrase in pair:
            number.setdefault(phrase, len(number))
    phrases = [[row[word] for word in phrase.split()] for phrase in number]
    return build(
        np.array([word for phrase in phrases for word in phrase], np.int64),
        np.array([len(phrase) for phrase in phrases], np.int64),
        np.array([[number[a], number[b]] for a, b in pairs], np.int64).reshape(-1, 2),
        max(len(row), 1),
    )
