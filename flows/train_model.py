"""One experiment on its data, up to a registered version; the gate is asked by promote_model."""

from functools import cache

from prefect import flow

from components.records import Revision
from flows.decisions import is_published, next_attempt
from flows.experiment import Experiment, ExperimentName, Launcher, read_competing
from flows.outcome import Outcome
from flows.publishing import alone, closing, publish
from flows.refresh_dataset import refresh_dataset
from flows.stages import with_stages
from flows.steps import make_candidate, undecided


@flow(name="train-model", flow_run_name="train {experiment}")
def train_model(
    experiment: ExperimentName = ExperimentName.virtex_emoji_mini,
    overrides: list[str] = [],  # noqa: B006 Prefect shows the default in the form and copies it
    launcher: Launcher = Launcher.jobs,
) -> Outcome:
    """Train one experiment, measure it and register a version: each run of this flow makes one, with the next seed.

    Args:
        experiment: A file of flows/experiments.
        overrides: Settings changed for this run, as "training.lr=1e-4".
        launcher: Where training runs: jobs on the Ray head of `diptych up`, local on a Ray of the run's own, inline without.
    """
    revision_of = cache(refresh_dataset)
    chosen = with_stages(read_competing(experiment, overrides), revision_of, launcher)
    revision = revision_of(chosen.source)
    with alone(chosen.name):
        attempt = next_attempt(chosen, revision.shards.digest, is_published)
        return to_version(chosen, revision, attempt, launcher)


def to_version(experiment: Experiment, revision: Revision, attempt: int, launcher: str) -> Outcome:
    """One attempt up to a registered version that no gate was asked about."""
    candidate = make_candidate(experiment, revision, attempt, launcher)
    outcome = undecided(experiment, candidate, attempt)
    with closing(candidate.mlflow_run_id):
        publish(outcome)
    return outcome
