"""Experiments trained without Prefect and MLflow, with seeds that are asked for: what the pages of `make` share.

The same jobs and run folders that the flows would make, so that a stage is trained once for all of them. Everything may
be killed and started again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from components.data.shards import ShardsMissing, open_shards
from components.records import Checkpoint
from components.training import progress
from components.training.job import run_job
from components.training.training_job import TrainingJob
from flows.experiment import Experiment, filled, read_experiment, run_key
from flows.runs.teacher_texts import with_texts
from infra.settings import Settings

SEEDS = (0, 1, 2)


def job_of(experiment: Experiment, seed: int) -> TrainingJob:
    """The job of an experiment whose parts and teacher are filled in."""
    settings = Settings.read()
    shards = open_shards(settings.repo / "data" / "shards" / experiment.source)
    return TrainingJob(
        family=experiment.family,
        config=experiment.model.to_dict(),
        plan=replace(experiment.training, seed=seed),
        parts=experiment.parts,
        distillation=experiment.distill,
        shards=shards.path,
        folder=settings.runs / run_key(experiment, shards.digest, seed),
    )


def whole(name: str) -> Experiment:
    """An experiment with its stages, its teacher and its teacher's texts, made where they are not there yet."""
    settings = Settings.read()
    experiment = filled(read_experiment(name), checkpoint_of)
    if experiment.distill is None or not experiment.distill.written:
        return experiment
    shards = open_shards(settings.repo / "data" / "shards" / experiment.source)
    return with_texts(experiment, shards, settings.captions)


def checkpoint_of(stage: str) -> Checkpoint:
    """A stage's checkpoint, in the run folder that the flows would give it too."""
    return run_job(job_of(whole(stage), 0))


def make_ready(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those whose source is prepared on this machine, every stage they need trained; and those whose source is not."""
    here: list[str] = []
    missing: list[str] = []
    for name in names:
        (here if has_data(name) else missing).append(name)
    for stage in dict.fromkeys(stage for name in here for stage in stages_of(name)):
        print(f"stage {stage}", flush=True)
        checkpoint_of(stage)
    return here, missing


def stages_of(name: str) -> list[str]:
    """The stages an experiment needs, its teacher among them; those first that others need."""
    experiment = read_experiment(name)
    taught = [experiment.distill.teacher] if experiment.distill else []
    origins = [*experiment.parts.values(), *taught]
    direct = [origin.name for origin in origins if origin.kind == "stage"]
    return [each for stage in direct for each in (*stages_of(stage), stage)]


def has_data(name: str) -> bool:
    """Whether its source is prepared on this machine."""
    try:
        open_shards(Settings.read().repo / "data" / "shards" / read_experiment(name).source)
    except ShardsMissing:
        return False
    return True


def steps_and_pairs(job: TrainingJob) -> str:
    """Its steps times the pairs of one, as a cell; nothing where nothing is learnt."""
    return f"{job.plan.steps} × {job.plan.batch_size}" if job.learns else ""


def cpu_s(job: TrainingJob) -> float:
    """What training took of one core."""
    lines = progress.read(job.progress) if job.learns else ()
    return sum(line.values.get("cpu_s", 0.0) for line in lines)


def short_digest(value: object) -> str:
    """Names a JSON value in twelve letters."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
