"""The local stack with real servers: well, shut to others, started once, ended whole."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from infra import ports, processes, stack
from infra.deployments import DeployFailed, deploy
from infra.http_json import ask, ask_prefect
from infra.ports import PortInUse
from infra.services import SERVICES
from infra.settings import WORK_POOL, Settings

pytestmark = pytest.mark.stack
MakeSettings = Callable[[Path], Settings]


def of_service(settings: Settings, name: str) -> list[psutil.Process]:
    state = next(s for s in stack.status(settings) if s.name == name)
    started = processes.Started(state.pid, state.since_s) if state.pid and state.since_s else None
    return processes.members(f"{name}@{settings.home}", started)


def of_stack(settings: Settings) -> list[psutil.Process]:
    return [process for name in SERVICES for process in of_service(settings, name)]


def pids(settings: Settings) -> dict[str, int | None]:
    return {state.name: state.pid for state in stack.status(settings)}


def run_script(settings: Settings, code: str, **options: object) -> subprocess.Popen[str]:
    """A Python program that has the settings as its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**settings.child_environment(), "PYTHONPATH": str(settings.repo)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_every_service_is_up(running: Settings) -> None:
    assert {s.name: (s.state, s.detail) for s in stack.status(running)} == dict.fromkeys(
        SERVICES, ("up", "")
    )


def test_up_again_starts_nothing_and_says_so(running: Settings) -> None:
    before, lines = pids(running), []
    stack.up(running, say=lines.append)
    assert pids(running) == before
    assert lines == [f"{name}: already up" for name in SERVICES]


def test_nothing_listens_beyond_loopback(running: Settings) -> None:
    ours = {process.pid for process in of_stack(running)}
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.net_connections("inet")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("prefect", {"Host": "evil.example"}),
        ("prefect", {"Origin": "http://evil.example"}),
        ("prefect", {"Origin": "null"}),
        ("prefect", {"Host": "127.0.0.1:1"}),
        ("mlflow", {"Host": "evil.example"}),
    ],
)
def test_a_page_from_elsewhere_is_refused(
    running: Settings, name: str, header: dict[str, str]
) -> None:
    path = {"prefect": "/api/version", "mlflow": "/api/2.0/mlflow/experiments/get?experiment_id=0"}
    port = getattr(running, f"{name}_port")
    assert ask(port, path[name])[0] == 200
    assert ask(port, path[name], headers=header)[0] == 403


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), (None, 101)])
def test_a_websocket_opens_to_our_own_pages_alone(
    running: Settings, origin: str | None, status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.prefect_port, timeout=10)
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "prefect",
        "Origin": origin or running.prefect_url,
    }
    connection.request("GET", "/api/events/out", headers=handshake)
    assert connection.getresponse().status == status
    connection.close()


def test_prefect_refuses_a_write_without_its_csrf_token(running: Settings) -> None:
    pool = {"name": "intruder", "type": "process"}
    assert ask(running.prefect_port, "/api/work_pools/", body=pool)[0] == 403
    assert ask(running.prefect_port, "/api/work_pools/intruder")[0] == 404


def test_ray_refuses_a_caller_without_the_token(running: Settings) -> None:
    job = {"entrypoint": "touch /tmp/never"}
    assert ask(running.ray_port, "/api/jobs/", body=job)[0] == 401
    wrong = {"Authorization": "Bearer 0123"}
    assert ask(running.ray_port, "/api/jobs/", body=job, headers=wrong)[0] in (401, 403)


def test_a_job_runs_on_ray_with_our_python(running: Settings) -> None:
    code = """
        import time
        from ray.job_submission import JobSubmissionClient
        from infra.settings import Settings
        client = JobSubmissionClient(Settings.read().ray_address)
        job = client.submit_job(entrypoint="python -c 'import ray, sys; ray.init(); print(sys.prefix)'")
        while not client.get_job_status(job).is_terminal():
            time.sleep(0.2)
        print(client.get_job_status(job).value, client.get_job_logs(job))
        """
    output = run_script(running, code).communicate(timeout=300)[0]
    assert "SUCCEEDED" in output
    assert f"\n{sys.prefix}\n" in output


def test_mlflow_takes_versions_from_its_own_store_alone(running: Settings, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from mlflow.models import set_model\n"
        "from mlflow.pyfunc import PythonModel\n"
        "class Echo(PythonModel):\n"
        "    def predict(self, context, model_input: list[str], params=None) -> list[str]:\n"
        "        return model_input\n"
        "set_model(Echo())\n"
    )
    code = """
        import mlflow
        from mlflow import MlflowClient
        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="echo", python_model="echo.py", pip_requirements=[], registered_model_name="echo"
            )
        print("version", MlflowClient().get_model_version("echo", "1").source)
        print(mlflow.pyfunc.load_model("models:/echo/1").predict(["said"]))
        try:
            MlflowClient().create_model_version("echo", "file:///etc")
        except mlflow.MlflowException as error:
            print("refused:", error)
        """
    output = run_script(running, code, cwd=tmp_path).communicate(timeout=300)[0]
    assert "version models:/m-" in output
    assert "['said']" in output
    assert "refused: INVALID_PARAMETER_VALUE: Invalid model version source" in output
    assert any(running.artifacts.rglob("echo.py"))  # through the server, into the home


@pytest.fixture(scope="module")
def deployed(running: Settings, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A flow of two lines in a checkout of its own, deployed by `deploy` with a cron."""
    repo = tmp_path_factory.mktemp("checkout")
    (repo / "tiny_flow.py").write_text(
        "import os\nfrom pathlib import Path\nfrom prefect import flow\n\n"
        "@flow\ndef tiny(folder: str) -> None:\n"
        "    names = ('OMP_NUM_THREADS', 'HF_HUB_OFFLINE', 'PREFECT_RESULTS_DEFAULT_SERIALIZER')\n"
        "    (Path(folder) / 'said').write_text(' '.join(os.environ[n] for n in names))\n"
    )
    (repo / "prefect.yaml").write_text(
        f"name: tiny\npull:\n- prefect.deployments.steps.set_working_directory:\n    directory: {repo}\n"
        "deployments:\n- name: often\n  entrypoint: tiny_flow.py:tiny\n"
        f"  parameters: {{folder: {repo}}}\n  schedules: [{{cron: '*/5 * * * *'}}]\n"
        f"  work_pool: {{name: {WORK_POOL}}}\n"
    )
    settings = replace(running, repo=repo)
    names = deploy(settings)
    return SimpleNamespace(settings=settings, repo=repo, names=names)


def test_deploy_names_what_it_deployed_and_again_is_no_harm(deployed: SimpleNamespace) -> None:
    assert deployed.names == ["tiny/often"]
    assert deploy(deployed.settings) == ["tiny/often"]


def test_a_cron_gets_scheduled_runs(running: Settings, deployed: SimpleNamespace) -> None:
    # With SQLAlchemy 2.1 all looks well and no run is ever scheduled.
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}

    def scheduled() -> bool:
        return len(ask_prefect(running, "/flow_runs/filter", wanted)[1]) > 0

    assert processes.wait_until(scheduled, 180, every_s=1)


def test_a_run_goes_through_the_worker_with_safe_defaults(
    running: Settings, deployed: SimpleNamespace
) -> None:
    deployment = ask(running.prefect_port, "/api/deployments/name/tiny/often")[1]
    code, run = ask_prefect(running, f"/deployments/{deployment['id']}/create_flow_run", {})
    assert code == 201

    def ended() -> bool:
        state = ask(running.prefect_port, f"/api/flow_runs/{run['id']}")[1]["state"]["type"]
        return state in {"COMPLETED", "FAILED", "CRASHED"}

    assert processes.wait_until(ended, 300, every_s=0.5)
    assert (deployed.repo / "said").read_text() == "1 1 json"


def test_a_deployment_that_cannot_load_fails_the_deploy(running: Settings, tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(
        "deployments:\n- name: lost\n  entrypoint: nowhere.py:lost\n"
        f"  work_pool: {{name: {WORK_POOL}}}\n"
    )
    with pytest.raises(DeployFailed, match=r"nowhere\.py"):
        deploy(replace(running, repo=tmp_path))


def test_short_lived_leaves_services_that_ran_before(running: Settings) -> None:
    before = pids(running)
    with stack.short_lived(running, ["prefect", "mlflow"]):
        assert pids(running) == before
    assert pids(running) == before


def test_a_dead_service_is_told_and_started_again_alone(running: Settings) -> None:
    before = pids(running)
    for process in of_service(running, "mlflow"):
        process.kill()
    # A killed process is gone from the list a moment before the kernel takes its port back.
    assert processes.wait_until(
        lambda: not of_service(running, "mlflow") and ports.is_free(running.mlflow_port), 60
    )
    dead = {state.name: state for state in stack.status(running)}
    assert [name for name, state in dead.items() if state.state != "up"] == ["mlflow"]
    assert f"pid {before['mlflow']} is gone" in dead["mlflow"].detail
    stack.up(running)
    after = pids(running)
    assert after.pop("mlflow") not in (None, before.pop("mlflow"))
    assert after == before


def test_a_port_of_another_program_is_refused_by_name(
    settings_on_free_ports: MakeSettings, running: Settings, tmp_path: Path
) -> None:
    # Another home wants the port where the shared stack's MLflow listens.
    other = settings_on_free_ports(tmp_path / "home")
    other = replace(other, mlflow_port=running.mlflow_port)
    with pytest.raises(PortInUse) as caught:
        stack.up(other)
    for part in (str(running.mlflow_port), "pid ", "mlflow", "DIPTYCH_MLFLOW_PORT="):
        assert part in str(caught.value)
    assert of_stack(other) == []
    assert stack.down(other) == []
    assert {state.state for state in stack.status(running)} == {"up"}


def test_a_service_that_fails_shows_its_last_lines_and_leaves_nothing(
    settings_on_free_ports: MakeSettings, tmp_path: Path
) -> None:
    settings = settings_on_free_ports(tmp_path / "home")
    settings.prepare()
    (settings.home / "mlflow.db").write_text("this is no database")
    with pytest.raises(
        stack.ServiceFailed, match=r"(?s)mlflow ended.*file is not a database"
    ) as caught:
        stack.up(settings, ["mlflow"])
    assert str(settings.logs / "mlflow.log") in str(caught.value)
    assert of_stack(settings) == []


def test_too_little_disk_is_told_before_anything_starts(
    settings_on_free_ports: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "NEEDED_BYTES", 2**60)  # the disk is real, the need is not
    settings = settings_on_free_ports(tmp_path / "home")
    with pytest.raises(stack.DiskTooFull, match=r"MiB left.*DIPTYCH_HOME"):
        stack.up(settings, ["mlflow"])
    assert of_stack(settings) == []


def test_an_unknown_service_is_refused(
    settings_on_free_ports: MakeSettings, tmp_path: Path
) -> None:
    settings = settings_on_free_ports(tmp_path / "home")
    for verb in (stack.up, stack.down):
        with pytest.raises(stack.UnknownService, match=r"'grafana'\. Known: prefect, mlflow, ray"):
            verb(settings, ["grafana"])


@pytest.fixture
def settled(settings_on_free_ports: MakeSettings, running: Settings, tmp_path: Path) -> Settings:
    """A home where MLflow's tables stand already: it starts in half the time."""
    settings = settings_on_free_ports(tmp_path / "home")
    settings.prepare()
    shutil.copy(running.home / "mlflow.db", settings.home)
    return settings


def test_two_ups_at_once_start_one_server(settled: Settings) -> None:
    lines: list[str] = []
    twice = [
        threading.Thread(target=stack.up, args=(settled, ["mlflow"]), kwargs={"say": lines.append})
        for _ in range(2)
    ]
    for thread in twice:
        thread.start()
    for thread in twice:
        thread.join()
    assert sorted(line.split(":")[1][:9] for line in lines) == [" already ", " up after"]
    assert stack.down(settled) == ["mlflow"]
    assert of_stack(settled) == []


USER = """
    from infra import stack
    from infra.settings import Settings
    with stack.short_lived(Settings.read(), ["mlflow"]):
        print("in", flush=True)
        {then}
    """


@pytest.mark.parametrize(
    ("number", "then", "code"),
    [
        (signal.SIGTERM, "import time; time.sleep(60)", 128 + signal.SIGTERM),
        (None, "raise RuntimeError('the block failed')", 1),
    ],
)
def test_short_lived_services_end_with_their_block(
    settled: Settings, number: int | None, then: str, code: int
) -> None:
    user = run_script(settled, USER.format(then=then))
    assert user.stdout is not None
    assert user.stdout.readline() == "in\n"
    if number is not None:
        assert len(of_stack(settled)) >= 2
        user.send_signal(number)
    user.communicate(timeout=120)
    assert user.returncode == code
    assert of_stack(settled) == []


def test_who_is_last_out_is_told_where_the_pages_are(settled: Settings) -> None:
    said: list[str] = []
    with stack.short_lived(settled, ["mlflow"], say=said.append):
        with stack.short_lived(settled, ["mlflow"], say=said.append):
            pass
        assert not any("diptych up" in line for line in said)
    assert said[-1] == "mlflow: ended with this command; `diptych up` shows the pages again."


def is_told_to_end(pid: int | None) -> bool:
    """Whether SIGTERM waits for a suspended process."""
    (pending,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)


def test_interrupts_end_the_waiting_but_not_the_ending(settled: Settings) -> None:
    user = run_script(settled, USER.format(then="import time; time.sleep(60)"))
    assert user.stdout is not None
    assert user.stdout.readline() == "in\n"
    # One that does not answer would keep a patient user waiting for ten seconds.
    first = pids(settled)["mlflow"]
    for process in of_service(settled, "mlflow"):
        process.suspend()
    began = time.monotonic()
    user.send_signal(signal.SIGINT)
    assert processes.wait_until(lambda: is_told_to_end(first), 30, every_s=0.02)
    for _ in range(2):
        user.send_signal(signal.SIGINT)
        time.sleep(0.05)
    user.communicate(timeout=120)
    assert user.returncode == -signal.SIGINT
    assert time.monotonic() - began < stack.STOP_PATIENCE_S
    assert of_stack(settled) == []


def test_a_signal_while_services_start_leaves_none(settled: Settings) -> None:
    user = run_script(settled, USER.format(then="pass"))
    assert processes.wait_until(lambda: bool(of_stack(settled)), 60)
    user.send_signal(signal.SIGTERM)
    assert "in\n" not in user.communicate(timeout=120)[0]
    assert of_stack(settled) == []


def test_what_a_killed_user_left_is_found_by_down(settled: Settings) -> None:
    user = run_script(settled, USER.format(then="pass"))
    assert processes.wait_until(lambda: bool(of_stack(settled)), 60)
    user.kill()
    user.communicate()
    # As if the crash had come before the state was written.
    (settled.home / "stack.json").unlink(missing_ok=True)
    assert stack.down(settled) == ["mlflow"]
    assert of_stack(settled) == []


def test_down_leaves_no_process_port_or_folder(running: Settings) -> None:
    """Last in this file: it ends the stack that the others share."""
    ours = of_stack(running)
    assert len(ours) >= 8
    assert stack.down(running) == ["worker", "ray", "mlflow", "prefect"]
    assert [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert of_stack(running) == []
    assert {(s.state, s.detail) for s in stack.status(running)} == {("down", "")}
    assert not running.ray_temp.exists()
    assert stack.down(running) == []
    assert os.getpid() not in {p.pid for p in ours}
