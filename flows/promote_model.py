"""Ask the gate about a registered version and move the champion alias, or give the alias back."""

from dataclasses import replace
from functools import cache

from prefect import flow

from flows.decisions import decide, fetch_version, give_back, known_version, settle
from flows.experiment import ExperimentName, read_competing
from flows.outcome import Candidate, Outcome
from flows.publishing import alone, publish
from flows.refresh_dataset import refresh_dataset
from flows.stages import with_scorer
from flows.steps import evaluate


@flow(name="promote-model", flow_run_name="promote {model}")
def promote_model(model: ExperimentName, version: int) -> Outcome:
    """Hold a version against the champion on today's data; promote it or say why not.

    Args:
        model: The experiment whose version it is.
        version: Its number in the registry.
    """
    experiment = read_competing(model)
    entry, run = known_version(experiment.name, version)
    settle([experiment.name])
    revision_of = cache(refresh_dataset)
    revision = revision_of(experiment.source)
    checkpoint = fetch_version(experiment.name, entry.number)
    plan = with_scorer(experiment.evaluation, revision_of)
    experiment = replace(experiment, evaluation=plan)
    candidate = Candidate(
        experiment=experiment.name,
        run_key=entry.run_key,
        mlflow_run_id=run.mlflow_run_id,
        checkpoint=checkpoint,
        report=evaluate(checkpoint, revision.shards, plan.split, plan),
        number=entry.number,
    )
    with alone(experiment.name):
        outcome = decide(experiment, candidate, revision, run.attempt)
        publish(outcome)
    return outcome


@flow(name="rollback-model", flow_run_name="roll back {model}")
def rollback_model(model: ExperimentName, reason: str) -> int:
    """Give the champion alias back to the version that had it before; returns that version.

    Args:
        model: The experiment whose champion steps down.
        reason: Why, for the ledger.
    """
    name = read_competing(model).name
    settle([name])
    return give_back(name, reason)
