"""The loop: it learns, reports, stops at what is not finite, and goes on as if it had never stopped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from components.abilities import Learns
from components.catalog import MODELS
from components.data.batches import Batches, load_split
from components.records import Batch, Loss
from components.training.checkpoints import tensors
from components.training.checkpoints.restoring import restore
from components.training.loop import Interrupted, LossNotFinite, fit, step_seed
from components.training.plan import TrainingPlan
from components.training.steps.state import begin

LEARNING = sorted(name for name, family in MODELS.items() if issubclass(family, Learns))


class Line(nn.Module):
    """The smallest that learns: mean of dropped-out tokens against a weight; NaN from a step on, if asked."""

    def __init__(self, nan_from: int | None = None, *, only_gradient: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5))
        self.drop = nn.Dropout(0.5)
        self.calls = self.clamps = 0
        self.nan_from, self.only_gradient = nan_from, only_gradient

    def loss(self, batch: Batch) -> Loss:
        self.calls += 1
        target = batch.tokens_BT.float().mean()
        error = (self.drop(self.weight) - target).square().mean()
        if self.nan_from is not None and self.calls > self.nan_from:
            # sqrt at 0 is finite, its slope is not.
            error = (self.weight * 0).sqrt().sum() if self.only_gradient else error * math.nan
        return Loss(error, {"error": error, "target": target})

    def param_groups(self):
        return [{"name": "all", "params": [self.weight], "lr_scale": 1.0, "weight_decay": True}]

    def after_step(self) -> None:
        self.clamps += 1


class Numbers:
    """Batches whose tokens are their step."""

    def batch(self, step: int) -> Batch:
        one = torch.zeros(2, dtype=torch.int64)
        return Batch(
            pixels_BCHW=torch.zeros(2, 3, 1, 1, dtype=torch.uint8),
            tokens_BT=torch.full((2, 1), step),
            lengths_B=one,
            groups_B=one,
            keys_B=one,
            prompts_B=one,
        )


PLAN = TrainingPlan(
    steps=10, batch_size=2, warmup_steps=2, report_every=4, checkpoint_every=3, lr=0.1
)


def test_reports_and_checkpoints_come_when_the_plan_says_and_at_the_end():
    heard: list[tuple[str, int]] = []
    model = Line()
    fit(
        begin(model, PLAN),
        Numbers(),
        PLAN,
        on_step=lambda step, values: heard.append(("report", step)),
        on_checkpoint=lambda step: heard.append(("checkpoint", step)),
    )
    assert heard == [
        ("checkpoint", 3), ("report", 4), ("checkpoint", 6), ("report", 8), ("checkpoint", 9),
        ("report", 10), ("checkpoint", 10),
    ]  # fmt: skip
    assert model.calls == model.clamps == 10


def test_a_report_names_loss_parts_rate_norm_speed_and_memory():
    reports = []
    model = Line()
    fit(
        begin(model, PLAN),
        Numbers(),
        PLAN,
        on_step=lambda *report: reports.append(report),
    )
    _, values = reports[0]
    names = {"loss", "loss/error", "loss/target", "lr", "grad_norm", "samples_per_s", "cpu_s"}
    names |= {"memory_mb", "tokens_per_s", "tflops", "mfu"}
    assert values.keys() == names
    assert values["loss/target"] == 3, "the values are those of step 3, the fourth"
    assert values["memory_mb"] > 10
    assert values["samples_per_s"] > 0


def test_gradients_are_clipped_to_the_norm_and_reported_before():
    seen = []

    class Watching(Line):
        def after_step(self) -> None:
            seen.append(self.weight.grad.norm().item())

    for limit in (0.01, 0.0):
        model, plan = (
            Watching(),
            TrainingPlan(steps=1, batch_size=2, warmup_steps=0, clip_norm=limit),
        )
        fit(
            begin(model, plan),
            Numbers(),
            plan,
            on_step=lambda step, values: seen.append(values["grad_norm"]),
        )
    clipped, before, left_alone, same = seen
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert before == pytest.approx(same) == pytest.approx(left_alone)
    assert before > 0.02


@pytest.mark.parametrize("only_gradient", [False, True])
def test_a_value_that_is_not_finite_stops_before_it_reaches_a_weight(only_gradient):
    stopped, sound = Line(nan_from=6, only_gradient=only_gradient), Line()
    with pytest.raises(LossNotFinite) as error:
        fit(begin(stopped, PLAN), Numbers(), PLAN)
    assert error.value.step == 6
    assert {"loss", "loss/error", "grad_norm"} <= error.value.parts.keys()
    assert math.isfinite(error.value.parts["loss"]) == only_gradient
    assert "lr" in str(error.value) and "Step 6" in str(error.value)

    def stop(step: int, values: object) -> None:
        raise StopIteration if step == 6 else AssertionError

    plan = TrainingPlan(**{**PLAN.to_dict(), "report_every": 6})
    with pytest.raises(StopIteration):
        fit(begin(sound, plan), Numbers(), plan, on_step=stop)
    assert torch.equal(stopped.weight, sound.weight), "the six good steps and nothing else"


def test_a_training_that_is_asked_to_stop_leaves_a_report_and_a_checkpoint_of_that_step():
    heard: list[tuple[str, int]] = []
    asked = []
    model = Line()

    def stop(step: int) -> bool:
        asked.append(step)
        return step == 5

    with pytest.raises(Interrupted, match="step 5") as stopped:
        fit(
            begin(model, PLAN),
            Numbers(),
            PLAN,
            on_step=lambda step, values: heard.append(("report", step)),
            on_checkpoint=lambda step: heard.append(("checkpoint", step)),
            stop=stop,
        )
    assert stopped.value.step == model.clamps == 5
    assert asked == [1, 2, 3, 4, 5]
    assert heard == [("checkpoint", 3), ("report", 4), ("report", 5), ("checkpoint", 5)]


def test_a_finished_training_is_not_asked_whether_to_stop():
    model, plan = Line(), TrainingPlan(steps=1, batch_size=2, warmup_steps=0)
    fit(begin(model, plan), Numbers(), plan, stop=lambda step: True)
    assert model.clamps == 1


def test_what_a_step_draws_depends_on_seed_step_and_rank_alone():
    seeds = [step_seed(*each) for each in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(seeds)) == 4
    assert step_seed(0, 1, 0) == seeds[2]
    assert all(0 <= seed < 2**63 for seed in seeds)


def batches_for(model, shards, tokenizer, plan) -> Batches:
    images = load_split(shards, "train", model.batch_spec().image_px)
    return Batches(images, model.batch_spec(), tokenizer, plan.batch_size, plan.seed)


def put(state, folder) -> None:
    tensors.write(folder / "weights", state.weights())
    tensors.write(folder / "state", state.kept())


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_stopped_and_went_on_equals_one_that_did_not(
    name, precision, tiny_shards, tiny_tokenizer, build_tiny, tmp_path
):
    plan = TrainingPlan(
        steps=6, batch_size=8, warmup_steps=1, checkpoint_every=3, precision=precision
    )

    state = begin(build_tiny(name), plan)
    batches = batches_for(state.model, tiny_shards, tiny_tokenizer, plan)
    fit(state, batches, plan, on_checkpoint=lambda step: step == 3 and put(state, tmp_path))
    resumed = begin(build_tiny(name), plan)
    restore(resumed, tmp_path / "weights", tmp_path / "state")
    torch.randn(7)  # whatever was drawn in between must not matter
    fit(resumed, batches, plan, start_step=3)
    for (key, one), other in zip(
        state.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key


def test_a_step_restored_without_its_optimiser_would_differ(
    tiny_shards, tiny_tokenizer, build_tiny, tmp_path
):
    # The control of the test above: it is not equal by having nothing to remember.
    plan = TrainingPlan(steps=4, batch_size=8, warmup_steps=1)
    state = begin(build_tiny("virtex"), plan)
    batches = batches_for(state.model, tiny_shards, tiny_tokenizer, plan)
    halfway = TrainingPlan(**{**plan.to_dict(), "checkpoint_every": 2})
    fit(state, batches, halfway, on_checkpoint=lambda step: step == 2 and put(state, tmp_path))
    forgetful = build_tiny("virtex")
    tensors.read_weights(tmp_path / "weights", forgetful)
    fit(begin(forgetful, plan), batches, plan, start_step=2)
    assert not torch.equal(state.model.output.weight, forgetful.output.weight)
