"""A person at a browser: fills the form, watches the night, reads its report, holds two nights side by side.

Real servers, a real Chromium, a real training on the Ray head. `DIPTYCH_PICTURES=docs/pictures` takes the pictures of
the documentation anew; those are of whole trainings on real drawings, so it then takes minutes more.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from components.training import progress
from components.training.checkpoints.checkpoint import latest
from components.training.cluster.presence import wait_empty
from components.training.sweeps import trials
from components.training.sweeps.trials import Trial
from infra import processes, stack
from infra.deployments import deploy
from infra.http_json import ask, ask_prefect
from infra.ports import free_ports
from infra.settings import PORT_VARIABLES, Settings
from registry.tracking import Tracking

pytestmark = pytest.mark.stack

PICTURES = os.environ.get("DIPTYCH_PICTURES")
EXPERIMENT = "virtex_emoji_mini" if PICTURES else "virtex_tiny"
STEPS = ("300", "400") if PICTURES else ("40", "30")
QUICK = [] if PICTURES else ["training.warmup_steps=5", "training.checkpoint_every=100"]
NIGHT_S = 900
"""Until a flow run has ended: a minute or three here, and nobody waits longer than it takes."""
ENDING_S = 180
BROWSER = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
ENDED = re.compile("^(Completed|Failed|Crashed|Cancelled)$")


@dataclass(frozen=True)
class Night:
    """One that ended, as a person finds it: where its run is told in Prefect, and its training in MLflow."""

    page: str
    mlflow_run_id: str


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """`diptych up` in a home of its own."""
    ports = dict(zip(PORT_VARIABLES.values(), map(str, free_ports(4)), strict=True))
    home = tmp_path_factory.mktemp("browser") / "home"
    settings = Settings.read({**os.environ, "DIPTYCH_HOME": str(home), **ports})
    stack.up(settings)
    try:
        deploy(settings)
        yield settings
    finally:
        stack.down(settings)


@pytest.fixture(scope="module")
def page(platform: Settings) -> Iterator[Any]:
    """A tab of the system's Chromium that reaches our two servers and nothing else."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no `chromium` on the PATH: Debian's package is enough")
    ours = (platform.prefect_url, platform.mlflow_url)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER))
        page = browser.new_page(viewport={"width": 1400, "height": 1060})
        page.set_default_timeout(240_000)
        page.route(
            "**/*",
            lambda route: (
                route.continue_() if route.request.url.startswith(ours) else route.abort()
            ),
        )
        # MLflow opens a chat beside the first page, which would cover a third of it.
        seen = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        page.add_init_script(seen)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def first(platform: Settings, page: Any) -> Night:
    """A night that a person starts from the form."""
    page.goto(f"{platform.prefect_url}/v2/deployments")
    page.get_by_role("link", name="nightly-retrain", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    choose(page, EXPERIMENT)
    for number, override in enumerate(overrides(STEPS[0]), start=1):  # box 0 is the run's name
        page.get_by_role("button", name="Add item").click()
        page.get_by_role("main").get_by_role("textbox").nth(number).fill(override)
    keep(page, "prefect_form")
    page.get_by_role("button", name="Submit").click()
    # It stands for four seconds in a note that moves: its address outlives it, a click may not.
    link = page.wait_for_selector("a:has-text('View run')", state="attached")
    page.goto(f"{platform.prefect_url}{link.get_attribute('href')}")
    return watch(platform, page)


@pytest.fixture(scope="module")
def second(platform: Settings, page: Any, first: Night) -> Night:
    """The same with another number of steps, started through the API."""
    parameters = {"experiments": [EXPERIMENT], "overrides": overrides(STEPS[1])}
    run = start(platform, "nightly-retrain", parameters)
    page.goto(f"{platform.prefect_url}/v2/runs/flow-run/{run['id']}")
    return watch(platform, page)


def test_every_flow_is_deployed_and_the_night_has_its_hour(platform: Settings) -> None:
    found = {each["name"]: each for each in ask_prefect(platform, "/deployments/filter", {})[1]}
    assert set(found) == {
        "nightly-retrain",
        "train-model",
        "distill-student",
        "sweep-settings",
        "evaluate-model",
        "promote-model",
        "rollback-model",
        "train-stage",
        "refresh-dataset",
    }
    (hour,) = found["nightly-retrain"]["schedules"]
    assert hour["active"]
    assert hour["schedule"]["cron"] == "0 2 * * *"

    def scheduled() -> bool:
        wanted = {"deployments": {"name": {"any_": ["nightly-retrain"]}}}
        wanted["flow_runs"] = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        return len(ask_prefect(platform, "/flow_runs/filter", wanted)[1]) > 1

    assert processes.wait_until(scheduled, ENDING_S, every_s=1)


def test_the_form_offers_every_experiment_and_launcher(platform: Settings) -> None:
    found = {each["name"]: each for each in ask_prefect(platform, "/deployments/filter", {})[1]}
    schema = found["nightly-retrain"]["parameter_openapi_schema"]
    assert schema["properties"]["experiments"]["type"] == "array"
    assert schema["properties"]["experiments"]["items"] == {"$ref": "#/definitions/ExperimentName"}
    files = Path(__file__).parents[2].glob("flows/experiments/*.yaml")
    assert set(schema["definitions"]["ExperimentName"]["enum"]) == {path.stem for path in files}
    assert set(schema["definitions"]["Launcher"]["enum"]) == {"inline", "local", "jobs"}
    for deployment in found.values():
        for name, parameter in deployment["parameter_openapi_schema"]["properties"].items():
            assert parameter.get("description"), (deployment["name"], name)


def test_a_night_started_from_the_form_trains_on_the_ray_head(
    platform: Settings, first: Night
) -> None:
    token = {"Authorization": f"Bearer {platform.ray_token_file.read_text()}"}
    jobs = ask(platform.ray_port, "/api/jobs/", headers=token)[1]
    assert [job["status"] for job in jobs] == ["SUCCEEDED"]
    found = MlflowClient(platform.mlflow_url).search_model_versions(f"name='{EXPERIMENT}'")
    assert [version.run_id for version in found] == [first.mlflow_run_id]


def test_the_report_leads_from_its_flow_run_to_the_numbers_in_mlflow(
    platform: Settings, page: Any, second: Night
) -> None:
    open_report(page, second)
    keep(page, "prefect_report")
    told = page.get_by_role("row", name=re.compile("^exact_match ")).inner_text().split()[1]
    page.get_by_role("heading", name=re.compile("^Verdict: (passed|refused)$")).wait_for()
    page.get_by_role("link", name="MLflow run", exact=True).click()
    page.get_by_role("heading", name=EXPERIMENT).wait_for()
    row = page.get_by_role("row", name=re.compile(r"^test\/exact_match \d"))
    row.wait_for()
    assert page.url.endswith(f"/runs/{second.mlflow_run_id}")
    assert f"{float(row.inner_text().split()[-1]):.3f}" == told


def test_two_nights_stand_side_by_side_in_mlflow(
    platform: Settings, page: Any, first: Night, second: Night
) -> None:
    runs = [first.mlflow_run_id, second.mlflow_run_id]
    page.goto(Tracking(platform.mlflow_url, "diptych").compare_page(runs))
    page.get_by_role("heading", name="Comparing 2 Runs").wait_for()
    page.get_by_text("Model training", exact=True).click()
    for section in ("Visualizations", "Artifacts"):
        page.get_by_role("button", name=section).click()
    for section in ("Parameters", "Tags"):
        page.get_by_role("switch", name=section).click()  # only what differs
    page.get_by_role("row", name=f"training.steps {' '.join(STEPS)}").wait_for()
    # The page holds the rows in sight alone: this one stands among the first.
    losses = [MlflowClient(platform.mlflow_url).get_run(run).data.metrics["loss"] for run in runs]
    page.wait_for_timeout(1_000)  # both grids are drawn anew as rows come into sight
    assert shown_beside(page, "loss") == losses
    page.set_viewport_size({"width": 1400, "height": 1300})
    # For the picture: past the seven numbers of training. MLflow 3.17 leaves the names behind when values are scrolled.
    for grid in reversed(page.get_by_role("grid").all()):
        grid.evaluate("grid => grid.scrollTop = 7 * 45")
        page.wait_for_timeout(500)
    page.get_by_role("heading", name="Comparing 2 Runs").scroll_into_view_if_needed()
    keep(page, "mlflow_compare")


@pytest.mark.faults
def test_cancelling_a_run_stops_its_ray_job_with_a_checkpoint_and_frees_its_workers(
    platform: Settings,
) -> None:
    endless = ["training.steps=1000000", "training.checkpoint_every=1000000"]
    parameters = {"experiment": "virtex_tiny", "overrides": [*endless, "training.report_every=5"]}
    run = start(platform, "train-model", parameters)

    def trains() -> list[Path]:
        files = platform.runs.glob("*/progress.jsonl")
        return [file for file in files if not list((file.parent / "checkpoints").glob("step-*"))]

    assert processes.wait_until(trains, NIGHT_S)
    (file,) = trains()
    cancelled_s = time.monotonic()
    cancel(platform, run)
    assert wait_empty(file.parent, ENDING_S)
    freed_s = time.monotonic() - cancelled_s
    reached = progress.read(file)[-1].step
    assert latest(file.parent / "checkpoints").step == reached, "of the step it was at"
    assert comes_to(platform, run, "CANCELLED", ENDING_S)
    assert ended_in_order(platform, run)
    token = {"Authorization": f"Bearer {platform.ray_token_file.read_text()}"}
    jobs = ask(platform.ray_port, "/api/jobs/", headers=token)[1]
    assert not [job for job in jobs if job["status"] in ("PENDING", "RUNNING")]
    print(f"cancelled: workers gone after {freed_s:.1f} s")
    assert freed_s < 15


@pytest.mark.faults
def test_cancelling_a_sweep_frees_its_processes_and_it_goes_on_with_what_its_trials_have(
    platform: Settings,
) -> None:
    asked = {
        "training.steps": 600, "training.batch_size": 16, "training.report_every": 1,
        "training.cpus_per_worker": 0.5, "search.metric": "loss", "search.trials": 3,
    }  # fmt: skip
    parameters = {
        "experiment": "clip_tiny_sweep",
        "overrides": [f"{name}={value}" for name, value in asked.items()],
    }
    run = start(platform, "sweep-settings", parameters)

    def known() -> dict[str, Trial]:
        folders = platform.home.glob("sweeps/*/trials/*")
        found = (trials.read(folder) for folder in folders)
        return {trial.key: trial for trial in found if trial is not None}

    def steps(key: str) -> list[tuple[int, float]]:
        lines = progress.read(platform.runs / key / progress.FILE)
        return [(line.step, line.time) for line in lines]

    def is_amid() -> bool:
        settled = [trial.settled for trial in known().values()]
        begun = [trial for trial in known().values() if not trial.settled and trial.values]
        return any(settled) and bool(begun)

    assert processes.wait_until(is_amid, NIGHT_S), told(platform, run)
    begun = processes_of(run)
    at_work = [process for process in begun if is_of_ray(process)]
    assert at_work
    cancelled_s = time.monotonic()
    cancel(platform, run)
    assert processes.wait_until(lambda: not any(map(lives, at_work)), ENDING_S)
    freed_s = time.monotonic() - cancelled_s
    # The flow's own process closes the trials in MLflow first.
    assert processes.wait_until(lambda: not any(map(lives, [*begun, *processes_of(run)])), ENDING_S)
    assert comes_to(platform, run, "CANCELLED", ENDING_S)
    assert ended_in_order(platform, run)
    before = known()
    trained = {key: steps(key) for key in before}
    reached = {
        key: latest(platform.runs / key / "checkpoints").step
        for key, trial in before.items()
        if trial.values
    }
    assert len(reached) >= 2
    assert not all(trial.settled for trial in before.values())

    again = start(platform, "sweep-settings", parameters)
    assert comes_to(platform, again, "COMPLETED", NIGHT_S)
    after = known()
    assert len(after) == 3
    assert all(trial.settled and trial.state != "failed" for trial in after.values())
    for key, trial in before.items():
        if trial.settled:
            assert (after[key], steps(key)) == (trial, trained[key])
        elif key in reached:
            kept = trained[key][: reached[key]]
            assert steps(key)[: len(kept)] == kept, "not before its last checkpoint"
            assert [step for step, time_s in steps(key)] == list(range(1, len(steps(key)) + 1))
    print(f"cancelled: workers of the sweep gone after {freed_s:.1f} s")


def cancel(settings: Settings, run: dict[str, Any]) -> None:
    """What the button in Prefect's page does."""
    state = {"state": {"type": "CANCELLING"}}
    assert ask_prefect(settings, f"/flow_runs/{run['id']}/set_state", state)[0] < 300


def told(settings: Settings, run: dict[str, Any]) -> str:
    """The kind of state a flow run is in.

    By GET: what is posted needs a token first, whose making is a write, and Prefect refuses flows that write meanwhile.
    """
    kind: str = ask(settings.prefect_port, f"/api/flow_runs/{run['id']}")[1]["state"]["type"]
    return kind


def comes_to(settings: Settings, run: dict[str, Any], wanted: str, patience_s: float) -> bool:
    """Whether a flow run ends so; another end is seen at once."""
    ends = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
    processes.wait_until(lambda: told(settings, run) in ends, patience_s, every_s=0.5)
    return told(settings, run) == wanted


def ended_in_order(settings: Settings, run: dict[str, Any]) -> bool:
    """Whether the flow's process said its last word: one that is not gone in half a minute Prefect kills."""
    said = f"Execution of flow run '{run['id']}' was terminated"
    return said in (settings.logs / "worker.log").read_text()


def processes_of(run: dict[str, Any]) -> list[psutil.Process]:
    """All that a flow run started: those with its number in their environment, and what descends from them.

    Ray's workers write their title over the environment: once their parents are gone, nothing tells whose they were.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run["id"]:
                found |= {p.pid: p for p in [process, *process.children(recursive=True)]}
    return [process for process in found.values() if lives(process)]


def is_of_ray(process: psutil.Process) -> bool:
    """Whether it is a worker of Ray: they say by their title what they are at."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    return False


def lives(process: psutil.Process) -> bool:
    """Whether it still runs: a zombie does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def start(settings: Settings, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A run of a deployment, through the API."""
    path = f"/api/deployments/name/{name}/{name}"
    deployment = ask(settings.prefect_port, path)[1]["id"]
    code, run = ask_prefect(
        settings, f"/deployments/{deployment}/create_flow_run", {"parameters": parameters}
    )
    assert code == 201, run
    return run


def shown_beside(page: Any, metric: str) -> list[Any]:
    """A metric of both runs, as the page of comparison says it: names in one grid, values in another."""
    page.get_by_role("link", name=metric, exact=True).wait_for()
    names, values = page.get_by_role("grid").all()
    row = [link.inner_text() for link in names.get_by_role("link").all()].index(metric)
    told = values.inner_text().split()
    return [pytest.approx(float(value), abs=5e-4) for value in told[2 * row : 2 * row + 2]]


def overrides(steps: str) -> list[str]:
    return [f"training.steps={steps}", *QUICK]


def choose(page: Any, experiment: str) -> None:
    """Leave one experiment in the list of the form."""
    chosen = page.get_by_role("button", name=re.compile("^Remove .* tag$"))
    chosen.first.wait_for()
    while chosen.count():
        chosen.first.click()
    page.get_by_role("button", name="Select ExperimentName").click()
    page.get_by_role("option", name=experiment, exact=True).click()
    page.keyboard.press("Escape")
    page.get_by_role("option").first.wait_for(state="hidden")


def watch(settings: Settings, page: Any) -> Night:
    """Stay on the page of a flow run until it tells how it ended."""
    state = page.get_by_text(ENDED).first
    state.wait_for(timeout=NIGHT_S * 1000)
    log = (settings.logs / "worker.log").read_text().splitlines()
    assert state.inner_text() == "Completed", "\n".join(log[-25:])
    runs = MlflowClient(settings.mlflow_url).search_runs(
        [Tracking(settings.mlflow_url, "diptych").experiment_id],
        f"tags.`diptych.flow_run` = '{page.url.rpartition('/')[2].partition('?')[0]}'",
    )
    (trained,) = (run.info.run_id for run in runs if run.info.run_name == EXPERIMENT)
    return Night(page.url, trained)


def open_report(page: Any, night: Night) -> None:
    """From the flow run to the report, as a person clicks."""
    page.goto(night.page)
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=f"report-{EXPERIMENT.replace('_', '-')}").click()
    # The key's page lists every night's report, newest first.
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    page.get_by_role("table").wait_for()


def keep(page: Any, name: str) -> None:
    """Keep what the tab shows, in 256 colours, if pictures are wanted."""
    if PICTURES:
        page.wait_for_timeout(1_000)  # menus fade out
        shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        shown.quantize(256).save(Path(PICTURES) / f"{name}.png", optimize=True)
