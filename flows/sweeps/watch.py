"""What is seen of a sweep while it runs: each trial a child of the sweep's MLflow run, progress in Prefect."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prefect import get_run_logger

from components.training import progress
from components.training.progress import Progress
from components.training.sweeps.search import SPLIT
from components.training.sweeps.trials import Sweep, Trial
from flows.patience import patient
from flows.publishing import best_effort, log_cost
from flows.runs.progress import Bar
from flows.services import services
from registry.tracking import Status

ENDED: dict[str, Status] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
    "running": "KILLED",  # cut off with its sweep
}
"""What an MLflow run is closed with, by its trial's state once nobody trains it."""
_STATE = "diptych.trial"


class Watch:
    """Called with a trial whenever one has something new; never stands in the sweep's way."""

    def __init__(self, name: str, sweep: Sweep, run_id: str) -> None:
        self._name, self._sweep, self._run_id = name, sweep, run_id
        self._said: set[str] = set()
        self._bar = Bar(f"sweep-{name.replace('_', '-')}", f"{name}: {sweep.search.trials} trials")

    def __call__(self, trial: Trial) -> None:
        """Log the trial; an MLflow that is away is told of, and caught up with when the sweep ends."""
        best_effort(
            f"trial {trial.key}",
            lambda: log_trial(self._name, self._sweep, self._run_id, trial, ended=trial.settled),
        )
        if trial.settled and trial.key not in self._said:
            self._said.add(trial.key)
            settled = sum(each.settled for each in self._sweep.trials())
            get_run_logger().info(
                "%s · %s", f"trial {settled}/{self._sweep.search.trials}", sentence(trial)
            )
            self._bar.show(min(100.0, 100.0 * settled / self._sweep.search.trials))


def sentence(trial: Trial) -> str:
    """One trial for a person, as `finished · 0.8123 after 100 steps · training.lr=0.0021`."""
    parts = [trial.state]
    if trial.values:
        parts.append(f"{trial.values[-1][1]:.4f} after {trial.values[-1][0]} steps")
    parts += [trial.reason] if trial.reason else []
    return " · ".join([*parts, shown(trial)])


def shown(trial: Trial) -> str:
    """A trial's settings, short."""
    values = trial.settings.items()
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values
    )


@patient(name="log trials")
def log_trials(name: str, sweep: Sweep, run_id: str, known: Sequence[Trial]) -> None:
    """Bring the MLflow run of every trial of a sweep that ended up to date; what an outage left out is sent now."""
    _close_all(name, sweep, run_id, known)


@contextmanager
def leaving_none_open(name: str, sweep: Sweep, run_id: str) -> Iterator[None]:
    """Trials of a sweep that breaks off, or is cancelled, are closed in MLflow: nobody trains them any more."""
    try:
        yield
    except BaseException:
        best_effort("the trials' end", lambda: _close_all(name, sweep, run_id, sweep.trials()))
        raise


def _close_all(name: str, sweep: Sweep, run_id: str, known: Sequence[Trial]) -> None:
    for trial in known:
        log_trial(name, sweep, run_id, trial, ended=True)


def log_trial(name: str, sweep: Sweep, run_id: str, trial: Trial, *, ended: bool) -> None:
    """A trial's run: its settings, its training's progress, the metric at each checkpoint. Again is no harm.

    ended: whether nobody trains it now; then what it took is told, and its run closed.
    """
    tracking = services().tracking
    key = f"{sweep.folder.name}.{trial.key}"
    if trial.settled and _is_closed(key, trial):
        return
    child = tracking.open_run(
        key,
        shown(trial),
        parent_run_id=run_id,
        tags={"diptych.experiment": name, _STATE: trial.state},
    )
    tracking.log_params(child, trial.settings)
    training = sweep.runs / trial.key / progress.FILE
    if training.exists():
        tracking.follower(training, child).sync()
    tracking.log_progress(child, list(_points(sweep, trial, progress.read(training))))
    if ended:
        log_cost(training.parent, child)
        tracking.finish(child, ENDED[trial.state])


def _is_closed(key: str, trial: Trial) -> bool:
    run_id = services().tracking.find_run(key)
    if run_id is None:
        return False
    status, tags = services().tracking.told(run_id)
    # One that was cut off is KILLED too: only the tag tells it from one that went on and was stopped.
    return (status, tags.get(_STATE)) == (ENDED[trial.state], trial.state)


def _points(sweep: Sweep, trial: Trial, lines: Sequence[Progress]) -> Iterable[Progress]:
    for step, value in trial.values:
        # The time of the training's own line, so that a point logged again is the same point.
        at = max((line.time for line in lines if line.step <= step), default=0.0)
        yield Progress(step=step, values={f"{SPLIT}/{sweep.search.metric}": value}, time=at)
