"""What an image looks like, as bits that a little change does not turn: near-duplicates differ in few of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE


def difference_hash(pixels_CHW: NDArray[np.uint8]) -> int:
    """256 bits, one for each cell of a 16 x 16 grid: whether it is darker than the cell to its right.

    pixels_CHW: RGB. Images of any size can be compared; count the bits that differ with `(one ^ other).bit_count()`.
    A plain area gives zeros, so two nearly blank images look alike.

    >>> difference_hash(np.zeros((3, 40, 40), np.uint8))
    0
    """
    picture = Image.fromarray(pixels_CHW.transpose(1, 2, 0)).convert("L")
    small = np.asarray(picture.resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits((small[:, :-1] < small[:, 1:]).ravel())
    return int.from_bytes(bits.tobytes(), "big")
