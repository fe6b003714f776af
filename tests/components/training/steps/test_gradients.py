"""Parts of a batch give the gradient of the whole: micro-batches, workers, and both at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import multiprocessing, nn

from components.catalog import MODELS
from components.models import text_bert
from components.objectives.masking import IGNORED
from components.records import Batch, Loss
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf, gradients
from components.training.steps.state import begin

PLAN = TrainingPlan(batch_size=16)
FP16_SCALE = 256.0
"""Small enough for the gradients of untrained models."""


def still(name: str, build_tiny) -> nn.Module:
    """In eval mode: dropout and batch statistics differ between parts, and no sum gives them back."""
    return build_tiny(name).double().eval()


def uneven(batch: Batch) -> Batch:
    """Half of the texts are three tokens long."""
    half = len(batch.tokens_BT) // 2
    ends_B1 = batch.tokens_BT.gather(1, batch.lengths_B[:, None] - 1)
    tokens_BT, lengths_B = batch.tokens_BT.clone(), batch.lengths_B.clone()
    tokens_BT[:half, 2:] = 0
    tokens_BT[:half, 2:3] = ends_B1[:half]
    lengths_B[:half] = 3
    return replace(batch, tokens_BT=tokens_BT, lengths_B=lengths_B)


def gradient(model: nn.Module, batch: Batch, **changes) -> tuple[Loss, torch.Tensor]:
    """The loss, and all gradients as one row."""
    plan = replace(PLAN, **changes)
    state = begin(model, plan)
    if plan.precision == "fp16":
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": FP16_SCALE})
    state.optimiser.zero_grad(set_to_none=True)
    seeded = partial(torch.manual_seed, 0)
    found = gradients(LossOf(model), batch, state, plan, lambda part: seeded())
    return found, torch.cat([value.grad.flatten() for value in state.moved()])


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """Length of the difference over the length."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", ["virtex", "visualgpt", "frozen", "flamingo", "lm", "adapted_lm"])
def test_micro_batches_give_the_gradient_of_the_batch(name, build_tiny, batch_for):
    model = still(name, build_tiny)
    batch = uneven(batch_for(model.batch_spec(), 16))
    whole, expected = gradient(model, batch)
    parts, found = gradient(model, batch, accumulate=4)
    assert far(found, expected) < 1e-6
    assert float(parts.total) == pytest.approx(float(whole.total), rel=1e-6)
    assert parts.parts.keys() == whole.parts.keys()
    # The control: a mean of means is another gradient.
    plain = LossOf(model)
    unweighed = lambda each, ask=None: replace(plain(each), items=None)  # noqa: E731
    state = begin(model, replace(PLAN, accumulate=4))
    state.optimiser.zero_grad(set_to_none=True)
    gradients(unweighed, batch, state, replace(PLAN, accumulate=4), lambda part: None)
    means = torch.cat([value.grad.flatten() for value in state.moved()])
    assert far(means, expected) > 1e-3


@pytest.mark.parametrize("name", ["clip", "align"])
def test_cached_features_give_the_gradient_of_the_batch(name, build_tiny, batch_for):
    model = still(name, build_tiny)
    batch = batch_for(model.batch_spec(), 16)
    whole, expected = gradient(model, batch)
    parts, found = gradient(model, batch, accumulate=4)
    assert far(found, expected) < 1e-6
    assert float(parts.total) == pytest.approx(float(whole.total), rel=1e-9)
    # The control: four losses of four rows each are another loss.
    alone = torch.stack([model.loss(part).total for part in batch.split(4)]).mean().detach()
    assert abs(float(alone) - float(whole.total)) > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["clip", "virtex"])
def test_in_half_precision_parts_give_the_gradient_but_for_rounding(
    name, precision, build_tiny, batch_for
):
    model = build_tiny(name).eval()
    batch = batch_for(model.batch_spec(), 16)
    _, expected = gradient(model, batch)
    _, whole = gradient(model, batch, precision=precision)
    _, found = gradient(model, batch, precision=precision, accumulate=4)
    scale = FP16_SCALE if precision == "fp16" else 1
    assert far(whole / scale, expected) < 0.1
    assert far(found / scale, expected) < 0.1


def test_a_part_of_a_loss_that_some_micro_batches_lack_is_the_mean_of_the_others():
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def loss(self, batch: Batch) -> Loss:
            rare = {"rare": batch.keys_B.double().mean()} if batch.keys_B[0] > 2 else {}
            return Loss(self.weight * 1.0, {"all": batch.keys_B.double().mean(), **rare})

        def param_groups(self):
            return [{"name": "w", "params": [self.weight], "lr_scale": 1.0, "weight_decay": False}]

    keys = torch.arange(8)
    batch = Batch(
        pixels_BCHW=torch.zeros(8, 3, 1, 1), tokens_BT=torch.ones(8, 2), lengths_B=keys,
        groups_B=keys, keys_B=keys, prompts_B=keys,
    )  # fmt: skip
    found, _ = gradient(Rare(), batch, accumulate=4)
    assert float(found.parts["all"]) == 3.5
    assert float(found.parts["rare"]) == 5.5, "of rows 4 to 7"


def test_where_no_word_is_hidden_nothing_is_nan(build_tiny, batch_for, monkeypatch):
    # A report takes numbers alone, and a training would end there.
    everything_seen = lambda config, tokens_BT: (tokens_BT, torch.full_like(tokens_BT, IGNORED))  # noqa: E731
    monkeypatch.setattr(text_bert, "hide", everything_seen)
    model = build_tiny("mlm_text")
    found, row = gradient(model, batch_for(model.batch_spec(), 8), accumulate=2)
    assert float(found.total) == float(found.parts["words"]) == float(row.norm()) == 0


def test_dropout_is_the_same_in_both_passes_of_a_micro_batch(build_tiny, batch_for):
    # Two parts of one row each twice: with equal draws both passes see equal features, and the gradient at a
    # feature is that of the features it was computed for.
    model = build_tiny("align", text_dropout=0.5).double()
    batch = batch_for(model.batch_spec(), 8)
    seen: list[torch.Tensor] = []
    features = model.features

    def watched(part):
        made = features(part)
        seen.append(made[1].detach().clone())
        return made

    model.features = watched
    plan = replace(PLAN, accumulate=2)
    state = begin(model, plan)
    gradients(LossOf(model), batch, state, plan, torch.manual_seed)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], features(batch.split(2)[0])[1]), "dropout was drawn"


def test_batch_statistics_count_each_row_once(build_tiny, batch_for):
    twice, once = (build_tiny("clip") for _ in range(2))
    batch = batch_for(once.batch_spec(), 8)
    gradient(twice, batch, accumulate=2)
    for part in batch.split(2):
        once.loss(part)
    norms = [name for name in once.state_dict() if "running_" in name or "num_batches" in name]
    assert norms
    for name in norms:
        torch.testing.assert_close(twice.state_dict()[name], once.state_dict()[name])


def test_one_part_alone_is_the_plain_loss_bit_for_bit(build_tiny, batch_for):
    model = build_tiny("virtex")
    batch = batch_for(model.batch_spec(), 16)
    _, found = gradient(model, batch)
    model.zero_grad()
    torch.manual_seed(0)
    model.loss(batch).total.backward()
    assert torch.equal(found, torch.cat([v.grad.flatten() for v in begin(model, PLAN).moved()]))


def test_two_workers_of_two_micro_batches_give_the_gradient_of_the_batch(
    build_tiny, batch_for, tmp_path
):
    work, expected = [], {}
    for name in ("clip", "virtex"):
        model = still(name, build_tiny)
        batch = uneven(batch_for(model.batch_spec(), 16))
        found, row = gradient(model, batch)
        expected[name] = {"loss": found.total, "gradient": row}
        work.append((name, model.config.to_dict(), model.state_dict(), vars(batch)))
    multiprocessing.spawn(_worker, (work, str(tmp_path)), nprocs=2)
    for rank, accumulate, name in product((0, 1), (1, 2), expected):
        found = load_file(tmp_path / f"{name}-{rank}-{accumulate}")
        assert far(found["gradient"], expected[name]["gradient"]) < 1e-6, (name, rank, accumulate)
        assert float(found["loss"]) == pytest.approx(float(expected[name]["loss"]), rel=1e-6)


def _worker(rank: int, work, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, config, weights, rows in work:
        family = MODELS[name]
        model = family(family.Config(**config)).double().eval()
        model.load_state_dict(weights)
        loss = nn.parallel.DistributedDataParallel(LossOf(model))
        for accumulate in (1, 2):
            plan = replace(PLAN, accumulate=accumulate)
            state = begin(model, plan)
            state.optimiser.zero_grad(set_to_none=True)
            mine = Batch(**rows).split(2)[rank]
            found = gradients(loss, mine, state, plan, torch.manual_seed)
            row = torch.cat([value.grad.flatten() for value in state.moved()])
            made = {"gradient": row, "loss": found.total}
            save_file(made, f"{folder}/{name}-{rank}-{accumulate}")
    dist.destroy_process_group()
