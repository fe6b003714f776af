"""Coloured shapes -> pixels and boxes, with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from components.data.sources.svg import encode_png
from components.records import Box

Points = list[tuple[float, float]]

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 220),
    "yellow": (240, 210, 30),
    "orange": (245, 135, 25),
    "purple": (140, 60, 180),
    "pink": (245, 130, 180),
    "brown": (125, 80, 45),
}
BACKGROUNDS = {
    "white": (244, 244, 244),
    "black": (22, 22, 22),
    "gray": (128, 128, 128),
    "cream": (232, 222, 196),
}
_FINER = 4
"""Drawn this many times larger and averaged down, so that edges are smooth."""


def _round(radius: float) -> Points:
    steps = [2 * math.pi * step / 64 for step in range(64)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in steps]


def _star() -> Points:
    spikes = [(math.pi * (spike / 5 - 0.5), 1.0 if spike % 2 == 0 else 0.42) for spike in range(10)]
    return [(length * math.cos(angle), length * math.sin(angle)) for angle, length in spikes]


def _heart() -> Points:
    """The curve 16 sin³t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the unit square."""
    steps = [2 * math.pi * step / 64 for step in range(64)]
    waves = (
        (1, 13.0),
        (2, -5.0),
        (3, -2.0),
        (4, -1.0),
    )
    return [
        (
            math.sin(t) ** 3,
            -sum(size * math.cos(times * t) for times, size in waves) / 17,
        )
        for t in steps
    ]


_ARM = 0.34
# fmt: off
OUTLINES: dict[str, Points] = {
    "circle": _round(1.0),
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
    "star": _star(),
    "ring": _round(1.0),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)],
}
# fmt: on
"""Each shape around (0, 0), x right and y down, in units of its radius."""
_HOLE = _round(0.55)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape of a scene."""

    colour: str
    shape: str
    x_px: int
    y_px: int
    radius_px: int

    @property
    def name(self) -> str:
        """As one says it: "red circle"."""
        return f"{self.colour} {self.shape}"


def draw(things: Sequence[Thing], background: tuple[int, int, int], side_px: int) -> bytes:
    """The scene as a PNG of `side_px` square; later things cover earlier ones."""
    picture = Image.new("RGB", (side_px * _FINER, side_px * _FINER), background)
    pen = ImageDraw.Draw(picture)
    for thing in things:
        pen.polygon(_placed(thing, OUTLINES[thing.shape], _FINER), fill=COLOURS[thing.colour])
        if thing.shape == "ring":
            pen.polygon(_placed(thing, _HOLE, _FINER), fill=background)
    return encode_png(picture.reduce(_FINER))


def box(thing: Thing) -> Box:
    """The corners of a thing's outline, in pixels rounded to hundredths."""
    xs, ys = zip(*_placed(thing, OUTLINES[thing.shape], 1), strict=True)
    left, top, right, bottom = (
        round(float(edge), 2) for edge in (min(xs), min(ys), max(xs), max(ys))
    )
    return Box(label=thing.name, left_px=left, top_px=top, right_px=right, bottom_px=bottom)


def _placed(thing: Thing, outline: Points, scale: int) -> Points:
    radius = thing.radius_px
    return [
        ((thing.x_px + x * radius) * scale, (thing.y_px + y * radius) * scale) for x, y in outline
    ]
