"""Boxes, samplers and losses of a two-stage detector, against brute force and numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from components.objectives import detection
from components.objectives.boxes import area, clip, decode, encode, overlap
from components.objectives.detection import (
    BACKGROUND,
    IGNORED,
    assign,
    ensemble,
    image_loss,
    sample,
)


def boxes(count: int, seed: int = 0, side: float = 50.0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=made) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=made) * side / 2], dim=1)


def test_overlap_equals_counting_pixels() -> None:
    one, other = boxes(20).round(), boxes(15, seed=1).round()
    grid = torch.arange(90)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            masks = [
                ((grid >= x[0]) & (grid < x[2]))[None] & ((grid >= x[1]) & (grid < x[3]))[:, None]
                for x in (a, b)
            ]
            shared, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
            assert overlap(one, other)[i, j] == pytest.approx(float(shared / either), abs=1e-6)


def test_a_box_without_area_overlaps_nothing() -> None:
    assert area(torch.tensor([[3.0, 3.0, 1.0, 9.0]])).item() == 0
    assert overlap(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decoding_undoes_encoding_and_weights_scale_the_offsets(weights) -> None:
    one, around = boxes(200), boxes(200, seed=3)
    torch.testing.assert_close(decode(encode(one, around, weights), around, weights), one)
    by_hand = encode(
        torch.tensor([[0.0, 0.0, 20.0, 10.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]]), weights
    )
    expected = torch.tensor([[0.5, 0.0, 2.0, 1.0]])
    expected[:, 2:] = expected[:, 2:].log()
    torch.testing.assert_close(by_hand, expected * torch.tensor(weights))


def test_clipping_keeps_what_is_inside() -> None:
    assert clip(torch.tensor([[-5.0, 2.0, 70.0, 9.0]]), 64).tolist() == [[0, 2, 64, 9]]


def test_assigning_follows_the_thresholds_and_gives_each_object_its_best_box() -> None:
    objects = torch.tensor(
        [[[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0], [0.0, 0.0, 0.0, 0.0]]]
    )
    real = torch.tensor([[True, True, False]])
    found = torch.tensor(
        [
            [
                [0.0, 0.0, 10.0, 8.0],
                [0.0, 0.0, 10.0, 5.0],
                [40.0, 40.0, 50.0, 46.0],
                [70.0, 0.0, 80.0, 9.0],
            ]
        ]
    )
    plain = assign(found, objects, real, low=0.3, high=0.7, best=False)
    assert plain.tolist() == [[0, IGNORED, IGNORED, BACKGROUND]]
    forced = assign(found, objects, real, low=0.3, high=0.7, best=True)
    assert forced.tolist() == [[0, IGNORED, 1, BACKGROUND]]


def test_a_sample_has_its_number_and_share_and_never_what_is_ignored() -> None:
    assigned = torch.full((3, 200), BACKGROUND)
    assigned[0, :50], assigned[1, :5], assigned[:, 150:] = 0, 1, IGNORED
    torch.manual_seed(0)
    chosen = sample(assigned, 32, 0.25)
    assert chosen.sum(dim=1).tolist() == [32, 32, 32]
    assert (chosen & (assigned >= 0)).sum(dim=1).tolist() == [8, 5, 0]
    assert not chosen[:, 150:].any()
    torch.manual_seed(1)
    assert not torch.equal(chosen, sample(assigned, 32, 0.25))


def test_offsets_count_for_objects_alone_and_are_shared_out_over_the_sample() -> None:
    found, wanted = torch.zeros(1, 3, 4), torch.ones(1, 3, 4)
    objects = torch.tensor([[True, False, False]])
    loss = detection.offset_loss(found, wanted, objects, torch.tensor(2), beta=1.0)
    assert loss.item() == pytest.approx(4 * 0.5 / 2)
    none = detection.offset_loss(found, wanted, objects & False, torch.tensor(0))
    assert none.item() == 0


def test_unknown_classes_take_no_part_in_the_softmax() -> None:
    torch.manual_seed(0)
    region, text = F.normalize(torch.randn(5, 8), dim=1), F.normalize(torch.randn(4, 8), dim=1)
    background = torch.randn(8) * 7
    known = torch.tensor([True, True, False, True])
    logits = detection.text_logits(region, text, background, 100.0, known)
    assert (logits[:, 3] == -torch.inf).all()
    few = detection.text_logits(region, text[known], background, 100.0)
    torch.testing.assert_close(logits.softmax(-1)[:, [0, 1, 2, 4]], few.softmax(-1))
    torch.testing.assert_close(
        logits[:, 0], 100 * F.cosine_similarity(region, background.expand(5, -1))
    )


def test_background_is_the_first_class_of_the_text_loss() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    expected = F.cross_entropy(logits, torch.tensor([0, 2]))
    assert torch.equal(detection.text_loss(logits, torch.tensor([BACKGROUND, 1])), expected)


def test_the_image_loss_is_the_l1_worked_by_hand_over_real_proposals() -> None:
    student = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0], [0.0, 1.0], [9.0, 9.0]], requires_grad=True)
    real = torch.tensor([True, True, False])
    loss = image_loss(student, teacher, real)
    assert loss.item() == pytest.approx(((0.6 + 0.2) + (1.0 + 1.0)) / 2)
    loss.backward()
    assert teacher.grad is None
    assert not student.grad[2].any() and student.grad[:2].any()
    assert image_loss(teacher, teacher, real).item() == 0
    assert image_loss(student, teacher, torch.zeros(3).bool()).item() == 0


def test_the_ensemble_is_the_geometric_mean_and_at_weight_one_either_branch() -> None:
    torch.manual_seed(0)
    text, image = torch.rand(6, 4), torch.rand(6, 4)
    base = torch.tensor([True, False, True, False])
    found = ensemble(text, image, base, 2 / 3)
    # The release: the cube root of text times image times the favoured one again.
    favoured = torch.where(base, text, image)
    torch.testing.assert_close(found, (text * image * favoured) ** (1 / 3))
    torch.testing.assert_close(ensemble(text, image, base, 1.0), favoured)
    torch.testing.assert_close(ensemble(text, image, base, 0.0), torch.where(base, image, text))
