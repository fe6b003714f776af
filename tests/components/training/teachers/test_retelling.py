"""A teacher's captions among an image's own: as often as their share says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from components.data.batches import SplitImages, load_split
from components.training.teachers.retelling import TextsMissing, retold


@pytest.fixture
def images(tiny_shards) -> SplitImages:
    return load_split(tiny_shards, "train", 32)


def _told(images: SplitImages, file, own: int, share: float) -> list[tuple[str, ...]]:
    rows = [
        replace(row, sample=replace(row.sample, captions=tuple(f"own {n}" for n in range(own))))
        for row in images.rows
    ]
    lines = [json.dumps({"id": row.sample.id, "caption": "told"}) for row in rows]
    file.write_text("\n".join(lines))
    return [row.sample.captions for row in retold(replace(images, rows=rows), file, share).rows]


@pytest.mark.parametrize("own", [1, 2, 5])
@pytest.mark.parametrize("share", [0.05, 0.2, 1 / 3, 0.4, 0.5, 0.9])
def test_the_teachers_caption_is_drawn_as_often_as_its_share(images, tmp_path, own, share):
    for captions in _told(images, tmp_path / "told.jsonl", own, share):
        assert captions.count("told") / len(captions) == pytest.approx(share)
        assert len({captions.count(f"own {n}") for n in range(own)}) == 1


def test_all_is_the_teachers_and_none_is(images, tmp_path):
    file = tmp_path / "told.jsonl"
    assert set(_told(images, file, 2, 1.0)) == {("told",)}
    assert set(_told(images, file, 2, 0.0)) == {("own 0", "own 1")}


def test_an_image_the_teacher_wrote_nothing_of_is_told_by_name(images, tmp_path):
    (tmp_path / "told.jsonl").write_text("")
    with pytest.raises(TextsMissing, match=f'as "{images.rows[0].sample.id}"'):
        retold(images, tmp_path / "told.jsonl", 0.5)
