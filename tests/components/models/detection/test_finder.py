"""The proposal network: what it proposes, from whom, what it is taught, and that images of a batch are strangers."""

from __future__ import annotations

import pytest
import torch

from components.models.detection.finder import (
    Finder,
    Found,
    Proposals,
    sample_regions,
    take,
)
from components.models.detection.pyramid import build_backbone
from components.objectives.boxes import encode, overlap
from components.objectives.detection import BACKGROUND, IGNORED
from components.records import Boxes

PX = 64
PROPOSING = {"candidates": 50, "proposals": 6, "threshold": 0.6}


@pytest.fixture
def finder() -> Finder:
    torch.manual_seed(0)
    return Finder(
        build_backbone("conv", PX, (8, 8, 8)), image_px=PX, levels=(3, 4), width=8, convs=1,
        scales=(2.0, 3.0), ratios=(0.5, 1.0, 2.0),
    ).eval()  # fmt: skip


def _pixels(count: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, PX, PX), generator=made, dtype=torch.uint8)


def _boxes(corners: list, classes: list) -> Boxes:
    return Boxes(
        corners_BO4=torch.tensor(corners), classes_BO=torch.tensor(classes),
        class_tokens_CT=torch.zeros(1, 1, dtype=torch.long), class_lengths_C=torch.ones(1),
    )  # fmt: skip


def _found(anchors_N4: list, logits_N: list) -> Found:
    """An answer whose boxes are the anchors themselves."""
    anchors = torch.tensor(anchors_N4)
    return Found(
        maps={}, logits_BN=torch.tensor([logits_N]), offsets_BN4=torch.zeros(1, len(anchors), 4),
        anchors_N4=anchors,
    )  # fmt: skip


@torch.no_grad()
def test_an_image_is_searched_alone_whoever_else_is_in_the_batch(finder: Finder) -> None:
    pixels = _pixels(3)
    together, alone = finder(pixels), finder(pixels[1:2])
    torch.testing.assert_close(together.logits_BN[1:2], alone.logits_BN)
    torch.testing.assert_close(together.offsets_BN4[1:2], alone.offsets_BN4)
    assert not torch.allclose(together.logits_BN[0], together.logits_BN[1])


@torch.no_grad()
def test_proposals_lie_within_the_image_best_first_and_not_on_each_other(finder: Finder) -> None:
    for made in (finder.objectness, finder.offsets):
        torch.nn.init.normal_(made.weight, std=0.5)
    proposals = finder.propose(finder(_pixels(2)), **PROPOSING)
    assert proposals.boxes_BP4.shape == (2, 6, 4)
    for boxes, scores, real in zip(
        proposals.boxes_BP4, proposals.scores_BP, proposals.real_BP, strict=True
    ):
        assert int(real.sum()) > 0
        assert ((boxes >= 0) & (boxes <= PX)).all()
        assert (boxes[real][:, 2:] - boxes[real][:, :2] >= 1).all()
        assert scores[real].tolist() == sorted(scores[real].tolist(), reverse=True)
        shared = overlap(boxes[real], boxes[real]).fill_diagonal_(0)
        assert (shared <= PROPOSING["threshold"]).all()


def test_what_is_left_of_a_few_boxes_by_hand(finder: Finder) -> None:
    """The second lies on the first, the third is beyond the edge, the fifth is not among the candidates."""
    found = _found(
        [[0.0, 0, 20, 20], [1.0, 0, 21, 20], [70.0, 0, 90, 20], [30.0, 30, 80, 50], [0.0, 40, 9, 60]],
        [2.0, 3.0, 4.0, 0.0, -1.0],
    )  # fmt: skip
    proposals = finder.propose(found, candidates=4, proposals=3, threshold=0.5)
    assert proposals.real_BP.tolist() == [[True, True, False]]
    assert proposals.boxes_BP4[0].tolist() == [[1, 0, 21, 20], [30, 30, 64, 50], [0, 0, 0, 0]]
    assert proposals.scores_BP[0].tolist() == pytest.approx([0.9526, 0.5, 0.0], abs=1e-4)


def test_no_gradient_leads_through_proposals(finder: Finder) -> None:
    assert not finder.propose(finder(_pixels(1)), **PROPOSING).boxes_BP4.requires_grad


def test_offsets_that_are_right_cost_nothing_and_only_those_of_objects_count(
    finder: Finder,
) -> None:
    anchors = [[0.0, 0, 20, 20], [40.0, 40, 60, 60]]
    boxes = _boxes([[[0.0, 2, 20, 22], [0, 0, 0, 0]]], [[0, -1]])
    found = _found(anchors, [9.0, -9.0])
    right = encode(boxes.corners_BO4[:, :1], found.anchors_N4[None, :1], (1.0, 1.0, 1.0, 1.0))
    found.offsets_BN4[0, 0] = right[0, 0]
    found.offsets_BN4[0, 1] = 7.0  # of background, which is nowhere
    losses = finder.losses(found, boxes, count=4)
    assert losses["proposals"].item() == pytest.approx(0, abs=1e-6)
    assert losses["objectness"].item() == pytest.approx(0, abs=1e-3)
    wrong = _found(anchors, [-9.0, 9.0])
    losses = finder.losses(wrong, boxes, count=4)
    assert losses["objectness"].item() == pytest.approx(9, abs=1e-2)
    assert losses["proposals"].item() > 0.01


def test_taking_rows_takes_them_of_each_image() -> None:
    boxes = torch.arange(24.0).view(2, 3, 4)
    taken = take(boxes, torch.tensor([[2, 0], [1, 1]]))
    assert taken[:, :, 0].tolist() == [[8, 0], [16, 16]]


def test_objects_themselves_are_regions_and_padding_is_none() -> None:
    torch.manual_seed(0)
    proposals = Proposals(
        boxes_BP4=torch.tensor([[[0.0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]]),
        scores_BP=torch.tensor([[0.9, 0.8, 0.0]]), real_BP=torch.tensor([[True, True, False]]),
    )  # fmt: skip
    boxes = _boxes([[[1.0, 0, 11, 10], [0, 0, 0, 0]]], [[0, -1]])
    regions, assigned, real = sample_regions(proposals, boxes, count=8)
    rows = {
        tuple(box): mark
        for box, mark in zip(regions[0].tolist(), assigned[0].tolist(), strict=True)
    }
    chosen = {
        tuple(box) for box, yes in zip(regions[0].tolist(), real[0].tolist(), strict=True) if yes
    }
    assert (1, 0, 11, 10) in chosen
    assert rows[1, 0, 11, 10] == rows[0, 0, 10, 10] == 0
    assert rows[40, 40, 50, 50] == BACKGROUND
    assert rows[0, 0, 0, 0] == IGNORED
    assert chosen == {(0, 0, 10, 10), (1, 0, 11, 10), (40, 40, 50, 50)}


def test_objects_are_a_quarter_of_the_regions_at_most() -> None:
    torch.manual_seed(0)
    near = torch.tensor([[float(x), 0, 20 + x, 20] for x in range(3)] * 10)[None]
    far = torch.tensor([[40.0, float(y), 44, 4 + y] for y in range(30)])[None]
    proposals = Proposals(
        boxes_BP4=torch.cat([near, far], dim=1), scores_BP=torch.ones(1, 60),
        real_BP=torch.ones(1, 60, dtype=torch.bool),
    )  # fmt: skip
    _, assigned, real = sample_regions(proposals, _boxes([[[0.0, 0, 20, 20]]], [[0]]), count=16)
    assert int(real.sum()) == 16
    assert int((assigned[real] >= 0).sum()) == 4
