"""One training from shards to its final checkpoint: what a worker runs, on Ray or in a plain call.

`run_job` may be killed and called again as often as one likes: it goes on from the last good checkpoint, and a
finished job returns at once. On a CPU the result is bit for bit that of a training nobody disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.catalog import MODELS
from components.data.batches import Batches, load_split
from components.data.shards import open_shards, read_manifest
from components.data.text import Tokenizer
from components.records import BatchSpec, Checkpoint, Shards
from components.training import job_parts, validation
from components.training.awaiting import awaited
from components.training.building import build, starts
from components.training.checkpoints import checkpoint
from components.training.checkpoints.rewinding import Passing, passed_over, rewind
from components.training.checkpoints.snapshot import HostMemory, Snapshot, take
from components.training.distillation import Distilled, taught
from components.training.folder import JobChanged, claim, held
from components.training.keeping import bring, deliver, keeping
from components.training.loop import LossNotFinite, OnStep, Stop, fit
from components.training.one_pass import index
from components.training.steps.gradients import LossOf
from components.training.steps.parallel import gathered, is_sliced, shared
from components.training.steps.repeated import prepared
from components.training.steps.state import State, begin
from components.training.steps.torch_settings import device_for, settled
from components.training.teachers.retelling import retold
from components.training.training_job import TrainingJob
from components.training.usage.cost import Meter
from components.training.validation import Validation


def run_job(
    job: TrainingJob,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str | None = None,
    on_step: OnStep = lambda step, values: None,
    stop: Stop = lambda step: False,
) -> Checkpoint:
    """Train a job to its end, or go on with it, and return its final checkpoint.

    rank, world: which worker this is, of how many; all must call. Only rank 0 writes, but for what each worker's teacher said.
    device: where to train; by default the plan's `gpus_per_worker` says CPU or GPU.
    on_step: called on rank 0 after the line of progress is on disk.
    stop: as in `loop.fit`.

    Raises `Interrupted` where `stop` says so, `JobChanged` (the folder or its checkpoint belongs to another job),
    `RunBusy`, `LossNotFinite`, and what reading shards, building the model and writing checkpoints raise. Whatever it
    raises, calling again goes on.
    """
    place = device_for(job.plan, device)
    with held(job.folder) if rank == 0 else nullcontext(), settled(job.plan):
        with awaited(rank, world, place):
            if rank == 0:
                bring(job.folder, job.mirror)
        while not _attempt(job, rank, world, place, on_step, stop):
            """Another batch was passed over."""
    if world > 1:
        torch.distributed.barrier()  # so that every worker finds what rank 0 wrote last
    return checkpoint.verify(job.final)


def _attempt(
    job: TrainingJob, rank: int, world: int, device: torch.device, on_step: OnStep, stop: Stop
) -> bool:
    """Go on from the newest checkpoint to the end; False where that led back to one before."""
    began_s = time.monotonic()
    resumed = _resumed(job, rank, world, device)
    if rank == 0:
        claim(job.folder, job.to_dict(), begun=resumed is not None)
    if resumed and resumed.step == job.steps:
        with awaited(rank, world, device):
            if rank == 0:
                deliver(job.folder, job.mirror, job.plan.keep, resumed)
        return True
    made = _make(job, resumed, device, rank, world)
    if not job.learns:
        with awaited(rank, world, device):
            if rank == 0:
                _index(job, made)
        return True
    try:
        _train(job, made, rank, world, began_s, on_step, stop)
    except LossNotFinite as error:
        if job.plan.on_nan == "stop":
            raise
        rewind(job.folder, job.checkpoints, error, writes=rank == 0)
        return False
    return True


def _resumed(job: TrainingJob, rank: int, world: int, device: torch.device) -> Checkpoint | None:
    """The checkpoint to go on from. Rank 0 says which: a shared disk may show another to each worker."""
    found = checkpoint.latest(job.checkpoints) if rank == 0 else None
    if world == 1:
        return found
    step = torch.tensor(found.step if found else -1, device=device)
    torch.distributed.broadcast(step, 0)
    if rank == 0 or step < 0:
        return found
    return checkpoint.verify(checkpoint.place(job.checkpoints, int(step)))


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A job's parts in memory, as they were after `start_step` steps."""

    shards: Shards
    tokenizer: Tokenizer
    model: nn.Module
    batches: Batches | None
    loss: nn.Module
    state: State | None
    start_step: int
    device: torch.device


def _make(
    job: TrainingJob, resumed: Checkpoint | None, device: torch.device, rank: int, world: int
) -> _Made:
    shards = open_shards(job.shards)
    _check_same_shards(job, resumed, shards)
    family = MODELS[job.family]
    rows = [row for row in read_manifest(shards) if row.sample.split == job.split]
    parts, tokenizer = job_parts.handed_over(job, rows, resumed, writes=rank == 0)
    config = family.Config(**job.config).fitted(rows, tokenizer)
    torch.manual_seed(job.plan.seed)
    model: Any = build(job.family, config, parts)
    if resumed is None and job.learns:
        model.initialise(parts) if starts(family) else model.initialise()
    # FSDP2 takes a slice of each tensor from the host: all of the model may not fit the device.
    place = torch.device("cpu") if is_sliced(job.plan, world) else device
    model.to(place)
    batches = _batches(job, model, shards, tokenizer, rank, world) if job.learns else None
    learner = model
    if job.distillation is not None and batches is not None:
        probe = batches.batch(0).to(place)
        learner = taught(
            model, tokenizer, job.distillation, probe, fresh=resumed is None,
            folder=job.folder, of={"shards": shards.digest, "rank": rank, "world": world},
        )  # fmt: skip
    loss = shared(prepared(LossOf(learner), job.plan), job.plan, world)
    state = begin(learner, job.plan, model) if job.learns else None
    start_step = checkpoint.restore(resumed.path, state) if resumed and state else 0
    return _Made(
        shards=shards,
        tokenizer=tokenizer,
        model=model,
        batches=batches,
        loss=loss,
        state=state,
        start_step=start_step,
        device=device,
    )


def _batches(
    job: TrainingJob, model: Any, shards: Shards, tokenizer: Tokenizer, rank: int, world: int
) -> Batches:
    spec: BatchSpec = model.batch_spec()
    images = load_split(shards, job.split, spec.image_px)
    if job.distillation is not None and job.distillation.texts:
        taught_by = job.distillation
        images = retold(images, Path(taught_by.texts["path"]), taught_by.written)
    plan = job.plan
    return Batches(images, spec, tokenizer, plan.batch_size, plan.seed, rank=rank, world=world)


def _index(job: TrainingJob, made: _Made) -> None:
    """What stands in for training where nothing is trained."""
    index(made.model, made.shards, job.split, made.tokenizer, job.distillation)
    taken = _take(job, made, 0, HostMemory())
    assert taken is not None, "there is memory for it"
    final = checkpoint.put(job.checkpoints, taken)
    checkpoint.sweep(job.checkpoints)
    deliver(job.folder, job.mirror, job.plan.keep, final)


def _train(
    job: TrainingJob,
    made: _Made,
    rank: int,
    world: int,
    began_s: float,
    on_step: OnStep,
    stop: Stop,
) -> None:
    plan, state, batches = job.plan, made.state, made.batches
    assert state is not None and batches is not None, "it learns"
    passed = passed_over(job.folder)
    meter = Meter(Passing(batches, passed), made.device, world, began_s)
    with (
        ExitStack() as ended,
        keeping(
            job.folder,
            job.mirror,
            plan,
            meter,
            begun_step=made.start_step,
            device=made.device,
            rank=rank,
            world=world,
            measure=_measure(job, made, state, rank, world) if plan.val_batches else None,
            on_step=on_step,
        ) as keeper,
    ):

        def report(step: int, values: Mapping[str, float]) -> None:
            keeper.report(step, {**values, "rewinds": float(len(passed))} if passed else values)

        fit(
            state,
            meter,
            plan,
            loss=made.loss,
            start_step=made.start_step,
            rank=rank,
            device=made.device,
            on_step=report,
            on_checkpoint=lambda step: keeper.save(step, partial(_take, job, made, step)),
            stop=stop,
        )
        # Left after `keeping` is: the last checkpoint may be long on its way to the mirror.
        ended.enter_context(awaited(rank, world, made.device))


def _measure(
    job: TrainingJob, made: _Made, state: State, rank: int, world: int
) -> Callable[[int], float]:
    spec: BatchSpec = made.model.batch_spec()  # type: ignore[operator]
    images = load_split(made.shards, validation.SPLIT, spec.image_px)
    found = Validation(
        images, spec, made.tokenizer, job.plan, rank=rank, world=world, device=made.device
    )
    return partial(found.measure, state, made.loss)


def _take(job: TrainingJob, made: _Made, step: int, memory: HostMemory | None) -> Snapshot | None:
    state = made.state
    if state and isinstance(state.learner, Distilled):
        state.learner.remember()  # before the checkpoint, which goes on from what is known by now
    kept = gathered(state.kept(), keep=memory is not None) if state else None
    weights = gathered(state.weights(), keep=memory is not None) if state else None
    if memory is None:
        return None
    origin = checkpoint.Origin(
        family=job.family,
        config=made.model.config.to_dict(),  # type: ignore[union-attr, operator]
        seed=job.plan.seed,
        shards_digest=made.shards.digest,
    )
    return take(
        made.model,
        tokenizer=made.tokenizer,
        origin=origin,
        step=step,
        state=kept,
        weights=weights,
        hold=memory.hold,
    )


def _check_same_shards(job: TrainingJob, resumed: Checkpoint | None, shards: Shards) -> None:
    if resumed and resumed.shards_digest != shards.digest:
        raise JobChanged(
            f"{job.folder} was trained on the shards {resumed.shards_digest[:12]}, {job.shards} now holds "
            f"{shards.digest[:12]}. New data is a new run: train it in a folder of its own."
        )
