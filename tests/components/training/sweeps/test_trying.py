"""One trial without Ray: measured at its checkpoints, gone on with, settled once."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from components.models.parts import Origin
from components.training.checkpoints import checkpoint
from components.training.checkpoints.checkpoint import latest, verify
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.sweeps import trials
from components.training.sweeps.search import Search
from components.training.sweeps.trials import Sweep, Trial, best
from components.training.sweeps.trying import attempt
from components.training.teachers.teaching import Distillation
from components.training.training_job import TrainingJob
from tests.components.training.small_clip import CONFIG

PLAN = TrainingPlan(
    steps=6, batch_size=8, warmup_steps=0, checkpoint_every=2, report_every=1, vocab_size=300
)
SETTINGS = {"training.lr": 1e-3, "model.embed_width": 8}


@pytest.fixture
def sweep(tiny_shards, tmp_path) -> Sweep:
    space = {"training.lr": {"log": [1e-4, 1e-2]}, "model.embed_width": {"choice": [8, 16]}}
    return Sweep(
        search=Search(metric="loss", space=space),
        job=TrainingJob(
            family="clip", config=CONFIG, plan=PLAN, shards=tiny_shards.path, folder=tmp_path / "no"
        ),
        folder=tmp_path / "sweep",
        runs=tmp_path / "runs",
    )


class Counting:
    """An objective that remembers what it was asked: a checkpoint's value is its step."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, checkpoint) -> float:
        self.asked.append(checkpoint.step)
        return float(checkpoint.step)


def test_a_checkpoint_that_is_measured_stays_until_it_was(sweep, monkeypatch):
    plan, put = replace(PLAN, keep=1, checkpoint_every=1), checkpoint.put

    def late(folder, taken):
        time.sleep(0.1)  # a slow disk: still at work when the next step is reported
        return put(folder, taken)

    monkeypatch.setattr(checkpoint, "put", late)

    def slow(made) -> float:
        time.sleep(0.3)  # the next one is on disk by then
        return float(verify(made.path).step)

    trial = attempt(replace(sweep, job=replace(sweep.job, plan=plan)), SETTINGS, slow, print)
    assert trial.state == "finished", trial.reason


def test_a_trial_is_an_ordinary_training_measured_at_each_checkpoint(sweep, tmp_path):
    told: list[tuple[int, float]] = []
    trial = attempt(sweep, SETTINGS, Counting(), lambda *report: told.append(report))
    assert trial.state == "finished"
    # Checkpoints are written beside the training: one that is not there yet at the next report is passed over.
    assert told == list(trial.values) == sorted(told)
    assert set(told[:-1]) <= {(2, 2.0), (4, 4.0)}
    assert told[-1] == (6, 6.0)
    job = sweep.training(trial)
    assert (job.plan.lr, job.config["embed_width"]) == (1e-3, 8)
    # Measuring in the middle of it left the training as it was.
    alone = run_job(replace(job, folder=tmp_path / "alone"))
    assert latest(job.checkpoints).digest == alone.digest


def test_a_settled_trial_is_told_again_and_neither_trained_nor_measured(sweep):
    first = attempt(sweep, SETTINGS, Counting(), lambda *report: None)
    before = sweep.training(first).progress.stat().st_mtime_ns
    told, objective = [], Counting()
    assert attempt(sweep, SETTINGS, objective, lambda *report: told.append(report)) == first
    assert told == list(first.values)
    assert objective.asked == []
    assert sweep.training(first).progress.stat().st_mtime_ns == before


def test_a_trial_that_was_cut_off_goes_on_from_its_checkpoint(sweep):
    class Cut(RuntimeError): ...

    def cut(step: int, value: float) -> None:
        raise Cut

    with pytest.raises(Cut):
        attempt(sweep, SETTINGS, Counting(), cut)
    (known,) = sweep.trials()
    assert known.state == "running" or known.values[0][0] == 6
    objective = Counting()
    trial = attempt(sweep, SETTINGS, objective, lambda *report: None)
    # What was measured before is kept, and not measured again.
    assert trial.values[: len(known.values)] == known.values
    assert set(objective.asked).isdisjoint(step for step, _ in known.values)
    assert trial.values[-1] == (6, 6.0)


def test_settings_that_cannot_work_settle_the_trial_with_the_reason(sweep):
    trial = attempt(sweep, {"training.warmup_steps": 6}, Counting(), lambda *report: None)
    assert (trial.state, trial.values) == ("failed", ())
    assert "warmup_steps=6 leaves nothing" in trial.reason


def test_a_metric_that_is_not_a_number_settles_the_trial(sweep):
    trial = attempt(sweep, SETTINGS, lambda checkpoint: float("nan"), lambda *report: None)
    assert trial.state == "failed"
    assert "the metric is nan after" in trial.reason


def test_equal_settings_have_one_key_wherever_things_lie(sweep, tmp_path):
    moved = replace(sweep, job=replace(sweep.job, folder=tmp_path / "else"), folder=tmp_path / "s")
    assert moved.trial(SETTINGS).key == sweep.trial(SETTINGS).key
    other = replace(sweep, job=replace(sweep.job, plan=replace(PLAN, batch_size=4)))
    assert other.trial(SETTINGS).key != sweep.trial(SETTINGS).key
    placed = replace(sweep, job=replace(sweep.job, plan=replace(PLAN, threads=2)))
    assert placed.trial(SETTINGS).key == sweep.trial(SETTINGS).key


def test_a_moved_teacher_leaves_a_trial_what_it_was_and_another_teacher_does_not(sweep, tmp_path):
    def taught(digest: str, folder: str, key: str = "k") -> str:
        origin = Origin(kind="stage", name="big", digest=digest, path=f"{folder}/step-2")
        plan = Distillation(
            teacher=origin,
            terms={"seq": 1.0, "feature": 1.0},
            writing={"decoder": "greedy"},
            texts={"key": key, "path": f"{folder}/{key}.jsonl"},
        )
        return replace(sweep, job=replace(sweep.job, distillation=plan)).trial(SETTINGS).key

    assert taught("one", "/here") == taught("one", "/there")
    assert taught("one", "/here") != taught("other", "/here")
    assert taught("one", "/here") != taught("one", "/here", key="other")
    assert taught("one", "/here") != sweep.trial(SETTINGS).key


def test_only_finished_trials_can_be_best():
    def made(key: str, state: trials.State, value: float) -> Trial:
        return Trial(key=key, settings={}, state=state, values=((1, value),))

    known = [made("a", "stopped", 9.0), made("b", "finished", 1.0), made("c", "finished", 2.0)]
    assert best(known, higher=True).key == "c"
    assert best(known, higher=False).key == "b"
    assert best(known[:1], higher=True) is None


def test_a_sweep_that_is_asked_for_more_trials_is_not_done(sweep):
    assert not sweep.is_done()
    sweep.close()
    assert sweep.is_done()
    assert not replace(sweep, search=replace(sweep.search, trials=9)).is_done()
    assert Sweep.from_dict(sweep.to_dict()) == sweep
