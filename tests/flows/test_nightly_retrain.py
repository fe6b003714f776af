"""A night against real Prefect, MLflow and Ray, killed wherever it may be killed, leaves one version and one move."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.stack, pytest.mark.faults]

EXPERIMENT = """
family: virtex
source: shapes_l0
model: {preset: tiny, vision: conv, image_px: 32, vision_widths: [16, 32, 64]}
training: {steps: 60, batch_size: 16, lr: 2.0e-3, warmup_steps: 5, checkpoint_every: 20, report_every: 5}
evaluation: {decoder: greedy, max_tokens: 16}
gate:
  - {metric: rouge_l, at_least: 0.1}
  - {metric: rouge_l, not_worse_than_champion: 1.0}
"""


@pytest.fixture(scope="module")
def experiment(home):
    path = home.home / "nightly.yaml"
    path.write_text(EXPERIMENT)
    return path


def start(home, experiment, launcher, *flags, fail=""):
    environ = {**home.inherited, "DIPTYCH_FAIL": fail}
    return subprocess.Popen(
        [sys.executable, "tests/flows/night.py", str(experiment), launcher, *flags],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, _ = process.communicate(timeout=900)
    return process.returncode, out


def doors(home):
    from registry.ledger.store import Ledger
    from registry.tracking import Tracking
    from registry.versions import Versions

    return (
        Ledger(home.ledger_url).migrate(),
        Tracking(home.mlflow_url, "diptych"),
        Versions(home.mlflow_url),
    )


def kill_while_training(home, experiment):
    process = start(home, experiment, "local")
    deadline_s = time.monotonic() + 900
    while not list(home.runs.glob("nightly-*/checkpoints/step-*/MANIFEST.json")):
        assert process.poll() is None, finish(process)[1]
        assert time.monotonic() < deadline_s, "no checkpoint in a quarter of an hour"
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in children:  # a power cut spares nobody
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_night_killed_at_every_border_ends_in_one_version_and_one_closed_move(home, experiment):
    kill_while_training(home, experiment)
    places = [
        "trained",
        "version.uploaded",
        "registered",
        "judged",
        "promotion.opened",
        "promotion.pointed",
    ]
    for place in places:
        code, out = finish(start(home, experiment, "inline", fail=place))
        assert code == -signal.SIGKILL, f"{place}: {out[-3000:]}"
    code, out = finish(start(home, experiment, "inline"))
    assert code == 0, out[-3000:]

    ledger, tracking, versions = doors(home)
    moves = ledger.moves("nightly")
    assert [(move.phase, move.number) for move in moves] == [("opened", 1), ("closed", 1)]
    assert versions.alias("nightly") == 1
    (run,) = home.runs.glob("nightly-*")
    steps = [json.loads(line)["step"] for line in (run / "progress.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    found = tracking._client.search_model_versions("name = 'nightly'")
    assert len(found) == 1
    runs = tracking._client.search_runs([tracking.experiment_id])
    mine = [each for each in runs if each.info.run_name == "nightly"]
    assert [each.info.status for each in mine] == ["FINISHED"]
    assert "champion" in mine[0].data.tags["diptych.verdict"]


def test_a_second_night_on_unchanged_data_says_so_and_trains_nothing(home, experiment):
    before = sorted(path.name for path in home.runs.glob("nightly-*"))
    code, out = finish(start(home, experiment, "local"))
    assert code == 0, out[-3000:]
    assert "nothing was trained" in out
    assert sorted(path.name for path in home.runs.glob("nightly-*")) == before


def test_a_forced_night_trains_with_the_next_seed_and_is_held_against_the_champion(
    home, experiment
):
    code, out = finish(start(home, experiment, "inline", "force"))
    assert code == 0, out[-3000:]
    ledger, _, versions = doors(home)
    first, second = (ledger.run(ledger.version("nightly", number).run_key) for number in (1, 2))
    assert (first.seed, second.seed) == (0, 1)
    assert ledger.verdict_of(second.key).champion_digest == first.checkpoint_digest
    assert versions.alias("nightly") == ledger.champion("nightly").number == 2
