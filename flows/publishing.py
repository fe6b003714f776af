"""Where a night is read: artifacts in Prefect, runs in MLflow, links both ways."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.runtime import flow_run

from components.training.loop import Interrupted
from components.training.usage import cost
from flows.outcome import Outcome, markdown, rows
from flows.services import flow_page, services
from registry.tracking import Status


def open_night(run_keys: Sequence[str]) -> str | None:
    """The MLflow run that holds the night's trainings; None if there is nothing to train."""
    if not run_keys:
        return None
    key = hashlib.sha256("\n".join(run_keys).encode()).hexdigest()[:12]
    tags = {
        "diptych.flow_run": str(flow_run.id),
        "diptych.flow_run_page": flow_page(),
    }
    return services().tracking.open_run(f"night-{key}", "night", tags=tags)


def best_effort(what: str, send: Callable[[], object]) -> None:
    """Send something to MLflow; a failure is told in the log and raised to nobody, for it would hide a training's own."""
    tracking = services().tracking
    try:
        tracking.probe()  # a call to a server that is away tries again for half a minute
        send()
    except Exception as error:
        get_run_logger().warning("%s did not reach MLflow: %s", what, error)


def log_cost(folder: Path, run_id: str) -> None:
    """What the training in a folder took so far, on its MLflow run; nothing before its first line."""
    if spent := cost.total(folder / cost.FILE):
        services().tracking.log_cost(run_id, spent)


@contextmanager
def failing(run_id: str | None) -> Iterator[None]:
    """An MLflow run that is marked failed if the block is, or killed if it was stopped: by a signal or by a file STOP."""
    try:
        yield
    except BaseException as error:
        is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
        if run_id is not None:
            status: Status = "FAILED" if is_failure else "KILLED"
            best_effort("the run's end", lambda: services().tracking.finish(run_id, status))
        raise


@contextmanager
def closing(run_id: str | None) -> Iterator[None]:
    """An MLflow run that ends with the block, one way or another."""
    with failing(run_id):
        yield
    if run_id is not None:
        services().tracking.finish(run_id)


@contextmanager
def alone(experiment: str) -> Iterator[None]:
    """One flow at a time trains and decides an experiment; another waits, and then finds it done."""
    folder = services().settings.home / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{experiment}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_run_logger().info("%s: another flow is at it; waiting for it to end.", experiment)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish(outcome: Outcome) -> None:
    """Say how an experiment ended: in the log, as artifacts of the flow run, on its MLflow run."""
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
        _publish_candidate(outcome, slug)


def _publish_candidate(outcome: Outcome, slug: str) -> None:
    tracking, candidate = services().tracking, outcome.candidate
    create_table_artifact(
        rows(candidate.report, outcome.champion_report),
        key=f"numbers-{slug}",
        description=f"{outcome.experiment} version {candidate.number} on {candidate.report.split}",
    )
    picture = "samples" if candidate.report.captions else "recall"
    address = tracking.file_page(candidate.mlflow_run_id, f"figures/{picture}.png")
    if address is not None:
        create_image_artifact(
            address, key=f"{picture}-{slug}", description=f"{picture} of {outcome.experiment}"
        )
    tracking.log_bytes(candidate.mlflow_run_id, "verdict.md", markdown(outcome).encode())
    tracking.log_tags(candidate.mlflow_run_id, {"diptych.verdict": outcome.sentence()})
