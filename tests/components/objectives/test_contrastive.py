"""InfoNCE against the two-line reference, its mask, and two workers against one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from components.objectives.contrastive import info_nce
from tests.components.objectives import two_tower_case


def _pairs(rows: int, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, generator=made)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


def test_loss_is_the_mean_of_two_cross_entropies() -> None:
    image, text = _pairs(12)
    logits, own = 7.5 * image @ text.T, torch.arange(12)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(info_nce(image, text, 7.5), wanted)


def test_loss_does_not_care_which_side_is_called_image() -> None:
    image, text = _pairs(9)
    torch.testing.assert_close(info_nce(image, text, 20.0), info_nce(text, image, 20.0))


def test_features_that_coincide_give_the_log_of_the_batch_size() -> None:
    same = F.normalize(torch.ones(10, 4), dim=1)
    assert info_nce(same, same, 50.0).item() == pytest.approx(math.log(10), abs=1e-5)


def test_a_batch_of_one_gives_nothing_to_tell_apart() -> None:
    image, text = _pairs(1)
    assert info_nce(image, text, 100.0).item() == 0.0


def test_rows_of_one_group_are_no_negatives_of_each_other() -> None:
    image, text = _pairs(6)
    groups = torch.tensor([0, 1, 2, 0, 4, 1])
    logits = 10.0 * image @ text.T
    rows = []
    for side in (logits, logits.T):
        for row in range(6):
            rivals = [at for at in range(6) if at == row or groups[at] != groups[row]]
            rows.append(torch.logsumexp(side[row, rivals], dim=0) - side[row, row])
    torch.testing.assert_close(info_nce(image, text, 10.0, groups), torch.stack(rows).mean())


def test_groups_of_one_row_each_change_nothing() -> None:
    image, text = _pairs(6)
    assert torch.equal(
        info_nce(image, text, 10.0, torch.tensor([5, 9, 2, 7, 1, 0])), info_nce(image, text, 10.0)
    )


def test_a_masked_double_gets_no_gradient_from_its_double() -> None:
    image, text = _pairs(2)
    text = text.clone().requires_grad_()
    info_nce(image, text, 10.0, torch.tensor([3, 3])).backward()
    assert torch.equal(text.grad, torch.zeros_like(text))


def test_two_workers_average_to_the_gradients_of_one(tmp_path: Path) -> None:
    program = Path(two_tower_case.__file__)
    workers = [
        subprocess.Popen(
            [sys.executable, program, tmp_path / "meeting", str(rank), tmp_path / f"{rank}.st"],
            env={**os.environ, "PYTHONPATH": str(program.parents[3])},
        )
        for rank in range(2)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    alone = two_tower_case.gradients(0, 1)
    assert set(alone) == {"loss", "image_tower", "text_tower", "log_scale"}
    assert all(value.abs().max() > 1e-3 for value in alone.values())
    for rank in range(2):
        together = load_file(tmp_path / f"{rank}.st")
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [2, 9])
def test_smoothing_is_pytorchs_label_smoothing_both_ways(rows: int) -> None:
    image, text = _pairs(rows)
    logits, own = 7.5 * image @ text.T, torch.arange(rows)
    wanted = (
        F.cross_entropy(logits, own, label_smoothing=0.1)
        + F.cross_entropy(logits.T, own, label_smoothing=0.1)
    ) / 2
    torch.testing.assert_close(info_nce(image, text, 7.5, smoothing=0.1), wanted)
    torch.testing.assert_close(
        info_nce(image, text, 7.5, torch.arange(rows), smoothing=0.1), wanted
    )


def test_smoothing_spreads_over_the_columns_that_are_no_doubles() -> None:
    image, text = _pairs(5)
    groups = torch.tensor([0, 1, 2, 1, 1])
    logits, rows = 10.0 * image @ text.T, []
    for side in (logits, logits.T):
        for row in range(5):
            kept = [at for at in range(5) if at == row or groups[at] != groups[row]]
            own = torch.tensor([kept.index(row)])
            rows.append(F.cross_entropy(side[row, kept][None], own, label_smoothing=0.1))
    found = info_nce(image, text, 10.0, groups, smoothing=0.1)
    torch.testing.assert_close(found, torch.stack(rows).mean())
