"""What is seen of a sweep while it runs: each trial a child of the sweep's MLflow run, progress in Prefect."""

from collections.abc import Iterable, Sequence

from prefect import get_run_logger

from components.training import progress
from components.training.progress import Progress
from components.training.sweeps.search import SPLIT
from components.training.sweeps.trials import Sweep, Trial
from flows.patience import patient
from flows.runs.progress import Bar
from flows.services import services
from registry.tracking import Status

ENDED: dict[str, Status] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Watch:
    """Called with a trial whenever one has something new; never stands in the sweep's way."""

    def __init__(self, name: str, sweep: Sweep, run_id: str) -> None:
        self._name, self._sweep, self._run_id = name, sweep, run_id
        self._said: set[str] = set()
        self._bar = Bar(f"sweep-{name.replace('_', '-')}", f"{name}: {sweep.search.trials} trials")

    def __call__(self, trial: Trial) -> None:
        """Log the trial; an MLflow that is away is told of, and caught up with when the sweep ends."""
        logger = get_run_logger()
        try:
            log_trial(self._name, self._sweep, self._run_id, trial)
        except Exception as error:  # whatever it is, the trials go on
            logger.warning("trial %s did not reach MLflow: %s", trial.key, error)
        if trial.settled and trial.key not in self._said:
            self._said.add(trial.key)
            settled = sum(each.settled for each in self._sweep.trials())
            logger.info("%s · %s", f"trial {settled}/{self._sweep.search.trials}", sentence(trial))
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
    """Bring every trial's MLflow run up to date; what an outage left out is sent now."""
    for trial in known:
        log_trial(name, sweep, run_id, trial)


def log_trial(name: str, sweep: Sweep, run_id: str, trial: Trial) -> None:
    """A trial's run: its settings, its training's progress, the metric at each checkpoint. Again is no harm."""
    tracking = services().tracking
    key = f"{sweep.folder.name}.{trial.key}"
    known = tracking.find_run(key)
    if known is not None and not tracking.is_open(known):
        return
    child = tracking.open_run(
        key,
        shown(trial),
        parent_run_id=run_id,
        tags={"diptych.experiment": name, "diptych.trial": trial.state},
    )
    tracking.log_params(child, trial.settings)
    training = sweep.runs / trial.key / progress.FILE
    if training.exists():
        tracking.follower(training, child).sync()
    tracking.log_progress(child, list(_points(sweep, trial, progress.read(training))))
    if trial.settled:
        tracking.finish(child, ENDED[trial.state])


def _points(sweep: Sweep, trial: Trial, lines: Sequence[Progress]) -> Iterable[Progress]:
    for step, value in trial.values:
        # The time of the training's own line, so that a point logged again is the same point.
        at = max((line.time for line in lines if line.step <= step), default=0.0)
        yield Progress(step=step, values={f"{SPLIT}/{sweep.search.metric}": value}, time=at)
