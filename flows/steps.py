"""Tasks more than one flow uses: a function from below with retries and a name, and the order they stand in."""

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from components.data.shards import read_images, read_manifest
from components.evaluation.measure import measure
from components.evaluation.plan import EvaluationPlan
from components.failpoint import failpoint
from components.models.parts import Origin
from components.records import Checkpoint, Report, Revision, Shards
from components.training import progress, ray_trainer
from components.training.checkpoints import uploader
from components.training.cluster.local import local_ray
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from components.training.usage import cost
from flows.experiment import Experiment, run_key
from flows.outcome import Candidate, Outcome
from flows.patience import patient
from flows.publishing import best_effort, failing, log_cost
from flows.runs import begun, timing
from flows.runs.certifying import certificate_here, compiled_tables
from flows.runs.pictures import pictures
from flows.runs.progress import teller
from flows.services import flow_page, services


def make_candidate(
    experiment: Experiment,
    revision: Revision,
    attempt: int,
    launcher: str,
    night_run: str | None = None,
) -> Candidate:
    """Train, measure and register one experiment; every step is a no-op where it was done before."""
    job = training_job(experiment, revision.shards, attempt)
    run_id = open_run(experiment, revision, job, night_run)
    begun.note(experiment, job, run_id)
    with failing(run_id):
        checkpoint = train(experiment.name, job, launcher, run_id)
        reports = [
            evaluate(checkpoint, revision.shards, split, experiment.evaluation)
            for split in (experiment.evaluation.split, *experiment.evaluation.also)
        ]
        number = register(experiment, revision, job, checkpoint, reports, run_id, attempt)
        # As a state: a picture that cannot be drawn is seen in the run, and ends no night.
        draw(revision.shards, job, reports[0], run_id, return_state=True)
    return Candidate(
        experiment=experiment.name,
        run_key=job.folder.name,
        mlflow_run_id=run_id,
        checkpoint=checkpoint,
        report=reports[0],
        number=number,
        cost=cost.total(job.folder / cost.FILE),
    )


def training_job(experiment: Experiment, shards: Shards, attempt: int) -> TrainingJob:
    """What to train. Each attempt on the same data draws another seed, or it would be the same model again."""
    return TrainingJob(
        family=experiment.family,
        config=experiment.model.to_dict(),
        plan=replace(experiment.training, seed=experiment.training.seed + attempt),
        parts=experiment.parts,
        distillation=experiment.distill,
        shards=shards.path,
        folder=services().settings.runs / run_key(experiment, shards.digest, attempt),
    )


@patient(name="open run", task_run_name="open run of {experiment.name}")
def open_run(
    experiment: Experiment, revision: Revision, job: TrainingJob, night_run: str | None
) -> str:
    """The MLflow run of this training, found again by its key if the night was interrupted."""
    tracking = services().tracking
    run_id = tracking.open_run(
        job.folder.name,
        experiment.name,
        parent_run_id=night_run,
        tags={
            "diptych.experiment": experiment.name,
            "diptych.family": experiment.family,
            "diptych.flow_run": str(flow_run.id),
            "diptych.flow_run_page": flow_page(),
            "diptych.shards": revision.shards.digest,
            "diptych.commit": commit(),
            "diptych.evaluation": json.dumps(experiment.evaluation.to_dict()),
            # No setting of the run: MLflow lets none change, and it may go on elsewhere.
            "diptych.placement": json.dumps(_placement(job.plan)),
        },
    )
    settings = {
        "family": experiment.family,
        "source": experiment.source,
        "experiment_digest": experiment.digest[:12],
        "model": job.config,
        "training": job.plan.decides(),
    }
    if job.distillation:
        settings["distill"] = {
            **job.distillation.to_dict(),
            "teacher": job.distillation.teacher.identity,
        }
    if origins := _origins(job):
        settings["parts"] = {slot: origin.identity for slot, origin in origins.items()}
        tracking.log_tags(run_id, lineage(job))
    tracking.log_params(run_id, settings)
    tracking.log_data(run_id, revision)
    return run_id


def _placement(plan: TrainingPlan) -> dict[str, Any]:
    """Where and how a training runs."""
    return {name: value for name, value in plan.to_dict().items() if name in plan.PLACEMENT}


def lineage(job: TrainingJob) -> dict[str, str]:
    """The runs that made this one's parts and its teacher: slot -> MLflow run, so that one page leads to the other."""
    # A stage's checkpoint lies in <run key>/checkpoints/step-…: its run is found by that key.
    keys = {
        slot: Path(origin.path).parents[1].name
        for slot, origin in _origins(job).items()
        if origin.path
    }
    found = {slot: services().tracking.find_run(key) for slot, key in keys.items()}
    return {f"diptych.part.{slot}.run": run for slot, run in found.items() if run}


def _origins(job: TrainingJob) -> dict[str, Origin]:
    """Where its parts came from, and its teacher as one of them."""
    teacher = {"teacher": job.distillation.teacher} if job.distillation else {}
    return {**job.parts, **teacher}


@patient(name="train", task_run_name="train {name}", retries=1, retry_delay_seconds=2)
def train(name: str, job: TrainingJob, launcher: str, run_id: str) -> Checkpoint:
    """Train to the last step, or go on from the last checkpoint; progress reaches MLflow and this run's log."""
    doors, began_s = services(), time.time()
    try:
        with doors.tracking.follow(job.progress, run_id) as follower:
            checkpoint = ray_trainer.train(
                replace(job, mirror=doors.settings.mirror),
                launcher=launcher,
                address=doors.settings.ray_address,
                on_line=teller(name, job.plan.steps),
            )
    except BaseException:  # cancelled or failed, it took something too
        best_effort("its cost", lambda: log_cost(job.folder, run_id))
        raise
    if follower.unsynced:
        get_run_logger().warning(
            "%d reports did not reach MLflow (%s); they stay in %s and the next run of this training sends them.",
            follower.unsynced,
            follower.problem,
            job.progress,
        )
    log_cost(job.folder, run_id)
    if problem := uploader.problem(job.folder):
        get_run_logger().warning("Its last checkpoint was not copied: %s", problem)
    timing.count_training(progress.read(job.progress), job.plan.batch_size, began_s)
    failpoint("trained")
    return checkpoint


@patient(name="evaluate", task_run_name="evaluate {split}", retries=1)
def evaluate(checkpoint: Checkpoint, shards: Shards, split: str, plan: EvaluationPlan) -> Report:
    """Every number a checkpoint's abilities call for, on one split."""
    get_run_logger().info("measuring a checkpoint of %s", checkpoint.family)
    with timing.timed("evaluation"):
        settings = services().settings
        tables = compiled_tables(settings)
        report = measure(checkpoint, shards, split, plan, settings.captions, tables)
    certificate = certificate_here(settings, tables)
    return replace(report, certificate=certificate.id) if certificate else report


@task(name="draw", cache_policy=NO_CACHE)
def draw(shards: Shards, job: TrainingJob, report: Report, run_id: str) -> None:
    """Loss, metrics, recall and a sheet of samples, as pictures of the MLflow run."""
    for name, picture in pictures(shards, progress.read(job.progress), report).items():
        services().tracking.log_bytes(run_id, f"figures/{name}.png", picture)


@patient(name="register", task_run_name="register {experiment.name}")
def register(
    experiment: Experiment,
    revision: Revision,
    job: TrainingJob,
    checkpoint: Checkpoint,
    reports: Sequence[Report],
    run_id: str,
    attempt: int,
) -> int:
    """Log the reports, register the checkpoint as a version, and write both into the ledger; returns its number."""
    doors, key = services(), job.folder.name
    for report in reports:
        doors.tracking.log_report(run_id, report)
        if report.captions is not None:
            doors.tracking.log_file(run_id, report.captions.path, "captions")
    doors.ledger.record_run(
        key,
        experiment=experiment.name,
        experiment_digest=experiment.digest,
        family=experiment.family,
        shards_digest=revision.shards.digest,
        seed=job.plan.seed,
        attempt=attempt,
        checkpoint_digest=checkpoint.digest,
        mlflow_run_id=run_id,
        flow_run_id=str(flow_run.id),
        git_commit=commit(),
        cost=cost.total(job.folder / cost.FILE),
    )
    rows = read_manifest(revision.shards)
    shown = next(row for row in rows if row.sample.split == experiment.evaluation.split)
    number = doors.versions.register(
        run_id,
        experiment.name,
        checkpoint,
        key=key,
        example=next(read_images(revision.shards, [shown])),
        labels=list(dict.fromkeys(row.sample.label for row in rows)),
        prompts=experiment.evaluation.prompts,
        decoding=experiment.evaluation.decoding(),
    )
    if job.distillation:
        teacher = job.distillation.teacher.identity
        doors.versions.tag(experiment.name, number, "diptych.teacher", teacher)
    doors.ledger.record_version(experiment.name, number, key, checkpoint.digest)
    failpoint("registered")
    return number


@cache
def commit() -> str:
    """The commit this code is at, `-dirty` if it was changed since; empty outside a checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=services().settings.repo,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def ray_for(launcher: str, due: Sequence[Experiment]) -> AbstractContextManager[None]:
    """One Ray for a whole night, where trainings need one of their own."""
    return local_ray() if launcher == "local" and due else nullcontext()


def undecided(experiment: Experiment, candidate: Candidate, attempt: int) -> Outcome:
    """The outcome of a registered version that no gate was asked about."""
    return Outcome(
        experiment=experiment.name,
        family=experiment.family,
        attempt=attempt,
        candidate=candidate,
        links=links(candidate.mlflow_run_id, experiment.name, candidate.number),
    )


def links(run_id: str, model: str, number: int, champion: int | None = None) -> dict[str, str]:
    """The pages to open: title -> address."""
    doors = services()
    found = {
        "Prefect run": flow_page(),
        "MLflow run": doors.tracking.run_page(run_id),
        "Registered version": doors.versions.page(model, number),
    }
    if champion is not None:
        entry = doors.ledger.version(model, champion)
        run = doors.ledger.run(entry.run_key) if entry else None
        if run is not None:
            found["Compare with champion"] = doors.tracking.compare_page(
                [run.mlflow_run_id, run_id]
            )
    return {title: address for title, address in found.items() if address}
