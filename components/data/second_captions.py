"""A second caption for each row of a batch: of its own image, or, half of the time, of another one.

What sentence-image matching learns from (Li et al. 2019, arXiv:1908.03557, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.records import Row

_TRIES = 100


class NoOtherCaption(ValueError):
    """A split in which nearly every image has the same captions: nothing could be told apart."""


def second_captions(
    rows: Sequence[Row], index_B: NDArray[np.int64], randoms: Sequence[np.random.Generator]
) -> tuple[list[str], list[bool]]:
    """One caption for each row of `index_B`, and whether it is of the same image.

    Another image is chosen by image and not by caption, and shares no caption with the row's own: several drawings of
    one thing are called alike, and would be wrong negatives. Raises NoOtherCaption if none is found.
    """
    drawn = [
        _second(rows, int(index), random) for index, random in zip(index_B, randoms, strict=True)
    ]
    return [caption for caption, _ in drawn], [same for _, same in drawn]


def _second(rows: Sequence[Row], index: int, random: np.random.Generator) -> tuple[str, bool]:
    own = rows[index].sample.captions
    if random.random() < 0.5:
        return own[int(random.integers(len(own)))], True
    for _ in range(_TRIES):
        other = rows[int(random.integers(len(rows)))].sample.captions
        if not set(other) & set(own):
            return other[int(random.integers(len(other)))], False
    raise NoOtherCaption(
        f'In {_TRIES} tries no image was found that shares no caption with "{rows[index].sample.id}"; '
        "matching needs images that are described differently."
    )
