"""The whole night, in order: fresh data, each experiment retrained if something changed, a gated champion out."""

from functools import cache

from prefect import flow, get_run_logger

from flows.decisions import decide, is_decided, next_attempt, settle, unchanged
from flows.experiment import ExperimentName, Launcher, read_competing, run_key
from flows.outcome import Outcome
from flows.publishing import alone, closing, open_night, publish
from flows.refresh_dataset import refresh_dataset
from flows.runs.timing import Night
from flows.stages import with_stages
from flows.steps import make_candidate, ray_for


@flow(name="nightly-retrain")
def nightly_retrain(
    experiments: list[ExperimentName] = [  # noqa: B006 Prefect shows the default in the form
        ExperimentName.clip_emoji_mini,
        ExperimentName.virtex_emoji_mini,
    ],
    overrides: list[str] = [],  # noqa: B006
    force: bool = False,
    launcher: Launcher = Launcher.jobs,
) -> list[Outcome]:
    """Bring data up to date, retrain what it affects, measure, and promote or refuse with reasons.

    Args:
        experiments: Files of flows/experiments, in order.
        overrides: Settings changed for every experiment of this night, as "training.steps=200".
        force: Train although data and settings are unchanged, with the next seed.
        launcher: Where training runs: jobs on the Ray head of `diptych up`, local on a Ray of the run's own, inline without.
    """
    clock = Night()
    asked = [read_competing(name, overrides) for name in dict.fromkeys(experiments)]
    settle([experiment.name for experiment in asked])
    revision_of = cache(refresh_dataset)
    revisions = {source: revision_of(source) for source in sorted({each.source for each in asked})}
    night = [with_stages(each, revision_of, launcher) for each in asked]
    attempts = {
        each.name: next_attempt(each, revisions[each.source].shards.digest, is_decided)
        for each in night
    }
    due = [each for each in night if force or not attempts[each.name]]
    outcomes = [unchanged(each, attempts[each.name]) for each in night if each not in due]
    for outcome in outcomes:
        publish(outcome)
    run_id = open_night(
        [run_key(each, revisions[each.source].shards.digest, attempts[each.name]) for each in due]
    )
    with closing(run_id), ray_for(launcher, due):
        for experiment in due:
            revision, attempt = revisions[experiment.source], attempts[experiment.name]
            with alone(experiment.name):
                candidate = make_candidate(experiment, revision, attempt, launcher, run_id)
                with closing(candidate.mlflow_run_id):
                    outcomes.append(decide(experiment, candidate, revision, attempt))
                    publish(outcomes[-1])
    get_run_logger().info("The night took %s.", clock.sentence())
    return outcomes
