"""Where a person looks: addresses of MLflow's pages. A store without a server has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote


def run_page(uri: str, experiment_id: str, run_id: str) -> str | None:
    """One run: its curves, numbers and files."""
    return _page(uri, f"experiments/{experiment_id}/runs/{run_id}")


def file_page(uri: str, run_id: str, path: str) -> str | None:
    """One of a run's files."""
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri.rstrip('/')}/get-artifact?path={quote(path, safe='')}&run_uuid={quote(run_id)}"


def compare_page(uri: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str | None:
    """Runs side by side."""
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = quote(json.dumps(list(experiment_ids), separators=(",", ":")))
    return _page(uri, f"compare-runs?runs={runs}&experiments={experiments}")


def version_page(uri: str, model: str, number: int) -> str | None:
    """One registered version."""
    return _page(uri, f"models/{quote(model)}/versions/{number}")


def _page(uri: str, place: str) -> str | None:
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri.rstrip('/')}/#/{place}"
