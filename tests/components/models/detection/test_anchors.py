"""Anchors: every place by hand, their order, and their fit to what the proposal network says of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.models.detection.anchors import anchors
from components.models.detection.finder import Finder
from components.models.detection.pyramid import build_backbone
from components.objectives.boxes import area, overlap


def test_one_cell_by_hand() -> None:
    """A square of 16 px in the middle of a cell of 8 px, and the same area four times as high as wide."""
    found = anchors(1, 8, [16.0], [1.0, 4.0])
    assert found.tolist() == [[-4.0, -4.0, 12.0, 12.0], [0.0, -12.0, 8.0, 20.0]]


def test_cells_come_row_by_row_and_in_each_the_ratios_within_sizes() -> None:
    sizes, ratios = [8.0, 32.0], [0.5, 1.0, 2.0]
    found = anchors(3, 4, sizes, ratios)
    assert found.shape == (3 * 3 * 2 * 3, 4)
    number = 0
    for row in range(3):
        for column in range(3):
            for size in sizes:
                for ratio in ratios:
                    left, top, right, bottom = found[number].tolist()
                    assert (left + right) / 2 == pytest.approx(4 * column + 2)
                    assert (top + bottom) / 2 == pytest.approx(4 * row + 2)
                    assert (bottom - top) / (right - left) == pytest.approx(ratio)
                    assert math.sqrt((bottom - top) * (right - left)) == pytest.approx(size)
                    number += 1


def test_a_box_of_an_anchors_shape_in_a_cells_middle_is_met_exactly() -> None:
    found = anchors(8, 8, [16.0], [1.0])
    box = torch.tensor([[20.0, 28.0, 36.0, 44.0]])  # centre 28, 36: column 3, row 4
    shared = overlap(found, box)[:, 0]
    assert shared.argmax().item() == 4 * 8 + 3
    assert shared.max().item() == 1


def test_anchors_tile_the_image_and_reach_beyond_its_edge() -> None:
    found = anchors(4, 16, [16.0], [1.0])
    assert (found[:, :2].amin().item(), found[:, 2:].amax().item()) == (0, 64)
    assert area(found).sum().item() == 64 * 64
    wider = anchors(4, 16, [24.0], [1.0])
    assert (wider.amin().item(), wider.amax().item()) == (-4, 68)


def test_the_finders_outputs_stand_in_the_order_of_its_anchors() -> None:
    """Made to answer at one place of one level with one shape, the network names the anchor that is there."""
    finder = Finder(
        build_backbone("conv", 64, (8, 8, 8)), image_px=64, levels=(3, 4), width=8, convs=0,
        scales=(2.0, 3.0), ratios=(0.5, 2.0),
    )  # fmt: skip
    shape, row, column = 2, 1, 2  # the larger scale and the wider ratio; on level 4
    with torch.no_grad():
        for conv in (*finder.pyramid.across.values(), *finder.pyramid.smooth.values()):
            nn.init.dirac_(conv.weight)  # passes its map on as it is
            nn.init.zeros_(conv.bias)
        for conv in (finder.objectness, finder.offsets):
            nn.init.zeros_(conv.weight)
        finder.objectness.weight[shape] = 1.0
        finder.offsets.bias.copy_(torch.arange(16.0))
        seen = torch.zeros(1, 8, 4, 4)
        seen[..., row, column] = 1.0
        # The level below sees what lies above it; here it is told the opposite, and sees nothing.
        below = -F.interpolate(seen, size=(8, 8), mode="nearest")
        found = finder.search({2: torch.zeros(1, 8, 16, 16), 3: below, 4: seen})
    assert found.logits_BN.shape == found.offsets_BN4.shape[:2] == (1, (64 + 16) * 4)
    assert found.anchors_N4.shape == (320, 4)
    assert int((found.logits_BN > 0).sum()) == 1
    at = int(found.logits_BN[0].argmax())
    left, top, right, bottom = found.anchors_N4[at].tolist()
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((40, 24))
    assert (bottom - top) / (right - left) == pytest.approx(0.5)
    assert math.sqrt((bottom - top) * (right - left)) == pytest.approx(48)
    assert found.offsets_BN4[0, at].tolist() == [8, 9, 10, 11]
