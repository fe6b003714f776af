"""Source -> revision -> shards -> expectations; what does not hold ends the run before anything is trained."""

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from components.data.expectations import check
from components.data.revision import fetch
from components.records import Expectations, Revision
from flows.experiment import SourceName
from flows.outcome import DataRefused, expectations_markdown
from flows.patience import patient
from flows.services import services


@patient(name="fetch revision")
def fetch_revision(source: str) -> Revision:
    """Bring the shards of a source up to date through DVC."""
    return fetch(source, services().settings.repo)


@task(name="check expectations", task_run_name="check {revision.source}", cache_policy=NO_CACHE)
def check_expectations(revision: Revision) -> Expectations:
    """Ask Great Expectations about the manifest; our own page says what it answered, the ledger keeps it."""
    doors = services()
    page = doors.settings.pages / f"expectations-{revision.shards.digest[:16]}.html"
    expectations = check(revision.shards, page)
    doors.ledger.record_revision(revision, expectations)
    get_run_logger().info(
        "%d images; %d expectations tried, %d broken, %d warnings.",
        sum(revision.shards.counts.values()),
        expectations.checked,
        len(expectations.failures),
        len(expectations.warnings),
    )
    return expectations


@flow(name="refresh-dataset", flow_run_name="refresh {source}")
def refresh_dataset(source: SourceName = SourceName.emoji_mini) -> Revision:
    """Bring a source's shards up to date and check them; DataRefused with the reasons if they do not hold.

    Args:
        source: A stage of dvc.yaml, named like the source of components/catalog.py it holds.
    """
    revision = fetch_revision(SourceName(source).value)
    expectations = check_expectations(revision)
    create_markdown_artifact(
        expectations_markdown(revision, expectations),
        key=f"expectations-{revision.source.replace('_', '-')}",
        description=f"Expectations on {revision.source}",
    )
    if not expectations.passed:
        raise DataRefused(revision, expectations)
    return revision
