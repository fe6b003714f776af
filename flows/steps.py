"""Tasks more than one flow uses: a function from below with retries and a name, and the order they stand in."""

from dataclasses import replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from components.evaluation.measure import measure
from components.records import Checkpoint, Report, Revision, Shards
from components.training import ray_trainer
from components.training.job import TrainingJob
from flows.experiment import Experiment, run_key
from flows.outcome import Candidate
from flows.progress import tell
from flows.services import services


def make_candidate(
    experiment: Experiment, revision: Revision, attempt: int, launcher: str, night_run: str | None
) -> Candidate:
    """Train, measure and register one experiment; every step a no-op where it was done before."""
    key = run_key(experiment, revision.shards.digest, attempt)
    # Another attempt on the same data is another draw: the seed moves, so that it can differ from the last.
    plan = replace(experiment.training, seed=experiment.training.seed + attempt)
    job = TrainingJob(
        family=experiment.family,
        config=experiment.model.to_dict(),
        plan=plan,
        shards=revision.shards.path,
        folder=services().settings.runs / key,
    )
    run_id = open_run(experiment, revision, job, key, night_run)
    checkpoint = train(job, launcher, run_id)
    report = evaluate(checkpoint, revision.shards, experiment)
    log_report(run_id, experiment, job, report, revision.shards)
    number = register(experiment, revision, checkpoint, run_id, key, attempt)
    return Candidate(
        experiment=experiment.name,
        run_key=key,
        mlflow_run_id=run_id,
        checkpoint=checkpoint,
        report=report,
        number=number,
    )
