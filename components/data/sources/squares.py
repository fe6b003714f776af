"""Pictures of any size -> small square PNG files that keep what is clear, clear."""

from __future__ import annotations

import numpy as np
from PIL import Image

from components.data.sources.svg import encode_png
from components.data.transforms import read_picture, read_rgba


def square_png(image: bytes, side_px: int) -> bytes:
    """An encoded picture as `square` makes it. Raises `UnreadableImage`."""
    return square(read_rgba(image), side_px)


def square(picture: Image.Image, side_px: int) -> bytes:
    """All of an RGBA picture as a PNG of `side_px` a side: resized by its longer side, the shorter padded clear."""
    scale = side_px / max(picture.size)
    # A line stays at least one pixel wide.
    width_px, height_px = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width_px, height_px), Image.Resampling.BICUBIC)
    padded = Image.new("RGBA", (side_px, side_px))
    padded.paste(small, ((side_px - width_px) // 2, (side_px - height_px) // 2))
    return encode_png(padded)


def is_blank(image: bytes) -> bool:
    """Whether nothing is to be seen on white: a drawing that failed, or a white one."""
    pixels_HWC = np.asarray(read_picture(image))
    return bool((pixels_HWC == pixels_HWC[0, 0]).all())
