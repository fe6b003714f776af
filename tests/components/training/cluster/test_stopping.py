"""A training that is asked to stop ends after a whole step, with a checkpoint of it, and the same call goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

from components.training.checkpoints.checkpoint import latest
from components.training.cluster import presence
from components.training.cluster.stopping import STOP, Agreed, Signals
from components.training.job import run_job
from components.training.loop import Interrupted
from components.training.plan import TrainingPlan
from components.training.ray_trainer import train
from tests.components.training.small_clip import jobs

ROOT = Path(presence.__file__).parents[3]
PLAN = TrainingPlan(
    steps=12, batch_size=8, warmup_steps=2, checkpoint_every=100, report_every=1, vocab_size=300
)
CONFIG = {
    "image_px": 32, "vision_widths": [8, 16], "vision_heads": 2,
    "text_width": 32, "text_layers": 1, "embed_width": 16,
}  # fmt: skip


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    return jobs(PLAN, tiny_shards, tmp_path, CONFIG)


def at(step: int, act):
    """An `on_line` that acts once, at that step."""
    return lambda line: act() if line.step == step else None


def test_a_stop_file_ends_a_training_after_its_step_and_the_next_start_removes_it(make_job):
    job = make_job("run")
    with pytest.raises(Interrupted, match="step 5"):
        train(job, launcher="inline", on_line=at(4, (job.folder / STOP).touch))
    assert latest(job.checkpoints).step == 5
    assert train(job, launcher="inline").digest == run_job(make_job("undisturbed")).digest
    assert not (job.folder / STOP).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_reaches_who_listened_before(make_job, number):
    def hear(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, hear)
    try:
        job = make_job("run")
        with pytest.raises(KeyboardInterrupt):
            train(job, launcher="inline", on_line=at(4, lambda: signal.raise_signal(number)))
        assert signal.getsignal(number) is hear
        assert latest(job.checkpoints).step == 5
        assert train(job, launcher="inline").digest == run_job(make_job("undisturbed")).digest
    finally:
        signal.signal(number, before)


def test_a_signal_before_the_first_step_and_a_second_one_end_it_at_once():
    with pytest.raises(KeyboardInterrupt), Signals():
        signal.raise_signal(signal.SIGINT)
    reached = []
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        assert not signals.asked()
        signal.raise_signal(signal.SIGINT)
        assert signals.asked()
        reached.append("the end of the step")
        signal.raise_signal(signal.SIGINT)
        reached.append("further")
    assert reached == ["the end of the step"]


def test_workers_hear_of_a_stop_one_step_later_all_alike(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wanted = iter([False, True, False])
        agreed = Agreed(lambda: next(wanted))
        assert [agreed(step) for step in (1, 2, 3)] == [False, False, True]
    finally:
        dist.destroy_process_group()


def test_a_run_is_empty_when_its_last_worker_process_is_gone(tmp_path):
    assert presence.wait_empty(tmp_path, 0)
    stays = "import sys; from pathlib import Path; from components.training.cluster.presence import enter; "
    stays += "enter(Path(sys.argv[1])); print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", stays, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as worker:  # fmt: skip
        worker.stdout.readline()
        assert not presence.wait_empty(tmp_path, 0.2)
        worker.kill()
        assert presence.wait_empty(tmp_path, 5)
