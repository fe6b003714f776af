"""Stages: made before what needs them, once, and found again; mistakes in them are told before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.config import ConfigError
from components.table import UnknownName
from components.training.checkpoints.checkpoint import latest
from flows.experiment import read_experiment
from infra.settings import Settings
from infra.stack import short_lived

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


@pytest.mark.stack
def test_a_stage_is_trained_once_and_stands_in_mlflow_beside_what_needed_it(
    written, settings_on_free_ports, tmp_path
):
    written("eyes", STAGE)
    whole = written("whole", EXPERIMENT)
    settings = settings_on_free_ports(tmp_path / "home")
    with short_lived(settings, ("prefect", "mlflow")):
        first = _night(settings, whole)
        again = _night(settings, whole, "force")
        import mlflow

        from registry.tracking import Tracking

        tracking = Tracking(settings.mlflow_url, "diptych")
        runs = {path.name: tracking.find_run(path.name) for path in settings.runs.iterdir()}
        stage = next(run for key, run in runs.items() if key.startswith("eyes-"))
        client = mlflow.MlflowClient(settings.mlflow_url)
        wholes = [run for key, run in runs.items() if key.startswith("whole-")]
        tags = [client.get_run(run).data.tags for run in wholes]
        files = {file.path for file in client.list_artifacts(stage, "checkpoint")}
    assert "is known" not in first
    assert "is known" in again
    assert len([key for key in runs if key.startswith("eyes-")]) == 1
    assert any(file.endswith("weights.safetensors") for file in files)
    assert [tag["diptych.part.vision.run"] for tag in tags] == [stage, stage]


@pytest.mark.stack
def test_a_stage_scores_captions_and_the_run_names_it(written, settings_on_free_ports, tmp_path):
    written("eyes", STAGE)
    settings = settings_on_free_ports(tmp_path / "home")
    with short_lived(settings, ("prefect", "mlflow")):
        _night(settings, written("scored", SCORED))
        import mlflow

        from registry.tracking import Tracking

        tracking = Tracking(settings.mlflow_url, "diptych")
        runs = {path.name: tracking.find_run(path.name) for path in settings.runs.iterdir()}
        (stage,) = (key for key in runs if key.startswith("eyes-"))
        (run,) = (run for key, run in runs.items() if key.startswith("scored-"))
        data = mlflow.MlflowClient(settings.mlflow_url).get_run(run).data
    checkpoint = latest(settings.runs / stage / "checkpoints")
    assert checkpoint is not None
    scorer = f"stage:{tmp_path / 'eyes.yaml'}@{checkpoint.digest[:12]} ''"
    assert data.tags["diptych.scorer"] == scorer
    for prefix in ("", "image_blind/", "nearest_pixels/", "most_frequent/"):
        for name in ("clip_score", "ref_clip_score"):
            assert 0 <= data.metrics[f"test/{prefix}{name}"] <= 2.5


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
