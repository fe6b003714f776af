"""`diptych export` from a checkpoint's folder: what was written is told, and a mistake in words before anything is."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from components.training.checkpoints.checkpoint import Origin, save
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
    # The folder stands in no run's, and where it stands is nobody's business.
    assert about["title"] == "clip, step 1"
    assert str(tmp_path) not in told_in(tmp_path / "out")
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert "Traceback" not in again.output


def test_a_folder_is_called_by_its_family_and_run_and_not_by_its_path(
    home, build_tiny, tiny_tokenizer, tmp_path, monkeypatch
):
    model = build_tiny("clip")
    origin = Origin(family="clip", config=model.config.to_dict(), seed=0, shards_digest="made")
    checkpoints = tmp_path / "home" / "runs" / "clip_night-0123456789ab" / "checkpoints"
    path = save(checkpoints, model, tokenizer=tiny_tokenizer, origin=origin, step=7).path
    monkeypatch.chdir(path)
    for number, typed in enumerate([str(path), ".", f"../{path.name}/"]):
        out = tmp_path / f"out{number}"
        done = CliRunner().invoke(app, ["export", typed, "--to", str(out)])
        assert done.exit_code == 0, done.output
        assert (
            "\n# clip of run clip_night-0123456789ab, step 7\n" in (out / "README.md").read_text()
        )
        assert str(tmp_path) not in told_in(out)


def told_in(folder):
    """All text of an exported folder."""
    return "".join(
        path.read_text() for path in folder.rglob("*") if path.suffix in {".json", ".md"}
    )


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
