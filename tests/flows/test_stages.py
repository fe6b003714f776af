"""Stages: made before what needs them, once, and found again; mistakes in them are told before anything is trained."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from components.config import ConfigError
from components.table import UnknownName
from components.training.checkpoints.checkpoint import latest
from flows import publishing, stages
from flows.experiment import read_experiment
from infra.settings import Settings
from registry.tracking import Tracking

ROOT = Path(__file__).parents[2]
STAGE = """
family: clip
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [8, 16], text_layers: 1, max_tokens: 16}
training: {steps: 4, batch_size: 16, warmup_steps: 0}
gate: [{metric: image_to_text_r1, at_least: 0.0}]
"""
EXPERIMENT = """
family: visualbert
source: shapes_l0
model: {preset: tiny, image_px: 32, vision: part}
parts: {vision: "stage:STAGE"}
training: {steps: 4, batch_size: 16, warmup_steps: 0}
evaluation: {match_lists: 1}
gate: [{metric: match_accuracy, at_least: 0.0}]
"""

SCORED = """
family: virtex
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [8, 16], max_tokens: 16}
training: {steps: 4, batch_size: 16, warmup_steps: 0}
evaluation: {max_tokens: 8, decoder: greedy, scorer: "stage:STAGE", scorer_prefix: ""}
gate: [{metric: clip_score, at_least: 0.0}]
"""


@pytest.fixture
def written(tmp_path):
    """`written("quick", text)`: an experiment's file, stages named by their files."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("stage:STAGE", f"stage:{tmp_path / 'eyes.yaml'}"))
        return path

    return write


def test_an_experiment_that_needs_itself_is_refused(written):
    path = written("eyes", EXPERIMENT)
    with pytest.raises(ConfigError, match="eyes needs eyes: stages cannot need themselves"):
        read_experiment(str(path))


def test_a_stage_with_a_mistake_is_told_by_the_experiment_that_needs_it(written):
    written("eyes", STAGE.replace("family: clip", "family: clipp"))
    with pytest.raises(UnknownName, match='Did you mean "clip"'):
        read_experiment(str(written("whole", EXPERIMENT)))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("{vison: random}", 'Did you mean "vision"'),
        ("{vision: stege:clip_tiny}", "is none of stage:EXPERIMENT, package:NAME"),
        ("{vision: 'stage:clip_tinny'}", 'Did you mean "clip_tiny"'),
        ("{vision: 'package:lite'}", 'No package "lite"'),
        ("{}", "leaves vision empty"),
    ],
)
def test_parts_that_cannot_be_had_are_refused_before_data_is_read(written, parts, said):
    text = EXPERIMENT.replace('{vision: "stage:STAGE"}', parts)
    with pytest.raises((UnknownName, ConfigError), match=said):
        read_experiment(str(written("whole", text)))


def test_a_part_where_the_settings_want_none_is_refused(written):
    text = EXPERIMENT.replace("vision: part", "vision: lite0").replace("stage:STAGE", "random")
    with pytest.raises(ConfigError, match="set it to part"):
        read_experiment(str(written("whole", text)))


@pytest.mark.parametrize(("is_finished", "uploads"), [(True, 0), (False, 1)])
def test_a_trained_stage_is_uploaded_when_it_is_asked_for_again_unless_its_run_is_finished(
    written, monkeypatch, is_finished, uploads
):
    trained, uploaded = SimpleNamespace(step=4, path=Path("there")), []
    tracking = SimpleNamespace(
        find_run=lambda key: "run",
        is_finished=lambda run_id: is_finished,
        log_file=lambda *file: uploaded.append(file),
        finish=lambda run_id: None,
    )
    doors = SimpleNamespace(tracking=tracking)
    job = SimpleNamespace(folder=Path("eyes-1"), checkpoints=Path(), steps=4)
    around = {
        "services": lambda: doors,
        "training_job": lambda *asked: job,
        "latest": lambda folder: trained,
        "train": lambda *asked: trained,
        "open_run": lambda *asked: "run",
        "note": lambda *asked, **how: None,
        "alone": nullcontext,
        "get_run_logger": lambda: logging.getLogger("run"),
    }
    for name, stand_in in around.items():
        monkeypatch.setattr(stages, name, stand_in)
    monkeypatch.setattr(publishing, "services", lambda: doors)
    revision = SimpleNamespace(shards=None)
    made = stages.make_stage(str(written("eyes", STAGE)), lambda source: revision, "inline")
    assert made is trained
    assert uploaded == [("run", Path("there"), "checkpoint")] * uploads


@pytest.mark.stack
def test_a_stage_is_trained_once_and_stands_in_mlflow_beside_what_needed_it(written, home):
    written("eyes", STAGE)
    whole = written("whole", EXPERIMENT)
    first = _night(home, whole)
    again = _night(home, whole, "force")
    (stage,) = _runs(home, "eyes").values()
    client = MlflowClient(home.mlflow_url)
    tags = [client.get_run(run).data.tags for run in _runs(home, "whole").values()]
    files = {file.path for file in client.list_artifacts(stage, "checkpoint")}
    assert "is known" not in first
    assert "is known" in again
    assert any(file.endswith("weights.safetensors") for file in files)
    assert [tag["diptych.part.vision.run"] for tag in tags] == [stage, stage]


@pytest.mark.stack
def test_a_stage_scores_captions_and_the_run_names_it(written, home):
    judge = written("judge", STAGE)
    _night(home, written("scored", SCORED.replace("STAGE", str(judge))))
    (stage,) = _runs(home, "judge")
    (run,) = _runs(home, "scored").values()
    data = MlflowClient(home.mlflow_url).get_run(run).data
    checkpoint = latest(home.runs / stage / "checkpoints")
    assert checkpoint is not None
    scorer = f"stage:{judge}@{checkpoint.digest[:12]} ''"
    assert data.tags["diptych.scorer"] == scorer
    for prefix in ("", "image_blind/", "nearest_pixels/", "most_frequent/"):
        for name in ("clip_score", "ref_clip_score"):
            assert 0 <= data.metrics[f"test/{prefix}{name}"] <= 2.5


def _runs(home: Settings, experiment: str) -> dict[str, str | None]:
    """Key -> MLflow run, of all runs of an experiment."""
    tracking = Tracking(home.mlflow_url, "diptych")
    keys = (path.name for path in home.runs.glob(f"{experiment}-*"))
    return {key: tracking.find_run(key) for key in keys}


def _night(settings: Settings, experiment: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "tests/flows/night.py", str(experiment), "inline", *flags],
        cwd=ROOT,
        env=settings.inherited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
