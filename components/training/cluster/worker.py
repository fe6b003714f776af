"""What one worker of Ray Train does: the job, with an ear for notices that its node or its run is to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from components.training.cluster import failure
from components.training.cluster.presence import enter
from components.training.cluster.stopping import Agreed, is_asked_to_stop
from components.training.cluster.watching import watched
from components.training.job import run_job
from components.training.loop import Interrupted
from components.training.training_job import TrainingJob

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig

_terminated = threading.Event()


def group(backend: str, timeout_s: int) -> TorchConfig:
    """How the workers of a training are joined: torch's process group, and SIGTERM lets a step end.

    backend: gloo or nccl. timeout_s: of one collective.
    """
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    # Made here: a box without Ray imports this file too. Ray sends classes of a function with what they hold.
    class Backend(_TorchBackend):
        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            # Called once the workers are there: Ray's own handler ends a process at once, mid-step.
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(_listen)

    class Group(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Group(backend=backend, timeout_s=timeout_s)


def work(saved: Mapping[str, Any]) -> None:
    """Train a job with the others of this group, to its end or to the step at which it is to stop.

    Returns too where it is interrupted, or would fail the same way again: the driver reads the folder to know which.
    """
    from ray.train import get_context
    from ray.train.torch import get_device

    job, context = TrainingJob.from_dict(saved), get_context()
    if failure.is_told(job.folder):  # by rank 0 of the group before, which took the others with it
        return
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device() if job.plan.gpus_per_worker else "cpu"

    def wanted() -> bool:
        return _terminated.is_set() or _is_drained() or (rank == 0 and is_asked_to_stop(job.folder))

    agreed = Agreed(wanted, device) if world > 1 else lambda step: wanted()
    enter(job.folder)
    with watched(job.folder, rank, job.plan.hang_s) as alive:

        def stop(step: int) -> bool:
            # After the last step rank 0 may be long at its mirror; that step is left to the collectives' own limit.
            alive(watched=step < job.steps - 1)
            return agreed(step)

        try:
            run_job(job, rank=rank, world=world, device=device, stop=stop)
        except Interrupted:
            return
        except failure.FINAL as error:
            if rank == 0:
                failure.tell(job.folder, error)
            if world > 1:
                raise  # else the others wait for it in their next collective


def _is_drained() -> bool:
    from ray.train.v2._internal.execution.context import get_train_context

    # ray.train.get_preemption_info() says the same, but asks all workers through an actor: too slow for every step.
    return get_train_context().preemption_context.preemption_info is not None


def _listen() -> None:
    """Runs in the worker's main thread, which alone may put in handlers; training runs in another."""
    before = signal.getsignal(signal.SIGTERM)

    def hear(number: int, frame: FrameType | None) -> None:
        _terminated.set()
        signal.signal(signal.SIGTERM, before)  # a second one ends it at once

    signal.signal(signal.SIGTERM, hear)
