"""Tells how far a training is: a line in the run's log every few seconds, and a Prefect progress artifact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from components.training.progress import Progress

EVERY_S = 3.0


class Bar:
    """A progress artifact, sent from a thread: a Prefect that is away, or has lost it, delays and ends nothing.

    What fails is told once; the next value is tried again.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._logger = get_run_logger()
        self._artifact: UUID | None = None
        self._lock = threading.Lock()
        self._is_sending, self._has_failed = False, False
        self.show(0.0)

    def show(self, percent: float) -> None:
        """Send a value; of those that come while one is being sent, the newest."""
        with self._lock:
            self._newest = percent
            if self._is_sending:
                return
            self._is_sending = True
        # The run's context, for the artifact is the run's. A daemon: nobody waits a minute for it at the end.
        threading.Thread(target=copy_context().run, args=(self._send,), daemon=True).start()

    def _send(self) -> None:
        sent: float | None = None
        while (percent := self._unsent(sent)) is not None:
            try:
                if self._artifact is None:
                    self._artifact = create_progress_artifact(
                        percent, key=self._key, description=self._description
                    )
                else:
                    update_progress_artifact(self._artifact, percent)
            except Exception as error:  # whatever it is, the work goes on
                if not self._has_failed:
                    self._logger.warning("Prefect does not show the progress: %s", error)
                self._has_failed = True
            sent = percent

    def _unsent(self, sent: float | None) -> float | None:
        with self._lock:
            self._is_sending = self._newest != sent
            return self._newest if self._is_sending else None


def teller(name: str, steps: int) -> Callable[[Progress], None]:
    """What to call with every report of a training; it says one every few seconds, and the last."""
    logger = get_run_logger()
    bar = Bar(f"training-{name.replace('_', '-')}", f"{name}: {steps} steps")
    said_s = -EVERY_S

    def tell(line: Progress) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        if now_s - said_s >= EVERY_S or line.step == steps:
            said_s = now_s
            logger.info(sentence(line, steps))
            bar.show(100.0 * line.step / steps)

    return tell


def sentence(line: Progress, steps: int) -> str:
    """One report for a person, as `step 120/400 · loss 2.310 · 410 images/s`."""
    parts = [f"step {line.step}/{steps}", f"loss {line.values['loss']:.3f}"]
    rate = line.values.get("samples_per_s")
    return " · ".join(parts + ([f"{rate:.0f} images/s"] if rate else []))
