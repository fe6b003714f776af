"""Whatever a training is set to, what it goes on from is all in its checkpoint: stopped anywhere, it ends the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.records import Batch, Loss
from components.training.checkpoints import tensors
from components.training.checkpoints.marker import CheckpointDamaged
from components.training.checkpoints.restoring import restore
from components.training.loop import LossNotFinite, fit
from components.training.plan import TrainingPlan
from components.training.steps.state import LEARNER, RAW, begin

SETTINGS = {
    "adamw": {},
    "lamb": {"optimiser": "lamb"},
    "sgd": {"optimiser": "sgd"},
    "sgd without momentum": {"optimiser": "sgd", "momentum": 0.0},
    "VirTex's": {"optimiser": "sgd", "lookahead": 5},
    "averaged": {"ema": 0.99},
    "fp16": {"precision": "fp16"},
    "all": {"optimiser": "lamb", "lookahead": 2, "ema": 0.9, "precision": "fp16", "accumulate": 2},
}
STEPS = 9


class Small(nn.Module):
    """Two layers, dropout and batch statistics; in fp16 its first two gradients are too large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        self.clamps = 0

    def loss(self, batch: Batch) -> Loss:
        error = self.layers(batch.tokens_BT.float()).float().square().mean()
        return Loss(error * 3, {"error": error})

    def param_groups(self):
        by_shape = [
            [each for each in self.parameters() if (each.ndim > 1) == wide] for wide in (1, 0)
        ]
        return [
            {"name": "w", "params": by_shape[0], "lr_scale": 1.0, "weight_decay": True},
            {"name": "b", "params": by_shape[1], "lr_scale": 2.0, "weight_decay": False},
        ]

    def after_step(self) -> None:
        self.clamps += 1


class Drawn:
    """Eight rows of small numbers, drawn by step."""

    def batch(self, step: int) -> Batch:
        tokens = torch.randint(0, 9, (8, 4), generator=torch.Generator().manual_seed(step))
        ones = torch.ones(8, dtype=torch.int64)
        pixels = torch.zeros(8, 3, 1, 1, dtype=torch.uint8)
        return Batch(
            pixels_BCHW=pixels, tokens_BT=tokens, lengths_B=ones,
            groups_B=ones, keys_B=ones, prompts_B=ones,
        )  # fmt: skip


class Beside(nn.Module):
    """A model beside a projection and a queue that are the learner's alone."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.model = model
        torch.manual_seed(4)
        self.projection = nn.Linear(4, 1, bias=False)
        self.register_buffer("queue", torch.zeros(3))

    def loss(self, batch: Batch) -> Loss:
        found = self.projection(batch.tokens_BT.float()).mean()
        self.queue.copy_(torch.cat([found.detach()[None], self.queue[:-1]]))
        return Loss(self.model.loss(batch).total + (found - self.queue.mean()).square())

    def param_groups(self):
        own = {
            "name": "p",
            "params": [self.projection.weight],
            "lr_scale": 1.0,
            "weight_decay": True,
        }
        return [*self.model.param_groups(), own]

    def after_step(self) -> None:
        self.model.after_step()


def plan_for(**changes) -> TrainingPlan:
    plan = {"steps": STEPS, "batch_size": 8, "warmup_steps": 2, "lr": 1e-2, "checkpoint_every": 1}
    return TrainingPlan(**{**plan, **changes})


def save(state, folder, step: int) -> None:
    (folder / str(step)).mkdir(parents=True)
    tensors.write(folder / str(step) / "weights", state.weights())
    tensors.write(folder / str(step) / "state", state.kept())


def files(folder, step: int) -> list[bytes]:
    return [(folder / str(step) / name).read_bytes() for name in ("weights", "state")]


def starting(plan: TrainingPlan, beside: bool = False):
    model = Small()
    return begin(Beside(model), plan, model) if beside else begin(model, plan)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_training_stopped_after_any_step_ends_with_the_same_bytes(settings, beside, tmp_path):
    plan = plan_for(**settings)
    whole = starting(plan, beside)
    fit(whole, Drawn(), plan, on_checkpoint=lambda step: save(whole, tmp_path / "whole", step))
    for stopped in (1, 4, 7):
        again = starting(plan, beside)
        restore(again, *(tmp_path / "whole" / str(stopped) / name for name in ("weights", "state")))
        folder = tmp_path / f"from {stopped}"
        fit(
            again, Drawn(), plan, start_step=stopped,
            on_checkpoint=lambda step, again=again, folder=folder: save(again, folder, step),
        )  # fmt: skip
        assert files(folder, STEPS) == files(tmp_path / "whole", STEPS)


@pytest.mark.parametrize("settings", [SETTINGS["lamb"], SETTINGS["VirTex's"], SETTINGS["all"]])
def test_without_what_it_remembers_it_would_end_otherwise(settings, tmp_path):
    plan = plan_for(**settings)
    whole = starting(plan)
    fit(whole, Drawn(), plan, on_checkpoint=lambda step: save(whole, tmp_path, step))
    forgetful = starting(plan)
    tensors.read_weights(tmp_path / "4" / "weights", forgetful.model)
    fit(forgetful, Drawn(), plan, start_step=4)
    one, other = (each.model.layers[0].weight for each in (whole, forgetful))
    assert not torch.equal(one, other)


def test_what_is_the_learners_alone_is_kept_beside_the_model(tmp_path):
    state = starting(plan_for(ema=0.5), beside=True)
    fit(state, Drawn(), plan_for(ema=0.5))
    assert not [name for name in state.weights() if "projection" in name or "queue" in name]
    kept = state.kept()
    assert {LEARNER + "projection.weight", LEARNER + "queue"} <= kept.keys()
    assert LEARNER + "projection.weight/exp_avg" in kept
    assert "layers.0.weight/exp_avg" in kept
    assert torch.equal(kept[RAW + "layers.0.weight"], state.model.layers[0].weight)
    assert not torch.equal(state.weights()["layers.0.weight"], state.model.layers[0].weight)


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path):
    plan = plan_for(steps=3)
    state = starting(plan)
    fit(state, Drawn(), plan, on_checkpoint=lambda step: save(state, tmp_path, step))
    other = starting(plan_for(optimiser="sgd"))
    with pytest.raises(CheckpointDamaged, match=r"of layers\.0\.bias only exp_avg"):
        restore(other, tmp_path / "3" / "weights", tmp_path / "3" / "state")
    averaged = starting(plan_for(ema=0.5))
    with pytest.raises(CheckpointDamaged, match=r"missing: \['raw/layers"):
        restore(averaged, tmp_path / "3" / "weights", tmp_path / "3" / "state")


def test_averages_follow_the_formula_and_the_weights_go_their_own_way():
    plain, averaged = starting(plan_for()), starting(plan_for(ema=0.5))
    start = averaged.ema.values["layers.0.weight"].clone()
    seen = []
    fit(
        plain,
        Drawn(),
        plan_for(),
        on_checkpoint=lambda _: seen.append(plain.model.layers[0].weight.detach().clone()),
    )
    fit(averaged, Drawn(), plan_for(ema=0.5))
    assert torch.equal(averaged.model.layers[0].weight, plain.model.layers[0].weight)
    expected = start
    for step, weight in enumerate(seen, start=1):
        share = min(0.5, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * weight
    torch.testing.assert_close(averaged.weights()["layers.0.weight"], expected)
    # Counts are no averages.
    assert averaged.weights()["layers.1.num_batches_tracked"] == STEPS


def test_slow_weights_go_half_of_the_way_every_five_steps():
    state, plan = starting(plan_for(lookahead=5)), plan_for(lookahead=5, steps=5)
    start = state.model.layers[0].weight.detach().clone()
    fast, alone = starting(plan), plan_for(steps=5)
    free = starting(alone)
    fit(state, Drawn(), plan)
    fit(free, Drawn(), alone)
    expected = start + 0.5 * (free.model.layers[0].weight - start)
    torch.testing.assert_close(state.model.layers[0].weight, expected)
    assert torch.equal(fast.lookahead.slow[fast.model.layers[0].weight], start)


def test_a_step_too_large_for_fp16_is_skipped_and_told():
    plan = plan_for(precision="fp16", report_every=1)
    state, skipped, still = starting(plan), [], []
    before = state.model.layers[0].weight.detach().clone()

    def look(step, values) -> None:
        skipped.append(values["skipped"])
        still.append(torch.equal(state.model.layers[0].weight, before))
        assert ("grad_norm" in values) == (not values["skipped"])

    fit(state, Drawn(), plan, on_step=look)
    assert skipped == [1, 1, 0, 0, 0, 0, 0, 0, 0], "times 65536 they are beyond fp16"
    assert still == [bool(each) for each in skipped]
    assert state.model.clamps == 7
    assert state.scaler.get_scale() == 65536 / 4


def test_a_loss_that_fp16_cannot_hold_is_no_matter_of_the_scale():
    plan = plan_for(precision="fp16", report_every=1)
    state = starting(plan)
    with torch.no_grad():
        state.model.layers[3].weight.mul_(1e30)
    with pytest.raises(LossNotFinite):
        fit(state, Drawn(), plan)
    assert state.scaler.get_scale() == 65536
