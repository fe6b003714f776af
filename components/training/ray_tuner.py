"""The door to Ray Tune: Optuna chooses settings, ASHA stops those that fall behind, Ray runs the trials side by side.

    Optuna's TPE    draws each trial from what those before it reached (Akiba et al. 2019, arXiv:1907.10902)
    ASHA            a trial goes on past a rung if it is among the best third that reached it (arXiv:1810.05934)

Nothing of Tune's own memory is read: it is pickled (`Tuner.restore` runs what it finds). `trials.py` keeps what is
known, and a sweep that goes on tells Optuna and ASHA of it before the first new trial.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.config import ConfigError
from components.training.cluster.beside import beside
from components.training.cluster.local import check_room, local_ray
from components.training.cluster.stopping import ask_to_stop, forget_stop, is_asked_to_stop
from components.training.cluster.surroundings import environment, kept_signals
from components.training.folder import held
from components.training.loop import Interrupted
from components.training.plan import TrainingPlan
from components.training.sweeps import trials
from components.training.sweeps.trials import Sweep, Trial
from components.training.sweeps.trying import Objective, attempt

KEPT_SHARE = 3
"""ASHA lets one of so many pass each rung; rungs are so many times further apart. 3 is the paper's middle."""
_STEP, _VALUE, _AGAIN = "step", "value", "again"


class SweepFailed(RuntimeError):
    """No trial was finished; the message says what ended them."""


class SweepInterrupted(Interrupted):
    """A sweep was asked to stop, by a file STOP in its folder, before all trials were settled; calling again goes on."""

    def __str__(self) -> str:
        return f"The sweep was stopped with {self.step} trials settled; the same command goes on from there."


OnTrial = Callable[[Trial], None]


def tune(sweep: Sweep, objective: Objective, on_trial: OnTrial = lambda trial: None) -> Trial:
    """Try settings until as many are settled as the search asks for, and return the best.

    objective: sent to the trials' processes, so it is a function of a module or a record of one.
    on_trial: called here with a trial after each of its values and when it is settled; what it raises ends the sweep.

    May be killed and called again: a trial that was settled is not trained again, and one that was begun goes on from
    its last checkpoint. Raises `RunBusy` while another process is at this sweep, `ConfigError` for a plan that
    trials cannot run, `SweepInterrupted`, and `SweepFailed`.
    """
    refuse_workers(sweep.job.plan)
    with held(sweep.folder):
        if not sweep.is_done():
            with _quiet(), local_ray(), kept_signals():
                check_room(sweep.job.plan)
                _run(sweep, objective, on_trial)
            if is_asked_to_stop(sweep.folder):
                raise SweepInterrupted(sum(trial.settled for trial in sweep.trials()))
            sweep.close()
        return _best(sweep)


def refuse_workers(plan: TrainingPlan) -> None:
    """Raise `ConfigError` for a plan of several workers, which no trial runs with."""
    if plan.workers > 1:
        raise ConfigError(
            f"training.workers={plan.workers}: a trial trains in one worker, and search.at_once says how many trials "
            "train side by side. Set training.workers to 1 for the sweep."
        )


def _run(sweep: Sweep, objective: Objective, on_trial: OnTrial) -> None:
    """Tune over what is left, in the Ray this process is connected to."""
    from ray import tune as ray_tune

    known = sweep.trials()
    left = sweep.search.trials - sum(trial.settled for trial in known)
    forget_stop(sweep.folder)
    if left < 1:
        return
    storage = sweep.folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # what a killed sweep left of Tune's memory
    plan = sweep.job.plan
    trainable = ray_tune.with_resources(
        functools.partial(_work, saved=sweep.to_dict(), objective=objective),
        {"cpu": plan.cpus_per_worker, "gpu": plan.gpus_per_worker},
    )
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            num_samples=left,
            search_alg=_chooser(sweep, known),
            scheduler=_stopper(sweep, known),
            reuse_actors=True,  # a process of its own for each trial is 3 s of imports
        ),
        run_config=ray_tune.RunConfig(
            name="sweep",
            storage_path=str(storage),
            failure_config=ray_tune.FailureConfig(max_failures=plan.max_failures),
            callbacks=[_watcher(sweep, _Here(on_trial))],
            stop=_ending(sweep.folder),
            verbose=0,
        ),
    )
    beside(tuner.fit, ask_to_end=functools.partial(ask_to_stop, sweep.folder))
    shutil.rmtree(storage, ignore_errors=True)


def _ending(folder: Path) -> Any:
    """Ends all trials once the sweep is asked to stop. Tune pickles it."""
    from ray.tune import Stopper

    class Ending(Stopper):
        def __call__(self, trial_id: str, result: Any) -> bool:
            return False

        def stop_all(self) -> bool:
            return is_asked_to_stop(folder)

    return Ending()


def _work(settings: Mapping[str, Any], *, saved: Mapping[str, Any], objective: Objective) -> None:
    """What a trial's process does."""
    from ray import tune as ray_tune

    sweep = Sweep.from_dict(saved)
    known = {step for step, _ in sweep.trial(settings).values}

    def tell(step: int, value: float) -> None:
        ray_tune.report({_STEP: step, _VALUE: value, _AGAIN: step in known})

    attempt(sweep, settings, objective, tell)


def _chooser(sweep: Sweep, known: list[Trial]) -> Any:
    """Optuna, told of what is settled, that begins with what was cut off."""
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    search = sweep.search
    chooser = OptunaSearch(
        _distributions(sweep),
        metric=_VALUE,
        mode="max" if search.higher_is_better else "min",
        points_to_evaluate=[dict(trial.settings) for trial in known if not trial.settled],
        # A sweep that goes on must not draw again what it drew first.
        seed=search.seed + 1000 * len(known),
    )
    for trial in known:
        if trial.settled and (trial.value is not None or trial.state == "failed"):
            chooser.add_evaluated_point(
                dict(trial.settings),
                trial.value,  # type: ignore[arg-type]  # None of a failed one, as Optuna wants it and Ray hands it on
                error=trial.state == "failed",
            )
    return ConcurrencyLimiter(chooser, max_concurrent=search.at_once)


def _distributions(sweep: Sweep) -> dict[str, Any]:
    from optuna import distributions, logging

    logging.set_verbosity(logging.WARNING)
    made: dict[str, Callable[..., Any]] = {
        "log": lambda low, high: distributions.FloatDistribution(float(low), float(high), log=True),
        "uniform": lambda low, high: distributions.FloatDistribution(float(low), float(high)),
        "int": distributions.IntDistribution,
        "choice": lambda *choices: distributions.CategoricalDistribution(choices),
    }
    return {
        name: made[kind](*values)
        for name, domain in sweep.search.space.items()
        for kind, values in domain.items()
    }


def _stopper(sweep: Sweep, known: list[Trial]) -> Any:
    """ASHA, that knows how the settled trials did at each rung."""
    from ray.tune.schedulers import ASHAScheduler

    class Stopper(ASHAScheduler):  # type: ignore[misc, unused-ignore]
        """A trial that goes on passed its rungs before it was cut off, when fewer were there to be better."""

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            decided: str = super().on_trial_result(controller, trial, result)
            return self.CONTINUE if result.get(_AGAIN) else decided

    longest = max(1, sweep.job.steps)
    stopper = Stopper(
        time_attr=_STEP,
        metric=_VALUE,
        mode="max" if sweep.search.higher_is_better else "min",
        max_t=longest,
        grace_period=min(longest, sweep.job.plan.checkpoint_every),
        reduction_factor=KEPT_SHARE,
    )
    nobody: Any = None  # the controller, which ASHA asks nothing
    for trial in known:
        if trial.settled:
            stand_in: Any = SimpleNamespace(trial_id=trial.key)
            stopper.on_trial_add(nobody, stand_in)
            for step, value in trial.values:
                stopper.on_trial_result(nobody, stand_in, {_STEP: step, _VALUE: value})
    return stopper


class _Here:
    """A call that stays in this process: Tune pickles its callbacks, with all they hold, into a file that nobody reads."""

    def __init__(self, call: OnTrial | None) -> None:
        self._call = call

    def __call__(self, trial: Trial) -> None:
        assert self._call is not None, "nobody reads what Tune pickled"
        self._call(trial)

    def __reduce__(self) -> tuple[type[_Here], tuple[None]]:
        return _Here, (None,)


def _watcher(sweep: Sweep, on_trial: OnTrial) -> Any:
    """Writes down what only Tune knows: that a trial was stopped, or that its process died too often."""
    from ray.tune import Callback

    def settle(settings: Mapping[str, Any], state: trials.State, reason: str = "") -> None:
        if is_asked_to_stop(sweep.folder):
            return  # it was cut off, and goes on with the sweep
        trial = sweep.trial(settings)
        if not trial.settled:
            trial = replace(trial, state=state, reason=reason)
            trials.write(sweep.place(trial.key), trial)
        on_trial(trial)

    class Watcher(Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            if not is_asked_to_stop(sweep.folder):  # whoever asked closes what is open
                on_trial(sweep.trial(trial.config))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            settle(trial.config, "stopped")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            settle(
                trial.config, "failed", "it broke off more often than training.max_failures allows"
            )

    return Watcher()


def _best(sweep: Sweep) -> Trial:
    known = sweep.trials()
    found = trials.best(known, higher=sweep.search.higher_is_better)
    if found is None:
        reasons = sorted({trial.reason for trial in known if trial.reason})
        raise SweepFailed(
            f"None of {len(known)} trials was finished: {'; '.join(reasons[:3]) or 'no reason was given'}. "
            "Narrow search.space to settings that can train."
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Tune without its own log files, tables on the screen and changes of the working directory."""
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table where it is asked for silence
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # its own goes on to the end of a step
        "RAY_ENABLE_AUTO_CONNECT": "0",  # cut off, it would start another Ray to tell it so
    }
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that the log files we turned off are not there
    try:
        with environment(settings):
            yield
    finally:
        logger.setLevel(level)
