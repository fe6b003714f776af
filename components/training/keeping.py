"""What a training leaves in its run's folder while it goes: progress, cost, checkpoints, and their copies on a mirror."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from components.failpoint import failpoint
from components.records import Checkpoint
from components.training import progress
from components.training.checkpoints import checkpoint
from components.training.checkpoints.mirror import Mirror, fetch_newest
from components.training.checkpoints.rewinding import PASSED_OVER
from components.training.checkpoints.saver import Saver, Take, saving
from components.training.checkpoints.uploader import Uploader
from components.training.loop import OnStep
from components.training.plan import TrainingPlan
from components.training.usage import cost
from components.training.usage.cost import Account, Meter
from components.training.usage.machine import Machine
from components.training.validation import VAL_LOSS, best_step

CHECKPOINTS = "checkpoints"
"""In the run's folder."""

_OWN_FILES = (progress.FILE, cost.FILE, PASSED_OVER)
_PATIENCE_S = 10.0
"""How long a training that is ended waits for its mirror; a notice of preemption leaves half a minute for everything."""


class Keeper:
    """What happens at a report and at a checkpoint: all workers ask together, rank 0 writes."""

    def __init__(
        self,
        plan: TrainingPlan,
        meter: Meter,
        measure: Callable[[int], float] | None,
        writer: Writer | None,
    ) -> None:
        """measure: gives the validation loss after so many steps, if one is wanted; writer: on rank 0."""
        self._plan, self._meter, self._measure, self._writer = plan, meter, measure, writer

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """A line of progress, and one of cost."""
        told = dict(values)
        if self._measure is not None and self._plan.saves_at(step):
            told[VAL_LOSS] = self._measure(step)
        counted = self._meter.read()
        if self._writer is not None:
            self._writer.account.add(step, counted)
            self._writer.report(step, told)

    def save(self, step: int, take: Take) -> None:
        """Begin a checkpoint; `take` is called on every worker, for what is spread over them has to be gathered."""
        counted = self._meter.read()
        if self._writer is None:
            take(None)
            return
        self._writer.account.add(step, counted)
        self._writer.saver.save(take)


class Writer:
    """The files of one run's folder; one process at a time writes them."""

    def __init__(
        self,
        folder: Path,
        plan: TrainingPlan,
        account: Account,
        machine: Machine,
        uploader: Uploader | None,
        on_step: OnStep,
    ) -> None:
        self.account, self.saver = account, Saver(folder / CHECKPOINTS, self._saved)
        self._folder, self._keep = folder, plan.keep
        self._machine, self._uploader, self._on_step = machine, uploader, on_step

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line of progress, and hand it on once it is on disk."""
        mirrored = self._uploader.values if self._uploader else {}
        told = {**values, **self._machine.readings(), **mirrored}
        progress.append(self._folder / progress.FILE, step, told)
        self._on_step(step, told)

    def sweep(self) -> None:
        """Remove the checkpoints that nothing needs any more."""
        needed = self._uploader.needed if self._uploader else set()
        checkpoint.sweep(self._folder / CHECKPOINTS, self._keep, needed | _best(self._folder))

    def _saved(self, made: Checkpoint) -> None:
        failpoint("checkpoint_saved")
        if self._uploader is not None:
            self._uploader.offer(made.path, _best(self._folder))
        self.sweep()


@contextmanager
def keeping(
    folder: Path,
    mirror: str,
    plan: TrainingPlan,
    meter: Meter,
    *,
    begun_step: int,
    device: torch.device,
    rank: int,
    world: int,
    measure: Callable[[int], float] | None,
    on_step: OnStep,
) -> Iterator[Keeper]:
    """What a training calls; when the block is left its last checkpoint is on disk, and on the mirror if that answers."""
    counted = meter.read()
    if rank:
        yield Keeper(plan, meter, measure, None)
        return
    progress.drop_beyond(folder / progress.FILE, begun_step)
    checkpoint.discard_beyond(folder / CHECKPOINTS, begun_step)
    account = Account(folder / cost.FILE, workers=world, device=device, begun_step=begun_step)
    account.add(begun_step, counted)
    with _mirroring(mirror, folder, plan.keep) as uploader:
        writer = Writer(folder, plan, account, Machine(folder, device), uploader, on_step)
        writer.sweep()
        with saving(writer.saver):
            yield Keeper(plan, meter, measure, writer)


def bring(folder: Path, mirror: str) -> None:
    """Bring a run's newest checkpoint here, with its own files, if its mirror holds a newer one.

    A mirror that cannot be read is passed over where there is a checkpoint here; where there is none its error is
    raised, for training would begin from nothing.
    """
    if not mirror:
        return
    here = checkpoint.latest(folder / CHECKPOINTS)
    other = Mirror(mirror, folder.name)
    try:
        ahead = here is None or any(step > here.step for step in other.steps())
        for name in _OWN_FILES:
            # First: a newer checkpoint without the batches its training passed over would go on as another run.
            if ahead or not (folder / name).exists():
                other.fetch_file(folder / name)
        fetch_newest(other, folder / CHECKPOINTS, here)
    except Exception:
        if here is None:
            raise
        logging.getLogger(__name__).exception("%s cannot be read", other.place)


def deliver(folder: Path, mirror: str, keep: int, made: Checkpoint) -> None:
    """See to it that a finished run's checkpoint is on its mirror; a kill may have come before it was sent.

    Raises nothing where the mirror stays away: `uploader.problem` tells.
    """
    with _mirroring(mirror, folder, keep) as uploader:
        if uploader is not None:
            uploader.offer(made.path, _best(folder))


def _best(folder: Path) -> set[int]:
    best = best_step(folder / progress.FILE)
    return set() if best is None else {best}


@contextmanager
def _mirroring(mirror: str, folder: Path, keep: int) -> Iterator[Uploader | None]:
    if not mirror:
        yield None
        return
    uploader = Uploader(Mirror(mirror, folder.name), folder, keep=keep, files=_OWN_FILES)
    try:
        yield uploader
    except BaseException:
        uploader.close(_PATIENCE_S)
        raise
    uploader.close()
