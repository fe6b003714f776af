"""The four services of the local stack: how each is started, where it listens, when it is well."""

from __future__ import annotations

import http.client
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from infra.http_json import ask, ask_prefect
from infra.ports import free_ports
from infra.settings import WORK_POOL, Settings
from infra.variables import HOST, LOOPBACK_NAMES

OBJECT_STORE_BYTES = 512 * 2**20  # batches live in the workers; the store carries only reports


@dataclass(frozen=True)
class Service:
    """One service, as functions of the settings."""

    name: str
    argv: Callable[[Settings], list[str]]
    ports: tuple[str, ...]
    """Names of the settings that hold its ports; the first is the one a person opens."""
    ailment: Callable[[Settings, float], str | None]
    """What is wrong with it, given when it was started (seconds since 1970); None when well."""
    needs: tuple[str, ...] = ()
    """Services that have to be well before it starts."""

    def url(self, settings: Settings) -> str | None:
        return f"http://{HOST}:{getattr(settings, self.ports[0])}" if self.ports else None


def _prefect(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "infra.prefect_server"]


def _prefect_ailment(settings: Settings, since_s: float) -> str | None:
    return _expect(settings.prefect_port, "/api/health", lambda answer: answer is True)


def _worker(settings: Settings) -> list[str]:
    return [
        *(sys.executable, "-m", "prefect", "--no-prompt", "worker", "start"),
        *("--pool", WORK_POOL, "--type", "process", "--install-policy", "never"),
    ]


def _worker_ailment(settings: Settings, since_s: float) -> str | None:
    try:
        status, workers = ask_prefect(settings, f"/work_pools/{WORK_POOL}/workers/filter", {})
    except (OSError, http.client.HTTPException) as error:
        return f"Prefect does not answer ({error})"
    if status != 200:
        return f"Prefect answers {status} when asked for the workers of pool {WORK_POOL}"
    beats = [datetime.fromisoformat(w["last_heartbeat_time"]).timestamp() for w in workers]
    # Workers of former days stay listed, even as online for a while.
    return None if any(beat >= since_s for beat in beats) else "it has not reported to Prefect yet"


def _mlflow(settings: Settings) -> list[str]:
    hosts = ",".join(f"{name}:{settings.mlflow_port}" for name in LOOPBACK_NAMES)
    origins = ",".join(f"http://{name}:{settings.mlflow_port}" for name in LOOPBACK_NAMES)
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(settings.mlflow_port)),
        # More workers cost 2.7 GB, and on a busy machine their supervisor kills them in a circle.
        *("--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{settings.home / 'mlflow.db'}"),
        *("--artifacts-destination", str(settings.artifacts)),
        *("--allowed-hosts", hosts, "--cors-allowed-origins", origins),
    ]


def _mlflow_ailment(settings: Settings, since_s: float) -> str | None:
    # Not /health: that answers before the database is asked.
    path = "/api/2.0/mlflow/registered-models/search?max_results=1"
    return _expect(settings.mlflow_port, path, lambda answer: isinstance(answer, dict))


def _ray(settings: Settings) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address", HOST, "--port", str(settings.ray_gcs_port)),
        *("--dashboard-host", HOST, "--dashboard-port", str(settings.ray_port)),
        # 0 is "whichever is free": Ray's fixed numbers (52365, 10002 to 19999) clash with others.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        *("--dashboard-agent-listen-port", "0", "--dashboard-agent-grpc-port", "0"),
        *("--metrics-export-port", "0", "--runtime-env-agent-port", "0"),
        # The Ray Client server cannot be left out and takes no 0.
        *("--ray-client-server-port", str(free_ports(1)[0])),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
        *("--temp-dir", str(own_folder(settings.ray_temp))),
        *("--disable-usage-stats", "--log-style", "record", "--log-color", "false"),
    ]


def _ray_ailment(settings: Settings, since_s: float) -> str | None:
    token = settings.ray_token_file.read_text()
    headers = {"Authorization": f"Bearer {token}"}
    return _expect(
        settings.ray_port, "/api/jobs/", lambda answer: isinstance(answer, list), headers
    )


def _expect(
    port: int,
    path: str,
    holds: Callable[[object], bool],
    headers: dict[str, str] | None = None,
) -> str | None:
    try:
        status, answer = ask(port, path, headers=headers)
    except (OSError, http.client.HTTPException) as error:
        return f"http://{HOST}:{port}{path} does not answer ({error})"
    if status != 200 or not holds(answer):
        return f"http://{HOST}:{port}{path} answers {status}, {str(answer)[:80]!r}"
    return None


def own_folder(path: Path) -> Path:
    """`path` as a folder of this user that no other can enter; raises PermissionError otherwise.

    It stands where everyone may write, so another user could have made it first.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} is a link, another user's, or open to others. Remove it, or choose another "
            "DIPTYCH_HOME (the folder's name is made from it)."
        )
    return path


SERVICES = {
    service.name: service
    for service in (
        Service("prefect", _prefect, ("prefect_port",), _prefect_ailment),
        Service("mlflow", _mlflow, ("mlflow_port",), _mlflow_ailment),
        Service("ray", _ray, ("ray_port", "ray_gcs_port"), _ray_ailment),
        Service("worker", _worker, (), _worker_ailment, needs=("prefect",)),
    )
}
"""In the order they start; they stop in the opposite one."""
