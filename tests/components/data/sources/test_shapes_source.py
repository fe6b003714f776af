"""Made scenes: the same from their index, and true to what they say of themselves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from components.data.sources.shape_drawing import COLOURS, OUTLINES
from components.data.sources.shapes import is_held_out, scene, shapes_l0, shapes_l1
from components.records import Box, Sample

L0 = [scene(index, 0) for index in range(200)]
L1 = [scene(index, 1) for index in range(400)]


def facts(samples: list[Sample]) -> str:
    """A checksum of all but the pixels, which may differ in a last bit between platforms."""
    told = [
        {key: value for key, value in asdict(sample).items() if key != "image"}
        for sample in samples
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def pixels(sample: Sample) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    with Image.open(BytesIO(sample.image)) as picture:
        return np.asarray(picture).astype(int)


def inside(box: Box, sample: Sample) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    left, top = int(np.floor(box.left_px)), int(np.floor(box.top_px))
    right, bottom = int(np.ceil(box.right_px)), int(np.ceil(box.bottom_px))
    return pixels(sample)[top : bottom + 1, left : right + 1]


@pytest.mark.parametrize(
    ("samples", "checksum"), [(L0, "c4410b943a52bdad"), (L1, "5da3a9d0d7938214")]
)
def test_scenes_are_the_same_everywhere(samples: list[Sample], checksum: str) -> None:
    assert facts(samples) == checksum


def test_a_scene_depends_on_index_level_and_seed_alone() -> None:
    assert scene(7, 1) == scene(7, 1)
    assert scene(7, 1).image != scene(8, 1).image
    assert scene(7, 1).image != scene(7, 1, seed=1).image
    with pytest.raises(ValueError, match="0 and 1"):
        scene(0, 2)


def test_sources_yield_their_scenes_in_order() -> None:
    assert next(shapes_l0()) == L0[0]
    assert next(shapes_l1()) == L1[0]


@pytest.mark.parametrize("samples", [L0, L1])
def test_each_box_holds_its_colour_and_nothing_of_it_lies_outside(samples: list[Sample]) -> None:
    for sample in samples[:150]:
        shown = pixels(sample)
        for box in sample.boxes:
            colour = np.array(COLOURS[box.label.split()[0]])
            same = (np.abs(shown - colour) <= 2).all(axis=-1)
            found = (np.abs(inside(box, sample) - colour) <= 2).all(axis=-1)
            assert found.sum() >= 4
            if len({other.label for other in sample.boxes}) == len(sample.boxes):
                assert found.sum() == same.sum()


@pytest.mark.parametrize("samples", [L0, L1])
def test_captions_questions_and_splits_agree_with_the_scene(samples: list[Sample]) -> None:
    for sample in samples:
        assert len(set(sample.captions)) == 5
        assert 3 <= len(sample.questions) <= 5
        words = " ".join(sample.captions)
        for box in sample.boxes:
            colour, shape = box.label.split()
            assert colour in words
            assert shape in words
        held_out = any(is_held_out(*box.label.split()) for box in sample.boxes)
        assert (sample.split == "test_concept") == held_out
        number = {q.text: q.answers for q in sample.questions}
        if "how many shapes are there ?" in number:
            assert str(len(sample.boxes)) in number["how many shapes are there ?"]


def test_relations_are_those_of_the_boxes() -> None:
    pairs = [sample for sample in L1 if sample.group == "pair"]
    assert len(pairs) > 50
    for sample in pairs:
        first, second = sample.boxes
        relation = sample.captions[3].partition(" is ")[2].partition(" the ")[0]
        assert {
            "left of": first.right_px <= second.left_px,
            "right of": first.left_px >= second.right_px,
            "above": first.bottom_px <= second.top_px,
            "below": first.top_px >= second.bottom_px,
        }[relation]


def test_an_orange_shape_has_its_article() -> None:
    captions = {caption for sample in L1 for caption in sample.captions}
    assert any("an orange" in caption for caption in captions)
    assert not any("a orange" in caption or "an red" in caption for caption in captions)


def test_no_two_scenes_have_the_same_pixels() -> None:
    assert len({sample.image for sample in L0}) == len(L0)
    assert len({sample.image for sample in L1}) == len(L1)


def test_training_sees_every_colour_and_every_shape_but_no_held_out_pair() -> None:
    known = {(c, s) for c in COLOURS for s in OUTLINES if not is_held_out(c, s)}
    assert {colour for colour, _ in known} == set(COLOURS)
    assert {shape for _, shape in known} == set(OUTLINES)
    trained = {tuple(box.label.split()) for s in L0 + L1 if s.split == "train" for box in s.boxes}
    assert trained <= known
    assert len(known) == 54
