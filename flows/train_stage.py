"""One stage on its own: a tokenizer, a language model or a tower that other experiments are handed."""

from functools import cache

from prefect import flow

from flows.experiment import ExperimentName, Launcher
from flows.refresh_dataset import refresh_dataset
from flows.stages import make_stage


@flow(name="train-stage", flow_run_name="stage {experiment}")
def train_stage(
    experiment: ExperimentName = ExperimentName.clip_tiny, launcher: Launcher = Launcher.jobs
) -> str:
    """Train what other experiments ask for as a part, or find it known; returns its checkpoint's digest.

    Args:
        experiment: A file of flows/experiments.
        launcher: Where training runs: jobs on the Ray head of `diptych up`, local on a Ray of the run's own, inline without.
    """
    return make_stage(experiment, cache(refresh_dataset), launcher).digest
