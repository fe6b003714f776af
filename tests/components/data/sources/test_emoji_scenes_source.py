"""Scenes of cut-outs: exact boxes, classes training must not know, and drawings that keep their set's part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from components.data.sources import emoji
from components.data.sources.counted_names import counted, listed
from components.data.sources.drawings import Concept, read_drawings
from components.data.sources.emoji_scenes import (
    MOST_COVERED,
    _covered,
    _Cutout,
    _place,
    emoji_scenes,
    is_novel,
)
from components.data.transforms import read_picture
from components.records import Sample


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return list(islice(emoji_scenes(), 360))


def facts(samples: list[Sample]) -> str:
    """A checksum of all but the pixels, which may differ in a last bit between platforms."""
    told = [
        {key: value for key, value in asdict(sample).items() if key != "image"}
        for sample in samples
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def corners(box) -> tuple[float, float, float, float]:
    return box.left_px, box.top_px, box.right_px, box.bottom_px


def test_a_scene_depends_on_its_index_alone(scenes: list[Sample]) -> None:
    assert list(islice(emoji_scenes(), 12)) == scenes[:12]
    assert len({sample.image for sample in scenes}) == len(scenes)


def test_a_box_is_the_solid_part_of_what_was_pasted_to_the_pixel() -> None:
    # A drawing whose alpha is 255 within and 30 (not solid) around: the box is the inner part.
    drawn = np.zeros((40, 40, 4), np.uint8)
    drawn[..., 0] = 255
    drawn[5:35, 10:30, 3] = 255
    concept = Concept(key="1", names=("block",), tags=(), group="", family="block")
    cutout = _Cutout(concept=concept, license="MIT", picture=Image.fromarray(drawn[5:35, 10:30]))
    for seed in range(20):
        canvas = Image.new("RGB", (128, 128), "white")
        placed = _place(np.random.default_rng(seed), cutout, canvas, [])
        assert placed is not None
        rows, columns = np.nonzero(np.asarray(canvas)[..., 1] < 200)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert placed.box == tuple(found)


def test_objects_have_their_sizes_and_cover_little_of_each_other(scenes: list[Sample]) -> None:
    for sample in scenes:
        assert 1 <= len(sample.boxes) <= 4
        for number, box in enumerate(sample.boxes):
            left, top, right, bottom = corners(box)
            assert 26 <= max(right - left, bottom - top) <= 61
            assert left >= 0 and right <= 128 and top >= 0 and bottom <= 128
            for other in sample.boxes[:number]:
                assert _covered(corners(other), corners(box)) < MOST_COVERED  # type: ignore[arg-type]


def test_something_other_than_the_background_is_in_each_box(scenes: list[Sample]) -> None:
    for sample in scenes[:60]:
        pixels = np.asarray(read_picture(sample.image)).astype(int)
        # Backgrounds are rounded to one grid of colours; drawings are not.
        drawn = (pixels % 8 != 4).any(axis=-1)
        for box in sample.boxes:
            left, top, right, bottom = map(int, corners(box))
            assert drawn[top:bottom, left:right].mean() > 0.15
            drawn[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
        assert drawn.mean() < 0.01


def test_novel_is_a_matter_of_the_label_and_stands_in_training_images_too(
    scenes: list[Sample],
) -> None:
    for split in ("train", "test"):
        boxes = [box for sample in scenes if sample.split == split for box in sample.boxes]
        assert all(box.novel == is_novel(box.label) for box in boxes)
        assert 0.1 < np.mean([box.novel for box in boxes]) < 0.4


def test_scenes_of_unseen_concepts_each_hold_one_and_no_other_split_does(
    scenes: list[Sample],
) -> None:
    held_out = {
        drawing.concept.names[0]
        for drawing in read_drawings(emoji.MINI)
        if emoji.split("noto", drawing.concept.family) == "test_concept"
    }
    for sample in scenes:
        unseen = [box for box in sample.boxes if box.label in held_out]
        assert bool(unseen) == (sample.split == "test_concept")
        assert all(box.novel for box in unseen)


def test_test_scenes_show_noto_alone_and_training_scenes_never(scenes: list[Sample]) -> None:
    licenses = {
        split: {
            part
            for sample in scenes
            if sample.split == split
            for part in sample.license.split(" AND ")
        }
        for split in ("train", "test")
    }
    assert licenses["test"] == {"Apache-2.0"}
    assert len(licenses["train"]) > 2


def test_captions_count_what_the_boxes_hold(scenes: list[Sample]) -> None:
    several = 0
    for sample in scenes:
        labels = [box.label for box in sample.boxes]
        told = listed({label: labels.count(label) for label in labels})
        assert sample.captions == (told, f"a scene with {told}")
        several += any(f"{number} " in told for number in ("two", "three", "four"))
    assert several > 20


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("fox", 1, "a fox"), ("fox", 2, "two foxes"), ("ant", 1, "an ant"),
        ("unicorn", 1, "a unicorn"), ("cherries", 1, "cherries"), ("cherries", 2, "two cherries"),
        ("octopus", 1, "an octopus"), ("octopus", 3, "three octopuses"), ("wolf", 2, "two wolves"),
        ("sushi", 1, "sushi"), ("sushi", 2, "two sushi"), ("butterfly", 4, "four butterflies"),
        ("monkey", 2, "two monkeys"),
    ],
)  # fmt: skip
def test_names_are_counted_as_english_does(name: str, count: int, said: str) -> None:
    assert counted(name, count) == said


def test_fewer_classes_are_a_subset() -> None:
    few = {box.label for sample in islice(emoji_scenes(classes=8), 100) for box in sample.boxes}
    known = {box.label for sample in islice(emoji_scenes(), 360) for box in sample.boxes}
    assert few <= known
    assert len(few) < len(known)
