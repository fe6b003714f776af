"""How an MLflow run ends with the block that fills it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from components.training.loop import Interrupted
from flows import publishing
from flows.publishing import closing, failing


class Tracking:
    """Remembers how runs ended; or is away."""

    def __init__(self) -> None:
        self.away = False
        self.ended: list[tuple[str, str]] = []

    def probe(self) -> None:
        if self.away:
            raise ConnectionError("MLflow does not answer")

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.probe()
        self.ended.append((run_id, status))


@pytest.fixture
def tracking(monkeypatch) -> Tracking:
    made = Tracking()
    monkeypatch.setattr(publishing, "services", lambda: SimpleNamespace(tracking=made))
    monkeypatch.setattr(publishing, "get_run_logger", lambda: logging.getLogger("run"))
    return made


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no rows"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (Interrupted(7), "KILLED"),  # a file STOP
    ],
)
def test_a_run_is_failed_by_an_error_and_killed_by_every_way_to_stop_it(tracking, error, status):
    with pytest.raises(type(error)), failing("run"):
        raise error
    assert tracking.ended == [("run", status)]


@pytest.mark.parametrize("error", [ValueError("no rows"), KeyboardInterrupt()])
@pytest.mark.parametrize("block", [failing, closing])
def test_what_ended_a_run_is_heard_although_mlflow_is_away(tracking, caplog, block, error):
    tracking.away = True
    with pytest.raises(type(error)) as caught, block("run"):
        raise error
    assert caught.value is error
    assert "the run's end did not reach MLflow" in caplog.text


def test_a_run_that_ends_well_is_closed_once(tracking):
    with closing("run"):
        pass
    assert tracking.ended == [("run", "FINISHED")]
