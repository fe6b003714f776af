"""A student taught by its experiment's teacher, measured beside it, up to a registered version."""

from functools import cache
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from components.config import ConfigError
from components.records import Revision
from components.training.checkpoints.checkpoint import verify
from flows.decisions import is_published, next_attempt
from flows.experiment import Experiment, ExperimentName, Launcher, read_competing
from flows.outcome import Outcome
from flows.publishing import alone, closing, publish
from flows.refresh_dataset import refresh_dataset
from flows.runs.retention import retention_markdown, teachers_plan
from flows.services import services
from flows.stages import with_stages
from flows.steps import evaluate, make_candidate, undecided


@flow(name="distill-student", flow_run_name="distill {experiment}")
def distill_student(
    experiment: ExperimentName = ExperimentName.clip_distilled_tiny,
    overrides: list[str] = [],  # noqa: B006 Prefect shows the default in the form and copies it
    launcher: Launcher = Launcher.jobs,
) -> Outcome:
    """Find or train the teacher, train the student, measure both and register the student: each run makes one version.

    Args:
        experiment: A file of flows/experiments with a section `distill`.
        overrides: Settings changed for this run, as "distill.temperature=2".
        launcher: Where training runs: jobs on the Ray head of `diptych up`, local on a Ray of the run's own, inline without.
    """
    asked = read_competing(experiment, overrides)
    if asked.distill is None:
        raise ConfigError(
            f"{asked.name} names no teacher. `diptych train {asked.name}` trains it; for a student write `distill: "
            "{teacher: stage:EXPERIMENT, terms: {…}}` into its file."
        )
    revision_of = cache(refresh_dataset)
    chosen = with_stages(asked, revision_of, launcher)
    revision = revision_of(chosen.source)
    with alone(chosen.name):
        attempt = next_attempt(chosen, revision.shards.digest, is_published)
        return to_student(chosen, revision, attempt, launcher)


def to_student(experiment: Experiment, revision: Revision, attempt: int, launcher: str) -> Outcome:
    """One attempt up to a registered student, measured beside its teacher; no gate is asked."""
    candidate = make_candidate(experiment, revision, attempt, launcher)
    outcome = undecided(experiment, candidate, attempt)
    run_id, taught = candidate.mlflow_run_id, experiment.distill
    assert taught is not None, "it has a teacher"
    with closing(run_id):
        teacher, plan = taught.teacher, teachers_plan(experiment)
        measured = evaluate.with_options(name="evaluate teacher")(
            verify(Path(teacher.path)), revision.shards, plan.split, plan
        )
        page = retention_markdown(experiment.name, teacher.identity, candidate.report, measured)
        services().tracking.log_bytes(run_id, "retention.md", page.encode())
        create_markdown_artifact(
            page,
            key=f"retention-{experiment.name.replace('_', '-')}",
            description=f"{experiment.name} beside its teacher {teacher.name}",
        )
        publish(outcome)
    return outcome
