"""`possible.py`, `aligner.py` and `counting.py` compiled: the same counts to the bit, some thirty times sooner.

Optional, by numba (extra `metrics`). Compiled code is kept beside this file or in numba's cache folder; the first
process of a machine spends some 20 s on it. Plain loops over flat arrays, since numba compiles those best; what they do
is said in the files they mirror. The arrays are those of `Corpus`.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import njit

from components.metrics.meteor.aligner import BEAM, EXACT, MATCHERS, PARAPHRASE, STEM, SYNONYM
from components.metrics.meteor.corpus import Corpus
from components.metrics.meteor.possible import MOST, SHORT
from components.metrics.ngrams import Ints

MATCH = 5
"""Numbers of a match: matcher, i, width, j, span."""
COUNTED = 4 * MATCHERS + 3
SHIFT, MASK = 6, 63
"""Place of a bit in a bit set: its machine word, and where in that."""

# A path's rank in one number: worth first, then chunks, then distance. At most 1000 words are aligned and 10,000 ways
# weighed, so that a worth stays below 2^12, chunks below 2^11, and a distance below 2^25.
WORTH, CHUNK, LEAST = 1 << 45, 1 << 30, 1 << 57
Phrases = namedtuple("Phrases", "phrase_S1 phrase_O at_O width_O other_E1 other")
"""Which phrases stand where, and which others mean the same: those arrays of `Corpus`."""
SKIP, STAY = -1, -2
"""In place of a match: word i has none; or it belongs to one that began before."""


def count(corpus: Corpus) -> Ints:
    """For each reference the counts of matches, chunks and matched words: (R, 19)."""
    return np.asarray(
        _count(
            corpus.images,
            corpus.image_S,
            corpus.start_S1,
            corpus.word_T,
            corpus.function_V,
            corpus.stem_V,
            corpus.near_V1,
            corpus.near,
            Phrases(*(getattr(corpus, name) for name in Phrases._fields)),
        )
    )


@njit(cache=True, nogil=True)
def _count(images, image_S, start_S1, word_T, function_V, stem_V, near_V1, near, phrases):
    references = len(image_S) - images
    counts = np.zeros((references, COUNTED), np.int64)
    # First occurrence of each phrase in the candidate and in the reference; the one after it; -1 for none.
    first = np.full((2, len(phrases.other_E1) - 1), -1, np.int64)
    after = np.full(len(phrases.phrase_O), -1, np.int64)
    found = np.empty((256, MATCH), np.int64)
    for row in range(references):
        number = images + row
        image = image_S[number]
        ours = word_T[start_S1[image] : start_S1[image + 1]]
        theirs = word_T[start_S1[number] : start_S1[number + 1]]
        _chain(image, len(ours), phrases, first[0], after)
        _chain(number, len(theirs), phrases, first[1], after)
        found, total = _possible(
            found, ours, theirs, stem_V, near_V1, near, phrases, first, after, image, number, MOST
        )
        if total > MOST:
            _unchain(image, phrases, first[0])
            _unchain(number, phrases, first[1])
            ours, theirs = ours[:SHORT], theirs[:SHORT]
            _chain(image, len(ours), phrases, first[0], after)
            _chain(number, len(theirs), phrases, first[1], after)
            found, total = _possible(
                found, ours, theirs, stem_V, near_V1, near, phrases, first, after, image, number,
                1 << 40,
            )  # fmt: skip
        _unchain(image, phrases, first[0])
        _unchain(number, phrases, first[1])
        _align(found, total, ours, theirs, function_V, counts[row])
    return counts


@njit(cache=True, nogil=True)
def _chain(sentence, words, phrases, first, after):
    """Link the occurrences of each phrase in the sentence's first words, by place."""
    phrase_S1, phrase_O = phrases.phrase_S1, phrases.phrase_O
    for o in range(phrase_S1[sentence + 1] - 1, phrase_S1[sentence] - 1, -1):
        if phrases.at_O[o] + phrases.width_O[o] <= words:
            after[o] = first[phrase_O[o]]
            first[phrase_O[o]] = o


@njit(cache=True, nogil=True)
def _unchain(sentence, phrases, first):
    for o in range(phrases.phrase_S1[sentence], phrases.phrase_S1[sentence + 1]):
        first[phrases.phrase_O[o]] = -1


@njit(cache=True, nogil=True)
def _put(found, total, matcher, i, width, j, span):
    """Append a match, in twice the room where there is none."""
    if total == len(found):
        wider = np.empty((2 * total, MATCH), np.int64)
        wider[:total] = found
        found = wider
    found[total, 0] = matcher
    found[total, 1] = i
    found[total, 2] = width
    found[total, 3] = j
    found[total, 4] = span
    return found


@njit(cache=True, nogil=True)
def _possible(
    found, ours, theirs, stem_V, near_V1, near, phrases, first, after, image, number, most
):
    """The matches in the order of their finding, and how many; where over `most`, not all."""
    same = len(ours) == len(theirs) and np.all(ours == theirs)
    total = 0
    for i in range(len(theirs)):
        found, total = _words(found, total, i, ours, theirs[i], stem_V, near_V1, near, same)
        if total > most:
            break
    if same or total > most:
        return found, total
    found, total = _paraphrases(
        found, total, number, len(theirs), phrases, first[0], after, most, False
    )
    return _paraphrases(found, total, image, len(ours), phrases, first[1], after, most, True)


@njit(cache=True, nogil=True)
def _paraphrases(found, total, sentence, words, phrases, first, after, most, is_candidate):
    """Matches of a sentence's phrases with those that mean the same in the other sentence, where `first` has them."""
    phrase_S1, phrase_O, at_O, width_O, other_E1, other = phrases
    for here in range(phrase_S1[sentence], phrase_S1[sentence + 1]):
        if total <= most and at_O[here] + width_O[here] <= words:
            for p in range(other_E1[phrase_O[here]], other_E1[phrase_O[here] + 1]):
                there = first[other[p]]
                while there >= 0:
                    o, c = (there, here) if is_candidate else (here, there)
                    found = _put(found, total, PARAPHRASE, at_O[o], width_O[o], at_O[c], width_O[c])
                    total += 1
                    there = after[there]
    return found, total


@njit(cache=True, nogil=True)
def _words(found, total, i, ours, word, stem_V, near_V1, near, same):
    """Exact, stem and synonym matches of one word of the reference."""
    for j in range(len(ours)):
        if ours[j] == word:
            found = _put(found, total, EXACT, i, 1, j, 1)
            total += 1
    if same:
        return found, total
    stem = stem_V[word]
    if stem >= 0:
        for j in range(len(ours)):
            if ours[j] != word and stem_V[ours[j]] == stem:
                found = _put(found, total, STEM, i, 1, j, 1)
                total += 1
    synonyms = near[near_V1[word] : near_V1[word + 1]]
    if len(synonyms):
        for j in range(len(ours)):
            place = np.searchsorted(synonyms, ours[j])
            if place < len(synonyms) and synonyms[place] == ours[j]:
                found = _put(found, total, SYNONYM, i, 1, j, 1)
                total += 1
    return found, total


@njit(cache=True, nogil=True)
def _align(found, total, ours, theirs, function_V, counted):
    """Beam search, and the tally of the best path into `counted`."""
    words = len(theirs)
    start, order = _by_start(found, total, words)
    size_j = (len(ours) >> SHIFT) + 1
    # Two generations of paths. used: the bit sets of candidate, then reference. taken: a path's last entry in the log.
    used = np.zeros((2, BEAM, size_j + (words >> SHIFT) + 1), np.int64)
    rank = np.full((2, BEAM), LEAST, np.int64)
    end = np.full((2, BEAM), -1, np.int64)
    taken = np.full((2, BEAM), -1, np.int64)
    log = np.empty((words * BEAM, 2), np.int64)
    logged = 0
    fixed = _unambiguous(found, total, start, order, len(ours))
    for i in range(words):
        if fixed[i] >= 0:
            _use(used, 0, 0, found, fixed[i], size_j)
    # The next generation: ranks in order, the paths they come from, the matches they take.
    ranks = np.empty(BEAM, np.int64)
    parents = np.empty(BEAM, np.int64)
    chosen = np.empty(BEAM, np.int64)
    paths, now = 1, 0
    for i in range(words):
        kept = 0
        for path in range(paths):
            kept = _extend(
                ranks, parents, chosen, kept, i, now, path, rank, end, used, size_j, found, order,
                start, fixed,
            )  # fmt: skip
        new = 1 - now
        for k in range(kept):
            path, m = parents[k], chosen[k]
            rank[new, k], end[new, k], taken[new, k] = ranks[k], end[now, path], taken[now, path]
            for word in range(used.shape[2]):
                used[new, k, word] = used[now, path, word]
            if m == SKIP:
                end[new, k] = -1
            elif m != STAY:
                _use(used, new, k, found, m, size_j)
                end[new, k] = found[m, 3] + found[m, 4]
                log[logged, 0], log[logged, 1] = taken[now, path], m
                taken[new, k] = logged
                logged += 1
        paths, now = kept, new
    first = 0
    for path in range(paths):
        rank[now, path] += CHUNK * (end[now, path] != -1)
        if rank[now, path] < rank[now, first]:
            first = path
    counted[4 * MATCHERS] = rank[now, first] % WORTH // CHUNK
    step = taken[now, first]
    while step >= 0:
        _tally(found[log[step, 1]], ours, theirs, function_V, counted)
        step = log[step, 0]


@njit(cache=True, nogil=True)
def _by_start(found, total, words):
    """Matches by where they start in the reference, those of one word as they were found."""
    start = np.zeros(words + 1, np.int64)
    for m in range(total):
        start[found[m, 1] + 1] += 1
    start = np.cumsum(start)
    filled = start[:-1].copy()
    order = np.empty(total, np.int64)
    for m in range(total):
        order[filled[found[m, 1]]] = m
        filled[found[m, 1]] += 1
    return start, order


@njit(cache=True, nogil=True)
def _unambiguous(found, total, start, order, candidate_words):
    """For each word of the reference the match that is sure, or -1."""
    words = len(start) - 1
    cover_i = np.zeros(words, np.int64)
    cover_j = np.zeros(candidate_words, np.int64)
    for m in range(total):
        cover_i[found[m, 1] : found[m, 1] + found[m, 2]] += 1
        cover_j[found[m, 3] : found[m, 3] + found[m, 4]] += 1
    fixed = np.full(words, -1, np.int64)
    for i in range(words):
        if start[i + 1] - start[i] == 1:
            m = order[start[i]]
            alone = cover_i[i] == 1 and cover_j[found[m, 3]] == 1
            if alone and found[m, 2] == 1 and found[m, 4] == 1:
                fixed[i] = m
    return fixed


@njit(cache=True, nogil=True)
def _extend(
    ranks, parents, chosen, kept, i, now, path, rank, end, used, size_j, found, order, start, fixed
):
    """Put among the best what a path becomes at word i; how many there are then."""
    value, ended = rank[now, path], end[now, path]
    if fixed[i] >= 0:
        return _keep(
            ranks, parents, chosen, kept, value + _cost(ended, found, fixed[i]), path, fixed[i]
        )
    if used[now, path, size_j + (i >> SHIFT)] >> (i & MASK) & 1:
        return _keep(ranks, parents, chosen, kept, value, path, STAY)
    for place in range(start[i], start[i + 1]):
        m = order[place]
        if not _overlaps(used, now, path, found, m, size_j):
            kept = _keep(ranks, parents, chosen, kept, value + _cost(ended, found, m), path, m)
            value += abs(i - found[m, 3])
    return _keep(ranks, parents, chosen, kept, value + CHUNK * (ended != -1), path, SKIP)


@njit(cache=True, nogil=True)
def _cost(ended, found, m):
    """What a match adds to a rank: a chunk if it breaks one, less its worth."""
    if found[m, 0] == EXACT:
        worth = found[m, 2] + found[m, 4]
    else:
        worth = (found[m, 2] >> 1) + (found[m, 4] >> 1)
    return CHUNK * (ended not in (-1, found[m, 3])) - WORTH * worth


@njit(cache=True, nogil=True)
def _use(used, now, path, found, m, size_j):
    for j in range(found[m, 3], found[m, 3] + found[m, 4]):
        used[now, path, j >> SHIFT] |= 1 << (j & MASK)
    for i in range(found[m, 1], found[m, 1] + found[m, 2]):
        used[now, path, size_j + (i >> SHIFT)] |= 1 << (i & MASK)


@njit(cache=True, nogil=True)
def _overlaps(used, now, path, found, m, size_j):
    """Whether a word of the match is used on either side."""
    for j in range(found[m, 3], found[m, 3] + found[m, 4]):
        if used[now, path, j >> SHIFT] >> (j & MASK) & 1:
            return True
    for i in range(found[m, 1], found[m, 1] + found[m, 2]):
        if used[now, path, size_j + (i >> SHIFT)] >> (i & MASK) & 1:
            return True
    return False


@njit(cache=True, nogil=True)
def _keep(ranks, parents, chosen, kept, value, path, match):
    """Put a path among the best, behind its equals."""
    if kept == BEAM:
        if value >= ranks[BEAM - 1]:
            return kept
        kept -= 1
    place = kept
    while place > 0 and ranks[place - 1] > value:
        ranks[place] = ranks[place - 1]
        parents[place] = parents[place - 1]
        chosen[place] = chosen[place - 1]
        place -= 1
    ranks[place] = value
    parents[place] = path
    chosen[place] = match
    return kept + 1


@njit(cache=True, nogil=True)
def _tally(match, ours, theirs, function_V, counted):
    at = 4 * match[0]
    for j in range(match[3], match[3] + match[4]):
        counted[at + 2 * function_V[ours[j]]] += 1
    for i in range(match[1], match[1] + match[2]):
        counted[at + 1 + 2 * function_V[theirs[i]]] += 1
    counted[4 * MATCHERS + 1] += match[4]
    counted[4 * MATCHERS + 2] += match[2]
