"""Run one sweep in a process of its own, so that a test can kill it: `python …/sweep.py SHARDS FOLDER TRIALS DIES_AT_SETTLED`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from components.evaluation.objective import Objective
from components.evaluation.plan import EvaluationPlan
from components.training.plan import TrainingPlan
from components.training.ray_tuner import tune
from components.training.sweeps.search import Search
from components.training.sweeps.trials import Sweep, Trial
from components.training.training_job import TrainingJob
from tests.components.training.small_clip import CONFIG

SPACE = {"training.lr": {"log": [1e-6, 1e-2]}, "model.embed_width": {"choice": [8, 16]}}


def sweep_of(shards: Path, folder: Path, trials: int, **changes: object) -> Sweep:
    plan = TrainingPlan(
        **{
            "steps": 24, "batch_size": 8, "warmup_steps": 0, "checkpoint_every": 4,
            "report_every": 1, "vocab_size": 300, "cpus_per_worker": 0.5, **changes,
        }
    )  # fmt: skip
    return Sweep(
        search=Search(metric="loss", trials=trials, space=SPACE),
        job=TrainingJob(
            family="clip", config=CONFIG, plan=plan, shards=shards, folder=folder / "unused"
        ),
        folder=folder / "sweep",
        runs=folder / "runs",
    )


def main(shards: str, folder: str, trials: str, dies_at: str) -> None:
    sweep = sweep_of(Path(shards), Path(folder), int(trials))

    def die(_: Trial) -> None:
        if sum(trial.settled for trial in sweep.trials()) >= int(dies_at):
            os.kill(os.getpid(), signal.SIGKILL)

    objective = Objective(metric="loss", shards=Path(shards), plan=EvaluationPlan())
    print(tune(sweep, objective, die).key)


if __name__ == "__main__":
    main(*sys.argv[1:])
