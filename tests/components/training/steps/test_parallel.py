"""Several workers compute what one does, whole copies or slices, and a checkpoint of one goes on in the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist
from torch import nn

from components.records import Batch
from components.training.job import run_job
from components.training.loop import Interrupted, fit
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf
from components.training.steps.parallel import _blocks, _sliced
from components.training.steps.state import begin
from components.training.training_job import TrainingJob
from tests.components.training import group
from tests.components.training.small_clip import CONFIG, jobs

# eps: Adam divides by gradients; where they are all but 0, the order of sums would show at full size.
PLAN = TrainingPlan(
    steps=8, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=4, vocab_size=300,
    eps=1e-3, workers=2, accumulate=2, ema=0.9, lookahead=3, val_batches=1,
)  # fmt: skip
TWO_LAYERS = {**CONFIG, "vision_layers": 2, "text_layers": 2}


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    return jobs(PLAN, tiny_shards, tmp_path, TWO_LAYERS)


def same(one: TrainingJob, other: TrainingJob, tolerance: float) -> None:
    """All tensors of both final checkpoints: weights, moments, averages."""
    for file in ("weights.safetensors", "state.safetensors"):
        here, there = load_file(one.final / file), load_file(other.final / file)
        assert here.keys() == there.keys()
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, rtol=0, atol=tolerance, msg=name)


def test_two_workers_train_what_one_does_in_copies_or_slices_and_any_goes_on_from_the_others_checkpoint(
    make_job, tmp_path
):
    ddp, fsdp = make_job("ddp"), make_job("fsdp", parallel="fsdp")
    to_ddp, to_fsdp = make_job("to_ddp"), make_job("to_fsdp", parallel="fsdp")
    begun = [(replace(to_ddp, plan=fsdp.plan), 5), (replace(to_fsdp, plan=ddp.plan), 5)]
    alone, grown = make_job("alone", workers=1), make_job("grown")
    by_layer = {"optimiser": "lamb", "weight_decay": 0.1}
    lamb, lamb_alone = (
        make_job("lamb", parallel="fsdp", **by_layer),
        make_job("lamb_alone", workers=1, **by_layer),
    )
    run_job(alone)
    run_job(lamb_alone)
    with pytest.raises(Interrupted):
        run_job(replace(grown, plan=alone.plan), stop=lambda step: step == 5)
    ended = [(ddp, 0), (fsdp, 0), (to_ddp, 0), (to_fsdp, 0), (grown, 0), (lamb, 0)]
    group.run_all([*begun, *ended], tmp_path / "two", world=2)
    for other in (fsdp, to_ddp, to_fsdp):
        same(ddp, other, 1e-6)
    same(alone, fsdp, 1e-5)
    same(alone, grown, 1e-5)
    same(lamb_alone, lamb, 1e-5)


def test_four_workers_train_what_one_does(make_job, tmp_path):
    four, alone = make_job("four", workers=4, accumulate=1), make_job("alone", workers=1)
    group.run_all([(four, 0)], tmp_path / "four_processes", world=4)
    run_job(alone)
    same(alone, four, 1e-5)


class Same:
    """One batch, again and again."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch


@pytest.mark.parametrize(
    ("backend", "device"), [("gloo", "cpu"), pytest.param("nccl", "cuda", marks=pytest.mark.gpu)]
)
def test_what_is_cut_and_what_stays_whole_train_on_the_workers_device(
    backend, device, build_tiny, batch_for, tmp_path
):
    # A learnt scalar, frozen parameters and buffers beside what is cut.
    model, plan = build_tiny("clip"), replace(PLAN, workers=1, accumulate=1)
    model.image.requires_grad_(False)
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        loss = _sliced(LossOf(model), torch.device(device))
        tensors = [*loss.parameters(), *loss.buffers()]
        assert {value.device.type for value in tensors} == {device}
        fit(
            begin(model, plan),
            Same(batch_for(model.batch_spec(), 8)),
            plan,
            loss=loss,
            device=device,
        )
    finally:
        dist.destroy_process_group()


class Asked(nn.Linear):
    def read(self) -> None: ...


Asked.__module__ = "components.models.made"


def test_a_block_is_cut_where_it_learns_is_only_called_and_shares_nothing():
    tied = nn.Linear(2, 2)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    plain = nn.Linear(2, 2)
    module = nn.Module()
    module.blocks = nn.ModuleList([plain, Asked(2, 2), frozen, tied])
    module.head = tied
    module.whole = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))])
    assert list(_blocks(module)) == [plain, module.whole[0]]
