"""A job is stopped by whoever waits for it and by nothing else: a stand-in for the Jobs API says what no real Ray says when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import ray.job_submission
from ray.job_submission import JobStatus

from components.training.cluster import jobs
from components.training.cluster.failure import FAILURE, TrainingFailed
from components.training.cluster.jobs import ClusterFailed, run_as_job
from components.training.cluster.stopping import is_asked_to_stop
from components.training.plan import TrainingPlan
from components.training.progress import Follower
from components.training.training_job import TrainingJob
from tests.components.training import small_clip


@pytest.fixture
def job(tiny_shards, tmp_path, monkeypatch) -> TrainingJob:
    for name in ("_POLL_S", "_GRACE_S", "_STOP_S", "_LOST_S"):
        monkeypatch.setattr(jobs, name, 0.05)
    return small_clip.jobs(TrainingPlan(), tiny_shards, tmp_path)("run")


def run(
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[Any],
    submits: Callable[[], None] = lambda: None,
) -> None:
    """Wait for a job of which the cluster says `answers`, the last of them again and again."""
    said = list(answers)

    class Client:
        def __init__(self, address: str) -> None: ...

        def list_jobs(self) -> list[Any]:
            return []

        def submit_job(self, **_: object) -> None:
            submits()

        def stop_job(self, name: str) -> None: ...

        def get_job_status(self, name: str) -> JobStatus:
            answer = said.pop(0) if len(said) > 1 else said[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        def get_job_logs(self, name: str) -> str:
            return ""

        def get_job_info(self, name: str) -> Any:
            return type("Info", (), {"message": "the driver died"})

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Client)
    run_as_job(job, "http://made", Follower(job.progress, lambda line: None))


def test_a_connection_that_is_lost_for_a_while_ends_no_job(job, monkeypatch):
    monkeypatch.setattr(jobs, "_LOST_S", 10.0)
    lost = [ConnectionError("no route"), RuntimeError("Request failed with status code 500")]
    run(job, monkeypatch, [JobStatus.RUNNING, *lost, JobStatus.RUNNING, JobStatus.SUCCEEDED])
    assert not is_asked_to_stop(job.folder)


def test_a_cluster_that_stays_silent_is_told_and_its_job_left_to_itself(job, monkeypatch):
    with pytest.raises(ClusterFailed, match=r"no route.*the same command finds it"):
        run(job, monkeypatch, [JobStatus.RUNNING, ConnectionError("no route")])
    assert not is_asked_to_stop(job.folder)


def test_a_signal_stops_the_job_also_while_it_is_handed_in_or_the_connection_is_lost(
    job, monkeypatch
):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, monkeypatch, [RuntimeError("no such job")], interrupted)
    assert is_asked_to_stop(job.folder)


def test_the_reason_of_an_earlier_attempt_is_not_told_of_this_one(job, monkeypatch):
    job.folder.mkdir(parents=True)
    (job.folder / FAILURE).write_text('{"kind": "LossNotFinite", "message": "long ago"}')
    with pytest.raises(TrainingFailed, match="the driver died"):
        run(job, monkeypatch, [JobStatus.FAILED])
