"""A sweep over a real Ray: bad trials are stopped, and one that is killed goes on without training anything twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config import ConfigError
from components.evaluation.objective import Objective
from components.evaluation.plan import EvaluationPlan
from components.records import Shards
from components.training import progress, ray_tuner
from components.training.cluster.local import local_ray
from components.training.cluster.stopping import ask_to_stop
from components.training.folder import held
from components.training.ray_tuner import SweepFailed, SweepInterrupted, tune
from components.training.sweeps.trials import Sweep, Trial, best
from tests.components.training.sweep import sweep_of

ROOT = Path(ray_tuner.__file__).parents[2]
TRIALS = 5


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all sweeps of this process; its workers inherit what `tune` would start it with."""
    with ray_tuner._quiet(), local_ray():
        yield


def start(shards: Path, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "tests/components/training/sweep.py", shards, folder, str(TRIALS), "3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def trained_steps(sweep: Sweep, key: str) -> list[tuple[int, float]]:
    """Each step of a trial's training and when it was made."""
    return [(line.step, line.time) for line in progress.read(sweep.runs / key / progress.FILE)]


@pytest.mark.stack
@pytest.mark.faults
def test_a_sweep_killed_with_its_trials_goes_on_and_trains_nothing_twice(
    tiny_shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request
) -> None:
    sweep = sweep_of(tiny_shards.path, tmp_path, TRIALS)
    # Each process of trials dies at the end of its second training; Tune starts another in its place.
    first = start(tiny_shards.path, tmp_path, DIPTYCH_FAIL="trial.trained:2")
    assert first.wait(timeout=480) == -signal.SIGKILL
    # A trial's process outlives the sweep's for a moment, and may settle it.
    for trial in sweep.trials():
        with held(sweep.place(trial.key), patience_s=60):
            pass
    settled = [trial for trial in sweep.trials() if trial.settled]
    before = {trial.key: trained_steps(sweep, trial.key) for trial in settled}
    assert 3 <= len(settled) < TRIALS

    request.getfixturevalue("ray_here")  # not beside the one that is killed
    told, lock = [], threading.Lock()

    def tell(trial: Trial) -> None:
        with lock:  # which cannot be pickled: what is told is told here
            told.append(trial.key)

    objective = Objective(metric="loss", shards=tiny_shards.path, plan=EvaluationPlan())
    chosen = tune(sweep, objective, tell)
    assert set(told) == {trial.key for trial in sweep.trials()} - {trial.key for trial in settled}
    known = {trial.key: trial for trial in sweep.trials()}
    assert len(known) == TRIALS
    assert all(trial.settled and trial.state != "failed" for trial in known.values())
    assert {trial.key: known[trial.key] for trial in settled} == {t.key: t for t in settled}
    assert {key: trained_steps(sweep, key) for key in before} == before
    stopped = [trial for trial in known.values() if trial.state == "stopped"]
    assert all(trial.values[-1][0] < 24 for trial in stopped)
    found = best(known.values(), higher=False)
    assert chosen == found
    assert found.values[-1][0] == 24
    assert found.value == min(t.value for t in known.values() if t.state == "finished")
    # The same sweep once more is done: no Ray is started to say so.
    monkeypatch.setattr(ray_tuner, "local_ray", lambda: pytest.fail("a Ray was started"))
    assert tune(sweep, objective=lambda checkpoint: 1 / 0) == found
    assert not (sweep.folder / "ray").exists()


@pytest.mark.stack
def test_a_sweep_whose_trials_all_fail_says_why(tiny_shards, tmp_path, ray_here):
    sweep = sweep_of(tiny_shards.path, tmp_path, 1, lr=1e30, clip_norm=0.0, schedule="constant")
    space = {"model.embed_width": {"choice": [8]}}
    hopeless = Sweep(
        search=type(sweep.search)(metric="loss", trials=1, space=space),
        job=sweep.job, folder=sweep.folder, runs=sweep.runs,
    )  # fmt: skip
    with pytest.raises(SweepFailed, match="LossNotFinite: Step"):
        tune(hopeless, objective=float)


def test_trials_of_several_workers_are_refused(tiny_shards, tmp_path):
    with pytest.raises(ConfigError, match="a trial trains in one worker"):
        tune(sweep_of(tiny_shards.path, tmp_path, 2, workers=2), objective=float)


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ({"cpus_per_worker": 3.0}, r"machine has 2: set training\.cpus_per_worker=2\.$"),
        ({"gpus_per_worker": 1.0}, r"machine has 0: set training\.gpus_per_worker=0\.$"),
    ],
)
def test_a_trial_this_machine_has_no_room_for_is_refused_and_not_waited_for(
    tiny_shards, tmp_path, monkeypatch, asks, said
):
    two_cores = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", two_cores)
    monkeypatch.setattr(ray_tuner, "local_ray", nullcontext)
    with pytest.raises(ConfigError, match=said):
        tune(sweep_of(tiny_shards.path, tmp_path, 2, **asks), objective=float)


def test_a_sweep_that_a_file_stopped_is_not_done_and_goes_on(
    tiny_shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(tiny_shards.path, tmp_path, TRIALS)
    monkeypatch.setattr(ray_tuner, "local_ray", nullcontext)
    monkeypatch.setattr(ray_tuner, "check_room", lambda plan: None)
    monkeypatch.setattr(ray_tuner, "_run", lambda sweep, *more: ask_to_stop(sweep.folder))
    with pytest.raises(SweepInterrupted, match="stopped with 0 trials settled; the same command"):
        tune(sweep, Objective(metric="loss", shards=tiny_shards.path, plan=EvaluationPlan()))
    assert not sweep.is_done()


def test_a_trial_that_goes_on_is_not_stopped_at_a_rung_it_had_passed(
    tiny_shards: Shards, tmp_path: Path
) -> None:
    sweep = sweep_of(tiny_shards.path, tmp_path, TRIALS)
    step = sweep.job.plan.checkpoint_every
    better = Trial(key="better", settings={}, state="stopped", values=((step, 1.0),))
    stopper = ray_tuner._stopper(sweep, [better])
    cut_off, fresh = (SimpleNamespace(trial_id=name) for name in ("cut off", "fresh"))
    for trial in (cut_off, fresh):
        stopper.on_trial_add(None, trial)
    worse = {"step": step, "value": 2.0}
    assert stopper.on_trial_result(None, cut_off, worse | {"again": True}) == stopper.CONTINUE
    assert stopper.on_trial_result(None, fresh, worse | {"again": False}) == stopper.STOP
