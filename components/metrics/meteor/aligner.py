"""Possible matches of a candidate with a reference -> the alignment METEOR counts, by beam search.

Behaviour of METEOR 1.5's aligner, its order of ties included; `kernels.py` does the same compiled, to the bit.
Positions are words: i in the reference, j in the candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

BEAM = 40
"""Alignments kept after each word of the reference."""
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
MATCHERS = 4


class Match(NamedTuple):
    """A phrase of the candidate that says what a phrase of the reference says."""

    matcher: int
    i: int
    """Where it starts in the reference."""
    width: int
    """Words of the reference."""
    j: int
    """Where it starts in the candidate."""
    span: int
    """Words of the candidate."""

    @property
    def worth(self) -> int:
        """What the search adds for it: exact words, else half of the words of either side, each rounded down."""
        if self.matcher == EXACT:
            return self.width + self.span
        return self.width // 2 + self.span // 2


# An alignment of the reference's first words, as a plain tuple, since the search makes a million:
#   lost      minus the worth of its matches: less is better
#   chunks    runs of matches that are neighbours on both sides, and have ended
#   distance  of matches from the diagonal
#   end       where the last match ends in the candidate, -1 if the last word of the reference has none
#   used_j    bit set of candidate words
#   used_i    bit set of reference words
#   taken     (all before, the last match), or None
Path = tuple[int, int, int, int, int, int, Any]
_rank = itemgetter(0, 1, 2)


def align(options: Sequence[Sequence[Match]]) -> tuple[list[Match], int]:
    """The chosen matches in the reference's order, and in how many chunks they lie.

    options: for each word of the reference the matches that start there; their order decides ties.
    """
    fixed = _unambiguous(options)
    used_i = sum(1 << i for i in fixed)
    used_j = sum(1 << match.j for match in fixed.values())
    paths: list[Path] = [(0, 0, 0, -1, used_j, used_i, None)]
    for i, matches in enumerate(options):
        if i in fixed:
            paths = [_add(path, fixed[i]) for path in paths]
        else:
            paths = _extend(paths, i, matches)
        paths.sort(key=_rank)
        del paths[BEAM:]
    best = min(((path[0], path[1] + (path[3] >= 0), *path[2:]) for path in paths), key=_rank)
    return _in_order(best[6]), best[1]


def _unambiguous(options: Sequence[Sequence[Match]]) -> dict[int, Match]:
    """Word for word matches of words that nothing else could match."""
    cover_i: dict[int, int] = {}
    cover_j: dict[int, int] = {}
    for matches in options:
        for _, first_i, width, first_j, span in matches:
            for i in range(first_i, first_i + width):
                cover_i[i] = cover_i.get(i, 0) + 1
            for j in range(first_j, first_j + span):
                cover_j[j] = cover_j.get(j, 0) + 1
    alone = [matches[0] for matches in options if len(matches) == 1]
    return {
        match.i: match
        for match in alone
        if match.width == match.span == 1 and cover_i[match.i] == cover_j[match.j] == 1
    }


def _extend(paths: Sequence[Path], i: int, matches: Sequence[Match]) -> list[Path]:
    """What each path becomes with every match that starts at word i and is free, and without any."""
    bits = [(((1 << width) - 1) << i, ((1 << span) - 1) << j) for _, _, width, j, span in matches]
    extended = []
    for path in paths:
        lost, chunks, distance, end, used_j, used_i, taken = path
        if used_i >> i & 1:
            extended.append(path)
            continue
        for match, (bits_i, bits_j) in zip(matches, bits, strict=True):
            if used_i & bits_i or used_j & bits_j:
                continue
            free = (lost, chunks, distance, end, used_j | bits_j, used_i | bits_i, taken)
            extended.append(_add(free, match))
            # Not the new path's but the old one's distance grows: what METEOR does.
            distance += abs(i - match.j)
        extended.append((lost, chunks + (end >= 0), distance, -1, used_j, used_i, taken))
    return extended


def _add(path: Path, match: Match) -> Path:
    lost, chunks, distance, end, used_j, used_i, taken = path
    broken = end not in (-1, match.j)
    after = match.j + match.span
    return (lost - match.worth, chunks + broken, distance, after, used_j, used_i, (taken, match))


def _in_order(taken: Any) -> list[Match]:
    matches = []
    while taken is not None:
        taken, match = taken
        matches.append(match)
    return matches[::-1]
