"""The launcher `jobs`: a training as a job of a Ray that runs, submitted, watched and stopped over its Jobs API.

By http and not by `ray://` (Ray Client): the job's driver then lives in the cluster, so that it outlives this process,
goes on after a lost connection, and is found again by its name; and one address with one token is all that is needed.
Inside the job Ray finds its own cluster (`address="auto"`).
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from components.config import ConfigError
from components.training.checkpoints.checkpoint import latest
from components.training.cluster import failure
from components.training.cluster.failure import TrainingFailed
from components.training.cluster.fit import digest, fit, run_id, train_settings, worker_settings
from components.training.cluster.presence import wait_empty
from components.training.cluster.stopping import ask_to_stop, forget_stop, is_asked_to_stop
from components.training.folder import JOB, claim
from components.training.loop import Interrupted
from components.training.progress import Follower
from components.training.training_job import TrainingJob

T = TypeVar("T")

_POLL_S = 0.5
_GRACE_S = 6.0
_STOP_S = 30.0
_LOST_S = 180.0
"""How long a cluster may give no answer, or a wrong one, before its job is left to itself."""
_REFUSALS = (OSError, RuntimeError)
"""What the Jobs API's client raises: without a connection, and for an answer that is no success."""


class ClusterFailed(ConnectionError):
    """A cluster that gives no answer, or a refusal."""

    def __init__(self, address: str, error: Exception) -> None:
        super().__init__(
            f"The Ray at {address} did not do as asked: {type(error).__name__}: {error}. If it has the job of this run, that "
            "goes on; the same command finds it, or goes on from its last checkpoint."
        )


def main(arguments: list[str]) -> None:
    """`python -m components.training.cluster.jobs <job.json>`: what is submitted."""
    import ray

    ray.init(address="auto", log_to_driver=False)
    fit(TrainingJob.read(Path(arguments[0])))


def run_as_job(job: TrainingJob, address: str | None, follower: Follower) -> None:
    """Train a job on the Ray at `address`, or find it there; a signal, or an error of `follower`, stops the job.

    address: http address of its dashboard.

    Raises `TrainingFailed`, `Interrupted` where a file STOP asked for it, `ConfigError` without an address, and
    `ClusterFailed` where that stays without an answer: then the job is left to itself.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    if address is None:
        raise ConfigError(
            "The launcher jobs needs the http address of a running Ray; use local to start one here."
        )
    claim(job.folder, job.to_dict(), begun=latest(job.checkpoints) is not None)
    client, name = JobSubmissionClient(address), f"diptych-{run_id(job)}"
    try:
        _asked(lambda: _begin(client, name, job), address, 0.0)
        while not (
            status := _asked(lambda: client.get_job_status(name), address, _LOST_S)
        ).is_terminal():
            time.sleep(_POLL_S)
            follower.poll()
    except ClusterFailed:
        raise
    except BaseException:
        _stop(client, name, job.folder)
        raise
    failure.raise_told(job.folder)
    if status != JobStatus.SUCCEEDED:
        if is_asked_to_stop(job.folder):
            reached = latest(job.checkpoints)
            raise Interrupted(reached.step if reached else 0)
        tail = "\n".join(client.get_job_logs(name).splitlines()[-20:])
        raise TrainingFailed(
            f"Ray job {name} {status}",
            f"{client.get_job_info(name).message}\n{tail}",
            final=False,
        )


def _settings(job: TrainingJob) -> dict[str, str]:
    return train_settings(nodes_may_leave=True, elastic=job.plan.min_workers > 0)


def _asked(ask: Callable[[], T], address: str, patience_s: float) -> T:
    """What a cluster answers; asked again for a while where it does not."""
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except _REFUSALS as error:
            if time.monotonic() >= deadline_s:
                raise ClusterFailed(address, error) from error
            time.sleep(_POLL_S)


def _begin(client: Any, name: str, job: TrainingJob) -> None:
    if _attach(client, name, job):
        return
    failure.forget(job.folder)  # of an attempt whose driver died: no reason of this one
    client.submit_job(
        entrypoint=shlex.join([sys.executable, "-m", __name__, str(job.folder / JOB)]),
        submission_id=name,
        runtime_env={"env_vars": {**worker_settings(job), **_settings(job)}},
        metadata={"job": digest(job.to_dict())},
    )


def _attach(client: Any, name: str, job: TrainingJob) -> bool:
    """Whether the very job runs already; what else has its name is stopped and removed."""
    known = {each.submission_id: each for each in client.list_jobs()}.get(name)
    if known is None:
        return False
    if not known.status.is_terminal():
        if (known.metadata or {}).get("job") == digest(job.to_dict()):
            return True
        _stop(client, name, job.folder)
        forget_stop(job.folder)
    client.delete_job(name)
    return False


def _stop(client: Any, name: str, folder: Path) -> None:
    """Let the workers end with a checkpoint of their step, or end them; returns when they are gone."""
    ask_to_stop(folder)
    # There may be no such job yet, or no connection; the workers hear of the file all the same.
    with contextlib.suppress(*_REFUSALS):
        if not _ended(client, name, _GRACE_S):
            client.stop_job(name)
            _ended(client, name, _STOP_S)
    # A job is called stopped when its driver is gone; the workers, which Ray ends after it, may be at a last step.
    if not wait_empty(folder, _STOP_S):
        logging.getLogger(__name__).warning("workers are still at work in %s", folder)


def _ended(client: Any, name: str, patience_s: float) -> bool:
    deadline_s = time.monotonic() + patience_s
    while not client.get_job_status(name).is_terminal():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
