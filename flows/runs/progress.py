"""Tells how far a training is: a line in the run's log every few seconds, and a Prefect progress artifact."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.training.progress import Progress

EVERY_S = 3.0


def teller(name: str, steps: int) -> Callable[[Progress], None]:
    """What to call with every report of a training; it says one every few seconds, and the last."""
    from prefect import get_run_logger
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    logger = get_run_logger()
    artifact = create_progress_artifact(
        0.0, key=f"training-{name.replace('_', '-')}", description=f"{name}: {steps} steps"
    )
    said_s = -EVERY_S

    def tell(line: Progress) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        if now_s - said_s >= EVERY_S or line.step == steps:
            said_s = now_s
            logger.info(sentence(line, steps))
            update_progress_artifact(artifact, 100.0 * line.step / steps)

    return tell


def sentence(line: Progress, steps: int) -> str:
    """One report for a person, as `step 120/400 · loss 2.310 · 410 images/s`."""
    parts = [f"step {line.step}/{steps}", f"loss {line.values['loss']:.3f}"]
    rate = line.values.get("samples_per_s")
    return " · ".join(parts + ([f"{rate:.0f} images/s"] if rate else []))
