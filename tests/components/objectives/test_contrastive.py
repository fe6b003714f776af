"""InfoNCE against the formula over one matrix, its mask, blocks, and two and four workers against one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from components.objectives import pairs
from components.objectives.contrastive import info_nce
from tests.components.objectives import two_tower_case


def _pairs(rows: int, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, rows, width, generator=made)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


@pytest.fixture(params=["at once", "in blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits looked at all at once, as few are, and a few rows at a time, as many are."""
    if request.param == "in blocks":
        monkeypatch.setattr(pairs, "CELLS", 0)
        monkeypatch.setattr(pairs, "ROWS", 4)


def _dense(
    image: Tensor, text: Tensor, scale: Tensor, groups: Tensor | None, smoothing: float
) -> Tensor:
    """The loss as its formula reads, over one matrix, by autograd."""
    logits, own = scale * image @ text.T, torch.eye(len(image)).bool()
    groups = torch.arange(len(image)) if groups is None else groups
    kept = (groups[:, None] != groups) | own
    total = torch.zeros(())
    for side in (logits, logits.T):
        log_p = torch.log_softmax(side.masked_fill(~kept, -torch.inf), dim=1)
        spread = log_p.masked_fill(~kept, 0).sum(dim=1) / kept.sum(dim=1)
        total = total - ((1 - smoothing) * log_p[own] + smoothing * spread).mean() / 2
    return total


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("grouped", [False, True])
def test_value_and_gradients_are_those_of_the_whole_matrix(grouped: bool, smoothing: float) -> None:
    groups = torch.tensor([0, 1, 2, 0, 4, 5, 6, 1, 8, 9, 0, 11, 12]) if grouped else None
    found = []
    for loss in (
        lambda *inputs: info_nce(*inputs, smoothing=smoothing),
        partial(_dense, smoothing=smoothing),
    ):
        image, text = (each.requires_grad_() for each in _pairs(13))
        scale = torch.tensor(9.0, requires_grad=True)
        value = loss(image, text, scale, groups)
        (3 * value).backward()
        found.append([value.detach(), image.grad, text.grad, scale.grad])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)


def test_gradients_are_right_by_finite_differences() -> None:
    image, text = (each.double().requires_grad_() for each in _pairs(5, width=3))
    scale = torch.tensor(2.0, dtype=torch.double, requires_grad=True)
    groups = torch.tensor([0, 1, 0, 3, 4])
    assert torch.autograd.gradcheck(
        lambda *inputs: info_nce(*inputs, groups, smoothing=0.1), (image, text, scale), atol=1e-4
    )


def test_logits_are_not_rounded_under_autocast() -> None:
    image, text = _pairs(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(image, text, 100.0)
    assert torch.equal(inside, info_nce(image, text, 100.0))


def test_logits_as_far_apart_as_can_be_give_a_finite_loss() -> None:
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert info_nce(image, -image, 1000.0).item() == pytest.approx(2000.0)


def test_nothing_as_large_as_all_logits_is_made() -> None:
    """So a batch of 2,560 needs an eighth of their 26 MB beside its own gradients."""
    image, text = (each.requires_grad_() for each in _pairs(2560, width=8))
    with torch.profiler.profile(profile_memory=True) as seen:
        info_nce(image, text, 10.0).backward()
    largest = max(event.cpu_memory_usage for event in seen.events() if event.name == "aten::mm")
    assert 0 < largest <= 2560 * 256 * 4


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


@pytest.fixture(scope="module")
def found_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what each of 2, and each of 4, processes found."""
    program, folder = Path(two_tower_case.__file__), tmp_path_factory.mktemp("workers")
    environ = {**os.environ, "PYTHONPATH": str(program.parents[3])}
    command = [sys.executable, str(program), str(folder), "2", "4"]
    subprocess.run(command, env=environ, check=True, timeout=120)
    return folder


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", two_tower_case.CASES)
def test_workers_average_to_the_gradients_of_one(
    found_by_workers: Path, case: str, world: int
) -> None:
    alone = two_tower_case.gradients(case, 0, 1)
    assert {"loss", "image", "text", "log_scale"} <= alone.keys()
    assert all(value.abs().max() > 1e-3 for value in alone.values())
    for rank in range(world):
        together = load_file(found_by_workers / f"{rank}_of_{world}.safetensors")
        for name, value in alone.items():
            torch.testing.assert_close(together[f"{case}/{name}"], value, atol=1e-5, rtol=1e-5)


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
