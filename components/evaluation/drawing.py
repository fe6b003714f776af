"""Detections drawn onto their image, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from components.abilities import Detections

COLOURS = ("#d1242f", "#0969da", "#1a7f37", "#8250df", "#bc4c00", "#0a7d8c", "#bf3989", "#4d5566")
SIDE_PX = 512
"""The picture is drawn at least this large, so that names can be read."""


def draw_detections(
    picture: Image.Image,
    detections: Detections,
    labels: Sequence[str],
    *,
    image_px: int,
    at_least: float = 0.3,
    most: int = 20,
) -> bytes:
    """A PNG of the picture with boxes, names and scores; the best drawn last, on top.

    image_px: side of the square image that was searched, whose pixels the boxes count. at_least: lowest score drawn.
    Raises ValueError for a class without a label.
    """
    chosen = [at for at, score in enumerate(detections.scores_N.tolist()) if score >= at_least]
    square = _square(picture)
    side_px = max(square.width, SIDE_PX)
    canvas = square.resize((side_px, side_px), Image.Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=side_px / 36)
    for at in reversed(chosen[:most]):
        number = int(detections.classes_N[at])
        if not 0 <= number < len(labels):
            raise ValueError(
                f"Class {number} has no label among {len(labels)}; give the names that were asked for."
            )
        box = [value * side_px / image_px for value in detections.boxes_N4[at].tolist()]
        said = f"{labels[number]} {float(detections.scores_N[at]):.2f}"
        _draw(pen, font, box, said, COLOURS[number % len(COLOURS)])
    encoded = BytesIO()
    canvas.save(encoded, format="PNG")
    return encoded.getvalue()


def _square(picture: Image.Image) -> Image.Image:
    """The middle square, which is what a model sees of a picture (`transforms.decode`)."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.convert("RGB").crop((left, top, left + side, top + side))


def _draw(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: Sequence[float],
    said: str,
    colour: str,
) -> None:
    left, top, right, bottom = box
    pen.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=3)
    frame = pen.textbbox((0, 0), said, font=font)
    height = frame[3] + 4
    # Above the box, or within it where the picture ends.
    above = top - height if top >= height else top
    pen.rectangle((left, above, left + frame[2] + 6, above + height), fill=colour)
    pen.text((left + 3, above + 1), said, fill="white", font=font)
