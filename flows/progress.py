"""Tells how far a training is while it runs: a line in the flow's log and a Prefect progress artifact."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.training import progress
from components.training.job import TrainingJob
from components.training.progress import Progress

EVERY_S = 3.0


@contextmanager
def told(job: TrainingJob, name: str) -> Iterator[None]:
    """While the block trains, read the job's progress file every few seconds and say what is new.

    The file is the channel, so that it is the same in this process, on a local Ray and on a cluster.
    """
    from prefect import get_run_logger
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    logger = get_run_logger()
    artifact = create_progress_artifact(
        0.0, key=f"training-{name.replace('_', '-')}", description=f"{name}: {job.plan.steps} steps"
    )

    def say(line: Progress) -> None:
        logger.info(sentence(name, line, job.plan.steps))
        update_progress_artifact(artifact, 100.0 * line.step / job.plan.steps)

    with _followed(job, say):
        yield


def sentence(name: str, line: Progress, steps: int) -> str:
    """One report for a person, as `clip_emoji_mini: step 120/400 · loss 2.31 · 410 images/s`."""
    rate = line.values.get("samples_per_s")
    parts = [f"{name}: step {line.step}/{steps}", f"loss {line.values['loss']:.3f}"]
    return " · ".join(parts + ([f"{rate:.0f} images/s"] if rate else []))


@contextmanager
def _followed(job: TrainingJob, say: Callable[[Progress], None]) -> Iterator[None]:
    done = threading.Event()

    def follow() -> None:
        told_step = 0
        while True:
            last_look = done.wait(EVERY_S)
            lines = progress.read(job.progress)
            if lines and lines[-1].step > told_step:
                told_step = lines[-1].step
                say(lines[-1])
            if last_look:
                return

    # The thread speaks through the task run's logger and client, which live in context variables.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
