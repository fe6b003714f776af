"""What a sweep knows: one JSON file a trial, written by whoever trains it, and read by whoever watches or goes on.

These files are the sweep's only memory. Ray Tune keeps one of its own, as pickles, which are never read: a sweep that
was killed is told by these files what is settled, and what was begun it trains on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from components import atomic
from components.data.shards import open_shards
from components.training.sweeps.search import Search, Settings, applied
from components.training.training_job import TrainingJob

State = Literal["running", "finished", "stopped", "failed"]
FILE = "trial.json"
DONE = "done.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of settings and how far it came."""

    key: str
    """Names its training: the same settings on the same data are the same run, in this sweep or another."""
    settings: Settings
    state: State = "running"
    """`stopped`: the others did better by that step; `failed`: `reason` says why. Only `finished` ones can be best."""
    values: tuple[tuple[int, float], ...] = ()
    """(finished steps, the metric on `val`), each checkpoint that was measured."""
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.state != "running"

    @property
    def value(self) -> float | None:
        """What was measured last."""
        return self.values[-1][1] if self.values else None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is searched, around which training, and where it is kept; small enough to send as JSON."""

    search: Search
    job: TrainingJob
    """The experiment's own training; each trial changes its settings and its folder."""
    folder: Path
    """The sweep's own folder."""
    runs: Path
    """Where the folders of trainings lie."""

    def trial(self, settings: Settings) -> Trial:
        """These settings as a trial: what is known of it, or a new one."""
        key = self._key(settings)
        return read(self.place(key)) or Trial(key=key, settings=dict(settings))

    def training(self, trial: Trial) -> TrainingJob:
        """What a trial trains. Raises `ConfigError` for settings that cannot stand together."""
        config, plan = applied(trial.settings, self.job.config, self.job.plan)
        # One is measured while the next is written beside the training, which would remove it.
        plan = replace(plan, keep=max(plan.keep, 2))
        return replace(self.job, config=config, plan=plan, folder=self.runs / trial.key)

    def place(self, key: str) -> Path:
        """The folder of a trial's file and its lock."""
        return self.folder / "trials" / key

    def trials(self) -> list[Trial]:
        """All that were begun, in a fixed order."""
        found = (read(path.parent) for path in sorted(self.folder.glob(f"trials/*/{FILE}")))
        return [trial for trial in found if trial is not None]

    def is_done(self) -> bool:
        """Whether as many trials as are asked for were settled."""
        file = self.folder / DONE
        known: int = json.loads(file.read_text())["trials"] if file.exists() else 0
        return known >= self.search.trials

    def close(self) -> None:
        """Note that all trials that were asked for are settled."""
        atomic.write_json(self.folder / DONE, {"trials": self.search.trials})

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "search": self.search.to_dict(),
            "job": self.job.to_dict(),
            "folder": str(self.folder),
            "runs": str(self.runs),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Sweep:
        """The sweep that `to_dict` gave."""
        return cls(
            search=Search(**saved["search"]),
            job=TrainingJob.from_dict(saved["job"]),
            folder=Path(saved["folder"]),
            runs=Path(saved["runs"]),
        )

    def _key(self, settings: Settings) -> str:
        named = json.dumps([identity(self.job), dict(settings)], sort_keys=True)
        return f"trial-{self.job.family}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"


def identity(job: TrainingJob) -> dict[str, Any]:
    """What decides a training's weights: neither where anything lies, nor how many workers share it."""
    parts = {slot: {**asdict(part), "path": ""} for slot, part in job.parts.items()}
    whole = {**job.to_dict(), "plan": job.plan.decides(), "parts": parts}
    if job.distillation is not None:
        whole["distillation"] = job.distillation.decides()
    for place in ("folder", "shards", "mirror"):
        whole.pop(place, None)
    return {**whole, "data": open_shards(job.shards).digest}


def best(trials: Iterable[Trial], *, higher: bool) -> Trial | None:
    """The finished trial whose last value is best; None if none was finished. Of equals, the first by its key."""
    ended = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    ranked = sorted(
        ended, key=lambda trial: (-(trial.value or 0) if higher else trial.value, trial.key)
    )
    return ranked[0] if ranked else None


def read(folder: Path) -> Trial | None:
    """The trial of a folder; None before anything was written there."""
    file = folder / FILE
    if not file.exists():
        return None
    saved = json.loads(file.read_text(encoding="utf-8"))
    values = tuple((step, value) for step, value in saved["values"])
    return Trial(**{**saved, "values": values})


def write(folder: Path, trial: Trial) -> Trial:
    """Keep a trial; returns it."""
    atomic.write_json(folder / FILE, asdict(trial))
    return trial
