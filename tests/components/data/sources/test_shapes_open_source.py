"""Shapes for open-vocabulary detection: which boxes are hidden, and pictures that look as crops do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from components.data.rules import Limits
from components.data.sources.shape_drawing import COLOURS, OUTLINES
from components.data.sources.shapes import is_held_out, scene
from components.data.sources.shapes_open import shapes_open, shapes_views
from components.records import Sample

SCENES = list(islice(shapes_open(), 400))
VIEWS = list(islice(shapes_views(), 600))


def facts(samples: list[Sample]) -> str:
    """A checksum of all but the pixels, which may differ in a last bit between platforms."""
    told = [
        {key: value for key, value in asdict(each).items() if key != "image"} for each in samples
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("samples", "checksum"), [(SCENES, "3a3adb15d23f3624"), (VIEWS, "32f83f3e791b0cf7")]
)
def test_they_are_the_same_everywhere(samples: list[Sample], checksum: str) -> None:
    assert facts(samples) == checksum


def test_boxes_of_held_out_pairs_are_novel_and_stand_in_every_split() -> None:
    for split in ("train", "val", "test"):
        boxes = [box for each in SCENES if each.split == split for box in each.boxes]
        assert all(box.novel == is_held_out(*box.label.split()) for box in boxes)
        assert 0.05 < np.mean([box.novel for box in boxes]) < 0.4
    assert {each.split for each in SCENES} == {"train", "val", "test"}


def test_no_scene_is_one_of_the_scenes_that_hold_pairs_out() -> None:
    others = {scene(index, 1).image for index in range(400)}
    assert not others & {each.image for each in SCENES}


def test_a_view_is_named_by_its_colour_and_shape_in_every_caption() -> None:
    for each in VIEWS:
        colour, shape = each.label.split()
        assert all(colour in caption and shape in caption for caption in each.captions)
        assert len(set(each.captions)) == 5
        assert not any("a orange" in caption for caption in each.captions)
    assert {each.label for each in VIEWS} == {f"{c} {s}" for c in COLOURS for s in OUTLINES}


def test_a_view_shows_its_colour_over_a_good_part_of_the_picture() -> None:
    shares, sides = [], set()
    for each in VIEWS[:200]:
        with Image.open(BytesIO(each.image)) as picture:
            shown = np.asarray(picture).astype(int)
        near = (np.abs(shown - np.array(COLOURS[each.label.split()[0]])) <= 2).all(axis=-1)
        shares.append(near.mean())
        sides.add(len(shown))
    assert min(shares) > 0.02
    assert 0.2 < np.mean(shares) < 0.6
    assert (min(sides), max(sides)) == (Limits().side_px_min, 48)
