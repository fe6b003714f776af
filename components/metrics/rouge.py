"""ROUGE-L over captions (Lin 2004) with COCO's choices.

Equals pycocoevalcap's: beta 1.2, and the best precision and the best recall may come from different references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.metrics.ngrams import Floats, Ints, Sentences, Tokens, encode, weighted_mean

BETA = 1.2
WORD_BITS = 64
CELLS = 1 << 20
"""Right-hand tokens compared at once: bounds memory to about 20 MB, whatever the captions' length."""


@dataclass(frozen=True)
class RougeStatistics:
    """Best precision and recall of each image's candidate over its references, in [0, 1]."""

    precision_N: Floats
    recall_N: Floats


def statistics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> RougeStatistics:
    """Longest common subsequences of each candidate with its references.

    An empty candidate or reference shares nothing: precision and recall 0.
    Raises MetricInputError for lists of different lengths or an image without references.
    """
    return statistics_from(encode(candidates, references, split_spaces=False))


def statistics_from(sentences: Sentences) -> RougeStatistics:
    """The same from words already numbered, those that hold a space as one."""
    image_R = sentences.image_S[sentences.images :]
    reference_R = np.arange(sentences.images, len(sentences.image_S))
    common_R = _longest_common(sentences, image_R, reference_R)
    precision_R = common_R / np.maximum(sentences.length_S[image_R], 1)
    recall_R = common_R / np.maximum(sentences.length_S[reference_R], 1)
    best = np.zeros((2, sentences.images))
    np.maximum.at(best[0], image_R, precision_R)
    np.maximum.at(best[1], image_R, recall_R)
    return RougeStatistics(precision_N=best[0], recall_N=best[1])


def score(stats: RougeStatistics, weights: NDArray[np.generic] | None = None) -> float:
    """ROUGE-L of the corpus, in [0, 1]: the mean over images.

    weights: one number an image, how often it counts; equals repeating the image.
    """
    return weighted_mean(per_image(stats), weights)


def per_image(stats: RougeStatistics) -> Floats:
    """ROUGE-L of every image: (N,), in [0, 1]."""
    weighted_N = stats.recall_N + BETA**2 * stats.precision_N
    product_N = (1 + BETA**2) * stats.precision_N * stats.recall_N
    return np.divide(product_N, weighted_N, out=np.zeros_like(product_N), where=weighted_N > 0)


def _longest_common(sentences: Sentences, left: Ints, right: Ints) -> Ints:
    """Length of the longest common subsequence of each pair of sentences."""
    length = sentences.length_S
    words = -(-length[right] // WORD_BITS)  # machine words that hold one bit a right-hand token
    order = np.lexsort((-length[left], words))  # like sizes side by side: little padding
    common = np.zeros(len(left), np.int64)
    borders = np.flatnonzero(np.diff(words[order])) + 1
    for group in np.split(order, borders):
        pairs = max(CELLS // (WORD_BITS * max(int(words[group[0]]), 1)), 1)
        for start in range(0, len(group), pairs):
            block = group[start : start + pairs]
            common[block] = _common_of_block(sentences, left[block], right[block])
    return common


def _common_of_block(sentences: Sentences, left: Ints, right: Ints) -> Ints:
    """Bit-parallel dynamic programming (Hyyrö 2004): one bit a right-hand token, one step a left-hand token.

    left: sentence numbers, longest first, so that the pairs still running are always the first ones.
    """
    left_length, right_length = sentences.length_S[left], sentences.length_S[right]
    width = int(right_length.max()) + -int(right_length.max()) % WORD_BITS
    column = np.arange(width)
    inside = column < right_length[:, None]
    at = np.minimum(sentences.starts[right][:, None] + column, len(sentences.flat) - 1)
    tokens = np.where(inside, sentences.flat[at], -1) if width else np.empty((len(left), 0))
    state = np.full((len(left), width // WORD_BITS), ~np.uint64(0))
    for step in range(int(left_length.max())):
        running = int(np.searchsorted(-left_length, -step))
        word = sentences.flat[sentences.starts[left[:running]] + step]
        equal = np.packbits(tokens[:running] == word[:, None], axis=1, bitorder="little")
        _advance(state[:running], equal.view("<u8"))
    return np.asarray(np.bitwise_count(~state).sum(axis=1, dtype=np.int64))


def _advance(state: NDArray[np.uint64], equal: NDArray[np.uint64]) -> None:
    """One step in place, `state = (state + hit) | (state - hit)`, with the sum's carry over machine words."""
    carry = np.zeros(len(state), np.uint64)
    for place in range(state.shape[1]):
        old = state[:, place].copy()
        hit = old & equal[:, place]
        total = old + hit + carry
        carry = ((total < old) | ((total == old) & (carry == 1))).astype(np.uint64)
        state[:, place] = total | (old - hit)
