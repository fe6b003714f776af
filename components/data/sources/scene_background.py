"""Made backgrounds: smooth colours with a finer texture, so that an object is not simply what is not white."""

from __future__ import annotations

import numpy as np
from PIL import Image

COARSE, FINE = 4, 20
"""Cells along a side of the two grids of noise that are enlarged smoothly."""
STEP = 8
"""Colours are rounded to this, which no eye minds and a PNG halves by."""


def background(dice: np.random.Generator, side_px: int) -> Image.Image:
    """An RGB square: a light hue, drifting across the scene, with a grain of its own."""
    middle = dice.uniform(165, 240, 3)
    drift = dice.uniform(-30, 30, (COARSE, COARSE, 3))
    grain = dice.uniform(-1, 1, (FINE, FINE, 1)) * dice.uniform(0, 16)
    colours = _enlarged(middle + drift, side_px).astype(np.int64)
    colours += _enlarged(128 + np.repeat(grain, 3, axis=2), side_px).astype(np.int64) - 128
    rounded = (colours.clip(0, 255) // STEP * STEP + STEP // 2).astype(np.uint8)
    return Image.fromarray(rounded)


def _enlarged(cells: np.ndarray, side_px: int) -> np.ndarray:
    # Rounded to whole numbers first: Pillow enlarges those by integer arithmetic, the same on every machine.
    small = Image.fromarray(cells.round().clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize((side_px, side_px), Image.Resampling.BICUBIC))
