"""Opens what the flows talk to, once a process: ledger, tracking, versions, at the addresses of Settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from infra.settings import Settings
from registry.ledger.store import Ledger
from registry.tracking import Tracking
from registry.versions import Versions


@dataclass(frozen=True, kw_only=True)
class Services:
    """Open doors; never passed between tasks, which open them again in their own process."""

    settings: Settings
    ledger: Ledger
    tracking: Tracking
    versions: Versions


@cache
def services() -> Services:
    """The platform's doors, ledger migrated and MLflow asked whether it is there."""
    settings = Settings.read()
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    return Services(
        settings=settings,
        ledger=ledger,
        tracking=Tracking(settings.mlflow_url, "diptych"),
        versions=Versions(settings.mlflow_url),
    )


def flow_page() -> str:
    """The address of the present flow run in Prefect's pages."""
    from prefect.runtime import flow_run

    return f"{services().settings.prefect_url}/runs/flow-run/{flow_run.id}"
