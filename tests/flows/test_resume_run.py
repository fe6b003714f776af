"""A run that was killed is named, found and finished; what it took, the repeated part too, is told everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.training.usage import cost
from infra.ports import free_ports
from infra.settings import PORT_VARIABLES, Settings
from infra.stack import short_lived
from registry.ledger.store import Ledger
from registry.tracking import Tracking

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.stack, pytest.mark.faults]

EXPERIMENT = """
family: virtex
source: shapes_l0
model: {preset: tiny, vision: conv, image_px: 32, vision_widths: [16, 32, 64]}
training: {steps: 30, batch_size: 16, lr: 2.0e-3, warmup_steps: 5, checkpoint_every: 10, report_every: 5}
evaluation: {decoder: greedy, max_tokens: 16}
gate: [{metric: rouge_l, at_least: 0.1}]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    ports = map(str, free_ports(len(PORT_VARIABLES)))
    folder = tmp_path_factory.mktemp("resume")
    environ = {**os.environ, "DIPTYCH_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    environ |= {"DIPTYCH_CHECKPOINTS": str(folder / "elsewhere")}
    settings = Settings.read(environ | dict(zip(PORT_VARIABLES.values(), ports, strict=True)))
    with short_lived(settings, ("prefect", "mlflow")):
        yield settings


def run(home, *words, fail=""):
    return subprocess.run(
        [sys.executable, "tests/flows/resumed.py", *map(str, words)],
        cwd=ROOT,
        env={**home.inherited, "DIPTYCH_FAIL": fail},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_killed_run_is_finished_by_its_key_and_its_cost_is_told(home):
    experiment = home.home / "quick.yaml"
    experiment.write_text(EXPERIMENT)
    killed = run(home, "train", experiment, fail="checkpoint_saved:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (folder,) = home.runs.iterdir()

    unknown = run(home, "resume", "quick-0123456789ab")
    assert unknown.returncode == 2
    assert folder.name in unknown.stderr and "step 20" in unknown.stderr

    other = run(home, "resume", folder.name, "training.lr=1.0e-4")
    assert other.returncode == 2 and "cannot go on with training.lr=1.0e-4" in other.stderr

    done = run(home, "newest", experiment, "training.report_every=10")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "quick version 1 is registered" in done.stdout
    again = run(home, "resume", folder.name)
    assert again.returncode == 2 and "is finished" in again.stderr
    assert "no unfinished run" in run(home, "newest", experiment).stderr

    spent, entry = cost.total(folder / cost.FILE), Ledger(home.ledger_url).run(folder.name)
    assert spent.attempts == entry.training_attempts == 2
    assert spent.wasted_seconds == entry.wasted_seconds > 0
    logged = Tracking(home.mlflow_url, "diptych")._client.get_run(entry.mlflow_run_id).data.metrics
    assert logged["cost/tokens"] == spent.tokens == entry.tokens
    assert "system/cpu_utilization_percentage" in logged
    there = home.home.parent / "elsewhere" / folder.name
    assert (there / "step-00000030" / "MANIFEST.json").is_file(), "the last one was awaited"
