"""The door to Ray: one job through one of three launchers, the same numbers out of each.

    inline   a plain call in this process, without Ray; one worker
    local    Ray Train in a Ray that this process starts, or has started (`local_ray`)
    jobs     Ray Train as a job of a running Ray; stopping the caller stops the job

Our own checkpoints are the truth and `progress.jsonl` the channel back; nothing goes through Ray's reports, whose
metrics are lost unless a checkpoint rides with them. A worker that dies is replaced by Ray and goes on from the last
good checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from components import atomic
from components.config import ConfigError
from components.records import Checkpoint
from components.training.checkpoint import latest, verify
from components.training.folder import JOB, claim
from components.training.job import TrainingJob, run_job
from components.training.progress import Follower, Progress
from components.training.surroundings import (
    end,
    environment,
    kept_signals,
    processes_of,
    short_folder,
)

Launcher = Literal["inline", "local", "jobs"]
OnLine = Callable[[Progress], None]

FAILURE = "failure.json"
"""In the run's folder: why training ended, where trying again would end the same way."""

_ROOT = Path(__file__).parents[2]
_POLL_S = 0.5
_STOP_S = 30.0


class TrainingFailed(RuntimeError):
    """Training in another process ended with an error; `kind` is its class's name there.

    final: whether trying again would end the same way.
    """

    def __init__(self, kind: str, message: str, *, final: bool = True) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.final = final


def train(
    job: TrainingJob,
    *,
    launcher: Launcher,
    address: str | None = None,
    on_line: OnLine = lambda line: None,
) -> Checkpoint:
    """Train a job to its end, or go on with it, and return its final checkpoint.

    address: for `jobs`, the http address of a running Ray's dashboard.
    on_line: called with every line of progress, once and in order; lines of an interrupted training first.

    Raises as `run_job` where it runs inline, `TrainingFailed` from another process, and `ConfigError` for a launcher
    that cannot run this plan.
    """
    if launcher not in get_args(Launcher):
        raise ConfigError(f'launcher="{launcher}" is none of {", ".join(get_args(Launcher))}.')
    follower = Follower(job.progress, on_line)
    done = latest(job.checkpoints)
    if done and done.step == job.steps:  # then no Ray is started to say so
        claim(job.folder, job.to_dict(), begun=True)
    elif launcher == "inline" or not job.learns:  # one pass needs no cluster
        _run_inline(job, follower)
    elif launcher == "local":
        _run_local(job, follower)
    else:
        _run_as_job(job, address, follower)
    follower.poll()
    return done if done and done.path == job.final else verify(job.final)


def main(arguments: list[str]) -> None:
    """`python -m components.training.ray_trainer <job.json>`: what the launcher `jobs` submits."""
    import ray

    ray.init(address="auto", log_to_driver=False)
    _fit(TrainingJob.read(Path(arguments[0])))


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of this process: started here, gone afterwards with its processes and files.

    Inside another `local_ray`, or where Ray runs already, that one is used. Around several `train(launcher="local")`
    it saves starting Ray for each.
    """
    with environment(_local_settings()):  # before the import, which reads some of them
        import ray

        if ray.is_initialized():
            yield
            return
        temp = short_folder("dipray")
        try:
            with kept_signals():
                ray.init(
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(temp),
                )
            yield
        finally:
            running = processes_of(temp)
            ray.shutdown()
            end(running)
            shutil.rmtree(temp, ignore_errors=True)


def _run_inline(job: TrainingJob, follower: Follower) -> None:
    if job.plan.workers > 1:
        raise ConfigError(
            f"The launcher inline runs one worker, workers={job.plan.workers} were planned; "
            "use the launcher local or jobs, or plan one."
        )
    run_job(job, on_step=lambda step, values: follower.poll())


def _run_local(job: TrainingJob, follower: Follower) -> None:
    with local_ray():
        _while_polling(lambda: _fit(job), follower)


def _while_polling(work: Callable[[], None], follower: Follower) -> None:
    """Do `work` in a thread of its own: this one hears signals, and hands on progress."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="ray-fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        follower.poll()
    if failure:
        raise failure[0]


def _fit(job: TrainingJob) -> None:
    """Ray Train over the job's workers, in the Ray this process is connected to."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    plan, storage = job.plan, job.folder / "ray"
    (job.folder / FAILURE).unlink(missing_ok=True)
    resources = {"CPU": plan.cpus_per_worker}
    if plan.gpus_per_worker:
        resources["GPU"] = plan.gpus_per_worker
    trainer = TorchTrainer(
        _work,
        train_loop_config=job.to_dict(),
        torch_config=TorchConfig(backend="nccl" if plan.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray's stubs show the older record
            name=f"fit-{_run_id(job)}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=plan.max_failures),
            worker_runtime_env={"env_vars": _worker_settings(job)},
        ),
    )
    trainer.fit()
    shutil.rmtree(storage)  # what Ray notes of a finished fit; our checkpoints lie elsewhere
    _raise_failure(job)


def _work(saved: Mapping[str, Any]) -> None:
    """What each worker does."""
    from ray.train import get_context
    from ray.train.torch import get_device

    job, context = TrainingJob.from_dict(saved), get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        run_job(
            job,
            rank=rank,
            world=world,
            wrap=_in_parallel if world > 1 else None,
            device=get_device() if job.plan.gpus_per_worker else "cpu",
        )
    except (ValueError, ArithmeticError, LookupError, TypeError, FileNotFoundError) as error:
        # The same bytes would give the same error: leave the reason, and no failure for Ray to try again.
        # What a lost peer or a full disk raises (RuntimeError, OSError) goes up and is tried again.
        if rank == 0:
            failure = {"kind": type(error).__name__, "message": str(error)}
            atomic.write_json(job.folder / FAILURE, failure)


def _in_parallel(module: nn.Module) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module)


def _raise_failure(job: TrainingJob) -> None:
    file = job.folder / FAILURE
    if file.exists():
        raise TrainingFailed(**json.loads(file.read_text(encoding="utf-8")))


def _run_as_job(job: TrainingJob, address: str | None, follower: Follower) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    if address is None:
        raise ConfigError(
            "The launcher jobs needs the http address of a running Ray; use local to start one here."
        )
    claim(job.folder, job.to_dict(), begun=latest(job.checkpoints) is not None)
    client, name = JobSubmissionClient(address), f"diptych-{_run_id(job)}"
    if not _attach(client, name, job):
        client.submit_job(
            entrypoint=shlex.join([sys.executable, "-m", __name__, str(job.folder / JOB)]),
            submission_id=name,
            runtime_env={"env_vars": {**_worker_settings(job), **_train_settings()}},
            metadata={"job": _digest(job.to_dict())},
        )
    try:
        while not (status := client.get_job_status(name)).is_terminal():
            time.sleep(_POLL_S)
            follower.poll()
    except BaseException:
        _stop(client, name)
        raise
    _raise_failure(job)
    if status != JobStatus.SUCCEEDED:
        tail = "\n".join(client.get_job_logs(name).splitlines()[-20:])
        raise TrainingFailed(
            f"Ray job {name} {status}",
            f"{client.get_job_info(name).message}\n{tail}",
            final=False,
        )


def _attach(client: Any, name: str, job: TrainingJob) -> bool:
    """Whether the very job runs already; what else has its name is stopped and removed."""
    known = {each.submission_id: each for each in client.list_jobs()}.get(name)
    if known is None:
        return False
    if not known.status.is_terminal():
        if (known.metadata or {}).get("job") == _digest(job.to_dict()):
            return True
        _stop(client, name)
    client.delete_job(name)
    return False


def _stop(client: Any, name: str) -> None:
    client.stop_job(name)
    deadline_s = time.monotonic() + _STOP_S
    while not client.get_job_status(name).is_terminal() and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _run_id(job: TrainingJob) -> str:
    """Names the run in Ray: the same for every attempt at it, another for another folder."""
    return _digest(str(job.folder))[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _worker_settings(job: TrainingJob) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(job.plan.threads), "PYTHONPATH": str(_ROOT)}


def _train_settings() -> dict[str, str]:
    return {
        # The controller looks at its workers this often; at its default of 2 s every fit ends with 7 s of idling.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


def _local_settings() -> dict[str, str | None]:
    settings: dict[str, str | None] = {
        **_train_settings(),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Off, all that Ray opens listens on 127.0.0.1; on, it looks up the host's outward address and listens there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Unset, a new local Ray asks for a token by itself; set after `import ray` it would not be seen.
        "RAY_AUTH_MODE": None,
    }
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Else Ray writes one into the home directory, readable by everybody.
        settings["RAY_AUTH_TOKEN"] = _token()
    return settings


@functools.cache
def _token() -> str:
    """One for the whole process: Ray reads it once."""
    return secrets.token_hex(32)


if __name__ == "__main__":
    main(sys.argv[1:])
