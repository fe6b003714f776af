"""A loss that is not finite leads back to the last finite checkpoint, past the batch that made it, and not for ever."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.catalog import MODELS
from components.records import Loss
from components.training import progress
from components.training.checkpoints import marker
from components.training.checkpoints.checkpoint import latest
from components.training.checkpoints.rewinding import MOST, number, passed_over
from components.training.job import run_job
from components.training.loop import LossNotFinite
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

CONFIG = {"image_px": 32, "vision_widths": [8, 16], "width": 32, "heads": 2, "dropout": 0.2}
PLAN = TrainingPlan(
    steps=12, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=1, vocab_size=300,
    on_nan="rewind",
)  # fmt: skip


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    """`make_job("run")`: a VirTex of milliseconds in its own folder."""

    def make(name: str, **changes) -> TrainingJob:
        plan = replace(PLAN, **changes)
        return TrainingJob(
            family="virtex",
            config=CONFIG,
            plan=plan,
            shards=tiny_shards.path,
            folder=tmp_path / name,
        )

    return make


@pytest.fixture
def poisoned(monkeypatch):
    """`poisoned(bad)`: VirTex whose loss is NaN where `bad` says so of a batch's image keys; what it was asked for."""

    def poison(bad) -> list[tuple[int, ...]]:
        family, asked = MODELS["virtex"], []
        loss = family.loss

        def poisoned_loss(model, batch) -> Loss:
            asked.append(tuple(batch.keys_B.tolist()))
            made = loss(model, batch)
            return Loss(made.total * math.nan) if bad(asked) else made

        monkeypatch.setattr(family, "loss", poisoned_loss)
        return asked

    return poison


def test_a_batch_that_is_bad_is_passed_over_and_the_rest_is_trained_on(make_job, poisoned):
    asked = poisoned(lambda asked: False)
    run_job(make_job("look", steps=13))
    order = list(asked)
    asked.clear()
    poisoned(lambda asked: asked[-1] == order[5])
    heard = []
    job = make_job("run")
    made = run_job(job, on_step=lambda step, values: heard.append((step, values.get("rewinds"))))
    assert passed_over(job.folder) == [5]
    # Steps 0 to 5, of which the last is bad, and again from the checkpoint of step 4 on, without it.
    assert asked[-14:] == [*order[:6], order[4], *order[6:13]]
    assert heard == [(step, None) for step in range(1, 6)] + [(step, 1.0) for step in range(5, 13)]
    lines = progress.read(job.progress)
    assert [line.step for line in lines] == list(range(1, 13))
    assert [line.values.get("rewinds", 0) for line in lines] == [0] * 4 + [1] * 8
    assert made.step == 12

    def interrupt(step: int, values: object) -> None:
        if step == 10:
            raise InterruptedError

    again = make_job("again")
    with pytest.raises(InterruptedError):
        run_job(again, on_step=interrupt)
    assert run_job(again).digest == made.digest, "what is passed over outlives a restart"


def test_a_training_that_stops_at_nan_may_go_on_by_rewinding(make_job, poisoned):
    poisoned(lambda asked: len(asked) == 3)
    with pytest.raises(LossNotFinite):
        run_job(make_job("run", on_nan="stop"))
    assert passed_over(make_job("run").folder) == []
    assert run_job(make_job("run")).step == 12


def test_a_validation_loss_that_is_not_finite_leads_back_as_the_trainings_own_does(
    make_job, poisoned
):
    # Four steps and a measuring, twice: the tenth is the second measuring.
    poisoned(lambda asked: len(asked) == 10)
    job = make_job("run", val_batches=1, on_nan="stop")
    with pytest.raises(LossNotFinite, match="Step 7 is not finite: val_loss=nan"):
        run_job(job)
    assert latest(job.checkpoints).step == 4, "nothing is kept of weights whose loss is not finite"
    asked = poisoned(lambda asked: len(asked) == 5)
    made = run_job(make_job("run", val_batches=1))
    assert passed_over(job.folder) == [7]
    assert asked[5:8] == asked[:3], "again from the checkpoint of step 4 on"
    assert asked[8] != asked[3], "without the batch of the last step before it"
    assert made.step == 12
    told = {line.step: line.values.get("val_loss") for line in progress.read(job.progress)}
    assert [step for step, value in told.items() if value is not None] == [4, 8, 12]


def test_before_the_first_checkpoint_it_goes_back_to_the_start(make_job, poisoned):
    asked = poisoned(lambda asked: len(asked) == 2)
    assert run_job(make_job("run")).step == 12
    assert asked[2] == asked[0]
    assert asked[3] not in asked[:2]
    assert passed_over(make_job("run").folder) == [1]


def test_what_is_never_finite_ends_after_a_few_batches(make_job, poisoned):
    asked = poisoned(lambda asked: len(asked) > 6)
    job = make_job("run")
    with pytest.raises(LossNotFinite):
        run_job(job)
    assert len(passed_over(job.folder)) == MOST
    assert latest(job.checkpoints).step == 4
    calls = len(asked)
    with pytest.raises(LossNotFinite):
        run_job(job)
    assert len(asked) == calls + 1, "another run of it tries once"


def test_a_checkpoint_whose_weights_are_not_finite_is_no_place_to_go_back_to(make_job, poisoned):
    poisoned(lambda asked: len(asked) == 11)
    job = make_job("run")

    def spoil(step: int, values: object) -> None:
        newest = job.checkpoints / "step-00000008"
        if step != 9 or passed_over(job.folder):
            return
        while not newest.exists():  # a thread writes it
            time.sleep(0.01)
        weights = load_file(newest / "weights.safetensors")
        weights["projection.weight"][0] = math.inf
        save_file(weights, newest / "weights.safetensors")
        content, _ = marker.read(newest)
        about = {key: value for key, value in content.items() if key != "files"}
        marker.write(newest, about, list(content["files"]))

    heard = []
    run_job(job, on_step=lambda step, values: (heard.append(step), spoil(step, values)))
    assert heard == [*range(1, 11), *range(5, 13)]
    weights = load_file(job.final / "weights.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_later_batches_move_up_past_those_that_are_left_out():
    assert [number(step, []) for step in range(3)] == [0, 1, 2]
    assert [number(step, [5, 0, 1]) for step in range(5)] == [2, 3, 4, 6, 7]
