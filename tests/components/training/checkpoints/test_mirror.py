"""Copies of checkpoints on a folder and on S3: whole or not there, checked when they come back, never in training's way."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from components.config import ConfigError
from components.training import keeping, progress
from components.training.checkpoints import checkpoint
from components.training.checkpoints.marker import MARKER, CheckpointDamaged
from components.training.checkpoints.mirror import Mirror, MirrorFailed, fetch_newest
from components.training.checkpoints.rewinding import PASSED_OVER, passed_over
from components.training.checkpoints.snapshot import Snapshot
from components.training.checkpoints.uploader import STATE, Uploader
from components.training.usage import cost

BUCKET = "checkpoints"


@pytest.fixture(scope="module")
def s3():
    """A real S3 API on loopback; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def address(request, tmp_path, monkeypatch):
    """Where to copy to."""
    if request.param == "folder":
        return str(tmp_path / "elsewhere")
    return on_s3(request.getfixturevalue("s3"), monkeypatch, tmp_path.name)


def on_s3(endpoint: str, monkeypatch, prefix: str) -> str:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)
    return f"s3://{BUCKET}/{prefix}"


def make(folder: Path, step: int, value: float = 1.0):
    about = {"family": "clip", "step": step, "seed": 0, "shards_digest": "made"}
    tensors = {"weights.safetensors": {"w": torch.full((1000,), value * step)}}
    tensors["parts/lm/weights.safetensors"] = {"w": torch.zeros(10)}
    return checkpoint.put(folder, Snapshot(step=step, about=about, tensors=tensors))


def test_a_checkpoint_comes_back_from_a_mirror_as_it_was(address, tmp_path):
    made = make(tmp_path / "run", 4)
    mirror = Mirror(address, "run-1")
    assert mirror.steps() == []
    mirror.send(made.path)
    mirror.send(made.path)  # again is no harm
    assert mirror.steps() == [4]
    assert Mirror(address, "run-2").steps() == []
    brought = fetch_newest(mirror, tmp_path / "other", None)
    assert brought is not None
    assert (brought.digest, brought.path) == (made.digest, tmp_path / "other" / made.path.name)
    assert fetch_newest(mirror, tmp_path / "other", brought) is brought


def test_an_old_one_goes_when_newer_ones_are_there_but_for_those_spared(address, tmp_path):
    mirror = Mirror(address, "run")
    for step in (1, 2, 3, 4):
        mirror.send(make(tmp_path / "run", step).path)
    mirror.sweep(2, {1}, sent=4)
    assert mirror.steps() == [1, 3, 4]
    mirror.sweep(2, {1}, sent=3)  # training went back from 4
    assert mirror.steps() == [1, 3]


def test_a_damaged_copy_is_passed_over_and_the_one_before_is_taken(tmp_path):
    mirror = Mirror(str(tmp_path / "elsewhere"), "run")
    for step in (1, 2):
        mirror.send(make(tmp_path / "run", step).path)
    weights = tmp_path / "elsewhere" / "run" / "step-00000002" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # of the same size
    weights.write_bytes(data)
    brought = fetch_newest(mirror, tmp_path / "other", None)
    assert brought is not None
    assert brought.step == 1
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["step-00000001"]


def test_a_checkpoint_its_training_went_back_behind_is_not_brought_again(tmp_path):
    mirror = Mirror(str(tmp_path / "elsewhere"), "run")
    for step, value in ((1, 1.0), (2, float("nan"))):
        mirror.send(make(tmp_path / "run", step, value).path)
    brought = fetch_newest(mirror, tmp_path / "other", None)
    assert brought is not None
    assert brought.step == 1
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["step-00000001"]


def test_with_a_newer_checkpoint_come_the_files_of_the_training_that_made_it(tmp_path):
    address, here, there = str(tmp_path / "elsewhere"), tmp_path / "run", tmp_path / "there" / "run"
    make(here / "checkpoints", 1)
    (here / PASSED_OVER).write_text("[0]")
    mirror = Mirror(address, "run")
    make_newer = make(there / "checkpoints", 2)
    (there / PASSED_OVER).write_text("[0, 1]")
    mirror.send(make_newer.path)
    mirror.send_file(there / PASSED_OVER)
    keeping.bring(here, address)
    assert checkpoint.latest(here / "checkpoints").digest == make_newer.digest
    assert passed_over(here) == [0, 1]
    (here / PASSED_OVER).write_text("[0, 1, 5]")  # since then, of its own
    keeping.bring(here, address)
    assert passed_over(here) == [0, 1, 5]


def test_files_of_a_run_that_arrive_damaged_are_left_where_they_are(tmp_path, caplog):
    mirror, there = Mirror(str(tmp_path / "elsewhere"), "run"), tmp_path / "elsewhere" / "run"
    mirror.send(make(tmp_path / "before", 1).path)
    (there / PASSED_OVER).write_text("[0")
    (there / progress.FILE).write_bytes(bytes(9) + b"\n")
    (there / cost.FILE).write_text('{"step": 1}\n{"st')  # readers pass over half of a line
    here = tmp_path / "run"
    keeping.bring(here, str(tmp_path / "elsewhere"))
    assert checkpoint.latest(here / "checkpoints").step == 1
    assert (passed_over(here), progress.read(here / progress.FILE)) == ([], [])
    assert (here / cost.FILE).exists()
    assert f"{PASSED_OVER} is damaged" in caplog.text


def test_a_file_of_a_run_is_never_seen_half_sent(tmp_path, monkeypatch):
    mirror, there = Mirror(str(tmp_path / "elsewhere"), "run"), tmp_path / "elsewhere" / "run"
    file = tmp_path / PASSED_OVER
    file.write_text("[0]")
    mirror.send_file(file)

    def cut_short(source: str, target: str) -> None:
        Path(target).write_text("[0")
        raise TimeoutError

    monkeypatch.setattr(mirror._files, "put_file", cut_short)
    file.write_text("[0, 1]")
    with pytest.raises(TimeoutError):
        mirror.send_file(file)
    assert (there / PASSED_OVER).read_text() == "[0]"


def test_an_uploader_nobody_waits_for_removes_nothing_and_tells_nothing(tmp_path, monkeypatch):
    mirror, folder = Mirror(str(tmp_path / "elsewhere"), "run"), tmp_path / "run"
    old, newer = (make(folder, step) for step in (1, 2))
    held, send = threading.Event(), mirror.send

    def slow(path: Path) -> None:
        assert held.wait(10)
        send(path)

    monkeypatch.setattr(mirror, "send", slow)
    uploader = Uploader(mirror, folder, keep=1, files=())
    uploader.offer(old.path)
    uploader.close(0.05)
    send(newer.path)  # of the training that goes on
    held.set()
    uploader._thread.join(10)
    assert mirror.steps() == [1, 2]
    assert not (folder / STATE).exists()


def test_a_copy_without_its_marker_is_none_and_is_cleared_away(tmp_path):
    mirror, place = Mirror(str(tmp_path / "elsewhere"), "run"), tmp_path / "elsewhere" / "run"
    for step in (1, 2, 3):
        mirror.send(make(tmp_path / "run", step).path)
    (place / "step-00000002" / MARKER).unlink()  # killed before it was sent
    assert mirror.steps() == [1, 3]
    mirror.sweep(2, (), sent=3)
    assert sorted(each.name for each in place.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_marker_that_names_a_file_outside_is_refused(tmp_path):
    from components.training.checkpoints import marker

    made = make(tmp_path / "run", 1)
    content, _ = marker.read(made.path)
    content["files"]["../../escaped"] = content["files"]["weights.safetensors"]
    (made.path / MARKER).write_bytes(marker._sealed(content))
    shutil.copytree(made.path, tmp_path / "elsewhere" / "run" / made.path.name)
    shutil.copy(made.path / "weights.safetensors", tmp_path / "elsewhere" / "run" / "escaped")
    with pytest.raises(CheckpointDamaged, match="outside"):
        Mirror(str(tmp_path / "elsewhere"), "run").fetch(1, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_an_address_nobody_can_open_says_what_works(tmp_path):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        Mirror("nonsense://bucket", "run")


def test_a_mirror_that_cannot_be_read_is_an_error_only_where_nothing_is_here(tmp_path, monkeypatch):
    folder, broken = tmp_path / "run", tmp_path / "elsewhere"
    made = make(folder / "checkpoints", 3)

    def unreachable(self):
        raise TimeoutError("no route")

    monkeypatch.setattr(Mirror, "steps", unreachable)
    keeping.bring(folder, str(broken))
    assert checkpoint.latest(folder / "checkpoints") == made
    with pytest.raises(TimeoutError):
        keeping.bring(tmp_path / "empty", str(broken))


class Flaky(Mirror):
    """A folder that refuses a number of times."""

    refusals = 0

    def send(self, path):
        if self.refusals:
            type(self).refusals -= 1
            raise MirrorFailed("away")
        super().send(path)


def uploader(tmp_path, mirror, **rest):
    (tmp_path / "run").mkdir(exist_ok=True)
    return Uploader(mirror, tmp_path / "run", keep=2, files=("progress.jsonl",), **rest)


def test_a_failed_upload_is_told_tried_again_and_ends_nothing(tmp_path):
    Flaky.refusals = 2
    mirror = Flaky(str(tmp_path / "elsewhere"), "run")
    made = make(tmp_path / "run" / "checkpoints", 5)
    (tmp_path / "run" / "progress.jsonl").write_text("{}\n")
    sender = uploader(tmp_path, mirror, pause_s=0.01)
    sender.offer(made.path)
    sender.close()
    assert sender.values == {"mirror/failures": 2.0, "mirror/step": 5.0}
    assert json.loads((tmp_path / "run" / STATE).read_text())["problem"] == ""
    assert mirror.steps() == [5]
    assert (tmp_path / "elsewhere" / "run" / "progress.jsonl").read_text() == "{}\n"


def test_a_mirror_that_stays_away_is_given_up_at_the_end_with_its_reason(tmp_path):
    Flaky.refusals = 1000
    sender = uploader(tmp_path, Flaky(str(tmp_path / "elsewhere"), "run"), pause_s=0.01)
    sender.offer(make(tmp_path / "run" / "checkpoints", 5).path)
    began_s = time.monotonic()
    sender.close()
    assert time.monotonic() - began_s < 30
    told = json.loads((tmp_path / "run" / STATE).read_text())
    assert (told["step"], told["problem"]) == (-1, "MirrorFailed: away")
    assert told["failures"] >= 3


def test_a_disk_that_takes_no_note_of_it_does_not_end_the_sending(tmp_path):
    mirror = Mirror(str(tmp_path / "elsewhere"), "run")
    (tmp_path / "run" / STATE).mkdir(parents=True)
    sender = uploader(tmp_path, mirror)
    sender.offer(make(tmp_path / "run" / "checkpoints", 1).path)
    sender.close(5)
    assert mirror.steps() == [1]
    assert sender.needed == set(), "else its files would stay for good"


def test_what_is_being_sent_is_needed_and_the_newest_goes_next(tmp_path):
    gate, sent = threading.Event(), []

    class Slow(Mirror):
        def send(self, path):
            sent.append(checkpoint.step_of(path))
            gate.wait(60)
            super().send(path)

    sender = uploader(tmp_path, Slow(str(tmp_path / "elsewhere"), "run"))
    paths = [make(tmp_path / "run" / "checkpoints", step).path for step in (1, 2, 3)]
    began_s = time.monotonic()
    sender.offer(paths[0])
    while sent != [1]:
        time.sleep(0.005)
    for path in paths[1:]:
        sender.offer(path)
    assert time.monotonic() - began_s < 30, "nobody waits for a mirror"
    assert sender.needed == {1, 3}
    gate.set()
    sender.close()
    assert sent == [1, 3], "2 never had its turn"
    assert sender.needed == set()
