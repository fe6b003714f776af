"""MLflow runs, against a real store: what is delivered twice is there once, and an MLflow that is away stops nobody."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from components.records import Report, Revision, Shards
from components.training import progress
from components.training.checkpoints.checkpoint import verify
from components.training.progress import read
from infra.processes import wait_until
from registry.follower import Follower, following
from registry.tracking import Tracking, TrackingUnreachable
from registry.versions import Versions


def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.uri, registry_uri=tracking.uri)


def history(tracking: Tracking, run_id: str, name: str) -> list[tuple[int, float]]:
    points = client(tracking).get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_one_key_is_one_run_and_a_failed_one_goes_on(tracking):
    run_id = tracking.open_run("k1", "night", tags={"flow": "f1"})
    tracking.finish(run_id, "FAILED")
    assert tracking.open_run("k1", "night", tags={"flow": "f2"}) == run_id
    run = client(tracking).get_run(run_id)
    assert (run.info.status, run.data.tags["flow"], run.info.run_name) == ("RUNNING", "f2", "night")
    assert tracking.open_run("k2", "night") != run_id


def test_a_finished_run_stays_finished_when_it_is_opened_again(tracking):
    run_id = tracking.open_run("k1", "night")
    tracking.finish(run_id)
    tracking.open_run("k1", "night")
    assert client(tracking).get_run(run_id).info.status == "FINISHED"


def test_nothing_is_left_to_do_in_a_run_that_finished_or_was_deleted_and_in_no_other(tracking):
    run_id = tracking.open_run("k1", "night")
    assert not tracking.is_finished(run_id)
    for status in ("FAILED", "KILLED"):
        tracking.finish(run_id, status)
        assert not tracking.is_finished(run_id)
    deleted = tracking.open_run("k2", "night")
    client(tracking).delete_run(deleted)
    tracking.finish(run_id)
    assert tracking.is_finished(run_id)
    assert tracking.is_finished(deleted)
    assert tracking.is_finished("0" * 32), "MLflow holds no such run any more"


def test_a_child_run_hangs_under_its_parent(tracking):
    parent = tracking.open_run("parent", "sweep")
    child = tracking.open_run("child", "trial", parent_run_id=parent)
    assert client(tracking).get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_a_key_that_could_change_the_search_is_refused(tracking):
    with pytest.raises(ValueError, match="cannot be a key"):
        tracking.open_run("k' OR name LIKE '%", "night")


def test_settings_are_logged_flat_and_a_changed_one_is_an_error(tracking):
    run_id = tracking.open_run("k1", "night")
    for _ in range(2):
        tracking.log_params(run_id, {"seed": 1, "plan": {"lr": 0.1, "betas": (0.9, 0.98)}})
    logged = client(tracking).get_run(run_id).data.params
    assert logged == {"seed": "1", "plan.lr": "0.1", "plan.betas": "(0.9, 0.98)"}
    with pytest.raises(MlflowException, match="seed"):
        tracking.log_params(run_id, {"seed": 2})


def test_the_data_state_stands_in_the_run_by_its_digest(tracking):
    run_id = tracking.open_run("k1", "night")
    shards = Shards(path=Path("nowhere"), digest="ab" * 32, counts={"train": 8})
    revision = Revision(source="emoji_mini", rev="workspace", dvc_digest="d", shards=shards)
    for _ in range(2):
        tracking.log_data(run_id, revision)
    [logged] = client(tracking).get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("emoji_mini", ("ab" * 32)[:36])
    assert json.loads(logged.dataset.source)["shards"] == "ab" * 32
    assert json.loads(logged.dataset.profile) == {"train": 8}


def test_a_report_logged_twice_adds_no_point_and_another_becomes_the_newest(tracking, tmp_path):
    report = Report(
        checkpoint_digest="c" * 64,
        shards_digest="s" * 64,
        split="test",
        count=2,
        values={"cider_d": 0.9, "image_blind/cider_d": 0.1, "bleu_4": math.nan},
    )
    run_id = tracking.open_run("k1", "night")
    for _ in range(2):
        tracking.log_report(run_id, report)
    assert history(tracking, run_id, "test/image_blind/cider_d") == [(0, 0.1)]
    # A lower number on other shards: MLflow must not go on showing the higher one.
    other = replace(report, shards_digest="t" * 64, values={"cider_d": 0.5})
    tracking.log_report(run_id, other)
    assert history(tracking, run_id, "test/cider_d") == [(0, 0.9), (1, 0.5)]
    assert tracking._client.get_run(run_id).data.metrics["test/cider_d"] == 0.5
    assert len(tracking._client.list_artifacts(run_id, "reports")) == 2


def test_a_report_names_in_its_run_who_scored_its_captions(tracking):
    report = Report(
        checkpoint_digest="c" * 64,
        shards_digest="s" * 64,
        split="test",
        count=2,
        values={"clip_score": 0.7},
        scorer="stage:clip_emoji_mini@0123456789ab 'A photo depicts '",
        certificate="0123456789abcdef",
    )
    scored, bare = tracking.open_run("k1", "night"), tracking.open_run("k2", "night")
    tracking.log_report(scored, report)
    tracking.log_report(bare, replace(report, scorer=""))
    tags = tracking._client.get_run(scored).data.tags
    assert tags["diptych.scorer"] == report.scorer
    assert tags["diptych.certificate"] == report.certificate
    assert "diptych.scorer" not in tracking._client.get_run(bare).data.tags
    [kept] = tracking._client.list_artifacts(scored, "reports")
    assert report.scorer in Path(tracking._client.download_artifacts(scored, kept.path)).read_text()


def test_files_and_bytes_are_kept_where_they_were_put(tracking, tmp_path):
    run_id = tracking.open_run("k1", "night")
    (tmp_path / "page.html").write_text("<p>")
    tracking.log_file(run_id, tmp_path / "page.html", "pages")
    tracking.log_bytes(run_id, "figures/loss.png", b"png")
    names = {
        file.path
        for folder in ("pages", "figures")
        for file in client(tracking).list_artifacts(run_id, folder)
    }
    assert names == {"pages/page.html", "figures/loss.png"}


def test_a_store_without_a_server_has_no_pages(tracking):
    assert tracking.run_page("r") is None
    assert tracking.compare_page(["r"]) is None


# The progress file.


def test_a_training_is_followed_while_it_runs_and_every_point_is_there_once(tracking, tmp_path):
    run_id, file = tracking.open_run("k1", "night"), tmp_path / "progress.jsonl"
    with tracking.follow(file, run_id, poll_s=0.05) as follower:
        for step in range(1, 11):
            progress.append(file, step, {"loss": 1 / step, "lr": 0.1})
        assert wait_until(lambda: bool(history(tracking, run_id, "loss")), 60)
        for step in range(11, 21):
            progress.append(file, step, {"loss": 1 / step, "lr": 0.1})
    assert follower.unsynced == 0
    assert history(tracking, run_id, "loss") == [(step, 1 / step) for step in range(1, 21)]
    assert len(history(tracking, run_id, "lr")) == 20


def test_steps_that_a_resumed_training_does_again_are_logged_once(tracking, tmp_path):
    run_id, file = tracking.open_run("k1", "night"), tmp_path / "progress.jsonl"
    for step in (10, 20, 30):
        progress.append(file, step, {"loss": 1 / step})
    tracking.follower(file, run_id).sync()
    progress.drop_beyond(file, 20)
    follower = tracking.follower(file, run_id)
    assert follower.sync() == 0
    for step in (30, 40):
        progress.append(file, step, {"loss": 1 / step})
    assert follower.sync() == 1
    assert history(tracking, run_id, "loss") == [(step, 1 / step) for step in (10, 20, 30, 40)]


def test_a_line_that_is_still_being_written_waits(tmp_path):
    file = tmp_path / "progress.jsonl"
    whole = '{"step": 1, "values": {"loss": 1.0}, "time": 0.0}\n'
    file.write_text(whole + whole[:20])
    assert [line.step for line in read(file)] == [1]
    assert read(tmp_path / "none.jsonl") == []


def test_a_tracker_that_fails_is_told_of_at_the_end_and_never_raised(tmp_path):
    file, delivered = tmp_path / "progress.jsonl", []

    def broken(lines):
        raise ConnectionError("gone")

    with following(Follower(file, "run", broken), poll_s=0.01) as follower:
        progress.append(file, 1, {"loss": 1.0})
        progress.append(file, 2, {"loss": 0.5})
        time.sleep(0.1)
    assert follower.unsynced == 2
    assert str(follower.problem) == "gone"
    assert Follower(file, "run", delivered.extend).sync() == 2
    assert [line.step for line in delivered] == [1, 2]


def test_a_training_does_not_wait_for_a_tracker_that_hangs(tmp_path):
    file, never = tmp_path / "progress.jsonl", threading.Event()
    progress.append(file, 1, {"loss": 1.0})
    follower = Follower(file, "run", lambda lines: never.wait(30))
    began = time.monotonic()
    with following(follower, poll_s=0.01, patience_s=0.3):
        time.sleep(0.1)
    assert time.monotonic() - began < 5
    assert follower.unsynced == 1
    never.set()


def test_the_failure_of_a_training_comes_through_the_follower(tracking, tmp_path):
    run_id, file = tracking.open_run("k1", "night"), tmp_path / "progress.jsonl"
    with pytest.raises(RuntimeError, match="NaN loss"), tracking.follow(file, run_id):
        progress.append(file, 1, {"loss": 1.0})
        raise RuntimeError("NaN loss")
    assert history(tracking, run_id, "loss") == [(1, 1.0)]


# A store that is away.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refused_within_s(address: str, said: str) -> float:
    began = time.monotonic()
    with pytest.raises(TrackingUnreachable, match=said) as refusal:
        Tracking(address, "emoji")
    assert "diptych up" in str(refusal.value)
    assert address in str(refusal.value)
    return time.monotonic() - began


def test_an_mlflow_that_is_not_there_is_named_with_what_starts_it():
    assert refused_within_s(f"http://127.0.0.1:{free_port()}", "ConnectionRefused") < 20


def test_an_address_that_hangs_is_named_too():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert refused_within_s(f"http://127.0.0.1:{silent.getsockname()[1]}", "timed out") < 20


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_something_else_at_the_address_is_not_taken_for_mlflow():
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refused_within_s(f"http://127.0.0.1:{server.server_port}", "which is not MLflow")
        server.shutdown()


@contextmanager
def mlflow_server(store: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{store}/mlflow.db"]
    command += ["--artifacts-destination", str(store / "served")]
    # As infra/settings.py starts it: a version's files lie with the server, never at a path of its choosing.
    env = {
        **os.environ,
        "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^mlflow-artifacts:/",
    }
    with (store / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(uri: str, experiment: str) -> Tracking:
    deadline = time.monotonic() + 300
    while True:
        try:
            return Tracking(uri, experiment)
        except TrackingUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.mark.stack
@pytest.mark.faults
def test_a_server_that_dies_in_a_training_loses_no_point_and_doubles_none(
    mlflow_store, tmp_path, make_checkpoint, monkeypatch
):
    """Drill 24: MLflow is killed mid-run; training goes on; a restarted server gets every point, once."""
    Tracking(f"sqlite:///{mlflow_store}/mlflow.db", "made", mlflow_store / "artifacts")
    port, file = free_port(), tmp_path / "progress.jsonl"
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(mlflow_store, port):
        tracking = wait_for(uri, "served")
        run_id = tracking.open_run("k1", "night")
        with tracking.follow(file, run_id, poll_s=0.05) as follower:
            progress.append(file, 1, {"loss": 1.0})
            assert wait_until(lambda: follower.unsynced == 0, 60)
    with tracking.follow(file, run_id, poll_s=0.05, patience_s=10) as follower:
        progress.append(file, 2, {"loss": 0.5})
        time.sleep(0.3)
    assert follower.unsynced == 1
    assert isinstance(follower.problem, TrackingUnreachable)
    with monkeypatch.context() as hasty, pytest.raises(TrackingUnreachable):
        hasty.setenv(
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"
        )  # it would try for a quarter of a minute
        tracking.open_run("k2", "night")
    with mlflow_server(mlflow_store, port):
        tracking = wait_for(uri, "served")
        assert tracking.open_run("k1", "night") == run_id
        assert tracking.follower(file, run_id).sync() == 1
        assert history(tracking, run_id, "loss") == [(1, 1.0), (2, 0.5)]
        tracking.log_bytes(run_id, "figures/loss.png", b"png")
        assert tracking.run_page(run_id).startswith(f"{uri}/#/experiments/")
        _a_version_goes_through_the_server_and_back(uri, run_id, make_checkpoint("clip"), tmp_path)


def _a_version_goes_through_the_server_and_back(uri, run_id, checkpoint, folder) -> None:
    versions, image = Versions(uri), BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    for _ in range(2):
        number = versions.register(run_id, "served", checkpoint, key="k1", example=image.getvalue())
    versions.point("served", "champion", number)
    assert versions.alias("served") == number == 1
    assert verify(versions.checkpoint("served", number, folder)).digest == checkpoint.digest
    assert versions.page("served", number) == f"{uri}/#/models/served/versions/1"
