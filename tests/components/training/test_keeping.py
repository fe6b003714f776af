"""What a run leaves behind and finds again: by age and by loss, on a full disk, from a mirror, with other workers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from components.config import ConfigError
from components.training import job as job_module
from components.training import progress, ray_trainer
from components.training.checkpoints.checkpoint import latest
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from components.training.validation import VAL_LOSS, Validation, best_step

ROOT = Path(job_module.__file__).parents[2]
CONFIG = {"image_px": 32, "vision_widths": [8, 16], "width": 32, "heads": 2}
# Neither batch statistics nor dropout, which are each worker's own.
CLIP = {"image_px": 32, "vision": "vit", "vision_layers": 1, "vision_heads": 2, "text_width": 32}
CLIP |= {"text_layers": 1, "text_heads": 2, "embed_width": 16}
PLAN = TrainingPlan(
    steps=12, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=3, vocab_size=300
)


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    def make(name: str = "run", *, family="virtex", mirror: str = "", **changes) -> TrainingJob:
        plan = replace(PLAN, **changes)
        return TrainingJob(
            family=family,
            config=CONFIG if family == "virtex" else CLIP,
            plan=plan,
            shards=tiny_shards.path,
            folder=tmp_path / name,
            mirror=mirror,
        )

    return make


def steps_kept(job: TrainingJob) -> list[int]:
    return sorted(int(path.name[-8:]) for path in job.checkpoints.glob("step-*"))


def stop_after(step: int):
    def on_step(done: int, values: object) -> None:
        if done >= step:
            raise InterruptedError

    return on_step


def test_the_newest_stay_as_many_as_the_plan_keeps(make_job):
    job = make_job(keep=1)
    run_job(job)
    assert steps_kept(job) == [12]


def test_the_checkpoint_of_the_lowest_validation_loss_outlives_its_time(make_job, monkeypatch):
    # Where a loss is lowest depends on the machine's rounding: here it rises from step 6 on, as an overfitted one.
    measure = Validation.measure
    monkeypatch.setattr(
        Validation,
        "measure",
        lambda self, state, loss, done: measure(self, state, loss, done) + 100 * abs(done - 6),
    )
    changes = {"checkpoint_every": 2, "steps": 12, "keep": 1}
    job = make_job(val_batches=1, **changes)
    made = run_job(job)
    told = {
        line.step: line.values[VAL_LOSS]
        for line in progress.read(job.progress)
        if VAL_LOSS in line.values
    }
    assert sorted(told) == list(range(2, 13, 2)), "at every checkpoint, and nowhere else"
    assert best_step(job.progress) == 6
    assert steps_kept(job) == [6, 12]
    assert made.digest == run_job(make_job("unmeasured", **changes)).digest, "measuring is free"


def test_validation_without_images_says_so(make_job, tmp_path, tiny_samples):
    from components.data.shards import write_shards

    only = [sample for sample in tiny_samples if sample.split == "train"]
    only += [sample for sample in tiny_samples if sample.split == "val"][:1]
    job = replace(make_job(val_batches=1), shards=write_shards(only, tmp_path / "s").path)
    with pytest.raises(ConfigError, match="which holds 1; 0 trains without"):
        run_job(job)


def test_a_machine_with_an_empty_folder_goes_on_from_the_mirror(make_job, tmp_path):
    expected = run_job(make_job("undisturbed"))
    job = make_job("run", mirror=str(tmp_path / "elsewhere"))
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    shutil.rmtree(job.folder)
    done_again = []
    assert run_job(job, on_step=lambda step, _: done_again.append(step)).digest == expected.digest
    assert done_again == [9, 12], "from step 8, not from zero"
    assert [line.step for line in progress.read(job.progress)] == [3, 6, 9, 12]
    there = tmp_path / "elsewhere" / "run"
    assert sorted(each.name for each in there.iterdir() if each.is_dir()) == [
        "step-00000008",
        "step-00000012",
    ]


def test_a_finished_run_whose_sending_was_cut_short_is_sent_when_asked_for_again(
    make_job, tmp_path
):
    job = make_job(mirror=str(tmp_path / "elsewhere"))
    made = ray_trainer.train(job, launcher="inline")
    sent = tmp_path / "elsewhere" / "run" / made.path.name / "MANIFEST.json"
    for again in (partial(ray_trainer.train, launcher="inline"), run_job):
        sent.unlink()  # the kill came before it
        assert again(job) == made
        assert sent.exists()


def test_what_a_mirror_holds_is_no_part_of_what_a_run_is(make_job, tmp_path):
    made = run_job(make_job())
    assert run_job(make_job(mirror=str(tmp_path / "elsewhere"))) == made
    assert "mirror" not in make_job().to_dict()


@pytest.mark.faults
def test_a_full_disk_is_told_with_the_bytes_needed_and_training_goes_on_once_there_is_room(
    make_job, disk_of
):
    small_disk = disk_of(2048)
    expected = run_job(make_job("undisturbed"))
    job = replace(make_job(), folder=small_disk / "run")
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(6))
    good = latest(job.checkpoints)
    assert good is not None
    size = sum(file.stat().st_size for file in good.path.iterdir())
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(b"x" * (free - size // 2))
    with pytest.raises(OSError, match=r"step 8 cannot be written .* it needs \d+ bytes") as full:
        run_job(job)
    assert full.value.errno == errno.ENOSPC
    assert str(job.checkpoints) in str(full.value)
    assert latest(job.checkpoints) == good
    assert steps_kept(job) == [4]
    assert not list(job.checkpoints.glob(".saving-*"))
    filler.unlink()
    assert run_job(job).digest == expected.digest


WORK = """
import sys
from pathlib import Path
import torch
from components.training.job import run_job
from components.training.training_job import TrainingJob

rank, world = int(sys.argv[2]), int(sys.argv[3])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=world
)
run_job(TrainingJob.read(Path(sys.argv[1])), rank=rank, world=world)
"""


def run_with_two(job: TrainingJob, fail: str = "") -> list[int]:
    """Two processes as Ray would join them; their exit codes. `fail` is for rank 0."""
    file, meeting = job.folder.with_suffix(".json"), job.folder.with_suffix(".meeting")
    file.write_text(json.dumps(job.to_dict()))
    meeting.unlink(missing_ok=True)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(file), str(rank), "2", str(meeting)],
            cwd=ROOT,
            env=os.environ | {"DIPTYCH_FAIL": "" if rank else fail, "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    return [process.wait(timeout=120) for process in started]


@pytest.mark.faults
def test_one_worker_then_two_then_one_end_as_one_that_nobody_disturbed(make_job):
    # AdamW would make a whole step of the rounding in a gradient that is zero (biases of keys).
    changes = {"family": "clip", "optimiser": "sgd", "lr": 0.1}
    undisturbed, job = run_job(make_job("undisturbed", **changes)), make_job(**changes)
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(6))
    codes = run_with_two(make_job(workers=2, **changes), fail="checkpoint_saved:1")
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0, "alone it cannot go on"
    made = run_job(job)
    ours, theirs = (load_file(each.path / "weights.safetensors") for each in (made, undisturbed))
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() < 1e-5, name
    lines = [
        json.loads(line) for line in (job.folder / "cost.jsonl").read_text().split("\n") if line
    ]
    assert [each["workers"] for each in lines if each["step"] == each["begun_step"]] == [1, 2, 1]
