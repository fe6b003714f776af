"""The blind control shows every image another one's answer, and the pixel baseline really looks at pixels."""

from __future__ import annotations

import pytest

from components.data.batches import load_split
from components.evaluation.controls import nearest_pixels, shuffled


@pytest.mark.parametrize("count", [2, 3, 10, 233])
def test_no_image_keeps_its_own_answer(count):
    order = shuffled(count, seed=0)
    assert sorted(order) == list(range(count))
    assert all(index != image for index, image in enumerate(order))


def test_a_seed_gives_one_shuffle_and_another_seed_another():
    assert shuffled(50, seed=1) == shuffled(50, seed=1)
    assert shuffled(50, seed=1) != shuffled(50, seed=2)


def test_an_image_is_its_own_nearest(tiny_shards):
    images = load_split(tiny_shards, "train", 32)
    distinct = [
        images.rows[near].pixels_sha256 == row.pixels_sha256
        for near, row in zip(nearest_pixels(images, images), images.rows, strict=True)
    ]
    assert all(distinct)
