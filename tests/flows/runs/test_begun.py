"""Which run is meant, and whether anything of it is left to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from components.training.folder import JOB
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from flows import decisions
from flows.decisions import is_published
from flows.experiment import read_experiment
from flows.runs import begun
from flows.runs.begun import Begun, RunFinished, meant
from infra.settings import Settings


@pytest.fixture
def registered(tmp_path, monkeypatch) -> SimpleNamespace:
    """A run `quick-1` that is a version in the ledger; whether its MLflow run is finished is up to the test."""
    settings = Settings(home=tmp_path / "home", repo=tmp_path)
    settings.prepare()
    run = Begun(
        key="quick-1", experiment="quick", family="clip", overrides=(), attempt=0,
        mlflow_run_id="m1",
    )  # fmt: skip
    (settings.runs / run.key).mkdir()
    (settings.runs / run.key / begun.FILE).write_text(json.dumps(asdict(run)))
    told = SimpleNamespace(run=run, is_finished=False)
    doors = SimpleNamespace(
        settings=settings,
        ledger=SimpleNamespace(versions_of=lambda key: [1] if key == run.key else []),
        tracking=SimpleNamespace(is_finished=lambda run_id: run_id == "m1" and told.is_finished),
    )
    for module in (begun, decisions):
        monkeypatch.setattr(module, "services", lambda: doors)
    return told


def test_a_registered_run_is_gone_on_with_until_its_mlflow_run_is_finished(registered):
    assert meant("quick-1") == registered.run
    registered.is_finished = True
    with pytest.raises(RunFinished, match="quick-1 is finished"):
        meant("quick-1")


def test_a_family_that_was_trained_as_a_teacher_is_finished_without_a_version(registered, tmp_path):
    """Else `train --resume` would go on with another experiment's teacher."""
    job = TrainingJob(
        family="clip", config={}, plan=TrainingPlan(steps=3, warmup_steps=0), shards=tmp_path,
        folder=tmp_path / "home/runs/teacher-1",
    )  # fmt: skip
    begun.note(read_experiment("clip_tiny"), job, "m1", as_stage=True)
    assert meant("teacher-1").is_stage
    job.final.mkdir(parents=True)
    (job.folder / JOB).write_text(json.dumps(job.to_dict()))
    registered.is_finished = True
    with pytest.raises(RunFinished):
        meant("teacher-1")
    begun.note(read_experiment("clip_tiny"), job, "m1")  # now somebody wants a version of it
    begun.note(read_experiment("clip_tiny"), job, "m1", as_stage=True)
    assert not meant("teacher-1").is_stage


def test_no_next_seed_is_drawn_before_the_run_of_the_last_is_finished(registered):
    entry = SimpleNamespace(key="quick-1", mlflow_run_id="m1")
    assert not is_published(None, entry)
    registered.is_finished = True
    assert is_published(None, entry)
