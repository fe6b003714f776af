"""Tell the running Prefect server what ``prefect.yaml`` deploys."""

from __future__ import annotations

import subprocess
import sys

from infra.http_json import ask_prefect
from infra.settings import WORK_POOL, Settings
from infra.stack import ServiceFailed, status

PATIENCE_S = 180


class DeployFailed(RuntimeError):
    """``prefect deploy`` did not take the deployments of ``prefect.yaml``."""


def deploy(settings: Settings) -> list[str]:
    """Create or update every deployment and the work pool; returns "flow/deployment" names, sorted.

    Again is no harm. Raises ServiceFailed if Prefect is not up, DeployFailed otherwise.
    """
    _require_prefect(settings)
    if not (settings.repo / "prefect.yaml").is_file():
        raise DeployFailed(f"{settings.repo} has no prefect.yaml; deploy from a whole checkout.")
    _ensure_pool(settings)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=settings.repo,
        env=settings.child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    # It ends with 0 also where one of several deployments was refused.
    if done.returncode or "Traceback" in done.stderr:
        said = (done.stdout + done.stderr).splitlines()[-25:]
        raise DeployFailed("`prefect deploy --all` failed. It said:\n" + "\n".join(said))
    return _names(settings)


def _require_prefect(settings: Settings) -> None:
    prefect = next(service for service in status(settings) if service.name == "prefect")
    if prefect.state != "up":
        raise ServiceFailed(
            f"Prefect is {prefect.state} at {prefect.url}. {prefect.detail} "
            "Start it with `diptych up`, then deploy."
        )


def _ensure_pool(settings: Settings) -> None:
    code, answer = ask_prefect(settings, "/work_pools/", {"name": WORK_POOL, "type": "process"})
    if code not in (201, 409):  # made, or there already
        raise DeployFailed(f"Prefect answers {code} to a work pool {WORK_POOL!r}: {answer}")


def _names(settings: Settings) -> list[str]:
    code, deployments = ask_prefect(settings, "/deployments/filter", {"limit": 200})
    flows_code, flows = ask_prefect(settings, "/flows/filter", {"limit": 200})
    if code != 200 or flows_code != 200:
        raise DeployFailed(f"Prefect answers {code} and {flows_code} when asked what it deploys.")
    flow_names = {flow["id"]: flow["name"] for flow in flows}
    return sorted(f"{flow_names[d['flow_id']]}/{d['name']}" for d in deployments)
