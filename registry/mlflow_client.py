"""One MLflow client, made safely: nothing phones home, nothing is unpickled, and a store that is away says so at once."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "diptych.key"
"""The tag that makes a run or a version the same one when it is delivered again."""

_PROBE_S = 2.0
_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own (7 tries, 120 s each) would hold a night up for minutes before it says that nobody answers.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class TrackingUnreachable(ConnectionError):
    """Nobody, or not MLflow, answers at the tracking address."""


def connect(uri: str) -> MlflowClient:
    """A client of the tracking store and registry at `uri`: http(s)://…, or sqlite:///FILE without a server.

    Raises TrackingUnreachable within about five seconds.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    probe(uri)
    from mlflow import MlflowClient

    with _first_touch(uri):
        client = MlflowClient(uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def probe(uri: str) -> None:
    """Ask a server whether it is MLflow and awake; raise TrackingUnreachable if not."""
    if not is_server(uri):
        return
    trouble = ""
    for _ in range(2):
        try:
            status, body = _get(uri, "/health")
        except (OSError, http.client.HTTPException) as failure:
            trouble = f"{type(failure).__name__}: {failure}"
            continue
        if status == http.HTTPStatus.OK and body.strip() == b"OK":
            return
        trouble = f"/health answers {status} with {body[:60]!r}, which is not MLflow"
    raise TrackingUnreachable(
        f"MLflow does not answer at {_shown(uri)} ({trouble}). Start it with `diptych up`, or point the tracking "
        "address in the settings to where it runs."
    )


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn MLflow's own failure into TrackingUnreachable where the cause is that nobody answers any more."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException:
        probe(uri)
        raise


def is_server(uri: str) -> bool:
    """Whether the address is a server's, and not a database's."""
    return uri.startswith(("http://", "https://"))


def quoted(value: str) -> str:
    """A value as MLflow's filters take it; refused if it could say more than itself."""
    if not re.fullmatch(r"[\w.:/@+-]{1,200}", value):
        raise ValueError(
            f"{value!r} cannot be a key or a model's name: letters, digits and . : / @ + - _ only."
        )
    return f"'{value}'"


def _get(uri: str, path: str) -> tuple[int, bytes]:
    parts = urlsplit(uri)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_PROBE_S)
    try:
        connection.request("GET", parts.path.rstrip("/") + path)
        answer = connection.getresponse()
        return answer.status, answer.read(1000)
    finally:
        connection.close()


def _shown(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def _first_touch(uri: str) -> Iterator[None]:
    # Two processes that create MLflow's tables in one file at once break each other.
    if not uri.startswith("sqlite:///"):
        yield
        return
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
