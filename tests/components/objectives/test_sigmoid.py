"""SigLIP's loss against its formula over one matrix, and what blocks and doubles change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.objectives import pairs
from components.objectives.sigmoid import sigmoid_loss

GROUPS = torch.tensor([0, 1, 2, 0, 4, 5, 6, 1, 8, 9, 0])


def _inputs() -> list[Tensor]:
    made = torch.Generator().manual_seed(3)
    image, text = F.normalize(torch.randn(2, len(GROUPS), 7, generator=made), dim=-1)
    inputs = [image, text, torch.tensor(6.0), torch.tensor(-2.0)]
    return [each.clone().requires_grad_() for each in inputs]


def _dense(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, groups: Tensor | None
) -> Tensor:
    own = torch.eye(len(image))
    each = -F.logsigmoid((2 * own - 1) * (scale * image @ text.T + bias))
    if groups is not None:
        each = each * ((groups[:, None] != groups) | own.bool())
    return each.sum() / len(image)


@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_value_and_gradients_are_those_of_the_whole_matrix(
    groups: Tensor | None, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows:
        monkeypatch.setattr(pairs, "CELLS", 0)
        monkeypatch.setattr(pairs, "ROWS", rows)
    found = []
    for loss in (sigmoid_loss, _dense):
        inputs = _inputs()
        value = loss(*inputs, groups)
        value.backward()
        found.append([value.detach(), *(each.grad for each in inputs)])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)


def test_pairs_that_share_a_group_do_not_pull_at_each_other() -> None:
    image, text, scale, bias = _inputs()
    same = torch.zeros(len(GROUPS), dtype=torch.int64)
    sigmoid_loss(image, text, scale, bias, same).backward()
    own = torch.sigmoid(-(scale * (image * text).sum(dim=1) + bias))[:, None]
    torch.testing.assert_close(text.grad, -(scale / len(same)) * own * image)


def test_a_loss_without_gradients_has_the_same_value() -> None:
    with torch.no_grad():
        bare = sigmoid_loss(*_inputs(), GROUPS)
    assert torch.equal(bare, sigmoid_loss(*_inputs(), GROUPS).detach())
    assert not bare.requires_grad


def test_siglips_start_costs_each_image_less_than_a_guess_of_its_batch() -> None:
    """With the paper's bias of -10 a batch of strangers costs its positives alone; at 0, all its negatives."""
    image = F.normalize(torch.randn(256, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    scale = torch.tensor(10.0)
    loss = [sigmoid_loss(image, image.flip(0), scale, torch.tensor(bias)) for bias in (-10.0, 0.0)]
    assert loss[0] < 12 < 256 * math.log(2) / 2 < loss[1]
