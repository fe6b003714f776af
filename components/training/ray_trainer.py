"""One job through one of three launchers, the same numbers out of each.

inline   a plain call in this process, without Ray; one worker
local    Ray Train in a Ray that this process starts, or has started (`cluster/local.py`)
jobs     Ray Train as a job of a running Ray; stopping the caller stops the job (`cluster/jobs.py`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from components.config import ConfigError
from components.records import Checkpoint
from components.training.checkpoints.checkpoint import latest, verify
from components.training.cluster.jobs import run_as_job
from components.training.cluster.local import run_local
from components.training.cluster.stopping import Signals, forget_stop, is_asked_to_stop
from components.training.folder import claim
from components.training.job import run_job
from components.training.keeping import deliver
from components.training.progress import Follower, Progress
from components.training.training_job import TrainingJob

Launcher = Literal["inline", "local", "jobs"]
OnLine = Callable[[Progress], None]


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

    Raises as `run_job` where it runs inline, `TrainingFailed` from another process, `Interrupted` where a file STOP was
    put into its folder, and `ConfigError` for a launcher that cannot run this plan. Ended by a signal or any other
    error of the caller, it leaves a checkpoint of the step it was at and no process.
    """
    if launcher not in get_args(Launcher):
        raise ConfigError(f'launcher="{launcher}" is none of {", ".join(get_args(Launcher))}.')
    follower = Follower(job.progress, on_line)
    forget_stop(job.folder)
    done = latest(job.checkpoints)
    if done and done.step == job.steps:  # then no Ray is started to say so
        claim(job.folder, job.to_dict(), begun=True)
        deliver(job.folder, job.mirror, job.plan.keep, done)
    elif launcher == "inline" or not job.learns:  # one pass needs no cluster
        _run_inline(job, follower)
    elif launcher == "local":
        run_local(job, follower)
    else:
        run_as_job(job, address, follower)
    follower.poll()
    return done if done and done.path == job.final else verify(job.final)


def _run_inline(job: TrainingJob, follower: Follower) -> None:
    if job.plan.workers > 1:
        raise ConfigError(
            f"The launcher inline runs one worker, workers={job.plan.workers} were planned; "
            "use the launcher local or jobs, or plan one."
        )
    with Signals() as signals:
        run_job(
            job,
            on_step=lambda step, values: follower.poll(),
            stop=lambda step: signals.asked() or is_asked_to_stop(job.folder),
        )
