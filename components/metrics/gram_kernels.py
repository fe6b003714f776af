"""`ngrams.py`'s counting and `frequencies.py`'s look-up compiled: the same arrays, some five times sooner.

Optional, by numba (extra `metrics`). Loading numba takes longer than it saves on a few thousand images, so these are
taken only where something else, METEOR or a caller, has loaded it: `loaded()`. Where NumPy sorts keys, these sort by
counting: first by word, then by parent, then by sentence, each time leaving equals in their order. Inside, numbers have 32 bits: half the memory to walk.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from components.metrics.ngrams import HIGHEST_ORDER, Grams, Ints, Pairs, Sentences


def count_grams(sentences: Sentences) -> list[Grams]:
    """What `ngrams.count_grams` answers."""
    flat = sentences.flat.astype(np.int32)
    gram_T = np.zeros(len(flat), np.int32)
    parents, words = 1, max(len(sentences.words), 1)
    found = []
    for order in range(1, HIGHEST_ORDER + 1):
        parent_G, last_G, *columns, match_P, border = _count(
            order, flat, sentences.starts, sentences.image_S, sentences.images, gram_T, words, parents
        )  # fmt: skip
        candidate = Pairs(*(column[:border] for column in columns))
        reference = Pairs(*(column[border:] for column in columns))
        found.append(Grams(order, parent_G, last_G, candidate, reference, match_P))
        parents = max(len(parent_G), 1)
    return found


@njit(cache=True, nogil=True)
def _count(order, flat, starts, image_S, images, gram_T, words, parents):
    """One order; `gram_T`, the number of the n-gram that starts at each word, goes from the order below to this one."""
    at, sentence = _places(order, starts)
    last, parent = flat[at + order - 1], gram_T[at]
    sequence = _sorted(_sorted(np.arange(len(at), dtype=np.int32), last, words), parent, parents)
    parent_G, last_G = np.empty_like(at), np.empty_like(at)
    grams = 0
    for a in sequence:
        if grams == 0 or parent[a] != parent_G[grams - 1] or last[a] != last_G[grams - 1]:
            parent_G[grams], last_G[grams] = parent[a], last[a]
            grams += 1
        gram_T[at[a]] = grams - 1
    sequence = _sorted(sequence, sentence, len(starts) - 1)
    sentence_P, gram_P, count_P = np.empty_like(at), np.empty_like(at), np.empty_like(at)
    pairs = border = 0
    for a in sequence:
        gram = gram_T[at[a]]
        if pairs and sentence_P[pairs - 1] == sentence[a] and gram_P[pairs - 1] == gram:
            count_P[pairs - 1] += 1
            continue
        sentence_P[pairs], gram_P[pairs], count_P[pairs] = sentence[a], gram, 1
        pairs += 1
        border += sentence[a] < images
    match_P = _matches(sentence_P[:pairs], gram_P[:pairs], border, image_S, images)
    return (
        parent_G[:grams].astype(np.int64), last_G[:grams].astype(np.int64), sentence_P[:pairs].astype(np.int64),
        gram_P[:pairs].astype(np.int64), count_P[:pairs].astype(np.int64), match_P, border,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _places(order, starts):
    """Where an n-gram starts, and in which sentence."""
    total = 0
    for s in range(len(starts) - 1):
        total += max(starts[s + 1] - starts[s] - order + 1, 0)
    at, sentence = np.empty(total, np.int32), np.empty(total, np.int32)
    total = 0
    for s in range(len(starts) - 1):
        for place in range(starts[s], starts[s + 1] - order + 1):
            at[total], sentence[total] = place, s
            total += 1
    return at, sentence


@njit(cache=True, nogil=True)
def _sorted(sequence, value, buckets):
    """The sequence by `value[place]`, in [0, buckets); equals stay in their order."""
    start = np.zeros(buckets + 1, np.int32)
    for a in sequence:
        start[value[a] + 1] += 1
    for bucket in range(buckets):
        start[bucket + 1] += start[bucket]
    after = np.empty_like(sequence)
    for a in sequence:
        after[start[value[a]]] = a
        start[value[a]] += 1
    return after


@njit(cache=True, nogil=True)
def _matches(sentence_P, gram_P, border, image_S, images):
    """For each reference pair the candidate pair of its image and n-gram, or -1: both lie by n-gram."""
    first = np.zeros(images + 1, np.int64)
    for p in range(border):
        first[sentence_P[p] + 1] += 1
    first = np.cumsum(first)
    match_P = np.full(len(gram_P) - border, -1, np.int64)
    before, c = -1, 0
    for p in range(border, len(gram_P)):
        image = image_S[sentence_P[p]]
        if sentence_P[p] != before:
            before, c = sentence_P[p], first[image]
        while c < first[image + 1] and gram_P[c] < gram_P[p]:
            c += 1
        if c < first[image + 1] and gram_P[c] == gram_P[p]:
            match_P[p - border] = c
    return match_P


def in_references(sentences: Sentences, grams: Grams) -> Ints:
    """What `frequencies.in_references` answers."""
    reference = grams.reference
    return np.asarray(
        _images(sentences.image_S, reference.sentence_P, reference.gram_P, len(grams.last_G))
    )


@njit(cache=True, nogil=True)
def _images(image_S, sentence_P, gram_P, grams):
    """How many images have each n-gram; an image's references lie side by side."""
    last = np.full(grams, -1, np.int64)
    count = np.zeros(grams, np.int64)
    for p in range(len(gram_P)):
        image = image_S[sentence_P[p]]
        if last[gram_P[p]] != image:
            last[gram_P[p]] = image
            count[gram_P[p]] += 1
    return count


@njit(cache=True, nogil=True)
def look_up(keys, first, parent_G, last_G, words):
    """Where the key of each parent and last word stands, -1 where it does not; `first[p]`: where parent p's keys start."""
    found = np.full(len(parent_G), -1, np.int64)
    for g in range(len(parent_G)):
        parent = parent_G[g]
        if parent < 0 or last_G[g] < 0:
            continue
        key = parent * words + last_G[g]
        low, high = first[parent], first[parent + 1]
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < first[parent + 1] and keys[low] == key:
            found[g] = low
    return found
