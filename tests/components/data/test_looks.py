"""Looks: a scaled copy keeps its bits, another picture does not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from components.data.looks import BITS, difference_hash
from components.data.sources.shapes import scene
from components.data.transforms import decode


def _pixels(index: int, side_px: int = 64) -> np.ndarray:
    return decode(scene(index, 1).image, side_px)


@pytest.mark.parametrize("index", range(5))
def test_a_copy_in_another_size_and_brightness_differs_in_few_bits(index: int) -> None:
    pixels = _pixels(index)
    large = Image.fromarray(pixels.transpose(1, 2, 0)).resize((150, 150), Image.Resampling.BICUBIC)
    dimmed = (np.asarray(large).transpose(2, 0, 1) * 0.8).astype(np.uint8)
    assert (difference_hash(pixels) ^ difference_hash(dimmed)).bit_count() <= 24


def test_other_pictures_differ_in_many_bits() -> None:
    looks = [difference_hash(_pixels(index)) for index in range(8)]
    apart = [(one ^ other).bit_count() for one in looks for other in looks if one is not other]
    assert min(apart) > 8
    assert max(apart) <= BITS
