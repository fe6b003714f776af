"""How far a training is, told to a Prefect that answers, answers late, or does not."""

from __future__ import annotations

import logging
import threading

import pytest

from components.training.progress import Progress
from flows.runs import progress
from flows.runs.progress import Bar, teller
from infra.processes import wait_until


class Prefect:
    """What was shown; slow until `answers` is set, and away while `away`."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.away = False
        self.calls = 0
        self.shown: list[float] = []

    def create(self, percent: float, **about: str) -> str:
        return self.update("artifact", percent)

    def update(self, artifact: str, percent: float) -> str:
        assert self.answers.wait(10)
        self.calls += 1
        if self.away:
            raise ConnectionError("nobody answers")
        self.shown.append(percent)
        return artifact


@pytest.fixture
def prefect(monkeypatch) -> Prefect:
    made = Prefect()
    monkeypatch.setattr(progress, "create_progress_artifact", made.create)
    monkeypatch.setattr(progress, "update_progress_artifact", made.update)
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("run"))
    return made


def test_a_training_is_told_of_while_prefect_is_away_which_is_said_once(
    prefect, monkeypatch, caplog
):
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    caplog.set_level(logging.INFO)
    prefect.away = True
    tell = teller("clip", 3)
    for step in (1, 2, 3):
        before = prefect.calls
        tell(Progress(step=step, values={"loss": 0.5}, time=0.0))
        assert wait_until(lambda before=before: prefect.calls > before, 10, every_s=0.01)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("step")] == [
        f"step {step}/3 · loss 0.500" for step in (1, 2, 3)
    ]
    assert said.count("Prefect does not show the progress: nobody answers") == 1


def test_a_slow_prefect_is_waited_for_by_nobody_and_shown_the_newest_value(prefect):
    prefect.answers.clear()
    bar = Bar("training-clip", "clip: 100 steps")
    for percent in range(1, 101):
        bar.show(float(percent))
    assert prefect.shown == []
    prefect.answers.set()
    assert wait_until(lambda: prefect.shown[-1:] == [100.0], 30, every_s=0.01), prefect.shown
    assert len(prefect.shown) <= 2


def test_a_prefect_that_comes_back_is_shown_what_comes_next(prefect):
    prefect.away = True
    bar = Bar("training-clip", "clip: 2 steps")
    assert wait_until(lambda: prefect.calls == 1, 10, every_s=0.01)
    prefect.away = False
    bar.show(50.0)
    assert wait_until(lambda: prefect.shown[-1:] == [50.0], 10, every_s=0.01)
