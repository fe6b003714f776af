"""A job may be killed anywhere and called again: the end is that of a training nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config import ConfigError
from components.data.shards import write_shards
from components.table import UnknownName
from components.training import folder, progress
from components.training import job as job_module
from components.training.checkpoints.checkpoint import latest, load_model
from components.training.folder import JobChanged, RunBusy
from components.training.job import run_job
from components.training.loop import LossNotFinite
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

ROOT = Path(job_module.__file__).parents[2]
CONFIGS = {
    "clip": {
        "image_px": 32, "vision_widths": [8, 16], "vision_heads": 2,
        "text_width": 32, "text_layers": 1, "embed_width": 16,
    },
    "virtex": {"image_px": 32, "vision_widths": [8, 16], "width": 32, "heads": 2, "dropout": 0.2},
}  # fmt: skip
PLAN = TrainingPlan(
    steps=12, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=3, vocab_size=300
)


@pytest.fixture
def make_job(tiny_shards, tmp_path):
    """`make_job("clip", "run", steps=3)`: a job of milliseconds in its own folder."""

    def make(family: str = "virtex", name: str = "run", **changes) -> TrainingJob:
        return TrainingJob(
            family=family,
            config=CONFIGS[family],
            plan=replace(PLAN, **changes),
            shards=tiny_shards.path,
            folder=tmp_path / name,
        )

    return make


def steps_reported(job: TrainingJob) -> list[int]:
    return [line.step for line in progress.read(job.progress)]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_job_ends_with_a_checkpoint_that_learnt_and_rebuilds_its_model(make_job, family):
    job = make_job(family, steps=30)
    made = run_job(job)
    lines = progress.read(job.progress)
    assert lines[-1].values["loss"] < 0.9 * lines[0].values["loss"]
    assert made.path == job.final
    assert (made.step, made.family, made.seed) == (30, family, 0)
    model, tokenizer, _ = load_model(made.path)
    assert model.config.vocab_size == tokenizer.vocab_size <= 300
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [
        "step-00000028",
        "step-00000030",
    ]


def test_a_finished_job_returns_at_once_and_changes_nothing(make_job):
    job = make_job()
    made = run_job(job)
    before = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    assert run_job(job, on_step=lambda *_: pytest.fail("it trained again")) == made
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_job_gives_the_same_digest_and_another_seed_another(make_job):
    assert run_job(make_job(name="one")).digest == run_job(make_job(name="two")).digest
    assert run_job(make_job(name="three", seed=1)).digest != run_job(make_job(name="four")).digest


def test_on_step_hears_what_stands_in_the_file(make_job):
    heard = []
    job = make_job()
    run_job(job, on_step=lambda step, values: heard.append((step, dict(values))))
    assert heard == [(line.step, line.values) for line in progress.read(job.progress)]
    assert steps_reported(job) == [3, 6, 9, 12]


def test_a_job_survives_json_both_ways(make_job):
    job = make_job("clip")
    assert TrainingJob.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    run_job(job)
    assert TrainingJob.read(job.folder / folder.JOB) == job


def test_another_job_in_the_same_folder_is_refused_with_what_differs(make_job):
    made = run_job(make_job())
    with pytest.raises(JobChanged, match=r"plan\.lr was 0\.001, is 0\.1"):
        run_job(make_job(lr=0.1))
    with pytest.raises(JobChanged, match="family was 'virtex', is 'clip'"):
        run_job(make_job("clip"))
    assert run_job(make_job()) == made


def test_a_run_goes_on_with_another_number_of_workers_and_other_reports(make_job):
    job = make_job(checkpoint_every=3)
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(6))
    moved = make_job(workers=2, report_every=1, checkpoint_every=12)
    # One process stands for both here; what two do is tested with Ray.
    assert run_job(moved).digest == run_job(make_job(name="undisturbed")).digest
    assert TrainingJob.read(job.folder / folder.JOB).plan.workers == 2
    with pytest.raises(JobChanged, match=r"plan\.lr"):
        run_job(make_job(lr=0.1, workers=2))


def test_a_job_written_before_a_setting_existed_is_the_same_job(make_job):
    made = run_job(make_job())
    file = make_job().folder / folder.JOB
    saved = json.loads(file.read_text())
    del saved["plan"]["eps"]
    file.write_text(json.dumps(saved))
    assert run_job(make_job()) == made
    with pytest.raises(JobChanged, match=r"plan\.eps was 1e-06, is 0\.1"):
        run_job(make_job(eps=0.1))


def test_a_job_that_never_began_can_be_mended_in_place(make_job):
    with pytest.raises(UnknownName, match="virtx"):
        run_job(replace(make_job(), family="virtx"))
    assert run_job(make_job()).step == 12


def test_other_shards_under_the_same_path_are_refused_on_resuming(make_job, tiny_samples, tmp_path):
    job = replace(make_job(), shards=tmp_path / "shards")
    write_shards(tiny_samples, job.shards)
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    write_shards(tiny_samples[:-1], job.shards)
    with pytest.raises(JobChanged, match="New data is a new run"):
        run_job(job)


def test_a_moved_folder_is_the_same_run(make_job, tmp_path):
    job = make_job()
    made = run_job(job)
    job.folder.rename(tmp_path / "moved")
    assert run_job(replace(job, folder=tmp_path / "moved")).digest == made.digest


def test_a_folder_somebody_trains_in_is_refused(make_job):
    def try_to_hold() -> bool:
        with folder.held(make_job().folder, patience_s=0.1):
            return True

    with folder.held(make_job().folder), pytest.raises(RunBusy, match="wait for it"):
        try_to_hold()
    assert try_to_hold()


def test_a_gpu_that_is_not_there_is_refused(make_job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="0 trains on its CPU"):
        run_job(make_job(gpus_per_worker=1.0))


def test_the_callers_torch_is_left_as_it_was(make_job):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    strict, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    run_job(make_job())
    assert torch.equal(torch.rand(2), expected)
    assert torch.are_deterministic_algorithms_enabled() == strict
    assert torch.get_num_threads() == threads


def test_a_loss_that_explodes_keeps_the_last_good_checkpoint(make_job):
    # Without clipping, and at a rate of 1e30, the weights are gone within a few steps.
    job = make_job(lr=1e30, clip_norm=0.0, warmup_steps=0, checkpoint_every=1, schedule="constant")
    with pytest.raises(LossNotFinite) as stopped:
        run_job(job)
    kept = latest(job.checkpoints)
    assert kept is not None
    assert kept.step == stopped.value.step < 12


def stop_after(step: int):
    """An `on_step` that interrupts training there, as Ctrl-C would."""

    def on_step(done: int, values: object) -> None:
        if done >= step:
            raise InterruptedError

    return on_step


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_an_interrupted_job_goes_on_from_its_checkpoint_to_the_same_end(make_job, family):
    undisturbed, job = make_job(family, "undisturbed"), make_job(family, "interrupted")
    expected = run_job(undisturbed)
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    assert steps_reported(job) == [3, 6, 9], "the last checkpoint is of step 8"
    done_again = []
    assert run_job(job, on_step=lambda step, _: done_again.append(step)).digest == expected.digest
    assert done_again == [9, 12]
    same = [
        [
            (line.step, line.values["loss"], line.values["grad_norm"])
            for line in progress.read(each.progress)
        ]
        for each in (undisturbed, job)
    ]
    assert same[0] == same[1]


def test_averages_are_what_a_checkpoint_is_loaded_as_and_training_goes_on_from_the_weights(
    make_job,
):
    changes = {
        "ema": 0.9,
        "optimiser": "lamb",
        "lookahead": 3,
        "accumulate": 2,
        "precision": "fp16",
    }
    expected = run_job(make_job(name="undisturbed", **changes))
    job = make_job(**changes)
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    assert run_job(job).digest == expected.digest
    averages = load_model(expected.path)[0].state_dict()
    raw = load_file(expected.path / "state.safetensors")
    assert not torch.equal(averages["projection.weight"], raw["raw/projection.weight"])


def test_blocks_computed_again_change_neither_weights_nor_names(make_job):
    plain = run_job(make_job(name="plain"))
    again = run_job(make_job(name="again", activation_checkpointing=True))
    assert again.digest == plain.digest


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_what_the_plan_says_while_it_trains_and_no_longer(make_job, deterministic):
    seen = []

    def look(step: int, values: object) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        seen.append(not torch.backends.cudnn.benchmark)

    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    run_job(make_job(steps=3, deterministic=deterministic), on_step=look)
    assert set(seen) == {deterministic}
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_a_damaged_checkpoint_costs_one_interval_and_not_the_run(make_job, caplog):
    expected = run_job(make_job(name="undisturbed"))
    job = make_job()
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    weights = job.checkpoints / "step-00000008" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InterruptedError):
        run_job(replace(job, plan=replace(job.plan, keep=1)), on_step=stop_after(6))
    assert latest(job.checkpoints).step == 4, "not the damaged one was kept as the newest"
    done_again = []
    made = run_job(job, on_step=lambda step, _: done_again.append(step))
    assert made.digest == expected.digest
    assert done_again == [6, 9, 12], "from step 4, not from zero"
    assert "step-00000008" in caplog.text and "weights.safetensors" in caplog.text


def test_a_line_that_a_crash_cut_short_is_dropped(make_job):
    job = make_job()
    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop_after(9))
    with job.progress.open("a") as file:
        file.write('{"step": 12, "val')
    run_job(job)
    assert steps_reported(job) == [3, 6, 9, 12]


RUN = (
    "import sys; from pathlib import Path; from components.training.job import run_job; "
    "from components.training.training_job import TrainingJob; "
    "print(run_job(TrainingJob.read(Path(sys.argv[1]))).digest)"
)


def start(job: TrainingJob, **environment: str) -> subprocess.Popen[str]:
    file = job.folder.with_suffix(".json")
    file.write_text(json.dumps(job.to_dict()))
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(file)],
        cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.faults
def test_a_training_killed_mid_run_ends_as_one_that_was_not(make_job):
    changes = {"steps": 120, "checkpoint_every": 10, "report_every": 1}
    expected = run_job(make_job(name="undisturbed", **changes))
    job = make_job(**changes)
    for killed_at in (15, 45):
        with start(job) as process:
            while process.poll() is None:
                if killed_at in steps_reported(job) and any(job.checkpoints.glob("step-*")):
                    break
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it was still training"
        reached = latest(job.checkpoints)
        assert reached is not None
        # While one checkpoint is written training goes on to the next, and waits there.
        assert steps_reported(job)[-1] - reached.step <= 2 * 10 + 1, "at most two intervals"
    with start(job) as process:
        output, _ = process.communicate()
    assert output.strip() == expected.digest
    assert steps_reported(job) == list(range(1, 121))


@pytest.mark.faults
@pytest.mark.parametrize(
    "point", ["checkpoint_unmarked:2", "checkpoint_unplaced:3", "checkpoint_saved:2"]
)
def test_a_training_killed_at_any_point_of_saving_ends_as_one_that_was_not(make_job, point):
    expected = run_job(make_job(name="undisturbed"))
    job = make_job()
    with start(job, DIPTYCH_FAIL=point) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert run_job(job).digest == expected.digest
    assert steps_reported(job) == [3, 6, 9, 12]
    assert not list(job.checkpoints.glob(".*"))
