"""Measure a registered version on its experiment's data, as it is now; the numbers go to the version's run."""

from functools import cache

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.decisions import fetch_version, known_version
from flows.experiment import ExperimentName, read_competing
from flows.outcome import report_markdown
from flows.publishing import closing
from flows.refresh_dataset import refresh_dataset
from flows.services import flow_page, services
from flows.stages import with_scorer
from flows.steps import evaluate


@flow(name="evaluate-model", flow_run_name="evaluate {model}")
def evaluate_model(
    model: ExperimentName = ExperimentName.virtex_emoji_mini,
    version: int | None = None,
    overrides: list[str] = [],  # noqa: B006 Prefect shows the default in the form
) -> dict[str, float]:
    """Measure one version and log its report.

    Args:
        model: The experiment whose version it is.
        version: Its number; the champion if left out.
        overrides: Settings of the evaluation changed for this run, as "evaluation.split=val".
    """
    experiment = read_competing(model, overrides)
    entry, run = known_version(experiment.name, version)
    revision_of = cache(refresh_dataset)
    revision = revision_of(experiment.source)
    checkpoint = fetch_version(experiment.name, entry.number)
    plan = with_scorer(experiment.evaluation, revision_of)
    tracking = services().tracking
    # A run of its own below the version's: another evaluation never writes over the numbers it was registered with.
    run_id = tracking.open_run(
        f"evaluation-{flow_run.id}",
        f"{experiment.name} version {entry.number}",
        parent_run_id=run.mlflow_run_id,
        tags={"diptych.flow_run_page": flow_page()},
    )
    with closing(run_id):
        tracking.log_params(run_id, {"version": entry.number, "evaluation": plan.to_dict()})
        tracking.log_data(run_id, revision, context="evaluation")
        report = evaluate(checkpoint, revision.shards, plan.split, plan)
        tracking.log_report(run_id, report)
    create_markdown_artifact(
        report_markdown(f"{experiment.name} version {entry.number}", report),
        key=f"report-{experiment.name.replace('_', '-')}",
    )
    return dict(report.values)
