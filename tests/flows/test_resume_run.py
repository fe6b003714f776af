"""A run that was killed is named, found and finished; what it took, the repeated part too, is told everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from components.training.checkpoints.checkpoint import verify
from components.training.job import run_job
from components.training.teachers.teacher_cache import FOLDER
from components.training.training_job import TrainingJob
from components.training.usage import cost
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


def run(home, *words, fail=""):
    return subprocess.run(
        [sys.executable, "tests/flows/resumed.py", *map(str, words)],
        cwd=ROOT,
        env={
            **home.inherited,
            "DIPTYCH_FAIL": fail,
            "DIPTYCH_CHECKPOINTS": str(elsewhere(home)),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def elsewhere(home) -> Path:
    """Where checkpoints are copied."""
    return home.home.parent / "elsewhere"


def test_a_killed_run_is_finished_by_its_key_and_its_cost_is_told(home):
    experiment = home.home / "resumed.yaml"
    experiment.write_text(EXPERIMENT)
    # As it lies from there, and later by its whole path: it is one experiment.
    killed = run(home, "train", os.path.relpath(experiment, ROOT), fail="checkpoint_saved:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (folder,) = home.runs.glob("resumed-*")

    unknown = run(home, "resume", "resumed-0123456789ab")
    assert unknown.returncode == 2
    assert folder.name in unknown.stderr and "step 20" in unknown.stderr

    other = run(home, "resume", folder.name, "training.lr=1.0e-4")
    assert other.returncode == 2 and "cannot go on with training.lr=1.0e-4" in other.stderr

    done = run(home, "newest", experiment, "training.report_every=10")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed version 1 is registered" in done.stdout
    again = run(home, "resume", folder.name)
    assert again.returncode == 2 and "is finished" in again.stderr
    assert "no unfinished run" in run(home, "newest", experiment).stderr

    spent, entry = cost.total(folder / cost.FILE), Ledger(home.ledger_url).run(folder.name)
    assert spent.attempts == entry.training_attempts == 2
    assert spent.wasted_seconds == entry.wasted_seconds > 0
    logged = Tracking(home.mlflow_url, "diptych")._client.get_run(entry.mlflow_run_id).data.metrics
    assert logged["cost/tokens"] == spent.tokens == entry.tokens
    assert "system/cpu_utilization_percentage" in logged
    there = elsewhere(home) / folder.name
    assert (there / "step-00000030" / "MANIFEST.json").is_file(), "the last one was awaited"


TEACHER = """
family: clip
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [16, 32], text_layers: 1, max_tokens: 16}
training: {steps: 20, batch_size: 16, warmup_steps: 5, checkpoint_every: 20, report_every: 10}
gate: [{metric: image_to_text_r1, at_least: 0.0}]
"""
STUDENT = """
family: clip
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [8, 16], text_layers: 1, max_tokens: 16}
# One thread, as here: more add up in another order.
training: {steps: 30, batch_size: 16, warmup_steps: 5, checkpoint_every: 10, report_every: 10, threads: 1}
distill:
  teacher: stage:TEACHER
  terms: {affinity: 1.0, icl: 1.0, feature: 1.0}
  remember: true
gate: [{metric: image_to_text_r1, at_least: 0.0}]
"""


def test_a_students_killed_run_is_finished_as_an_undisturbed_one_and_its_teacher_not_asked_again(
    home, tmp_path
):
    big, small = home.home / "big.yaml", home.home / "small.yaml"
    big.write_text(TEACHER)
    small.write_text(STUDENT.replace("stage:TEACHER", f"stage:{big}"))
    # The teacher's only checkpoint is the first, the student's second the third.
    killed = run(home, "distill", small, fail="checkpoint_saved:3")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (folder,) = home.runs.glob("small-*")
    known = asked_about(folder)
    assert known, "its teacher's answers were kept with the checkpoint"

    # Registered, and its retention not told yet: nothing but that is left, and no next seed is drawn.
    killed = run(home, "resume", folder.name, fail="registered")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    done = run(home, "distill", small)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "small version 1 is registered" in done.stdout
    told, entry = Tracking(home.mlflow_url, "diptych"), Ledger(home.ledger_url).run(folder.name)
    files = {file.path for file in told._client.list_artifacts(entry.mlflow_run_id)}
    assert {"retention.md", "verdict.md"} <= files
    assert told.is_finished(entry.mlflow_run_id)
    assert [path.name for path in home.runs.glob("small-*")] == [folder.name], "no second run"
    every = asked_about(folder)
    assert set(known) < set(every) and len(set(every)) == len(every), "nothing was asked twice"

    job = TrainingJob.read(folder / "job.json")
    undisturbed = run_job(replace(job, folder=tmp_path / "undisturbed", mirror=""))
    assert verify(job.final).digest == undisturbed.digest
    assert sorted(every) == sorted(asked_about(undisturbed.path.parents[1]))


def asked_about(folder: Path) -> list[tuple[str, bytes]]:
    """What the files of a teacher's answers are about, by kind."""
    return [
        (name, bytes(row))
        for path in (folder / FOLDER).glob("*/*.safetensors")
        for name, value in load_file(path).items()
        if name.endswith("/names")
        for row in value.reshape(-1, 16)
    ]
