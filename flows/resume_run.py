"""Finish a run that was begun: its training from the last checkpoint, its measuring, its registration."""

from dataclasses import replace
from functools import cache

from prefect import flow

from flows.distill_student import to_student
from flows.experiment import Launcher, read_experiment, run_key
from flows.outcome import Outcome
from flows.publishing import alone
from flows.refresh_dataset import refresh_dataset
from flows.runs.begun import meant, refuse_overrides, same
from flows.stages import make_stage, with_stages
from flows.train_model import to_version


@flow(name="resume-run", flow_run_name="resume {run}")
def resume_run(
    run: str,
    overrides: list[str] = [],  # noqa: B006 Prefect copies it
    launcher: Launcher = Launcher.jobs,
) -> Outcome | None:
    """Go on with a run as the flow that began it would have; None for a stage, which has no version.

    Args:
        run: The run's key or its MLflow id.
        overrides: Settings that may differ from those it was begun with, as "training.workers=2".
        launcher: Where training runs: jobs on the Ray head of `diptych up`, local on a Ray of the run's own, inline without.
    """
    begun = meant(run)
    settings = [*begun.overrides, *overrides]
    asked = read_experiment(begun.experiment, settings)
    if begun.is_stage:
        refuse_overrides(asked.name, settings)
        asked = replace(asked, evaluation=replace(asked.evaluation, scorer=None))
    revision_of = cache(refresh_dataset)
    chosen = with_stages(asked, revision_of, launcher)
    revision = revision_of(chosen.source)
    same(begun, run_key(chosen, revision.shards.digest, begun.attempt), overrides)
    if begun.is_stage:
        make_stage(begun.experiment, revision_of, launcher)
        return None
    finish = to_student if chosen.distill is not None else to_version
    with alone(chosen.name):
        return finish(chosen, revision, begun.attempt, launcher)
