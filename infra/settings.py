"""Where things run and rest: addresses, ports and folders, read from the environment once.

Nobody else reads the environment. The safe defaults of every child process stand in
``Settings.child_environment``: loopback only, no telemetry, no pickle, one thread.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.ray_token import make_token
from infra.variables import (
    HOST,
    LOOPBACK_NAMES,
    check_distinct,
    check_home,
    check_host,
    check_ledger,
    check_port,
    read_cluster,
    read_mirror,
    read_port,
    read_token,
)

WORK_POOL = "diptych"

PORT_VARIABLES = {
    "prefect_port": "DIPTYCH_PREFECT_PORT",
    "mlflow_port": "DIPTYCH_MLFLOW_PORT",
    "ray_gcs_port": "DIPTYCH_RAY_GCS_PORT",
    "ray_port": "DIPTYCH_RAY_PORT",
}

# Names of these systems that a shell may carry: they would point a child at another server, or
# relax a default below. What a child needs of them is set anew.
SYSTEMS = ("PREFECT_", "MLFLOW_", "RAY_")

SAFE_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    # Prefect 3.8's own defaults: telemetry on, any origin, no CSRF check, pickled results.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_API_HOST": HOST,
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 s is too few on a busy laptop
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # the default 10 s is all a person waits for after "Run"
    "PREFECT_WORKER_WEBSERVER_HOST": HOST,
    # MLflow 3.17's own defaults: both of the first two true.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # 7 keeps a training waiting for two minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A version's files come through the server, never from a path somebody wrote into a request.
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(mlflow-artifacts:/|models:/m-|runs:/)",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # Off, Ray takes 127.0.0.1 for the node's address, and all it opens listens there alone. On (the
    # default on Linux) it looks up the host's outward address, and gcs and raylet listen everywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Two OpenMP threads that preempt each other were 14 times slower than one.
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Addresses and folders of one local stack. Build it with ``Settings.read()``."""

    home: Path
    """State root: every file the platform writes but for data."""
    repo: Path
    """The checkout: where ``prefect.yaml`` and ``dvc.yaml`` stand."""
    prefect_port: int = 4200
    mlflow_port: int = 5000
    ray_gcs_port: int = 26379
    ray_port: int = 8265
    """Ray's dashboard, where its Jobs API lives."""
    ray_cluster: str = ""
    """Where another Ray than that of ``diptych up`` trains: http address of its dashboard; empty for that of ``diptych up``."""
    ray_token: Path | None = None
    """That Ray's token, a file; None for one made in ``home``."""
    ledger_address: str = field(default="", repr=False)  # may hold a password
    """SQLAlchemy address of the ledger; empty means SQLite in ``home``."""
    mirror: str = ""
    """Where checkpoints are copied while training: a folder, or an address as s3://bucket/prefix; empty for nowhere."""
    inherited: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The environment it was read from: what a child inherits under the safe defaults."""

    def __post_init__(self) -> None:
        check_home(self.home)
        for name, variable in PORT_VARIABLES.items():
            check_port(variable, getattr(self, name))
        check_distinct({variable: getattr(self, n) for n, variable in PORT_VARIABLES.items()})
        check_ledger(self.ledger_address)

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings of this environment; DIPTYCH_HOME, DIPTYCH_*_PORT, DIPTYCH_LEDGER_URL, DIPTYCH_CHECKPOINTS,
        DIPTYCH_RAY_ADDRESS and DIPTYCH_RAY_TOKEN_PATH.

        Raises SettingsError where a value cannot work. Reads only; ``prepare`` makes the folders.
        """
        check_host(environ.get("DIPTYCH_HOST", HOST))
        repo = Path(__file__).resolve().parents[1]
        home = Path(environ.get("DIPTYCH_HOME") or repo / ".diptych").expanduser()
        ports = {
            name: read_port(variable, environ[variable])
            for name, variable in PORT_VARIABLES.items()
            if environ.get(variable)
        }
        return cls(
            home=home.resolve(),  # one name for one folder: what is ours is known by it
            repo=repo,
            ledger_address=environ.get("DIPTYCH_LEDGER_URL", ""),
            mirror=read_mirror(environ.get("DIPTYCH_CHECKPOINTS", "")),
            ray_cluster=read_cluster(environ.get("DIPTYCH_RAY_ADDRESS", "")),
            ray_token=read_token(environ.get("DIPTYCH_RAY_TOKEN_PATH", "")),
            inherited=dict(environ),
            **ports,
        )

    @property
    def prefect_url(self) -> str:
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def ray_address(self) -> str:
        """Address for Ray's JobSubmissionClient. The token travels in the environment."""
        return self.ray_cluster or f"http://{HOST}:{self.ray_port}"

    @property
    def ledger_url(self) -> str:
        return self.ledger_address or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def captions(self) -> Path:
        return self.home / "captions"

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def pages(self) -> Path:
        return self.home / "pages"

    @property
    def ray_token_file(self) -> Path:
        return self.ray_token or self.home / "ray.token"

    @property
    def ray_temp(self) -> Path:
        """Ray's own folder: short, as its sockets' paths must stay under 107 bytes."""
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path("/tmp") / f"diptych-ray-{os.getuid()}-{digest}"  # noqa: S108 made 0700, owner checked

    def prepare(self) -> None:
        """Make home (0700 if new), its folders and the token of its Ray (0600). Again is no harm."""
        # Other accounts of the machine have no business with runs and databases. A folder that was
        # there keeps its mode: it may hold more than ours.
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.runs, self.captions, self.artifacts, self.logs, self.pages):
            folder.mkdir(exist_ok=True)
        if self.ray_token is None:
            make_token(self.ray_token_file)

    def child_environment(self) -> dict[str, str]:
        """The whole environment for a process of the platform: what is inherited, made safe.

        A process that gets it and calls ``Settings.read()`` has these same settings.
        """
        kept = {k: v for k, v in self.inherited.items() if not k.startswith(SYSTEMS)}
        # With it set, each child compiles its imports anew and starts at half the speed.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        folder = str(Path(sys.executable).parent)  # DVC's stages and Ray's jobs call `python`
        path = [folder, *(p for p in kept.get("PATH", os.defpath).split(os.pathsep) if p != folder)]
        # A proxy of the machine must not be asked for our own servers.
        direct = ",".join(dict.fromkeys([*_names(kept.get("NO_PROXY", "")), *LOOPBACK_NAMES]))
        return {
            **kept,
            **SAFE_DEFAULTS,
            **self._addresses(),
            "PATH": os.pathsep.join(path),
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    def _addresses(self) -> dict[str, str]:
        origins = ",".join(f"http://{name}:{self.prefect_port}" for name in LOOPBACK_NAMES)
        return {
            "DIPTYCH_HOME": str(self.home),
            "DIPTYCH_ROOT": str(self.repo),  # prefect.yaml: where a flow run works
            "DIPTYCH_LEDGER_URL": self.ledger_url,
            "DIPTYCH_CHECKPOINTS": self.mirror,
            "DIPTYCH_RAY_ADDRESS": self.ray_cluster,
            "DIPTYCH_RAY_TOKEN_PATH": str(self.ray_token or ""),
            **{variable: str(getattr(self, name)) for name, variable in PORT_VARIABLES.items()},
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.prefect_api_url,
            "PREFECT_SERVER_API_PORT": str(self.prefect_port),
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.home / 'prefect.db'}",
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.home / "results"),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token_file),
        }


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
