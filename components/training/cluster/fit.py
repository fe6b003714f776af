"""One job through Ray Train, in the Ray this process is connected to: workers, room, what is tried again.

Our own checkpoints are the truth and `progress.jsonl` the channel back; nothing goes through Ray's reports, whose
metrics are lost unless a checkpoint rides with them. A worker that dies is replaced by Ray and goes on from the last
good checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import components
from components.training.checkpoints.checkpoint import latest
from components.training.cluster import failure
from components.training.cluster.stopping import is_asked_to_stop
from components.training.loop import Interrupted
from components.training.training_job import TrainingJob

_ROOT = Path(components.__file__).parents[1]
_START_S = 30


def fit(job: TrainingJob) -> None:
    """Train a job to its end with as many workers as its plan asks for.

    A group that was told of a preemption made a checkpoint and left; another is started, and no failure is counted.

    Raises `TrainingFailed` for what would fail again, `Interrupted` where STOP lies in the run's folder, and Ray's
    `TrainingFailedError` after `max_failures` lost workers.
    """
    failure.forget(job.folder)
    before = -1
    while True:
        try:
            _fit_once(job)
        finally:
            failure.raise_told(job.folder)
        reached = latest(job.checkpoints)
        step = reached.step if reached else 0
        if step == job.steps:
            return
        if is_asked_to_stop(job.folder):
            raise Interrupted(step)
        if step <= before:  # told to leave twice at one step: the notice is not about a node
            raise Interrupted(step)
        before = step


def run_id(job: TrainingJob) -> str:
    """Names the run in Ray: the same for every attempt at it, another for another folder."""
    return digest(str(job.folder))[:16]


def digest(value: Any) -> str:
    """sha256 of a JSON value, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def worker_settings(job: TrainingJob) -> dict[str, str]:
    """The environment of every process that trains."""
    return {
        "OMP_NUM_THREADS": str(job.plan.threads),
        "PYTHONPATH": str(_ROOT),
        # Ray trains in a second thread, whose own arena gives back what it frees in any case.
        "MALLOC_ARENA_MAX": "1",
        # Without it cuBLAS may add up in another order each time, and a resumed run is another run.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def train_settings(*, nodes_may_leave: bool, elastic: bool = False) -> dict[str, str]:
    """Ray Train's own settings, which it reads from the environment.

    nodes_may_leave: watch for nodes that are drained, for one more process.
    elastic: after a node is lost Ray may still count with it; wait less than its 60 s before it counts again.
    """
    patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"} if elastic else {}
    return {
        **patience,
        # The controller looks at its workers this often. At its default of 2 s every fit ends with 7 s of idling; at 0.1 s
        # looking takes 3 % of a core.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(nodes_may_leave)),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        # A worker that waits for a lost one never leaves its process group in order: 30 s of a restart by default.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1",
    }


def _fit_once(job: TrainingJob) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from components.training.cluster.worker import group, work

    plan, storage = job.plan, job.folder / "ray"
    # A pair is what Ray Train's own config takes; the stub is of the one it grew out of.
    workers: Any = (plan.min_workers, plan.workers) if plan.min_workers else plan.workers
    resources = {"CPU": plan.cpus_per_worker}
    if plan.gpus_per_worker:
        resources["GPU"] = plan.gpus_per_worker
    trainer = TorchTrainer(
        work,
        train_loop_config=job.to_dict(),
        # A collective gives up a little after the worker that hangs has told its stack and ended.
        torch_config=group(
            "nccl" if plan.gpus_per_worker else "gloo", timeout_s=plan.hang_s + _START_S
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray's stubs show the older record
            name=f"fit-{run_id(job)}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=plan.max_failures),
            worker_runtime_env={"env_vars": worker_settings(job)},
        ),
    )
    trainer.fit()
    shutil.rmtree(storage)  # what Ray notes of a finished fit; our checkpoints lie elsewhere
