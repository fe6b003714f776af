"""Where a night is read: artifacts in Prefect, the parent run in MLflow, links both ways."""

import hashlib
from collections.abc import Mapping, Sequence

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run

from components.records import Revision
from flows.experiment import Experiment, run_key
from flows.outcome import Outcome, markdown
from flows.services import services


def open_night(
    due: Sequence[Experiment], revisions: Mapping[str, Revision], decided: Mapping[str, int]
) -> str | None:
    """The MLflow run that holds the night's trainings; None if there is nothing to train."""
    if not due:
        return None
    keys = [run_key(each, revisions[each.source].shards.digest, decided[each.name]) for each in due]
    key = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:12]
    tags = {
        "diptych.flow_run": str(flow_run.id),
        "diptych.flow_run_page": str(flow_run.ui_url),
    }
    return services().tracking.open_run(f"night-{key}", "night", tags=tags)


def publish(outcomes: Sequence[Outcome], night_run: str | None = None) -> None:
    """Say how it ended: in the log, as artifacts of the flow run, on the MLflow runs."""
    tracking = services().tracking
    for outcome in outcomes:
        get_run_logger().info(outcome.sentence())
        slug = outcome.experiment.replace("_", "-")
        create_markdown_artifact(
            markdown(outcome), key=f"report-{slug}", description=outcome.sentence()
        )
        for title, address in outcome.links.items():
            create_link_artifact(
                address,
                title,
                key=f"{slug}-{title.lower().replace(' ', '-')}",
                description=f"{title} of {outcome.experiment}",
            )
        if outcome.candidate is not None:
            run_id = outcome.candidate.mlflow_run_id
            tracking.log_bytes(run_id, "verdict.md", markdown(outcome).encode())
            tracking.log_tags(run_id, {"diptych.verdict": outcome.sentence()})
            tracking.finish(run_id)
    if night_run is not None:
        told = "\n\n".join(markdown(outcome) for outcome in outcomes)
        tracking.log_bytes(night_run, "night.md", told.encode())
        tracking.finish(night_run)
