"""Workers, drivers, heads and nodes die while a training runs: it goes on, and ends as one that nobody disturbed.

Bit for bit where the number of workers stays; to the order of sums where a node is lost and fewer go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from components.training import progress
from components.training.checkpoints.checkpoint import latest
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from components.training.usage import cost
from tests.components.training import group
from tests.components.training import ray_nodes as nodes
from tests.components.training.small_clip import jobs

pytestmark = [pytest.mark.stack, pytest.mark.faults]

PLAN = TrainingPlan(
    steps=300, batch_size=8, warmup_steps=2, checkpoint_every=20, report_every=1, vocab_size=300,
    workers=2, cpus_per_worker=0.5, eps=1e-3,
    lr=1e-4,  # small: over all steps the order of sums grows into more than it is in one
)  # fmt: skip


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    return jobs(PLAN, tiny_shards, tmp_path)


@pytest.fixture(scope="module")
def alone(tiny_shards, tmp_path_factory):
    """The end of one worker's run that nobody disturbed."""
    return run_job(jobs(PLAN, tiny_shards, tmp_path_factory.mktemp("alone"))("run", workers=1))


@pytest.fixture
def clusters():
    """Starts Rays, and ends them all."""
    started = []

    def start(**settings):
        started.append(nodes.Cluster(**settings))
        nodes.wait_until(started[-1].is_up)
        return started[-1]

    yield start
    for each in started:
        each.end()


def last_step(job: TrainingJob) -> int:
    lines = progress.read(job.progress)
    return lines[-1].step if lines else 0


def at_work(job: TrainingJob) -> dict[str, int]:
    """Process ids of the workers of a job: "0" is rank 0, which holds the run's lock."""
    found = {}
    for process in psutil.process_iter():
        try:
            names = {Path(file.path).name for file in process.open_files() if file.path.startswith(f"{job.folder}/")}  # fmt: skip
        except psutil.Error:
            continue
        if ".workers" in names:
            found["0" if ".lock" in names else "1"] = process.pid
    return found


def disturb(job: TrainingJob, what: str, act: Callable[[], object]) -> float:
    """Do it to a training that is at work; seconds until it is a step further than it ever was."""
    begun = last_step(job)
    nodes.wait_until(lambda: last_step(job) > begun + 20)
    act()
    reached = last_step(job)
    took_s = nodes.wait_until(lambda: last_step(job) > reached + 5, 480)
    print(f"{what}: {took_s:.1f} s until the next new step")
    return took_s


def told_to_leave(job: TrainingJob) -> None:
    """Tell rank 0: both leave, and seconds pass until others have begun."""
    os.kill(at_work(job)["0"], signal.SIGTERM)
    nodes.wait_until(lambda: not at_work(job))
    kept = latest(job.checkpoints)
    assert kept and kept.step == last_step(job), "the step that they left after is a checkpoint"


def test_two_workers_one_killed_one_told_to_leave_one_hung_end_as_undisturbed(
    make_job, cluster, tmp_path
):
    undisturbed, job = make_job("undisturbed"), make_job("run", hang_s=10)
    group.run_all([(undisturbed, 0)], tmp_path / "bare", world=2)
    with cluster.start(job) as caller:
        disturb(job, "worker killed", lambda: os.kill(at_work(job)["1"], signal.SIGKILL))
        disturb(job, "worker told to leave", lambda: told_to_leave(job))
        disturb(job, "worker hung", lambda: os.kill(at_work(job)["1"], signal.SIGSTOP))
        output, errors = caller.communicate()
    assert "most recent call first" in (job.folder / "stacks" / "rank-0.txt").read_text()
    assert output.split()[-1] == latest(undisturbed.checkpoints).digest, errors
    assert [line.step for line in progress.read(job.progress)] == list(range(1, PLAN.steps + 1))


def test_after_the_driver_or_the_whole_head_died_the_same_command_goes_on(
    make_job, alone, cluster, clusters
):
    job = make_job("run", workers=1)
    with cluster.start(job) as caller:
        nodes.wait_until(lambda: last_step(job) > 25)
        (driver,) = cluster.processes("components.training.cluster.jobs")[-1:]
        driver.kill()
        _, errors = caller.communicate(timeout=240)
    assert "TrainingFailed" in errors
    reached = last_step(job)
    with cluster.start(job) as caller:
        nodes.wait_until(lambda: last_step(job) > reached + 25)
        cluster.end()
        caller.kill()
    assert reached < last_step(job) < PLAN.steps
    with clusters().start(job) as caller:
        output, errors = caller.communicate()
    assert output.split()[-1] == alone.digest, errors


def _may_unshare() -> bool:
    return (
        shutil.which("ip") is not None
        and not subprocess.run(
            ["unshare", "-n", "true"], capture_output=True, check=False
        ).returncode
    )


@pytest.mark.skipif(not _may_unshare(), reason="network namespaces need root and iproute2")
@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGTERM, id="preempted", marks=pytest.mark.slow),
    ],
)
def test_a_training_on_two_nodes_goes_on_with_one_when_the_other_is_lost(
    make_job, alone, clusters, ending
):
    job = make_job("run", min_workers=1, cpus_per_worker=1.0)
    with nodes.namespaces(2) as ((here, first), (there, second)):
        device = _device(first)
        cluster = clusters(cpus=1, host=here, prefix=first, GLOO_SOCKET_IFNAME=device)
        lost = cluster.join(1, there, second)
        nodes.wait_until(cluster.is_up)
        with cluster.start(job) as caller:
            nodes.wait_until(lambda: len(at_work(job)) == 2)
            theirs = {each.pid for each in cluster.processes("", node=1)}
            assert len(theirs & set(at_work(job).values())) == 1, "one worker on each node"
            end = nodes.kill_tree if ending == signal.SIGKILL else subprocess.Popen.terminate
            disturb(job, f"node {ending.name}", lambda: end(lost))
            output, errors = caller.communicate()
        assert output.split()[-1] == latest(job.checkpoints).digest, errors
        cluster.end()
    workers = [spent.workers for spent in cost.read(job.folder / cost.FILE)]
    assert (workers[0], workers[-1]) == (2, 1), "one went on alone"
    weights = [load_file(each / "weights.safetensors") for each in (alone.path, job.final)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-3, msg=name)
    assert {line.step for line in progress.read(job.progress)} == set(range(1, PLAN.steps + 1))


@pytest.mark.slow  # Ray looks once a minute whether there is room for more
@pytest.mark.skipif(not _may_unshare(), reason="network namespaces need root and iproute2")
def test_a_training_that_lost_a_node_grows_again_when_the_node_is_back(make_job, clusters):
    # So many steps last longer than the loss and the minute until it grows.
    settings = {"steps": 2500, "checkpoint_every": 50, "batch_size": 32}
    job = make_job("run", min_workers=1, cpus_per_worker=1.0, **settings)
    with nodes.namespaces(2) as ((here, first), (there, second)):
        cluster = clusters(cpus=1, host=here, prefix=first, GLOO_SOCKET_IFNAME=_device(first))
        lost = cluster.join(1, there, second)
        nodes.wait_until(cluster.is_up)
        with cluster.start(job) as caller:
            nodes.wait_until(lambda: len(at_work(job)) == 2, 240)
            disturb(job, "node lost", lambda: nodes.kill_tree(lost))
            nodes.wait_until(lambda: len(at_work(job)) == 1)
            cluster.join(1, there, second)
            grown_s = nodes.wait_until(lambda: len(at_work(job)) == 2, 180)
            reached = last_step(job)
            assert reached < job.steps, "it grew before its end"
            theirs = {each.pid for each in cluster.processes("", node=2)}
            assert len(theirs & set(at_work(job).values())) == 1, "one worker on each node"
            new_s = nodes.wait_until(lambda: last_step(job) > reached + 5, 480)
            assert len(at_work(job)) == 2
            print(f"node back: 2 workers after {grown_s:.1f} s, a new step {new_s:.1f} s later")
            output, errors = caller.communicate()
        assert output.split()[-1] == latest(job.checkpoints).digest, errors
        cluster.end()
    alone = make_job("alone", workers=1, **settings)
    run_job(alone)
    weights = [load_file(each.final / "weights.safetensors") for each in (alone, job)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-3, msg=name)
    assert {line.step for line in progress.read(job.progress)} == set(range(1, 2501))


def _device(prefix: tuple[str, ...]) -> str:
    words = ("ip", "-o", "link", "show", "type", "veth")
    shown = subprocess.run([*prefix, *words], capture_output=True, text=True, check=True).stdout
    return shown.split(":")[1].strip().partition("@")[0]


HANGS = """
import sys, time
from pathlib import Path
from components.training.cluster.watching import watched

with watched(Path(sys.argv[1]), 3, 2.0) as alive:
    def sleeps_in_a_collective():
        time.sleep(60)
    for _ in range(8):  # longer than the limit: each puts it off
        time.sleep(0.3)
        alive()
    sleeps_in_a_collective()
"""


def test_a_worker_that_hangs_tells_where_and_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)], cwd=group.ROOT, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "in sleeps_in_a_collective" in (tmp_path / "stacks" / "rank-3.txt").read_text()
