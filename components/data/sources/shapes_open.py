"""Made shapes for open-vocabulary detection: pictures a CLIP learns all names from, and scenes that hide some boxes.

As with pictures from the web, a CLIP meets every pair of colour and shape; a detector meets them all too, in scenes that
say nothing of the held-out pairs' boxes. Splits are by index alone, and no scene is one of shapes_l1's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from components.data.sources.shape_drawing import BACKGROUNDS, COLOURS, OUTLINES, Thing, draw
from components.data.sources.shapes import LICENSE, is_held_out, scene
from components.records import Box, Sample

SCENES, VIEWS = 6_000, 3_000
SEED = 1
"""Of the scenes; shapes_l1 has 0."""
_SPLITS = {8: "val", 9: "test"}


def shapes_open(scenes: int = SCENES) -> Iterator[Sample]:
    """Scenes of level 1, 64 px, four fifths for training; the boxes of held-out pairs are novel in every split."""
    return (_scene(index) for index in range(scenes))


def shapes_views(views: int = VIEWS) -> Iterator[Sample]:
    """One shape a picture, of any pair, filling half of it or more: 16 to 48 px, as wide as what a crop is cut from."""
    return (_view(index) for index in range(views))


def _scene(index: int) -> Sample:
    made = scene(index, 1, SEED)
    return replace(
        made,
        id=f"open-{index:06d}",
        split=_split(index),
        origin="shapes_open",
        boxes=tuple(replace(each, novel=_is_novel(each)) for each in made.boxes),
    )


def _view(index: int) -> Sample:
    dice = random.Random(f"shapes views {index}")  # a text is hashed, the same everywhere
    side_px = dice.randint(16, 48)
    radius_px = dice.randint(side_px // 4, side_px // 2)
    x_px, y_px = (side_px // 2 + dice.randint(-side_px // 12, side_px // 12) for _ in range(2))
    thing = Thing(
        colour=dice.choice(list(COLOURS)), shape=dice.choice(list(OUTLINES)),
        x_px=x_px, y_px=y_px, radius_px=radius_px,
    )  # fmt: skip
    background = dice.choice(list(BACKGROUNDS))
    red, green, blue = (channel + dice.randint(-9, 9) for channel in BACKGROUNDS[background])
    colour, shape, name = thing.colour, thing.shape, thing.name
    one, key = f"{'an' if colour == 'orange' else 'a'} {name}", name.replace(" ", "-")
    return Sample(
        id=f"view-{index:06d}",
        image=draw((thing,), (red, green, blue), side_px),
        captions=(
            name,
            one,
            f"there is {one}",
            f"a {shape} that is {colour}",
            f"{one} on a {background} background",
        ),
        split=_split(index),
        concept=key,
        label=name,
        concept_family=key,
        origin="shapes_views",
        license=LICENSE,
        group="view",
        boxes=(),
        questions=(),
    )


def _is_novel(made: Box) -> bool:
    colour, shape = made.label.split()
    return is_held_out(colour, shape)


def _split(index: int) -> str:
    return _SPLITS.get(index % 10, "train")
