"""Encoded images -> pixels, and the one augmentation: a mirrored image whose caption is mirrored with it."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64 * 10**6
"""Below Pillow's own limit of 89 million, so that a bomb is an error here before it is a warning there."""


class UnreadableImage(ValueError):
    """Bytes that are no still PNG, JPEG or WebP image of a sane size."""


class TooManyPixels(UnreadableImage):
    """An image that would take more memory than its bytes tell."""


def read_picture(image: bytes) -> Image.Image:
    """Decode to RGB at the image's own size: upright, and composited on white where it is clear.

    Grey, palette, 16-bit and CMYK pictures become RGB; EXIF orientation is applied, and all else of EXIF is dropped.
    Raises `UnreadableImage` for other formats, damaged or animated files, and decompression bombs.
    """
    return _read(image, _on_white)


def read_rgba(image: bytes) -> Image.Image:
    """Like `read_picture`, but what is clear stays clear: RGBA."""
    return _read(image, _keep_clear)


def _read(image: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if len(image) > MAX_BYTES:
        raise UnreadableImage(f"{len(image)} bytes; at most {MAX_BYTES} are read.")
    try:
        with Image.open(BytesIO(image), formats=FORMATS) as opened:
            _refuse_size(opened)
            opened.load()
            return convert(ImageOps.exif_transpose(opened))
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise TooManyPixels(str(error)) from error
    # Pillow's readers let these through for damaged files; MemoryError and our own mistakes rise.
    except (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        EOFError,
        LookupError,
        OverflowError,
        struct.error,
        zlib.error,
    ) as error:
        raise UnreadableImage(
            f"{error or type(error).__name__}; give a whole PNG, JPEG or WebP file."
        ) from error


def decode(image: bytes, side_px: int) -> NDArray[np.uint8]:
    """Decode to uint8 (3, side_px, side_px), RGB: the centre square, resized with Pillow's bicubic filter.

    Raises `UnreadableImage`, like `read_picture`.
    """
    picture = read_picture(image)
    if picture.size != (side_px, side_px):
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        square = (left, top, left + side, top + side)
        picture = picture.resize((side_px, side_px), Image.Resampling.BICUBIC, box=square)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def picture_sha256(picture: Image.Image) -> str:
    """sha256 of an RGB picture's size and pixels, in hex: equal for two encodings of one picture."""
    size = f"{picture.width}x{picture.height}:".encode()
    return hashlib.sha256(size + picture.tobytes()).hexdigest()


def mirror(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Swap left and right of (..., H, W)."""
    return pixels[..., ::-1].copy()


# A side stands between non-letters ("left-handed", "left_arrow"), with "ward(s)" or without.
_SIDE = re.compile(r"(?<![^\W\d_])(left|right)(?=(?:wards?)?(?![^\W\d_]))", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def swap_left_right(caption: str) -> str:
    """The caption of the mirrored image: "left" for "right" and the reverse, "leftwards" too.

    Its own inverse for words in lower, Capitalised and UPPER case.

    >>> swap_left_right("a ring left of the bright star")
    'a ring right of the bright star'
    """
    return _SIDE.sub(_swap_side, caption)


def _swap_side(match: re.Match[str]) -> str:
    side = match[0]
    other = _OTHER[side.lower()]
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[0].isupper() else other


def _refuse_size(opened: Image.Image) -> None:
    if opened.width * opened.height > MAX_PIXELS:
        raise TooManyPixels(
            f"{opened.width}x{opened.height} pixels; at most {MAX_PIXELS} are decoded."
        )
    frames = getattr(opened, "n_frames", 1)
    if frames != 1:
        raise UnreadableImage(f"an animation of {frames} frames; give a still image.")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # convert("RGB") clips 16-bit greys to white; their upper byte is what an 8-bit screen shows.
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _keep_clear(picture: Image.Image) -> Image.Image:
    return (picture if picture.has_transparency_data else _on_white(picture)).convert("RGBA")
