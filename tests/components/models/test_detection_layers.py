"""Anchors, RoIAlign, suppression and pyramid against brute force."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.config import ConfigError
from components.models.detection.anchors import anchors
from components.models.detection.nms import best, suppress, suppress_by_class
from components.models.detection.pyramid import Pyramid, build_backbone, side
from components.models.detection.roi_align import roi_align, roi_align_pyramid
from components.objectives.boxes import overlap


def boxes(count: int, seed: int, side_px: float = 60.0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=made) * side_px * 0.7
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=made) * 12], dim=1)


def test_anchors_stand_in_the_middle_of_cells_with_their_areas_and_ratios() -> None:
    found = anchors(4, 8, [16.0, 24.0], [0.5, 1.0, 2.0]).view(4, 4, 2, 3, 4)
    middle = (found[..., :2] + found[..., 2:]) / 2
    assert middle[1, 2, 0, 0].tolist() == [20, 12]
    sides = found[..., 2:] - found[..., :2]
    torch.testing.assert_close(sides.prod(-1)[..., 0, :], torch.full((4, 4, 3), 256.0))
    torch.testing.assert_close(
        (sides[..., 1] / sides[..., 0])[0, 0], torch.tensor([[0.5, 1.0, 2.0]] * 2)
    )


def by_hand(map_CHW: torch.Tensor, box, stride: int, bins: int, samples: int) -> torch.Tensor:
    channels, high, wide = map_CHW.shape
    found = torch.zeros(channels, bins, bins)
    left, top, right, bottom = (float(value) / stride for value in box)
    for row in range(bins):
        for column in range(bins):
            for sub_row in range(samples):
                for sub_column in range(samples):
                    y = top + (bottom - top) * (row + (sub_row + 0.5) / samples) / bins - 0.5
                    x = left + (right - left) * (column + (sub_column + 0.5) / samples) / bins - 0.5
                    y, x = min(max(y, 0), high - 1), min(max(x, 0), wide - 1)
                    y0, x0 = int(y), int(x)
                    y1, x1 = min(y0 + 1, high - 1), min(x0 + 1, wide - 1)
                    dy, dx = y - y0, x - x0
                    found[:, row, column] += (
                        map_CHW[:, y0, x0] * (1 - dy) * (1 - dx)
                        + map_CHW[:, y0, x1] * (1 - dy) * dx
                        + map_CHW[:, y1, x0] * dy * (1 - dx)
                        + map_CHW[:, y1, x1] * dy * dx
                    )
    return found / samples**2


@pytest.mark.parametrize("samples", [1, 2])
def test_roi_align_equals_reading_point_by_point(samples: int) -> None:
    torch.manual_seed(0)
    maps, regions = torch.randn(2, 3, 8, 8), torch.stack([boxes(5, 0), boxes(5, 1)])
    found = roi_align(maps, regions, 8, bins=3, samples=samples)
    assert found.shape == (2, 5, 3, 3, 3)
    for image in range(2):
        for number in range(5):
            expected = by_hand(maps[image], regions[image, number], 8, 3, samples)
            torch.testing.assert_close(found[image, number], expected, rtol=1e-4, atol=1e-5)


def test_roi_align_is_exact_on_a_linear_ramp() -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (2 * x + 3 * y + 1)[None, None]
    box = torch.tensor([[[8.0, 12.0, 40.0, 44.0]]])
    found = roi_align(ramp, box, 4, bins=4, samples=2)[0, 0, 0]
    centre = torch.arange(4) * 2 + 1.0
    expected = 2 * (2 + centre - 0.5)[None, :] + 3 * (3 + centre - 0.5)[:, None] + 1
    torch.testing.assert_close(found, expected)


def test_the_pyramid_reads_each_box_on_the_level_of_its_size() -> None:
    maps = {
        level: torch.full((1, 1, 512 // 2**level, 512 // 2**level), float(level))
        for level in (2, 3, 4, 5)
    }
    regions = torch.tensor(
        [[[0.0, 0.0, side_px, side_px] for side_px in (20, 111, 112, 224, 447, 448)]]
    )
    found = roi_align_pyramid(maps, regions, bins=2)[0, :, 0, 0, 0]
    assert found.tolist() == [2, 2, 3, 4, 4, 5]


def slow(found: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[bool]:
    stays = [False] * len(found)
    for place in sorted(range(len(found)), key=lambda at: (-float(scores[at]), at)):
        others = [at for at in range(len(found)) if stays[at]]
        stays[place] = all(
            overlap(found[place : place + 1], found[at : at + 1]) <= threshold for at in others
        )
    return stays


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression_equals_the_plain_loop_for_many_lists_at_once(threshold: float) -> None:
    lists = torch.stack([boxes(60, seed, side_px=16.0) for seed in range(4)])
    scores = torch.stack(
        [torch.rand(60, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    )
    scores = (scores * 8).round() / 8  # many ties
    found = suppress(lists, scores, threshold)
    for row in range(4):
        assert found[row].tolist() == slow(lists[row], scores[row], threshold)
    assert 0 < found.sum() < found.numel()


def test_what_is_no_box_never_stays_and_suppresses_nothing() -> None:
    same = torch.tensor([[[0.0, 0.0, 9.0, 9.0]] * 3])
    found = suppress(same, torch.tensor([[-torch.inf, 0.2, -torch.inf]]), 0.5)
    assert found.tolist() == [[False, True, False]]


def test_classes_are_suppressed_each_alone() -> None:
    found, scores = boxes(20, 3), torch.rand(20, 3, generator=torch.Generator().manual_seed(9))
    stays = suppress_by_class(found, scores, 0.3)
    for column in range(3):
        assert stays[:, column].tolist() == slow(found, scores[:, column], 0.3)


def test_many_classes_equal_the_lists_of_each_with_ties_and_what_is_no_box() -> None:
    found = torch.cat([boxes(30, 3, side_px=16.0), torch.zeros(2, 4)])
    scores = torch.rand(32, 50, generator=torch.Generator().manual_seed(9))
    scores = ((scores * 4).round() / 4).masked_fill(scores > 0.9, -torch.inf)
    expected = suppress(found.expand(50, -1, -1), scores.T, 0.3).T
    assert torch.equal(suppress_by_class(found, scores, 0.3), expected)
    assert 0 < expected.sum() < expected.numel()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that was made meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple) else (made,):
            if isinstance(each, torch.Tensor):
                held = each.untyped_storage().nbytes() // each.element_size()
                self.numbers = max(self.numbers, held)
        return made


def test_memory_of_suppression_does_not_grow_with_classes_times_pairs_of_boxes() -> None:
    found = boxes(100, 3)
    scores = torch.rand(100, 1203, generator=torch.Generator().manual_seed(9))
    with Largest() as largest:
        best(found, scores, threshold=0.5, most=300)
    assert 100 * 1203 <= largest.numbers < 2 * 100 * 1203


def test_the_best_are_in_order_and_no_more_than_asked_for() -> None:
    found, scores = boxes(20, 3), torch.rand(20, 3, generator=torch.Generator().manual_seed(9))
    kept, marks, classes = best(found, scores, threshold=0.3, most=7)
    assert len(kept) == len(marks) == len(classes) == 7
    stays = suppress_by_class(found, scores, 0.3)
    assert marks.tolist() == sorted(scores[stays].tolist(), reverse=True)[:7]
    for box, mark, number in zip(kept, marks, classes, strict=True):
        at = int((found == box).all(dim=1).nonzero())
        assert scores[at, number] == mark
    everything = best(found, scores, threshold=0.3, most=500)[1]
    assert len(everything) == int(stays.sum())


@pytest.mark.parametrize("image_px", [64, 100])
@pytest.mark.parametrize("name", ["conv", "lite0"])
def test_maps_have_the_sides_their_levels_promise(name: str, image_px: int) -> None:
    backbone = build_backbone(name, image_px, (8, 16, 32)).eval()
    pixels = torch.zeros(1, 3, image_px, image_px, dtype=torch.uint8)
    with torch.no_grad():
        maps = backbone(pixels)
    assert {level: made.shape[1] for level, made in maps.items()} == backbone.widths
    for level, made in maps.items():
        assert made.shape[-2:] == (side(image_px, level),) * 2
    levels = (*backbone.widths, max(backbone.widths) + 1)
    found = Pyramid(backbone.widths, 12, levels)(maps)
    assert [made.shape[1] for made in found.values()] == [12] * 4
    assert [made.shape[-1] for made in found.values()] == [
        side(image_px, level) for level in levels
    ]


def test_a_level_sees_what_lies_above_it() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid({2: 4, 3: 4}, 6, (2,))
    maps = {2: torch.randn(1, 4, 8, 8), 3: torch.randn(1, 4, 4, 4)}
    here = pyramid(maps)[2]
    maps[3] = maps[3] + 1
    assert not torch.allclose(here, pyramid(maps)[2])


def test_a_level_no_backbone_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="3, 4, 5"):
        Pyramid({3: 4, 4: 4, 5: 4}, 6, (2, 3))
