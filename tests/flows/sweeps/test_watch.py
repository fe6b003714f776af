"""A sweep's trials in a real MLflow store: whatever ends the sweep, none stays open, and none loses what came later."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from prefect.logging import disable_run_logger

from components.training.plan import TrainingPlan
from components.training.sweeps import trials
from components.training.sweeps.search import Search
from components.training.sweeps.trials import Sweep, Trial
from components.training.training_job import TrainingJob
from components.training.usage import cost
from flows import publishing
from flows.sweeps import watch
from flows.sweeps.watch import leaving_none_open, log_trial
from registry.tracking import Tracking, TrackingUnreachable


@pytest.fixture
def sweep(tiny_shards, tmp_path) -> Sweep:
    job = TrainingJob(
        family="clip", config={}, plan=TrainingPlan(), shards=tiny_shards.path, folder=tmp_path
    )
    search = Search(metric="loss", space={"training.lr": {"log": [1e-4, 1e-2]}})
    return Sweep(search=search, job=job, folder=tmp_path / "sweep", runs=tmp_path / "runs")


@pytest.fixture
def parent(tracking, monkeypatch) -> str:
    """The sweep's own MLflow run."""
    for module in (watch, publishing):
        monkeypatch.setattr(module, "services", lambda: SimpleNamespace(tracking=tracking))
    return tracking.open_run("sweep", "sweep")


def known(sweep: Sweep, lr: float, state: trials.State, *values: float) -> Trial:
    """A trial as its process left it: a value every ten steps, and a second of one core for each."""
    trial = sweep.trial({"training.lr": lr})
    at = tuple((10 * number, value) for number, value in enumerate(values, start=1))
    (sweep.runs / trial.key).mkdir(parents=True, exist_ok=True)
    file = sweep.runs / trial.key / cost.FILE
    account = cost.Account(file, workers=1, device=torch.device("cpu"), begun_step=0)
    account.add(10 * len(values), (float(len(values)), 0, 0, None))
    return trials.write(sweep.place(trial.key), replace(trial, state=state, values=at))


def run_of(tracking: Tracking, trial: Trial):
    return tracking._client.get_run(tracking.find_run(f"sweep.{trial.key}"))


def cancelled(sweep: Sweep, parent: str) -> None:
    with pytest.raises(KeyboardInterrupt), leaving_none_open("swept", sweep, parent):
        raise KeyboardInterrupt


def test_a_cancelled_sweep_leaves_no_trial_open_and_tells_what_each_took(sweep, tracking, parent):
    amid = known(sweep, 1e-3, "running", 2.0, 1.5)
    unseen = known(sweep, 2e-3, "running")
    log_trial("swept", sweep, parent, amid, ended=False)
    # Its process finished it while the sweep was cancelled, which was told to nobody.
    ended = known(sweep, 3e-3, "running", 1.0)
    log_trial("swept", sweep, parent, ended, ended=False)
    trials.write(sweep.place(ended.key), replace(ended, state="finished"))
    assert run_of(tracking, amid).info.status == "RUNNING"
    cancelled(sweep, parent)
    found = [run_of(tracking, trial) for trial in (amid, unseen, ended)]
    assert [run.info.status for run in found] == ["KILLED", "KILLED", "FINISHED"]
    assert [run.data.metrics["cost/device_seconds"] for run in found] == [2.0, 0.0, 1.0]


def test_a_trial_that_was_cut_off_and_then_stopped_has_all_its_values_in_mlflow(
    sweep, tracking, parent
):
    known(sweep, 1e-3, "running", 2.0)
    cancelled(sweep, parent)
    stopped = known(sweep, 1e-3, "stopped", 2.0, 1.5)
    log_trial("swept", sweep, parent, stopped, ended=True)
    first = run_of(tracking, stopped)
    assert (first.info.status, first.data.tags["diptych.trial"]) == ("KILLED", "stopped")
    assert first.data.metrics["val/loss"] == 1.5
    assert first.data.metrics["cost/attempts"] == 2
    log_trial("swept", sweep, parent, stopped, ended=True)
    assert run_of(tracking, stopped).info.end_time == first.info.end_time, "closed once"


def test_an_mlflow_that_is_away_does_not_hide_why_a_sweep_ended(
    sweep, tracking, parent, monkeypatch
):
    def away() -> None:
        raise TrackingUnreachable("nobody answers")

    known(sweep, 1e-3, "running", 2.0)
    monkeypatch.setattr(tracking, "probe", away)
    with disable_run_logger():
        cancelled(sweep, parent)
