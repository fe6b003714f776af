"""A sweep from an experiment's file to the best settings' file, with its trials in MLflow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components.config import ConfigError
from components.table import UnknownName
from components.training.sweeps import trials
from components.training.sweeps.trials import Sweep
from components.training.training_job import TrainingJob
from flows.experiment import read_experiment
from flows.output_files import OutputRefused
from flows.sweep_settings import sweep_settings
from flows.sweeps.best_settings import check_place, usual_place, write_best
from infra.settings import Settings
from infra.stack import short_lived
from registry.tracking import Tracking

ROOT = Path(__file__).parents[2]
SWEPT = """
family: clip
source: shapes_l0
model: {preset: tiny, image_px: 16, vision_widths: [8, 16], text_width: 16, text_heads: 2, text_layers: 1}
training: {steps: 9, batch_size: 8, warmup_steps: 0, checkpoint_every: 3, report_every: 1, cpus_per_worker: 0.5}
gate: [{metric: image_to_text_r1, at_least: 0.5}]
search:
  metric: loss
  trials: 3
  space: {training.lr: {log: [1.0e-5, 1.0e-2]}, model.embed_width: {choice: [8, 16]}}
"""


@pytest.fixture
def swept(tmp_path) -> Path:
    path = tmp_path / "swept.yaml"
    path.write_text(SWEPT)
    return path


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("trials: 3", "trails: 3"), UnknownName, 'Did you mean "trials"'),
        (("metric: loss", "metric: cider_d"), ConfigError, "which this family has not"),
        (("{log: [1.0e-5, 1.0e-2]}", "{log: [-1, 1]}"), ConfigError, "two numbers above 0"),
        (("training.lr:", "training.warmup_steps:"), ConfigError, "space: training.warmup_steps"),
        (("choice: [8, 16]", "choice: [8, wide]"), ConfigError, "model.embed_width is 'wide'"),
        (("model.embed_width", "model.embed_widht"), UnknownName, 'Did you mean "embed_width"'),
    ],
)
def test_a_search_that_cannot_work_is_refused_when_the_file_is_read(swept, change, error, said):
    swept.write_text(SWEPT.replace(*change))
    with pytest.raises(error, match=said):
        read_experiment(str(swept))


def test_what_is_searched_is_no_part_of_what_a_training_is_known_by(swept):
    before = read_experiment(str(swept)).digest
    assert read_experiment(str(swept), ["search.trials=9"]).digest == before


def test_the_best_settings_are_an_experiment_that_reads(swept, tiny_shards, tmp_path):
    asked = read_experiment(str(swept), ["training.batch_size=4"])
    job = TrainingJob(
        family="clip", config=asked.model.to_dict(), plan=asked.training,
        shards=tiny_shards.path, folder=tmp_path / "run",
    )  # fmt: skip
    sweep = Sweep(search=asked.search, job=job, folder=tmp_path / "sweep", runs=tmp_path)
    trial = sweep.trial({"training.lr": 1e-05, "model.embed_width": 8})
    best = trials.write(
        sweep.place(trial.key), replace(trial, state="finished", values=((9, 1.25),))
    )
    path = write_best(tmp_path / "tuned.yaml", str(swept), ["training.batch_size=4"], sweep, best)
    found = read_experiment(str(path))
    assert (found.training.lr, found.training.batch_size) == (1e-5, 4)
    assert found.model == replace(asked.model, embed_width=8)
    assert found.search is None
    assert found.gate == asked.gate
    assert "loss 1.2500 on val" in path.read_text().splitlines()[0]


def test_a_place_for_the_best_that_cannot_be_written_is_refused_first(swept, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in .yaml"):
        check_place(tmp_path / "best.txt", str(swept))
    with pytest.raises(OutputRefused, match="would replace"):
        check_place(swept, str(swept))
    with pytest.raises(ConfigError, match=r"best-clip.yaml' cannot name models"):
        check_place(tmp_path / "best-clip.yaml", str(swept))
    with pytest.raises(ConfigError, match="lm_shapes_l0 needs frozen_tiny needs lm_shapes_l0"):
        check_place(tmp_path / "lm_shapes_l0.yaml", "frozen_tiny")
    check_place(tmp_path / "other.yaml", str(swept))


@pytest.mark.parametrize("letters", [1, 55, 56, 60])
def test_the_usual_place_for_the_best_is_one_that_may_be_asked_for(swept, tmp_path, letters):
    place = usual_place(tmp_path, "x" * letters)
    check_place(place, str(swept))
    assert place.stem.endswith("_best")


def test_several_workers_are_refused_before_anything_is_fetched_or_trained(swept, monkeypatch):
    nothing = lambda *asked: pytest.fail("something was begun")  # noqa: E731
    monkeypatch.setattr("flows.sweep_settings.refresh_dataset", nothing)
    monkeypatch.setattr("flows.sweep_settings.with_stages", nothing)
    with pytest.raises(ConfigError, match=r"Set training\.workers to 1"):
        sweep_settings.fn(str(swept), ["training.workers=2"])


def test_the_form_is_deployed():
    assert set(sweep_settings.parameters.model_dump()["properties"]) == {
        "experiment", "overrides", "to",
    }  # fmt: skip
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (mine,) = [each for each in deployed if each["name"] == sweep_settings.name]
    assert mine["entrypoint"] == "flows/sweep_settings.py:sweep_settings"


@pytest.mark.stack
def test_trials_are_children_of_the_sweeps_run_and_the_best_of_them_is_written(
    swept, settings_on_free_ports, tmp_path
):
    settings = settings_on_free_ports(tmp_path / "home")
    with short_lived(settings, ("prefect", "mlflow")):
        done = _swept(settings, swept, tmp_path / "tuned.yaml")
        assert done.returncode == 0, done.stderr
        tracking = Tracking(settings.mlflow_url, "diptych")
        (folder,) = (settings.home / "sweeps").iterdir()
        parent = tracking.find_run(folder.name)
        found = tracking._client.search_runs(
            [tracking.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
        )
    best = read_experiment(str(tmp_path / "tuned.yaml"))
    assert len(found) == len(list(settings.runs.glob("*/progress.jsonl"))) == 3
    assert "3 trials" in done.stdout
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    assert all(run.data.metrics["cost/device_seconds"] > 0 for run in found)
    ended = [run.data for run in found if run.info.status == "FINISHED"]
    chosen = min(ended, key=lambda run: run.metrics["val/loss"])
    assert float(chosen.params["training.lr"]) == best.training.lr
    assert int(chosen.params["model.embed_width"]) == best.model.embed_width


def _swept(settings: Settings, experiment: Path, to: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tests/flows/sweep_run.py", str(experiment), str(to)],
        cwd=ROOT, env=settings.inherited, capture_output=True, text=True, check=False,
    )  # fmt: skip
