"""Over the catalog: slices (FSDP2) train what whole copies (DDP) do, step by step, and what one process does where that is exact."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch import distributed as dist

from components.abilities import Learns
from components.catalog import MODELS
from components.records import Batch
from components.training.loop import fit
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf
from components.training.steps.parallel import shared, whole
from components.training.steps.state import begin

FAMILIES = sorted(name for name, each in MODELS.items() if issubclass(each, Learns))
DRAWN = {"mlm_text", "vild", "visualbert"}
"""What is learnt is drawn by each worker (hidden words, sampled boxes), in eval mode too."""
SINGLE = {"vild"}
"""Where boxes are, they are float32."""
SETTINGS = {"vild": {"finder_steps": 1}}  # so that its proposal network is copied on the way
PLAN = TrainingPlan(steps=2, warmup_steps=0, batch_size=8, eps=1e-3, ema=0.9, lookahead=2)

Tensors = dict[str, Tensor]


class Same:
    """One batch, again and again."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, step: int) -> Batch:
        return self._batch


def trained(model: nn.Module, batch: Batch, *, parallel: str, rank: int, world: int) -> Tensors:
    """What a worker has after the last step: everyone's parameters, whole, its own buffers, and the averages of both."""
    plan = TrainingPlan(**{**vars(PLAN), "workers": world, "parallel": parallel})
    loss = shared(LossOf(model), plan, world)
    state = begin(model, plan)
    fit(state, Same(batch), plan, loss=loss, rank=rank)
    averages = {f"average of {name}": value for name, value in state.weights().items()}
    kept = {**model.state_dict(), **averages}
    return {name: whole(value.detach()).clone() for name, value in kept.items()}


@pytest.fixture(scope="module")
def found(build_tiny, batch_for, tmp_path_factory) -> dict[tuple[str, str, int], Tensors]:
    """By family, way and rank; in one start of the processes, which costs more than the steps."""
    folder = tmp_path_factory.mktemp("slices")
    work = []
    for name in FAMILIES:
        model = build_tiny(name, **SETTINGS.get(name, {}))
        model = model if name in SINGLE else model.double()
        work.append((name, model, batch_for(model.batch_spec(), 8)))
    multiprocessing.spawn(_worker, (work, str(folder)), nprocs=2)
    found = {}
    for rank in (0, 1):
        found |= torch.load(folder / str(rank))
    for name, model, batch in work:
        alone = deepcopy(model) if name in DRAWN else _still(model)
        found[name, "one", 0] = trained(alone, batch, parallel="ddp", rank=0, world=1)
    return found


def _worker(rank: int, work: list[tuple[str, nn.Module, Batch]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, model, batch in work:
        run = partial(trained, batch=batch.split(2)[rank], rank=rank, world=2)
        for parallel in ("ddp", "fsdp"):
            found[name, parallel, rank] = run(deepcopy(model), parallel=parallel)
        if name not in DRAWN:
            found[name, "still", rank] = run(_still(model), parallel="fsdp")
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


def _still(model: nn.Module) -> nn.Module:
    """Without dropout and batch statistics, which each worker has its own of, whatever `fit` sets."""
    model = deepcopy(model).eval()
    for each in model.modules():
        each.train = lambda mode=True, each=each: each  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_slices_train_what_whole_copies_do_and_each_worker_has_the_same_buffers(name, found):
    tolerance = 1e-5 if name in SINGLE else 1e-12
    for rank in (0, 1):
        ddp, fsdp = found[name, "ddp", rank], found[name, "fsdp", rank]
        assert ddp.keys() == fsdp.keys()
        for key, value in ddp.items():
            torch.testing.assert_close(fsdp[key], value, rtol=0, atol=tolerance, msg=key)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in DRAWN])
def test_slices_train_what_one_process_does_but_for_dropout_and_batch_statistics(name, found):
    for key, value in found[name, "one", 0].items():
        # Weights of micro-batches are float32.
        torch.testing.assert_close(found[name, "still", 0][key], value, rtol=0, atol=1e-7, msg=key)


def test_regions_are_standardised_by_what_all_workers_saw(found):
    alone = found["visualbert", "one", 0]
    for way, rank in product(("ddp", "fsdp"), (0, 1)):
        for key in ("standardised.mean", "standardised.square", "standardised.seen"):
            torch.testing.assert_close(found["visualbert", way, rank][key], alone[key])
