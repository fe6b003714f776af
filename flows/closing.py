"""What a flow that failed leaves tidy: its MLflow runs say so too, and none stays "running" for ever."""

from __future__ import annotations

import logging
from typing import Any

from flows.services import services
from registry.mlflow_client import TrackingUnreachable


def close_runs(_flow: Any, flow_run: Any, _state: Any) -> None:
    """Prefect's hook for a flow that failed, crashed or was cancelled: running it again goes on with the same runs."""
    try:
        services().tracking.fail_runs({"diptych.flow_run": str(flow_run.id)})
    except TrackingUnreachable as error:
        logging.getLogger(__name__).warning("Its MLflow runs stay open: %s", error)


ENDINGS: Any = {
    "on_failure": [close_runs],
    "on_crashed": [close_runs],
    "on_cancellation": [close_runs],
}
"""How a flow that opens runs is declared: `@flow(name=…, **ENDINGS)`."""
