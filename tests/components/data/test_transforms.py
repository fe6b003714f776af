from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.transforms import (
    MAX_BYTES,
    UnreadableImage,
    decode,
    mirror,
    picture_sha256,
    read_picture,
    swap_left_right,
)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds ten bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=10)


def half_clear() -> Image.Image:
    picture = Image.new("RGBA", (8, 4), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (4, 0, 8, 4))
    return picture


def test_an_image_of_the_asked_size_is_not_changed() -> None:
    picture = noise(24, 24)
    pixels = decode(encoded(picture), 24)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(picture).transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(60, 30), (30, 60)])
def test_the_centre_square_is_kept(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), "black")
    picture.paste(
        "red", ((width - 30) // 2, (height - 30) // 2, (width + 30) // 2, (height + 30) // 2)
    )
    pixels = decode(encoded(picture), 16)
    assert pixels.shape == (3, 16, 16)
    assert (pixels[0, 1:-1, 1:-1] == 255).all()
    assert (pixels[0] > 200).all()  # the filter sees a little of the black beyond the edge
    assert (pixels[1:] == 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_clear_pixels_become_white(mode: str) -> None:
    if mode == "P":
        picture = half_clear().quantize(4)
    else:
        picture = half_clear().convert(mode)
    right = np.asarray(read_picture(encoded(picture)))[:, 4:]
    left = np.asarray(read_picture(encoded(picture)))[:, :4]
    assert (right == 255).all()
    assert (left < 255).any(axis=-1).all()


def test_a_clear_colour_of_an_opaque_mode_becomes_white() -> None:
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    assert (decode(encoded(picture, transparency=(1, 2, 3)), 4) == 255).all()


def test_half_clear_edges_do_not_darken() -> None:
    # Composited after resizing, the black under the clear half would show at the edge.
    pixels = decode(encoded(half_clear().resize((64, 64), Image.Resampling.NEAREST)), 16)
    assert (pixels[0] >= 250).all()


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP")],
)
def test_every_mode_becomes_rgb(mode: str, file_format: str) -> None:
    grey = Image.new("L", (8, 8), 255).convert("RGB").convert(mode)
    assert np.abs(decode(encoded(grey, file_format), 8).astype(int) - 255).max() <= 2


def test_sixteen_bit_greys_keep_their_steps() -> None:
    greys = np.array([[0, 256 * 64], [256 * 128, 65535]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(greys)), 2)[0].tolist() == [[0, 64], [128, 255]]


def test_a_photo_held_sideways_is_turned_upright() -> None:
    picture = Image.new("RGB", (16, 8), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded(picture, "JPEG", exif=exif)).size == (8, 16)


def bad_images() -> dict[str, bytes]:
    whole = encoded(noise(32, 32))
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"GET / HTTP/1.1\r\n\r\n",
        "psd": b"8BPS\x00\x01" + b"\x00" * 64,
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "gif": encoded(noise(8, 8), "GIF"),
        "tiff": encoded(noise(8, 8), "TIFF"),
        "eps": encoded(noise(8, 8), "EPS"),
        "truncated png": whole[: len(whole) // 2],
        "truncated jpeg": encoded(noise(64, 64), "JPEG")[:900],
        "bomb": png_header(65_500, 65_500),
        "large": png_header(8_001, 8_000),
        "no width": png_header(0, 8),
        "animation": animation(),
        "header alone": png_header(64, 64),
    }


@pytest.mark.parametrize("name", bad_images())
def test_a_bad_image_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnreadableImage):
        decode(bad_images()[name], 16)


def test_an_image_of_too_many_pixels_is_refused_by_its_header() -> None:
    with pytest.raises(UnreadableImage, match="8001x8000 pixels; at most 64000000"):
        read_picture(png_header(8_001, 8_000))


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    with pytest.raises(UnreadableImage, match="at most"):
        read_picture(b"\0" * (MAX_BYTES + 1))


@settings(max_examples=150)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 10**6),
)
def test_damage_ends_in_pixels_or_in_unreadable_image(
    file_format: str, flips: list[tuple[int, int]], cut: int
) -> None:
    image = bytearray(encoded(noise(16, 16), file_format))
    for place, value in flips:
        image[place % len(image)] = value
    with suppress(UnreadableImage):
        assert decode(bytes(image[: 1 + cut % (2 * len(image))]), 8).shape == (3, 8, 8)


def test_two_encodings_of_one_picture_share_their_hash() -> None:
    picture = noise(9, 7)
    one = picture_sha256(read_picture(encoded(picture, compress_level=0)))
    other = picture_sha256(read_picture(encoded(picture, "WEBP", lossless=True)))
    assert one == other


def test_pictures_of_equal_bytes_and_other_shape_differ_in_hash() -> None:
    assert picture_sha256(Image.new("RGB", (2, 8))) != picture_sha256(Image.new("RGB", (8, 2)))


def test_mirroring_swaps_the_columns_and_undoes_itself() -> None:
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    assert mirror(pixels)[0, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert np.array_equal(mirror(mirror(pixels)), pixels)


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a ring left of a star", "a ring right of a star"),
        ("Left, RIGHT and right.", "Right, LEFT and left."),
        ("left-facing fist, rightwards hand", "right-facing fist, leftwards hand"),
        ("left_right arrow", "right_left arrow"),
        ("copyright of a bright leftover", "copyright of a bright leftover"),
        ("", ""),
    ],
)
def test_left_and_right_change_places(caption: str, mirrored: str) -> None:
    assert swap_left_right(caption) == mirrored


WORDS = st.sampled_from(["left", "Right", "RIGHT", "leftwards", "bright", "of", "-", "_", " ", "é"])


@given(st.lists(WORDS | st.text(max_size=3)).map("".join).filter(lambda text: text == text.lower()))
def test_swapping_twice_gives_the_caption_back(caption: str) -> None:
    assert swap_left_right(swap_left_right(caption)) == caption
