"""The same numbers through every launcher; workers that die are replaced, callers that stop leave nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from components.config import ConfigError
from components.training import progress, ray_trainer
from components.training.checkpoints.checkpoint import load_model
from components.training.cluster.failure import TrainingFailed
from components.training.cluster.local import local_ray
from components.training.job import run_job
from components.training.loop import LossNotFinite
from components.training.plan import TrainingPlan
from components.training.ray_trainer import train
from components.training.training_job import TrainingJob
from tests.components.training import ray_nodes as nodes
from tests.components.training.small_clip import jobs

ROOT = Path(ray_trainer.__file__).parents[2]
PLAN = TrainingPlan(
    steps=12, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=3, vocab_size=300
)
EXPLODES = {"lr": 1e30, "clip_norm": 0.0, "warmup_steps": 0, "schedule": "constant"}


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    return jobs(PLAN, tiny_shards, tmp_path)


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for all tests of the launcher local."""
    with local_ray():
        yield


def steps_of(job: TrainingJob) -> list[int]:
    return [line.step for line in progress.read(job.progress)]


def test_inline_is_the_plain_call_and_hands_on_every_line(make_job):
    lines = []
    made = train(make_job("here"), launcher="inline", on_line=lines.append)
    assert made.digest == run_job(make_job("plain")).digest
    assert [line.step for line in lines] == [3, 6, 9, 12]


def test_lines_of_an_interrupted_training_come_once_and_in_order(make_job):
    job, lines = make_job("run"), []

    def stop(line) -> None:
        if line.step == 9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(job, launcher="inline", on_line=stop)
    train(job, launcher="inline", on_line=lines.append)
    assert [line.step for line in lines] == [3, 6, 9, 12]


def test_inline_keeps_the_errors_own_class(make_job):
    with pytest.raises(LossNotFinite):
        train(make_job("run", **EXPLODES), launcher="inline")


def test_a_launcher_that_cannot_run_the_plan_is_refused(make_job):
    with pytest.raises(ConfigError, match="local or jobs"):
        train(make_job("run", workers=2), launcher="inline")
    with pytest.raises(ConfigError, match="needs the http address"):
        train(make_job("run"), launcher="jobs")
    with pytest.raises(ConfigError, match="inline, local, jobs"):
        train(make_job("run"), launcher="slurm")


@pytest.mark.stack
def test_two_workers_of_a_local_ray_train_what_one_call_does(make_job, ray_here):
    lines = []
    alone = train(make_job("alone"), launcher="inline")
    job = make_job("two", workers=2)
    together = train(job, launcher="local", on_line=lines.append)
    assert [line.step for line in lines] == steps_of(job) == [3, 6, 9, 12]
    one, two = load_model(alone.path)[0], load_model(together.path)[0]
    for (name, here), there in zip(one.named_parameters(), two.parameters(), strict=True):
        # 12 steps at 1e-3 move a weight by up to 0.012; what two orders of summing leave is far below.
        torch.testing.assert_close(there, here, rtol=0, atol=1e-4, msg=name)
    assert not (job.folder / "ray").exists()


@pytest.mark.stack
@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_the_end_is_the_same(make_job, ray_here):
    changes = {"steps": 400, "checkpoint_every": 20, "report_every": 1}
    expected = run_job(make_job("undisturbed", **changes))
    job, killed = make_job("run", **changes), []

    def kill_once(line) -> None:
        if line.step > 30 and not killed:
            lock = (job.folder / ".lock").stat().st_ino
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    open_now = (Path(file.path) for file in process.open_files())
                    if any(
                        file.name == ".lock" and file.stat().st_ino == lock for file in open_now
                    ):
                        killed.append(process.pid)
            os.kill(killed[0], signal.SIGKILL)

    made = train(job, launcher="local", on_line=kill_once)
    assert len(killed) == 1
    assert made.digest == expected.digest
    assert steps_of(job) == list(range(1, 401))


@pytest.mark.stack
def test_an_error_that_would_come_again_is_raised_once_with_its_name(make_job, ray_here):
    job = make_job("run", **EXPLODES)
    with pytest.raises(TrainingFailed, match=r"LossNotFinite: Step \d+ is not finite") as failed:
        train(job, launcher="local")
    assert failed.value.kind == "LossNotFinite"


@pytest.mark.stack
def test_workers_this_machine_has_no_room_for_are_refused_with_what_would_fit(make_job, ray_here):
    with pytest.raises(
        ConfigError, match=r"set training\.cpus_per_worker=[0-9.]+ or fewer workers"
    ):
        train(make_job("run", workers=2, cpus_per_worker=1000.0), launcher="local")


LOCAL = """
import contextlib, os, signal, sys, tempfile
from pathlib import Path
import psutil
from components.training.cluster.local import local_ray

mine = lambda *_: None
signal.signal(signal.SIGTERM, mine)
with local_ray():
    import ray
    with local_ray():
        print(ray.is_initialized(), signal.getsignal(signal.SIGTERM) is mine)
    tree = psutil.Process().children(recursive=True)
    listening = set()
    for process in tree:
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            for connection in process.net_connections("inet"):
                if connection.status == "LISTEN":
                    listening.add(connection.laddr.ip.removeprefix("::ffff:"))
    print(listening)
    print(ray.is_initialized())
print(ray.is_initialized(), "RAY_AUTH_TOKEN" in os.environ)
left = [list(Path(above).glob(f"dipray-{os.getpid()}-*")) for above in ("/tmp", tempfile.gettempdir())]
print(left)
print((Path.home() / ".ray").exists())
"""


@pytest.mark.stack
def test_a_local_ray_is_shared_inside_and_leaves_no_process_file_or_handler(tmp_path):
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")
    }
    with subprocess.Popen(
        [sys.executable, "-c", LOCAL],
        cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        started: set[psutil.Process] = set()
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                started |= set(psutil.Process(process.pid).children(recursive=True))
            time.sleep(0.1)
        output = process.stdout.read().splitlines()
    assert output == ["True True", "{'127.0.0.1'}", "True", "False False", "[[], []]", "False"]
    assert len(started) > 3
    assert not psutil.wait_procs(started, timeout=5)[1]


def names_of(started: list[psutil.Process]) -> set[str]:
    """What those that still run are called."""
    names = set()
    for each in started:
        with contextlib.suppress(psutil.Error):
            if each.status() != psutil.STATUS_ZOMBIE:
                names.add(each.name())
    return names


TRAIN_LOCAL = """
import sys
from pathlib import Path
from components.training.training_job import TrainingJob
from components.training.ray_trainer import train

print(train(TrainingJob.read(Path(sys.argv[1])), launcher="local").digest)
"""


@pytest.mark.stack
@pytest.mark.faults
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_local_training_whose_caller_ends_leaves_no_process(make_job, ending):
    job = make_job("run", steps=100_000, checkpoint_every=100, report_every=10, warmup_steps=0)
    file = job.folder.with_suffix(".json")
    file.write_text(json.dumps(job.to_dict()))
    with subprocess.Popen([sys.executable, "-c", TRAIN_LOCAL, str(file)], cwd=ROOT) as process:
        nodes.wait_until(lambda: len(steps_of(job)) > 3)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(ending)
        process.wait(timeout=120)
    assert process.returncode != 0
    assert len(started) > 5
    # After kill -9 Ray's two agents hold on for a minute, telling a server that died with it.
    agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} if ending == signal.SIGKILL else set()
    nodes.wait_until(lambda: names_of(started) <= agents, 60)
    for each in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    last = steps_of(job)[-1]
    time.sleep(0.5)
    assert steps_of(job)[-1] == last


@pytest.mark.stack
def test_a_job_of_a_running_ray_ends_with_the_checkpoint_of_a_plain_call(make_job, cluster):
    expected = train(make_job("alone"), launcher="inline")
    job = make_job("job")
    with cluster.start(job) as first:
        said = [first.communicate()]
    with cluster.start(make_job("failing", **EXPLODES)) as failing, cluster.start(job) as again:
        said.append(again.communicate())  # it finds it done
        told = failing.communicate()[1]
    for output, errors in said:
        assert output.split() == ["3", "6", "9", "12", expected.digest], errors
    assert "TrainingFailed: LossNotFinite: Step" in told


def at_work(cluster: nodes.Cluster, job: TrainingJob) -> list[psutil.Process]:
    """What of a Ray belongs to a job: its driver, and Ray's actors for it."""
    return cluster.processes(str(job.folder), "ray::TrainController", "ray::RayTrainWorker")


@pytest.mark.stack
@pytest.mark.faults
def test_a_caller_that_stops_stops_its_job_and_one_that_was_killed_finds_it_again(
    make_job, cluster
):
    job = make_job("long", steps=100_000, checkpoint_every=100, report_every=10, warmup_steps=0)
    with cluster.start(job) as killed:
        nodes.wait_until(lambda: len(steps_of(job)) > 3)
        killed.kill()
    reached = steps_of(job)[-1]
    with cluster.start(job) as attached:
        nodes.wait_until(lambda: steps_of(job)[-1] > reached + 200)
        first_line = int(attached.stdout.readline())
        assert first_line == 10, "it hears the lines it missed"
        steps = steps_of(job)
        assert steps == sorted(set(steps)), "and did not start the job again"
        assert len(at_work(cluster, job)) >= 3, "driver, controller and one worker"
        attached.send_signal(signal.SIGINT)
        threading.Thread(target=attached.stdout.read, daemon=True).start()
        attached.wait(timeout=120)
    nodes.wait_until(lambda: not at_work(cluster, job), limit_s=60)
    last = steps_of(job)[-1]
    time.sleep(1)
    assert steps_of(job)[-1] == last
