"""The task that trains, without Prefect around it: a training that ends early says what it cost, and why it ended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from prefect.logging import disable_run_logger

from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from components.training.usage import cost
from flows import publishing, steps
from flows.publishing import failing
from registry.tracking import TrackingUnreachable


@pytest.fixture
def doors(tracking, monkeypatch):
    settings = SimpleNamespace(mirror="", ray_address="")
    found = SimpleNamespace(tracking=tracking, settings=settings)
    for module in (steps, publishing):
        monkeypatch.setattr(module, "services", lambda: found)
    with disable_run_logger():
        yield found


@pytest.fixture
def train_and_end(doors, tiny_shards, tmp_path, monkeypatch):
    """`train_and_end(error)`: train as a flow does, a training that takes 2 s and ends with an error; its MLflow run."""
    job = TrainingJob(
        family="clip", config={}, plan=TrainingPlan(), shards=tiny_shards.path, folder=tmp_path
    )

    def run(error: BaseException) -> str:
        def end(*args, **kwargs):
            account = cost.Account(
                job.folder / cost.FILE, workers=1, device=torch.device("cpu"), begun_step=0
            )
            account.add(10, (2.0, 80, 400, None))
            raise error

        monkeypatch.setattr(steps, "teller", lambda *told: None)  # an artifact of Prefect
        monkeypatch.setattr(steps.ray_trainer, "train", end)
        run_id = doors.tracking.open_run("k", "night")
        with pytest.raises(type(error), match=str(error)), failing(run_id):
            steps.train.fn("night", job, "inline", run_id)
        return run_id

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [(ArithmeticError("not finite"), "FAILED"), (KeyboardInterrupt("cancelled"), "KILLED")],
)
def test_a_training_that_fails_or_is_cancelled_leaves_its_cost_in_mlflow(
    train_and_end, tracking, error, status
):
    run = tracking._client.get_run(train_and_end(error))
    assert run.info.status == status
    assert run.data.metrics["cost/device_seconds"] == 2.0
    assert run.data.metrics["cost/tokens"] == 400


def test_an_mlflow_that_is_away_does_not_hide_why_a_training_ended(
    train_and_end, tracking, monkeypatch
):
    def away(*args) -> None:
        raise TrackingUnreachable("nobody answers")

    for call in ("probe", "log_cost", "finish"):
        monkeypatch.setattr(tracking, call, away)
    train_and_end(ArithmeticError("not finite"))
