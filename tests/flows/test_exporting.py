"""`diptych export` from a checkpoint's folder: what was written is told, and a mistake in words before anything is."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from flows.cli import app

CONFIG = {
    "image_px": 16, "vision_widths": [8, 16], "vision_heads": 2, "text_width": 16,
    "text_heads": 2, "text_layers": 1, "embed_width": 16,
}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    before = os.environ.copy()  # a command makes the process's environment its own
    os.environ["DIPTYCH_HOME"] = str(tmp_path / "home")
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)


def test_a_checkpoint_is_exported_once_and_what_reads_it_is_told(home, tiny_shards, tmp_path):
    plan = TrainingPlan(steps=1, batch_size=8, warmup_steps=0, vocab_size=300)
    job = TrainingJob(
        family="clip", config=CONFIG, plan=plan, shards=tiny_shards.path, folder=tmp_path / "run"
    )
    checkpoint = run_job(job)
    words = ["export", str(checkpoint.path), "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    # The tiny tower is no ViT, so transformers cannot have it; that is told, and ours is written.
    assert "read by ours" in done.stdout
    assert "train one with `vision: vit`" in done.stdout
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (about["format"], about["checkpoint"]) == ("hub", checkpoint.digest)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "clip_nobody_made", "--to", "x"], "nothing is registered"),
        (["export", "clip_tiny", "--to", "x", "--format", "onx"], "onx"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(home, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "x").exists()
