"""One trial: an ordinary training, measured at each of its checkpoints, that goes on where it was cut off.

It knows no Ray: `tell` is how it reports, and may end the process it runs in or raise to stop it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from components.config import ConfigError
from components.failpoint import failpoint
from components.records import Checkpoint
from components.training.checkpoints.checkpoint import latest
from components.training.cluster.failure import FINAL
from components.training.folder import held
from components.training.job import run_job
from components.training.sweeps import trials
from components.training.sweeps.search import Settings
from components.training.sweeps.trials import Sweep, Trial
from components.training.training_job import TrainingJob

Objective = Callable[[Checkpoint], float]
"""What a checkpoint is worth: one number, measured on `val`."""
Tell = Callable[[int, float], None]
"""Called with finished steps and the value, in the order of steps."""

_DAY_S = 24 * 3600.0


def attempt(sweep: Sweep, settings: Settings, objective: Objective, tell: Tell) -> Trial:
    """Train and measure one set of settings to its end, or go on with it; what is settled is only told again.

    A value is on disk before it is told. Settings that cannot work (a loss that is not finite, a model that cannot be
    built) settle the trial as failed and raise nothing; what may pass, as a full disk, is raised.
    """
    place = sweep.place(sweep.trial(settings).key)
    # Few choices make equal trials: the second waits, and finds the first one's values.
    with held(place, patience_s=_DAY_S):
        trial = sweep.trial(settings)
        for step, value in trial.values:
            tell(step, value)
        if trial.settled:
            return trial
        try:
            return _learn(place, trials.write(place, trial), sweep, objective, tell)
        except FINAL as error:
            failed = trials.read(place) or trial
            reason = f"{type(error).__name__}: {error}"
            return trials.write(place, replace(failed, state="failed", reason=reason))


def _learn(place: Path, trial: Trial, sweep: Sweep, objective: Objective, tell: Tell) -> Trial:
    job = sweep.training(trial)
    measured = _Measured(place, trial, objective, tell)

    def look(step: int, values: Mapping[str, float]) -> None:
        # A line of progress comes before the checkpoint of its step, which is written beside the training: what is
        # here is an earlier one, or none yet.
        if _newest(job) > measured.step and (found := latest(job.checkpoints)) is not None:
            measured.add(found)

    final = run_job(job, on_step=look)
    failpoint("trial.trained")
    return measured.add(final, state="finished")


class _Measured:
    """A trial's values, on disk as they come."""

    def __init__(self, place: Path, trial: Trial, objective: Objective, tell: Tell) -> None:
        self._place, self._trial = place, trial
        self._objective, self._tell = objective, tell

    @property
    def step(self) -> int:
        """The step of the last value."""
        return self._trial.values[-1][0] if self._trial.values else -1

    def add(self, checkpoint: Checkpoint, state: trials.State = "running") -> Trial:
        """Measure a checkpoint, write its value down, and tell it; a step that was measured is not measured again."""
        fresh = checkpoint.step > self.step
        values = self._trial.values
        if fresh:
            value = self._objective(checkpoint)
            if not math.isfinite(value):
                raise ConfigError(f"the metric is {value} after {checkpoint.step} steps")
            values = (*values, (checkpoint.step, value))
        self._trial = trials.write(self._place, replace(self._trial, values=values, state=state))
        if fresh:
            self._tell(*values[-1])
        return self._trial


def _newest(job: TrainingJob) -> int:
    """The step of the newest checkpoint, whole or not, without reading it; -1 for none."""
    names = [path.name for path in job.checkpoints.glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=-1)
