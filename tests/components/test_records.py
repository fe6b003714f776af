"""A batch cut into parts holds the same rows, whatever the family asked to have in it."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from components.abilities import Learns
from components.catalog import MODELS
from components.records import Batch, Boxes

LEARNING = sorted(name for name, family in MODELS.items() if issubclass(family, Learns))


@pytest.mark.parametrize("name", LEARNING)
def test_parts_of_a_batch_joined_again_are_the_batch(name, build_tiny, batch_for):
    whole = batch_for(build_tiny(name).batch_spec(), 8)
    parts = whole.split(4)
    assert [len(part.tokens_BT) for part in parts] == [2, 2, 2, 2]
    for field in (each.name for each in fields(Batch)):
        values = [getattr(part, field) for part in parts]
        if getattr(whole, field) is None:
            assert values == [None] * 4
        elif field != "boxes":
            assert torch.equal(torch.cat(values), getattr(whole, field)), field


def test_boxes_are_cut_with_their_images_and_keep_all_classes(build_tiny, batch_for):
    whole = batch_for(build_tiny("vild").batch_spec(), 8)
    found = [part.boxes for part in whole.split(2)]
    assert isinstance(whole.boxes, Boxes)
    for name, value in vars(whole.boxes).items():
        joined = [getattr(boxes, name) for boxes in found]
        if name.startswith("class_"):
            assert all(torch.equal(each, value) for each in joined)
        else:
            assert torch.equal(torch.cat(joined), value), name


@pytest.mark.parametrize("parts", [3, 16])
def test_rows_that_do_not_divide_are_refused(tiny_batch, parts):
    with pytest.raises(ValueError, match=f"8 rows cannot be cut into {parts}"):
        tiny_batch.split(parts)
