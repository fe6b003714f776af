"""Runs that were begun and not finished: what each run's folder says of how it was asked for, and which one is meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from components import atomic
from components.catalog import STAGES
from components.config import ConfigError
from components.table import UnknownName, nearest
from components.training import progress
from components.training.folder import JOB
from components.training.training_job import TrainingJob
from flows.experiment import Experiment, located
from flows.services import services

FILE = "begun.json"
"""In the run's folder."""


class RunFinished(ValueError):
    """A run with nothing left to do."""


class RunChanged(ValueError):
    """What would be trained now is not the run that was begun: settings, parts or data are others."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run as it was asked for."""

    key: str
    experiment: str
    """The file of flows/experiments, or an absolute path."""
    family: str
    overrides: tuple[str, ...]
    attempt: int
    mlflow_run_id: str
    as_stage: bool = False
    """Whether nobody but other experiments asked for it, as a teacher or a part."""

    @property
    def is_stage(self) -> bool:
        """Whether it makes a part of others: it is finished once it is trained."""
        return self.as_stage or self.family in STAGES


def note(experiment: Experiment, job: TrainingJob, run_id: str, *, as_stage: bool = False) -> None:
    """Write into a run's folder how it was asked for; again is no harm, and asked for itself once, it stays so."""
    path = job.folder / FILE
    if as_stage and path.exists():
        as_stage = _read(path).as_stage
    begun = Begun(
        key=job.folder.name,
        experiment=experiment.file or experiment.name,
        family=experiment.family,
        overrides=experiment.overrides,
        attempt=job.plan.seed - experiment.training.seed,
        mlflow_run_id=run_id,
        as_stage=as_stage,
    )
    job.folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, asdict(begun))


def meant(run: str) -> Begun:
    """The unfinished run with this key or MLflow id.

    Raises RunFinished for one that has nothing left to do, and UnknownName with the unfinished ones.
    """
    known = [_read(path) for path in services().settings.runs.glob(f"*/{FILE}")]
    found = next((each for each in known if run in (each.key, each.mlflow_run_id)), None)
    if found is None:
        left = [each for each in known if not _finished(each)]
        listed = "".join(f"\n  {_line(each)}" for each in left) or " none."
        near = nearest(run, [each.key for each in left])
        raise UnknownName(f"No run {run!r} was begun here.{near} Unfinished:{listed}")
    if _finished(found):
        raise RunFinished(
            f"{found.key} is finished: it is a registered version, or a stage that is ready. `diptych train "
            f"{found.experiment}` trains anew."
        )
    return found


def newest_of(experiment: str) -> Begun:
    """The unfinished run of an experiment that was at work last. Raises UnknownName if there is none."""
    paths = list(services().settings.runs.glob(f"*/{FILE}"))
    begun = [(_at_work(path.parent), _read(path)) for path in paths]
    # Runs of before wrote down what was typed.
    mine = [(at, each) for at, each in begun if located(each.experiment) == located(experiment)]
    left = [(at, each) for at, each in mine if not _finished(each)]
    if not left:
        raise UnknownName(
            f"{experiment} has no unfinished run here ({len(mine)} finished). `diptych train {experiment}` without "
            "--resume begins one."
        )
    return max(left, key=lambda pair: pair[0])[1]


def same(begun: Begun, key: str, overrides: Sequence[str] = ()) -> None:
    """Raise RunChanged unless what would be trained now has the run's own key."""
    if key != begun.key:
        said = f" with {', '.join(overrides)}" if overrides else ""
        raise RunChanged(
            f"{begun.key} cannot go on{said}: the settings of {begun.experiment}, its parts or its data are not those "
            f"it was begun with (now it would be {key}). Bring those back, or train anew with `diptych train "
            f"{begun.experiment}`."
        )


def refuse_overrides(stage: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for settings that come beside a stage's file."""
    if overrides:
        raise ConfigError(
            f"{stage} is a stage, and others name it by its file: change the file, or copy it to another name."
        )


def _finished(begun: Begun) -> bool:
    doors = services()
    folder = doors.settings.runs / begun.key
    if begun.is_stage:  # never registered
        made = (folder / JOB).exists() and TrainingJob.read(folder / JOB).final.exists()
    else:
        made = bool(doors.ledger.versions_of(begun.key))
    # Between what is made and the end of its run lie an upload, a student's retention, pages.
    return made and doors.tracking.is_finished(begun.mlflow_run_id)


def _read(path: Path) -> Begun:
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Begun(**{**saved, "overrides": tuple(saved["overrides"])})


def _at_work(folder: Path) -> float:
    files = (folder / progress.FILE, folder / FILE)
    return max(file.stat().st_mtime for file in files if file.exists())


def _line(begun: Begun) -> str:
    lines = progress.read(services().settings.runs / begun.key / progress.FILE)
    reached = f"step {lines[-1].step}" if lines else "no step yet"
    return f"{begun.key}  {begun.experiment}, {reached}, MLflow run {begun.mlflow_run_id}"
