"""Pictures of any size -> small square PNG files that keep what is clear, clear."""

from __future__ import annotations

from PIL import Image

from components.data.sources.svg import encode_png
from components.data.transforms import read_picture, read_rgba


def square_png(image: bytes, side_px: int) -> bytes:
    """The whole picture as an RGBA PNG, `side_px` a side: resized by its longer side, the shorter padded clear.

    Raises `UnreadableImage`.
    """
    picture = read_rgba(image)
    scale = side_px / max(picture.size)
    # A line stays at least one pixel wide.
    width_px, height_px = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width_px, height_px), Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (side_px, side_px))
    square.paste(small, ((side_px - width_px) // 2, (side_px - height_px) // 2))
    return encode_png(square)


def is_blank(image: bytes) -> bool:
    """Whether nothing is to be seen on white: a drawing that failed, or a white one."""
    return all(low == high for low, high in read_picture(image).getextrema())
