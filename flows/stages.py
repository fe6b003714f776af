"""The stages an experiment's slots ask for, trained where they are not known yet, in the order they need each other."""

from collections.abc import Callable
from dataclasses import replace

from prefect import get_run_logger

from components.evaluation.clip_scoring import load_scorer
from components.evaluation.plan import EvaluationPlan
from components.records import Checkpoint, Revision
from components.training.checkpoints.checkpoint import latest
from flows.decisions import fetch_version, known_version
from flows.experiment import Experiment, filled, filled_scorer, read_experiment
from flows.publishing import alone, closing
from flows.runs.begun import note
from flows.runs.teacher_texts import with_texts
from flows.services import services
from flows.steps import open_run, train, training_job

RevisionOf = Callable[[str], Revision]


def with_stages(experiment: Experiment, revision_of: RevisionOf, launcher: str) -> Experiment:
    """The experiment with every `stage:` slot filled by a checkpoint, trained if it is not known."""
    whole = filled(experiment, lambda name: make_stage(name, revision_of, launcher), _version)
    if (plan := whole.evaluation).scorer is not None:
        load_scorer(
            plan.scorer, plan.scorer_prefix
        )  # a mistake in it is told before anything is trained
    if whole.distill is not None and whole.distill.written:
        shards = revision_of(whole.source).shards
        return with_texts(whole, shards, services().settings.captions)
    return whole


def with_scorer(plan: EvaluationPlan, revision_of: RevisionOf) -> EvaluationPlan:
    """The plan with a `stage:` that scores captions filled by a checkpoint, trained here if it is not known."""
    return filled_scorer(plan, lambda name: make_stage(name, revision_of, "inline"))


def make_stage(name: str, revision_of: RevisionOf, launcher: str) -> Checkpoint:
    """The checkpoint of a stage on today's data; trained once for the same settings, data and parts."""
    asked = read_experiment(name)
    # A stage is a part: nobody measures it, so nothing has to score its captions.
    asked = replace(asked, evaluation=replace(asked.evaluation, scorer=None))
    experiment = with_stages(asked, revision_of, launcher)
    revision = revision_of(experiment.source)
    job = training_job(experiment, revision.shards, 0)
    tracking = services().tracking
    with alone(experiment.name):
        known, run_id = latest(job.checkpoints), tracking.find_run(job.folder.name)
        if known and known.step == job.steps and run_id and tracking.is_finished(run_id):
            get_run_logger().info("stage %s is known: %s", name, job.folder.name)
            return known
        run_id = open_run(experiment, revision, job, None)
        note(experiment, job, run_id, as_stage=True)
        with closing(run_id):
            checkpoint = train(experiment.name, job, launcher, run_id)
            tracking.log_file(run_id, checkpoint.path, "checkpoint")
    return checkpoint


def _version(model: str, number: str) -> Checkpoint:
    """A registered version's checkpoint, fetched; "champion" is whoever that is now."""
    known, _ = known_version(model, None if number == "champion" else int(number))
    return fetch_version(model, known.number)
