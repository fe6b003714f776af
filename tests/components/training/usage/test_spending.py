"""What a run took, over its attempts: kept through kills, and what was done twice is told as wasted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.data.batches import Batches, load_split
from components.data.shards import open_shards
from components.training import progress
from components.training.checkpoints.checkpoint import load_model
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from components.training.usage import cost
from components.training.usage.cost import FILE, Spent, total
from components.training.usage.energy import Energy

CONFIG = {"image_px": 32, "vision_widths": [8, 16], "width": 32, "heads": 2}


@pytest.fixture
def job(tiny_shards, tmp_path):
    plan = TrainingPlan(
        steps=12, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=3, vocab_size=300
    )
    return TrainingJob(
        family="virtex", config=CONFIG, plan=plan, shards=tiny_shards.path, folder=tmp_path / "run"
    )


def line(attempt, step, wall_s, *, begun=0, workers=1, **rest):
    values = {"samples": 0, "tokens": 0, "energy_j": None, "device": "cpu", "time": 0.0}
    return Spent(
        attempt=attempt,
        workers=workers,
        begun_step=begun,
        step=step,
        wall_s=wall_s,
        **values | rest,
    )


def write(path, lines):
    for each in lines:
        account = cost.Account(
            path, workers=each.workers, device=torch.device("cpu"), begun_step=each.begun_step
        )
        account._attempt = each.attempt
        account.add(each.step, (each.wall_s, each.samples, each.tokens, each.energy_j))


def test_an_undisturbed_run_wastes_nothing_and_counts_what_went_in(job):
    model, tokenizer, _ = load_model(run_job(job).path)
    found = total(job.folder / FILE)
    assert (found.device, found.attempts, found.wasted_seconds) == ("cpu", 1, 0.0)
    assert found.samples == 12 * 8
    spec = model.batch_spec()
    images = load_split(open_shards(job.shards), "train", spec.image_px)
    batches = Batches(images, spec, tokenizer, 8, seed=0)
    assert found.tokens == sum(int(batches.batch(step).lengths_B.sum()) for step in range(12))
    assert found.device_seconds > 0


def test_steps_done_twice_and_the_second_start_are_wasted(job):
    def stop(step, _):
        if step == 9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_job(job, on_step=stop)
    run_job(job)
    lines, found = cost.read(job.folder / FILE), total(job.folder / FILE)
    first = [each for each in lines if each.attempt == 1]
    second = [each for each in lines if each.attempt == 2]
    assert second[0].begun_step == second[0].step == 8
    at_8 = next(each.wall_s for each in first if each.step == 8)
    assert found.wasted_seconds == pytest.approx(first[-1].wall_s - at_8 + second[0].wall_s)
    assert found.samples == (9 + 4) * 8, "step 9 went through twice"
    assert found.attempts == 2


def test_another_number_of_workers_is_counted_as_what_it_was(tmp_path):
    path = tmp_path / FILE
    write(
        path,
        [
            line(1, 0, 1.0),
            line(1, 10, 11.0),
            line(1, 14, 15.0),
            line(2, 10, 2.0, begun=10, workers=2),
            line(2, 20, 7.0, begun=10, workers=2, samples=80, tokens=400, energy_j=5.0),
        ],
    )
    found = total(path)
    assert found.device_seconds == 15 + 2 * 7
    assert found.wasted_seconds == (15 - 11) + 2 * 2
    assert (found.energy_joules, found.samples) == (5.0, 80)


def test_an_attempt_that_kept_nothing_is_wasted_but_for_its_start(tmp_path):
    write(tmp_path / FILE, [line(1, 0, 3.0), line(1, 5, 8.0), line(2, 0, 2.0), line(2, 10, 12.0)])
    assert total(tmp_path / FILE).wasted_seconds == (8 - 3) + 2


def test_an_attempt_that_goes_back_further_wastes_what_all_before_it_did_since(tmp_path):
    first = [line(1, 0, 3.0), line(1, 50, 13.0), line(1, 100, 23.0)]
    second = [line(2, 100, 5.0, begun=100), line(2, 101, 6.0, begun=100)]
    third = [line(3, 50, 2.0, begun=50), line(3, 200, 32.0, begun=50)]
    write(tmp_path / FILE, [*first, *second, *third])
    # Half of the first, all of the second with its start counted once, and the third's start.
    assert total(tmp_path / FILE).wasted_seconds == (23 - 13) + 6 + 2


def test_a_line_that_a_kill_cut_short_costs_that_line_alone(tmp_path):
    path = tmp_path / FILE
    write(path, [line(1, 0, 1.0), line(1, 5, 2.0)])
    with path.open("a") as file:
        file.write('{"attempt": 1, "wall')
    write(path, [line(2, 5, 1.0, begun=5)])
    assert [each.step for each in cost.read(path)] == [0, 5, 5]
    assert total(path).attempts == 2


def test_no_file_is_no_cost(tmp_path):
    assert total(tmp_path / FILE) is None


def test_energy_is_what_the_packages_counted_around_the_counters_end(tmp_path):
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(kind + "\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999999\n")
        (tmp_path / name / "energy_uj").write_text("900000\n")
    meter = Energy(torch.device("cpu"), tmp_path)
    for now, joules in (("950000", 0.05), ("50000", 0.15), ("60000", 0.16)):
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(now)
        assert meter.joules() == pytest.approx(joules)


def test_without_a_counter_no_energy_is_told(tmp_path):
    assert Energy(torch.device("cpu"), tmp_path).joules() is None
    write(tmp_path / FILE, [line(1, 0, 1.0)])
    assert "energy_joules" not in total(tmp_path / FILE).numbers


def test_progress_tells_how_busy_the_machine_is_by_mlflows_names(job):
    run_job(replace(job))
    values = progress.read(job.progress)[-1].values
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert values["system/system_memory_usage_megabytes"] > 10
    assert {name.partition("/")[0] for name in values} >= {"system", "loss"}
